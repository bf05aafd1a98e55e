package engine

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"vivarium/image"
	"vivarium/image/registry"
	"vivarium/image/store"
	"vivarium/monitor/client"
)

// PullProgress hears how a pull goes.
type PullProgress interface {
	// Begin is called before an image is pulled. missing: because it was not there.
	Begin(ref string, missing bool)
	// Step is called with each step, never by two goroutines at once.
	Step(registry.Event)
	// End is called after a pull that succeeded.
	End(registry.Result)
}

// silent hears nothing.
type silent struct{}

func (silent) Begin(string, bool)  {}
func (silent) Step(registry.Event) {}
func (silent) End(registry.Result) {}

// images opens the image store. Its garbage collection asks which images our
// containers use.
func (e *Engine) images() (*store.Store, error) {
	s, err := store.Open(e.Root)
	if err != nil {
		return nil, err
	}
	s.Users = e.imageUsers
	return s, nil
}

func (e *Engine) imageUsers(context.Context) ([]store.User, error) {
	cs, err := e.all()
	if err != nil {
		return nil, err
	}
	var users []store.User
	for _, c := range cs {
		if c.ImageID == hostImage {
			continue
		}
		st, err := client.ReadStatus(e.containerDir(c.ID))
		if err != nil {
			return nil, err
		}
		users = append(users, store.User{Container: short(c.ID), Image: digest.Digest(c.ImageID), Layers: c.Layers, Running: live(st) && processAlive(st)})
	}
	return users, nil
}

// resolveImage finds the image that the container is to be made from, and pulls
// it if the options say so.
func (r *run) resolveImage(ctx context.Context) error {
	ref := r.opt.Config.Image
	if ref == hostImage {
		r.image = hostSource()
		return nil
	}
	if _, err := image.ParseReference(ref); err != nil && !isHex(strings.TrimPrefix(ref, "sha256:")) {
		return &Error{Kind: ErrInvalid, Msg: err.Error(), cause: err}
	}
	s, err := r.e.images()
	if err != nil {
		return err
	}
	img, err := r.findImage(ctx, s, ref)
	if err != nil {
		return err
	}
	r.image = imageSource(img)
	return r.addInit(ctx, s)
}

// addInit puts the image's init layer on top: what a container has mounted on
// every time is then not in its own layer. A dry run takes one that is there.
func (r *run) addInit(ctx context.Context, s *store.Store) (err error) {
	var tree string
	if r.dry {
		tree, _, err = s.FindInit(r.image.Layers)
	} else {
		tree, err = s.InitLayer(ctx, r.image.Layers)
	}
	if err != nil {
		return fmt.Errorf("image %s: %w", r.opt.Config.Image, err)
	}
	if tree != "" {
		r.image.Layers = append(r.image.Layers, tree)
		r.image.Lower = append([]string{tree}, r.image.Lower...)
	}
	return nil
}

func imageSource(img image.Image) *source {
	src := &source{ID: string(img.ID), Config: img.Config.Config, Health: img.Healthcheck, Lower: img.LowerDirs()}
	for _, l := range img.Layers {
		src.Layers = append(src.Layers, l.Dir)
	}
	return src
}

// findImage resolves the reference. Garbage collection is kept away from before
// the image is found until the container's record names it.
func (r *run) findImage(ctx context.Context, s *store.Store, asked string) (image.Image, error) {
	if r.opt.Pull == "always" {
		if err := r.e.pullFor(ctx, s, asked, r.pullOptions(), false); err != nil {
			return image.Image{}, err
		}
	}
	for attempt := 0; ; attempt++ {
		ref := asked
		img, err := r.tryImage(ctx, s, ref)
		if errors.Is(err, image.ErrNotFound) && !errors.Is(err, errPlatform) {
			name, lerr := localName(s, asked)
			if lerr != nil {
				return image.Image{}, lerr
			}
			if name != asked {
				ref = name
				img, err = r.tryImage(ctx, s, ref)
			}
		}
		if err == nil || attempt > 0 || r.opt.Pull == "never" || !errors.Is(err, image.ErrNotFound) || errors.Is(err, errPlatform) && r.opt.Pull == "always" {
			return img, imageError(ref, err)
		}
		if err := r.e.pullFor(ctx, s, asked, r.pullOptions(), true); err != nil {
			return image.Image{}, err
		}
	}
}

