package bundle

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// DefaultPath is PATH in a container whose image does not set it.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ParseEnv reads one -e: "NAME=value", or "NAME" to take the value from the
// caller's environment by lookup. A NAME that is not set there is returned as it
// is: it removes the image's value.
func ParseEnv(arg string, lookup func(string) (string, bool)) (string, error) {
	name, _, has := strings.Cut(arg, "=")
	if name == "" || strings.ContainsRune(arg, 0) {
		return "", fmt.Errorf("invalid environment variable: %s", arg)
	}
	if has {
		return arg, nil
	}
	if v, ok := lookup(name); ok {
		return name + "=" + v, nil
	}
	return arg, nil
}

// ParseEnvFile reads lines of NAME=value or NAME; empty lines and those that begin
// with # are skipped. A NAME alone is taken from lookup, or skipped if it is not
// set there. Values are taken as they stand: there are no quotes. file is for
// messages only.
func ParseEnvFile(r io.Reader, file string, lookup func(string) (string, bool)) ([]string, error) {
	var list []string
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for line := 1; s.Scan(); line++ {
		b := s.Bytes()
		if line == 1 {
			b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
		}
		if !utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0 {
			return nil, fmt.Errorf("env file %s: invalid bytes at line %d", file, line)
		}
		text := strings.TrimLeft(string(b), " \t")
		if text == "" || text[0] == '#' {
			continue
		}
		name, _, has := strings.Cut(text, "=")
		name = strings.TrimLeft(name, " \t")
		if strings.ContainsAny(name, " \t") {
			return nil, fmt.Errorf("env file %s: variable '%s' contains whitespaces", file, name)
		}
		if name == "" {
			return nil, fmt.Errorf("env file %s: no variable name on line '%s'", file, text)
		}
		if has {
			list = append(list, text)
		} else if v, ok := lookup(name); ok {
			list = append(list, name+"="+v)
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("read env file %s: %w", file, err)
	}
	return list, nil
}

// mergeEnv puts the image's variables after the user's where the user set none of
// that name: the order that Docker's inspect shows.
func mergeEnv(user, image []string) []string {
	out := slices.Clone(user)
	for _, e := range image {
		name, _, _ := strings.Cut(e, "=")
		if envIndex(user, name) < 0 {
			out = append(out, e)
		}
	}
	return out
}

// envIndex finds name in a list of NAME=value or NAME, or gives -1.
func envIndex(env []string, name string) int {
	for i, e := range env {
		if strings.HasPrefix(e, name) && (len(e) == len(name) || e[len(name)] == '=') {
			return i
		}
	}
	return -1
}

// overlayEnv puts over on top of base, each at its old place; a name without a
// value removes it.
func overlayEnv(base, over []string) []string {
	for _, e := range over {
		name, _, has := strings.Cut(e, "=")
		i := envIndex(base, name)
		switch {
		case !has && i >= 0:
			base = slices.Delete(base, i, i+1)
		case !has:
		case i >= 0:
			base[i] = e
		default:
			base = append(base, e)
		}
	}
	return base
}
