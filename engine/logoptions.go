package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/docker/go-units"
)

// checkLog refuses log drivers and options that are not there.
func (c *Container) checkLog() error {
	lc := c.Options.HostConfig.LogConfig
	switch lc.Type {
	case "", "json-file", "none":
	default:
		return errorf(ErrUnsupported, "logger: no log driver named '%s' is registered: use json-file or none", lc.Type)
	}
	for k, v := range lc.Config {
		err := checkLogOption(k, v)
		if lc.Type == "none" {
			err = fmt.Errorf("unknown log opt '%s' for none log driver", k)
		}
		if err != nil {
			return &Error{Kind: ErrInvalid, Msg: fmt.Sprintf("invalid log option %s=%s", k, v), Err: err}
		}
	}
	if lc.Config["max-file"] != "" && lc.Config["max-file"] != "1" && lc.Config["max-size"] == "" {
		return errorf(ErrInvalid, "invalid log option max-file: it needs max-size")
	}
	if _, err := c.logAttrs(); err != nil { // a tag that names what there is not
		return &Error{Kind: ErrInvalid, Msg: err.Error()}
	}
	return nil
}

// checkLogOption checks one option of the json-file driver.
func checkLogOption(k, v string) (err error) {
	switch k {
	case "max-size":
		if v != "-1" {
			_, err = units.FromHumanSize(v)
		}
	case "max-file":
		var n int
		if n, err = strconv.Atoi(v); err == nil && n < 1 {
			err = errors.New("max-file cannot be less than 1")
		}
	case "labels-regex", "env-regex":
		_, err = regexp.Compile(v)
	case "labels", "env", "tag":
	case "compress", "mode":
		if v != "false" && v != "blocking" {
			err = fmt.Errorf("log opt '%s' is not supported", k)
		}
	case "max-buffer-size":
		err = fmt.Errorf("log opt '%s' is not supported", k)
	default:
		err = fmt.Errorf("unknown log opt '%s' for json-file log driver", k)
	}
	return err
}

// logLimits gives the size of one log file in bytes, 0 for no limit, and how many are kept.
func (c *Container) logLimits() (size int64, files int) {
	cfg := c.Options.HostConfig.LogConfig.Config
	if v := cfg["max-size"]; v != "" && v != "-1" {
		size, _ = units.FromHumanSize(v) // checked when the container was made
	}
	if v := cfg["max-file"]; v != "" {
		files, _ = strconv.Atoi(v)
	}
	return size, files
}

// logAttrs gives the attributes of each record of the log as a JSON object, ""
// for none: the labels and variables that the options labels, labels-regex, env
// and env-regex choose, and the tag.
func (c *Container) logAttrs() (string, error) {
	cfg := c.Options.HostConfig.LogConfig.Config
	attrs := map[string]string{}
	choose := func(list, pattern string, all map[string]string) error {
		names := strings.Split(cfg[list], ",")
		re, err := regexp.Compile(cfg[pattern])
		if err != nil {
			return fmt.Errorf("invalid log option %s: %w", pattern, err)
		}
		for k, v := range all {
			if cfg[list] != "" && slices.Contains(names, k) || cfg[pattern] != "" && re.MatchString(k) {
				attrs[k] = v
			}
		}
		return nil
	}
	if cfg["labels"] != "" || cfg["labels-regex"] != "" {
		if err := choose("labels", "labels-regex", c.Labels()); err != nil {
			return "", err
		}
	}
	if cfg["env"] != "" || cfg["env-regex"] != "" {
		env := map[string]string{}
		for _, e := range c.Config().Env {
			k, v, _ := strings.Cut(e, "=")
			env[k] = v
		}
		if err := choose("env", "env-regex", env); err != nil {
			return "", err
		}
	}
	if text := cfg["tag"]; text != "" {
		tag, err := c.logTag(text)
		if err != nil {
			return "", err
		}
		attrs["tag"] = tag
	}
	if len(attrs) == 0 {
		return "", nil
	}
	b, err := json.Marshal(attrs)
	return string(b), err
}

// logTag executes the template of --log-opt tag. Its fields are Docker's.
func (c *Container) logTag(text string) (string, error) {
	t, err := template.New("").Parse(text)
	if err != nil {
		return "", fmt.Errorf("invalid log option tag: %w", err)
	}
	host, _ := os.Hostname()
	_, image, _ := strings.Cut(c.ImageID, ":")
	var b bytes.Buffer
	err = t.Execute(&b, struct{ ID, FullID, Name, ImageID, ImageFullID, ImageName, Command, Hostname, DaemonName string }{
		short(c.ID), c.ID, c.Name, image[:min(12, len(image))], c.ImageID, c.Image, strings.Join(append([]string{c.Path}, c.Args...), " "), host, "viv"})
	if err != nil {
		return "", fmt.Errorf("invalid log option tag: %w", err)
	}
	return b.String(), nil
}
