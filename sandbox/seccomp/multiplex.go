package seccomp

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// multiplexer says through which call some architectures also offer a call, and
// with which number in the first argument (include/uapi/linux/net.h and ipc.h).
func multiplexer(name string) (through string, number uint64) {
	switch name {
	case "accept":
		return "socketcall", 5
	case "accept4":
		return "socketcall", 18
	case "bind":
		return "socketcall", 2
	case "connect":
		return "socketcall", 3
	case "getpeername":
		return "socketcall", 7
	case "getsockname":
		return "socketcall", 6
	case "getsockopt":
		return "socketcall", 15
	case "listen":
		return "socketcall", 4
	case "recv":
		return "socketcall", 10
	case "recvfrom":
		return "socketcall", 12
	case "recvmmsg":
		return "socketcall", 19
	case "recvmsg":
		return "socketcall", 17
	case "send":
		return "socketcall", 9
	case "sendmmsg":
		return "socketcall", 20
	case "sendmsg":
		return "socketcall", 16
	case "sendto":
		return "socketcall", 11
	case "setsockopt":
		return "socketcall", 14
	case "shutdown":
		return "socketcall", 13
	case "socket":
		return "socketcall", 1
	case "socketpair":
		return "socketcall", 8
	case "msgctl":
		return "ipc", 14
	case "msgget":
		return "ipc", 13
	case "msgrcv":
		return "ipc", 12
	case "msgsnd":
		return "ipc", 11
	case "semctl":
		return "ipc", 3
	case "semget":
		return "ipc", 2
	case "semop":
		return "ipc", 1
	case "semtimedop":
		return "ipc", 4
	case "shmat":
		return "ipc", 21
	case "shmctl":
		return "ipc", 24
	case "shmdt":
		return "ipc", 22
	case "shmget":
		return "ipc", 23
	}
	return "", 0
}

// demultiplex makes a rule for a call hold for its multiplexed form too, as
// libseccomp does. The other arguments lie behind a pointer there and cannot be
// looked at, so a rule with conditions carries over only if it is stricter than
// the default action: never may the multiplexer allow more than the call.
func (p *profile) demultiplex(a archID, name string, ret uint32, conditional bool) {
	if conditional && !stricter(ret, p.def) {
		return
	}
	name, number := multiplexer(name)
	if name == "" {
		return
	}
	// ipc(2) takes a version in the upper half of the number, which must not
	// serve to evade a rule; socketcall(2) takes an int.
	mask := uint64(0xffffffff)
	if name == "ipc" {
		mask = 0xffff
	}
	through := (&finder{}).find(name)
	p.rules = append(p.rules, rule{ret, []cond{{index: 0, op: specs.OpMaskedEqual, value: mask, two: number}}})
	p.refer(a, through.nr[a], interval{len(p.rules) - 1, len(p.rules)})
}

// stricter orders actions as the kernel does when several filters disagree: as
// signed numbers, the lowest wins (seccomp(2)).
func stricter(a, b uint32) bool {
	return int32(a&unix.SECCOMP_RET_ACTION_FULL) < int32(b&unix.SECCOMP_RET_ACTION_FULL)
}
