package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// hostImage is the name of the built-in image: the machine's own root file
// system as the lower layer.
const hostImage = "host"

// hostSource shows "/" without what is mounted on it: overlay does not cross mounts.
func hostSource() *source {
	return &source{
		ID: hostImage,
		Config: ispec.ImageConfig{
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Cmd: []string{"sh"},
		},
		Lower: []string{"/"},
	}
}

// hideEngine puts whiteouts into a new container layer over the image host, in
// the place of the engine's own directories. They cannot be in a layer of their
// own: overlay takes no lower layer that is below another one.
func (e *Engine) hideEngine(upper string) error {
	hide, err := e.onRootFS()
	if err != nil {
		return fmt.Errorf("hide the engine's directories: %w", err)
	}
	for _, path := range hide {
		if err := whiteout(upper, path); err != nil {
			return fmt.Errorf("hide the engine's directories: %w", err)
		}
	}
	return nil
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

// whiteout hides path in the layer. The directories on the way are merged
// with the host's; their attributes are seen, so they are the host's.
func whiteout(layer, path string) error {
	at := ""
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for _, p := range parts[:len(parts)-1] {
		at += "/" + p
		if err := os.Mkdir(layer+at, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := likeHost(layer+at, at); err != nil {
			return err
		}
	}
	err := unix.Mknod(layer+path, unix.S_IFCHR, 0)
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
