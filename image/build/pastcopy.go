package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"vivarium/layer"
)

// pastCopy is what is known of the last time when the same COPY took the same directory
// of this machine: which layer came of it, and what each file was. So of a large
// context of which a little was changed, only that little is read and copied: other
// files are digested by what is known of them, and get a hard link to the earlier
// layer's, which saves the room, too. No two layers that share a file are ever parts of
// one image, because they stand on the same layers.
//
// It is kept in a file, a cache as sums is: one that cannot be read is as good as none.
type pastCopy struct {
	path  string
	key   digest.Digest // of the step that it was
	files map[string]*seenFile
}

// seenFile is a file that is no directory and has one name, as it was.
type seenFile struct {
	rel   string
	stamp stamp
	meta  string    // what the digest of the copy has of it, but for the content
	sum   *[32]byte // of the content; nil: it has none
}

const (
	pastVersion = "viv copies 1\n"
	// pastLeast is how many files are worth the file.
	pastLeast = 256
	// pastMost bounds how many such files are kept.
	pastMost = 32
)

// pastCopy finds what is known. It is nil for a copy that is not of one whole directory
// of this machine.
func (j *copying) pastCopy(parts []*part) *pastCopy {
	b := j.s.b
	if b.dry || b.o.NoCache || !b.o.Epoch.IsZero() || j.parents || len(parts) != 1 || parts[0].name != "" || !parts[0].o.local {
		return nil
	}
	var st unix.Stat_t
	if unix.Fstat(int(parts[0].o.root.Fd()), &st) != nil {
		return nil
	}
	h := newHasher("past copy")
	j.settings(h)
	h.add(string(j.s.chain), parts[0].want)
	h.number(st.Dev, st.Ino)
	p := &pastCopy{path: b.o.Store.CopiesDir() + "/" + h.sum().Encoded()}
	p.read()
	return p
}

func (p *pastCopy) read() {
	b, err := os.ReadFile(p.path)
	if err != nil || len(b) < sha256.Size {
		return
	}
	b, end := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if sum := sha256.Sum256(b); !bytes.Equal(sum[:], end) {
		return
	}
	key, files, err := decodePast(b)
	if err != nil {
		return
	}
	p.key, p.files = key, files
}

// find gives what is known of a file that is still the same; else nil.
func (p *pastCopy) find(rel string, st stamp) *seenFile {
	if p == nil {
		return nil
	}
	if f := p.files[rel]; f != nil && f.stamp == st {
		return f
	}
	return nil
}

// earlier opens the layer of the last time, if it is there, and keeps it.
func (b *builder) earlier(ctx context.Context, p *pastCopy) (*layer.Earlier, func()) {
	none := func() {}
	if p == nil || p.key == "" {
		return nil, none
	}
	_, tree, ok := b.t.FindStep(ctx, p.key)
	if !ok {
		return nil, none
	}
	f, err := os.Open(tree)
	if err != nil {
		return nil, none
	}
	same := func(e *layer.WalkEntry) bool { return p.find(e.Rel, stampOf(&e.Stat)) != nil }
	return &layer.Earlier{Tree: f, Same: same}, func() { f.Close() }
}

// remember has what was copied written down at the end of the build.
func (b *builder) remember(p *pastCopy, key digest.Digest, sel *selection) {
	if p == nil || len(sel.seen) < pastLeast {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.copies = append(b.copies, func() {
		if err := p.write(encodePast(key, sel.seen)); err == nil {
			trimPast(filepath.Dir(p.path))
		}
	})
}

func (p *pastCopy) write(b []byte) error {
	sum := sha256.Sum256(b)
	return replaceCache(p.path, append(b, sum[:]...))
}

// trimPast removes the oldest files of too many.
func trimPast(dir string) {
	list, err := os.ReadDir(dir)
	if err != nil || len(list) <= pastMost {
		return
	}
	age := func(e os.DirEntry) int64 {
		if info, err := e.Info(); err == nil {
			return info.ModTime().UnixNano()
		}
		return 0
	}
	slices.SortFunc(list, func(a, b os.DirEntry) int { return int(min(max(age(a)-age(b), -1), 1)) })
	for _, e := range list[:len(list)-pastMost] {
		os.Remove(filepath.Join(dir, e.Name()))
	}
}

// encodePast writes version, key, and each file: length of its path and of what the
// digest has of it, both, five numbers of its stamp, and its sum after a byte that says
// whether it has one.
func encodePast(key digest.Digest, files []seenFile) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, len(files)*200+200)
	b = append(b, pastVersion...)
	text := func(s string) {
		b = le.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	text(string(key))
	for i := range files {
		f := &files[i]
		text(f.rel)
		text(f.meta)
		for _, n := range []uint64{f.stamp.dev, f.stamp.ino, f.stamp.size, uint64(f.stamp.mtime), uint64(f.stamp.ctime)} {
			b = le.AppendUint64(b, n)
		}
		if f.sum == nil {
			b = append(b, 0)
			continue
		}
		b = append(append(b, 1), f.sum[:]...)
	}
	return b
}

var errPast = errors.New("the record of a copy makes no sense")

func decodePast(b []byte) (key digest.Digest, files map[string]*seenFile, err error) {
	b, ok := bytes.CutPrefix(b, []byte(pastVersion))
	if !ok {
		return "", nil, errPast
	}
	le := binary.LittleEndian
	take := func(n int) []byte {
		if err != nil || n > len(b) {
			err = errPast
			return make([]byte, min(n, 40))
		}
		out := b[:n]
		b = b[n:]
		return out
	}
	text := func() string {
		n := le.Uint32(take(4))
		if int64(n) > int64(len(b)) {
			err = errPast
			return ""
		}
		return string(take(int(n)))
	}
	if key, err = digest.Parse(text()); err != nil {
		return "", nil, fmt.Errorf("%w: %w", errPast, err)
	}
	files = map[string]*seenFile{}
	for len(b) > 0 && err == nil {
		f := &seenFile{rel: text(), meta: text()}
		s := take(40)
		f.stamp = stamp{le.Uint64(s), le.Uint64(s[8:]), le.Uint64(s[16:]), int64(le.Uint64(s[24:])), int64(le.Uint64(s[32:]))}
		if take(1)[0] == 1 {
			sum := [32]byte(take(32))
			f.sum = &sum
		}
		files[f.rel] = f
	}
	return key, files, err
}
