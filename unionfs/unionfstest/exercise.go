package unionfstest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// longest is the size up to which Exercise lets its file grow.
const longest = 256 << 10

// Exercise reads and writes one file in all the ways that there are, through several
// descriptors and mappings at once, and compares it with a copy in memory after each
// step. body is what the file has in it when it begins: on a union it may lie below.
func Exercise(t *testing.T, seed uint64, steps int, path string, body []byte) {
	t.Helper()
	x := &exercise{t: t, rng: rand.New(rand.NewPCG(seed, 4)), path: path, want: bytes.Clone(body)}
	defer x.closeAll()
	for step := range steps {
		what, err := x.step()
		if err != nil {
			t.Fatalf("seed %d, step %d, %s: %v", seed, step, what, err)
		}
		if err := x.compare(); err != nil {
			t.Fatalf("seed %d, step %d, after %s: %v", seed, step, what, err)
		}
	}
}

type exercise struct {
	t     *testing.T
	rng   *rand.Rand
	path  string
	want  []byte
	files []*os.File // open for reading and writing, or for reading
	write []bool     // whether so
}

func (x *exercise) closeAll() {
	for _, f := range x.files {
		f.Close()
	}
	x.files, x.write = nil, nil
}

// writer is a descriptor that can be written to.
func (x *exercise) writer() (*os.File, error) {
	for i, f := range x.files {
		if x.write[i] && x.rng.IntN(2) == 0 {
			return f, nil
		}
	}
	return x.open(os.O_RDWR)
}

func (x *exercise) open(flags int) (*os.File, error) {
	if len(x.files) > 5 {
		i := x.rng.IntN(len(x.files))
		if err := x.files[i].Close(); err != nil {
			return nil, err
		}
		x.files, x.write = append(x.files[:i], x.files[i+1:]...), append(x.write[:i], x.write[i+1:]...)
	}
	f, err := os.OpenFile(x.path, flags, 0)
	if err != nil {
		return nil, err
	}
	x.files, x.write = append(x.files, f), append(x.write, flags != os.O_RDONLY)
	return f, nil
}

// span is some bytes of the file, or behind its end.
func (x *exercise) span() (at, size int) {
	at = x.rng.IntN(longest - 1)
	if x.rng.IntN(3) > 0 && len(x.want) > 0 {
		at = x.rng.IntN(len(x.want))
	}
	return at, 1 + x.rng.IntN(min(longest-at, []int{16, 5000, 70_000}[x.rng.IntN(3)]))
}

func (x *exercise) grow(to int) {
	if to > len(x.want) {
		x.want = append(x.want, make([]byte, to-len(x.want))...)
	}
}

func (x *exercise) step() (string, error) {
	at, size := x.span()
	switch x.rng.IntN(12) {
	case 0:
		_, err := x.open(os.O_RDONLY)
		return "open to read", err
	case 1:
		x.closeAll()
		return "close all", nil
	case 2, 3, 4:
		return x.pwrite(at, size)
	case 5:
		return x.mapped(at, size)
	case 6:
		return x.truncate(at)
	case 7:
		return x.fallocate(at, size)
	case 8:
		return x.copyRange(at, size)
	case 9:
		return x.appended(min(size, longest-len(x.want)))
	}
	return x.read(at, size)
}

func (x *exercise) pwrite(at, size int) (string, error) {
	what := fmt.Sprintf("write %d bytes at %d", size, at)
	f, err := x.writer()
	if err != nil {
		return what, err
	}
	b := bytes.Repeat([]byte{byte(1 + x.rng.IntN(255))}, size)
	_, err = f.WriteAt(b, int64(at))
	x.grow(at + size)
	copy(x.want[at:], b)
	return what, err
}

func (x *exercise) appended(size int) (string, error) {
	what := fmt.Sprintf("append %d bytes", size)
	f, err := os.OpenFile(x.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return what, err
	}
	defer f.Close()
	b := bytes.Repeat([]byte{byte(1 + x.rng.IntN(255))}, size)
	_, err = f.Write(b)
	x.want = append(x.want, b...)
	return what, err
}

