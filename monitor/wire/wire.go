// Package wire is what a monitor and its clients say to each other: the
// configuration that starts a monitor, the messages on its socket, and the
// status file that it writes. It is linked into the monitor, of which one runs
// for each container, so it needs nothing beyond the language.
package wire

import "errors"

// Config is everything that a monitor needs to run one container, or one exec
// session in a container.
type Config struct {
	ID       string // container ID, or exec session ID
	StateDir string // <state>/containers/<id>: monitor.sock, monitor.lock, stdout, stderr
	Dir      string // <root>/containers/<id>: status.json, log.json

	// Program is a compiled plan (plan.Encode). It does not travel with the
	// rest but in a memfd, which the monitor keeps for restarts.
	Program []byte

	Exec bool // an exec session: no log, no restart, no control groups of its own

	TTY        bool   // the process has a terminal of its own
	OpenStdin  bool   // keep standard input open for clients; else it is /dev/null
	StdinOnce  bool   // close the process's standard input when the client that had it leaves
	Rows, Cols uint16 // initial terminal size; 0: unset

	LogPath    string // json-file log, "" for none
	LogMaxSize int64  // bytes before rotation; 0: never
	LogMaxFile int    // files kept, this one included; 0 is 1
	LogAttrs   string // a JSON object for each record's "attrs", or ""

	Restart      string // "", "no", "always", "unless-stopped", "on-failure"
	RestartMax   int    // for on-failure; 0: no limit
	RestartCount int    // restarts so far (when a monitor adopts a container)
	AutoRemove   bool   // the container's record goes away at its end: its last status need not be written

	CgroupDirs   []string // removed when the process has ended, in this order
	MemoryEvents string   // file that tells OOM kills: memory.oom_control (v1) or memory.events (v2); "" for none

	// Cleanup is a command (argv, absolute path first) that the monitor runs
	// when the container has ended for good and no client has said that it
	// will clean up itself: it releases the network and carries out --rm.
	Cleanup []string

	// AdoptPid and AdoptTicks name a process that runs already: the monitor
	// watches it instead of starting a program. AdoptStarted is when it began.
	AdoptPid     int
	AdoptTicks   uint64
	AdoptStarted int64

	// Fault is for tests: phase (spawn.Phase), index and errno of the op that fails.
	FaultPhase, FaultIndex, FaultErrno int
}

// Messages from a client to a monitor: one byte, then the payload.
const (
	MsgConfig   = 'C' // an encoded Config; descriptors: see HasProgram
	MsgStdin    = 'I' // bytes
	MsgStdinEOF = 'i'
	MsgResize   = 'W' // rows, cols: two uint16
	MsgRestart  = 'P' // policy NUL max (uint32)
	MsgCleanup  = 'K' // this client cleans up at the end
	MsgAttach   = 'A' // one byte: 1 for output
)

// Messages from a monitor to a client.
const (
	MsgStdout  = 'o'
	MsgStderr  = 'e'
	MsgStarted = 's' // pid: uint32
	MsgExited  = 'x' // exit code: uint32
	MsgFailed  = 'f' // errno: uint32, phase, op: uint32, then "kind NUL why"
	MsgGone    = 'g' // after MsgExited, to a client that cleans up: nothing of the run is left
)

// Descriptors that may come with MsgConfig, in this order, each announced by a bit.
const (
	HasProgram = 1 << iota // a memfd with the program
	HasNetNS               // a network namespace
	HasPidFD               // the process whose namespaces an exec session joins
	HasPorts               // what keeps the published host ports from others while it is open
)

// MaxMessage bounds a message, and so the output that one carries.
const MaxMessage = 32 << 10

// State values of Status, as docker inspect shows them.
const (
	Created    = "created"
	Running    = "running"
	Paused     = "paused"
	Restarting = "restarting"
	Exited     = "exited"
	Dead       = "dead"
)

// Status is what status.json tells. The monitor alone writes it while it lives.
// Times are nanoseconds since the Unix epoch, 0 when they have not come yet.
type Status struct {
	State        string `json:"state"`
	Pid          int    `json:"pid"`        // of the container's first process in the monitor's pid namespace; 0 when it has ended
	StartTicks   uint64 `json:"startTicks"` // field 22 of /proc/PID/stat: tells a process from a later one with the same pid
	MonitorPid   int    `json:"monitorPid"`
	MonitorTicks uint64 `json:"monitorTicks"` // the same of the monitor
	BootID       string `json:"bootID"`       // /proc/sys/kernel/random/boot_id when it was written
	StartedAt    int64  `json:"startedAt"`
	FinishedAt   int64  `json:"finishedAt"`
	ExitCode     int    `json:"exitCode"` // 128+n for signal n
	OOMKilled    bool   `json:"oomKilled"`
	RestartCount int    `json:"restartCount"`
	Error        string `json:"error"`
}

// ErrFormat says that bytes are no message of this version.
var ErrFormat = errors.New("decode monitor message: malformed")
