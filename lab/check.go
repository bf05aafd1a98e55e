package lab

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

func expand(text string, v map[string]string) string {
	return os.Expand(text, func(k string) string { return v[k] })
}

// is checks that the output is a text.
func is(want string) func(string, map[string]string) error {
	return func(out string, v map[string]string) error {
		if w := expand(want, v); out != w {
			return fmt.Errorf("it shows %q, not %q", out, w)
		}
		return nil
	}
}

// isNot checks that it is not a text.
func isNot(text string) func(string, map[string]string) error {
	return func(out string, v map[string]string) error {
		if out == expand(text, v) {
			return fmt.Errorf("it shows %q", out)
		}
		return nil
	}
}

// has checks that the output has all of some texts; one with ! before it must not be there.
func has(words ...string) func(string, map[string]string) error {
	return func(out string, v map[string]string) error {
		for _, w := range words {
			word, not := strings.CutPrefix(expand(w, v), "!")
			if strings.Contains(out, word) == not {
				if not {
					return fmt.Errorf("it shows %q", word)
				}
				return fmt.Errorf("it does not show %q", word)
			}
		}
		return nil
	}
}

// ends checks how the output ends.
func ends(with string) func(string, map[string]string) error {
	return func(out string, v map[string]string) error {
		if w := expand(with, v); !strings.HasSuffix(out, w) {
			return fmt.Errorf("it shows %q, which does not end with %q", out, w)
		}
		return nil
	}
}

// between checks that the output is a number, and by how much it is more than that of a
// variable, or than 0: by at least least, and less than most.
func between(variable string, least, most int64) func(string, map[string]string) error {
	return func(out string, v map[string]string) error {
		n, err := strconv.ParseInt(out, 10, 64)
		before, errBefore := strconv.ParseInt("0"+v[variable], 10, 64)
		if err := errors.Join(err, errBefore); err != nil {
			return err
		}
		if n < before+least || n >= before+most {
			return fmt.Errorf("it shows %d, which is not %d to %d more than %d", n, least, most, before)
		}
		return nil
	}
}

// mapsToOwn checks that root inside is the id that id(1) tells outside, which stands
// in the last line.
func mapsToOwn(out string, _ map[string]string) error {
	lines := strings.Split(out, "\n")
	f := strings.Fields(lines[0])
	if len(lines) != 2 || len(f) != 3 || f[0] != "0" || f[1] != lines[1] {
		return fmt.Errorf("the map is %q", out)
	}
	return nil
}

// whiteout checks that ls -l lists one for /etc/passwd, as overlay or AUFS spell it.
func whiteout(out string, _ map[string]string) error {
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		name := f[len(f)-1]
		if name == ".wh.passwd" || name == "passwd" && f[0][0] == 'c' && strings.Contains(line, " 0, ") {
			return nil
		}
	}
	return fmt.Errorf("no whiteout in %q", out)
}
