package plan

import (
	"os"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/capability"
	"vivarium/sandbox/program"
	"vivarium/sandbox/seccomp"
)

// identity is who the process becomes: groups, user, capabilities. The filter
// is loaded in between when no_new_privs is not set, because loading it then
// needs CAP_SYS_ADMIN.
func (c *compiler) identity() {
	b, p := c.b, c.spec.Process
	last, err := c.opt.lastCap()
	if err != nil {
		b.fail(err)
		return
	}
	sets, ignored, unraised, err := capability.FromSpec(p.Capabilities, last)
	if err != nil {
		b.fail(errorf("capabilities: %w", err))
		return
	}
	if len(ignored) > 0 {
		c.warnings = append(c.warnings, "capabilities that this kernel does not have, or that cannot be given, are left out: "+strings.Join(ignored, ", "))
	}
	for _, name := range unraised {
		c.warnings = append(c.warnings, "can't raise ambient capability "+name+": it is not both permitted and inheritable")
	}
	if p.NoNewPrivileges {
		b.begin("no_new_privs", "no execve may ever give more rights")
		b.do(unix.SYS_PRCTL, n(unix.PR_SET_NO_NEW_PRIVS), n(1), n(0), n(0), n(0))
	} else {
		c.seccomp()
	}
	b.begin("capability", "give up capabilities for good: the bounding set")
	for bit := 0; bit <= last; bit++ {
		if !sets.Bounding.Has(bit) {
			b.do(unix.SYS_PRCTL, n(unix.PR_CAPBSET_DROP), n(bit), n(0), n(0), n(0))
		}
	}
	c.user()
	b.begin("capability", "take the capabilities that are left")
	c.capset(sets)
	for bit := 0; bit <= last; bit++ {
		if sets.Ambient.Has(bit) {
			b.do(unix.SYS_PRCTL, n(unix.PR_CAP_AMBIENT), n(unix.PR_CAP_AMBIENT_RAISE), n(bit), n(0), n(0))
		}
	}
}

// keepGroups is an annotation: with the value "1" the process keeps the groups of
// who calls the runtime, which without root is the only way to have them. The name
// is crun's (crun(1)); Podman writes it for --group-add keep-groups.
const keepGroups = "run.oci.keep_original_groups"

// user changes ids. Groups come first: a process that is not root cannot set
// them. PR_SET_KEEPCAPS lets the permitted set live through setresuid(2).
func (c *compiler) user() {
	b, u := c.b, c.spec.Process.User
	b.begin("user", "become user "+utoa(u.UID)+", group "+utoa(u.GID))
	if u.Umask != nil {
		b.do(unix.SYS_UMASK, n(*u.Umask))
	} else {
		b.do(unix.SYS_UMASK, n(0o022))
	}
	b.do(unix.SYS_PRCTL, n(unix.PR_SET_KEEPCAPS), n(1), n(0), n(0), n(0))
	if c.spec.Annotations[keepGroups] != "1" {
		groups := b.words32(append(slices.Clone(u.AdditionalGids), 0)...)
		set := b.do(unix.SYS_SETGROUPS, n(len(u.AdditionalGids)), ptr(groups))
		if len(u.AdditionalGids) == 0 {
			set.tolerate(unix.EPERM) // denied in a user namespace whose maps root did not write
		}
	}
	b.do(unix.SYS_SETRESGID, n(u.GID), n(u.GID), n(u.GID))
	b.do(unix.SYS_SETRESUID, n(u.UID), n(u.UID), n(u.UID))
	b.do(unix.SYS_PRCTL, n(unix.PR_SET_KEEPCAPS), n(0), n(0), n(0), n(0))
}

func (c *compiler) capset(s capability.Sets) {
	e, p, i := s.Effective.Words(), s.Permitted.Words(), s.Inheritable.Words()
	head := c.b.words32(unix.LINUX_CAPABILITY_VERSION_3, 0)
	data := c.b.words32(e[0], p[0], i[0], e[1], p[1], i[1])
	c.b.do(unix.SYS_CAPSET, ptr(head), ptr(data))
}

