package layer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// CopyIndex tells, of a tree that MergeCopy made, what is still as it was then.
//
// A file is as it was if its change time, which nobody can set (inode(7)), is not after
// the copy, and if the directory that it is in is the one that was copied to that place: to
// move a file changes its time, to move a directory does not change those of what is in it.
type CopyIndex struct {
	made unix.Timespec
	dirs map[string]uint64 // inode numbers of the directories, by path; "" is the root
}

// after tells whether a file was changed after the copy.
func (i *CopyIndex) after(st *unix.Stat_t) bool { return later(st.Ctim, i.made) }

func later(a, b unix.Timespec) bool { return a.Sec > b.Sec || a.Sec == b.Sec && a.Nsec > b.Nsec }

// copyMagic begins the file of an index.
const copyMagic = "viv copy 1"

// MergeCopy is Merge into a tree that is going to be changed. index, a new file on the file
// system of dst, gets what ReadCopyIndex needs to tell later what was changed. Nobody may
// change the tree before it returns.
func MergeCopy(ctx context.Context, dst *os.File, lower []string, index *os.File) error {
	w := bufio.NewWriter(index)
	// The time comes last and is found first: its place is kept.
	fmt.Fprintf(w, "%s %020d %09d\x00", copyMagic, 0, 0)
	err := merge(ctx, dst, lower, func(name string, fd int) error {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		_, err := fmt.Fprintf(w, "%d %s\x00", st.Ino, name)
		return err
	})
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return err
	}
	made, err := tick(index)
	if err == nil {
		_, err = index.WriteAt(fmt.Appendf(nil, "%s %020d %09d\x00", copyMagic, made.Sec, made.Nsec), 0)
	}
	if err != nil {
		return fmt.Errorf("write the index of a copy: %w", err)
	}
	return nil
}

// tick waits until the clock of the file system goes on, and gives the time before: what was
// changed until now is not later than that, and what will be changed is. The clock is that of
// the kernel's ticks, a few milliseconds.
func tick(f *os.File) (unix.Timespec, error) {
	var before, st unix.Stat_t
	fd := int(f.Fd())
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return before.Ctim, err
	}
	if err := unix.Fstat(fd, &before); err != nil {
		return before.Ctim, err
	}
	for {
		if err := unix.Fchmod(fd, 0o600); err != nil {
			return before.Ctim, err
		}
		if err := unix.Fstat(fd, &st); err != nil || later(st.Ctim, before.Ctim) {
			return before.Ctim, err
		}
		runtime.Gosched()
	}
}

// errCopyIndex is an index that is damaged.
var errCopyIndex = errors.New("the index of the copy is damaged")

// ReadCopyIndex reads what MergeCopy wrote.
func ReadCopyIndex(r io.Reader) (*CopyIndex, error) {
	br := bufio.NewReader(r)
	head, err := br.ReadString(0)
	if err != nil {
		return nil, errCopyIndex
	}
	rest, ok := strings.CutPrefix(strings.TrimSuffix(head, "\x00"), copyMagic+" ")
	sec, nsec, two := strings.Cut(rest, " ")
	i := &CopyIndex{dirs: map[string]uint64{}}
	var errS, errN error
	i.made.Sec, errS = strconv.ParseInt(sec, 10, 64)
	i.made.Nsec, errN = strconv.ParseInt(nsec, 10, 64)
	if !ok || !two || errS != nil || errN != nil || i.made.Sec == 0 || i.made.Nsec < 0 || i.made.Nsec >= 1e9 {
		return nil, errCopyIndex
	}
	for {
		line, err := br.ReadString(0)
		if err == io.EOF && line == "" {
			return i, nil
		}
		ino, name, ok := strings.Cut(strings.TrimSuffix(line, "\x00"), " ")
		n, perr := strconv.ParseUint(ino, 10, 64)
		if err != nil || !ok || perr != nil {
			return nil, errCopyIndex
		}
		i.dirs[name] = n
	}
}
