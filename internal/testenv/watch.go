package testenv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// watcher records the name of every container that an engine ever had, also of
// those that are gone again when a test looks: the names of the entries of the
// watched "containers" directories. By them a leaked control group is known as
// ours.
type watcher struct {
	file *os.File
	done chan struct{}

	mu   sync.Mutex
	dirs map[int]string // watch descriptor -> directory
	ids  map[string]bool
}

// containersDir is the directory, in an engine's root and in its state directory,
// whose entries are named after containers.
const containersDir = "containers"

// watch starts to record. The roots must exist; their "containers" directories
// need not.
func watch(roots ...string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("start inotify: %w", err)
	}
	w := &watcher{
		file: os.NewFile(uintptr(fd), "inotify"), done: make(chan struct{}),
		dirs: map[int]string{}, ids: map[string]bool{},
	}
	for _, root := range roots {
		if err := w.add(root); err != nil {
			w.file.Close()
			return nil, err
		}
	}
	go w.loop()
	return w, nil
}

// add watches dir and takes up what is in it already.
func (w *watcher) add(dir string) error {
	raw, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	var wd int
	var watchErr error
	if err := raw.Control(func(fd uintptr) {
		wd, watchErr = unix.InotifyAddWatch(int(fd), dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
	}); err != nil {
		return err
	}
	if watchErr != nil {
		return fmt.Errorf("watch %s: %w", dir, watchErr)
	}
	w.mu.Lock()
	w.dirs[wd] = dir
	w.mu.Unlock()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	for _, e := range entries {
		w.entry(dir, e.Name())
	}
	return nil
}

func (w *watcher) entry(dir, name string) {
	if filepath.Base(dir) == containersDir {
		w.mu.Lock()
		w.ids[name] = true
		w.mu.Unlock()
		return
	}
	if name == containersDir {
		// The directory may be gone again; then nothing was in it.
		_ = w.add(filepath.Join(dir, name))
	}
}

func (w *watcher) loop() {
	defer close(w.done)
	buf := make([]byte, 64<<10)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return // closed
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd := int(int32(binary.NativeEndian.Uint32(b)))
			length := int(binary.NativeEndian.Uint32(b[12:]))
			name := string(bytes.TrimRight(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+length], "\x00"))
			w.mu.Lock()
			dir := w.dirs[wd]
			w.mu.Unlock()
			if dir != "" && name != "" {
				w.entry(dir, name)
			}
			b = b[unix.SizeofInotifyEvent+length:]
		}
	}
}

// seen returns the names recorded so far. Names too short to be told from
// anything else are left out.
func (w *watcher) seen() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := slices.Sorted(maps.Keys(w.ids))
	return slices.DeleteFunc(ids, func(id string) bool { return len(id) < 8 })
}

func (w *watcher) close() error {
	err := w.file.Close()
	<-w.done
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
