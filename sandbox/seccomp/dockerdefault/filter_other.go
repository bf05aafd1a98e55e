//go:build !amd64 && !arm64

package dockerdefault

import "golang.org/x/sys/unix"

func precompiled() []unix.SockFilter { return nil }
