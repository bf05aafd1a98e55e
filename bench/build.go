package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// builder is a side of the rows about builds.
type builder struct {
	name   string
	argv   []string // up to the name of the image that is made
	env    []string
	fresh  []string // what else makes it carry out every step
	image  string   // what FROM calls the test image
	absent string
}

// builders are the sides of a row about builds: docker's two builders, and buildah on
// podman's store, to which the test image was imported.
func (b *bench) builders() []builder {
	viv := builder{name: "viv", image: b.viv.image, argv: b.viv.command("build", "-q", "-t"), absent: b.viv.absent, fresh: []string{"--no-cache"}}
	docker := builder{
		name: "docker", image: b.docker.image, argv: b.docker.command("build", "-q", "-t"), absent: b.docker.absent,
		env: []string{"DOCKER_BUILDKIT=0"}, fresh: []string{"--no-cache"},
	}
	kit := docker
	kit.name, kit.env = "buildkit", []string{"DOCKER_BUILDKIT=1"}
	return []builder{viv, b.buildah(), docker, kit}
}

func (b *bench) buildah() builder {
	// What it makes anew is one layer, as it does by itself; the cache needs --layers.
	s := builder{name: "buildah", image: b.podman.image, absent: b.podman.absent, fresh: []string{"--layers=false", "--no-cache"}}
	path, err := exec.LookPath("buildah")
	if err != nil {
		s.absent = err.Error()
	}
	dir := filepath.Join(b.dir, "podman")
	s.argv = []string{
		path, "--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "overlay", "build", "-q", "--layers",
		"--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000", "--network", "host",
		// It puts each command into this group itself, and crun wants one without others in it.
		"--cgroup-parent", groupParent + "/buildah",
	}
	s.argv = append(s.argv, "-t")
	return s
}

// build makes the command that builds the context dir.
func (s *builder) build(dir string, flags ...string) func() error {
	argv := slices.Concat(s.argv, []string{"bench-built"}, flags, []string{"-f", filepath.Join(dir, s.name+".Dockerfile"), dir})
	run := command(argv...)
	return func() error { return withEnv(s.env, run) }
}

// withEnv runs f with additions to the environment: rows run one thing at a time.
func withEnv(add []string, f func() error) error {
	for _, kv := range add {
		k, v, _ := strings.Cut(kv, "=")
		old, had := os.LookupEnv(k)
		if err := os.Setenv(k, v); err != nil {
			return err
		}
		defer func() {
			if had {
				os.Setenv(k, old)
			} else {
				os.Unsetenv(k)
			}
		}()
	}
	return f()
}

// writeContext makes a context with a Dockerfile for each side, which all say the same
// of their own name of the test image.
func (b *bench) writeContext(name, dockerfile string) (string, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for _, s := range b.builders() {
		text := "FROM " + s.image + "\n" + dockerfile
		if err := os.WriteFile(filepath.Join(dir, s.name+".Dockerfile"), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	return dir, os.WriteFile(filepath.Join(dir, ".dockerignore"), []byte("*.Dockerfile\n"), 0o644)
}

// nineRuns is a Dockerfile of nine steps that do little, so that the builder is measured.
func nineRuns() string {
	var s strings.Builder
	for i := range 9 {
		fmt.Fprintf(&s, "RUN echo %d >/file-%d\n", i, i)
	}
	return s.String()
}

// buildRuns times the build of nine RUN steps, with all of them cached or none.
func buildRuns(cached bool) func(b *bench) result {
	return func(b *bench) result {
		dir, err := b.writeContext("nine", nineRuns())
		if err != nil {
			return result{note: err.Error()}
		}
		var sides []side
		for _, s := range b.builders() {
			one := side{name: s.name, absent: s.absent, before: syncDisk}
			if cached {
				one.run = s.build(dir)
			} else {
				one.run = s.build(dir, s.fresh...)
			}
			sides = append(sides, one)
		}
		return b.timed(min(b.rounds, 10), sides...)
	}
}

// contextFiles is how many files the large context has.
const contextFiles = 50_000

// buildContext times the build that copies a large context of which one file was
// changed since the last build.
func buildContext(b *bench) result {
	dir, err := b.writeContext("context", "COPY . /src\n")
	if err != nil {
		return result{note: err.Error()}
	}
	if err := writeMany(dir); err != nil {
		return result{note: err.Error()}
	}
	round := 0
	var sides []side
	for _, s := range b.builders() {
		one := side{name: s.name, absent: s.absent, run: s.build(dir)}
		one.before = func() error {
			round++
			err := os.WriteFile(filepath.Join(dir, "000", "000"), fmt.Appendf(nil, "round %d\n", round), 0o644)
			// A change of the same moment could not be told by any clock of files.
			time.Sleep(200 * time.Millisecond)
			unix.Sync()
			return err
		}
		sides = append(sides, one)
	}
	return b.timed(min(b.rounds, 5), sides...)
}

func syncDisk() error { unix.Sync(); return nil }

// writeMany fills a context with directories of a hundred small files each.
func writeMany(dir string) error {
	for i := range contextFiles {
		sub := filepath.Join(dir, fmt.Sprintf("%03d", i/100))
		if i%100 == 0 {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return err
			}
		}
		text := strings.Repeat(fmt.Sprintf("file %d of a context\n", i), 1+i%80)
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("%03d", i%100)), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
