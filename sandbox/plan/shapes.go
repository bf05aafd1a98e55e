package plan

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func (p *Plan) at(at uint64) unsafe.Pointer { return unsafe.Pointer(&p.prog.Data[at]) }

// shapes names the system calls of plans and how their arguments are written:
// d descriptor, m mode, i number, x hexadecimal, s string or pointer, h struct
// open_how, and the letters of flagSets.
var shapes = map[int]struct{ name, args string }{
	unix.SYS_OPENAT: {"openat", "dso"}, unix.SYS_OPENAT2: {"openat2", "dshi"},
	unix.SYS_WRITE: {"write", "dsi"}, unix.SYS_READ: {"read", "dsi"}, unix.SYS_CLOSE: {"close", "d"},
	unix.SYS_MKDIRAT: {"mkdirat", "dsm"}, unix.SYS_MKNODAT: {"mknodat", "dsmx"}, unix.SYS_SYMLINKAT: {"symlinkat", "sds"},
	unix.SYS_UNLINKAT: {"unlinkat", "dsx"}, unix.SYS_FCHOWNAT: {"fchownat", "dsiix"}, unix.SYS_FCHOWN: {"fchown", "dii"}, unix.SYS_FCHMODAT: {"fchmodat", "dsm"},
	unix.SYS_MOUNT: {"mount", "ssskx"}, unix.SYS_UMOUNT2: {"umount2", "sx"}, unix.SYS_PIVOT_ROOT: {"pivot_root", "ss"},
	unix.SYS_MOVE_MOUNT: {"move_mount", "dsdsv"}, unix.SYS_OPEN_TREE: {"open_tree", "dst"},
	unix.SYS_FSOPEN: {"fsopen", "sx"}, unix.SYS_FSCONFIG: {"fsconfig", "dfssi"}, unix.SYS_FSMOUNT: {"fsmount", "dxa"},
	unix.SYS_MOUNT_SETATTR: {"mount_setattr", "dsxsi"},
	unix.SYS_CHDIR:         {"chdir", "s"}, unix.SYS_FCHDIR: {"fchdir", "d"}, unix.SYS_CHROOT: {"chroot", "s"}, unix.SYS_GETCWD: {"getcwd", "si"},
	unix.SYS_STATX: {"statx", "dsxxs"}, unix.SYS_FSTATFS: {"fstatfs", "ds"},
	unix.SYS_SETNS: {"setns", "dn"}, unix.SYS_UNSHARE: {"unshare", "n"}, unix.SYS_SETSID: {"setsid", ""}, unix.SYS_SETPGID: {"setpgid", "ii"}, unix.SYS_UMASK: {"umask", "m"},
	unix.SYS_PRCTL: {"prctl", "pi"}, unix.SYS_CAPSET: {"capset", "ss"}, unix.SYS_CAPGET: {"capget", "ss"}, unix.SYS_SETFSUID: {"setfsuid", "i"}, unix.SYS_SETFSGID: {"setfsgid", "i"}, unix.SYS_SECCOMP: {"seccomp", "xxs"},
	unix.SYS_SETGROUPS: {"setgroups", "is"}, unix.SYS_SETRESGID: {"setresgid", "iii"}, unix.SYS_SETRESUID: {"setresuid", "iii"},
	unix.SYS_SETHOSTNAME: {"sethostname", "si"}, unix.SYS_SETDOMAINNAME: {"setdomainname", "si"},
	unix.SYS_SOCKET: {"socket", "xxi"}, unix.SYS_IOCTL: {"ioctl", "dqx"}, unix.SYS_SENDMSG: {"sendmsg", "dsx"}, unix.SYS_RECVMSG: {"recvmsg", "dsx"},
	unix.SYS_DUP: {"dup", "i"}, unix.SYS_DUP3: {"dup3", "dix"}, unix.SYS_FCNTL: {"fcntl", "dxx"}, unix.SYS_CLOSE_RANGE: {"close_range", "ixx"}, unix.SYS_KEYCTL: {"keyctl", "is"},
	unix.SYS_PRLIMIT64: {"prlimit64", "iiss"}, unix.SYS_SCHED_SETATTR: {"sched_setattr", "isx"}, unix.SYS_IOPRIO_SET: {"ioprio_set", "iix"},
	unix.SYS_SCHED_SETAFFINITY: {"sched_setaffinity", "iis"}, unix.SYS_SCHED_GETAFFINITY: {"sched_getaffinity", "iis"}, unix.SYS_SET_MEMPOLICY: {"set_mempolicy", "xsi"},
	unix.SYS_EXIT_GROUP: {"exit_group", "i"}, unix.SYS_PERSONALITY: {"personality", "x"}, unix.SYS_FACCESSAT2: {"faccessat2", "dsxx"},
}

