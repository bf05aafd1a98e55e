#include "textflag.h"

// func cloneVM(args *cloneArgs, size uintptr, child *childArgs) (r uintptr)
//
// The child begins on its own stack with nothing on it, so it cannot return: it
// calls childMain. Its thread pointer is the parent's, which only the call's
// prologue reads.
TEXT ·cloneVM(SB), NOSPLIT|NOFRAME, $0-32
	MOVD args+0(FP), R0
	MOVD size+8(FP), R1
	MOVD child+16(FP), R19
	MOVD $435, R8 // SYS_clone3
	SVC
	CBZ  R0, newborn
	MOVD R0, r+24(FP)
	RET
newborn:
	SUB  $32, RSP
	MOVD R19, 8(RSP)
	BL   ·childMain(SB)
	BRK
