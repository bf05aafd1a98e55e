// Package tree works on control groups by hand: it makes, fills, limits, reads and
// removes them, on v1, v2 and the hybrid of both, in one vocabulary.
//
// What is to be done is a list of steps, each of which a person could type; so it can
// be shown before, or instead of, doing it.
package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vivarium/sandbox/cgroup"
)

// Step is one thing to do.
type Step struct {
	Op    string // "mkdir", "rmdir", "write" or "kill"
	Path  string
	Value string // of a write; of a kill, the numbers of the processes
}

// String is the step as one would type it.
func (s Step) String() string {
	switch s.Op {
	case "write":
		return "echo " + s.Value + " > " + s.Path
	case "kill":
		return "kill -9 " + s.Value
	}
	return s.Op + " " + s.Path
}

// Do carries steps out, in order, until one fails. It sends no signals: of a list that
// has one, whoever is meant may have ended by now.
func Do(steps []Step) error {
	for _, s := range steps {
		var err error
		switch s.Op {
		case "mkdir":
			if err = unix.Mkdir(s.Path, 0o755); err == unix.EEXIST {
				err = nil
			}
		case "rmdir":
			err = unix.Rmdir(s.Path)
		case "write":
			err = write(s.Path, s.Value)
		default:
			err = errors.ErrUnsupported
		}
		if err != nil {
			var at *fs.PathError
			if errors.As(err, &at) {
				err = at.Err
			}
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// write opens no new file: what the kernel does not have is an error.
func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Group is one control group, in all hierarchies that have it.
type Group struct {
	Layout cgroup.Layout
	Path   string // absolute, below each hierarchy's mount point
}

// Open gives the group of a path, which need not be there.
func Open(l cgroup.Layout, name string) (Group, error) {
	if strings.IndexByte(name, 0) >= 0 || slices.Contains(strings.Split(name, "/"), "..") {
		return Group{}, fmt.Errorf("control group %q: %w", name, cgroup.ErrPath)
	}
	return Group{Layout: l, Path: path.Clean("/" + name)}, nil
}

// Dir is a group's directory in one hierarchy.
type Dir struct {
	cgroup.Hierarchy
	Path string
}

// Dirs are the directories that the group has.
func (g Group) Dirs() []Dir {
	var out []Dir
	for _, h := range g.Layout.Hierarchies {
		d := Dir{h, filepath.Join(h.Mount, g.Path)}
		if info, err := os.Stat(d.Path); err == nil && info.IsDir() {
			out = append(out, d)
		}
	}
	return out
}

// ErrNone says that a group is in no hierarchy.
var ErrNone = errors.New("there is no such control group")

func (g Group) mustDirs() ([]Dir, error) {
	dirs := g.Dirs()
	if len(dirs) == 0 {
		return nil, fmt.Errorf("control group %s: %w", g.Path, ErrNone)
	}
	return dirs, nil
}

// Create makes the group in the hierarchies of some controllers, or in all if none
// are given. A new v1 cpuset gets what the one above has: empty it takes no process.
// On v2 the groups above pass the controllers on.
func (g Group) Create(controllers []string) ([]Step, error) {
	if g.Path == "/" {
		return nil, errors.New("the root group is there always")
	}
	var steps []Step
	left := slices.Clone(controllers)
	for _, h := range g.Layout.Hierarchies {
		has := func(c string) bool { return slices.Contains(h.Controllers, c) || h.Name != "" && c == "name="+h.Name }
		if len(controllers) > 0 && !slices.ContainsFunc(controllers, has) {
			continue
		}
		left = slices.DeleteFunc(left, has)
		steps = append(steps, g.createIn(h, controllers)...)
	}
	if len(left) > 0 {
		return nil, fmt.Errorf("no hierarchy has the controller %s", strings.Join(left, ", "))
	}
	return steps, nil
}

func (g Group) createIn(h cgroup.Hierarchy, controllers []string) []Step {
	var steps []Step
	dir := h.Mount
	for _, part := range strings.Split(strings.Trim(g.Path, "/"), "/") {
		if h.V2 {
			steps = append(steps, passOn(dir, h, controllers)...)
		}
		above := dir
		dir = filepath.Join(dir, part)
		if _, err := os.Stat(dir); err == nil {
			continue
		}
		steps = append(steps, Step{Op: "mkdir", Path: dir})
		if !h.V2 && slices.Contains(h.Controllers, "cpuset") {
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				if v := inherited(above, h.Mount, file); v != "" {
					steps = append(steps, Step{Op: "write", Path: filepath.Join(dir, file), Value: v})
				}
			}
		}
	}
	return steps
}

// inherited is what the nearest group above has that is there.
func inherited(dir, top, file string) string {
	for ; len(dir) >= len(top); dir = filepath.Dir(dir) {
		if b, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
			if v := strings.TrimSpace(string(b)); v != "" {
				return v
			}
		}
	}
	return ""
}

// passOn lets a v2 group pass controllers on that it has and does not pass on yet.
func passOn(dir string, h cgroup.Hierarchy, controllers []string) []Step {
	if len(controllers) == 0 {
		controllers = h.Controllers
	}
	on := fieldsOf(filepath.Join(dir, "cgroup.subtree_control"))
	var add []string
	for _, c := range controllers {
		if slices.Contains(h.Controllers, c) && !slices.Contains(on, c) {
			add = append(add, "+"+c)
		}
	}
	if len(add) == 0 {
		return nil
	}
	return []Step{{Op: "write", Path: filepath.Join(dir, "cgroup.subtree_control"), Value: strings.Join(add, " ")}}
}

func fieldsOf(path string) []string {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return strings.Fields(string(b))
}

// Attach moves a process into the group, in every hierarchy that has it.
func (g Group) Attach(pid int) ([]Step, error) {
	dirs, err := g.mustDirs()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, unix.ESRCH)
	}
	var steps []Step
	for _, d := range dirs {
		steps = append(steps, Step{Op: "write", Path: filepath.Join(d.Path, "cgroup.procs"), Value: strconv.Itoa(pid)})
	}
	return steps, nil
}

