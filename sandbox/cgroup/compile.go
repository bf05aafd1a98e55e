package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"vivarium/sandbox/cgroup/handle"
)

// ErrUnsupported is in the chain of errors about limits that this kernel, or
// the way its cgroups are mounted, cannot enforce.
var ErrUnsupported = errors.New("not supported here")

// Compile says what is to be done for a container with resources res in the
// cgroup cgroupPath (see CleanPath). It reads the hierarchies and changes
// nothing. A nil res sets no limits; the default device rules hold then too.
func Compile(l Layout, cgroupPath string, res *specs.LinuxResources, opt Options) (Setup, error) {
	rel, err := CleanPath(cgroupPath)
	if err != nil {
		return Setup{}, err
	}
	c := &compiler{layout: l, rel: rel, opt: opt}
	if res == nil {
		res = &specs.LinuxResources{}
	}
	c.places()
	c.initCpuset(res)
	c.resources(res)
	c.devices(res.Devices)
	c.enableControllers()
	if err := errors.Join(c.errs...); err != nil {
		return Setup{}, err
	}
	return c.setup, nil
}

// compiler collects a Setup.
type compiler struct {
	layout Layout
	rel    string // path below each mount point
	opt    Options
	setup  Setup
	errs   []error
	update bool            // the cgroup exists and has limits and processes
	needed map[string]bool // v2 controllers that a limit needs
}

// ancestors gives the cgroups from the top of rel down: "/a", "/a/b".
func ancestors(rel string) []string {
	var out []string
	for i := 1; i < len(rel); i++ {
		if rel[i] == '/' {
			out = append(out, rel[:i])
		}
	}
	return append(out, rel)
}

// places says which directories are made, joined and removed.
func (c *compiler) places() {
	s := &c.setup
	for i := range c.layout.Hierarchies {
		h := &c.layout.Hierarchies[i]
		if !h.joined() {
			continue
		}
		for _, a := range ancestors(c.rel) {
			s.Dirs = append(s.Dirs, h.Mount+a)
		}
		if dir := h.Mount + c.rel; !h.V2 {
			s.Tasks = append(s.Tasks, dir+"/tasks")
		} else {
			s.CgroupDir = dir
		}
	}
	s.Handle = c.layout.handle(c.rel)
	if s.Handle.Unified != "" {
		s.Remove = append(s.Remove, s.Handle.Unified)
	}
	s.Remove = append(s.Remove, s.Handle.V1...)
}

// Handle gives the cgroups of a container that was set up at cgroupPath.
func (l Layout) Handle(cgroupPath string) (handle.Handle, error) {
	rel, err := CleanPath(cgroupPath)
	if err != nil {
		return handle.Handle{}, err
	}
	return l.handle(rel), nil
}

func (l Layout) handle(rel string) handle.Handle {
	var out handle.Handle
	for i := range l.Hierarchies {
		h := &l.Hierarchies[i]
		dir := h.Mount + rel
		switch {
		case !h.joined():
			continue
		case h.V2:
			out.Unified = dir
			continue
		}
		out.V1 = append(out.V1, dir)
		if slices.Contains(h.Controllers, "freezer") {
			out.Freezer = dir
		}
		if slices.Contains(h.Controllers, "memory") {
			out.Memory = dir
		}
	}
	return out
}

// fail records an error; the rest is compiled too, so that all are seen at once.
func (c *compiler) fail(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

// lack records that an option cannot be had.
func (c *compiler) lack(option, reason string) {
	if c.opt.Lenient {
		c.setup.Warnings = append(c.setup.Warnings, fmt.Sprintf("%s is left out: %s", option, reason))
		return
	}
	c.fail("%s: %s: %w", option, reason, ErrUnsupported)
}

// group is the container's cgroup for one controller.
type group struct {
	c   *compiler
	h   *Hierarchy
	dir string
}

// group finds the cgroup of a controller; false, with the lack recorded, if the
// controller is nowhere.
func (c *compiler) group(controller, option string) (group, bool) {
	h := c.layout.with(controller)
	if h == nil {
		c.lack(option, fmt.Sprintf("the cgroup controller %q is not available (it is not mounted, or the kernel does not have it)", controller))
		return group{}, false
	}
	if h.V2 {
		c.need(controller)
	}
	return group{c, h, h.Mount + c.rel}, true
}

func (c *compiler) need(controller string) {
	if c.needed == nil {
		c.needed = map[string]bool{}
	}
	c.needed[controller] = true
}

func (g group) set(file, value, why string) {
	g.c.setup.Writes = append(g.c.setup.Writes, *g.write(file, value, why))
}

func (g group) write(file, value, why string) *Write {
	return &Write{Dir: g.dir, File: file, Value: value, Why: why}
}

// has says whether cgroups of the hierarchy have a file. Some files are not in
// the top cgroup, so others are asked too: those that have the file witness,
// which comes with the same controller. If there is none, the answer is
// otherwise.
func (g group) has(file, witness string, otherwise bool) bool {
	if exists(g.h.Mount + "/" + file) {
		return true
	}
	dirs := []string{g.dir, path.Dir(g.dir)}
	entries, err := os.ReadDir(g.h.Mount)
	if err != nil {
		return otherwise
	}
	for _, e := range entries {
		if e.IsDir() {
			dirs = append(dirs, g.h.Mount+"/"+e.Name())
		}
	}
	for _, dir := range dirs {
		if dir == g.h.Mount {
			continue
		}
		if exists(dir + "/" + file) {
			return true
		}
		if exists(dir + "/" + witness) {
			return false
		}
	}
	return otherwise
}

func exists(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}
