package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// union is a file system that shows directories as one.
type union struct {
	name   string
	absent string
	// mount shows upper above lower on point. A nil mount is a plain directory with a copy of
	// lower.
	mount func(lower, upper, work, point string) error
}

// unions are all sides of a row of unions, Vivarium first.
func (b *bench) unions() []union {
	viv := func(name, udba string) union {
		return union{name: name, absent: missing(b.program("viv-union")), mount: func(lower, upper, _, point string) error {
			return command(b.program("viv-union"), "none", point, "-o", "dirs="+upper+":"+lower+",udba="+udba)()
		}}
	}
	return []union{
		viv("viv", "none"), // as its peers: nobody else changes the directories
		viv("viv, udba=reval", "reval"),
		{name: "fuse-overlayfs", absent: missing("fuse-overlayfs"), mount: func(lower, upper, work, point string) error {
			return command("fuse-overlayfs", "-o", "lowerdir="+lower+",upperdir="+upper+",workdir="+work, point)()
		}},
		{name: "unionfs-fuse", absent: missing("unionfs"), mount: func(lower, upper, _, point string) error {
			return command("unionfs", "-o", "cow,allow_other,default_permissions", upper+"=RW:"+lower+"=RO", point)()
		}},
		{name: "bare"},
	}
}

// program is the path of one of Vivarium's own.
func (b *bench) program(name string) string { return filepath.Join(b.bin, name) }

func missing(program string) string {
	if _, err := exec.LookPath(program); err != nil {
		return err.Error()
	}
	return ""
}

// unionRow is what is done in a union that was mounted for it.
type unionRow struct {
	lower func(b *bench) (string, error)
	// before is done in the union first, outside the measured time.
	before func(point string) error
	run    func(point string) error
	rounds int
	// disk puts the branches on the disk, and not into memory.
	disk bool
}

// place is where the branches of a row are: in memory, so that no figure has the disk's
// time, or on the disk.
func (b *bench) place(disk bool) (string, error) {
	if disk {
		return filepath.Join(b.dir, "disk"), nil
	}
	dir := filepath.Join(b.dir, "memory")
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	return dir, unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755")
}

func (w unionRow) measure(b *bench) result {
	lower, err := w.lower(b)
	if err != nil {
		return result{note: err.Error()}
	}
	place, err := b.place(w.disk)
	if err != nil {
		return result{note: err.Error()}
	}
	var sides []side
	for _, u := range b.unions() {
		sides = append(sides, u.side(filepath.Join(place, "union"), lower, w))
	}
	return b.timed(min(b.rounds, w.rounds), sides...)
}

// side mounts the union for each round.
func (u union) side(dir, lower string, w unionRow) side {
	point := filepath.Join(dir, "mnt")
	return side{
		name: u.name, absent: u.absent,
		before: func() error {
			for _, name := range []string{"upper", "work", "mnt"} {
				if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
					return err
				}
			}
			var err error
			if u.mount == nil {
				err = command("cp", "-a", "--reflink=auto", lower+"/.", point)()
			} else {
				err = u.mount(lower, filepath.Join(dir, "upper"), filepath.Join(dir, "work"), point)
			}
			if err == nil && w.before != nil {
				err = w.before(point)
			}
			return err
		},
		run: func() error { return w.run(point) },
		after: func() error {
			var err error
			if u.mount != nil {
				err = unmount(point)
			}
			return errors.Join(err, os.RemoveAll(dir))
		},
	}
}

