package layer

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// SpellOut makes an overlay's upper directory say the same as the tar that Diff writes of
// it: an opaque directory becomes one with a whiteout for each name that it hides, and
// whiteouts that hide nothing go. Then the directory may lie above other layers than those
// it was written above, as may the tar. Nobody may have it mounted.
func SpellOut(ctx context.Context, up Upper) error {
	v, err := OpenView(up.Lower)
	if err != nil {
		return err
	}
	defer v.Close()
	s := &speller{ctx: ctx, up: &up}
	return s.dir(int(up.Dir.Fd()), up.top(v))
}

type speller struct {
	ctx context.Context
	up  *Upper
}

func (s *speller) dir(dirfd int, at *spot) error {
	defer at.below.close()
	fd, err := unix.Openat(dirfd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open directory %q: %w", at.name, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat %q: %w", at.name, err)
	}
	items, err := s.up.items(fd, at)
	if err != nil {
		return err
	}
	changed := false
	for _, it := range items {
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		did, err := s.name(fd, it, at)
		if err != nil {
			return fmt.Errorf("spell out %q: %w", joinName(at.name, it.base), err)
		}
		changed = changed || did
	}
	for _, attr := range []string{xattrOpaque, xattrOpaqueUser} {
		if err := unix.Fremovexattr(fd, attr); err != nil && err != unix.ENODATA && err != unix.EOPNOTSUPP && err != unix.EPERM {
			return fmt.Errorf("spell out %q: %w", at.name, err)
		}
	}
	if !changed {
		return nil
	}
	return unix.UtimesNanoAt(fd, ".", []unix.Timespec{st.Atim, st.Mtim}, 0)
}

// name makes one name explicit, and tells whether the directory was changed.
func (s *speller) name(fd int, it item, at *spot) (bool, error) {
	if it.gone {
		return true, unix.Mknodat(fd, it.base, unix.S_IFCHR, 0)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(fd, it.base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	switch {
	case isWhiteout(&st):
		old, err := at.lookup(it.base)
		if err != nil || old != nil {
			return false, err
		}
		return true, unix.Unlinkat(fd, it.base, 0)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return false, nil
	}
	sub, err := unix.Openat(fd, it.base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(sub)
	return false, s.dir(sub, s.up.inside(at, it.base, &st))
}
