package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"vivarium/image/store"
	"vivarium/layer"
)

// runMount is one --mount of RUN.
type runMount struct {
	instructions.Mount
	n      int // which of its kind
	o      *origin
	lower  []string // of a stage or image that is bound
	list   []pick
	secret Secret
	given  bool // of a secret or an agent: there is one
	socket string
}

func (m *runMount) close() {
	if m.o != nil {
		m.o.close()
	}
}

func (r *running) setUpMounts(c *instructions.RunCommand) error {
	kinds := map[instructions.MountType]int{}
	for _, im := range instructions.GetMounts(c) {
		m := &runMount{Mount: *im, n: kinds[im.Type]}
		kinds[im.Type]++
		if m.Target != "" && !path.IsAbs(m.Target) {
			m.Target = r.s.abs(m.Target)
		}
		switch m.Type {
		case instructions.MountTypeSecret:
			if err := m.setSecret(r); err != nil {
				return err
			}
		case instructions.MountTypeSSH:
			if err := m.setAgent(r); err != nil {
				return err
			}
		default:
			if path.Clean(m.Target) == "/" {
				return fmt.Errorf("invalid mount target %q", m.Target)
			}
		}
		r.mounts = append(r.mounts, m)
	}
	return nil
}

func (m *runMount) setSecret(r *running) error {
	id := m.CacheID
	if id == "" {
		if m.Target == "" {
			return errors.New("one of source, target required")
		}
		id = path.Base(m.Target)
	}
	m.CacheID = id
	if m.Target == "" && m.Env == nil {
		m.Target = "/run/secrets/" + path.Base(id)
	}
	m.secret, m.given = r.s.b.o.Secrets[id]
	if !m.given && m.Required {
		return fmt.Errorf("secret %s: not found (give it with --secret id=%s,src=FILE)", id, id)
	}
	return nil
}

func (m *runMount) setAgent(r *running) error {
	if m.CacheID == "" {
		m.CacheID = "default"
	}
	if m.Target == "" {
		m.Target = fmt.Sprintf("/run/buildkit/ssh_agent.%d", m.n)
	}
	m.socket, m.given = r.s.b.o.SSH[m.CacheID]
	if !m.given && m.Required {
		return fmt.Errorf("ssh %s: no agent was given (give it with --ssh %s)", m.CacheID, m.CacheID)
	}
	return nil
}

// addTo adds to the key what the command's result may depend on. What is in a cache or
// a secret does not count.
func (m *runMount) addTo(ctx context.Context, r *running, h *hasher) error {
	h.add(string(m.Type), m.Target, m.CacheID, strconv.FormatBool(m.ReadOnly), strconv.FormatInt(m.SizeLimit, 10))
	if m.Type == instructions.MountTypeSecret || m.Type == instructions.MountTypeSSH {
		h.add(strconv.FormatBool(m.given && m.Env != nil))
		return nil
	}
	if m.Type == instructions.MountTypeBind || m.Type == instructions.MountTypeCache && m.From != "" {
		return m.addFiles(ctx, r, h)
	}
	return nil
}

// addFiles opens what is bound, and adds what it depends on.
func (m *runMount) addFiles(ctx context.Context, r *running, h *hasher) error {
	b := r.s.b
	h.add(m.Source)
	if m.From != "" && !b.isLocal(m.From) {
		chain, lower, err := b.layersOf(ctx, m.From)
		if err != nil {
			return err
		}
		m.lower = lower
		h.add(string(chain))
		return nil
	}
	o, err := b.source(ctx, m.From)
	if err != nil {
		return err
	}
	m.o = o
	if m.list, err = o.picks(ctx, escapePattern(m.Source)); err != nil {
		return err
	}
	sel, err := b.digestOf(ctx, o, m.list, nil, func(p pick) layer.Filter { return o.filter(p, nil) })
	if err != nil {
		return err
	}
	h.add(string(sel.digest))
	return nil
}

// escapePattern is a path that means itself.
func escapePattern(s string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(s)
}

// layersOf finds the layers of a stage or an image, top-most first.
func (b *builder) layersOf(ctx context.Context, from string) (digest.Digest, []string, error) {
	ref := from
	if c, ok := b.o.Contexts[strings.ToLower(from)]; ok {
		ref = c.Image
	} else if d := b.f.stage(from, false); d != nil {
		st, err := b.wait(ctx, d)
		if err != nil {
			return "", nil, err
		}
		return st.chain, st.lower(), nil
	}
	f, err := b.image(ctx, ref, &b.o.Platform)
	if err != nil {
		return "", nil, err
	}
	return f.chain, (&stage{layers: f.layers}).lower(), nil
}

// mount adds to a command what it is to see.
func (m *runMount) mount(ctx context.Context, r *running, c *Command) (release func() error, err error) {
	switch m.Type {
	case instructions.MountTypeTmpfs:
		c.Mounts = append(c.Mounts, Mount{Target: m.Target, Size: m.SizeLimit})
		return nil, nil
	case instructions.MountTypeSecret:
		return nil, m.mountSecret(r, c)
	case instructions.MountTypeSSH:
		return nil, m.mountAgent(r, c)
	case instructions.MountTypeCache:
		return m.mountCache(ctx, r, c)
	}
	return nil, m.mountBind(ctx, r, c)
}

