package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vivarium/engine"
	"vivarium/image/build"
)

// buildFlags are the flags of build that are not the engine's options yet.
type buildFlags struct {
	file, iidfile, progress    string
	args, labels, secrets, ssh []string
	contexts, outputs          []string
	cacheFrom, cacheTo         []string
	quiet, push, load          bool
	checkOnly, accepted        bool
	call, metadata             string
	annotations, ulimits       []string
	shmSize                    sizeFlag
}

func newBuild(a *app) *cobra.Command {
	var o engine.BuildOptions
	var f buildFlags
	c := &cobra.Command{Use: "build [OPTIONS] PATH | URL | -", Short: "Build an image from a Dockerfile", Args: exactArgs(1)}
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
	fs.StringSliceVar(&o.NoCacheFilter, "no-cache-filter", nil, "do not cache specified stages")
	fs.BoolVar(&o.Squash, "squash", false, "squash newly built layers into a single new layer")
	fs.BoolVar(&o.SquashAll, "squash-all", false, "squash all layers, those of the base image too, into a single new layer")
	fs.BoolVar(&o.Pull, "pull", false, "always attempt to pull all referenced images")
	fs.BoolVarP(&f.quiet, "quiet", "q", false, "suppress the build output and print image ID on success")
	fs.StringVar(&f.iidfile, "iidfile", "", "write the image ID to a file")
	fs.StringVar(&f.progress, "progress", "", "set type of progress output (auto, plain, tty, quiet, rawjson); BUILDKIT_PROGRESS sets another default than auto")
	fs.StringVar(&o.Network, "network", "default", "set the networking mode for the RUN instructions during build (default, none, host)")
	fs.StringArrayVar(&o.ExtraHosts, "add-host", nil, "add a custom host-to-IP mapping (format: host:ip)")
	fs.StringArrayVar(&o.Allow, "allow", nil, "allow extra privileged entitlement (network.host, security.insecure)")
	fs.StringArrayVar(&f.secrets, "secret", nil, "secret to expose to the build (format: id=mysecret[,src=/local/secret])")
	fs.StringArrayVar(&f.ssh, "ssh", nil, "SSH agent socket to expose to the build (format: default|<id>[=<socket>])")
	fs.StringArrayVarP(&f.outputs, "output", "o", nil, "output destination (format: 'type=image|registry|local|tar|oci|docker,dest=path,name=ref,push=true', or a directory)")
	fs.BoolVar(&f.push, "push", false, "shorthand for '--output=type=registry'")
	fs.BoolVar(&f.load, "load", false, "shorthand for '--output=type=docker': the image is put into the store")
	fs.BoolVar(&f.checkOnly, "check", false, "shorthand for '--call=check'")
	fs.StringVar(&f.call, "call", "build", "set method for evaluating build (build, check)")
	fs.StringVar(&f.metadata, "metadata-file", "", "write build result metadata to a file")
	fs.StringArrayVar(&f.annotations, "annotation", nil, "add annotation to the image")
	fs.Var(&f.shmSize, "shm-size", "shared memory size for build containers")
	fs.StringArrayVar(&f.ulimits, "ulimit", nil, "ulimit options (format: name=soft[:hard])")
	for _, name := range []string{"rm", "force-rm"} { // containers of a build never stay
		fs.BoolVar(&f.accepted, name, true, "accepted: a build leaves no containers")
		_ = fs.MarkHidden(name)
	}
	completeFlag(c, "progress", oneOf("auto", "plain", "tty", "quiet", "rawjson"))
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := f.read(a, &o, args[0]); err != nil {
			return err
		}
		if err := errors.Join(f.readOutputs(&o), f.readCaches(&o)); err != nil {
			return err
		}
		switch {
		case f.checkOnly, f.call == "check", f.call == "lint":
			return f.check(cmd.Context(), a, o)
		case f.call != "build":
			return usagef("invalid value %q of --call: it is build or check", f.call)
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
	o.Progress, o.Built, o.Pushed = show.event, show.built, show.pushed
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
	if f.metadata != "" {
		if err := writeMetadata(f.metadata, img); err != nil {
			return err
		}
	}
	if img.ID != "" && show.quiet() {
		fmt.Fprintln(a.out, img.ID)
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
		o.Input, o.DockerfileName = a.in, f.file
	case engine.RemoteContext(where) && f.file != "-":
		o.Context, o.DockerfileName = where, f.file
	case f.file == "-":
		o.Context = where
		o.Dockerfile, err = engine.ReadDockerfile(a.in)
		o.DockerfileName = "Dockerfile"
	default:
		o.Context = where
		err = f.readFile(o)
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
	if o.Annotations, err = annotationsOf(f.annotations); err != nil {
		return err
	}
	o.ShmSize = f.shmSize.n
	if o.Ulimits, err = ulimitsOf(f.ulimits); err != nil {
		return usagef("--ulimit: %v", err)
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
	o.Dockerfile, err = engine.ReadDockerfile(file)
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
