package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// The images that are pulled.
const (
	pullLayers  = 5
	pullBytes   = 336_000_000
	smallLayers = 60
	smallBytes  = 30_000_000
	registryAt  = "127.0.0.1:5000"
)

// pull times a pull with unpacking from Debian's docker-registry on this machine, of an
// image of so many layers, which have size bytes together.
func pull(name string, layers int, size int64) func(b *bench) result {
	return func(b *bench) result {
		ref, err := b.publish(name, layers, size)
		if err != nil {
			return result{note: err.Error()}
		}
		var sides []side
		for _, e := range b.engines() {
			s := side{name: e.name, absent: e.absent}
			if s.absent == "" {
				s.run = command(e.command(append(e.pull, ref)...)...)
				// What was written must not be paid for by the next side.
				s.before = syncDisk
				s.after = command(e.command("rmi", ref)...)
			}
			sides = append(sides, s)
		}
		return b.timed(min(b.rounds, 5), sides...)
	}
}

// bigLayer is the size of the layer whose pull is looked at for its memory.
const bigLayer = 1 << 30

// pullMemory reads how much memory the program that pulls a big layer used at the most.
// Docker's pulls are its daemon's, which no such figure is of.
func pullMemory(b *bench) result {
	ref, err := b.publishBig()
	if err != nil {
		return result{note: err.Error()}
	}
	var res result
	for _, e := range b.engines() {
		absent := e.absent
		if e == b.docker {
			absent = "its daemon pulls"
		}
		res.figures = append(res.figures, b.sampled(e.name, absent, func() (float64, error) {
			megabytes, err := peak(e.command(append(e.pull, ref)...)...)
			return megabytes, errors.Join(err, command(e.command("rmi", ref)...)(), syncDisk())
		}))
	}
	return res
}

// registry starts a registry, the first time that one is needed.
func (b *bench) registry() error {
	dir := filepath.Join(b.dir, "registry")
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s}\n", dir, registryAt)
	path := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		return err
	}
	return b.daemon("docker-registry", registryAt, "docker-registry", "serve", path)
}

// publish pushes an image of this machine's own files to the registry.
func (b *bench) publish(name string, layers int, size int64) (string, error) {
	source := walkFiles("/usr")
	defer source.close()
	var tars []string
	for i := range layers {
		file := filepath.Join(b.dir, fmt.Sprintf("%s-%d.tar", name, i))
		if err := source.pack(file, size/int64(layers)); err != nil {
			return "", fmt.Errorf("make a layer: %w", err)
		}
		tars = append(tars, file)
	}
	return b.push(name, tars)
}

// publishBig pushes an image with one big layer, of bytes that cannot be packed.
func (b *bench) publishBig() (string, error) {
	path := filepath.Join(b.dir, "big.tar")
	file, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	w := tar.NewWriter(file)
	random := rand.NewChaCha8([32]byte{})
	for i := range 4 {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("big-%d", i), Mode: 0o644, Size: bigLayer / 4}); err != nil {
			return "", err
		}
		if _, err := io.CopyN(w, random, bigLayer/4); err != nil {
			return "", err
		}
	}
	if err := errors.Join(w.Close(), file.Close()); err != nil {
		return "", err
	}
	return b.push("big", []string{path})
}

// push makes an image of tars, and pushes it.
func (b *bench) push(repo string, tars []string) (string, error) {
	if err := b.registry(); err != nil {
		return "", err
	}
	img := v1.Image(empty.Image)
	for _, file := range tars {
		layer, err := tarball.LayerFromFile(file)
		if err != nil {
			return "", fmt.Errorf("make a layer: %w", err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return "", fmt.Errorf("make the image: %w", err)
		}
	}
	ref := registryAt + "/bench/" + repo + ":v1"
	tag, err := name.NewTag(ref, name.Insecure)
	if err != nil {
		return "", err
	}
	if err := remote.Write(tag, img); err != nil {
		return "", fmt.Errorf("push the image: %w", err)
	}
	for _, file := range tars {
		err = errors.Join(err, os.Remove(file))
	}
	return ref, err
}

// files hands out the regular files below some directories, one after the other.
type files struct {
	next chan string
	done chan struct{}
}

func walkFiles(roots ...string) *files {
	f := &files{next: make(chan string), done: make(chan struct{})}
	go func() {
		defer close(f.next)
		for _, root := range roots {
			// A directory that cannot be read is no loss: any files will do.
			_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() {
					return nil
				}
				select {
				case f.next <- path:
					return nil
				case <-f.done:
					return fs.SkipAll
				}
			})
		}
	}()
	return f
}

func (f *files) close() { close(f.done) }

// pack writes files into a tar until it holds size bytes of content.
func (f *files) pack(path string, size int64) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	w := tar.NewWriter(out)
	for packed := int64(0); packed < size; {
		from, ok := <-f.next
		if !ok {
			return fmt.Errorf("this machine has too few files: %d bytes of %d", packed, size)
		}
		n, err := packFile(w, from, size-packed)
		if err != nil {
			return err
		}
		packed += n
	}
	return errors.Join(w.Close(), out.Close())
}

// packFile packs at most limit bytes of a file.
func packFile(w *tar.Writer, path string, limit int64) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	size := min(info.Size(), limit)
	header := &tar.Header{
		Typeflag: tar.TypeReg, Name: strings.TrimPrefix(path, "/"), Mode: int64(info.Mode().Perm()), Size: size,
		ModTime: info.ModTime(),
	}
	if err := w.WriteHeader(header); err != nil {
		return 0, fmt.Errorf("pack %s: %w", path, err)
	}
	if _, err := io.CopyN(w, file, size); err != nil {
		return 0, fmt.Errorf("pack %s: %w", path, err)
	}
	return size, nil
}
