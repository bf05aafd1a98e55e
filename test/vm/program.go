package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// AddProgram adds a program of the host, which is looked for in the usual
// directories, to the files of a machine: as /usr/local/bin/NAME, with the
// libraries that it is linked with, as ldd(1) lists them.
func AddProgram(files map[string]string, name string) error {
	cmd := exec.Command("which", name)
	cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("find %s: %w (test/install-deps installs what tests and benchmarks need)", name, err)
	}
	program, err := filepath.EvalSymlinks(strings.TrimSpace(string(out)))
	if err != nil {
		return err
	}
	files["/usr/local/bin/"+name] = program
	out, err = exec.Command("ldd", program).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return nil // it is static
	}
	if err != nil {
		return fmt.Errorf("find the libraries of %s: %w", program, err)
	}
	for _, word := range strings.Fields(string(out)) {
		if !strings.HasPrefix(word, "/") {
			continue
		}
		if files[word], err = filepath.EvalSymlinks(word); err != nil {
			return err
		}
	}
	return nil
}
