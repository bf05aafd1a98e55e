package layer

import (
	"context"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// SettleOptions say how an upper directory becomes a layer for good.
type SettleOptions struct {
	// NotAfter, if not zero, is the latest modification time that a file may have:
	// later ones are set to it, in the tree and in the tar (SOURCE_DATE_EPOCH,
	// reproducible-builds.org).
	NotAfter time.Time
}

// Settle is Diff for an upper directory that becomes a layer's tree itself: tar and tree
// say the same of each file. Nobody else may write to it, and with NotAfter nobody may
// have it mounted.
func Settle(ctx context.Context, w io.Writer, upper *os.File, opts SettleOptions) (Stats, error) {
	p := newPacker(ctx, w)
	p.layer, p.notAfter = true, opts.NotAfter
	err := p.finish(p.tree(int(upper.Fd()), ""))
	return p.stats, err
}

// time is the file's modification time; one that is too late is changed.
func (p *packer) time(dirfd int, base string, st *unix.Stat_t) (time.Time, error) {
	t := mtime(st)
	if p.notAfter.IsZero() || !t.After(p.notAfter) {
		return t, nil
	}
	ts, err := unix.TimeToTimespec(p.notAfter)
	if err != nil {
		return t, err
	}
	return p.notAfter, unix.UtimesNanoAt(dirfd, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}
