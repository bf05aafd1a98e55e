package engine

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// hostImage is the name of the built-in image: the machine's own root file
// system as the lower layer.
const hostImage = "host"

// hostSource shows "/" without what is mounted on it, for overlay does not cross
// mounts, and without the engine's own directories.
func (e *Engine) hostSource(dry bool) (*source, error) {
	mask, err := e.hostMask(dry)
	if err != nil {
		return nil, fmt.Errorf("hide the engine's directories from the image %s: %w", hostImage, err)
	}
	src := &source{
		ID: hostImage,
		Config: ispec.ImageConfig{
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Cmd: []string{"sh"},
		},
		Lower: []string{"/"},
	}
	if mask != "" {
		src.Lower = []string{mask, "/"}
	}
	return src, nil
}

// hostMask gives a layer that hides the engine's directories: a whiteout in the
// place of each, made once. "": none of them is on the root file system.
func (e *Engine) hostMask(dry bool) (string, error) {
	sum := fnv.New32a()
	sum.Write([]byte(e.Root + "\x00" + e.State))
	dir := fmt.Sprintf("%s/hostmask/%08x", e.Root, sum.Sum32())
	if unix.Access(dir, unix.F_OK) == nil {
		return dir, nil
	}
	if unix.Access(dir+".none", unix.F_OK) == nil {
		return "", nil
	}
	hide, err := e.onRootFS()
	if err != nil {
		return "", err
	}
	if dry {
		if len(hide) == 0 {
			dir = ""
		}
		return dir, nil
	}
	if err := os.MkdirAll(e.Root+"/hostmask", 0o711); err != nil {
		return "", err
	}
	if len(hide) == 0 {
		return "", os.WriteFile(dir+".none", nil, 0o600)
	}
	return dir, e.makeHostMask(dir, hide)
}

// onRootFS gives those of the engine's directories that are seen below "/".
func (e *Engine) onRootFS() ([]string, error) {
	var root unix.Stat_t
	if err := unix.Stat("/", &root); err != nil {
		return nil, err
	}
	var list []string
	for _, dir := range []string{e.Root, e.State} {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return nil, err
		}
		var st unix.Stat_t
		if err := unix.Stat(real, &st); err != nil {
			return nil, err
		}
		if st.Dev == root.Dev && real != "/" {
			list = append(list, real)
		}
	}
	return list, nil
}

func (e *Engine) makeHostMask(dir string, hide []string) error {
	tmp, err := os.MkdirTemp(e.Root+"/tmp", "v-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := likeHost(tmp, "/"); err != nil {
		return err
	}
	for _, path := range hide {
		if err := whiteout(tmp, path); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// whiteout hides path in the layer tmp. The directories on the way are merged
// with the host's; their attributes are seen, so they are the host's.
func whiteout(tmp, path string) error {
	at := ""
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for _, p := range parts[:len(parts)-1] {
		at += "/" + p
		if err := os.Mkdir(tmp+at, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := likeHost(tmp+at, at); err != nil {
			return err
		}
	}
	err := unix.Mknod(tmp+path, unix.S_IFCHR, 0)
	if errors.Is(err, unix.EEXIST) {
		return nil // one of the two is below the other
	}
	return err
}

func likeHost(dir, host string) error {
	var st unix.Stat_t
	if err := unix.Stat(host, &st); err != nil {
		return err
	}
	if err := os.Chown(dir, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Chmod(dir, st.Mode&0o7777)
}
