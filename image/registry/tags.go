package registry

import (
	"context"
	"fmt"
	"net/url"

	"vivarium/image"
)

const (
	tagPage  = 1000
	maxPages = 200
)

// Tags gives the full names of all tags of the repository that ref names, in the
// registry's order. The options are those of a pull.
func Tags(ctx context.Context, ref string, opts Options) ([]string, error) {
	parsed, err := image.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	names, err := tags(ctx, parsed, opts)
	if err != nil {
		return nil, fmt.Errorf("list the tags of %s: %w", parsed.FamiliarRepo(), err)
	}
	return names, nil
}

func tags(ctx context.Context, ref image.Reference, opts Options) ([]string, error) {
	places, err := opts.Conf.endpoints(ref)
	if err != nil {
		return nil, err
	}
	at := places[len(places)-1] // mirrors need not have all
	c, err := newClient(ctx, at.ref, access{keys: opts.Keychain, insecure: opts.Insecure || at.insecure, limits: opts.Limits})
	if err != nil {
		return nil, err
	}
	defer c.close()
	var names []string
	last := ""
	for range maxPages {
		list, more, err := c.tagPage(ctx, last)
		if err != nil {
			return nil, err
		}
		for _, tag := range list {
			name := ref.Repo() + ":" + tag
			if _, err := image.ParseReference(name); err != nil {
				return nil, fmt.Errorf("%w: it has a tag %q: %v", ErrRegistry, oneLine(tag), err)
			}
			names = append(names, name)
		}
		// A registry that does not page gives the same again.
		if !more || len(list) == 0 || list[len(list)-1] == last {
			return names, nil
		}
		last = list[len(list)-1]
	}
	return nil, fmt.Errorf("%w: it has more than %d tags", ErrRegistry, tagPage*maxPages)
}

// tagPage asks for the tags after one (distribution-spec, "content discovery"), and
// tells whether there are more: by the Link header, for registries may give fewer at
// a time than they are asked for.
func (c *client) tagPage(ctx context.Context, last string) (list []string, more bool, err error) {
	q := url.Values{"n": {fmt.Sprint(tagPage)}}
	if last != "" {
		q.Set("last", last)
	}
	var page struct {
		Tags []string `json:"tags"`
	}
	head, err := c.getJSON(ctx, c.url("tags", "list")+"?"+q.Encode(), "get the list of tags", &page)
	if err != nil {
		return nil, false, err
	}
	return page.Tags, head.Get("Link") != "", nil
}
