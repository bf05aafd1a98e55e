package engine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"vivarium/sandbox/capability"
	"vivarium/sandbox/cgroup"
	"vivarium/sandbox/namespace"
	"vivarium/unionfs"
	"vivarium/unionfs/aufs"
	"vivarium/unionfs/stack"
)

// Anatomy is one container whole, for people who want to see what it is made of.
type Anatomy struct {
	ID      string `json:"Id"`
	Name    string
	Image   string
	Status  string
	Pid     int
	Command []string

	Namespaces []AnatomyNamespace // of a running container
	Groups     []string           // directories of its control groups
	Stats      *cgroup.Stats      `json:",omitempty"`
	Union      AnatomyUnion
	Process    AnatomyProcess
	Mounts     []AnatomyMount
}

// AnatomyNamespace is one namespace of the container beside that of this command.
type AnatomyNamespace struct {
	Kind      namespace.Kind
	Container uint64
	Host      uint64
	Shared    bool
}

// AnatomyUnion is the container's file system.
type AnatomyUnion struct {
	Driver   string
	Branches []AnatomyBranch // top-most first
}

// AnatomyBranch is one layer.
type AnatomyBranch struct {
	Path  string
	Layer string // "container", or of the image its place from below, "1" first
	stack.Usage
	Changes int // of the container's layer: names that it adds, changes or deletes
}

// AnatomyProcess is what the first process may do.
type AnatomyProcess struct {
	UID, GID        string
	UIDMap          string // container, host, count; of a user namespace of its own
	Effective       []string
	Bounding        []string
	NoNewPrivileges bool
	Seccomp         string // "none", "strict" or "filter"
	Filters         int
}

// AnatomyMount is one mount that the container sees.
type AnatomyMount struct{ Destination, Type, Source, Options string }

// Anatomy takes a container apart. Of one that does not run there is less to see.
func (e *Engine) Anatomy(ctx context.Context, ref string) (*Anatomy, error) {
	i, err := e.Inspect(ctx, ref, false)
	if err != nil {
		return nil, err
	}
	c, err := e.Container(i.ID)
	if err != nil {
		return nil, err
	}
	a := &Anatomy{ID: i.ID, Name: strings.TrimPrefix(i.Name, "/"), Image: i.Config.Image, Status: i.State.Status, Pid: i.State.Pid,
		Command: append([]string{i.Path}, i.Args...), Union: AnatomyUnion{Driver: i.GraphDriver.Name}}
	if err := a.lookAtUnion(ctx, e, c, i.GraphDriver); err != nil {
		return nil, err
	}
	if a.Pid == 0 {
		return a, nil
	}
	if err := a.lookAtNamespaces(); err != nil {
		return nil, err
	}
	l, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	h, err := l.Handle(c.CgroupPath())
	if err != nil {
		return nil, err
	}
	if h.Unified != "" {
		a.Groups = append(a.Groups, h.Unified)
	}
	a.Groups = append(a.Groups, h.V1...)
	if s, err := cgroup.ReadStats(l, c.CgroupPath()); err == nil {
		a.Stats = &s
	}
	if err := a.lookAtProcess(); err != nil {
		return nil, err
	}
	return a, a.lookAtMounts()
}

// stackOf is a container's layer above those of its image.
func stackOf(c *Container, g GraphDriver) stack.Stack {
	s := stack.Stack{Type: stack.Overlay, Branches: []aufs.Branch{{Path: g.Data["UpperDir"], Perm: aufs.RW}}}
	if c.Driver == unionfs.DriverAUFS {
		s.Type = stack.AUFS
	}
	for _, dir := range splitDirs(g.Data["LowerDir"]) {
		s.Branches = append(s.Branches, aufs.Branch{Path: dir, Perm: aufs.RO, WH: true, Overlay: true})
	}
	return s
}