// seccomp loads the filter.
func (c *compiler) seccomp() {
	cfg := c.spec.Linux.Seccomp
	b, f := c.b, c.opt.Filter
	if cfg == nil && f == nil {
		return
	}
	if f == nil {
		compiled, err := seccomp.Compile(cfg)
		if err != nil {
			b.fail(errorf("seccomp: %w", err))
			return
		}
		f = &compiled
	}
	if f.Notify && !c.opt.Hooks {
		b.fail(errorf("seccomp: a listener for SCMP_ACT_NOTIFY: %w", ErrUnsupported))
		return
	}
	c.closeAll()
	raw := f.Bytes()
	b.begin("seccomp", "load the system call filter, "+utoa(uint32(len(raw)/8))+" instructions")
	if f.Notify && c.opt.Unprivileged && c.alone {
		// Who is not root cannot take a descriptor from a process that is not dumpable
		// (pidfd_getfd(2), ptrace(2)). In the new PID namespace there is nobody else yet.
		b.do(unix.SYS_PRCTL, n(unix.PR_SET_DUMPABLE), n(1), n(0), n(0), n(0))
	}
	code := b.bytes(raw)
	fprog := b.words(uint64(len(raw)/8), 0) // struct sock_fprog
	b.reloc(fprog+8, code)
	load := b.do(unix.SYS_SECCOMP, n(unix.SECCOMP_SET_MODE_FILTER), n(f.Flags), ptr(fprog))
	if f.Notify {
		listener := b.slot()
		load.into(listener)
		c.passListener(listener)
	}
}

// passListener tells the parent the number of the listener's descriptor, which
// it takes by pidfd_getfd(2), and waits until somebody has it who answers. The
// filter may stop any call but write: so the descriptor is not sent.
func (c *compiler) passListener(listener int16) {
	b := c.b
	b.begin("seccomp", "let the parent pass the filter's listener on, and wait")
	c.requests++
	report := b.words32(uint32('L'), 0, 0)
	b.do(int(program.PokeInt), n(report+4), n(int(listener)))
	b.do(unix.SYS_WRITE, slot(program.SlotSync), ptr(report), n(12))
	b.await()
}

// rlimits come late, when everything that needs many descriptors is done, and
// early enough to raise them with the parent's rights.
func (c *compiler) rlimits() {
	b := c.b
	if len(c.spec.Process.Rlimits) == 0 {
		return
	}
	b.begin("rlimit", "set the resource limits")
	seen := make(map[string]bool)
	for _, r := range c.spec.Process.Rlimits {
		res, ok := rlimits[r.Type]
		if !ok {
			b.fail(errorf("rlimit %q is not known", r.Type))
			return
		}
		if seen[r.Type] {
			b.fail(errorf("rlimit %s is given twice", r.Type))
			return
		}
		seen[r.Type] = true
		b.begin("rlimit", "set "+r.Type+" to "+u64toa(r.Soft)+", at most "+u64toa(r.Hard))
		b.do(unix.SYS_PRLIMIT64, n(0), n(res), ptr(b.words(r.Soft, r.Hard)), n(0))
	}
}

var rlimits = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU,
	"RLIMIT_DATA": unix.RLIMIT_DATA, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE,
	"RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

// oomScore writes through the host's /proc while it is still in reach: its
// "self" is this process.
func (c *compiler) oomScore() {
	if c.spec.Process.OOMScoreAdj == nil {
		return
	}
	b := c.b
	v := itoa(*c.spec.Process.OOMScoreAdj)
	if now, err := os.ReadFile("/proc/self/oom_score_adj"); err == nil && strings.TrimSpace(string(now)) == v {
		return // the process inherits it
	}
	b.begin("oom_score_adj", "set the out-of-memory score adjustment to "+v)
	f, _ := b.openat(n(cwd), "/proc/self/oom_score_adj", unix.O_WRONLY)
	set := b.write(f, v)
	if c.opt.Rootless {
		set.tolerate(unix.EACCES) // to lower it takes CAP_SYS_RESOURCE
	}
	b.close(f)
}

