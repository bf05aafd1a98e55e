package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// LogsOptions chooses log lines.
type LogsOptions struct {
	Stdout, Stderr bool
	Since, Until   time.Time // zero: no bound
	Tail           int       // number of last lines; negative: all
	Follow         bool
}

// LogLine is one entry of a container's log. Log ends with a newline unless the
// entry is a part of a long line.
type LogLine struct {
	Log    string            `json:"log"`
	Stream string            `json:"stream"`
	Time   time.Time         `json:"time"`
	Attrs  map[string]string `json:"attrs,omitempty"`
}

func (e *Engine) logFile(id string) string { return e.containerDir(id) + "/log.json" }

// Logs calls fn for each line that opt chooses, oldest first. With Follow it
// goes on until the container has ended, or the context has.
func (e *Engine) Logs(ctx context.Context, ref string, opt LogsOptions, fn func(LogLine) error) error {
	c, err := e.Container(ref)
	if err != nil {
		return err
	}
	if driver := c.logDriver(); driver == "none" {
		return errorf(ErrUnsupported, "configured logging driver does not support reading")
	}
	if !opt.Follow {
		return readLogs(e.logFile(c.ID), opt, fn)
	}
	return e.followLogs(ctx, c, opt, fn)
}

// logFiles lists a log's files, oldest first: log.json.2, log.json.1, log.json.
func logFiles(path string) []string {
	names, _ := filepath.Glob(path + ".*")
	type numbered struct {
		n    int
		path string
	}
	var old []numbered
	for _, p := range names {
		if n, err := strconv.Atoi(p[len(path)+1:]); err == nil && n > 0 {
			old = append(old, numbered{n, p})
		}
	}
	slices.SortFunc(old, func(a, b numbered) int { return b.n - a.n })
	files := make([]string, 0, len(old)+1)
	for _, o := range old {
		files = append(files, o.path)
	}
	return append(files, path)
}

// openLogs opens all files of a log, oldest first. A rotation while it opens them
// could make it miss one, so it looks again: first whether there are no names but
// those that it opened, then whether each file still has its name. Rotation only
// ever gives a file a higher number, so a file that has its name at the end had it
// at the second look too, and no file can have passed it unseen.
func openLogs(path string) ([]*os.File, error) {
	for range 100 {
		files, err := openNames(logFiles(path))
		if err != nil {
			return nil, err
		}
		if allOpen(files, path) {
			return files, nil
		}
		closeAll(files)
	}
	return nil, fmt.Errorf("open the log %s: its files are renamed faster than they can be opened", path)
}

// openNames leaves out names that are gone.
func openNames(names []string) ([]*os.File, error) {
	var open []*os.File
	for _, p := range names {
		f, err := os.Open(p)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			closeAll(open)
			return nil, fmt.Errorf("open the log: %w", err)
		}
		open = append(open, f)
	}
	return open, nil
}

// allOpen tells whether files are all there are, by the names that they have now.
// The newest may be missing: it is made after the one before it was renamed.
func allOpen(files []*os.File, path string) bool {
	var opened []string
	for _, f := range files {
		opened = append(opened, f.Name())
	}
	if !slices.Contains(opened, path) {
		opened = append(opened, path)
	}
	if !slices.Equal(opened, logFiles(path)) {
		return false
	}
	return !slices.ContainsFunc(files, func(f *os.File) bool { return !sameFile(f, f.Name()) })
}