// localName gives the name by which the store has what a name that it does not have,
// without a registry, means; the name itself if it has none of them.
func localName(s *store.Store, ref string) (string, error) {
	conf, err := registry.LoadConf()
	if err != nil {
		return ref, err
	}
	for _, name := range conf.Candidates(ref) {
		if _, err := s.Lookup(name); err == nil {
			return name, nil
		}
	}
	return ref, nil
}

// errPlatform marks an image that is there, for another platform.
var errPlatform = errors.New("image is for another platform")

func (r *run) tryImage(ctx context.Context, s *store.Store, ref string) (img image.Image, err error) {
	if _, err := s.Lookup(ref); err != nil {
		return img, err
	}
	if !r.dry {
		if r.release, err = s.Hold(ctx); err != nil {
			return img, err
		}
		defer func() {
			if err != nil {
				r.releaseImage()
			}
		}()
	}
	img, err = s.Resolve(ref)
	if errors.Is(err, store.ErrNotUnpacked) && !r.dry {
		r.releaseImage() // unpacking takes locks of its own
		if _, err := s.Unpack(ctx, ref); err != nil {
			return img, err
		}
		if r.release, err = s.Hold(ctx); err != nil {
			return img, err
		}
		img, err = s.Resolve(ref)
	}
	if err != nil {
		return img, err
	}
	err = matchPlatform(img, r.opt.Platform, ref)
	if errors.Is(err, errPlatform) {
		if p, perr := image.ParsePlatform(r.opt.Platform); perr == nil {
			if other, oerr := s.ResolvePlatform(ref, p); oerr == nil {
				return other, nil
			}
		}
	}
	return img, err
}

func (r *run) releaseImage() {
	if r.release != nil {
		r.release()
		r.release = nil
	}
}

// matchPlatform refuses an image of another platform than was asked for; it
// counts as missing, so that it can be pulled.
func matchPlatform(img image.Image, platform, ref string) error {
	if platform == "" {
		return nil
	}
	want, err := image.ParsePlatform(platform)
	if err != nil {
		return &Error{Kind: ErrInvalid, Msg: err.Error()}
	}
	if img.Config.OS == want.OS && img.Config.Architecture == want.Architecture && (want.Variant == "" || img.Config.Variant == want.Variant) {
		return nil
	}
	return &Error{Kind: image.ErrNotFound, cause: errPlatform,
		Msg: fmt.Sprintf("image with reference %s was found but does not provide the specified platform (%s)", ref, platform)}
}

// imageError says in Docker's words that an image is not there.
func imageError(ref string, err error) error {
	if err == nil || errors.Is(err, errPlatform) || !errors.Is(err, image.ErrNotFound) {
		return err
	}
	name := ref
	if r, perr := image.ParseReference(ref); perr == nil {
		name = r.Familiar()
	}
	return &Error{Kind: ErrNoSuchImage, Msg: "No such image: " + name, cause: err}
}

// PullOptions says how an image is pulled.
type PullOptions struct {
	Platform string       // "": the host's
	All      bool         // every tag of the repository; the reference names only that
	Unnamed  bool         // the name goes on meaning what it means in the store
	Insecure bool         // plain HTTP, and certificates that nobody vouches for, will do
	Policy   string       // file of the signature policy; "": where containers-policy.json(5) has it
	Progress PullProgress // may be nil
}

func (r *run) pullOptions() PullOptions {
	return PullOptions{Platform: r.opt.Platform, Progress: r.opt.Progress}
}