// countChanges is the number of names that a container has changed.
func (e *Engine) countChanges(ctx context.Context, c *Container, s stack.Stack) (int, error) {
	if c.Driver == unionfs.DriverCopy { // it has all names
		list, err := e.changes(ctx, c)
		return len(list), err
	}
	list, err := s.Diff()
	return len(list), err
}

func (a *Anatomy) lookAtUnion(ctx context.Context, e *Engine, c *Container, g GraphDriver) error {
	s := stackOf(c, g)
	branches := s.Branches
	for n, b := range branches {
		used, err := s.Usage(n)
		if err != nil {
			return fmt.Errorf("look at layer %s: %w", b.Path, err)
		}
		branch := AnatomyBranch{Path: b.Path, Layer: strconv.Itoa(len(branches) - n), Usage: used}
		if n == 0 {
			branch.Layer = "container"
			if branch.Changes, err = e.countChanges(ctx, c, s); err != nil {
				return fmt.Errorf("look at layer %s: %w", b.Path, err)
			}
		}
		a.Union.Branches = append(a.Union.Branches, branch)
	}
	return nil
}

func (a *Anatomy) lookAtNamespaces() error {
	theirs, err := namespace.Of(a.Pid)
	if err != nil {
		return err
	}
	own, err := namespace.Of(os.Getpid())
	if err != nil {
		return err
	}
	for _, k := range namespace.Kinds() {
		if theirs[k] != 0 {
			a.Namespaces = append(a.Namespaces, AnatomyNamespace{k, theirs[k], own[k], theirs[k] == own[k]})
		}
	}
	return nil
}

// lookAtProcess reads what proc_pid_status(5) tells.
func (a *Anatomy) lookAtProcess() error {
	dir := "/proc/" + strconv.Itoa(a.Pid)
	b, err := os.ReadFile(dir + "/status")
	if err != nil {
		return fmt.Errorf("look at process %d: %w", a.Pid, err)
	}
	p := &a.Process
	for line := range bytes.Lines(b) {
		key, value, _ := strings.Cut(strings.TrimSpace(string(line)), ":")
		value = strings.TrimSpace(value)
		first, _, _ := strings.Cut(value, "\t")
		switch key {
		case "Uid":
			p.UID = first
		case "Gid":
			p.GID = first
		case "CapEff":
			p.Effective = capabilityNames(value)
		case "CapBnd":
			p.Bounding = capabilityNames(value)
		case "NoNewPrivs":
			p.NoNewPrivileges = value == "1"
		case "Seccomp":
			p.Seccomp = map[string]string{"0": "none", "1": "strict", "2": "filter"}[value]
		case "Seccomp_filters":
			p.Filters, _ = strconv.Atoi(value)
		}
	}
	for _, n := range a.Namespaces {
		if n.Kind == namespace.User && !n.Shared {
			if b, err := os.ReadFile(dir + "/uid_map"); err == nil {
				p.UIDMap = strings.Join(strings.Fields(string(b)), " ")
			}
		}
	}
	return nil
}

func capabilityNames(hex string) []string {
	n, err := strconv.ParseUint(hex, 16, 64)
	if err != nil {
		return nil
	}
	return capability.Set(n).Names()
}

// lookAtMounts reads the mounts as the first process sees them.
func (a *Anatomy) lookAtMounts() error {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(a.Pid) + "/mountinfo")
	if err != nil {
		return fmt.Errorf("look at the mounts of process %d: %w", a.Pid, err)
	}
	for line := range bytes.Lines(b) {
		before, after, ok := strings.Cut(strings.TrimSpace(string(line)), " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if ok && len(f) > 5 && len(g) > 1 {
			source := cgroup.Unescape(g[1])
			if root := cgroup.Unescape(f[3]); root != "/" {
				source += " " + root
			}
			a.Mounts = append(a.Mounts, AnatomyMount{cgroup.Unescape(f[4]), g[0], source, f[5]})
		}
	}
	return nil
}
