package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"vivarium/test/vm/protocol"
)

// Config is a machine to be booted.
type Config struct {
	// Dir is where the machine's own files go while it runs.
	Dir string
	// Files are put into the guest: guest path -> host path of a file or a tree.
	Files map[string]string
	// Jobs run in the guest, one after the other; then it powers off.
	Jobs []protocol.Job
	// Disks become /dev/vda, /dev/vdb and so on.
	Disks []Disk
	// Timeout bounds the machine's life; 0 is ten minutes.
	Timeout time.Duration
}

// Disk is a block device of a machine, kept in a file of the host.
type Disk struct {
	// Image is the file.
	Image string
	// Mount is where the guest mounts it; empty leaves that to the jobs.
	Mount string
	// Type is the file system to be mounted there.
	Type string
	// Scratch says that nobody reads the disk after the machine: what the guest
	// syncs may stay in the host's memory.
	Scratch bool
}

// Machine is a machine that was booted.
type Machine struct {
	cmd     *exec.Cmd
	cancel  context.CancelFunc
	console string
	lines   chan protocol.Line
	mu      sync.Mutex
	timeout bool
	ended   chan struct{} // closed when qemu is gone
}

// Result is what one job left.
type Result struct {
	Name   string
	Output string
	// Code is the exit status; -1 if the job was killed or never ended.
	Code int
}

// NewDisk makes a disk of the given size in bytes with an empty file system of
// type ext4, xfs or btrfs on it, or with nothing for an empty type. The matching
// mkfs must be installed.
func NewDisk(image, fsType string, size int64) error {
	f, err := os.OpenFile(image, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make a disk: %w", err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return fmt.Errorf("make a disk: %w", err)
	}
	if fsType == "" {
		return nil
	}
	if out, err := command("", "mkfs."+fsType, image); err != nil {
		return fmt.Errorf("make a file system on a disk: %w\n%s", err, out)
	}
	return nil
}

// Boot starts a machine. Its owner reads it with Wait or Expect and must call Close.
func Boot(config Config) (*Machine, error) {
	k, err := findKernel()
	if err != nil {
		return nil, fmt.Errorf("find a kernel to boot: %w", err)
	}
	initramfs := filepath.Join(config.Dir, "initramfs")
	if err := writeInitramfs(initramfs, k, config); err != nil {
		return nil, fmt.Errorf("make the machine's files: %w", err)
	}
	return start(k, initramfs, config)
}

