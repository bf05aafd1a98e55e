#include "textflag.h"

// func cloneVM(args *cloneArgs, size uintptr, child *childArgs) (r uintptr)
//
// The child begins on its own stack with nothing on it, so it cannot return: it
// calls childMain. Its thread pointer is the parent's, which only the call's
// prologue reads.
TEXT ·cloneVM(SB), NOSPLIT, $0-32
	MOVQ args+0(FP), DI
	MOVQ size+8(FP), SI
	MOVQ child+16(FP), R12
	MOVQ $435, AX // SYS_clone3
	SYSCALL
	CMPQ AX, $0
	JEQ  newborn
	MOVQ AX, r+24(FP)
	RET
newborn:
	SUBQ $32, SP
	ANDQ $~15, SP
	MOVQ R12, 0(SP)
	CALL ·childMain(SB)
	INT  $3
