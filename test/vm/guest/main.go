// Command guest is the first process of a test machine. It makes a root file
// system of its own, because pivot_root does not work on an initramfs, mounts what
// a Linux system has mounted, loads modules, runs the jobs of [protocol.Config] and
// powers off.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"vivarium/test/vm/protocol"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// line is the serial port for results; the first one is the kernel's console.
const line = "/dev/ttyS1"

func main() {
	if len(os.Args) > 1 && os.Args[1] == "jobs" {
		os.Exit(jobs())
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guest: is the first process of a test machine, nothing else")
		os.Exit(2)
	}
	if err := initialize(); err != nil {
		fmt.Println("guest:", err)
		report(err)
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("guest: power off:", err)
	}
	select {}
}

// report tells the host on the serial line, as far as there is one.
func report(err error) {
	port, openErr := openLine()
	if openErr != nil {
		return
	}
	fmt.Fprintln(port, protocol.Line{Kind: protocol.Failed, Text: err.Error()})
	port.Close()
}

// initialize makes the system and waits for the process that runs the jobs. That
// is another process, because the first one must reap whatever others leave.
func initialize() error {
	if err := ownRoot("/newroot"); err != nil {
		return err
	}
	if err := mountAll(); err != nil {
		return err
	}
	if err := os.Setenv("PATH", "/usr/local/bin:/bin:/sbin:/usr/bin:/usr/sbin"); err != nil {
		return err
	}
	cmd := exec.Command("/init", "jobs")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the jobs: %w", err)
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for the jobs: %w", err)
		case pid == cmd.Process.Pid:
			if status.ExitStatus() != 0 {
				return fmt.Errorf("the process that runs the jobs ended with status %#x", int(status))
			}
			return nil
		}
	}
}

// ownRoot moves all files into a tmpfs and makes that the root.
func ownRoot(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755,size=90%"); err != nil {
		return fmt.Errorf("mount the new root: %w", err)
	}
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if "/"+e.Name() == dir {
			continue
		}
		if err := move("/"+e.Name(), filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("move /%s into the new root: %w", e.Name(), err)
		}
	}
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the new root into place: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// move copies a tree and removes the original file by file, so that both never
// lie in memory at the same time.
func move(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		if err := os.Symlink(target, to); err != nil {
			return err
		}
	case info.IsDir():
		if err := moveDirectory(from, to, info.Mode()); err != nil {
			return err
		}
	case info.Mode().IsRegular():
		if err := copyFile(from, to, info.Mode()); err != nil {
			return err
		}
	}
	// What is neither (the console's device) is made anew by devtmpfs. The
	// directory / itself and a mount point in use stay.
	if err := os.Remove(from); err != nil && !errors.Is(err, unix.EBUSY) {
		return err
	}
	return nil
}