func isSame(a, b *os.File) bool {
	x, err1 := a.Stat()
	y, err2 := b.Stat()
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func readLogs(path string, opt LogsOptions, fn func(LogLine) error) error {
	files, err := openLogs(path)
	if err != nil {
		return err
	}
	defer closeAll(files)
	_, err = emitLogs(files, opt, fn)
	if errors.Is(err, errPastUntil) {
		return nil
	}
	return err
}

// emitLogs reads the files and gives the reader of the last one, to follow it.
func emitLogs(files []*os.File, opt LogsOptions, fn func(LogLine) error) (*lineReader, error) {
	files, err := seekTail(files, opt)
	if err != nil {
		return nil, err
	}
	var last *lineReader
	for _, f := range files {
		last = &lineReader{r: bufio.NewReaderSize(f, 64<<10)}
		if err := drainLog(last, opt, fn); err != nil {
			return nil, err
		}
	}
	return last, nil
}

var errPastUntil = errors.New("past the last time asked for")

func drainLog(lines *lineReader, opt LogsOptions, fn func(LogLine) error) error {
	for {
		b, ok := lines.next()
		if !ok {
			return nil
		}
		var l LogLine
		if json.Unmarshal(b, &l) != nil {
			continue // a line that a crash cut off
		}
		if !opt.Until.IsZero() && l.Time.After(opt.Until) {
			return errPastUntil
		}
		if !opt.wants(&l) {
			continue
		}
		if err := fn(l); err != nil {
			return err
		}
	}
}

func (o *LogsOptions) wants(l *LogLine) bool {
	if l.Stream == "stdout" && !o.Stdout || l.Stream == "stderr" && !o.Stderr {
		return false
	}
	return o.Since.IsZero() || !l.Time.Before(o.Since)
}

// seekTail leaves each file at the first of the last opt.Tail lines, and leaves
// out the files before. Docker counts entries of both streams.
func seekTail(files []*os.File, opt LogsOptions) ([]*os.File, error) {
	if opt.Tail < 0 || len(files) == 0 {
		return files, nil
	}
	left := opt.Tail
	for i := len(files) - 1; i >= 0; i-- {
		n, err := seekLastLines(files[i], left)
		if err != nil {
			return nil, fmt.Errorf("read the end of the log: %w", err)
		}
		if left -= n; left <= 0 {
			return files[i:], nil
		}
	}
	return files, nil
}

// seekLastLines puts f at the beginning of its last max lines and tells how many
// there are, at most max.
func seekLastLines(f *os.File, max int) (int, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || max == 0 {
		return 0, err
	}
	const block = 32 << 10
	buf := make([]byte, block)
	count := -1 // the newline at the very end ends the last line
	for pos := end; pos > 0; {
		n := min(pos, block)
		pos -= n
		if _, err := f.ReadAt(buf[:n], pos); err != nil {
			return 0, err
		}
		for i := n - 1; i >= 0; i-- {
			if buf[i] != '\n' {
				if count < 0 {
					count = 0 // an unfinished line at the end
				}
				continue
			}
			if count++; count == max {
				_, err := f.Seek(pos+i+1, io.SeekStart)
				return count, err
			}
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	if end > 0 {
		count++
	}
	return max0(count), err
}

func max0(n int) int { return max(n, 0) }

// followLogs reads what is there and then what comes, through rotations.
func (e *Engine) followLogs(ctx context.Context, c *Container, opt LogsOptions, fn func(LogLine) error) error {
	path := e.logFile(c.ID)
	if !opt.Until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, opt.Until)
		defer cancel()
	}
	w, err := newWatch(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("follow the log of %s: %w", short(c.ID), err)
	}
	defer w.Close()
	ended, stop := e.endOf(ctx, c)
	defer stop()
	fl := &follower{path: path, opt: opt, fn: fn}
	defer fl.close()
	err = fl.run(ctx, w, ended)
	if errors.Is(err, errPastUntil) || ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

type follower struct {
	path  string
	opt   LogsOptions
	fn    func(LogLine) error
	file  *os.File
	lines *lineReader
}

func (f *follower) close() {
	if f.file != nil {
		f.file.Close()
	}
}

func (f *follower) run(ctx context.Context, w *watch, ended <-chan struct{}) error {
	files, err := openLogs(f.path)
	if err != nil {
		return err
	}
	if len(files) > 0 {
		f.file = files[len(files)-1]
		closeLater := files[:len(files)-1]
		f.lines, err = emitLogs(files, f.opt, f.fn)
		closeAll(closeLater)
		if err != nil {
			return err
		}
	}
	for over := false; ; {
		if err := f.catchUp(); err != nil {
			return err
		}
		if over {
			return nil
		}
		select {
		case err := <-w.events:
			if err != nil {
				return err
			}
		case <-ended:
			over = true
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// catchUp reads everything that is there, in the file that is open and in those
// that came after it.
func (f *follower) catchUp() error {
	for {
		if f.lines != nil {
			if err := drainLog(f.lines, f.opt, f.fn); err != nil {
				return err
			}
			if sameFile(f.file, f.path) {
				return nil
			}
			// Renamed away; what was written before the rename is read first.
			if err := drainLog(f.lines, f.opt, f.fn); err != nil {
				return err
			}
		}
		next, err := f.successor()
		if err != nil || next == nil {
			return err
		}
		f.close()
		f.file, f.lines = next, &lineReader{r: bufio.NewReaderSize(next, 64<<10)}
	}
}

// successor opens the file after the one that is open: several rotations may
// have gone by. Nil: it is not there yet.
func (f *follower) successor() (*os.File, error) {
	files, err := openLogs(f.path)
	if err != nil {
		return nil, err
	}
	next := 0 // when the open one has been deleted by rotation, the oldest that is left
	for i, g := range files {
		if f.file != nil && isSame(f.file, g) {
			next = i + 1
		}
	}
	for i, g := range files {
		if i != next {
			g.Close()
		}
	}
	if next >= len(files) {
		return nil, nil
	}
	return files[next], nil
}
