package store

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// reserveSize is enough for an index of some hundred images and for the directory
// that garbage is moved to.
const reserveSize = 256 << 10

// reservePath is a file of no use but that it can be deleted: on a full disk, to
// remove an image the index has to be written first.
func (s *Store) reservePath() string { return s.root + "/reserve" }

// keepReserve makes the reserve. Where there is no room for it, nothing is made and
// nothing fails.
func (s *Store) keepReserve() {
	var st unix.Stat_t
	if unix.Stat(s.reservePath(), &st) == nil && st.Size >= reserveSize {
		return
	}
	f, err := os.OpenFile(s.reservePath(), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	if unix.Fallocate(int(f.Fd()), 0, 0, reserveSize) != nil { // a file system that cannot: a hole would reserve nothing
		os.Remove(s.reservePath())
	}
}

// withReserve does what frees room in the end, and if there is no room for it, gives
// it the reserve and does it again.
func (s *Store) withReserve(f func() error) error {
	err := f()
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) || os.Remove(s.reservePath()) != nil {
		return err
	}
	return f()
}
