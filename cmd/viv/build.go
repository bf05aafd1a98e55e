package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"vivarium/engine"
	"vivarium/image"
	"vivarium/image/build"
	"vivarium/image/registry"
)

// buildFlags are the flags of build that are not the engine's options yet.
type buildFlags struct {
	file, iidfile, progress    string
	args, labels, secrets, ssh []string
	contexts, outputs          []string
	cacheFrom, cacheTo         []string
	quiet, push, load          bool
}

func newBuild(a *app) *cobra.Command {
	var o engine.BuildOptions
	var f buildFlags
	c := &cobra.Command{Use: "build [OPTIONS] PATH | -", Short: "Build an image from a Dockerfile", Args: exactArgs(1)}
	fs := c.Flags()
	fs.StringVarP(&f.file, "file", "f", "", "name of the Dockerfile (default: 'PATH/Dockerfile'), or - for standard input")
	fs.StringArrayVarP(&o.Names, "tag", "t", nil, "name and optionally a tag (format: name:tag)")
	fs.StringArrayVar(&f.args, "build-arg", nil, "set build-time variables")
	fs.StringArrayVar(&f.labels, "label", nil, "set metadata for an image")
	fs.StringArrayVar(&f.contexts, "build-context", nil, "additional build contexts (e.g., name=path, name=docker-image://alpine)")
	fs.StringVar(&o.Target, "target", "", "set the target build stage to build")
	fs.StringArrayVar(&o.Platforms, "platform", nil, "set target platforms for build (e.g., linux/amd64,linux/arm64)")
	fs.StringArrayVar(&f.cacheFrom, "cache-from", nil, "external cache sources (e.g., \"user/app:cache\", \"type=local,src=path/to/dir\")")
	fs.StringArrayVar(&f.cacheTo, "cache-to", nil, "cache export destinations (e.g., \"user/app:cache\", \"type=local,dest=path/to/dir\", \"type=inline\")")
	fs.BoolVar(&o.NoCache, "no-cache", false, "do not use cache when building the image")
	fs.BoolVar(&o.Squash, "squash", false, "squash newly built layers into a single new layer")
	fs.BoolVar(&o.SquashAll, "squash-all", false, "squash all layers, those of the base image too, into a single new layer")
	fs.BoolVar(&o.Pull, "pull", false, "always attempt to pull all referenced images")
	fs.BoolVarP(&f.quiet, "quiet", "q", false, "suppress the build output and print image ID on success")
	fs.StringVar(&f.iidfile, "iidfile", "", "write the image ID to a file")
	fs.StringVar(&f.progress, "progress", "auto", "set type of progress output (auto, plain, quiet)")
	fs.StringVar(&o.Network, "network", "default", "set the networking mode for the RUN instructions during build (default, none, host)")
	fs.StringArrayVar(&o.ExtraHosts, "add-host", nil, "add a custom host-to-IP mapping (format: host:ip)")
	fs.StringArrayVar(&o.Allow, "allow", nil, "allow extra privileged entitlement (network.host, security.insecure)")
	fs.StringArrayVar(&f.secrets, "secret", nil, "secret to expose to the build (format: id=mysecret[,src=/local/secret])")
	fs.StringArrayVar(&f.ssh, "ssh", nil, "SSH agent socket to expose to the build (format: default|<id>[=<socket>])")
	fs.StringArrayVarP(&f.outputs, "output", "o", nil, "output destination (format: 'type=image|registry|local|tar|oci|docker,dest=path,name=ref,push=true', or a directory)")
	fs.BoolVar(&f.push, "push", false, "shorthand for '--output=type=registry'")
	fs.BoolVar(&f.load, "load", false, "shorthand for '--output=type=docker': the image is put into the store")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := f.read(a, &o, args[0]); err != nil {
			return err
		}
		if err := errors.Join(f.readOutputs(&o), f.readCaches(&o)); err != nil {
			return err
		}
		return f.withFiles(a, o.Outputs, func() error { return f.build(cmd.Context(), a, o) })
	}
	return c
}