// unmount waits a little for a file that the kernel has yet to close.
func unmount(point string) error {
	for range 200 {
		if err := unix.Unmount(point, 0); err != unix.EBUSY {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.Join(unix.EBUSY, unix.Unmount(point, unix.MNT_DETACH))
}

const (
	smallFiles = 2000 // in one directory
	largeFile  = 512 << 20
	largeName  = "large"
)

func smallName(dir string, i int) string { return filepath.Join(dir, fmt.Sprintf("f%04d", i)) }

func createSmall(point string) error {
	body := []byte(strings.Repeat("x", 1000))
	for i := range smallFiles {
		if err := os.WriteFile(smallName(point, i), body, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func eachSmall(do func(name string) error) func(point string) error {
	return func(point string) error {
		for i := range smallFiles {
			if err := do(smallName(point, i)); err != nil {
				return err
			}
		}
		return nil
	}
}

func statFile(name string) error { _, err := os.Stat(name); return err }
func readFile(name string) error { _, err := os.ReadFile(name); return err }

func (b *bench) emptyLower() (string, error) {
	return b.lowerDir("empty", func(string) error { return nil })
}

func (b *bench) smallLower() (string, error) { return b.lowerDir("small", createSmall) }

// lowerDir makes a directory once.
func (b *bench) lowerDir(name string, fill func(dir string) error) (string, error) {
	place, err := b.place(name == largeName)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(place, "lower", name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return dir, fill(dir)
}

// sources is a tree that people have: Go's library, a few thousand files.
func sources() (string, error) {
	root, err := output("go", "env", "GOROOT")
	return filepath.Join(root, "src"), err
}

func (b *bench) sourceTar() (string, error) {
	tar := filepath.Join(b.dir, "src.tar")
	if _, err := os.Stat(tar); err == nil {
		return tar, nil
	}
	src, err := sources()
	if err != nil {
		return "", err
	}
	return tar, command("tar", "-C", src, "--exclude=./cmd", "--exclude=testdata", "-cf", tar, ".")()
}

func unpack(b *bench) result {
	tar, err := b.sourceTar()
	if err != nil {
		return result{note: err.Error()}
	}
	return unionRow{lower: (*bench).emptyLower, rounds: 7, run: func(point string) error {
		return command("tar", "-C", point, "-xf", tar)()
	}}.measure(b)
}

// repository is the tree as a git repository.
func (b *bench) repository() (string, error) {
	return b.lowerDir("git", func(dir string) error {
		tar, err := b.sourceTar()
		if err != nil {
			return err
		}
		git := func(args ...string) func() error { return command(append([]string{"git", "-C", dir}, args...)...) }
		for _, do := range []func() error{
			command("tar", "-C", dir, "-xf", tar), git("init", "-q"), git("add", "-A"),
			git("-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "-qm", "all"),
		} {
			if err := do(); err != nil {
				return err
			}
		}
		return nil
	})
}

func gitStatus(point string) error {
	return command("git", "-c", "safe.directory=*", "-C", point, "status", "--short")()
}

// module is a Go module of a hundred packages, with a build cache that has the library.
func (b *bench) module() (string, error) {
	const packages = 100
	return b.lowerDir("module", func(dir string) error {
		var mains strings.Builder
		mains.WriteString("package main\n\nimport (\n")
		for i := range packages {
			name := fmt.Sprintf("p%03d", i)
			if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
				return err
			}
			for part := range 5 {
				text := fmt.Sprintf("package %s\n\nimport \"fmt\"\n\n// F%d says where it is.\nfunc F%d() string { return fmt.Sprint(%d) }\n", name, part, part, i)
				if err := os.WriteFile(filepath.Join(dir, name, fmt.Sprintf("f%d.go", part)), []byte(text), 0o644); err != nil {
					return err
				}
			}
			fmt.Fprintf(&mains, "\t_ \"bench/%s\"\n", name)
		}
		mains.WriteString(")\n\nfunc main() {}\n")
		if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n\nimport _ \"fmt\"\n\nfunc main() {}\n"), 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module bench\n\ngo 1.21\n"), 0o644); err != nil {
			return err
		}
		if err := goBuild(dir); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "main.go"), []byte(mains.String()), 0o644)
	})
}

// goBuild builds a module with a build cache and temporary files inside of it.
func goBuild(point string) error {
	tmp := filepath.Join(point, "tmp")
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return err
	}
	return command("env", "-C", point, "GOCACHE="+filepath.Join(point, "cache"), "GOTMPDIR="+tmp, "GOFLAGS=-mod=mod -buildvcs=false", "GOWORK=off",
		"go", "build", "-o", filepath.Join(point, "program"), ".")()
}

func (b *bench) largeLower() (string, error) {
	return b.lowerDir(largeName, func(dir string) error { return fillLarge(filepath.Join(dir, largeName)) })
}

func fillLarge(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 7)
	}
	for range largeFile >> 20 {
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	return f.Sync()
}

// upperLarge lets the large file be in the directory that is written to.
func upperLarge(point string) error { return fillLarge(filepath.Join(point, largeName)) }

// dropCaches lets what is read come from the disk.
func dropCaches(string) error {
	unix.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o200)
}

