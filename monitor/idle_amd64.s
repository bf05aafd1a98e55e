#include "textflag.h"

// func callIdle(code, block unsafe.Pointer) int64
TEXT ·callIdle(SB), NOSPLIT, $64-24
	MOVQ code+0(FP), AX
	MOVQ block+8(FP), DI
	CALL AX
	MOVQ AX, ret+16(FP)
	RET
