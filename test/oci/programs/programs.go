//go:build programs

// Package programs pins the validation programs of opencontainers/runtime-tools in a
// module of its own: what they need is none of what we need.
package programs

import (
	_ "github.com/opencontainers/runtime-tools/cmd/runtimetest"
	_ "github.com/opencontainers/runtime-tools/validation/hostname"
)
