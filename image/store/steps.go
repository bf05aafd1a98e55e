package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/layer"
)

// Step is the record of one step of a build: what it made, by the key of all that
// went into it. The layer and its blob stay as long as the record does.
type Step struct {
	Key     digest.Digest      `json:"-"`
	Version int                `json:"version"`
	DiffID  digest.Digest      `json:"diffID"`
	Blob    ocispec.Descriptor `json:"blob"`
	Size    int64              `json:"size"`
	Created time.Time          `json:"created"` // as the image's history says
	Name    string             `json:"name"`    // the instruction, for people
	// Alias is the key of the record that this one stands for, and then all else is empty.
	Alias digest.Digest `json:"alias,omitempty"`
	Used  time.Time     `json:"-"` // last use
}

const stepVersion = 1

// BuildDir is where builds keep what only speeds them up.
func (s *Store) BuildDir() string { return s.root + "/build" }

// CopiesDir is where builds keep what they know of files that they copied; each refers
// to a step.
func (s *Store) CopiesDir() string { return s.BuildDir() + "/copies" }

func (s *Store) stepsDir() string { return s.BuildDir() + "/steps" }

func (s *Store) stepPath(key digest.Digest) string { return s.stepsDir() + "/" + key.Encoded() }

// FindStep gives what the step with this key made, and the directory of the layer,
// and keeps both until t is closed. ok is false if there is nothing of use.
func (t *Tx) FindStep(ctx context.Context, key digest.Digest) (st Step, tree string, ok bool) {
	st, err := t.s.readStep(key)
	if err != nil || st.Alias != "" {
		return st, "", false
	}
	h, err := t.Keep(ctx, st.Blob.Digest, st.Blob.Size, st.DiffID, st.DiffID)
	if err != nil || !h.Blob || !h.Unpacked {
		return st, "", false
	}
	now := time.Now()
	// Only the order of pruning depends on it.
	_ = os.Chtimes(t.s.stepPath(key), now, now)
	return st, t.s.sharedLayerDir(st.DiffID) + "/" + layer.TreeName, true
}

// FindAlias gives the key that another key stands for, or "".
func (t *Tx) FindAlias(key digest.Digest) digest.Digest {
	st, err := t.s.readStep(key)
	if err != nil || !isSHA256(st.Alias) {
		return ""
	}
	return st.Alias
}

func (s *Store) readStep(key digest.Digest) (Step, error) {
	st := Step{Key: key}
	b, err := readFile(s.stepPath(key), maxSmall)
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(b, &st); err != nil {
		return st, fmt.Errorf("decode the record of a build step: %w", err)
	}
	if st.Version != stepVersion {
		return st, errStep
	}
	return st, st.Check()
}

var errStep = errors.New("the record of a build step makes no sense")

// Check tells whether a record that came from outside makes sense.
func (st *Step) Check() error {
	alias := isSHA256(st.Alias)
	layer := st.Alias == "" && isSHA256(st.DiffID) && isSHA256(st.Blob.Digest) && st.Blob.Size >= 0
	if !isSHA256(st.Key) || !alias && !layer {
		return errStep
	}
	return nil
}

