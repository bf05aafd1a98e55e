package engine

import (
	"context"

	"vivarium/image"
	"vivarium/image/registry"
)

// PushOptions says how images are pushed.
type PushOptions struct {
	All      bool // every tag that the store has of the repository; the reference names only that
	Insecure bool // as in PullOptions
	// Begin is called before each tag, Step with each step of it, never by two
	// goroutines at once, and End after a tag that succeeded. Each may be nil.
	Begin func(image.Reference)
	Step  func(registry.Event)
	End   func(image.Reference, registry.PushResult)
}

// Push brings an image to the registry that its name says.
func (e *Engine) Push(ctx context.Context, ref string, opt PushOptions) error {
	s, err := e.images()
	if err != nil {
		return err
	}
	parsed, err := image.ParseReference(ref)
	if err != nil {
		return &Error{Kind: ErrInvalid, Msg: err.Error(), cause: err}
	}
	if ref == hostImage {
		return errorf(ErrInvalid, "the image %q is this machine, and cannot be pushed", hostImage)
	}
	names := []string{parsed.String()}
	if opt.All {
		if names, err = s.NamesIn(parsed.Repo()); err != nil {
			return err
		}
		if len(names) == 0 {
			return errorf(ErrNoSuchImage, "An image does not exist locally with the repository: %s", parsed.FamiliarRepo())
		}
	}
	for _, name := range names {
		if err := e.pushOne(ctx, name, opt); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) pushOne(ctx context.Context, name string, opt PushOptions) error {
	s, err := e.images()
	if err != nil {
		return err
	}
	parsed, err := image.ParseReference(name)
	if err != nil {
		return err
	}
	if _, err := s.Top(name); err != nil {
		return errorf(ErrNoSuchImage, "An image does not exist locally with the tag: %s", parsed.Familiar())
	}
	if opt.Begin != nil {
		opt.Begin(parsed)
	}
	conf, err := registry.LoadConf()
	if err != nil {
		return err
	}
	res, err := registry.Push(ctx, s, name, registry.PushOptions{Conf: conf, Insecure: opt.Insecure, Progress: opt.Step})
	if err != nil {
		return err
	}
	if opt.End != nil {
		opt.End(parsed, res)
	}
	e.emit(objectEvent("image", "push", parsed.Familiar(), map[string]string{"name": parsed.FamiliarRepo()}))
	return nil
}