// Remove removes the group; with all also those below it, from the leaves up.
func (g Group) Remove(all bool) ([]Step, error) {
	dirs, err := g.mustDirs()
	if err != nil {
		return nil, err
	}
	if g.Path == "/" {
		return nil, errors.New("the root group cannot be removed")
	}
	var steps []Step
	for _, d := range dirs {
		list := []string{d.Path}
		if all {
			if list, err = below(d.Path); err != nil {
				return nil, err
			}
		}
		for _, dir := range slices.Backward(list) {
			steps = append(steps, Step{Op: "rmdir", Path: dir})
		}
	}
	return steps, nil
}

// below lists a directory and all directories below it, each before its own.
func below(top string) ([]string, error) {
	var out []string
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			out = append(out, path)
		}
		return err
	})
	return out, err
}

// Children are the names of the groups directly below, of all hierarchies, sorted.
func (g Group) Children() ([]string, error) {
	dirs, err := g.mustDirs()
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, d := range dirs {
		entries, err := os.ReadDir(d.Path)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.IsDir() {
				seen[e.Name()] = true
			}
		}
	}
	var out []string
	for name := range seen {
		out = append(out, name)
	}
	slices.Sort(out)
	return out, nil
}

// Processes are those in the group itself, in any hierarchy, ascending.
func (g Group) Processes() []int {
	var out []int
	for _, d := range g.Dirs() {
		for _, f := range fieldsOf(filepath.Join(d.Path, "cgroup.procs")) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 && !slices.Contains(out, pid) {
				out = append(out, pid)
			}
		}
	}
	slices.Sort(out)
	return out
}

// Membership is the group of a process in one hierarchy.
type Membership struct {
	Controllers string // "memory", "cpu,cpuacct", "name=systemd"; "" of v2
	Path        string
}

// Where tells in which groups a process is (proc_pid_cgroup(5)).
func Where(pid int) ([]Membership, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return nil, fmt.Errorf("find the control groups of process %d: %w", pid, err)
	}
	var out []Membership
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) == 3 {
			out = append(out, Membership{f[1], f[2]})
		}
	}
	return out, nil
}

// ProcsFiles gives the files cgroup.procs of the groups that a process is in, of all
// hierarchies that are mounted: whoever writes 0 there goes into them.
func ProcsFiles(l cgroup.Layout, pid int) ([]string, error) {
	list, err := Where(pid)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, h := range l.Hierarchies {
		for _, m := range list {
			names := strings.Split(m.Controllers, ",")
			if h.V2 && m.Controllers == "" || !h.V2 && (slices.ContainsFunc(h.Controllers, func(c string) bool { return slices.Contains(names, c) }) || h.Name != "" && m.Controllers == "name="+h.Name) {
				out = append(out, filepath.Join(h.Mount, m.Path, "cgroup.procs"))
			}
		}
	}
	return out, nil
}
