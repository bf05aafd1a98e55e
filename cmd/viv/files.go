package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"vivarium/engine"
	"vivarium/network"
)

func newCp(a *app) *cobra.Command {
	var o engine.CopyOptions
	var quiet bool
	c := &cobra.Command{
		Use:   "cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|- | SRC_PATH|- CONTAINER:DEST_PATH",
		Short: "Copy files/folders between a container and the local filesystem",
		Args:  exactArgs(2),
	}
	fs := c.Flags()
	fs.BoolVarP(&o.Archive, "archive", "a", false, "archive mode (copy all uid/gid information)")
	fs.BoolVarP(&o.FollowLink, "follow-link", "L", false, "always follow symbol link in SRC_PATH")
	fs.BoolVarP(&quiet, "quiet", "q", false, "suppress progress output during copy")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		return a.copy(cmd.Context(), e, args[0], args[1], o)
	}
	return c
}

func (a *app) copy(ctx context.Context, e *engine.Engine, src, dst string, o engine.CopyOptions) error {
	srcC, srcPath := splitCopy(src)
	dstC, dstPath := splitCopy(dst)
	switch {
	case srcC != "" && srcPath == "" || dstC != "" && dstPath == "":
		return errors.New("the path in the container cannot be empty: want CONTAINER:PATH")
	case srcC != "" && dstC != "":
		return errors.New("copying between containers is not supported")
	case srcC == "" && dstC == "":
		return errors.New("must specify at least one container source")
	case srcC != "" && dst == "-":
		if term.IsTerminal(int(a.out.Fd())) {
			return errors.New("cowardly refusing to write the archive to a terminal: use a file or a pipe")
		}
		return e.CopyFrom(ctx, srcC, srcPath, o.FollowLink, a.out)
	case srcC != "":
		return e.CopyToHost(ctx, srcC, srcPath, dstPath, o)
	case src == "-":
		return e.CopyTarTo(ctx, dstC, dstPath, a.in, o)
	}
	return e.CopyFromHost(ctx, srcPath, dstC, dstPath, o)
}

// splitCopy splits CONTAINER:PATH. What begins with / or . is a path of the host.
func splitCopy(arg string) (container, path string) {
	if filepath.IsAbs(arg) || strings.HasPrefix(arg, ".") {
		return "", arg
	}
	container, path, ok := strings.Cut(arg, ":")
	if !ok {
		return "", arg
	}
	return container, path
}

func newDiff(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "diff CONTAINER", Short: "Inspect changes to files or directories on a container's filesystem", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			changes, err := e.Diff(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			for _, c := range changes {
				fmt.Fprintf(a.out, "%s %s\n", c.Kind, c.Path)
			}
			return nil
		},
	}
}

func newExport(a *app) *cobra.Command {
	var output string
	c := &cobra.Command{Use: "export [OPTIONS] CONTAINER", Short: "Export a container's filesystem as a tar archive", Args: exactArgs(1)}
	c.Flags().StringVarP(&output, "output", "o", "", "write to a file, instead of STDOUT")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		return a.toFile(output, func(w io.Writer) error { return e.Export(cmd.Context(), args[0], w) })
	}
	return c
}

// toFile writes to a file, which comes to be only when all has been written, or
// to standard output.
func (a *app) toFile(path string, write func(io.Writer) error) error {
	if path == "" {
		if term.IsTerminal(int(a.out.Fd())) {
			return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
		}
		return write(a.out)
	}
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() && !st.IsDir() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0) // a pipe or a device is written to as it is
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".viv-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	err = write(f)
	if err == nil {
		err = f.Chmod(0o600)
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

func newPort(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "port CONTAINER [PRIVATE_PORT[/PROTO]]", Short: "List port mappings or a specific mapping for the container", Args: rangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			private := ""
			if len(args) == 2 {
				private = args[1]
			}
			ports, err := e.Port(cmd.Context(), args[0], private)
			if err != nil {
				return err
			}
			for _, p := range ports {
				if private != "" {
					fmt.Fprintln(a.out, hostSide(p))
				} else {
					fmt.Fprintf(a.out, "%d/%s -> %s\n", p.ContainerPort, p.Protocol, hostSide(p))
				}
			}
			return nil
		},
	}
}

func hostSide(p network.PortMapping) string {
	ip := "0.0.0.0"
	if p.HostIP.IsValid() {
		ip = p.HostIP.String()
	}
	return fmt.Sprintf("%s:%d", ip, p.HostPort)
}
