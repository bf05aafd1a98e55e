package engine

import (
	"context"
	"io"
	"time"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/archive"
)

// Load reads images from an archive of `docker save` or an OCI archive.
func (e *Engine) Load(ctx context.Context, r io.Reader, platform string) ([]image.Image, error) {
	s, err := e.images()
	if err != nil {
		return nil, err
	}
	var o archive.LoadOptions
	if o.Platform, err = optionalPlatform(platform); err != nil {
		return nil, err
	}
	list, err := archive.Load(ctx, s, r, o)
	for _, img := range list {
		e.emit(objectEvent("image", "load", string(img.ID), map[string]string{"name": string(img.ID)}))
	}
	return list, err
}

func optionalPlatform(s string) (*ispec.Platform, error) {
	if s == "" {
		return nil, nil
	}
	p, err := image.ParsePlatform(s)
	if err != nil {
		return nil, &Error{Kind: ErrInvalid, Msg: err.Error()}
	}
	return &p, nil
}

// Save writes images as one archive; oci: as an OCI archive and nothing else.
func (e *Engine) Save(ctx context.Context, w io.Writer, refs []string, oci bool) error {
	s, err := e.images()
	if err != nil {
		return err
	}
	format := archive.Docker
	if oci {
		format = archive.OCI
	}
	for _, ref := range refs {
		if _, err := s.Lookup(ref); err != nil {
			return imageError(ref, err)
		}
	}
	if err := archive.Save(ctx, s, w, refs, format); err != nil {
		return err
	}
	for _, ref := range refs {
		if id, err := s.Lookup(ref); err == nil {
			e.emit(objectEvent("image", "save", string(id), map[string]string{"name": string(id)}))
		}
	}
	return nil
}

// ImportOptions of Import.
type ImportOptions struct {
	Ref      string // name of the image, or ""
	Message  string
	Platform string
	Config   ispec.ImageConfig
}

// Import makes an image of one layer from a tar of a root file system.
func (e *Engine) Import(ctx context.Context, r io.Reader, opt ImportOptions) (image.Image, error) {
	if opt.Ref == hostImage {
		return image.Image{}, errorf(ErrInvalid, "the name %q belongs to the built-in image", hostImage)
	}
	s, err := e.images()
	if err != nil {
		return image.Image{}, err
	}
	o := archive.ImportOptions{Config: opt.Config, Message: opt.Message}
	if o.Platform, err = optionalPlatform(opt.Platform); err != nil {
		return image.Image{}, err
	}
	if opt.Ref != "" {
		o.Names = []string{opt.Ref}
	}
	img, err := archive.Import(ctx, s, r, o)
	if err == nil {
		e.emit(objectEvent("image", "import", string(img.ID), map[string]string{"name": string(img.ID)}))
	}
	return img, err
}

// ImageInspection is an image in the shape of `docker image inspect`.
type ImageInspection struct {
	ID            string `json:"Id"`
	RepoTags      []string
	RepoDigests   []string
	Comment       string
	Created       string `json:",omitempty"`
	DockerVersion string
	Author        string
	Config        InspectedConfig
	Architecture  string
	Variant       string `json:",omitempty"`
	Os            string
	Size          int64
	GraphDriver   GraphDriver
	RootFS        RootFS
	Metadata      map[string]string
	Descriptor    ispec.Descriptor
}

// InspectedConfig is an image's settings with what OCI's form of them lacks.
type InspectedConfig struct {
	ispec.ImageConfig
	Healthcheck *image.Healthcheck `json:",omitempty"`
}

// RootFS lists an image's layers.
type RootFS struct {
	Type   string
	Layers []string
}

// InspectImage gives everything about an image.
func (e *Engine) InspectImage(ctx context.Context, ref string) (*ImageInspection, error) {
	if ref == hostImage {
		src := hostSource()
		return &ImageInspection{ID: hostImage, RepoTags: []string{hostImage}, RepoDigests: []string{}, Config: InspectedConfig{ImageConfig: src.Config}, Os: "linux",
			Architecture: image.DefaultPlatform().Architecture, GraphDriver: GraphDriver{Name: "overlay2", Data: map[string]string{"LowerDir": "/"}}}, nil
	}
	img, err := e.Image(ctx, ref)
	if err != nil {
		return nil, err
	}
	i := &ImageInspection{
		ID: string(img.ID), RepoTags: img.RepoTags(), RepoDigests: img.FamiliarDigests(), Author: img.Config.Author,
		Config: InspectedConfig{img.Config.Config, img.Healthcheck}, Architecture: img.Config.Architecture, Variant: img.Config.Variant, Os: img.Config.OS, Size: img.Size,
		RootFS: RootFS{Type: "layers"}, Metadata: map[string]string{}, Descriptor: img.Manifest,
		GraphDriver: GraphDriver{Name: "overlay2", Data: map[string]string{}},
	}
	if !img.Created.IsZero() {
		i.Created = img.Created.UTC().Format(time.RFC3339Nano)
	}
	if n := len(img.Config.History); n > 0 {
		i.Comment = img.Config.History[n-1].Comment
	}
	for _, l := range img.Config.RootFS.DiffIDs {
		i.RootFS.Layers = append(i.RootFS.Layers, string(l))
	}
	for n, dir := range img.LowerDirs() {
		if n == 0 {
			i.GraphDriver.Data["UpperDir"] = dir
		} else if i.GraphDriver.Data["LowerDir"] == "" {
			i.GraphDriver.Data["LowerDir"] = dir
		} else {
			i.GraphDriver.Data["LowerDir"] += ":" + dir
		}
	}
	return i, nil
}

// HistoryEntry is one step of an image's making.
type HistoryEntry struct {
	ID        string // of the image, in its newest entry; else "<missing>"
	Created   time.Time
	CreatedBy string
	Comment   string
	Size      int64
	Tags      []string
}

// History gives the steps that made an image, newest first.
func (e *Engine) History(ctx context.Context, ref string) ([]HistoryEntry, error) {
	img, err := e.Image(ctx, ref)
	if err != nil {
		return nil, err
	}
	var list []HistoryEntry
	layer := 0
	for _, h := range img.Config.History {
		en := HistoryEntry{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment}
		if h.Created != nil {
			en.Created = *h.Created
		}
		if !h.EmptyLayer && layer < len(img.Layers) {
			en.Size = img.Layers[layer].Size
			layer++
		}
		list = append([]HistoryEntry{en}, list...)
	}
	if len(list) == 0 {
		for _, l := range img.Layers {
			list = append([]HistoryEntry{{ID: "<missing>", Size: l.Size, Created: img.Created}}, list...)
		}
	}
	if len(list) > 0 {
		list[0].ID, list[0].Tags = string(img.ID), img.RepoTags()
	}
	return list, nil
}
