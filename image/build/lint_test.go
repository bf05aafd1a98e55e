package build

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/store"
)

// checked gives what the checks find, as "RULE:LINE" in the order of the lines.
func checked(t *testing.T, dockerfile string, o Options) (string, error) {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	o.Dockerfile, o.Store = []byte(dockerfile), s
	o.Platform = ocispec.Platform{OS: "linux", Architecture: "amd64"}
	o.Image = func(context.Context, string, *ocispec.Platform) (image.Image, error) {
		return image.Image{}, image.ErrNotFound
	}
	found, err := Check(t.Context(), o)
	var out []string
	for _, w := range found {
		out = append(out, w.Rule+":"+strconv.Itoa(w.Line))
	}
	return strings.Join(out, " "), err
}

func TestChecks(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/.dockerignore", []byte("hidden\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	where, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer where.Close()
	for _, c := range []struct{ name, file, want string }{
		{"nothing", "FROM a\nRUN x\nCMD [\"x\"]\n", ""},
		{"stages", "FROM a AS Up\nFROM b AS scratch\nFROM c AS two\nFROM d AS two\n", "StageNameCasing:1 ReservedStageName:2 DuplicateStageName:4"},
		{"casing", "FROM a\nrun x\nRUN y\nRun z\n", "ConsistentInstructionCasing:2 ConsistentInstructionCasing:4"},
		{"casing, lower", "from a\nrun x\nRUN y\n", "ConsistentInstructionCasing:3"},
		{"as", "FROM a as b\n", "FromAsCasing:1"},
		{"continued", "FROM a\nRUN x \\\n\n  y\n", "NoEmptyContinuation:4"},
		{"maintainer", "FROM a\nMAINTAINER m\n", "MaintainerDeprecated:2"},
		{"key value", "FROM a\nENV a b\nLABEL a b\n", "LegacyKeyValueFormat:2 LegacyKeyValueFormat:3"},
		{"only the last", "FROM a\nCMD [\"a\"]\nHEALTHCHECK NONE\nCMD [\"b\"]\nENTRYPOINT [\"a\"]\nENTRYPOINT [\"b\"]\nHEALTHCHECK NONE\n",
			"MultipleInstructionsDisallowed:2 MultipleInstructionsDisallowed:3 MultipleInstructionsDisallowed:5"},
		{"words for a shell", "FROM a\nCMD a\nENTRYPOINT b\n", "JSONArgsRecommended:2 JSONArgsRecommended:3"},
		{"words for a shell that was chosen", "FROM a\nSHELL [\"/bin/x\"]\nCMD a\n", ""},
		{"secrets", "FROM a\nARG API_KEY\nENV PASSWORD=x PUBLIC_KEY=y TOKEN_FILE=z\n", "SecretsUsedInArgOrEnv:2 SecretsUsedInArgOrEnv:3"},
		{"variables", "FROM a\nARG FOO=1\nLABEL a=$FO b=$FOO c=$PATH\nRUN $NO\n", "UndefinedVar:3 UndefinedVar:3"},
		{"arguments of FROM", "ARG A=x\nARG EMPTY\nFROM $A$EMPTY\nFROM b$B\n", "UndefinedArgInFrom:4"},
		{"defaults of FROM", "ARG A\nFROM ${A:-x}\nFROM x:$A\n", "InvalidDefaultArgInFrom:3"},
		{"platforms", "FROM --platform=linux/arm64 a\nFROM --platform=linux/arm64 a AS b-arm64\nFROM --platform=$TARGETPLATFORM a\nFROM --platform=$BUILDPLATFORM a\n",
			"FromPlatformFlagConstDisallowed:1 RedundantTargetPlatform:3"},
		{"ports", "FROM a\nEXPOSE 80/TCP\nEXPOSE 80:80 127.0.0.1:1:1/udp\n", "ExposeProtoCasing:2 ExposeInvalidFormat:3 ExposeInvalidFormat:3"},
		{"relative", "FROM a\nWORKDIR b\nWORKDIR c\n", "WorkdirRelativePath:2"},
		{"left out", "FROM a\nCOPY hidden /\nADD ./hidden x /d/\nCOPY --from=b hidden /\n", "CopyIgnoredFile:2 CopyIgnoredFile:3"},
		{"skipped by the file", "# check=skip=JSONArgsRecommended,MaintainerDeprecated\nFROM a\nMAINTAINER m\nCMD a\nEXPOSE 1/TCP\n", "ExposeProtoCasing:5"},
		{"skipped above", "FROM a\n# check=skip=JSONArgsRecommended\nCMD a\nENTRYPOINT a\n", "JSONArgsRecommended:4"},
		{"what the target needs", "FROM a AS one\nCMD a\nFROM b\nCOPY --from=two x /\nFROM one\n", "JSONArgsRecommended:2"},
		{"files of stages", "FROM a AS one\nFROM b\nCOPY --from=one x /\nRUN --mount=from=one x\nCMD x\n", "JSONArgsRecommended:5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			// Stages that the target does not need are looked at in part only: name them all.
			got, err := checked(t, c.file, Options{Context: where})
			if err != nil || got != c.want {
				t.Errorf("\n got %s\nwant %s (%v)", got, c.want, err)
			}
		})
	}
}

func TestChecksAsErrors(t *testing.T) {
	for _, c := range []struct {
		file, arg string
		fails     bool
	}{
		{"# check=error=true\nFROM a\nCMD a\n", "", true},
		{"# check=error=true\nFROM a\nCMD [\"a\"]\n", "", false},
		{"# check=error=true\nFROM a\nCMD a\n", "error=false", false},
		{"# check=skip=all;error=true\nFROM a\nCMD a\n", "", false},
		{"FROM a\nCMD a\n", "error=true", true},
		{"FROM a\nCMD a\n", "nonsense", true},
	} {
		o := Options{}
		if c.arg != "" {
			o.BuildArgs = map[string]string{checkArg: c.arg}
		}
		if _, err := checked(t, c.file, o); (err != nil) != c.fails {
			t.Errorf("%q, %s=%s: %v", c.file, checkArg, c.arg, err)
		}
	}
	if _, err := checked(t, "FROM a\nNONSENSE\n", Options{}); err == nil {
		t.Error("an instruction that does not exist passes")
	}
	var e *Error
	if _, err := checked(t, "FROM a\nRUN --network=host x\n", Options{}); !errors.As(err, &e) || e.First != 2 {
		t.Errorf("a command that could not be run: %v", err)
	}
}
