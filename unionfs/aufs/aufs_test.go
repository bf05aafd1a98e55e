package aufs

import "testing"

// TestBranches: what is read is written again in the same words.
func TestBranches(t *testing.T) {
	for text, want := range map[string]string{
		"/a": "/a=ro", "/a=rw": "/a=rw", "/a=ro+wh": "/a=ro+wh", "/a=rr+ovl": "/a=rr+ovl", "/a=ro+ovl": "/a=ro+ovl",
		`/a\:b=rr`: `/a\:b=rr`, "/a=b/c": "/a=b/c=ro", "/a=rw+wh": "", "/a=rw+ovl": "", "/a=ro+no": "", "/a=rx": "", "=rw": "",
	} {
		b, err := ParseBranch(text, RO)
		if (err != nil) != (want == "") || err == nil && b.String() != want {
			t.Errorf("%s: %v, %v; want %q", text, b, err, want)
		}
		if err != nil {
			continue
		}
		if again, err := ParseBranch(b.String(), RW); err != nil || again != b {
			t.Errorf("%s: read again %v, %v", text, again, err)
		}
	}
}