// mapped writes through a shared mapping, within the file.
func (x *exercise) mapped(at, size int) (string, error) {
	size = min(size, len(x.want)-at)
	what := fmt.Sprintf("write %d bytes at %d through a mapping", size, at)
	if size <= 0 {
		return what, nil
	}
	f, err := x.writer()
	if err != nil {
		return what, err
	}
	from := at &^ (os.Getpagesize() - 1)
	m, err := unix.Mmap(int(f.Fd()), int64(from), at+size-from, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return what, err
	}
	if !bytes.Equal(m, x.want[from:at+size]) {
		err = fmt.Errorf("the mapping shows something else")
	}
	value := byte(1 + x.rng.IntN(255))
	for i := at; i < at+size; i++ {
		m[i-from], x.want[i] = value, value
	}
	if err == nil && x.rng.IntN(2) == 0 {
		err = unix.Msync(m, unix.MS_SYNC)
	}
	if e := unix.Munmap(m); err == nil {
		err = e
	}
	return what, err
}

func (x *exercise) truncate(at int) (string, error) {
	what := fmt.Sprintf("truncate to %d", at)
	if x.rng.IntN(2) == 0 {
		if err := os.Truncate(x.path, int64(at)); err != nil {
			return what, err
		}
	} else {
		f, err := x.writer()
		if err == nil {
			err = f.Truncate(int64(at))
		}
		if err != nil {
			return what, err
		}
	}
	x.want = x.want[:min(at, len(x.want))]
	x.grow(at)
	return what, nil
}

func (x *exercise) fallocate(at, size int) (string, error) {
	f, err := x.writer()
	if err != nil {
		return "open to write", err
	}
	mode := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE}[x.rng.IntN(5)]
	what := fmt.Sprintf("fallocate %#x, %d bytes at %d", mode, size, at)
	err = unix.Fallocate(int(f.Fd()), mode, int64(at), int64(size))
	if err == unix.EOPNOTSUPP {
		return what, nil // tmpfs has no FALLOC_FL_ZERO_RANGE
	}
	if err != nil {
		return what, err
	}
	if mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
		x.grow(at + size)
	}
	if mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0 && at < len(x.want) {
		clear(x.want[at:min(at+size, len(x.want))])
	}
	return what, nil
}

// copyRange copies within the file, where the two do not overlap.
func (x *exercise) copyRange(at, size int) (string, error) {
	to := x.rng.IntN(longest - size)
	what := fmt.Sprintf("copy_file_range of %d bytes from %d to %d", size, at, to)
	if at < to+size && to < at+size {
		return what, nil
	}
	f, err := x.writer()
	if err != nil {
		return what, err
	}
	src, err := os.Open(x.path)
	if err != nil {
		return what, err
	}
	defer src.Close()
	for from, into := int64(at), int64(to); size > 0; {
		n, err := unix.CopyFileRange(int(src.Fd()), &from, int(f.Fd()), &into, size, 0)
		if err != nil || n == 0 {
			return what, err
		}
		x.grow(int(into))
		copy(x.want[int(into)-n:into], x.want[int(from)-n:from])
		size -= n
	}
	return what, nil
}

func (x *exercise) read(at, size int) (string, error) {
	what := fmt.Sprintf("read %d bytes at %d", size, at)
	f, err := x.open(os.O_RDONLY)
	if err != nil {
		return what, err
	}
	return what, x.sameAt(f, at, size)
}

func (x *exercise) sameAt(f *os.File, at, size int) error {
	b := make([]byte, size)
	n, _ := f.ReadAt(b, int64(at))
	want := x.want[min(at, len(x.want)):min(at+size, len(x.want))]
	if !bytes.Equal(b[:n], want) {
		for i := range min(n, len(want)) {
			if b[i] != want[i] {
				return fmt.Errorf("byte %d is %d, not %d", at+i, b[i], want[i])
			}
		}
		return fmt.Errorf("%d bytes at %d, not %d", n, at, len(want))
	}
	return nil
}

// compare looks at the file through each descriptor, and by its size.
func (x *exercise) compare() error {
	info, err := os.Stat(x.path)
	if err != nil {
		return err
	}
	if info.Size() != int64(len(x.want)) {
		return fmt.Errorf("the file has %d bytes, not %d", info.Size(), len(x.want))
	}
	for _, f := range x.files {
		at, size := x.span()
		if err := x.sameAt(f, at, size); err != nil {
			return fmt.Errorf("through one descriptor: %w", err)
		}
	}
	f, err := os.Open(x.path)
	if err != nil {
		return err
	}
	defer f.Close()
	return x.sameAt(f, 0, longest+1)
}
