package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Entries as Debian's qemu-user-static registers them.
const (
	aarch64 = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\n" +
		"magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n"
	s390x = "enabled\ninterpreter /usr/libexec/qemu-binfmt/s390x-binfmt-P\nflags: POCF\noffset 0\n" +
		"magic 7f454c4602020100000000000000000000020016\nmask ffffffffffffff00fffffffffffffffffffeffff\n"
	python = "enabled\ninterpreter /usr/bin/python3.11\nflags: \noffset 0\nmagic a70d0d0a\n"
)

func TestEmulation(t *testing.T) {
	for name, c := range map[string]struct {
		entries map[string]string
		arch    string
		reason  string // empty: it is there
	}{
		"there":         {map[string]string{"status": "enabled\n", "python": python, "qemu-aarch64": aarch64}, "arm64", ""},
		"big-endian":    {map[string]string{"qemu-s390x": s390x, "qemu-aarch64": aarch64}, "s390x", ""},
		"another":       {map[string]string{"qemu-aarch64": aarch64, "python": python}, "riscv64", "no interpreter"},
		"none":          {nil, "arm64", "no interpreter"},
		"disabled":      {map[string]string{"qemu-aarch64": strings.Replace(aarch64, "enabled", "disabled", 1)}, "arm64", "no interpreter"},
		"without F":     {map[string]string{"qemu-aarch64": strings.Replace(aarch64, "POCF", "POC", 1)}, "arm64", "flag F"},
		"no such thing": {nil, "vax", "not known"},
	} {
		dir := t.TempDir()
		for f, text := range c.entries {
			if err := os.WriteFile(filepath.Join(dir, f), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		err := emulation(dir, c.arch)
		if (err == nil) != (c.reason == "") || err != nil && (!strings.Contains(err.Error(), c.reason) || !errors.Is(err, ErrMissing)) {
			t.Errorf("%s: %v, want %q", name, err, c.reason)
		}
	}
}