// PutStep stages the layer of a step that was made elsewhere, from its blob, and gives
// its tree.
func (t *Tx) PutStep(ctx context.Context, r io.Reader, st Step) (tree string, err error) {
	if _, _, err := t.PutLayer(ctx, r, LayerSpec{Blob: st.Blob, DiffID: st.DiffID}); err != nil {
		return "", err
	}
	t.finishing.Lock() // the same layer may come twice
	defer t.finishing.Unlock()
	t.mu.Lock()
	dir, l := t.sealed[st.DiffID], t.layers[st.DiffID]
	t.mu.Unlock()
	if dir != "" {
		return dir + "/" + layer.TreeName, nil
	}
	if l == nil {
		return "", fmt.Errorf("unpack layer %s: it is gone", st.DiffID)
	}
	if l.un.NeedsParents() {
		return "", fmt.Errorf("unpack layer %s: it takes something from the layers below it, which no layer of a build does", st.DiffID)
	}
	if err := l.un.Finish(ctx, nil); err != nil {
		return "", err
	}
	if err := layer.WriteRecord(l.dir, newRecord(st.DiffID, l.un)); err != nil {
		return "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sealed[st.DiffID] = l.dir
	delete(t.layers, st.DiffID)
	return l.dir + "/" + layer.TreeName, l.fs.Close()
}

// PutSteps writes records of steps whose layers are in the store. A record that is
// lost costs time and nothing else, so none is synchronized.
func (t *Tx) PutSteps(ctx context.Context, steps []Step) error {
	if len(steps) == 0 {
		return nil
	}
	hold, err := t.s.Hold(ctx)
	if err != nil {
		return err
	}
	defer hold()
	return t.putStepsLocked(steps)
}

// putStepsLocked writes the records. The store is held.
func (t *Tx) putStepsLocked(steps []Step) error {
	if err := os.MkdirAll(t.s.stepsDir(), 0o700); err != nil {
		return fmt.Errorf("record a build step: %w", err)
	}
	for _, st := range steps {
		st.Version = stepVersion
		b, err := json.Marshal(st)
		if err != nil {
			return fmt.Errorf("record a build step: %w", err)
		}
		tmp := t.newPath("step")
		if err := os.WriteFile(tmp, b, 0o600); err != nil {
			return fmt.Errorf("record a build step: %w", err)
		}
		if err := os.Rename(tmp, t.s.stepPath(st.Key)); err != nil {
			return fmt.Errorf("record a build step: %w", err)
		}
	}
	return nil
}

// Steps lists the records, longest unused first. Damaged ones are left out.
func (s *Store) Steps() ([]Step, error) {
	list, err := listDir(s.stepsDir(), "build steps")
	if err != nil {
		return nil, err
	}
	var out []Step
	for _, e := range list {
		key := digest.NewDigestFromEncoded(digest.SHA256, e.Name())
		if !isSHA256(key) {
			continue
		}
		st, err := s.readStep(key)
		info, ierr := e.Info()
		if err != nil || ierr != nil {
			continue
		}
		st.Used = info.ModTime()
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b Step) int {
		// A file's time is no finer than the kernel's tick.
		if c := cmp.Or(a.Used.Compare(b.Used), a.Created.Compare(b.Created)); c != 0 {
			return c
		}
		return strings.Compare(string(a.Key), string(b.Key))
	})
	return out, nil
}

// PruneSteps removes the records that drop chooses, and damaged ones, and then what
// nothing else needs. It returns what was dropped.
func (s *Store) PruneSteps(ctx context.Context, drop func(Step) bool) ([]Step, Collected, error) {
	if err := s.sweep(ctx); err != nil { // steps of killed builds count too
		return nil, Collected{}, err
	}
	steps, err := s.Steps()
	if err != nil {
		return nil, Collected{}, err
	}
	keep := map[string]bool{}
	var gone []Step
	for _, st := range steps {
		if drop(st) {
			gone = append(gone, st)
		} else {
			keep[st.Key.Encoded()] = true
		}
	}
	list, err := listDir(s.stepsDir(), "build steps")
	if err != nil {
		return nil, Collected{}, err
	}
	for _, e := range list {
		if keep[e.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.stepsDir(), e.Name())); err != nil {
			return nil, Collected{}, fmt.Errorf("prune build steps: %w", err)
		}
	}
	if len(gone) > 0 { // perhaps the steps that these refer to
		if err := os.RemoveAll(s.CopiesDir()); err != nil {
			return nil, Collected{}, fmt.Errorf("prune build steps: %w", err)
		}
	}
	c, err := s.GC(ctx)
	return gone, c, err
}

// markSteps adds what the records of steps keep.
func (s *Store) markSteps(live map[string]bool) error {
	steps, err := s.Steps()
	if err != nil {
		return err
	}
	for _, st := range steps {
		if st.Alias != "" {
			continue
		}
		live[string(st.Blob.Digest)] = true
		live[s.sharedLayerDir(st.DiffID)] = true
	}
	return nil
}
