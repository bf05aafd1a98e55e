package store

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"vivarium/layer"
)

// journalName is the file of a staging directory that lists the steps of a build that
// are whole there. What it names is not synchronized: that would make every step wait
// for the disk. So it is good as long as the machine runs: a process that is killed
// leaves all that it has written, a machine that loses its power does not.
const journalName = "steps"

// journaled is one line of the journal.
type journaled struct {
	Boot string        `json:"boot"` // the kernel's boot ID
	Key  digest.Digest `json:"key"`
	Step Step          `json:"step"`
	Tree string        `json:"tree,omitempty"` // names in the staging directory
	Blob string        `json:"blob,omitempty"`
}

// NoteStep writes down that a step is done, and where its sealed layer is. If this
// process is killed, the next change of the store puts the step in place.
func (t *Tx) NoteStep(st Step) error {
	st.Version = stepVersion
	j := journaled{Boot: bootID(), Key: st.Key, Step: st}
	t.mu.Lock()
	defer t.mu.Unlock()
	if dir, ok := t.sealed[st.DiffID]; ok {
		j.Tree = filepath.Base(dir)
	}
	if b, ok := t.blobs[st.Blob.Digest]; ok {
		j.Blob = filepath.Base(b.path)
	}
	line, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("note a build step: %w", err)
	}
	f, err := os.OpenFile(t.dir+"/"+journalName, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("note a build step: %w", err)
	}
	defer f.Close()
	if _, err := f.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("note a build step: %w", err)
	}
	return nil
}

// bootID is random(4)'s ID of this boot; "" if it cannot be told.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id") // its size is 0 to stat(2)
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

// removeStaging removes a staging directory. Its journal goes first: what it names must
// be whole as long as it is there.
func removeStaging(dir string) error {
	if err := os.Remove(dir + "/" + journalName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}

// adoptLocked makes changes of this process of those directories of dead ones that have
// finished steps, and returns the others. The store is locked, so that nobody else does.
func (s *Store) adoptLocked(dead []string) (adopted []*Tx, rest []string) {
	for _, dir := range dead {
		t := s.adopt(dir)
		if t == nil {
			rest = append(rest, dir)
			continue
		}
		adopted = append(adopted, t)
	}
	return adopted, rest
}

func hasJournal(dir string) bool {
	_, err := os.Lstat(dir + "/" + journalName)
	return err == nil
}

func (s *Store) adopt(dir string) *Tx {
	if !hasJournal(dir) {
		return nil
	}
	lease, err := os.OpenFile(dir+"/"+leaseName, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return nil
	}
	if flock(int(lease.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		lease.Close()
		return nil
	}
	return newTx(s, dir, lease)
}

// keepJournaled puts the steps of the journal into the store. A step that cannot be kept
// costs time and nothing else.
func (t *Tx) keepJournaled(ctx context.Context) error {
	f, err := os.Open(t.dir + "/" + journalName)
	if err != nil {
		return err
	}
	defer f.Close()
	var steps []Step
	boot := bootID()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxSmall)
	for lines.Scan() {
		var j journaled
		// The last line may have been cut off.
		if json.Unmarshal(lines.Bytes(), &j) != nil || boot == "" || j.Boot != boot {
			continue
		}
		if st, ok := t.takeUp(ctx, j); ok {
			steps = append(steps, st)
		}
	}
	if len(steps) == 0 {
		return nil
	}
	return t.Publish(ctx, steps)
}

// takeUp stages again what a line of the journal names. What is not there any more was
// put in place before the process died, or is of no use.
func (t *Tx) takeUp(ctx context.Context, j journaled) (Step, bool) {
	st := j.Step
	st.Key = j.Key
	if st.Version != stepVersion || st.Check() != nil {
		return st, false
	}
	if st.Alias != "" {
		return st, true
	}
	tree, staged := t.dir+"/"+filepath.Base(j.Tree), false
	if rec, err := layer.ReadRecord(tree); j.Tree != "" && err == nil && rec.DiffID == st.DiffID {
		t.sealed[st.DiffID], staged = tree, true
	}
	blob := t.dir + "/" + filepath.Base(j.Blob)
	if info, err := os.Lstat(blob); j.Blob != "" && err == nil && info.Mode().IsRegular() && info.Size() == st.Blob.Size {
		t.blobs[st.Blob.Digest] = stagedBlob{blob, st.Blob.Size}
	}
	h, err := t.Keep(ctx, st.Blob.Digest, st.Blob.Size, st.DiffID, st.DiffID)
	_, packed := t.blobs[st.Blob.Digest]
	return st, err == nil && (h.Blob || packed) && (h.Unpacked || staged)
}
