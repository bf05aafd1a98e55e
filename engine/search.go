package engine

import (
	"context"

	"vivarium/image/registry"
)

// Search asks a registry for repositories; see registry.Search.
func (e *Engine) Search(ctx context.Context, term string, limit int, insecure bool) ([]registry.Found, error) {
	if limit < 1 || limit > 100 {
		return nil, errorf(ErrInvalid, "limit %d is outside the range of [1, 100]", limit)
	}
	o, err := e.copyOptions(insecure, nil)
	if err != nil {
		return nil, err
	}
	return registry.Search(ctx, term, limit, o)
}
