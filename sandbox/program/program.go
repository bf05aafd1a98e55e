// Package program is the flat form of a plan: lists of raw system calls with
// their arguments, the data that they point to, and a table of what each step
// is for. A program is made by sandbox/plan, carried over a pipe or kept in a
// file, and run by sandbox/spawn. Nothing here allocates at run time or needs
// more than the language, since the process that runs it must stay small.
package program

// Kind says what an argument of an Op means.
type Kind uint8

const (
	Imm  Kind = iota // the value itself
	Ptr              // the address of Data[value]
	Str              // the same; what stands there is a NUL-terminated string
	Slot             // the value that is in this slot
)

// Numbers below zero are not system calls but work of the interpreter itself.
const (
	// PokeInt stores slot Args[1] as a native 32-bit integer at Data[Args[0]].
	PokeInt int32 = -1 - iota
	// PokeText stores slot Args[1] as decimal digits and a NUL at Data[Args[0]].
	PokeText
	// Check fails with errno Args[3] unless the 64-bit word at Data[Args[0]],
	// masked with Args[1], equals Args[2].
	Check
	// Fail fails with errno Args[0].
	Fail
	// Skip goes on after the next Args[0] ops.
	Skip
	// Die sends SIGKILL to the process that runs the program (fault tests).
	Die
	// Load puts the native 32-bit integer at Data[Args[0]] into slot Args[1].
	Load
	// ExecStub is execveat of the descriptor in slot Args[0] with argv and envp
	// at Data[Args[1]] and Data[Args[2]]; the descriptor in slot Args[3] is
	// kept open over it for one report more. When Args[5] is not 0, the
	// stub waits for a byte from the FIFO in slot Args[5]-1 before it goes on.
	// It returns only on failure.
	ExecStub
	// UserNS puts a descriptor of a new user namespace into the slot Dst; its
	// maps are the texts at Data[Args[0]] (uids) and Data[Args[1]] (gids). It is
	// for Before ops only, and no skip may lead over it.
	UserNS
	// Fork is clone3 with the flags Args[0] and CLONE_PARENT: the new process is
	// a child of the parent too, and goes on as the program does after success.
	// In the process that forked it fails with ECHILD, and a descriptor of the
	// new process stands at Data[Args[1]].
	Fork
	lastOp = Fork
)

// None marks a slot or an index that is not used.
const None = -1

// AnyError in Op.Tolerate accepts every error.
const AnyError = 0xffff

// MaxSlots bounds the descriptors that a program holds at once.
const MaxSlots = 1024

// Op is one system call, or one internal operation.
type Op struct {
	Nr   int32
	Dst  int16  // slot for the result, or None
	Step uint16 // index into Steps
	// SkipOK and SkipErr are how many ops to jump over after success, and
	// after an error that is tolerated.
	SkipOK, SkipErr uint16
	// Tolerate lists errors after which the program goes on.
	Tolerate [3]uint16
	Kinds    [6]Kind
	Args     [6]uint64
}

// Reloc says that the native word at Data[At] is to hold the address of Data[To].
type Reloc struct{ At, To uint32 }

// Step tells what a group of ops is for.
type Step struct {
	Kind string // "mount", "cgroup", "pivot", …: a word
	Why  string // a sentence for people
}

// Slots that the runner fills before anything runs.
const (
	SlotSync  = iota // the child's end of the socket to its parent
	SlotStub         // the sealed memfd through which the last execve goes
	SlotStdin        // what becomes descriptors 0, 1 and 2
	SlotStdout
	SlotStderr
	SlotNetNS  // a network namespace made by the caller, or -1
	SlotPidFD  // a pidfd of the process whose namespaces are joined, or -1
	SlotParent // the parent's end of that socket; After ops may send on it
	SlotChild  // not a descriptor: the child's pid, for After ops
	FirstOwn   = 16
)

// Program is a compiled plan.
type Program struct {
	// CloneFlags are those of clone3(2).
	CloneFlags uint64
	// CgroupSlot holds the directory of the cgroup for CLONE_INTO_CGROUP, or None.
	CgroupSlot int16
	// Terminal: the child makes a pseudo-terminal and sends its master ('T').
	Terminal bool
	// Hold: the child says when it is ready ('R') and waits for one byte
	// before its last steps.
	Hold bool
	// Candidates is how many paths the last execve tries.
	Candidates int
	// ExecOp is the index in Child of the last execve: what the stub reports.
	ExecOp int
	// LabelText is written to LabelFile, below the directory in slot LabelSlot,
	// by who does the last execve, just before: the label that a security module
	// gives the process then. A failure is one of the op LabelOp in Child. Empty
	// without a label. The slot is filled by the Before ops.
	LabelText, LabelFile string
	LabelSlot            int16
	LabelOp              int
	// Pinned: the parent's ops change what belongs to their thread (setns,
	// unshare), so they must all run on one.
	Pinned bool
	// ForkFlags are those of the Fork op in Child, if there is one: then the
	// child is not the process that runs the command, but makes it, reports it
	// ('P') and ends.
	ForkFlags uint64
	// UIDMap and GIDMap are written to /proc/PID/{uid,gid}_map before the
	// child may go on; empty without a new user namespace.
	UIDMap, GIDMap string

	Before []Op // in the parent, before the clone
	Child  []Op // in the child, until execve
	After  []Op // in the parent, after the clone
	Undo   []Op // in the parent, after a failure: removes what Before made

	Steps  []Step // of a program that was decoded: see StepAt
	Data   []byte
	Relocs []Reloc

	encodedSteps []byte
}
