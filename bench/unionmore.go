package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"vivarium/unionfs"
)

// goal is the side of a row that has a limit, and no peer.
func goal(value float64) figure { return figure{side: "goal", values: []float64{value}} }

// overlayMount mounts and unmounts an overlay of many layers, by the package that containers
// are mounted by.
func overlayMount(b *bench) result {
	const layers = 100
	place, err := b.place(true)
	if err != nil {
		return result{note: err.Error()}
	}
	var lower []string
	for i := range layers {
		lower = append(lower, filepath.Join(place, "layers", fmt.Sprint(i)))
	}
	upper, work := filepath.Join(place, "layers", "upper"), filepath.Join(place, "layers", "work")
	for _, dir := range append([]string{upper, work}, lower...) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return result{note: err.Error()}
		}
	}
	recipe, err := unionfs.Overlay(lower, upper, work, unionfs.OverlayOptions{})
	if err != nil {
		return result{note: err.Error()}
	}
	var root *os.File
	res := b.timed(b.rounds, side{name: "viv", run: func() (err error) {
		root, err = unionfs.Mount(recipe)
		return err
	}, after: func() error { return root.Close() }})
	res.figures = append(res.figures, goal(1))
	return res
}

// whereMany asks where a name of a union of many branches comes from: the lowest of them.
func whereMany(b *bench) result {
	const branches = 500
	place, err := b.place(true)
	if err != nil {
		return result{note: err.Error()}
	}
	var list []string
	for i := range branches {
		dir := filepath.Join(place, "where", fmt.Sprint(i))
		if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755); err != nil {
			return result{note: err.Error()}
		}
		list = append(list, dir)
	}
	name := filepath.Join("a", "b", "c")
	if err := os.WriteFile(filepath.Join(list[branches-1], name), nil, 0o644); err != nil {
		return result{note: err.Error()}
	}
	res := b.timed(b.rounds, side{name: "viv", absent: missing(b.program("viv")),
		run: command(b.program("viv"), "union", "where", "-o", "dirs="+strings.Join(list, ":"), name)})
	res.figures = append(res.figures, goal(50))
	return res
}

// treeFiles is how many files the tree has by which memory is measured.
const treeFiles = 100_000

func (b *bench) manyFiles() (string, error) {
	return b.lowerDir("many", func(dir string) error {
		for i := range treeFiles {
			sub := filepath.Join(dir, fmt.Sprintf("d%03d", i/100))
			if i%100 == 0 {
				if err := os.Mkdir(sub, 0o755); err != nil {
					return err
				}
			}
			f, err := os.Create(filepath.Join(sub, fmt.Sprintf("file-%02d", i%100)))
			if err != nil {
				return err
			}
			f.Close()
		}
		return nil
	})
}

// unionMemory is the memory of the process that serves a union, after all files have been
// looked at; with forgotten, after the kernel has let go of all of them.
func unionMemory(forgotten bool) func(b *bench) result {
	return func(b *bench) result {
		lower, err := b.manyFiles()
		if err != nil {
			return result{note: err.Error()}
		}
		place, err := b.place(false)
		if err != nil {
			return result{note: err.Error()}
		}
		var res result
		for _, u := range b.unions() {
			if u.mount == nil || u.name == "viv, udba=reval" {
				continue
			}
			s := u.side(filepath.Join(place, "union"), lower, unionRow{})
			f := figure{side: u.name}
			if u.absent != "" {
				f.err = errors.New(u.absent)
			} else if f.err = s.before(); f.err == nil {
				value, err := servedMemory(filepath.Join(place, "union", "mnt"), forgotten)
				f.values, f.err = []float64{value}, errors.Join(err, s.after())
			}
			res.figures = append(res.figures, f)
		}
		res.figures = append(res.figures, goal(100))
		return res
	}
}

func servedMemory(point string, forgotten bool) (float64, error) {
	seen := 0
	err := filepath.WalkDir(point, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			seen++
			_, err = os.Lstat(path)
		}
		return err
	})
	if err == nil && seen != treeFiles {
		err = fmt.Errorf("%d files of %d are there", seen, treeFiles)
	}
	if err != nil {
		return 0, err
	}
	if forgotten {
		if err := dropCaches(""); err != nil {
			return 0, err
		}
		// What has become free is given back after a while.
		time.Sleep(5 * time.Second)
	}
	pid, err := server(point)
	if err != nil {
		return 0, err
	}
	kilobytes, err := field("/proc/"+pid+"/smaps_rollup", `(?m)^Pss:\s*(\d+)`)
	return float64(kilobytes) / 1000, err
}

// server finds the process that was told to mount something on a directory.
func server(point string) (string, error) {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return "", err
	}
	for _, line := range lines {
		text, err := os.ReadFile(line)
		if err == nil && strings.Contains(string(text), "\x00"+point+"\x00") {
			return filepath.Base(filepath.Dir(line)), nil
		}
	}
	return "", fmt.Errorf("find who serves %s: there is no such process", point)
}
