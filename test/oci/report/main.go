// Command report runs the validation programs of opencontainers/runtime-tools on
// runc, crun and viv-oci and writes what came of it into docs/TESTING.md.
//
//	go run ./test/oci/report [-out FILE]
//
// It runs in the module's directory, as root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"vivarium/test/oci/validation"
)

// The table stands between these lines.
const (
	begin = "<!-- runtime-tools: written by go run ./test/oci/report -->"
	end   = "<!-- runtime-tools: end -->"
)

func main() {
	out := flag.String("out", "docs/TESTING.md", "the file that has the markers")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := report(ctx, *out); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func report(ctx context.Context, out string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	text, err := os.ReadFile(out)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no lines %q and %q", out, begin, end)
	}
	dir, err := os.MkdirTemp("", "viv-report-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	runtimes, err := runtimes(ctx, dir)
	if err != nil {
		return err
	}
	programs, err := validation.Build(ctx, "test/oci/programs")
	if err != nil {
		return err
	}
	results, err := programs.RunAll(ctx, runtimes)
	if err != nil {
		return err
	}
	table := validation.Table(programs.Names, runtimes, results)
	fmt.Print(table)
	return os.WriteFile(out, []byte(before+begin+"\n"+table+end+after), 0o644)
}

// runtimes finds the peers and builds our own.
func runtimes(ctx context.Context, dir string) ([]validation.Runtime, error) {
	ours := filepath.Join(dir, "viv-oci")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", ours, "./cmd/viv-oci")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build viv-oci: %w\n%s", err, out)
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		return nil, fmt.Errorf("%w (test/install-deps oci installs it)", err)
	}
	crun, err := exec.LookPath("crun")
	if err != nil {
		return nil, fmt.Errorf("%w (test/install-deps oci installs it)", err)
	}
	return validation.Sides(runc, crun, ours), nil
}
