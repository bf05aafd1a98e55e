package build

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// setting carries out an instruction that changes the image's settings and no file.
func (s *stage) setting(c instructions.Command, location []parser.Range) error {
	k := &s.config.Config
	switch c := c.(type) {
	case *instructions.EnvCommand:
		return s.doEnv(c, location)
	case *instructions.ArgCommand:
		return s.doArg(c, location)
	case *instructions.LabelCommand:
		if k.Labels == nil {
			k.Labels = map[string]string{}
		}
		for _, kv := range c.Labels {
			if kv.NoDelim {
				s.lint.run(&linter.RuleLegacyKeyValueFormat, location, linter.RuleLegacyKeyValueFormat.Format(c.Name()))
			}
			k.Labels[kv.Key] = kv.Value
		}
		s.remember("LABEL "+pairs(c.Labels), nil)
	case *instructions.MaintainerCommand:
		s.config.Author = c.Maintainer
		s.remember("MAINTAINER "+c.Maintainer, nil)
	case *instructions.CmdCommand:
		s.lintOnce(c, location)
		k.Cmd, s.cmdSet = s.commandLine(c.ShellDependantCmdLine, c.Name(), location), true
		s.remember("CMD "+quoted(k.Cmd), nil)
	case *instructions.EntrypointCommand:
		s.lintOnce(c, location)
		k.Entrypoint = s.commandLine(c.ShellDependantCmdLine, c.Name(), location)
		if !s.cmdSet {
			k.Cmd = nil // one of the base image was meant for its own entry point
		}
		s.remember("ENTRYPOINT "+quoted(k.Entrypoint), nil)
	case *instructions.UserCommand:
		k.User = c.User
		s.remember("USER "+c.User, nil)
	case *instructions.ExposeCommand:
		return s.doExpose(c, location)
	case *instructions.VolumeCommand:
		if k.Volumes == nil {
			k.Volumes = map[string]struct{}{}
		}
		for _, v := range c.Volumes {
			if v == "" {
				return fmt.Errorf("VOLUME specified can not be an empty string")
			}
			k.Volumes[v] = struct{}{}
		}
		s.remember("VOLUME "+bracketed(c.Volumes), nil)
	case *instructions.StopSignalCommand:
		if _, err := parseSignal(c.Signal); err != nil {
			return err
		}
		k.StopSignal = c.Signal
		s.remember("STOPSIGNAL "+c.Signal, nil)
	case *instructions.ShellCommand:
		k.Shell = c.Shell
		s.remember("SHELL "+bracketed(c.Shell), nil)
	case *instructions.HealthCheckCommand:
		s.lintOnce(c, location)
		k.Healthcheck = c.Health
		s.remember(strings.TrimSpace("HEALTHCHECK "+healthText(c)), nil)
	case *instructions.OnbuildCommand:
		k.OnBuild = append(k.OnBuild, c.Expression)
		s.remember("ONBUILD "+c.Expression, nil)
	default:
		return fmt.Errorf("the instruction %s is not known", strings.ToUpper(c.Name()))
	}
	return nil
}

func (s *stage) commandLine(c instructions.ShellDependantCmdLine, name string, location []parser.Range) []string {
	if !c.PrependShell {
		return c.CmdLine
	}
	if len(s.config.Config.Shell) == 0 {
		s.lint.run(&linter.RuleJSONArgsRecommended, location, linter.RuleJSONArgsRecommended.Format(name))
	}
	return append(append([]string{}, s.shell()...), strings.Join(c.CmdLine, " "))
}

func (s *stage) doEnv(c *instructions.EnvCommand, location []parser.Range) error {
	env := newEnvironment(s.config.Config.Env)
	for _, kv := range c.Env {
		if kv.NoDelim {
			s.lint.run(&linter.RuleLegacyKeyValueFormat, location, linter.RuleLegacyKeyValueFormat.Format(c.Name()))
		}
		s.lintSecret("ENV", kv.Key, location)
		env.set(kv.Key, kv.Value)
	}
	s.config.Config.Env = env.list()
	s.remember("ENV "+pairs(c.Env), nil)
	return nil
}

