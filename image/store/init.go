package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"vivarium/image"
	"vivarium/layer"
)

// initTargets is what an engine mounts something on in every container. Docker
// has the same in what it calls the init layer.
var initTargets = []layer.Target{
	{Path: "dev", Dir: true}, {Path: "dev/pts", Dir: true}, {Path: "dev/shm", Dir: true}, {Path: "dev/console"},
	{Path: "etc/hostname"}, {Path: "etc/hosts"}, {Path: "etc/resolv.conf"},
	{Path: "proc", Dir: true}, {Path: "sys", Dir: true},
}

func (s *Store) initRoot() string { return s.root + "/layers/init" }

func (s *Store) initDir(chain digest.Digest) string { return s.initRoot() + "/" + chain.Encoded() }

// IsInit tells whether a layer's tree is that of an init layer.
func IsInit(tree string) bool {
	return filepath.Base(filepath.Dir(filepath.Dir(tree))) == "init"
}

// FindInit gives the tree of the init layer above these layers (image.Layer.Dir,
// base first), or "" if there is none. known is false if it was never made.
func (s *Store) FindInit(trees []string) (tree string, known bool, err error) {
	chain, err := chainOf(trees)
	if err != nil {
		return "", false, err
	}
	dir := s.initDir(chain)
	tree = dir + "/" + layer.TreeName
	if unix.Access(tree, unix.F_OK) == nil {
		return tree, true, nil
	}
	// Without a tree it says that nothing was missing.
	return "", unix.Access(dir, unix.F_OK) == nil, nil
}

// InitLayer is as FindInit, and makes the init layer if it was never made. The
// caller keeps garbage collection away, as for Resolve. It costs one look where
// there is an init layer.
func (s *Store) InitLayer(ctx context.Context, trees []string) (string, error) {
	tree, known, err := s.FindInit(trees)
	if err != nil || known {
		return tree, err
	}
	if err := s.makeInit(ctx, trees); err != nil {
		return "", fmt.Errorf("make the init layer: %w", err)
	}
	tree, _, err = s.FindInit(trees)
	return tree, err
}

func (s *Store) makeInit(ctx context.Context, trees []string) error {
	chain, err := chainOf(trees)
	if err != nil {
		return err
	}
	if err := s.ensure(); err != nil {
		return err
	}
	hold, err := s.Hold(ctx)
	if err != nil {
		return err
	}
	defer hold()
	t, err := s.stageLocked()
	if err != nil {
		return err
	}
	defer t.Close()
	staged := t.newPath("init")
	if err := stageInit(staged, trees); err != nil {
		return err
	}
	// One that another process made meanwhile is the same. An empty directory, which
	// says that nothing was missing, is replaced by its like.
	err = os.Rename(staged, s.initDir(chain))
	if err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return syncDir(s.initRoot())
}

func stageInit(dir string, trees []string) error {
	tree := dir + "/" + layer.TreeName
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return err
	}
	// As the layers' directories: processes of mapped users pass through.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	f, err := os.Open(tree)
	if err != nil {
		return err
	}
	defer f.Close()
	lower := make([]string, 0, len(trees))
	for i := len(trees) - 1; i >= 0; i-- {
		lower = append(lower, trees[i])
	}
	made, err := layer.MakeTargets(f, lower, initTargets)
	if err != nil {
		return err
	}
	if !made {
		if err := os.Remove(tree); err != nil {
			return err
		}
	}
	return syncDir(dir)
}

// chainOf computes the chain ID of the top-most layer from where the layers are.
func chainOf(trees []string) (digest.Digest, error) {
	if len(trees) == 0 {
		return "", errors.New("the image has no layers")
	}
	var chain digest.Digest
	for _, tree := range trees {
		dir := filepath.Dir(tree)
		d := digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(dir))
		kind := filepath.Base(filepath.Dir(dir))
		switch {
		case !isSHA256(d) || kind != "sha256" && kind != "chain":
			return "", fmt.Errorf("%s is no layer's tree", tree)
		case kind == "chain":
			chain = d
		case chain == "":
			chain = d
		default:
			chain = image.ChainIDs([]digest.Digest{chain, d})[1]
		}
	}
	return chain, nil
}

// checkInit says what is wrong with an init layer: only empty files and
// directories are in one.
func checkInit(dir string) error {
	tree := dir + "/" + layer.TreeName
	if _, err := os.Lstat(tree); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return filepath.WalkDir(tree, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if !e.IsDir() && (!e.Type().IsRegular() || info.Size() > 0) {
			return fmt.Errorf("%s is no empty file", path)
		}
		return nil
	})
}
