package build

import (
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// Change applies instructions to an image's settings, as `commit --change` gives them:
// those of a Dockerfile that change no files. Values are filled in as in a Dockerfile.
func Change(c *dockerspec.DockerOCIImage, changes []string) error {
	f := &file{name: "--change", lex: shell.NewLex('\\')}
	s := newStage(&builder{o: &Options{}, f: f}, &stageDef{}, false)
	s.config = cloneConfig(*c)
	lines := len(s.config.History)
	for _, text := range changes {
		if err := s.change(text); err != nil {
			return fmt.Errorf("invalid change %q: %w", text, err)
		}
	}
	s.config.History = s.config.History[:lines]
	*c = s.config
	return nil
}

func (s *stage) change(text string) error {
	tree, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return noPrefix(err)
	}
	for _, node := range tree.AST.Children {
		ic, err := instructions.ParseCommand(node)
		if err != nil {
			return noPrefix(err)
		}
		switch ic.(type) {
		case *instructions.RunCommand, *instructions.CopyCommand, *instructions.AddCommand, *instructions.ArgCommand, *instructions.MaintainerCommand, *instructions.ShellCommand:
			return fmt.Errorf("%s is not a valid change command", strings.ToUpper(ic.Name()))
		}
		if err := s.expand(ic, nil); err != nil {
			return err
		}
		if w, ok := ic.(*instructions.WorkdirCommand); ok {
			s.config.Config.WorkingDir = s.abs(w.Path)
			continue
		}
		if err := s.setting(ic, nil); err != nil {
			return err
		}
	}
	return nil
}