func moveDirectory(from, to string, mode fs.FileMode) error {
	if err := os.Mkdir(to, mode.Perm()); err != nil {
		return err
	}
	// Mkdir drops the sticky bit and obeys the umask.
	if err := os.Chmod(to, mode); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := move(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, mode.Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

func mountAll() error {
	for _, m := range []struct {
		kind, dir string
		flags     uintptr
		data      string
	}{
		{"proc", "/proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"devtmpfs", "/dev", unix.MS_NOSUID, "mode=0755"},
		{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666,gid=5"},
		{"tmpfs", "/dev/shm", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"mqueue", "/dev/mqueue", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"cgroup2", "/sys/fs/cgroup", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "nsdelegate"},
		{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.dir, err)
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2",
	} {
		if err := os.Symlink(target, "/dev/"+name); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// jobs is the second process: it does what the configuration says.
func jobs() int {
	port, err := openLine()
	if err != nil {
		fmt.Println("guest:", err)
		return 1
	}
	defer port.Close()
	if err := runAll(port); err != nil {
		fmt.Println("guest:", err)
		fmt.Fprintln(port, protocol.Line{Kind: protocol.Failed, Text: err.Error()})
		return 1
	}
	fmt.Fprintln(port, protocol.Line{Kind: protocol.Done})
	// Power-off does not wait for what the port still holds.
	return exitCode(unix.IoctlSetInt(int(port.Fd()), unix.TCSBRK, 1))
}

func exitCode(err error) int {
	if err != nil {
		fmt.Println("guest: drain the serial line:", err)
		return 1
	}
	return 0
}

// openLine opens the serial line as a plain pipe for bytes.
func openLine() (*os.File, error) {
	port, err := os.OpenFile(line, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the serial line: %w", err)
	}
	attributes, err := unix.IoctlGetTermios(int(port.Fd()), unix.TCGETS)
	if err == nil {
		attributes.Oflag &^= unix.OPOST
		attributes.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
		err = unix.IoctlSetTermios(int(port.Fd()), unix.TCSETS, attributes)
	}
	if err != nil {
		port.Close()
		return nil, fmt.Errorf("set up the serial line: %w", err)
	}
	return port, nil
}

func runAll(port io.Writer) error {
	text, err := os.ReadFile(protocol.ConfigPath)
	if err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	var config protocol.Config
	if err := json.Unmarshal(text, &config); err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	for _, path := range config.Modules {
		if err := loadModule(path); err != nil {
			return err
		}
	}
	if err := network(); err != nil {
		return err
	}
	for _, m := range config.Mounts {
		if err := mountDevice(m); err != nil {
			return err
		}
	}
	for _, job := range config.Jobs {
		fmt.Fprintln(port, protocol.Line{Kind: protocol.Begin, Text: job.Name})
		code := runJob(port, job)
		fmt.Fprintln(port, protocol.Line{Kind: protocol.End, Text: job.Name, Code: code})
	}
	return nil
}

func loadModule(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("load a module: %w", err)
	}
	defer file.Close()
	if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", path, err)
	}
	return nil
}

func network() error {
	if err := unix.Sethostname([]byte("viv-vm")); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback link: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set the loopback link up: %w", err)
	}
	if addrs, err := net.InterfaceAddrs(); err != nil || len(addrs) == 0 {
		return fmt.Errorf("the loopback link has no address (%v)", err)
	}
	return nil
}

// mountDevice waits for a block device, which its driver makes at a time of its
// own, and mounts it.
func mountDevice(m protocol.Mount) error {
	if err := os.MkdirAll(m.Path, 0o755); err != nil {
		return err
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := unix.Mount(m.Device, m.Path, m.Type, 0, "")
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.ENOENT) || time.Now().After(deadline) {
			return fmt.Errorf("mount %s on %s: %w", m.Device, m.Path, err)
		}
		time.Sleep(10 * time.Millisecond) // devtmpfs gives no event that is simpler
	}
}

// runJob runs one job and sends each line that it prints.
func runJob(port io.Writer, job protocol.Job) int {
	r, w, err := os.Pipe()
	if err != nil {
		fmt.Fprintln(port, protocol.Line{Kind: protocol.Output, Text: "guest: " + err.Error()})
		return -1
	}
	cmd := exec.Command(job.Path, job.Args...)
	cmd.Env, cmd.Dir = append(os.Environ(), job.Env...), job.Dir
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		fmt.Fprintln(port, protocol.Line{Kind: protocol.Output, Text: "guest: start: " + err.Error()})
		return -1
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		sendLines(port, r)
	}()
	_ = cmd.Wait()
	// Something that the job left running may hold the pipe for ever.
	_ = r.SetReadDeadline(time.Now().Add(5 * time.Second))
	<-copied
	r.Close()
	if status, ok := cmd.ProcessState.Sys().(interface{ Signaled() bool }); ok && status.Signaled() {
		fmt.Fprintln(port, protocol.Line{Kind: protocol.Output, Text: "guest: the job ended: " + cmd.ProcessState.String()})
	}
	return cmd.ProcessState.ExitCode()
}

func sendLines(port io.Writer, r io.Reader) {
	lines := bufio.NewReader(r)
	for {
		text, err := lines.ReadString('\n')
		if n := len(text); n > 0 && text[n-1] == '\n' {
			text = text[:n-1]
		}
		if text != "" || err == nil {
			fmt.Fprintln(port, protocol.Line{Kind: protocol.Output, Text: text})
		}
		if err != nil {
			return
		}
	}
}