func orSilent(p PullProgress) PullProgress {
	if p == nil {
		return silent{}
	}
	return p
}

// pullFor pulls an image, a container's or for its own sake.
func (e *Engine) pullFor(ctx context.Context, s *store.Store, ref string, opt PullOptions, missing bool) error {
	p := orSilent(opt.Progress)
	o := registry.Options{Progress: p.Step, Insecure: opt.Insecure, Unnamed: opt.Unnamed}
	if opt.Platform != "" {
		want, err := image.ParsePlatform(opt.Platform)
		if err != nil {
			return &Error{Kind: ErrInvalid, Msg: err.Error()}
		}
		o.Platform = &want
	}
	var err error
	if o.Conf, err = registry.LoadConf(); err != nil {
		return err
	}
	if o.Policy, err = registry.LoadPolicy(opt.Policy); err != nil {
		return err
	}
	refs := []string{ref}
	if opt.All {
		if refs, err = registry.Tags(ctx, ref, o); err != nil {
			return err
		}
	}
	for _, ref := range refs {
		res, err := pullCandidates(ctx, s, ref, o, p, missing)
		if err != nil {
			return err
		}
		p.End(res)
		e.emit(objectEvent("image", "pull", image.Familiar(ref), map[string]string{"name": image.Familiar(ref)}))
	}
	return nil
}

// pullCandidates pulls the first image that there is of those that a name may mean.
// The image has the name under which it was found.
func pullCandidates(ctx context.Context, s *store.Store, ref string, o registry.Options, p PullProgress, missing bool) (registry.Result, error) {
	var errs []error
	for _, name := range o.Conf.Candidates(ref) {
		p.Begin(name, missing)
		res, err := registry.Pull(ctx, s, name, o)
		if err != nil {
			errs = append(errs, err)
			if ctx.Err() != nil || !errors.Is(err, registry.ErrNotFound) && !errors.Is(err, registry.ErrDenied) && !errors.Is(err, registry.ErrRegistry) {
				break
			}
			continue
		}
		return res, nil
	}
	return registry.Result{}, errors.Join(errs...)
}

// containerSource finds the layers that a container was made from: they stand
// in its record, and garbage collection keeps them.
func (e *Engine) containerSource(c *Container) (*source, error) {
	if c.ImageID == hostImage {
		return hostSource(), nil
	}
	src := &source{ID: c.ImageID, Config: c.ImageConfig, Layers: c.Layers}
	if n := len(c.Layers); n > 1 && store.IsInit(c.Layers[n-1]) && unix.Access(c.Layers[n-1], unix.F_OK) != nil {
		src.Layers = c.Layers[:n-1] // a repair took it; the next start makes it again
	}
	for i := len(src.Layers) - 1; i >= 0; i-- {
		src.Lower = append(src.Lower, src.Layers[i])
	}
	if len(src.Lower) == 0 {
		return nil, fmt.Errorf("container %s has no layers on record", c.Name)
	}
	return src, nil
}

// imageID gives the ID of an image of the store, or "host".
func (e *Engine) imageID(ref string) (string, error) {
	if ref == hostImage {
		return hostImage, nil
	}
	s, err := e.images()
	if err != nil {
		return "", err
	}
	id, err := s.Lookup(ref)
	return string(id), err
}

// imageSize is how much the image's layers hold, 0 if it is not there any more.
func (e *Engine) imageSize(id string) int64 {
	s, err := e.images()
	if err != nil || id == hostImage {
		return 0
	}
	img, err := s.Resolve(id)
	if err != nil {
		return 0
	}
	return img.Size
}

// ImageSummary is one image with who uses it.
type ImageSummary struct {
	image.Image
	Containers int
}

