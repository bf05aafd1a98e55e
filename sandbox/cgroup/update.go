package cgroup

import (
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// CompileUpdate says which writes change the limits of an existing container to
// those of res; what res leaves out stays. It reads the present limits where the
// order of writes depends on them. Warnings are as in Setup.
func CompileUpdate(l Layout, cgroupPath string, res *specs.LinuxResources, opt Options) (writes []Write, warnings []string, err error) {
	rel, err := CleanPath(cgroupPath)
	if err != nil {
		return nil, nil, err
	}
	if res == nil {
		return nil, nil, nil
	}
	c := &compiler{layout: l, rel: rel, opt: opt, update: true}
	if len(res.Devices) > 0 {
		c.fail("device rules cannot be changed while the container runs: %w", ErrUnsupported)
	}
	c.resources(res)
	c.enableControllers()
	if err := errors.Join(c.errs...); err != nil {
		return nil, nil, err
	}
	return c.setup.Writes, c.setup.Warnings, nil
}

// Update changes the limits of an existing container. Writes are done in order;
// the error names the first that failed, and those before it stay.
func Update(l Layout, cgroupPath string, res *specs.LinuxResources, opt Options) (warnings []string, err error) {
	writes, warnings, err := CompileUpdate(l, cgroupPath, res, opt)
	if err != nil {
		return nil, fmt.Errorf("update the limits of cgroup %s: %w", cgroupPath, err)
	}
	for _, w := range writes {
		if err := w.Do(); err != nil {
			return warnings, fmt.Errorf("update the limits of cgroup %s: %w", cgroupPath, err)
		}
	}
	return warnings, nil
}

// Do makes the write.
func (w Write) Do() error {
	f, err := os.OpenFile(w.Path(), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(w.Value)
		if closing := f.Close(); err == nil {
			err = closing
		}
	}
	if err == nil || w.Optional {
		return nil
	}
	return w.Explain(err)
}

// Explain wraps the error of a write with what it was for and what may be done.
func (w Write) Explain(err error) error {
	var hint string
	switch {
	case errors.Is(err, unix.ENOENT):
		hint = "; the cgroup is gone, or this kernel has no such limit"
	case errors.Is(err, unix.EBUSY) && w.File == "cgroup.subtree_control":
		hint = "; a cgroup with processes of its own cannot pass on controllers"
	case errors.Is(err, unix.EBUSY):
		hint = "; more is in use now than the new limit allows"
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE):
		hint = "; the kernel does not take this value, or not with the limits of the cgroup above"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		hint = "; the cgroup above does not allow that much, or it is not ours to change"
	case errors.Is(err, unix.EROFS):
		hint = "; the cgroup file system is mounted read-only"
	case errors.Is(err, unix.ENODEV):
		hint = "; there is no such device, or its scheduler has no such limit"
	}
	var op *os.PathError
	if errors.As(err, &op) {
		err = op.Err
	}
	return fmt.Errorf("write %q to %s (%s): %w%s", w.Value, w.Path(), w.Why, err, hint)
}