// proxyArgs may be given without ARG, are not in an image's history, and do not count
// for the cache (docs.docker.com, Dockerfile reference, "Predefined ARGs").
var proxyArgs = []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"}

func (s *stage) doArg(c *instructions.ArgCommand, location []parser.Range) error {
	var said []string
	for _, a := range c.Args {
		s.lintSecret("ARG", a.Key, location)
		value, known := s.b.o.BuildArgs[a.Key]
		if !known && a.Value != nil {
			value, known = *a.Value, true
		}
		if !known {
			value, known = s.b.f.args.values[a.Key]
		}
		text := a.Key
		if known {
			s.args.set(a.Key, value)
			text += "=" + value
		}
		said = append(said, text)
	}
	s.remember("ARG "+strings.Join(said, " "), nil)
	return nil
}

func (s *stage) doExpose(c *instructions.ExposeCommand, location []parser.Range) error {
	env := s.env()
	k := &s.config.Config
	if k.ExposedPorts == nil {
		k.ExposedPorts = map[string]struct{}{}
	}
	var words []string
	for _, p := range c.Ports {
		list, err := s.lex.ProcessWords(p, env)
		if err != nil {
			return err
		}
		words = append(words, list...)
	}
	for _, w := range words {
		ports, err := parsePorts(w)
		if err != nil {
			return err
		}
		s.lintPort(w, location)
		for _, p := range ports {
			k.ExposedPorts[p] = struct{}{}
		}
	}
	s.remember("EXPOSE "+bracketed(words), nil)
	return nil
}

// parsePorts reads PORT[-PORT][/PROTOCOL].
func parsePorts(word string) ([]string, error) {
	bad := fmt.Errorf("invalid containerPort: %s", word)
	text, proto, given := strings.Cut(word, "/")
	if proto = strings.ToLower(proto); !given {
		proto = "tcp"
	}
	if proto != "tcp" && proto != "udp" && proto != "sctp" {
		return nil, fmt.Errorf("invalid proto: %s", proto)
	}
	// A host's side says nothing in an image.
	text = text[strings.LastIndexByte(text, ':')+1:]
	low, high, ranged := strings.Cut(text, "-")
	first, err := strconv.ParseUint(low, 10, 16)
	if err != nil {
		return nil, bad
	}
	last := first
	if ranged {
		if last, err = strconv.ParseUint(high, 10, 16); err != nil || last < first {
			return nil, bad
		}
	}
	var out []string
	for p := first; p <= last; p++ {
		out = append(out, fmt.Sprintf("%d/%s", p, proto))
	}
	return out, nil
}

// parseSignal accepts a number or a name, as `docker stop` will have to.
func parseSignal(s string) (string, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return "", fmt.Errorf("invalid signal: %s", s)
		}
		return s, nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if name == "" || strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-") != "" {
		return "", fmt.Errorf("invalid signal: %s", s)
	}
	return name, nil
}

func pairs(list instructions.KeyValuePairs) string {
	var out []string
	for _, kv := range list {
		out = append(out, kv.Key+"="+kv.Value)
	}
	return strings.Join(out, " ")
}

// quoted is a command as Docker's history shows it: ["a" "b"].
func quoted(list []string) string {
	var out []string
	for _, s := range list {
		out = append(out, strconv.Quote(s))
	}
	return "[" + strings.Join(out, " ") + "]"
}

func bracketed(list []string) string { return "[" + strings.Join(list, " ") + "]" }

func healthText(c *instructions.HealthCheckCommand) string {
	h := c.Health
	if len(h.Test) > 0 && h.Test[0] == "NONE" {
		return "NONE"
	}
	return fmt.Sprintf("%v", *h)
}
