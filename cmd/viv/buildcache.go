package main

import (
	"encoding/csv"
	"strconv"
	"strings"

	"vivarium/engine"
)

// readCaches fills in what --cache-from and --cache-to say.
func (f *buildFlags) readCaches(o *engine.BuildOptions) error {
	for _, text := range f.cacheFrom {
		c, err := cacheOf("--cache-from", text)
		if err != nil {
			return err
		}
		o.CacheFrom = append(o.CacheFrom, c)
	}
	for _, text := range f.cacheTo {
		c, err := cacheOf("--cache-to", text)
		if err != nil {
			return err
		}
		o.CacheTo = append(o.CacheTo, c)
	}
	return nil
}

// cacheOf reads a cache's place, a line of CSV as buildx has it: type=TYPE,key=value…; a
// line without "=" is a name in a registry.
func cacheOf(flag, text string) (engine.BuildCache, error) {
	var c engine.BuildCache
	if !strings.Contains(text, "=") {
		return engine.BuildCache{Type: "registry", Ref: text}, nil
	}
	fields, err := keyValues(flag, text)
	if err != nil {
		return c, err
	}
	dir := "src"
	if flag == "--cache-to" {
		dir = "dest"
		c.Tag = "latest"
	}
	for _, field := range fields {
		if err := setCache(&c, flag, dir, strings.ToLower(field[0]), field[1]); err != nil {
			return c, err
		}
	}
	switch {
	case c.Type == "":
		return c, usagef("%s %s: type is required", flag, text)
	case c.Type == "registry" && c.Ref == "":
		return c, usagef("%s %s: ref is required for a cache in a registry", flag, text)
	case c.Type == "local" && c.Dir == "":
		return c, usagef("%s %s: %s is required for a local cache", flag, text, dir)
	}
	return c, nil
}

// keyValues reads a line of CSV whose fields are key=value.
func keyValues(flag, text string) (pairs [][2]string, err error) {
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return nil, usagef("%s %s: %v", flag, text, err)
	}
	for _, field := range fields {
		k, v, ok := strings.Cut(field, "=")
		if !ok {
			return nil, usagef("%s %s: invalid field %q: it must be a key=value pair", flag, text, field)
		}
		pairs = append(pairs, [2]string{k, v})
	}
	return pairs, nil
}

func setCache(c *engine.BuildCache, flag, dir, key, v string) (err error) {
	to := flag == "--cache-to"
	switch {
	case key == "type":
		c.Type = v
	case key == "ref":
		c.Ref = v
	case key == dir:
		c.Dir = v
	case key == "tag":
		c.Tag = v
	case key == "registry.insecure":
		c.Insecure, err = strconv.ParseBool(v)
	case key == "mode" && to:
		if c.All = v == "max"; !c.All && v != "min" {
			return usagef("%s: mode is min or max, not %q", flag, v)
		}
	case key == "ignore-error" && to:
		c.IgnoreError, err = strconv.ParseBool(v)
	case (key == "oci-mediatypes" || key == "image-manifest") && to:
		var on bool // what is written is that in any case
		if on, err = strconv.ParseBool(v); err == nil && !on {
			return usagef("%s: %s=false is not supported", flag, key)
		}
	default:
		return usagef("unknown key %q of %s", key, flag)
	}
	if err != nil {
		return usagef("%s: %s must be true or false", flag, key)
	}
	return nil
}
