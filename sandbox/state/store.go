// Package state keeps what an OCI runtime must remember of its containers
// between two commands: one directory a container, below a root that a reboot
// empties.
//
//	ID/state.json   the record (State), replaced as a whole
//	ID/config.json  the spec as it was when the container was created
//	ID/exec.fifo    where the process waits for start; gone once it has started
//	ID/status       crun's record, for callers of `crun`
//
// A name is taken by making its directory. Whoever changes a container holds
// the lock of its directory (flock(2)), which the kernel lets go of when its
// holder dies. The record is written before anything else is made, and again
// when there is a process, before that process may run its command. So a
// command that is killed leaves a container whose record finds all there is.
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Errors of names. Callers of runtimes look for these words.
var (
	ErrExist    = errors.New("container with given ID already exists")
	ErrNotExist = errors.New("container does not exist")
	ErrID       = errors.New("invalid container ID format")
	ErrBusy     = errors.New("another command is working on this container")
)

// Names of the files in a container's directory.
const (
	recordFile = "state.json"
	SpecFile   = "config.json"
	FifoFile   = "exec.fifo"
	crunFile   = "status"
)

// Store is the directory of all containers.
type Store struct{ Root string }

// Dir is one container's directory. Close gives up its descriptor, and with it
// the lock.
type Dir struct {
	ID   string
	Path string
	fd   int
}

// CheckID accepts what runc accepts: letters, digits, and _ + - . that is not
// only dots, at most 1024 bytes.
func CheckID(id string) error {
	if id == "" || id == "." || id == ".." || len(id) > 1024 {
		return ErrID
	}
	for _, c := range []byte(id) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (c < '0' || c > '9') && c != '_' && c != '+' && c != '-' && c != '.' {
			return fmt.Errorf("%w: invalid character `%c` in the ID", ErrID, c)
		}
	}
	return nil
}

// Reserve takes a name and locks it. ErrExist when somebody has it.
func (s Store) Reserve(id string) (*Dir, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	path := filepath.Join(s.Root, id)
	err := unix.Mkdir(path, 0o711)
	if err == unix.ENOENT {
		if err := os.MkdirAll(s.Root, 0o711); err != nil {
			return nil, fmt.Errorf("make the directory of containers: %w", err)
		}
		err = unix.Mkdir(path, 0o711)
	}
	if err == unix.EEXIST {
		return nil, ErrExist
	}
	if err != nil {
		return nil, fmt.Errorf("make the directory of container %s: %w", id, &os.PathError{Op: "mkdir", Path: path, Err: err})
	}
	d, err := s.Open(id)
	if err != nil {
		return nil, err
	}
	// Only delete --force can be at it already, and then it goes.
	if err := unix.Flock(d.fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		d.Close()
		return nil, fmt.Errorf("lock container %s: %w", id, ErrBusy)
	}
	return d, nil
}

// Open opens a container's directory without a lock. ErrNotExist if there is none.
func (s Store) Open(id string) (*Dir, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	path := filepath.Join(s.Root, id)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil, ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("open the directory of container %s: %w", id, &os.PathError{Op: "open", Path: path, Err: err})
	}
	return &Dir{ID: id, Path: path, fd: fd}, nil
}

// OpenLocked opens a container's directory with its lock, for which it waits
// at most timeout (ErrBusy).
func (s Store) OpenLocked(id string, timeout time.Duration) (*Dir, error) {
	for end := time.Now().Add(timeout); ; {
		d, err := s.Open(id)
		if err != nil {
			return nil, err
		}
		if err := d.lock(end); err != nil {
			d.Close()
			return nil, err
		}
		// The container may have been deleted, and another made, meanwhile.
		if d.current() {
			return d, nil
		}
		d.Close()
	}
}

// lock waits for the lock. flock(2) has no timeout, so it is tried again after
// pauses; commands hold it for milliseconds.
func (d *Dir) lock(end time.Time) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := unix.Flock(d.fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			return fmt.Errorf("lock container %s: %w", d.ID, err)
		}
		if time.Now().After(end) {
			return fmt.Errorf("lock container %s: %w", d.ID, ErrBusy)
		}
		time.Sleep(pause)
	}
}

// current says whether the directory still is the one at its path.
func (d *Dir) current() bool {
	var mine, there unix.Stat_t
	if unix.Fstat(d.fd, &mine) != nil || unix.Lstat(d.Path, &there) != nil {
		return false
	}
	return mine.Ino == there.Ino && mine.Dev == there.Dev
}

// Locked says whether somebody else holds the lock now.
func (d *Dir) Locked() bool {
	if err := unix.Flock(d.fd, unix.LOCK_SH|unix.LOCK_NB); err != nil {
		return err == unix.EWOULDBLOCK
	}
	unix.Flock(d.fd, unix.LOCK_UN)
	return false
}

// Unlock gives up the lock and keeps the directory open.
func (d *Dir) Unlock() { unix.Flock(d.fd, unix.LOCK_UN) }