// Images lists the images, newest first. Filters: dangling, label, before, since, until, reference.
func (e *Engine) Images(ctx context.Context, ref string, f Filters) ([]ImageSummary, error) {
	if err := f.check("dangling", "label", "before", "since", "until", "reference"); err != nil {
		return nil, err
	}
	s, err := e.images()
	if err != nil {
		return nil, err
	}
	m, err := newImageMatcher(s, ref, f)
	if err != nil {
		return nil, err
	}
	images, err := s.List()
	if err != nil && len(images) == 0 {
		return nil, err
	}
	if err != nil {
		e.notice("%v", err)
	}
	users, err := e.imageUsers(ctx)
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for _, u := range users {
		counts[string(u.Image)]++
	}
	var list []ImageSummary
	for _, img := range images {
		if m.match(&img) {
			img.Names = m.named(&img)
			list = append(list, ImageSummary{img, counts[string(img.ID)]})
		}
	}
	return list, nil
}

// Pull fetches an image.
func (e *Engine) Pull(ctx context.Context, ref string, opt PullOptions) (registry.Result, error) {
	s, err := e.images()
	if err != nil {
		return registry.Result{}, err
	}
	var res registry.Result
	opt.Progress = &capture{orSilent(opt.Progress), &res}
	return res, e.pullFor(ctx, s, ref, opt, false)
}

// capture keeps the result of a pull.
type capture struct {
	PullProgress
	res *registry.Result
}

func (c *capture) End(r registry.Result) {
	*c.res = r
	c.PullProgress.End(r)
}

// ImageRemove removes a name of an image, or the image.
func (e *Engine) ImageRemove(ctx context.Context, ref string, force bool) ([]store.Removed, error) {
	s, err := e.images()
	if err != nil {
		return nil, err
	}
	removed, err := s.Remove(ctx, ref, force)
	for _, r := range removed {
		if r.Untagged != "" {
			e.emit(objectEvent("image", "untag", r.Untagged, map[string]string{"name": r.Untagged}))
		} else {
			e.emit(objectEvent("image", "delete", string(r.Deleted), map[string]string{"name": string(r.Deleted)}))
		}
	}
	return removed, imageError(ref, err)
}

// Tag gives an image one more name.
func (e *Engine) Tag(ctx context.Context, ref, name string) error {
	s, err := e.images()
	if err != nil {
		return err
	}
	if name == hostImage {
		return errorf(ErrInvalid, "the name %q belongs to the built-in image", hostImage)
	}
	if err := s.Tag(ctx, ref, name); err != nil {
		return imageError(ref, err)
	}
	e.emit(objectEvent("image", "tag", ref, map[string]string{"name": image.Familiar(name)}))
	return nil
}

// Image gives one image.
func (e *Engine) Image(ctx context.Context, ref string) (image.Image, error) {
	s, err := e.images()
	if err != nil {
		return image.Image{}, err
	}
	img, err := s.Resolve(ref)
	if errors.Is(err, store.ErrNotUnpacked) {
		err = nil
	}
	return img, imageError(ref, err)
}

// ImagePrune removes images that no container uses: those without a name, or with
// all every one. Filters: until, label, label!, dangling.
func (e *Engine) ImagePrune(ctx context.Context, all bool, f Filters) (PruneReport, error) {
	var rep PruneReport
	if err := f.check("until", "label", "label!", "dangling"); err != nil {
		return rep, err
	}
	until, err := f.until()
	if err != nil {
		return rep, err
	}
	dangling, err := f.bool("dangling", !all)
	if err != nil {
		return rep, err
	}
	s, err := e.images()
	if err != nil {
		return rep, err
	}
	removed, freed, err := s.Prune(ctx, !dangling, func(img image.Image) bool {
		return (until.IsZero() || img.Created.Before(until)) && f.matchLabels(img.Config.Config.Labels)
	})
	for _, r := range removed {
		rep.Deleted = append(rep.Deleted, r.String())
	}
	rep.SpaceReclaimed = freed
	return rep, err
}

