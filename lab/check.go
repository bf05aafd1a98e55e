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