// keyring gives the container a session keyring of its own (keyctl(2)).
func (c *compiler) keyring() {
	if c.opt.NoNewKeyring {
		return
	}
	const joinSessionKeyring = 1
	c.b.begin("keyring", "join a new session keyring")
	name := "_ses." + c.opt.ID
	c.b.do(unix.SYS_KEYCTL, n(joinSessionKeyring), c.b.str(name), n(0), n(0), n(0)).tolerate(unix.ENOSYS, unix.EPERM, unix.EDQUOT)
}

// seeWorkDir enters the working directory with the rights of the runtime, as runc
// does: who is started there need not be able to go there himself. Where the
// runtime may not either, workDir tries again as the user.
func (c *compiler) seeWorkDir() {
	b := c.b
	b.begin("cwd", "enter the working directory "+c.spec.Process.Cwd)
	enter := b.do(unix.SYS_CHDIR, b.str(c.spec.Process.Cwd)).tolerate(unix.EACCES, unix.EPERM)
	c.cwd = c.checkInside()
	b.onErrorSkipHere(enter)
}

// checkInside makes sure that the working directory is inside: one that was reached
// through a leaked descriptor shows as "(unreachable)…" (CVE-2024-21626,
// getcwd(2)). It gives where in the data the path stands then.
func (c *compiler) checkInside() uint64 {
	b := c.b
	at := b.buf(4096)
	b.do(unix.SYS_GETCWD, ptr(at), n(4096))
	b.do(int(checkOp), n(at), n(0xff), n(uint64('/')), n(int(unix.ENOENT)))
	return at
}

// workDir enters the working directory, with the rights of the user, unless
// seeWorkDir has.
func (c *compiler) workDir() {
	b := c.b
	dir := c.spec.Process.Cwd
	if !path.IsAbs(dir) {
		b.fail(errorf("the working directory %q is not an absolute path", dir))
		return
	}
	if c.cwd == 0 {
		b.begin("cwd", "enter the working directory "+dir)
		b.do(unix.SYS_CHDIR, b.str(dir))
		c.checkInside()
		return
	}
	b.begin("cwd", "enter the working directory "+dir+" as the user, if that is still to be done")
	entered := b.do(int(checkOp), n(c.cwd), n(0xff), n(uint64('/')), n(int(unix.ENOENT))).tolerateAll()
	b.do(unix.SYS_CHDIR, b.str(dir))
	c.checkInside()
	b.onSuccessSkipHere(entered)
}

// exec is the last step: no descriptor but 0, 1, 2 and those asked for stays
// open, and the stub executes the command.
func (c *compiler) exec() {
	b, p := c.b, c.spec.Process
	if len(p.Args) == 0 || p.Args[0] == "" {
		b.fail(errorf("process.args is empty: there is no command to run"))
		return
	}
	candidates, err := candidatePaths(p.Args[0], p.Env)
	if err != nil {
		b.fail(err)
		return
	}
	if c.opt.ExecPath != "" {
		candidates = []string{c.opt.ExecPath}
	}
	hold := c.waitForStart()
	c.closeAll()
	c.keepLabelled()
	b.begin("exec", "execute "+p.Args[0])
	b.report('X', program.None)
	argv := b.pointers(p.Args)
	envp := b.pointers(append(slices.Clone(candidates), p.Env...))
	empty := b.text("")
	b.prog.ExecOp = len(*b.ops)
	b.prog.Candidates = len(candidates)
	b.do(int(program.ExecStub), n(program.SlotStub), n(argv), n(envp), n(program.SlotSync), n(empty), n(hold))
}

