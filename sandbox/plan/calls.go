package plan

import (
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"vivarium/sandbox/program"
)

// The helpers here add system calls that several steps use.

const cwd = unix.AT_FDCWD

func (b *builder) openat(dir arg, name string, flags int) (int16, ref) {
	s := b.slot()
	return s, b.do(unix.SYS_OPENAT, dir, b.str(name), n(flags|unix.O_CLOEXEC), n(0)).into(s)
}

// inRoot opens a path below a directory as a process would whose root it is:
// no symlink, "..", or magic link leads out (openat2(2)).
func (b *builder) inRoot(root int16, name string, flags int) (int16, ref) {
	how := b.words(uint64(flags|unix.O_CLOEXEC), 0, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	s := b.slot()
	return s, b.do(unix.SYS_OPENAT2, slot(root), b.str(name), ptr(how), n(unix.SizeofOpenHow)).into(s)
}

// write writes a text to a descriptor in one call.
func (b *builder) write(fd int16, text string) ref {
	return b.do(unix.SYS_WRITE, slot(fd), b.str(text), n(len(text)))
}

func (b *builder) close(fd int16) { b.do(unix.SYS_CLOSE, slot(fd)) }

// target opens a mount target below root, and makes it, with its parents, when
// it is missing: a directory, or an empty file. Each part is resolved in the
// root anew, so that a directory that is exchanged for a symlink meanwhile
// leads nowhere but into the root.
func (b *builder) target(root int16, name string, dir bool) int16 {
	return b.targetAs(root, name, dir, unix.O_PATH)
}

// targetAs is target with flags of its own for the last part.
func (b *builder) targetAs(root int16, name string, dir bool, flags int) int16 {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		name = "."
	}
	t, first := b.inRoot(root, name, flags)
	first.tolerate(unix.ENOENT)
	parent, rest := root, ""
	parts := strings.Split(name, "/")
	for _, part := range parts[:len(parts)-1] {
		rest = path.Join(rest, part)
		b.do(unix.SYS_MKDIRAT, slot(parent), b.str(part), n(0o755)).tolerate(unix.EEXIST)
		parent, _ = b.inRoot(root, rest, unix.O_PATH|unix.O_DIRECTORY)
	}
	last := b.str(parts[len(parts)-1])
	if dir {
		b.do(unix.SYS_MKDIRAT, slot(parent), last, n(0o755)).tolerate(unix.EEXIST)
	} else {
		b.do(unix.SYS_MKNODAT, slot(parent), last, n(unix.S_IFREG|0o644), n(0)).tolerate(unix.EEXIST)
	}
	again := b.words(uint64(flags|unix.O_CLOEXEC), 0, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	b.do(unix.SYS_OPENAT2, slot(root), b.str(name), ptr(again), n(unix.SizeofOpenHow)).into(t)
	b.onSuccessSkipHere(first)
	return t
}

// attach moves a detached mount onto a target.
func (b *builder) attach(mount, target int16) ref {
	return b.do(unix.SYS_MOVE_MOUNT, slot(mount), b.str(""), slot(target), b.str(""),
		n(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// newFS makes a file system and a detached mount of it (fsopen(2), fsmount(2)).
func (b *builder) newFS(fstype, source string, params []Param, attr uint64) int16 {
	fs, m := b.slot(), b.slot()
	b.do(unix.SYS_FSOPEN, b.str(fstype), n(unix.FSOPEN_CLOEXEC)).into(fs)
	if source != "" {
		b.do(unix.SYS_FSCONFIG, slot(fs), n(unix.FSCONFIG_SET_STRING), b.str("source"), b.str(source), n(0))
	}
	for _, p := range params {
		if p.Flag {
			b.do(unix.SYS_FSCONFIG, slot(fs), n(unix.FSCONFIG_SET_FLAG), b.str(p.Key), n(0), n(0))
		} else {
			b.do(unix.SYS_FSCONFIG, slot(fs), n(unix.FSCONFIG_SET_STRING), b.str(p.Key), b.str(p.Value), n(0))
		}
	}
	b.do(unix.SYS_FSCONFIG, slot(fs), n(unix.FSCONFIG_CMD_CREATE), n(0), n(0), n(0))
	b.do(unix.SYS_FSMOUNT, slot(fs), n(unix.FSMOUNT_CLOEXEC), n(attr)).into(m)
	b.close(fs)
	return m
}

// tree makes a detached copy of the mount at a path of the host, or of a
// descriptor when the path is empty (open_tree(2)).
func (b *builder) tree(dir arg, name string, recursive bool) int16 {
	flags := unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	m := b.slot()
	b.do(unix.SYS_OPEN_TREE, dir, b.str(name), n(flags)).into(m)
	return m
}

// setAttr changes a mount's attributes (mount_setattr(2)).
func (b *builder) setAttr(mount int16, set, clear, propagation uint64, recursive bool) ref {
	flags := unix.AT_EMPTY_PATH
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return b.do(unix.SYS_MOUNT_SETATTR, slot(mount), b.str(""), n(flags), ptr(b.words(set, clear, propagation, 0)), n(unix.MOUNT_ATTR_SIZE_VER0))
}

// report sends a message of 12 bytes over the sync socket, with a descriptor
// when file is not program.None (unix(7), SCM_RIGHTS).
func (b *builder) report(kind byte, file int16) {
	if file == program.None {
		b.do(unix.SYS_WRITE, slot(program.SlotSync), ptr(b.words32(uint32(kind), 0, 0)), n(12))
		return
	}
	b.sendFile(program.SlotSync, kind, file)
}

func (b *builder) sendFile(socket int16, kind byte, file int16) { b.sendFiles(socket, kind, 0, file) }

// sendFiles sends one descriptor or two, with a number.
func (b *builder) sendFiles(socket int16, kind byte, value uint32, files ...int16) {
	body := b.words32(uint32(kind), value, 0)
	iov := b.words(0, 12)
	b.reloc(iov, body)
	space := unix.CmsgSpace(4 * len(files))
	control := b.buf(space)
	*b.word(control) = uint64(unix.CmsgLen(4 * len(files)))
	*b.word(control + 8) = unix.SOL_SOCKET | unix.SCM_RIGHTS<<32
	for i, f := range files {
		b.do(int(program.PokeInt), n(control+16+uint64(4*i)), n(int(f)))
	}
	// struct msghdr: name, namelen, iov, iovlen, control, controllen, flags
	msg := b.words(0, 0, 0, 1, 0, uint64(space), 0)
	b.reloc(msg+16, iov)
	b.reloc(msg+32, control)
	b.do(unix.SYS_SENDMSG, slot(socket), ptr(msg), n(0))
}

// await waits for the parent's word; a parent that is gone ends the child.
func (b *builder) await() {
	at := b.words(0)
	b.do(unix.SYS_READ, slot(program.SlotSync), ptr(at), n(1))
	b.do(int(program.Check), n(at), n(0xff), n(uint64('G')), n(int(unix.ECANCELED)))
}
