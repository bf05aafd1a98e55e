package unionfs

import (
	"context"
	"fmt"
	"os"

	"vivarium/layer"
)

// Copy makes the union by copying the merged layers (top-most first) into the
// new, empty directory dst; blocks are shared where the file system can. It is
// for where overlay cannot be used. The recipe binds dst.
func Copy(ctx context.Context, lower []string, dst string) (Recipe, error) {
	dir, err := os.Open(dst)
	if err != nil {
		return Recipe{}, fmt.Errorf("copy layers: %w", err)
	}
	defer dir.Close()
	if err := layer.Merge(ctx, dir, lower); err != nil {
		return Recipe{}, fmt.Errorf("copy %d layers to %s: %w", len(lower), dst, err)
	}
	r := Bind(dst)
	r.Lower = lower
	return r, nil
}
