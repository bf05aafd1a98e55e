package pseudolink

import "testing"

func FuzzParse(f *testing.F) {
	f.Add(Name(12, Tag("/branch"), 3))
	f.Add("1.x.0")
	f.Add("..")
	f.Fuzz(func(t *testing.T, s string) {
		ino, tag, shown, ok := Parse(s)
		if !ok {
			return
		}
		if i, g, n, ok := Parse(Name(ino, tag, shown)); !ok || i != ino || g != tag || n != shown {
			t.Errorf("%q: %d %q %d, and then %d %q %d", s, ino, tag, shown, i, g, n)
		}
	})
}
