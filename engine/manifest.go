package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/registry"
)

// CopyImageOptions says how an image is copied between registries.
type CopyImageOptions struct {
	Platform string // only this one of an index; "" for all
	Insecure bool   // as in PullOptions
	Step     func(registry.Event)
}

func (e *Engine) copyOptions(insecure bool, step func(registry.Event)) (registry.CopyOptions, error) {
	conf, err := registry.LoadConf()
	return registry.CopyOptions{Conf: conf, Insecure: insecure, Progress: step}, err
}

// CopyImage brings an image from one repository to another; nothing of it comes into
// the store.
func (e *Engine) CopyImage(ctx context.Context, from, to string, opt CopyImageOptions) (registry.PushResult, error) {
	o, err := e.copyOptions(opt.Insecure, opt.Step)
	if err != nil {
		return registry.PushResult{}, err
	}
	if opt.Platform != "" {
		p, err := image.ParsePlatform(opt.Platform)
		if err != nil {
			return registry.PushResult{}, &Error{Kind: ErrInvalid, Msg: err.Error(), cause: err}
		}
		o.Platform = &p
	}
	return registry.Copy(ctx, from, to, o)
}

// ManifestList is an index of images that is made here, and is in no registry yet.
type ManifestList struct {
	Name    string          `json:"name"` // full
	Entries []ManifestEntry `json:"entries"`
}

// ManifestEntry is one image of a list, and where it is.
type ManifestEntry struct {
	Ref        string             `json:"ref"` // full name
	Descriptor ocispec.Descriptor `json:"descriptor"`
}

// Index is the list as registries take it.
func (l *ManifestList) Index() ocispec.Index {
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	idx.SchemaVersion = 2
	for _, m := range l.Entries {
		idx.Manifests = append(idx.Manifests, m.Descriptor)
	}
	return idx
}

func fullName(ref string) (string, error) {
	r, err := image.ParseReference(ref)
	if err != nil {
		return "", &Error{Kind: ErrInvalid, Msg: err.Error(), cause: err}
	}
	return r.String(), nil
}

// manifestFile is where a list is kept: one file each, under a name that has no
// slashes and is never too long.
func (e *Engine) manifestFile(name string) string {
	return filepath.Join(e.Root, "manifests", digest.FromString(name).Encoded()+".json")
}

// ManifestList reads a list that was made here; ErrNoSuchImage if there is none.
func (e *Engine) ManifestList(ref string) (*ManifestList, error) {
	name, err := fullName(ref)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(e.manifestFile(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, errorf(ErrNoSuchImage, "No such manifest: %s", name)
	}
	if err != nil {
		return nil, fmt.Errorf("read manifest list %s: %w", name, err)
	}
	l := new(ManifestList)
	if err := json.Unmarshal(b, l); err != nil {
		return nil, fmt.Errorf("read manifest list %s: %w", name, err)
	}
	return l, nil
}

// lockManifests is held from reading a list to writing it; Close releases it.
func (e *Engine) lockManifests() (*os.File, error) {
	dir := filepath.Join(e.Root, "manifests")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keep manifest lists: %w", err)
	}
	f, err := lockFile(dir)
	if err != nil {
		return nil, fmt.Errorf("lock manifest lists: %w", err)
	}
	return f, nil
}

// saveManifestListLocked needs lockManifests.
func (e *Engine) saveManifestListLocked(l *ManifestList) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if err := replaceFile(e.manifestFile(l.Name), b); err != nil {
		return fmt.Errorf("keep manifest list %s: %w", l.Name, err)
	}
	return nil
}

// ManifestCreate makes a list of images that are in registries, and gives its full
// name; with amend it adds them to one that is there.
func (e *Engine) ManifestCreate(ctx context.Context, list string, refs []string, amend, insecure bool) (string, error) {
	name, err := fullName(list)
	if err != nil {
		return "", err
	}
	if _, err := e.ManifestList(name); err == nil && !amend {
		return "", errManifestThere // before anything is asked of a registry
	}
	o, err := e.copyOptions(insecure, nil)
	if err != nil {
		return "", err
	}
	var entries []ManifestEntry
	for _, ref := range refs {
		m, err := registry.Inspect(ctx, ref, o)
		if err != nil {
			return "", err
		}
		if m.Descriptor.Platform == nil {
			return "", errorf(ErrInvalid, "%s is an index itself, or does not say for which platform it is: name one of its images by digest", ref)
		}
		entries = append(entries, ManifestEntry{m.Ref, m.Descriptor})
	}
	return name, e.addToManifest(name, entries, amend)
}