// checkStore verifies images and layers.
func (e *Engine) checkStore(ctx context.Context, repair bool) ([]Finding, error) {
	s, err := e.images()
	if err != nil {
		return nil, err
	}
	problems, err := s.Check(ctx, repair)
	var list []Finding
	for _, p := range problems {
		list = append(list, Finding{Object: p.Object, Problem: p.Detail, Repaired: p.Repaired})
	}
	return list, err
}

// sweepNetwork gives what the network's own sweep found.
func (e *Engine) sweepNetwork(ctx context.Context, alive func(string) bool, repair bool) ([]Finding, error) {
	look := e.network().Look
	if repair {
		look = e.network().Sweep
	}
	rep, err := look(ctx, alive)
	var list []Finding
	for kind, names := range map[string][]string{"network endpoint of container": rep.Containers, "network interface": rep.Links, "published port": rep.Ports} {
		for _, n := range names {
			list = append(list, Finding{Object: kind + " " + n, Problem: "belongs to no container that runs", Repaired: repair})
		}
	}
	return list, err
}

// imageMatcher is the filters of an image list with what they refer to looked up.
type imageMatcher struct {
	f    Filters
	refs []string
}

func newImageMatcher(s *store.Store, ref string, f Filters) (*imageMatcher, error) {
	m := &imageMatcher{f: f, refs: f["reference"]}
	if ref != "" {
		m.refs = append(m.refs, ref)
	}
	for _, key := range []string{"before", "since"} {
		for i, name := range f[key] {
			img, err := s.Resolve(name)
			if err != nil && !errors.Is(err, store.ErrNotUnpacked) {
				return nil, imageError(name, err)
			}
			f[key][i] = fmt.Sprint(img.Created.UnixNano())
		}
	}
	if _, err := f.until(); err != nil {
		return nil, err
	}
	for _, pattern := range m.refs {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, errorf(ErrInvalid, "invalid filter 'reference=%s': %v", pattern, err)
		}
	}
	_, err := f.bool("dangling", false)
	return m, err
}

func (m *imageMatcher) match(img *image.Image) bool {
	created := fmt.Sprintf("%d", img.Created.UnixNano())
	older := func(a, b string) bool { return len(a) < len(b) || len(a) == len(b) && a < b }
	until, _ := m.f.until()
	if !until.IsZero() && !img.Created.Before(until) {
		return false
	}
	if _, ok := m.f["dangling"]; ok {
		if want, _ := m.f.bool("dangling", false); want != (len(img.Names) == 0) {
			return false
		}
	}
	return m.f.all("before", func(t string) bool { return older(created, t) }) &&
		m.f.all("since", func(t string) bool { return older(t, created) }) &&
		m.f.all("label", func(l string) bool { return matchLabel(img.Config.Config.Labels, l) }) &&
		m.matchRefs(img)
}

func (m *imageMatcher) matchRefs(img *image.Image) bool {
	return len(m.refs) == 0 || len(m.named(img)) > 0
}

// named gives the names that were asked for; all, if there was no such question.
func (m *imageMatcher) named(img *image.Image) []string {
	if len(m.refs) == 0 {
		return img.Names
	}
	return slices.DeleteFunc(slices.Clone(img.Names), func(name string) bool {
		return !slices.ContainsFunc(m.refs, func(pattern string) bool { return matchReference(pattern, image.Familiar(name)) })
	})
}

// matchReference matches a familiar name against a pattern as path.Match has
// them; a pattern without tag matches every tag.
func matchReference(pattern, name string) bool {
	repo, tag := splitTag(name)
	wantRepo, wantTag := splitTag(pattern)
	if wantTag == "" {
		wantTag = "*"
	}
	base := repo[strings.LastIndexByte(repo, '/')+1:]
	return pathMatch(wantTag, tag) && (pathMatch(wantRepo, repo) || !strings.Contains(wantRepo, "/") && pathMatch(wantRepo, base) && !strings.Contains(repo, "/"))
}

func splitTag(s string) (repo, tag string) {
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, '/') {
		return s[:i], s[i+1:]
	}
	return s, ""
}
