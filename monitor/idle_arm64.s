#include "textflag.h"

// func callIdle(code, block unsafe.Pointer) int64
TEXT ·callIdle(SB), NOSPLIT, $64-24
	MOVD code+0(FP), R9
	MOVD block+8(FP), R0
	BL (R9)
	MOVD R0, ret+16(FP)
	RET