func (m *runMount) mountBind(ctx context.Context, r *running, c *Command) error {
	t := r.s.b.t
	mt := Mount{Target: m.Target, ReadOnly: m.ReadOnly}
	if m.o != nil {
		dir, err := m.localDir(ctx, t.Dir())
		if err != nil {
			return err
		}
		mt.Source = dir
	} else {
		dirs, file, err := layer.Locate(m.lower, m.Source)
		if err != nil {
			return fmt.Errorf("bind mount of %s: %w", m.From, err)
		}
		if mt.Source = file; file == "" {
			mt.Lower = dirs
		}
		if len(dirs) == 1 {
			mt.Source, mt.Lower = dirs[0], nil
		}
	}
	if !m.ReadOnly {
		// What the command writes is nobody's, as BuildKit has it.
		if err := discardWrites(&mt, t.Dir()); err != nil {
			return err
		}
	}
	c.Mounts = append(c.Mounts, mt)
	return nil
}

// discardWrites puts a layer over what is bound, which goes with the build.
func discardWrites(mt *Mount, tmp string) error {
	if mt.Source != "" && !mt.isDir() {
		mt.ReadOnly = true
		return nil
	}
	if mt.Source != "" {
		mt.Lower, mt.Source = []string{mt.Source}, ""
	}
	dir, err := os.MkdirTemp(tmp, "bound-")
	if err != nil {
		return err
	}
	mode, uid, gid, err := layer.RootMode(mt.Lower)
	if err != nil {
		return err
	}
	mt.Upper, mt.Work = dir+"/upper", dir+"/work"
	for _, d := range []string{mt.Upper, mt.Work} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	if err := os.Chown(mt.Upper, uid, gid); err != nil {
		return err
	}
	return os.Chmod(mt.Upper, mode)
}

// localDir gives a directory of this machine as the command may see it: a copy, if
// files are left out or if it is a link's turn to say where it leads.
func (m *runMount) localDir(ctx context.Context, tmp string) (string, error) {
	if len(m.list) != 1 {
		return "", fmt.Errorf("%q: not found in %s", m.Source, m.o.name)
	}
	dir, err := os.MkdirTemp(tmp, "bind-")
	if err != nil {
		return "", err
	}
	root, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	p := m.list[0]
	opts := layer.PlaceOptions{Owner: &layer.Owner{}, Filter: m.o.filter(p, nil)}
	if err := layer.Place(ctx, m.o.root, "/"+p.path, root, "/files", opts); err != nil {
		return "", fmt.Errorf("copy what is to be bound: %w", err)
	}
	return dir + "/files", nil
}

func (m *runMount) mountSecret(r *running, c *Command) error {
	if !m.given {
		return nil
	}
	value := m.secret.Value
	if m.secret.File != "" {
		b, err := os.ReadFile(m.secret.File)
		if err != nil {
			return fmt.Errorf("secret %s: %w", m.CacheID, err)
		}
		value = b
	}
	if m.Env != nil {
		name := *m.Env
		if name == "" {
			name = m.CacheID
		}
		c.Env = append(c.Env, name+"="+string(value))
	}
	if m.Target == "" {
		return nil
	}
	dir, err := os.MkdirTemp(r.s.b.t.Dir(), "secret-")
	if err != nil {
		return err
	}
	name := dir + "/secret"
	if err := os.WriteFile(name, value, 0o600); err != nil {
		return err
	}
	if err := os.Chown(name, int(or(m.UID, 0)), int(or(m.GID, 0))); err != nil {
		return err
	}
	if err := os.Chmod(name, os.FileMode(or(m.Mode, 0o400))&0o777); err != nil {
		return err
	}
	c.Mounts = append(c.Mounts, Mount{Target: m.Target, Source: name, ReadOnly: true})
	return nil
}

func (m *runMount) mountAgent(r *running, c *Command) error {
	if !m.given {
		return nil
	}
	if st, err := os.Stat(m.socket); err != nil || st.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("ssh %s: %s is no socket of an agent", m.CacheID, m.socket)
	}
	c.Mounts = append(c.Mounts, Mount{Target: m.Target, Source: m.socket})
	c.Env = append(c.Env, "SSH_AUTH_SOCK="+m.Target)
	return nil
}

func or(v *uint64, other uint64) uint64 {
	if v == nil {
		return other
	}
	return *v
}

// mountCache takes a directory that outlives the build, by its name.
func (m *runMount) mountCache(ctx context.Context, r *running, c *Command) (func() error, error) {
	id := m.CacheID
	if id == "" {
		id = path.Clean(m.Target)
	}
	sharing := store.CacheSharing(m.CacheSharing)
	fill := func(dir string) error { return m.fillCache(ctx, r, dir) }
	dir, release, err := r.s.b.o.Store.CacheDir(ctx, id, sharing, fill)
	if err != nil {
		return nil, fmt.Errorf("cache mount %s: %w", m.Target, err)
	}
	c.Mounts = append(c.Mounts, Mount{Target: m.Target, Source: dir, ReadOnly: m.ReadOnly})
	return release, nil
}

// fillCache makes the new directory of a cache mount.
func (m *runMount) fillCache(ctx context.Context, r *running, dir string) error {
	if m.From != "" {
		root, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer root.Close()
		o := m.o
		if o == nil {
			if o, err = r.s.b.unionOrigin(ctx, m.From, "", m.lower); err != nil {
				return err
			}
			defer o.close()
		}
		if err := layer.Place(ctx, o.root, path.Join("/", m.Source), root, "/", layer.PlaceOptions{}); err != nil {
			return err
		}
	}
	if err := os.Chown(dir, int(or(m.UID, 0)), int(or(m.GID, 0))); err != nil {
		return err
	}
	return unix.Chmod(dir, uint32(or(m.Mode, 0o755))&0o7777)
}