// Close gives up the directory and its lock.
func (d *Dir) Close() {
	if d.fd >= 0 {
		unix.Close(d.fd)
		d.fd = -1
	}
}

// File is the path of a file of the container.
func (d *Dir) File(name string) string { return d.Path + "/" + name }

// Owner is the user who made the container.
func (d *Dir) Owner() (uid uint32, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return 0, fmt.Errorf("find the owner of container %s: %w", d.ID, err)
	}
	return st.Uid, nil
}

// Load reads the record. ErrNotExist when there is none: whoever took the name
// was killed before anything was made.
func (d *Dir) Load() (*State, error) {
	b, err := os.ReadFile(d.File(recordFile))
	if errors.Is(err, unix.ENOENT) {
		return nil, ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("read the record of container %s: %w", d.ID, err)
	}
	s := new(State)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("read the record of container %s, %s: %w", d.ID, d.File(recordFile), err)
	}
	return s, nil
}

// SaveLocked replaces the record.
func (d *Dir) SaveLocked(s *State) error {
	b, err := json.Marshal(s)
	if err == nil {
		err = d.replace(recordFile, b)
	}
	if err != nil {
		return fmt.Errorf("write the record of container %s: %w", d.ID, err)
	}
	return nil
}

// WriteSpecLocked keeps the spec of the container.
func (d *Dir) WriteSpecLocked(spec []byte) error {
	if err := writeAt(d.fd, SpecFile, spec, 0o600); err != nil {
		return fmt.Errorf("keep the spec of container %s: %w", d.ID, err)
	}
	return nil
}

// WriteCrunStatusLocked keeps the record that crun would have of the container.
func (d *Dir) WriteCrunStatusLocked(status []byte) error {
	if err := d.replace(crunFile, status); err != nil {
		return fmt.Errorf("write crun's record of container %s: %w", d.ID, err)
	}
	return nil
}

// MakeFifoLocked makes the FIFO at which the process waits for start.
func (d *Dir) MakeFifoLocked() (path string, err error) {
	if err := unix.Mkfifoat(d.fd, FifoFile, 0o600); err != nil {
		return "", fmt.Errorf("make the FIFO of container %s: %w", d.ID, err)
	}
	return d.File(FifoFile), nil
}

// RemoveFifoLocked says that the process has been started.
func (d *Dir) RemoveFifoLocked() error {
	if err := unix.Unlinkat(d.fd, FifoFile, 0); err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove the FIFO of container %s: %w", d.ID, err)
	}
	return nil
}

// RemoveLocked removes the container's directory; its name is free again.
func (d *Dir) RemoveLocked() error {
	// The record goes last: until then the container can be found and deleted.
	for _, name := range [...]string{FifoFile, SpecFile, recordFile + temporary, recordFile} {
		if err := unix.Unlinkat(d.fd, name, 0); err != nil && err != unix.ENOENT {
			return fmt.Errorf("remove %s: %w", d.File(name), err)
		}
	}
	err := unix.Rmdir(d.Path)
	if err == unix.ENOTEMPTY || err == unix.EEXIST {
		err = os.RemoveAll(d.Path)
	}
	if err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove the directory %s: %w", d.Path, err)
	}
	return nil
}

// List gives the names of all containers, sorted. A root that is not there has none.
func (s Store) List() ([]string, error) {
	entries, err := os.ReadDir(s.Root)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the containers: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && CheckID(e.Name()) == nil {
			ids = append(ids, e.Name())
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// temporary ends the name of a file that is being written.
const temporary = ".new"

// replace writes a file of the directory beside and renames it, so that a
// reader sees the old or the new one. The root is gone after a reboot, so
// nothing is synced.
func (d *Dir) replace(name string, data []byte) error {
	if err := writeAt(d.fd, name+temporary, data, 0o600); err != nil {
		return err
	}
	if err := unix.Renameat(d.fd, name+temporary, d.fd, name); err != nil {
		return &os.PathError{Op: "rename", Path: d.File(name), Err: err}
	}
	return nil
}

// Replace writes a file so that whoever waits for it never reads half of it.
func Replace(path string, data []byte, mode uint32) error {
	dir, name := filepath.Split(path)
	// A name that two runtimes use at once must not be one file for both.
	tmp := dir + "." + name + "." + fmt.Sprint(os.Getpid())
	if err := writeAt(unix.AT_FDCWD, tmp, data, mode); err != nil {
		return err
	}
	if err := unix.Rename(tmp, path); err != nil {
		unix.Unlink(tmp)
		return &os.PathError{Op: "rename", Path: path, Err: err}
	}
	return nil
}

// writeAt does without os.File, which would start the poller: on the way of
// every start.
func writeAt(dir int, name string, data []byte, mode uint32) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if err != nil && err != unix.EINTR {
			return &os.PathError{Op: "write", Path: name, Err: err}
		}
		data = data[max(n, 0):]
	}
	return nil
}
