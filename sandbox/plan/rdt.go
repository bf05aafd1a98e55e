package plan

import (
	"errors"
	"os"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// intelRdt puts the container into a class of service of Intel's resource
// director; runtime-spec, config-linux.md "IntelRdt", and the kernel's
// Documentation/filesystems/resctrl.rst. A class is a directory of the resctrl
// file system.
func (c *compiler) intelRdt() {
	r := c.spec.Linux.IntelRdt
	if r == nil {
		return
	}
	if err := c.rdtGroups(r); err != nil {
		c.b.fail(errorf("intelRdt: %w", err))
	}
}

func (c *compiler) rdtGroups(r *specs.LinuxIntelRdt) error {
	top, err := c.resctrl()
	if err != nil {
		return err
	}
	name := r.ClosID
	if name == "" {
		name = c.opt.ID
	}
	if name == "." || name == ".." || name == "" || name != "/" && strings.Contains(name, "/") {
		return errorf("closID %q is no name of a directory", name)
	}
	dir := top
	if name != "/" {
		dir = top + "/" + name
	}
	lines, err := rdtLines(r)
	if err != nil {
		return err
	}
	if err := checkClass(dir, r, len(lines) > 0); err != nil {
		return err
	}
	c.rdtSteps(r, dir, lines)
	return nil
}

// rdtLines gives what is written to schemata, in the spec's order.
func rdtLines(r *specs.LinuxIntelRdt) ([]string, error) {
	var lines []string
	for _, l := range append([]string{r.L3CacheSchema, r.MemBwSchema}, r.Schemata...) {
		if strings.Contains(l, "\n") {
			return nil, errorf("the schema %q has more than one line", l)
		}
		if l != "" {
			lines = append(lines, l)
		}
	}
	return lines, nil
}

// checkClass: a class that exists must be as the older fields say, and one that
// is only named must exist.
func checkClass(dir string, r *specs.LinuxIntelRdt, given bool) error {
	if r.ClosID == "" {
		return nil
	}
	now, err := os.ReadFile(dir + "/schemata")
	if errors.Is(err, os.ErrNotExist) {
		if !given {
			return errorf("the class %s must exist already when no schema is given", r.ClosID)
		}
		return nil
	}
	if err != nil {
		return errorf("read the schemata of class %s: %w", r.ClosID, err)
	}
	for _, want := range []string{r.L3CacheSchema, r.MemBwSchema} {
		if want != "" && !hasSchema(string(now), want) {
			return errorf("the class %s exists, and its schemata differ from %q", r.ClosID, want)
		}
	}
	return nil
}

// hasSchema says whether the schemata have a line with the same resource, in
// which each domain that is wanted has the wanted value. The kernel pads names
// and values: "    MB:0= 20;1= 70", "L3:0=00ff".
func hasSchema(now, want string) bool {
	name, domains, _ := strings.Cut(want, ":")
	for line := range strings.Lines(now) {
		n, have, _ := strings.Cut(strings.TrimSpace(line), ":")
		if n != strings.TrimSpace(name) {
			continue
		}
		values := rdtDomains(have)
		for id, v := range rdtDomains(domains) {
			if values[id] != v {
				return false
			}
		}
		return true
	}
	return false
}

func rdtDomains(list string) map[string]string {
	out := make(map[string]string)
	for d := range strings.SplitSeq(list, ";") {
		id, v, _ := strings.Cut(d, "=")
		v = strings.TrimLeft(strings.ToLower(strings.TrimSpace(v)), "0")
		if id = strings.TrimSpace(id); id != "" {
			out[id] = v
		}
	}
	return out
}

// rdtSteps: the child enters the groups itself, as it does control groups: 0
// written to tasks is who writes.
func (c *compiler) rdtSteps(r *specs.LinuxIntelRdt, dir string, lines []string) {
	b := c.b
	b.in(&b.prog.Before)
	b.begin("rdt", "make the class of service "+dir)
	tasks := dir
	if r.ClosID != "/" {
		b.do(unix.SYS_MKDIRAT, n(cwd), b.str(dir), n(0o755)).tolerate(unix.EEXIST)
	}
	if r.ClosID == "" {
		c.rdtDirs = append(c.rdtDirs, dir)
	}
	for _, line := range lines {
		b.begin("rdt", "write "+line+" to "+dir+"/schemata")
		f, _ := b.openat(n(cwd), dir+"/schemata", unix.O_WRONLY)
		b.write(f, line+"\n")
		b.close(f)
	}
	if r.EnableMonitoring {
		tasks = dir + "/mon_groups/" + c.opt.ID
		b.begin("rdt", "make the monitoring group "+tasks)
		b.do(unix.SYS_MKDIRAT, n(cwd), b.str(tasks), n(0o755)).tolerate(unix.EEXIST)
		c.rdtDirs = append([]string{tasks}, c.rdtDirs...)
	}
	b.begin("rdt", "open the lists of tasks")
	open := func(d string) {
		f, _ := b.openat(n(cwd), d+"/tasks", unix.O_WRONLY)
		c.rdtTasks = append(c.rdtTasks, f)
	}
	open(dir)
	if tasks != dir {
		open(tasks)
	}
	b.in(&b.prog.Undo)
	b.begin("rdt", "remove the groups of resctrl")
	for _, d := range c.rdtDirs {
		b.do(unix.SYS_UNLINKAT, n(cwd), b.str(d), n(unix.AT_REMOVEDIR)).tolerateAll()
	}
	b.in(&b.prog.Child)
}

// enterRdt is the child's part.
func (c *compiler) enterRdt() {
	if len(c.rdtTasks) == 0 {
		return
	}
	c.b.begin("rdt", "enter the class of service")
	for _, f := range c.rdtTasks {
		c.b.write(f, "0")
	}
}

// execRdt lets an executed process into the groups that the container has.
func (c *compiler) execRdt() {
	r := c.spec.Linux.IntelRdt
	if r == nil {
		return
	}
	top, err := c.resctrl()
	if err != nil {
		c.b.fail(errorf("intelRdt: %w", err))
		return
	}
	dir := top
	switch r.ClosID {
	case "/":
	case "":
		dir += "/" + c.opt.ID
	default:
		dir += "/" + r.ClosID
	}
	b := c.b
	b.in(&b.prog.Before)
	b.begin("rdt", "open the lists of tasks")
	dirs := []string{dir}
	if r.EnableMonitoring {
		dirs = append(dirs, dir+"/mon_groups/"+c.opt.ID)
	}
	for _, d := range dirs {
		f, _ := b.openat(n(cwd), d+"/tasks", unix.O_WRONLY)
		c.rdtTasks = append(c.rdtTasks, f)
	}
	b.in(&b.prog.Child)
}

// resctrl is where the file system is mounted.
func (c *compiler) resctrl() (string, error) {
	if c.opt.Resctrl != "" {
		return c.opt.Resctrl, nil
	}
	mounts, err := mountsOf("resctrl")
	if err != nil {
		return "", err
	}
	if len(mounts) > 0 {
		return mounts[0].at, nil
	}
	return "", errorf("it is specified in the config, but no resctrl file system is mounted: Intel RDT is not enabled")
}
