package lab

import (
	"fmt"
	"strings"
)

// mapsToOwn checks that root inside is the id that id(1) tells outside, which stands
// in the last line.
func mapsToOwn(out string) error {
	lines := strings.Split(out, "\n")
	f := strings.Fields(lines[0])
	if len(lines) != 2 || len(f) != 3 || f[0] != "0" || f[1] != lines[1] {
		return fmt.Errorf("the map is %q", out)
	}
	return nil
}

// ends checks how the output ends.
func ends(with string) func(string, map[string]string) error {
	return func(out string, _ map[string]string) error {
		if !strings.HasSuffix(out, with) {
			return fmt.Errorf("it shows %q, which does not end with %q", out, with)
		}
		return nil
	}
}

// whiteout checks that ls -l lists one for /etc/passwd, as overlay or AUFS spell it.
func whiteout(out string, _ map[string]string) error {
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		name := f[len(f)-1]
		if name == ".wh.passwd" || name == "passwd" && f[0][0] == 'c' && strings.Contains(line, " 0, ") {
			return nil
		}
	}
	return fmt.Errorf("no whiteout in %q", out)
}