var errManifestThere = errorf(ErrNameInUse, "refusing to amend an existing manifest list with no --amend flag")

// addToManifest adds images to a list, or with amend to one that may be there.
func (e *Engine) addToManifest(name string, entries []ManifestEntry, amend bool) error {
	lock, err := e.lockManifests()
	if err != nil {
		return err
	}
	defer lock.Close()
	l, err := e.ManifestList(name)
	switch {
	case err == nil && !amend:
		return errManifestThere
	case err != nil && !errors.Is(err, ErrNoSuchImage):
		return err
	case err != nil:
		l = &ManifestList{Name: name}
	}
	for _, m := range entries {
		l.Entries = slices.DeleteFunc(l.Entries, func(old ManifestEntry) bool { return old.Ref == m.Ref })
		l.Entries = append(l.Entries, m)
	}
	return e.saveManifestListLocked(l)
}

// ManifestChange is what is said of the platform of one image; what is empty stays.
type ManifestChange struct {
	OS, Architecture, Variant, OSVersion string
	OSFeatures                           []string
}

// ManifestAnnotate changes what a list says of one of its images.
func (e *Engine) ManifestAnnotate(list, ref string, c ManifestChange) error {
	lock, err := e.lockManifests()
	if err != nil {
		return err
	}
	defer lock.Close()
	l, err := e.ManifestList(list)
	if err != nil {
		return err
	}
	name, err := fullName(ref)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(l.Entries, func(m ManifestEntry) bool { return m.Ref == name })
	if i < 0 {
		return errorf(ErrNoSuchImage, "manifest for image %s does not exist in %s", ref, l.Name)
	}
	p := *l.Entries[i].Descriptor.Platform
	for _, f := range []struct {
		to   *string
		from string
	}{{&p.OS, c.OS}, {&p.Architecture, c.Architecture}, {&p.Variant, c.Variant}, {&p.OSVersion, c.OSVersion}} {
		if f.from != "" {
			*f.to = f.from
		}
	}
	if len(c.OSFeatures) > 0 {
		p.OSFeatures = c.OSFeatures
	}
	l.Entries[i].Descriptor.Platform = &p
	return e.saveManifestListLocked(l)
}

// ManifestOf gets the manifest that a name has in its registry.
func (e *Engine) ManifestOf(ctx context.Context, ref string, insecure bool) (registry.Manifest, error) {
	o, err := e.copyOptions(insecure, nil)
	if err != nil {
		return registry.Manifest{}, err
	}
	return registry.Inspect(ctx, ref, o)
}

// ManifestPush stores a list in the registry that its name says, with those of its
// images that are elsewhere.
func (e *Engine) ManifestPush(ctx context.Context, list string, insecure bool, step func(registry.Event)) (registry.PushResult, error) {
	l, err := e.ManifestList(list)
	if err != nil {
		return registry.PushResult{}, err
	}
	o, err := e.copyOptions(insecure, step)
	if err != nil {
		return registry.PushResult{}, err
	}
	sources := map[digest.Digest]string{}
	for _, m := range l.Entries {
		sources[m.Descriptor.Digest] = m.Ref
	}
	return registry.PutIndex(ctx, l.Name, l.Index(), sources, o)
}

// ManifestRemove forgets a list.
func (e *Engine) ManifestRemove(list string) error {
	lock, err := e.lockManifests()
	if err != nil {
		return err
	}
	defer lock.Close()
	l, err := e.ManifestList(list)
	if err != nil {
		return err
	}
	if err := os.Remove(e.manifestFile(l.Name)); err != nil {
		return fmt.Errorf("remove manifest list %s: %w", l.Name, err)
	}
	return nil
}
