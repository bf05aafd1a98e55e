package build

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"vivarium/image/store"
)

// sums remembers digests of files of build contexts by what stat(2) says of them, as
// git's index does: a context of which one file was changed is not read again. The
// file is a cache: what cannot be read is made anew, and of two builds at the same
// time one's additions may be lost.
type sums struct {
	path string
	mu   sync.Mutex
	old  map[stamp][32]byte
	used map[stamp][32]byte
	more bool // used has what the file lacks
	load sync.Once
	now  int64
}

const (
	sumRecord = 5*8 + 32
	// maxSums bounds the file (72 MB); one that grew larger begins anew.
	maxSums = 1 << 20
	// settled is how old a change must be for its time to tell it from the next one:
	// clocks of file systems tick at most every ten milliseconds.
	settled = int64(100 * time.Millisecond)
)

func openSums(s *store.Store) *sums {
	return &sums{path: s.BuildDir() + "/sums", used: map[stamp][32]byte{}, now: time.Now().UnixNano()}
}

func (s *sums) read() {
	s.old = map[stamp][32]byte{}
	b, err := os.ReadFile(s.path)
	if err != nil || len(b)%sumRecord != 0 || len(b) > maxSums*sumRecord {
		return
	}
	for ; len(b) > 0; b = b[sumRecord:] {
		var st stamp
		le := binary.LittleEndian
		st.dev, st.ino, st.size = le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:])
		st.mtime, st.ctime = int64(le.Uint64(b[24:])), int64(le.Uint64(b[32:]))
		s.old[st] = [32]byte(b[40:sumRecord])
	}
}

func (s *sums) find(st stamp) ([32]byte, bool) {
	s.load.Do(s.read)
	s.mu.Lock()
	defer s.mu.Unlock()
	sum, ok := s.used[st]
	if !ok {
		if sum, ok = s.old[st]; ok {
			s.used[st] = sum
		}
	}
	return sum, ok
}

// add remembers the digest of a file that was not changed just now: another change in
// the same tick of the clock could not be seen.
func (s *sums) add(st stamp, sum [32]byte) {
	if !st.settledAt(s.now) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[st], s.more = sum, true
}

// save writes what was used and what others may use. A failure costs time only.
func (s *sums) save() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.more {
		return
	}
	for st, sum := range s.old {
		if _, ok := s.used[st]; !ok && len(s.used) < maxSums {
			s.used[st] = sum
		}
	}
	b := make([]byte, 0, len(s.used)*sumRecord)
	for st, sum := range s.used {
		le := binary.LittleEndian
		b = le.AppendUint64(b, st.dev)
		b = le.AppendUint64(b, st.ino)
		b = le.AppendUint64(b, st.size)
		b = le.AppendUint64(b, uint64(st.mtime))
		b = le.AppendUint64(b, uint64(st.ctime))
		b = append(b, sum[:]...)
	}
	_ = replaceCache(s.path, b)
}

// replaceCache writes a file that is a cache: whoever reads it finds the old one or the new one,
// and after a crash perhaps neither.
func replaceCache(name string, b []byte) error {
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// sumFile digests what an open file holds.
func sumFile(f io.Reader, buf []byte, sum *[32]byte) error {
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, buf); err != nil {
		return err
	}
	h.Sum(sum[:0])
	return nil
}
