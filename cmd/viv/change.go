package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/network"
)

// applyChange applies one --change, an instruction of a Dockerfile, to an image's configuration.
func applyChange(c *ispec.ImageConfig, text string) error {
	word, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
	rest = strings.TrimSpace(rest)
	fail := func(why string) error { return fmt.Errorf("invalid change %q: %s", text, why) }
	if rest == "" {
		return fail("it needs an argument")
	}
	var err error
	switch strings.ToUpper(word) {
	case "CMD":
		c.Cmd, err = commandArgs(rest)
	case "ENTRYPOINT":
		c.Entrypoint, err = commandArgs(rest)
	case "ENV":
		err = eachPair(rest, func(k, v string) { c.Env = append(c.Env, k+"="+v) })
	case "LABEL":
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		err = eachPair(rest, func(k, v string) { c.Labels[k] = v })
	case "EXPOSE":
		err = expose(c, rest)
	case "VOLUME":
		err = volumes(c, rest)
	case "USER":
		c.User = rest
	case "WORKDIR":
		c.WorkingDir = rest
	case "STOPSIGNAL":
		c.StopSignal = rest
	default:
		return fail(word + " is not a valid change command")
	}
	if err != nil {
		return fail(err.Error())
	}
	return nil
}

// commandArgs reads the exec form, a JSON list, or else the shell form.
func commandArgs(s string) ([]string, error) {
	if strings.HasPrefix(s, "[") {
		var list []string
		if err := json.Unmarshal([]byte(s), &list); err == nil {
			return list, nil
		}
	}
	return []string{"/bin/sh", "-c", s}, nil
}

func expose(c *ispec.ImageConfig, s string) error {
	if c.ExposedPorts == nil {
		c.ExposedPorts = map[string]struct{}{}
	}
	for _, f := range strings.Fields(s) {
		ports, err := network.ParsePort(f)
		if err != nil {
			return err
		}
		for _, p := range ports {
			c.ExposedPorts[fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)] = struct{}{}
		}
	}
	return nil
}

func volumes(c *ispec.ImageConfig, s string) error {
	list := strings.Fields(s)
	if strings.HasPrefix(s, "[") {
		if err := json.Unmarshal([]byte(s), &list); err != nil {
			return err
		}
	}
	if c.Volumes == nil {
		c.Volumes = map[string]struct{}{}
	}
	for _, v := range list {
		c.Volumes[v] = struct{}{}
	}
	return nil
}

// eachPair reads `a=b "c=d e" f="g h"`, or the old form `name value`.
func eachPair(s string, fn func(k, v string)) error {
	words, err := splitQuoted(s)
	if err != nil {
		return err
	}
	if k, v, ok := strings.Cut(s, " "); ok && !strings.Contains(words[0], "=") {
		fn(k, strings.TrimSpace(v))
		return nil
	}
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok || k == "" {
			return fmt.Errorf("%q must be name=value", w)
		}
		fn(k, v)
	}
	return nil
}

// splitQuoted splits at blanks outside of quotes; a backslash takes the next
// character as it is.
func splitQuoted(s string) ([]string, error) {
	var words []string
	var b strings.Builder
	var quote rune
	open, escaped := false, false
	for _, c := range s {
		switch {
		case escaped:
			b.WriteRune(c)
			escaped = false
		case c == '\\' && quote != '\'':
			escaped, open = true, true
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote, open = c, true
		case quote == 0 && (c == ' ' || c == '\t'):
			if open {
				words = append(words, b.String())
				b.Reset()
				open = false
			}
		default:
			b.WriteRune(c)
			open = true
		}
	}
	if quote != 0 || escaped {
		return nil, errors.New("a quote is not closed")
	}
	if open {
		words = append(words, b.String())
	}
	return words, nil
}
