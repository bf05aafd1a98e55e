package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"vivarium/image"
	"vivarium/image/store"
)

// Found is one repository that a registry has found.
type Found struct {
	Name        string `json:"name"` // as it is pulled
	Description string `json:"description"`
	Stars       int    `json:"star_count"`
	Official    bool   `json:"is_official"`
	Automated   bool   `json:"is_automated"`
}

// Search asks a registry for repositories with a term in their names: by the search
// of the first registry API, as Docker Hub has it, or where there is none in the
// list of all repositories (distribution-spec has no search; the list is that of
// Docker's distribution, GET /v2/_catalog). "HOST/TERM" asks another registry than
// Docker Hub. At most limit are given.
func Search(ctx context.Context, term string, limit int, opts CopyOptions) ([]Found, error) {
	host, rest, ok := strings.Cut(term, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, rest = "docker.io", term
	}
	if rest == "" {
		return nil, fmt.Errorf("search %s: %w: the term is empty", term, image.ErrReference)
	}
	list, err := search(ctx, host, rest, limit, opts)
	if err != nil {
		return nil, fmt.Errorf("search %s for %q: %w", host, rest, err)
	}
	return list, nil
}

func search(ctx context.Context, host, term string, limit int, opts CopyOptions) ([]Found, error) {
	ref, err := image.ParseReference(host + "/x")
	if err != nil {
		return nil, err
	}
	places, err := opts.Conf.endpoints(ref)
	if err != nil {
		return nil, err
	}
	at := places[len(places)-1]
	c, err := newClient(ctx, at.ref, access{keys: opts.Keychain, insecure: opts.Insecure || at.insecure, limits: opts.Limits, catalog: true})
	if err != nil {
		return nil, err
	}
	defer c.close()
	list, err := c.search(ctx, term, limit)
	if errors.Is(err, ErrNotFound) && host != "docker.io" {
		list, err = c.catalog(ctx, term, limit)
	}
	if host != "docker.io" {
		for i := range list {
			list[i].Name = host + "/" + strings.TrimPrefix(list[i].Name, host+"/")
		}
	}
	return list, err
}

func (c *client) search(ctx context.Context, term string, limit int) ([]Found, error) {
	at := url.URL{Scheme: "https", Host: c.reg.RegistryStr(), Path: "/v1/search", RawQuery: url.Values{"q": {term}, "n": {fmt.Sprint(limit)}}.Encode()}
	var page struct {
		Results []Found `json:"results"`
	}
	if _, err := c.getJSON(ctx, at.String(), "search", &page); err != nil {
		return nil, err
	}
	return page.Results[:min(limit, len(page.Results))], nil
}

// catalog looks through the list of all repositories, page by page.
func (c *client) catalog(ctx context.Context, term string, limit int) ([]Found, error) {
	var out []Found
	last, seen := "", map[string]bool{}
	for range maxPages {
		q := url.Values{"n": {fmt.Sprint(tagPage)}}
		if last != "" {
			q.Set("last", last)
		}
		at := url.URL{Scheme: "https", Host: c.reg.RegistryStr(), Path: "/v2/_catalog", RawQuery: q.Encode()}
		var page struct {
			Repositories []string `json:"repositories"`
		}
		if _, err := c.getJSON(ctx, at.String(), "list the repositories", &page); err != nil {
			return nil, err
		}
		fresh := false // a registry that does not page gives the same again
		for _, name := range page.Repositories {
			if seen[name] {
				continue
			}
			fresh, seen[name], last = true, true, name
			if strings.Contains(name, term) && len(out) < limit {
				out = append(out, Found{Name: name})
			}
		}
		if !fresh || len(out) >= limit {
			slices.SortFunc(out, func(a, b Found) int { return strings.Compare(a.Name, b.Name) })
			return out, nil
		}
	}
	return nil, fmt.Errorf("%w: it has more than %d repositories", ErrRegistry, tagPage*maxPages)
}

// getJSON reads an answer that is one JSON value, and gives its header.
func (c *client) getJSON(ctx context.Context, at, doing string, into any) (http.Header, error) {
	resp, err := c.getURL(ctx, at, doing, nil, http.StatusOK)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return nil, c.explain(doing, err)
	}
	if len(b) > maxManifest {
		return nil, fmt.Errorf("%s: %w: more than %d bytes", doing, store.ErrTooLong, maxManifest)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return nil, fmt.Errorf("%s: %w: %v", doing, ErrRegistry, err)
	}
	return resp.Header, nil
}