// closeAll marks every descriptor but 0, 1, 2 and those asked for to be closed by
// execve. It comes before the filter, which may forbid it; whatever is opened
// later is opened so.
func (c *compiler) closeAll() {
	if c.closed {
		return
	}
	c.closed = true
	b := c.b
	b.begin("close", "let no descriptor of the host go on into the container")
	first := 3 + c.opt.PreserveFDs
	b.do(unix.SYS_CLOSE_RANGE, n(first), n(^uint32(0)), n(unix.CLOSE_RANGE_CLOEXEC))
	if c.opt.SaysReady {
		b.begin("close", "keep the start waiting until the init closes this socket: it can take signals then")
		b.do(unix.SYS_DUP, slot(program.SlotSync))
	}
}

// waitForStart lets the process wait between OCI create and start. It gives the
// FIFO's slot plus one, or 0.
func (c *compiler) waitForStart() int {
	if c.opt.Fifo == "" {
		return 0
	}
	b := c.b
	b.in(&b.prog.Before)
	b.begin("hold", "open the FIFO by which start will reach the process")
	fifo, _ := b.openat(n(cwd), c.opt.Fifo, unix.O_RDWR)
	b.in(&b.prog.Child)
	b.begin("hold", "wait until this process is on record")
	b.await()
	return int(fifo) + 1
}

// lookUp fails unless one of the paths to try is a file that may be executed.
// It looks as the user that runs the command, so that one that is missing is an
// error of create already; what is true at start, execve finds out. Where a
// filter forbids to look, nothing is known.
func (c *compiler) lookUp() {
	b := c.b
	candidates, err := candidatePaths(c.spec.Process.Args[0], c.spec.Process.Env)
	if err != nil {
		b.fail(err)
		return
	}
	b.begin("exec", "look for the command "+c.spec.Process.Args[0])
	at := b.buf(256) // struct statx
	var found []ref
	for i, p := range candidates {
		last := i == len(candidates)-1
		look := func(r ref) ref {
			if last { // its error is the step's
				return r.tolerate(unix.EPERM, unix.ENOSYS)
			}
			return r.tolerateAll()
		}
		st := look(b.do(unix.SYS_STATX, n(cwd), b.str(p), n(0), n(unix.STATX_TYPE), ptr(at)))
		// stx_mode is the half word at 28 (statx(2)).
		file := look(b.do(int(checkOp), n(at+24), n(uint64(unix.S_IFMT)<<32), n(uint64(unix.S_IFREG)<<32), n(int(unix.EACCES))))
		may := look(b.do(unix.SYS_FACCESSAT2, n(cwd), b.str(p), n(unix.X_OK), n(unix.AT_EACCESS)))
		b.onErrorSkipHere(st)
		if !last {
			b.onErrorSkipHere(file)
			found = append(found, may)
		}
	}
	for _, r := range found {
		b.onSuccessSkipHere(r)
	}
}

// defaultPath is what execvp(3) searches without PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// candidatePaths lists what execve is to try, as execvp(3): a name with a slash
// stands for itself, another is looked for in the PATH of its environment.
func candidatePaths(name string, env []string) ([]string, error) {
	if strings.Contains(name, "/") {
		return []string{name}, nil
	}
	search := defaultPath
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			search = v
		}
	}
	var list []string
	for _, dir := range strings.Split(search, ":") {
		if dir == "" {
			dir = "."
		}
		list = append(list, dir+"/"+name)
	}
	return list, nil
}

// hostnames sets what uname(2) tells.
func (c *compiler) hostnames(s *specs.Spec) {
	b := c.b
	if s.Hostname != "" {
		b.begin("hostname", "set the host name to "+s.Hostname)
		b.do(unix.SYS_SETHOSTNAME, b.str(s.Hostname), n(len(s.Hostname)))
	}
	if s.Domainname != "" {
		b.begin("hostname", "set the domain name to "+s.Domainname)
		b.do(unix.SYS_SETDOMAINNAME, b.str(s.Domainname), n(len(s.Domainname)))
	}
}
