package build

import "testing"

// TestMode has what chmod(1) makes of modes.
func TestMode(t *testing.T) {
	for _, c := range []struct {
		text      string
		mode, dir uint32 // of a file 0644 and a directory 0755
	}{
		{"600", 0o600, 0o600}, {"u=rwX,go=rX", 0o644, 0o755}, {"a+x", 0o755, 0o755}, {"go-rwx", 0o600, 0o700},
		{"g=u", 0o664, 0o775}, {"+t", 0o1644, 0o1755}, {"u+s,g+s", 0o6644, 0o6755}, {"o=", 0o640, 0o750}, {"u=rw+x", 0o744, 0o755},
	} {
		m, err := parseMode(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if f, d := m.apply(0o644, false), m.apply(0o755, true); f != c.mode || d != c.dir {
			t.Errorf("%s makes %o and %o, want %o and %o", c.text, f, d, c.mode, c.dir)
		}
	}
	for _, bad := range []string{"", "8", "10000", "u", "z+x", "u+q", "u=rw,"} {
		if _, err := parseMode(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