// start runs qemu. The console and the results each have a serial line of their
// own, so that what the kernel says does not cut into results.
func start(k kernel, initramfs string, config Config) (*Machine, error) {
	timeout := config.Timeout
	if timeout == 0 {
		timeout = 10 * time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	m := &Machine{
		cancel: cancel, console: filepath.Join(config.Dir, "console"),
		lines: make(chan protocol.Line, 1024), ended: make(chan struct{}),
	}
	// The guest's serial line comes back on descriptor 3. KVM is not used even where
	// it is: tests must behave the same everywhere, and a /dev/kvm that hangs exists.
	args := []string{
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048",
		"-nodefaults", "-display", "none", "-no-reboot", "-nic", "none",
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
		"-serial", "file:" + m.console, "-chardev", "file,id=results,path=/dev/fd/3", "-serial", "chardev:results",
		"-kernel", k.image, "-initrd", initramfs,
		"-append", "console=ttyS0 loglevel=5 panic=-1 oops=panic random.trust_cpu=on",
	}
	for i, d := range config.Disks {
		cache := "writeback"
		if d.Scratch {
			cache = "unsafe"
		}
		args = append(args,
			"-drive", fmt.Sprintf("if=none,id=disk%d,format=raw,cache=%s,file=%s", i, cache, d.Image),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d", i))
	}
	r, w, err := os.Pipe()
	if err != nil {
		cancel()
		return nil, err
	}
	defer w.Close()
	m.cmd = exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	m.cmd.ExtraFiles = []*os.File{w}
	var complaints strings.Builder
	m.cmd.Stderr = &complaints
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := m.cmd.Start(); err != nil {
		r.Close()
		cancel()
		return nil, fmt.Errorf("start qemu: %w (test/install-deps installs it)", err)
	}
	go m.read(ctx, r, &complaints)
	return m, nil
}

// read turns the serial line into m.lines and sees qemu to its end.
func (m *Machine) read(ctx context.Context, r *os.File, complaints *strings.Builder) {
	defer close(m.ended)
	defer close(m.lines)
	defer r.Close()
	buf := bufio.NewReaderSize(r, 64<<10)
	for {
		text, err := buf.ReadString('\n')
		// What follows the last newline was cut off by the machine's end.
		if err != nil {
			break
		}
		select {
		case m.lines <- protocol.Parse(strings.TrimSuffix(text, "\n")):
		case <-ctx.Done():
		}
	}
	err := m.cmd.Wait()
	if err != nil && complaints.Len() > 0 {
		m.lines <- protocol.Line{Kind: protocol.Failed, Text: "qemu: " + complaints.String()}
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		m.mu.Lock()
		m.timeout = true
		m.mu.Unlock()
	}
}

// Wait reads the machine to its end. It returns what every job left that began,
// also with an error, which says why not all of them ran to their end.
func (m *Machine) Wait() ([]Result, error) {
	var results []Result
	var out strings.Builder
	running, done := false, false
	var failed error
	finish := func(code int) {
		results[len(results)-1].Output = out.String()
		results[len(results)-1].Code = code
		running = false
	}
	for line := range m.lines {
		switch line.Kind {
		case protocol.Begin:
			results = append(results, Result{Name: line.Text})
			out.Reset()
			running = true
		case protocol.Output:
			out.WriteString(line.Text + "\n")
		case protocol.End:
			finish(line.Code)
		case protocol.Done:
			done = true
		case protocol.Failed:
			failed = errors.New(line.Text)
		}
	}
	if running {
		finish(-1)
	}
	<-m.ended
	return results, m.verdict(done, failed)
}

func (m *Machine) verdict(done bool, failed error) error {
	m.mu.Lock()
	timeout := m.timeout
	m.mu.Unlock()
	switch {
	case failed != nil:
		return fmt.Errorf("the machine failed: %w\n%s", failed, m.Console())
	case timeout:
		return fmt.Errorf("the machine ran too long and was ended\n%s", m.Console())
	case !done:
		return fmt.Errorf("the machine ended before its jobs did\n%s", m.Console())
	}
	return nil
}

// Expect reads until a job has printed a line that contains text.
func (m *Machine) Expect(text string) error {
	for line := range m.lines {
		switch {
		case line.Kind == protocol.Output && strings.Contains(line.Text, text):
			return nil
		case line.Kind == protocol.Failed:
			return m.verdict(false, errors.New(line.Text))
		}
	}
	return fmt.Errorf("the machine ended without %q: %w", text, m.verdict(false, nil))
}

// Console is the end of what the kernel said.
func (m *Machine) Console() string {
	text, err := os.ReadFile(m.console)
	if err != nil {
		return "console: " + err.Error()
	}
	const end = 8 << 10
	return "console: " + string(text[max(0, len(text)-end):])
}

// PowerCut takes the machine's power away: what it has written to its disks stays,
// what is still in its memory is lost.
func (m *Machine) PowerCut() error {
	return m.PowerCutAfter(func(protocol.Line) {})
}

// PowerCutAfter is PowerCut, and hands out the lines that had come before.
func (m *Machine) PowerCutAfter(each func(protocol.Line)) error {
	if err := m.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cut the machine's power: %w", err)
	}
	for line := range m.lines {
		each(line)
	}
	m.Close()
	return nil
}

// Close ends the machine, if it still runs, and waits for that.
func (m *Machine) Close() {
	m.cancel()
	for range m.lines {
	}
	<-m.ended
}

// writeInitramfs packs the machine's root file system.
func writeInitramfs(path string, k kernel, config Config) (err error) {
	guest, err := buildGuest(config.Dir)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buffered := bufio.NewWriterSize(f, 1<<20)
	a := newArchive(buffered)
	if err := packSystem(a, guest); err != nil {
		return err
	}
	loaded, err := packModules(a, k)
	if err != nil {
		return err
	}
	for name, from := range config.Files {
		if err := a.tree(name, from); err != nil {
			return err
		}
	}
	if err := packConfig(a, loaded, config); err != nil {
		return err
	}
	return errors.Join(a.close(), buffered.Flush())
}

func buildGuest(dir string) (string, error) {
	out := filepath.Join(dir, "guest")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "vivarium/test/vm/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the guest: %w\n%s", err, text)
	}
	return out, nil
}

// packSystem packs a small system: busybox under all its names, the directories and
// the files that programs look for.
func packSystem(a *archive, guest string) error {
	const busybox = "/bin/busybox"
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("list busybox's applets: %w (test/install-deps installs busybox-static)", err)
	}
	for _, dir := range []string{"dev", "proc", "sys", "run", "etc", "root", "home", "var/lib", "var/tmp", "usr/bin", "usr/sbin", "mnt"} {
		if err := a.directory(dir, 0o755); err != nil {
			return err
		}
	}
	steps := []error{
		a.directory("tmp", 0o1777),
		a.file("init", guest),
		a.file("bin/busybox", busybox),
		a.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n", 0o644),
		a.text("etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n", 0o644),
		a.text("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n", 0o644),
		a.text("etc/resolv.conf", "", 0o644),
		// The kernel calls this to load modules on demand.
		a.symlink("sbin/modprobe", busybox),
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			steps = append(steps, a.symlink("bin/"+applet, "busybox"))
		}
	}
	return errors.Join(steps...)
}

// packModules packs the modules, with the indexes by which modprobe finds them, and
// returns their paths in the guest in the order to load them.
func packModules(a *archive, k kernel) ([]string, error) {
	files, err := k.closure(modules)
	if err != nil {
		return nil, err
	}
	dir := "lib/modules/" + k.release
	var paths []string
	for _, f := range files {
		if err := a.file(dir+"/"+f, filepath.Join(k.modules, f)); err != nil {
			return nil, err
		}
		paths = append(paths, "/"+dir+"/"+f)
	}
	for _, index := range []string{"modules.dep", "modules.alias", "modules.builtin", "modules.symbols"} {
		if err := a.file(dir+"/"+index, filepath.Join(k.modules, index)); err != nil {
			return nil, err
		}
	}
	return paths, nil
}

func packConfig(a *archive, loaded []string, config Config) error {
	guest := protocol.Config{Modules: loaded, Jobs: config.Jobs}
	for i, d := range config.Disks {
		if d.Mount != "" {
			device := "/dev/vd" + string(rune('a'+i))
			guest.Mounts = append(guest.Mounts, protocol.Mount{Device: device, Path: d.Mount, Type: d.Type})
		}
	}
	text, err := json.Marshal(guest)
	if err != nil {
		return err
	}
	return a.text(protocol.ConfigPath, string(text), 0o644)
}
