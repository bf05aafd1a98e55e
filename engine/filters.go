package engine

import (
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Filters are the --filter arguments of a command: values by key.
type Filters map[string][]string

// ParseFilters parses "key=value" arguments as Docker does.
func ParseFilters(args []string) (Filters, error) {
	f := Filters{}
	for _, arg := range args {
		if arg == "" {
			continue
		}
		k, v, ok := strings.Cut(arg, "=")
		if !ok {
			return nil, errorf(ErrInvalid, "invalid argument %q: bad format of filter (expected name=value)", arg)
		}
		k = strings.ToLower(strings.TrimSpace(k))
		f[k] = append(f[k], strings.TrimSpace(v))
	}
	return f, nil
}

// check refuses keys that a command does not know.
func (f Filters) check(known ...string) error {
	for k := range f {
		if !slices.Contains(known, k) {
			return errorf(ErrInvalid, "invalid filter '%s'", k)
		}
	}
	return nil
}

// any tells whether the key is absent or one of its values matches.
func (f Filters) any(key string, match func(string) bool) bool {
	vs, ok := f[key]
	return !ok || slices.ContainsFunc(vs, match)
}

// all tells whether each value of the key matches.
func (f Filters) all(key string, match func(string) bool) bool {
	for _, v := range f[key] {
		if !match(v) {
			return false
		}
	}
	return true
}

// matchLabel matches "key" or "key=value".
func matchLabel(labels map[string]string, want string) bool {
	k, v, hasValue := strings.Cut(want, "=")
	got, ok := labels[k]
	return ok && (!hasValue || got == v)
}

// matchPattern is how Docker matches names and IDs: a regular expression, or
// when that is none, a plain part.
func matchPattern(pattern, s string) bool {
	if re, err := regexp.Compile(pattern); err == nil {
		return re.MatchString(s)
	}
	return strings.Contains(s, pattern)
}

// until reads the filter of that name: a time, or a duration before now.
func (f Filters) until() (time.Time, error) {
	vs, ok := f["until"]
	if !ok {
		return time.Time{}, nil
	}
	return ParseTime(vs[len(vs)-1], time.Now())
}

// ParseTime reads a point in time as Docker's --since does: a duration before
// now ("10m"), a Unix time with or without a fraction, or a date, in local time
// where it has no zone.
func ParseTime(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	if sec, frac, _ := strings.Cut(s, "."); isDigits(sec) && (frac == "" || isDigits(frac)) {
		n, err := strconv.ParseInt(sec, 10, 64)
		ns, _ := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
		if err == nil {
			return time.Unix(n, ns), nil
		}
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02", "2006-01-02Z07:00"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errorf(ErrInvalid, "failed to parse value as time or duration: %q", s)
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func pathMatch(pattern, s string) bool {
	ok, err := path.Match(pattern, s)
	return err == nil && ok
}

// bool reads a filter that is true or false; def when it is absent.
func (f Filters) bool(key string, def bool) (bool, error) {
	vs, ok := f[key]
	if !ok {
		return def, nil
	}
	switch strings.ToLower(vs[len(vs)-1]) {
	case "1", "true", "t":
		return true, nil
	case "0", "false", "f":
		return false, nil
	}
	return false, errorf(ErrInvalid, "invalid filter '%s=%s'", key, vs[len(vs)-1])
}
