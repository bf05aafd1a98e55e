// Command viv-union serves a union file system with the semantics of AUFS.
//
//	viv-union [-f] [-d] SOURCE MOUNTPOINT -o dirs=UPPER:LOWER…[,OPTION…]
//
// It returns when the union is mounted, and a process of its own goes on to serve
// it; with -f it stays. mount(8) calls it in this way for the type fuse.viv-union,
// where mount.fuse is installed or this program is there as
// /sbin/mount.fuse.viv-union.
package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"vivarium/unionfs/aufs"
	"vivarium/unionfs/aufs/server"
)

// readyFD is where the process that serves says that the union is mounted, or why not, and
// lifeFD what it watches where it lives for somebody; see package aufs.
const readyFD, lifeFD = 3, 4

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "viv-union:", err)
		os.Exit(1)
	}
}

// call is the command line.
type call struct {
	source, point     string
	options           string
	foreground, debug bool
}

// parse reads the command line of mount helpers (mount(8), "EXTERNAL HELPERS"):
// the options come last or first, and there may be flags that mean nothing here.
func parse(args []string) (call, error) {
	var c call
	var words []string
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "-f":
			c.foreground = true
		case a == "-d":
			c.debug, c.foreground = true, true
		case a == "-o" && i+1 < len(args):
			i++
			c.options += "," + args[i]
		case a == "-s" || a == "-n" || a == "-v" || a == "-w":
		case a == "-r":
			c.options += ",ro"
		case a == "-t" && i+1 < len(args):
			i++
		case strings.HasPrefix(a, "-o"):
			c.options += "," + a[2:]
		case strings.HasPrefix(a, "-") && a != "-":
			return c, fmt.Errorf("unknown option %s", a)
		default:
			words = append(words, a)
		}
	}
	if len(words) != 2 {
		return c, errors.New("usage: viv-union [-f] [-d] SOURCE MOUNTPOINT -o dirs=UPPER:LOWER…")
	}
	c.source, c.point = words[0], words[1]
	return c, nil
}

func run(args []string) error {
	c, err := parse(args)
	if err != nil {
		return err
	}
	opts, err := aufs.ParseOptions(c.options)
	if err != nil {
		return err
	}
	if !c.foreground && os.Getenv(aufs.ReadyEnv) == "" {
		return background(args)
	}
	ready := func(string) {}
	if os.Getenv(aufs.ReadyEnv) != "" {
		os.Unsetenv(aufs.ReadyEnv)
		unix.CloseOnExec(readyFD)
		pipe := os.NewFile(readyFD, "ready")
		ready = func(msg string) {
			_, _ = io.WriteString(pipe, msg)
			pipe.Close()
		}
	}
	return serve(opts, c, ready)
}

func serve(opts aufs.Options, c call, ready func(string)) error {
	if os.Getenv("GOGC") == "" {
		defer tune()()
	}
	life, word := os.Getenv(aufs.LifeEnv) != "", aufs.Ready
	var m *server.Mount
	var err error
	if life {
		m, err = server.StartDetached(opts, c.source, c.debug)
	} else {
		m, err = server.Start(opts, c.source, c.point, c.debug)
	}
	if err != nil {
		ready(aufs.NotReady + err.Error())
		return err
	}
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	go func() {
		for range ch {
			if err := m.Detach(); err != nil {
				fmt.Fprintln(os.Stderr, "viv-union: unmount:", err)
			}
		}
	}()
	if life {
		unix.CloseOnExec(lifeFD)
		go endWith(os.NewFile(lifeFD, "life"), m)
		word += fmt.Sprintf(" %d", m.Tree())
	}
	ready(word)
	m.Serve()
	return nil
}

// endWith lets go of the union when the other end of a pipe is closed.
func endWith(life *os.File, m *server.Mount) {
	_, _ = io.Copy(io.Discard, life)
	if err := m.Detach(); err != nil {
		fmt.Fprintln(os.Stderr, "viv-union: unmount:", err)
	}
}

// background starts this program again as a process that serves, in a session of
// its own, and waits until it says that the union is mounted.
func background(args []string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the own program: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	// What the caller has open, a lock for example, is none of the server's.
	_ = unix.CloseRange(readyFD, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), aufs.ReadyEnv+"=1")
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		w.Close()
		return fmt.Errorf("start the server: %w", err)
	}
	w.Close()
	msg, _ := io.ReadAll(io.LimitReader(r, 1<<16))
	if string(msg) == aufs.Ready {
		return cmd.Process.Release()
	}
	err = cmd.Wait()
	if text, ok := strings.CutPrefix(string(msg), aufs.NotReady); ok {
		return errors.New(text)
	}
	return fmt.Errorf("the server ended before the union was mounted (%v)", err)
}
