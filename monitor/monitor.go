// Package monitor is the small process that stays beside each container: the
// parent of its first process. It runs the container's program, keeps its
// console and log, serves the clients that attach, restarts it, and writes down
// how it ended.
//
// There is one for every container, so its memory is counted in pages: one
// thread of work, an epoll loop, no allocation in the steady state, no package
// beyond the language and syscall, and what it no longer needs is given back
// (see idle.go).
package monitor

import (
	"syscall"

	"vivarium/monitor/jsonlog"
	"vivarium/monitor/wire"
	"vivarium/sandbox/program"
	"vivarium/sandbox/spawn"
)

// ControlFD is the descriptor on which a monitor finds the socket to the client
// that started it.
const ControlFD = 3

// startTimeout bounds a program from its clone to its execve, in milliseconds:
// each of its steps is one system call, some on file systems that may be slow.
const startTimeout = 120_000

type monitor struct {
	cfg     *wire.Config
	program int // memfd with the encoded program
	netns   int
	pidfdIn int // of the process that an exec session joins
	ports   int // holds the published host ports; never read

	epoll   int
	listen  int
	clients [maxClients]client

	proc    *spawn.Process
	pid     int
	mountNS int       // the process's, or -1: see holdMounts
	locked  int       // the file whose lock says that the container has a monitor
	streams [2]stream // output; with a terminal the first alone, which is the master
	stdin   int       // our end of the process's standard input, or -1
	log     *jsonlog.Writer

	stdinPending []byte // what the process has not taken yet
	stdinClose   bool   // close stdin when that is written
	owing        int    // clients that have not taken the last output
	lastLen      int    // of the message in outBuf

	policy   policy
	status   wire.Status
	cleaning bool // a client has promised to clean up
}

// Main runs a monitor until its container has ended. It never returns. It is
// started with GOMAXPROCS=1 and GOGC=off in its environment: one thread works,
// and nothing is allocated once the loop runs. (Setting them from here would
// link package runtime/debug, and fmt with it.)
func Main() {
	m := &monitor{program: -1, netns: -1, pidfdIn: -1, ports: -1, listen: -1, stdin: -1, mountNS: -1, locked: -1}
	for i := range m.clients {
		m.clients[i].fd = -1
	}
	if !m.configure() {
		syscall.Exit(1)
	}
	m.run()
	syscall.Exit(0)
}

// configure takes the configuration from the client that started the monitor.
func (m *monitor) configure() bool {
	var err error
	if m.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return false
	}
	prepareIdle(m.epoll)
	buf := inBuf[:]
	var oob [64]byte
	n, oobn, _, _, err := recvmsg(ControlFD, buf, oob[:])
	if err != nil || n == 0 || buf[0] != wire.MsgConfig {
		return false
	}
	cfg, files, err := wire.DecodeConfig(buf[1:n])
	if err != nil {
		return false
	}
	m.cfg = cfg
	fds := rights(oob[:oobn])
	for i, fd := range [...]*int{&m.program, &m.netns, &m.pidfdIn, &m.ports} {
		if files&(1<<i) != 0 && len(fds) > 0 {
			*fd, fds = fds[0], fds[1:]
		}
	}
	m.policy = newPolicy(cfg)
	m.clients[0] = client{fd: ControlFD, output: true, stdin: true}
	syscall.SetNonblock(ControlFD, true)
	syscall.CloseOnExec(ControlFD)
	return true
}

// run is the container's life.
func (m *monitor) run() {
	m.status.BootID = bootID()
	m.status.MonitorPid = syscall.Getpid()
	m.status.MonitorTicks = startTicks(m.status.MonitorPid)
	m.status.RestartCount = m.cfg.RestartCount
	if !m.lock() {
		m.fail(nil, syscall.EBUSY)
		return
	}
	if m.cfg.LogPath != "" {
		log, err := jsonlog.Open(m.cfg.LogPath, m.cfg.LogMaxSize, m.cfg.LogMaxFile)
		if err != nil {
			m.fail(&spawn.Error{Step: program.Step{Kind: "log", Why: "open the log " + m.cfg.LogPath}, Errno: errno(err)}, 0)
			return
		}
		log.Attrs = m.cfg.LogAttrs
		m.log = log
	}
	var err error
	if m.cfg.AdoptPid != 0 {
		err = m.adopt()
	} else {
		err = m.start()
	}
	if err != nil {
		m.removeCgroups()
		m.fail(err, 0)
		return
	}
	m.serve()
	for {
		m.watch()
		if !m.restart() {
			break
		}
	}
	m.finish()
}

// lock holds the container for as long as this process lives: there never are two
// monitors for one.
func (m *monitor) lock() bool {
	if m.cfg.Exec {
		return true
	}
	fd, err := syscall.Open(m.cfg.StateDir+"/monitor.lock", syscall.O_RDWR|syscall.O_CREAT|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return false
	}
	m.locked = fd
	return syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) == nil
}

