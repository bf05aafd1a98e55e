package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// TopResult is a table of processes.
type TopResult struct {
	Titles    []string
	Processes [][]string
}

// Top lists the container's processes as the host sees them. Without args it
// reads /proc itself and gives the columns of `ps -ef`; with args it asks the host's ps.
func (e *Engine) Top(ctx context.Context, ref string, args []string) (TopResult, error) {
	c, err := e.Container(ref)
	if err != nil {
		return TopResult{}, err
	}
	st, err := e.state(ctx, c)
	if err != nil {
		return TopResult{}, err
	}
	if !running(st) {
		return TopResult{}, notRunning(c)
	}
	pids, err := e.procs(c, st)
	if err != nil {
		return TopResult{}, err
	}
	e.emit(containerEvent(c, "top"))
	slices.Sort(pids)
	if len(args) == 0 || len(args) == 1 && strings.TrimLeft(args[0], "-") == "ef" {
		return topProc(pids)
	}
	return topPS(ctx, pids, args)
}

func topProc(pids []int) (TopResult, error) {
	res := TopResult{Titles: []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"}}
	users := userNames()
	boot, err := bootTime()
	if err != nil {
		return res, err
	}
	now := time.Now()
	for _, pid := range pids {
		p, err := readProcess(pid)
		if err != nil {
			continue // it ended meanwhile
		}
		res.Processes = append(res.Processes, p.row(users, boot, now))
	}
	return res, nil
}

// process is what /proc tells of one process.
type process struct {
	pid, ppid, uid int
	comm, cmdline  string
	tty            int
	cpu            time.Duration
	start          time.Duration // since boot
}

// clockTicks is USER_HZ, which Linux fixes at 100 for every architecture that Go runs on.
const clockTicks = 100

func readProcess(pid int) (*process, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return nil, err
	}
	p, err := parseStat(stat)
	if err != nil {
		return nil, err
	}
	var owner unix.Stat_t
	if err := unix.Stat(dir, &owner); err != nil {
		return nil, err
	}
	p.uid = int(owner.Uid)
	if b, err := os.ReadFile(dir + "/cmdline"); err == nil {
		p.cmdline = string(bytes.ReplaceAll(bytes.TrimRight(b, "\x00"), []byte{0}, []byte{' '}))
	}
	if p.cmdline == "" {
		p.cmdline = "[" + p.comm + "]"
	}
	return p, nil
}

// parseStat reads /proc/PID/stat (proc_pid_stat(5)). The command's name may
// contain anything, also parentheses: it ends at the last one.
func parseStat(b []byte) (*process, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return nil, errors.New("process status is malformed")
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 20 {
		return nil, errors.New("process status is malformed")
	}
	num := func(i int) int {
		n, _ := strconv.Atoi(f[i-3]) // f[0] is field 3
		return n
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:open])))
	if err != nil {
		return nil, errors.New("process status is malformed")
	}
	return &process{
		pid: pid, ppid: num(4), tty: num(7), comm: string(b[open+1 : end]),
		cpu:   time.Duration(num(14)+num(15)) * (time.Second / clockTicks),
		start: time.Duration(num(22)) * (time.Second / clockTicks),
	}, nil
}

func (p *process) row(users map[int]string, boot, now time.Time) []string {
	started := boot.Add(p.start)
	uid := users[p.uid]
	if uid == "" {
		uid = strconv.Itoa(p.uid)
	}
	usage := 0
	if age := now.Sub(started); age > 0 {
		usage = min(int(p.cpu*100/age), 99)
	}
	stime := started.Format("15:04")
	if now.Sub(started) >= 24*time.Hour {
		stime = started.Format("Jan02")
	}
	s := int(p.cpu / time.Second)
	return []string{uid, strconv.Itoa(p.pid), strconv.Itoa(p.ppid), strconv.Itoa(usage), stime, ttyName(p.tty),
		fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60), p.cmdline}
}

// ttyName decodes tty_nr: minor in bits 31-20 and 7-0, major in bits 15-8.
func ttyName(nr int) string {
	major, minor := nr>>8&0xff, nr&0xff|nr>>12&0xfff00
	switch {
	case nr == 0:
		return "?"
	case major >= 136 && major <= 143:
		return fmt.Sprintf("pts/%d", (major-136)<<8|minor)
	case major == 4 && minor < 64:
		return fmt.Sprintf("tty%d", minor)
	case major == 4:
		return fmt.Sprintf("ttyS%d", minor-64)
	}
	return "?"
}

func bootTime() (time.Time, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, fmt.Errorf("read the time of boot: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if s, ok := strings.CutPrefix(line, "btime "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
			return time.Unix(n, 0), err
		}
	}
	return time.Time{}, errors.New("read the time of boot: /proc/stat has no btime")
}

// userNames reads the host's user names, as ps shows them.
func userNames() map[int]string {
	names := map[int]string{}
	b, _ := os.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(b)) {
		f := strings.Split(line, ":")
		if len(f) < 3 {
			continue
		}
		if uid, err := strconv.Atoi(f[2]); err == nil {
			if _, ok := names[uid]; !ok {
				names[uid] = f[0]
			}
		}
	}
	return names
}

// topPS runs the host's ps with the user's options and keeps the lines of the
// container's processes; the options must show a PID column.
func topPS(ctx context.Context, pids []int, args []string) (TopResult, error) {
	out, err := exec.CommandContext(ctx, "ps", args...).Output()
	if err != nil {
		var ee *exec.ExitError
		if errors.As(err, &ee) {
			line, _, _ := bytes.Cut(bytes.TrimSpace(ee.Stderr), []byte("\n")) // the rest is its usage
			return TopResult{}, errorf(ErrInvalid, "ps %s: %s", strings.Join(args, " "), line)
		}
		return TopResult{}, fmt.Errorf("run ps %s: %w", strings.Join(args, " "), err)
	}
	return parsePS(string(out), pids)
}

func parsePS(out string, pids []int) (TopResult, error) {
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	res := TopResult{Titles: strings.Fields(lines[0])}
	col := slices.Index(res.Titles, "PID")
	if col < 0 {
		return res, errorf(ErrInvalid, "Couldn't find PID field in ps output")
	}
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		if len(f) <= col {
			continue
		}
		if pid, err := strconv.Atoi(f[col]); err != nil || !slices.Contains(pids, pid) {
			continue
		}
		if n := len(res.Titles); len(f) > n { // the last column may hold blanks
			f = append(f[:n-1:n-1], strings.Join(f[n-1:], " "))
		}
		res.Processes = append(res.Processes, f)
	}
	return res, nil
}