// build builds, and shows how it goes.
func (f *buildFlags) build(ctx context.Context, a *app, o engine.BuildOptions) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	show, err := newBuildPrinter(a, f.progress, f.quiet)
	if err != nil {
		return err
	}
	o.Progress, o.PullProgress, o.Pushed = show.event, nil, show.pushed
	img, err := e.Build(ctx, o)
	show.end()
	if err != nil {
		return show.failure(err)
	}
	if f.iidfile != "" && img.ID != "" {
		if err := os.WriteFile(f.iidfile, []byte(img.ID), 0o644); err != nil {
			return fmt.Errorf("write the image ID: %w", err)
		}
	}
	if img.ID != "" {
		show.success(string(img.ID), img.RepoTags())
	}
	return nil
}

// read fills in what the flags and the context say.
func (f *buildFlags) read(a *app, o *engine.BuildOptions, where string) (err error) {
	if where == "-" && f.file == "-" {
		return usagef("invalid argument: can't use stdin for both build context and dockerfile")
	}
	switch {
	case where == "-":
		o.Dockerfile, err = io.ReadAll(io.LimitReader(a.in, maxDockerfile+1))
		o.DockerfileName = "Dockerfile"
	case f.file == "-":
		o.Context = where
		o.Dockerfile, err = io.ReadAll(io.LimitReader(a.in, maxDockerfile+1))
		o.DockerfileName = "Dockerfile"
	default:
		o.Context = where
		err = f.readFile(o)
	}
	if err == nil && len(o.Dockerfile) > maxDockerfile {
		err = fmt.Errorf("the Dockerfile has more than %d bytes", maxDockerfile)
	}
	if err != nil {
		return err
	}
	if o.BuildArgs, err = pairsOf(f.args, true); err != nil {
		return usagef("--build-arg: %v", err)
	}
	if o.Labels, err = pairsOf(f.labels, false); err != nil {
		return usagef("--label: %v", err)
	}
	if o.Contexts, err = pairsOf(f.contexts, false); err != nil {
		return usagef("--build-context: %v", err)
	}
	if o.Secrets, err = secretsOf(f.secrets); err != nil {
		return err
	}
	if o.SSH, err = agentsOf(f.ssh); err != nil {
		return err
	}
	epoch, ok := o.BuildArgs["SOURCE_DATE_EPOCH"]
	if !ok {
		epoch = os.Getenv("SOURCE_DATE_EPOCH")
	}
	if epoch != "" {
		n, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil || n < 0 {
			return usagef("invalid SOURCE_DATE_EPOCH: %s", epoch)
		}
		o.Epoch = time.Unix(n, 0).UTC()
	}
	return nil
}

// maxDockerfile bounds a Dockerfile that is read.
const maxDockerfile = 16 << 20

// readFile reads the Dockerfile. The name of -f is looked for from here, as docker build does.
func (f *buildFlags) readFile(o *engine.BuildOptions) error {
	name := f.file
	if name == "" {
		name = filepath.Join(o.Context, "Dockerfile")
	}
	o.DockerfileName = name
	if rel, err := filepath.Rel(o.Context, name); err == nil && filepath.IsLocal(rel) {
		o.DockerfileName = rel
	}
	file, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("failed to read dockerfile: %w", err)
	}
	defer file.Close()
	o.Dockerfile, err = io.ReadAll(io.LimitReader(file, maxDockerfile+1))
	return err
}

// pairsOf reads NAME=VALUE; with env NAME alone means the environment's value, if it has one.
func pairsOf(list []string, env bool) (map[string]string, error) {
	out := map[string]string{}
	for _, s := range list {
		k, v, ok := strings.Cut(s, "=")
		if k == "" {
			return nil, fmt.Errorf("%q has no name", s)
		}
		if !ok && env {
			if v, ok = os.LookupEnv(k); !ok {
				continue
			}
		}
		out[k] = v
	}
	return out, nil
}

