package main

import (
	"io"
	"strconv"
	"strings"

	"vivarium/engine"
)

// readOutputs fills in what --output, --push and --load say.
func (f *buildFlags) readOutputs(o *engine.BuildOptions) error {
	streams := 0
	for _, text := range f.outputs {
		out, err := outputOf(text)
		if err != nil {
			return err
		}
		if isArchive(out) && out.Dest == "" {
			streams++
		}
		o.Outputs = append(o.Outputs, out)
	}
	if streams > 1 {
		return usagef("only one output can go to standard output")
	}
	if f.push {
		o.Outputs = append(o.Outputs, engine.BuildOutput{Type: "registry"})
	}
	if f.load {
		o.Outputs = append(o.Outputs, engine.BuildOutput{Type: "image"})
	}
	return nil
}

func isArchive(out engine.BuildOutput) bool {
	return out.Type == "tar" || out.Type == "oci" || out.Type == "docker"
}

// withFiles opens what archives are written to while do runs.
func (f *buildFlags) withFiles(a *app, outs []engine.BuildOutput, do func() error) error {
	for i := range outs {
		if out := &outs[i]; isArchive(*out) && out.W == nil {
			return a.toFile(out.Dest, func(w io.Writer) error {
				out.W = w
				return f.withFiles(a, outs, do)
			})
		}
	}
	return do()
}

// outputOf reads --output, a line of CSV as buildx has it: type=TYPE,dest=PATH; "-" is a
// tar on standard output, and anything else a directory.
func outputOf(text string) (engine.BuildOutput, error) {
	var o engine.BuildOutput
	if text == "-" {
		return engine.BuildOutput{Type: "tar"}, nil
	}
	if !strings.Contains(text, "=") {
		return engine.BuildOutput{Type: "local", Dest: text}, nil
	}
	fields, err := keyValues("--output", text)
	if err != nil {
		return o, err
	}
	stream := false
	for _, field := range fields {
		k, v := field[0], field[1]
		switch strings.ToLower(k) {
		case "type":
			o.Type = v
		case "dest":
			if o.Dest, stream = v, v == "-"; stream {
				o.Dest = ""
			}
		case "name":
			o.Names = strings.Split(v, ",")
		case "push":
			o.Push, err = strconv.ParseBool(v)
		case "registry.insecure":
			o.Insecure, err = strconv.ParseBool(v)
		default:
			return o, usagef("unknown key %q of --output", k)
		}
		if err != nil {
			return o, usagef("--output %s: %s must be true or false", text, k)
		}
	}
	return o, checkOutput(&o, text, stream)
}

// checkOutput refuses what makes no sense together.
func checkOutput(o *engine.BuildOutput, text string, stream bool) error {
	image := o.Type == "image" || o.Type == "registry"
	switch {
	case o.Type == "":
		return usagef("--output %s: type is required", text)
	case o.Type == "local" && o.Dest == "":
		return usagef("--output %s: dest is required for a local output", text)
	case image && (o.Dest != "" || stream):
		return usagef("--output %s: an output of type %s has no dest", text, o.Type)
	case !image && o.Push:
		return usagef("--output %s: only an image can be pushed", text)
	case len(o.Names) > 0 && (o.Type == "local" || o.Type == "tar"):
		return usagef("--output %s: files have no name", text)
	case o.Type == "docker" && o.Dest == "" && !stream:
		o.Type = "image" // without dest, it is loaded
	}
	return nil
}
