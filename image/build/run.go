package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"vivarium/image/store"
	"vivarium/layer"
)

// running is one RUN.
type running struct {
	s      *stage
	c      Command
	text   string
	mounts []*runMount
	script *inlineFiles
}

// inlineFiles are here-documents that a command reads as files.
type inlineFiles struct {
	files []instructions.ShellInlineFile
}

func (s *stage) doRun(ctx context.Context, c *instructions.RunCommand, location []parser.Range) error {
	r := &running{s: s}
	if err := r.setUp(c); err != nil || s.b.checking {
		return err
	}
	st := s.begin("RUN " + r.text)
	m, chain, err := r.layer(ctx, st)
	st.end(err == nil && m.cached, err)
	if err != nil {
		return s.failed(st, err, location)
	}
	s.add(m, chain, r.history())
	return nil
}

func (r *running) setUp(c *instructions.RunCommand) error {
	s, k := r.s, &r.s.config.Config
	args := c.CmdLine
	r.text = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(c.String()), "RUN"))
	if len(c.Files) > 0 {
		args = r.hereDocument(c)
	} else if c.PrependShell {
		args = append(slices.Clone(s.shell()), strings.Join(args, " "))
	}
	if len(args) == 0 {
		return errors.New("RUN needs a command")
	}
	env := s.env()
	if _, ok := env.Get("PATH"); !ok {
		env.set("PATH", defaultPath)
	}
	r.c = Command{Args: args, Env: env.list(), Dir: k.WorkingDir, User: k.User, ExtraHosts: s.b.o.ExtraHosts, Network: s.b.o.Network}
	if r.c.Network == "" {
		r.c.Network = "default"
	}
	if n := instructions.GetNetwork(c); n != instructions.NetworkDefault {
		r.c.Network = string(n)
	}
	if instructions.GetNetwork(c) == instructions.NetworkHost && !s.b.o.AllowHost && s.b.o.Network != "host" {
		return errors.New("RUN --network=host needs the permission --allow network.host")
	}
	if r.c.Insecure = instructions.GetSecurity(c) == instructions.SecurityInsecure; r.c.Insecure && !s.b.o.AllowInsecure {
		return errors.New("RUN --security=insecure needs the permission --allow security.insecure")
	}
	if len(instructions.GetDevices(c)) > 0 {
		return errors.New("RUN --device is not supported: CDI devices are not known here")
	}
	return r.setUpMounts(c)
}

// hereDocument makes the command of RUN <<EOF: the shell gets the text as its
// command, or, if it begins with "#!", runs it as a file; files that a command reads
// are put where it looks for them (BuildKit, dispatchRun).
func (r *running) hereDocument(c *instructions.RunCommand) []string {
	shell := r.s.shell()
	if len(c.CmdLine) == 1 && strings.HasPrefix(c.CmdLine[0], "<<") {
		text := c.Files[0].Data
		if c.Files[0].Chomp {
			text = parser.ChompHeredocContent(text)
		}
		if !strings.HasPrefix(text, "#!") {
			return append(slices.Clone(shell), text)
		}
		r.script = &inlineFiles{[]instructions.ShellInlineFile{{Name: c.Files[0].Name, Data: text}}}
		return []string{hereDir + "/" + c.Files[0].Name}
	}
	full := strings.Join(c.CmdLine, " ")
	for _, f := range c.Files {
		full += "\n" + f.Data + f.Name
	}
	return append(slices.Clone(shell), full)
}

// hereDir is where the file of a here-document is that is run itself.
const hereDir = "/dev/pipes"

// history is the line of the image's history: the command as it was run, behind the
// arguments that it could see, as Docker writes it.
func (r *running) history() string {
	line := "RUN "
	if n := len(r.s.args.names); n > 0 {
		var list []string
		for _, k := range r.s.args.names {
			if !slices.Contains(proxyArgs, k) {
				list = append(list, k+"="+r.s.args.values[k])
			}
		}
		line += fmt.Sprintf("|%d %s ", len(list), strings.Join(list, " "))
	}
	return line + strings.Join(r.c.Args, " ")
}