// secretsOf reads --secret id=ID[,src=FILE][,env=NAME][,type=file|env].
func secretsOf(list []string) (map[string]build.Secret, error) {
	out := map[string]build.Secret{}
	for _, text := range list {
		var id, src, env, kind string
		for field := range strings.SplitSeq(text, ",") {
			k, v, ok := strings.Cut(field, "=")
			if !ok {
				return nil, usagef("invalid field %q of --secret: it must be a key=value pair", field)
			}
			switch strings.ToLower(k) {
			case "id":
				id = v
			case "src", "source":
				src = v
			case "env":
				env = v
			case "type":
				kind = v
			default:
				return nil, usagef("unexpected key %q of --secret", k)
			}
		}
		switch {
		case id == "":
			return nil, usagef("--secret %s: an id is missing", text)
		case kind != "" && kind != "file" && kind != "env":
			return nil, usagef("--secret %s: unsupported type %q", text, kind)
		case kind == "env" && env == "":
			env, src = src, ""
		}
		if src == "" {
			if env == "" {
				env = id
			}
			v, ok := os.LookupEnv(env)
			if ok {
				out[id] = build.Secret{Value: []byte(v)}
				continue
			}
			src = id
		}
		if _, err := os.Stat(src); err != nil {
			return nil, fmt.Errorf("secret %s: %w", id, err)
		}
		out[id] = build.Secret{File: src}
	}
	return out, nil
}

// agentsOf reads --ssh default|ID[=SOCKET].
func agentsOf(list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, s := range list {
		id, socket, ok := strings.Cut(s, "=")
		if !ok {
			if socket = os.Getenv("SSH_AUTH_SOCK"); socket == "" {
				return nil, fmt.Errorf("--ssh %s: there is no agent: SSH_AUTH_SOCK is not set", s)
			}
		}
		out[id] = socket
	}
	return out, nil
}

// buildPrinter shows a build on standard error as BuildKit's plain progress does: each
// line with the number of its step.
type buildPrinter struct {
	a     *app
	quiet bool
	last  int // the step that spoke last
	rest  map[int][]byte
	begun map[int]time.Time
	warns int
}

func newBuildPrinter(a *app, mode string, quiet bool) (*buildPrinter, error) {
	p := &buildPrinter{a: a, quiet: quiet, rest: map[int][]byte{}, begun: map[int]time.Time{}}
	switch mode {
	case "auto", "plain":
	case "quiet":
		p.quiet = true
	default:
		return nil, usagef("invalid progress mode %s: it is auto, plain or quiet", mode)
	}
	return p, nil
}

func (p *buildPrinter) event(e build.Event) {
	if p.quiet {
		return
	}
	w := p.a.err
	switch e.Kind {
	case build.Started:
		p.begun[e.Step] = e.At
		p.turn(e.Step)
		fmt.Fprintf(w, "#%d %s\n", e.Step, oneLine(e.Name))
	case build.Output:
		p.turn(e.Step)
		p.output(e)
	case build.Cached:
		p.turn(e.Step)
		fmt.Fprintf(w, "#%d CACHED\n", e.Step)
	case build.Done:
		p.flush(e.Step)
		p.turn(e.Step)
		fmt.Fprintf(w, "#%d DONE %.1fs\n", e.Step, e.Took.Seconds())
	case build.Failed:
		p.flush(e.Step)
		p.turn(e.Step)
		fmt.Fprintf(w, "#%d ERROR: %v\n", e.Step, e.Err)
	case build.Warned:
		p.warns++
		where := ""
		if e.Warning.Line > 0 {
			where = fmt.Sprintf(" (line %d)", e.Warning.Line)
		}
		fmt.Fprintf(w, "WARN: %s: %s%s\n", e.Warning.Rule, e.Warning.Text, where)
	}
}

