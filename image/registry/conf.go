package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/BurntSushi/toml"

	"vivarium/image"
)

// ErrBlocked says that registries.conf forbids a registry.
var ErrBlocked = errors.New("registry is blocked")

// Conf is what containers-registries.conf(5), version 2, says of registries. The zero
// Conf says nothing.
type Conf struct {
	search     []string
	registries []confRegistry
}

// confFile is the file. What this package does not act on is not read.
type confFile struct {
	Search     *[]string      `toml:"unqualified-search-registries"`
	Registries []confRegistry `toml:"registry"`
}

type confRegistry struct {
	confEndpoint
	Prefix       string       `toml:"prefix"`
	Blocked      bool         `toml:"blocked"`
	ByDigestOnly bool         `toml:"mirror-by-digest-only"`
	Mirrors      []confMirror `toml:"mirror"`
}

type confMirror struct {
	confEndpoint
	Pull string `toml:"pull-from-mirror"` // all, digest-only, tag-only
}

type confEndpoint struct {
	Location string `toml:"location"`
	Insecure bool   `toml:"insecure"`
}

const maxConf = 4 << 20

// LoadConf reads CONTAINERS_REGISTRIES_CONF, else $HOME/.config/containers/registries.conf,
// else /etc/containers/registries.conf, and then what is in the directories
// registries.conf.d beside the last two, by name; a later file replaces what an
// earlier one says of the same prefix. No file is the zero Conf.
func LoadConf() (*Conf, error) {
	if path := os.Getenv("CONTAINERS_REGISTRIES_CONF"); path != "" {
		c := &Conf{}
		return c, c.addFile(path)
	}
	const system = "/etc/containers/registries.conf"
	main, dirs := system, []string{system + ".d"}
	if home, err := os.UserHomeDir(); err == nil {
		user := home + "/.config/containers/registries.conf"
		if _, err := os.Stat(user); err == nil {
			main = user
		}
		dirs = append(dirs, user+".d")
	}
	c := &Conf{}
	if err := c.addFile(main); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, dir := range dirs {
		files, err := filepath.Glob(dir + "/*.conf")
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", dir, err)
		}
		for _, f := range files {
			if err := c.addFile(f); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

func (c *Conf) addFile(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if st.Size() > maxConf {
		return fmt.Errorf("read %s: it has %d bytes, more than is sensible", path, st.Size())
	}
	b, err := os.ReadFile(path)
	if err == nil {
		err = c.add(b)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// add reads one file over what was read before.
func (c *Conf) add(b []byte) error {
	var f confFile
	if _, err := toml.Decode(string(b), &f); err != nil {
		return err
	}
	if f.Search != nil {
		for _, host := range *f.Search {
			if _, err := image.ParseReference(host + "/x"); err != nil || strings.Contains(host, "/") {
				return fmt.Errorf("unqualified-search-registries: %q is no host name", host)
			}
		}
		c.search = *f.Search
	}
	for _, r := range f.Registries {
		if err := r.complete(); err != nil {
			return err
		}
		c.registries = slices.DeleteFunc(c.registries, func(o confRegistry) bool { return o.Prefix == r.Prefix })
		c.registries = append(c.registries, r)
	}
	// The longest prefix says what is done.
	sort.SliceStable(c.registries, func(i, j int) bool { return len(c.registries[i].Prefix) > len(c.registries[j].Prefix) })
	return nil
}

// complete fills in what the manual page has as defaults, and refuses the rest.
func (r *confRegistry) complete() error {
	r.Prefix, r.Location = strings.TrimSuffix(r.Prefix, "/"), strings.TrimSuffix(r.Location, "/")
	if r.Prefix == "" {
		r.Prefix = r.Location
	}
	if r.Prefix == "" {
		return errors.New("a [[registry]] has neither prefix nor location")
	}
	if r.Location == "" && !strings.HasPrefix(r.Prefix, "*.") {
		r.Location = r.Prefix
	}
	if strings.Contains(r.Location, "://") {
		return fmt.Errorf("registry %q: location %q is to be HOST[:PORT][/PATH], without a scheme", r.Prefix, r.Location)
	}
	for i := range r.Mirrors {
		m := &r.Mirrors[i]
		m.Location = strings.TrimSuffix(m.Location, "/")
		if m.Location == "" || strings.Contains(m.Location, "://") {
			return fmt.Errorf("registry %q: mirror location %q is to be HOST[:PORT][/PATH]", r.Prefix, m.Location)
		}
		switch m.Pull {
		case "":
			m.Pull = "all"
			if r.ByDigestOnly {
				m.Pull = "digest-only"
			}
		case "all", "digest-only", "tag-only":
		default:
			return fmt.Errorf("registry %q: pull-from-mirror %q is none of all, digest-only, tag-only", r.Prefix, m.Pull)
		}
	}
	return nil
}

// rest is what of a reference's repository a prefix leaves; ok is false if the prefix
// does not match. "*.example.com" matches any host below, and leaves nothing.
func (r *confRegistry) rest(ref image.Reference) (rest string, ok bool) {
	if suffix, wild := strings.CutPrefix(r.Prefix, "*"); wild {
		return "", strings.HasSuffix(ref.Domain, suffix)
	}
	whole := ref.Repo() + ref.Suffix()
	rest, ok = strings.CutPrefix(whole, r.Prefix)
	if !ok || rest != "" && !strings.ContainsAny(rest[:1], "/:@") {
		return "", false
	}
	return rest, true
}

// endpoint is one place that a reference can be fetched from.
type endpoint struct {
	ref      image.Reference
	insecure bool
	mirror   bool
}

// endpoints gives the places to try for a reference, in their order: mirrors, and
// then the registry itself. A push goes to the last only.
func (c *Conf) endpoints(ref image.Reference) ([]endpoint, error) {
	if c == nil {
		return []endpoint{{ref: ref}}, nil
	}
	for _, r := range c.registries {
		rest, ok := r.rest(ref)
		if !ok {
			continue
		}
		if r.Blocked {
			return nil, fmt.Errorf("%w: registries.conf blocks %s", ErrBlocked, r.Prefix)
		}
		var list []endpoint
		for _, m := range r.Mirrors {
			if m.Pull == "digest-only" && ref.Digest == "" || m.Pull == "tag-only" && ref.Digest != "" {
				continue
			}
			e, err := m.apply(rest, ref)
			if err != nil {
				return nil, err
			}
			e.mirror = true
			list = append(list, e)
		}
		if r.Location == "" {
			return append(list, endpoint{ref: ref, insecure: r.Insecure}), nil
		}
		e, err := r.apply(rest, ref)
		return append(list, e), err
	}
	return []endpoint{{ref: ref}}, nil
}

// apply puts a location before what the prefix left.
func (e confEndpoint) apply(rest string, ref image.Reference) (endpoint, error) {
	if rest == "" && !strings.HasPrefix(e.Location, ref.Domain) && !strings.Contains(e.Location, "/") {
		rest = "/" + ref.Path + ref.Suffix() // a host for hosts, by a pattern
	}
	to, err := image.ParseReference(e.Location + rest)
	if err != nil {
		return endpoint{}, fmt.Errorf("registries.conf, location %q: %w", e.Location, err)
	}
	if to.Tag == "" || ref.Tag == "" {
		to.Tag = ref.Tag
	}
	to.Digest = ref.Digest
	return endpoint{ref: to, insecure: e.Insecure}, nil
}

// Candidates gives the names that a name may mean: itself, or where it has no host
// name and registries.conf lists registries to search, one for each.
func (c *Conf) Candidates(name string) []string {
	first, _, slash := strings.Cut(name, "/")
	qualified := slash && (strings.ContainsAny(first, ".:") || first == "localhost")
	if c == nil || len(c.search) == 0 || qualified {
		return []string{name}
	}
	var list []string
	for _, host := range c.search {
		list = append(list, host+"/"+name)
	}
	return list
}