func both(first, second func(string) error) func(string) error {
	return func(point string) error { return errors.Join(first(point), second(point)) }
}

func readLarge(point string) error {
	f, err := os.Open(filepath.Join(point, largeName))
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for done := 0; ; {
		n, err := f.Read(buf)
		done += n
		if n == 0 || err != nil {
			if done != largeFile {
				return fmt.Errorf("read %d bytes of %d: %w", done, largeFile, err)
			}
			return nil
		}
	}
}

// mapLarge touches each page of a mapping.
func mapLarge(point string) error {
	f, err := os.Open(filepath.Join(point, largeName))
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := unix.Mmap(int(f.Fd()), 0, largeFile, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	sum := 0
	for i := 0; i < len(data); i += os.Getpagesize() {
		sum += int(data[i+1])
	}
	if sum == 0 {
		err = errors.New("the mapping is empty")
	}
	return errors.Join(err, unix.Munmap(data))
}

// unionRows are the table's rows about unions.
func unionRows() []row {
	half := map[string]float64{"fuse-overlayfs": 0.5}
	bare := map[string]float64{"bare": 1 / 0.9}
	work := func(name string, targets map[string]float64, w unionRow) row {
		return row{name: "union: " + name, unit: "ms", targets: targets, measure: w.measure}
	}
	small := func(name string, w unionRow) row {
		w.rounds = 9
		return work(fmt.Sprintf("%s %d small files", name, smallFiles), half, w)
	}
	large := func(name string, w unionRow) row {
		w.rounds, w.disk = 7, true
		return work(name, bare, w)
	}
	stat, read := eachSmall(statFile), eachSmall(readFile)
	rows := []row{
		small("create", unionRow{lower: (*bench).emptyLower, run: createSmall}),
		small("stat", unionRow{lower: (*bench).smallLower, run: stat}),
		small("stat again", unionRow{lower: (*bench).smallLower, before: stat, run: stat}),
		small("read", unionRow{lower: (*bench).smallLower, run: read}),
		small("read again", unionRow{lower: (*bench).smallLower, before: read, run: read}),
		small("unlink, new,", unionRow{lower: (*bench).emptyLower, before: createSmall, run: eachSmall(os.Remove)}),
		small("unlink, of the lower branch,", unionRow{lower: (*bench).smallLower, run: eachSmall(os.Remove)}),
		{name: "union: tar x of Go's library", unit: "ms", targets: half, measure: unpack},
		work("git status of Go's library", half, unionRow{lower: (*bench).repository, run: gitStatus, rounds: 7}),
		work("git status again", half, unionRow{lower: (*bench).repository, before: gitStatus, run: gitStatus, rounds: 7}),
		work("go build of 100 packages", half, unionRow{lower: (*bench).module, run: goBuild, rounds: 5}),
		work("go build again", half, unionRow{lower: (*bench).module, before: goBuild, run: goBuild, rounds: 7}),
	}
	for _, where := range []struct {
		name   string
		lower  func(b *bench) (string, error)
		before func(string) error
	}{{"lower branch", (*bench).largeLower, func(string) error { return nil }}, {"upper branch", (*bench).emptyLower, upperLarge}} {
		rows = append(rows,
			large("read 512 MB of the "+where.name+" from the disk", unionRow{lower: where.lower, before: both(where.before, dropCaches), run: readLarge}),
			large("read 512 MB of the "+where.name+", read before", unionRow{lower: where.lower, before: both(where.before, readLarge), run: readLarge}),
			large("map 512 MB of the "+where.name+" from the disk", unionRow{lower: where.lower, before: both(where.before, dropCaches), run: mapLarge}),
			large("map 512 MB of the "+where.name+", read before", unionRow{lower: where.lower, before: both(where.before, readLarge), run: mapLarge}),
		)
	}
	limit := map[string]float64{"goal": 1}
	return append(rows,
		row{name: "union: overlay of 100 layers mounted", unit: "ms", targets: limit, measure: overlayMount},
		row{name: "union: viv union where, 500 branches", unit: "ms", targets: limit, measure: whereMany},
		row{name: "union: memory of the server, 100,000 files seen", unit: "MB", targets: limit, measure: unionMemory(false)},
		row{name: "union: memory of the server, and forgotten", unit: "MB", targets: limit, measure: unionMemory(true)},
	)
}
