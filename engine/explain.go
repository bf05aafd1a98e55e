package engine

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Explanation is a plan to be read.
type Explanation struct {
	Text string
	JSON []byte
}

// Explain gives the plan that Run would hand to a monitor. It makes nothing and runs nothing.
func (e *Engine) Explain(ctx context.Context, opt RunOptions) (*Explanation, error) {
	opt.Pull = "never"
	r := &run{e: e, opt: opt, dry: true}
	for _, stage := range []func(context.Context) error{r.resolveImage, r.makeRecord, r.makeSpec} {
		if err := stage(ctx); err != nil {
			return nil, err
		}
	}
	s, err := r.standIns()
	if err != nil {
		return nil, err
	}
	defer s.close()
	if err := r.compile(ctx); err != nil {
		return nil, err
	}
	b, err := r.plan.JSON()
	if err != nil {
		return nil, err
	}
	return &Explanation{Text: s.real.Replace(r.plan.Text()), JSON: []byte(s.real.Replace(string(b)))}, nil
}

// standIns are what a dry run shows to the plan in the place of mount sources
// that a real run would have made first: the plan only looks whether a source is a
// file or a directory. They are descriptors, so nothing is made on disk.
type standIns struct {
	files []*os.File
	real  *strings.Replacer // from the stand-ins' paths to the real ones
}

func (s *standIns) close() {
	for _, f := range s.files {
		f.Close()
	}
}

func (r *run) standIns() (*standIns, error) {
	s := &standIns{}
	var pairs []string
	for i := range r.spec.Mounts {
		m := &r.spec.Mounts[i]
		if m.Type != "bind" || unix.Access(m.Source, unix.F_OK) == nil {
			continue
		}
		f, err := standIn(m.Destination)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("stand in for %s: %w", m.Source, err)
		}
		s.files = append(s.files, f)
		path := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
		// Quoted as the plan quotes it: /fd/1 must not be found in /fd/10.
		pairs = append(pairs, `"`+path+`"`, `"`+m.Source+`"`, `\"`+path+`\"`, `\"`+m.Source+`\"`, path+" ", m.Source+" ")
		m.Source = path
	}
	s.real = strings.NewReplacer(pairs...)
	return s, nil
}

// standIn opens a file for the generated files, and a directory for the rest.
func standIn(destination string) (*os.File, error) {
	switch destination {
	case "/etc/hosts", "/etc/hostname", "/etc/resolv.conf":
		fd, err := unix.MemfdCreate("viv-stand-in", unix.MFD_CLOEXEC)
		return os.NewFile(uintptr(fd), "stand-in"), err
	}
	return os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
}