// turn separates what different steps say.
func (p *buildPrinter) turn(step int) {
	if p.last != 0 && p.last != step {
		fmt.Fprintln(p.a.err)
	}
	p.last = step
}

func (p *buildPrinter) output(e build.Event) {
	since := e.At.Sub(p.begun[e.Step]).Seconds()
	data := append(p.rest[e.Step], e.Data...)
	for {
		i := strings.IndexByte(string(data), '\n')
		if i < 0 {
			break
		}
		fmt.Fprintf(p.a.err, "#%d %.3f %s\n", e.Step, since, strings.TrimSuffix(string(data[:i]), "\r"))
		data = data[i+1:]
	}
	p.rest[e.Step] = append([]byte(nil), data...)
}

func (p *buildPrinter) flush(step int) {
	if rest := p.rest[step]; len(rest) > 0 {
		fmt.Fprintf(p.a.err, "#%d %s\n", step, rest)
	}
	delete(p.rest, step)
}

func oneLine(s string) string {
	first, _, more := strings.Cut(strings.TrimSpace(s), "\n")
	if more {
		first += " ..."
	}
	return first
}

func (p *buildPrinter) end() {
	if !p.quiet && p.last != 0 {
		fmt.Fprintln(p.a.err)
	}
}

// failure prints where in the Dockerfile it went wrong, and gives the error.
func (p *buildPrinter) failure(err error) error {
	var e *build.Error
	if !errors.As(err, &e) {
		return err
	}
	if len(e.Output) > 0 {
		fmt.Fprintf(p.a.err, "------\n > %s:\n%s\n------\n", oneLine(e.Step), strings.Join(e.Output, "\n"))
	}
	fmt.Fprint(p.a.err, e.Excerpt())
	return fmt.Errorf("failed to build: %w", err)
}

func (p *buildPrinter) success(id string, tags []string) {
	if p.quiet {
		fmt.Fprintln(p.a.out, id)
		return
	}
	fmt.Fprintf(p.a.err, "writing image %s done\n", id)
	for _, t := range tags {
		fmt.Fprintf(p.a.err, "naming to %s done\n", t)
	}
}

func (p *buildPrinter) pushed(r image.Reference, res registry.PushResult) {
	if !p.quiet {
		fmt.Fprintf(p.a.err, "pushing %s with digest %s done\n", r.Familiar(), res.Digest)
	}
}

func newBuilderGroup(a *app) *cobra.Command {
	return group(a, "Manage builds", []verb{{"build", newBuild}, {"prune", newBuilderPrune}})
}

func newBuilderPrune(a *app) *cobra.Command {
	var o engine.PruneBuildOptions
	var force bool
	var filters []string
	var keep string
	c := &cobra.Command{Use: "prune", Short: "Remove build cache", Args: noArgs}
	fs := c.Flags()
	fs.BoolVarP(&o.All, "all", "a", false, "remove the directories of cache mounts too")
	fs.BoolVarP(&force, "force", "f", false, "do not prompt for confirmation")
	fs.StringArrayVar(&filters, "filter", nil, "provide filter values (e.g. 'until=24h', 'id=<key>')")
	fs.StringVar(&keep, "keep-storage", "", "amount of disk space to keep for cache")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if o.Filters, err = parseFilters(filters); err != nil {
			return err
		}
		if keep != "" {
			n, err := units.RAMInBytes(keep)
			if err != nil || n < 0 {
				return usagef("invalid value for --keep-storage: %s", keep)
			}
			o.Keep = n
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		warning := "WARNING! This will remove all build cache but the directories of cache mounts."
		if o.All {
			warning = "WARNING! This will remove all build cache."
		}
		if !force && !a.confirm(warning) {
			return nil
		}
		rep, err := e.PruneBuild(cmd.Context(), o)
		a.printPruned("Deleted build cache objects:", rep)
		if err == nil {
			fmt.Fprintf(a.out, "Total reclaimed space: %s\n", units.HumanSize(float64(rep.SpaceReclaimed)))
		}
		return err
	}
	return c
}
