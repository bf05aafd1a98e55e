package plan

import (
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/program"
)

// copyUp lets the caller copy what is in the directory target, on which the file
// system fs is to be mounted, into it. What is there is known only now, and may
// be any tree: a list of system calls that is made before cannot say how to copy
// it. Both go over as descriptors, so no path leads elsewhere.
func (c *compiler) copyUp(target, fs int16, where string, o mountOpts) error {
	if !c.opt.Hooks {
		return errorf("option tmpcopyup: %w", ErrUnsupported)
	}
	b := c.b
	b.begin("copyup", "let the parent copy what is in "+where+" into the new file system, and wait")
	c.requests++
	owned := uint32(0)
	if o.has("uid") || o.has("gid") {
		owned = 1
	}
	b.sendFiles(program.SlotSync, 'C', owned, target, fs)
	b.await()
	return nil
}

// keepMode gives the root of a new tmpfs the mode of the directory that it will
// hide, if there is one and no option says otherwise; engines rely on it.
func (c *compiler) keepMode(fs int16, where string, o mountOpts) {
	if o.has("mode") {
		return
	}
	b := c.b
	there, open := b.inRoot(c.root, where, unix.O_PATH|unix.O_DIRECTORY)
	open.tolerate(unix.ENOENT, unix.ENOTDIR)
	at := b.buf(256) // struct statx
	b.do(unix.SYS_STATX, slot(there), b.str(""), n(unix.AT_EMPTY_PATH), n(unix.STATX_MODE), ptr(at))
	mode := b.slot()
	// stx_mode is the half word at 28, the one behind it is empty (statx(2)).
	b.do(int(program.Load), n(at+28), n(int(mode)))
	b.do(unix.SYS_FCHMODAT, slot(fs), b.str("."), slot(mode))
	b.close(there)
	b.onErrorSkipHere(open)
}

// modeOf is the mode that keepMode will find if nothing is mounted there before:
// given as an option it is seen in the list of mounts.
func (c *compiler) modeOf(m *specs.Mount, o mountOpts) (string, bool) {
	if m.Type != "tmpfs" || o.has("mode") {
		return "", false
	}
	var st unix.Stat_t
	if !c.inRootNow(m.Destination, func(fd int) { unix.Fstat(fd, &st) }) || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return "", false
	}
	return strconv.FormatUint(uint64(st.Mode&0o7777), 8), true
}

// has says whether an option for the file system is given.
func (m *mountOpts) has(key string) bool {
	return slices.ContainsFunc(m.data, func(p Param) bool { return p.Key == key })
}