// key is the digest of all that the command's result depends on.
func (r *running) key(ctx context.Context) (digest.Digest, error) {
	h := newHasher("run")
	h.add(string(r.s.chain), r.c.Dir, r.c.User, r.c.Network, fmt.Sprint(r.c.Insecure), r.s.epoch())
	h.list(r.c.Args)
	h.list(r.c.Env)
	h.list(r.c.ExtraHosts)
	if r.script != nil {
		for _, f := range r.script.files {
			h.add(f.Name, f.Data)
		}
	}
	for _, m := range r.mounts {
		if err := m.addTo(ctx, r, h); err != nil {
			return "", err
		}
	}
	return h.sum(), nil
}

func (r *running) layer(ctx context.Context, st *step) (*made, digest.Digest, error) {
	key, err := r.key(ctx)
	if err != nil {
		return nil, "", err
	}
	defer func() {
		for _, m := range r.mounts {
			m.close()
		}
	}()
	m, err := r.s.b.makeLayer(ctx, st, key, r.s.lower(), func(ctx context.Context, tree *store.Tree) (bool, error) {
		return true, r.carryOut(ctx, st, tree)
	})
	return m, key, err
}

func (r *running) carryOut(ctx context.Context, st *step, tree *store.Tree) error {
	s, c := r.s, r.c
	if p := s.config.Platform; s.b.o.CanRun != nil && p.Architecture != "" {
		if err := s.b.o.CanRun(p); err != nil {
			return err
		}
	}
	c.Output = st
	// Proxies are for this run only.
	for _, k := range proxyArgs {
		if v, ok := s.b.o.BuildArgs[k]; ok && !slices.ContainsFunc(c.Env, func(kv string) bool { return strings.HasPrefix(kv, k+"=") }) {
			c.Env = append(c.Env, k+"="+v)
		}
	}
	var undo []func() error
	defer func() {
		for _, u := range slices.Backward(undo) {
			_ = u() // locks and files of the staging directory, which goes as a whole
		}
	}()
	for _, m := range r.mounts {
		release, err := m.mount(ctx, r, &c)
		if err != nil {
			return err
		}
		if release != nil {
			undo = append(undo, release)
		}
	}
	if err := r.addScript(&c); err != nil {
		return err
	}
	bottom, err := r.bottom(&c)
	if err != nil {
		return err
	}
	if c.Layer, err = s.b.prepare(ctx, tree, append(s.lower(), bottom)); err != nil {
		return err
	}
	code, err := s.b.o.Run(ctx, &c)
	if err != nil {
		return err
	}
	if code != 0 {
		return &ExitError{Command: strings.Join(c.Args, " "), Code: code}
	}
	return nil
}

// addScript puts the file of a here-document that is run itself beside the layers.
func (r *running) addScript(c *Command) error {
	if r.script == nil {
		return nil
	}
	dir, err := os.MkdirTemp(r.s.b.t.Dir(), "here-")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for _, f := range r.script.files {
		name := path.Join(dir, path.Base(f.Name))
		if err := os.WriteFile(name, []byte(f.Data), 0o755); err != nil {
			return err
		}
		if err := os.Chmod(name, 0o755); err != nil {
			return err
		}
	}
	c.Mounts = append(c.Mounts, Mount{Target: hereDir, Source: dir, ReadOnly: true})
	return nil
}

// fixedTargets is what a container has mounted on in any case.
var fixedTargets = []layer.Target{
	{Path: "dev", Dir: true}, {Path: "dev/pts", Dir: true}, {Path: "dev/shm", Dir: true}, {Path: "dev/mqueue", Dir: true}, {Path: "dev/console"},
	{Path: "etc/hostname"}, {Path: "etc/hosts"}, {Path: "etc/resolv.conf"}, {Path: "proc", Dir: true}, {Path: "sys", Dir: true},
}

// bottom makes a layer for below all others, which has what mounts lie on: so the step's
// own layer has what the command did, and nothing else. Where the image has the same, the
// image's is what is seen.
func (r *running) bottom(c *Command) (string, error) {
	dir, err := os.MkdirTemp(r.s.b.t.Dir(), "bottom-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	f, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	defer f.Close()
	targets := slices.Clone(fixedTargets)
	for _, m := range c.Mounts {
		if t := strings.Trim(path.Clean("/"+m.Target), "/"); t != "" && !strings.HasPrefix(t, "dev/") {
			targets = append(targets, layer.Target{Path: t, Dir: m.isDir()})
		}
	}
	return dir, layer.MakeStubs(f, r.s.lower(), targets)
}

func (m *Mount) isDir() bool {
	if m.Source == "" {
		return true
	}
	var st unix.Stat_t
	return unix.Stat(m.Source, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}