// holdMounts keeps the mounts of the process beyond its end. Taking them down
// costs the kernel grace periods; with the last process it would be done before
// anybody hears of the end, with the monitor it is done after.
func (m *monitor) holdMounts() {
	if m.cfg.Exec {
		return
	}
	fd, err := syscall.Open("/proc/"+itoa(m.pid)+"/ns/mnt", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err == nil {
		m.mountNS = fd
	}
}

func (m *monitor) letMountsGo() {
	if m.mountNS >= 0 {
		syscall.Close(m.mountNS)
		m.mountNS = -1
	}
}

// start runs the program and waits until the command runs.
func (m *monitor) start() error {
	p, mapping, err := m.loadProgram()
	if err != nil {
		return &spawn.Error{Step: program.Step{Kind: "load", Why: "read the program"}, Errno: errno(err)}
	}
	defer syscall.Munmap(mapping)
	o := spawn.Options{NetNS: m.netns, PidFD: m.pidfdIn, Stdin: -1, Stdout: -1, Stderr: -1}
	if m.policy.restarts == 0 {
		o.Fault = spawn.Fault{Phase: spawn.Phase(m.cfg.FaultPhase), Index: m.cfg.FaultIndex, Errno: syscall.Errno(m.cfg.FaultErrno)}
	}
	if !m.cfg.TTY {
		if err := m.openStreams(&o); err != nil {
			return &spawn.Error{Step: program.Step{Kind: "stdio", Why: "make the pipes of standard input and output"}, Errno: errno(err)}
		}
	}
	proc, err := spawn.Start(p, o)
	closeAll(o.Stdin, o.Stdout, o.Stderr)
	if err != nil {
		m.closeStreams()
		return err
	}
	for {
		r, err := proc.Wait(startTimeout)
		if err != nil {
			proc.Abandon()
			m.closeStreams()
			return err
		}
		if r.Kind == spawn.ReportTerminal {
			m.openTerminal(r.File)
			continue
		}
		break
	}
	proc.CloseSync()
	m.proc, m.pid = proc, proc.Pid
	m.holdMounts()
	m.status.State, m.status.Pid = wire.Running, proc.Pid
	m.status.StartTicks = startTicks(proc.Pid)
	m.status.StartedAt, m.status.FinishedAt, m.status.ExitCode = now(), 0, 0
	m.status.OOMKilled, m.status.Error = false, ""
	m.writeStatus()
	return nil
}

// loadProgram maps the program anew: running it changes it, in a private copy.
func (m *monitor) loadProgram() (*program.Program, []byte, error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(m.program, &st); err != nil {
		return nil, nil, err
	}
	if st.Size == 0 {
		return nil, nil, program.ErrFormat
	}
	b, err := syscall.Mmap(m.program, 0, int(st.Size), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE)
	if err != nil {
		return nil, nil, err
	}
	p, err := program.Decode(b)
	if err != nil {
		syscall.Munmap(b)
		return nil, nil, err
	}
	return p, b, nil
}

// serve tells the first client, and listens for others.
func (m *monitor) serve() {
	if !m.cfg.Exec {
		m.listenOn(m.cfg.StateDir)
	}
	var b [5]byte
	b[0] = wire.MsgStarted
	put32(b[1:], uint32(m.pid))
	m.clients[0].send(b[:])
	m.watchFD(m.clients[0].fd, syscall.EPOLLIN)
}

// fail tells the first client why the container did not start. Without a step
// it is the monitor's own trouble e.
func (m *monitor) fail(err error, e syscall.Errno) {
	step := program.Step{Kind: "monitor", Why: "take the container's lock (is it running already?)"}
	phase, op := 0, 0
	if se, ok := err.(*spawn.Error); ok {
		step, e, phase, op = se.Step, se.Errno, int(se.Phase), se.Op
	} else if err != nil {
		step.Why, e = "start the container", errno(err)
	}
	b := []byte{wire.MsgFailed}
	b = wire.PutU32(wire.PutU32(wire.PutU32(b, uint32(e)), uint32(phase)), uint32(op))
	b = append(append(append(b, step.Kind...), 0), step.Why...)
	m.clients[0].send(b)
}

// finish is the end: clients told, groups removed, status written. The network
// namespace goes first: its end takes the container's interfaces with it.
func (m *monitor) finish() {
	closeAll(m.netns, m.ports)
	if m.cfg.AutoRemove && m.cleaning {
		m.tellExit() // the files are removed while we remove the groups
		m.removeCgroups()
		m.unlisten()
		m.tellGone()
		return
	}
	m.removeCgroups()
	m.writeStatus()
	m.unlisten() // who finds no monitor finds the status
	m.tellExit()
	m.letMountsGo() // before the lock: who starts the container again finds its layer unused
	if !m.cleaning && len(m.cfg.Cleanup) > 0 {
		syscall.ForkExec(m.cfg.Cleanup[0], m.cfg.Cleanup, &syscall.ProcAttr{Dir: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true}})
	}
}

func (m *monitor) unlisten() {
	if m.listen >= 0 {
		syscall.Unlink(m.cfg.StateDir + "/monitor.sock")
	}
}

func (m *monitor) tellExit() {
	var b [5]byte
	b[0] = wire.MsgExited
	put32(b[1:], uint32(m.status.ExitCode))
	for i := range m.clients {
		if m.clients[i].fd >= 0 {
			m.clients[i].sendBlocking(b[:])
		}
	}
}

// tellGone lets the clients go that clean up. What we still have open of the
// container's files is closed first.
func (m *monitor) tellGone() {
	if m.log != nil {
		m.log.Close()
	}
	closeAll(m.locked)
	b := [...]byte{wire.MsgGone}
	for i := range m.clients {
		if c := &m.clients[i]; c.fd >= 0 && c.cleanup {
			c.sendBlocking(b[:])
		}
	}
}

func (m *monitor) removeCgroups() {
	for _, d := range m.cfg.CgroupDirs {
		removeCgroup(d)
	}
}