var cloneNames = map[uint64]string{
	unix.CLONE_NEWUSER: "CLONE_NEWUSER", unix.CLONE_NEWCGROUP: "CLONE_NEWCGROUP", unix.CLONE_NEWIPC: "CLONE_NEWIPC",
	unix.CLONE_NEWUTS: "CLONE_NEWUTS", unix.CLONE_NEWNET: "CLONE_NEWNET", unix.CLONE_NEWPID: "CLONE_NEWPID",
	unix.CLONE_NEWTIME: "CLONE_NEWTIME", unix.CLONE_NEWNS: "CLONE_NEWNS",
}

var flagSets = map[byte][]flagName{
	'o': {{unix.O_PATH, "O_PATH"}, {unix.O_RDWR, "O_RDWR"}, {unix.O_WRONLY, "O_WRONLY"}, {unix.O_DIRECTORY, "O_DIRECTORY"}, {unix.O_NOFOLLOW, "O_NOFOLLOW"}, {unix.O_NOCTTY, "O_NOCTTY"}, {unix.O_CLOEXEC, "O_CLOEXEC"}},
	'r': {{unix.RESOLVE_IN_ROOT, "RESOLVE_IN_ROOT"}, {unix.RESOLVE_BENEATH, "RESOLVE_BENEATH"}, {unix.RESOLVE_NO_MAGICLINKS, "RESOLVE_NO_MAGICLINKS"}, {unix.RESOLVE_NO_SYMLINKS, "RESOLVE_NO_SYMLINKS"}, {unix.RESOLVE_NO_XDEV, "RESOLVE_NO_XDEV"}},
	'k': {{unix.MS_REC, "MS_REC"}, {unix.MS_PRIVATE, "MS_PRIVATE"}, {unix.MS_SLAVE, "MS_SLAVE"}, {unix.MS_SHARED, "MS_SHARED"}},
	't': {{unix.OPEN_TREE_CLONE, "OPEN_TREE_CLONE"}, {unix.AT_RECURSIVE, "AT_RECURSIVE"}, {unix.AT_EMPTY_PATH, "AT_EMPTY_PATH"}, {unix.OPEN_TREE_CLOEXEC, "OPEN_TREE_CLOEXEC"}},
	'v': {{unix.MOVE_MOUNT_F_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH"}, {unix.MOVE_MOUNT_T_EMPTY_PATH, "MOVE_MOUNT_T_EMPTY_PATH"}},
	'a': {{unix.MOUNT_ATTR_RDONLY, "MOUNT_ATTR_RDONLY"}, {unix.MOUNT_ATTR_NOSUID, "MOUNT_ATTR_NOSUID"}, {unix.MOUNT_ATTR_NODEV, "MOUNT_ATTR_NODEV"}, {unix.MOUNT_ATTR_NOEXEC, "MOUNT_ATTR_NOEXEC"}},
	'f': {{unix.FSCONFIG_CMD_CREATE, "FSCONFIG_CMD_CREATE"}, {unix.FSCONFIG_SET_STRING, "FSCONFIG_SET_STRING"}, {unix.FSCONFIG_SET_FLAG, "FSCONFIG_SET_FLAG"}},
	'n': {{unix.CLONE_NEWUSER, "CLONE_NEWUSER"}, {unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"}, {unix.CLONE_NEWIPC, "CLONE_NEWIPC"}, {unix.CLONE_NEWUTS, "CLONE_NEWUTS"}, {unix.CLONE_NEWNET, "CLONE_NEWNET"}, {unix.CLONE_NEWPID, "CLONE_NEWPID"}, {unix.CLONE_NEWTIME, "CLONE_NEWTIME"}, {unix.CLONE_NEWNS, "CLONE_NEWNS"}},
	'p': {{unix.PR_CAP_AMBIENT, "PR_CAP_AMBIENT"}, {unix.PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS"}, {unix.PR_CAPBSET_DROP, "PR_CAPBSET_DROP"}, {unix.PR_SET_KEEPCAPS, "PR_SET_KEEPCAPS"}, {unix.PR_SET_DUMPABLE, "PR_SET_DUMPABLE"}},
	'q': {{unix.TIOCSPTLCK, "TIOCSPTLCK"}, {unix.TIOCGPTPEER, "TIOCGPTPEER"}, {unix.TIOCSWINSZ, "TIOCSWINSZ"}, {unix.TIOCSCTTY, "TIOCSCTTY"}, {unix.SIOCSIFFLAGS, "SIOCSIFFLAGS"}},
}
