package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"vivarium/unionfs/aufs"
	"vivarium/unionfs/stack"
)

func newUnionGroup(a *app) *cobra.Command {
	return group(a, "Mount unions of directories, and look into them", []verb{
		{"mount", newUnionMount}, {"umount unmount", newUnionUmount}, {"ls list", newUnionLs}, {"branch", newUnionBranchGroup},
		{"where", newUnionWhere}, {"diff", newUnionDiff}, {"commit", newUnionCommit}, {"check", newUnionCheck},
	})
}

func newUnionBranchGroup(a *app) *cobra.Command {
	return group(a, "Change the branches of a union that is mounted", []verb{
		{"add", newUnionBranchAdd}, {"del rm", newUnionBranchDel}, {"mod", newUnionBranchMod},
	})
}

// newUnionMount leaves the work to viv-union, which stays to serve the union.
func newUnionMount(a *app) *cobra.Command {
	var options []string
	var foreground bool
	c := &cobra.Command{
		Use: "mount -o dirs=UPPER:LOWER[:LOWER...] [OPTIONS] [SOURCE] MOUNTPOINT", Short: "Mount a union with the semantics of AUFS", Args: rangeArgs(1, 2),
		Example: "  viv union mount -o dirs=./container-layer:./image-layer2:./image-layer1 none ./mnt",
		Long: "Mount a union with the semantics of AUFS. Options are those of aufs(5): dirs= or br: with =rw, =ro, =rr and +wh behind a branch\n" +
			"(+ovl: its whiteouts are spelled as overlay has them),\n" +
			"create=tdp|rr|mfs|pmfs, cpup=tdp|bup|bu, udba=none|reval|notify, and those of any mount. The first branch is rw, the others are ro.",
	}
	c.Flags().StringArrayVarP(&options, "options", "o", nil, "mount options, separated by commas")
	c.Flags().BoolVarP(&foreground, "foreground", "f", false, "stay in the foreground")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := aufs.ParseOptions(strings.Join(options, ",")); err != nil {
			return err
		}
		source, point := "none", args[len(args)-1]
		if len(args) == 2 {
			source = args[0]
		}
		program, err := unionProgram()
		if err != nil {
			return err
		}
		call := []string{source, point, "-o", strings.Join(options, ",")}
		if foreground {
			call = append(call, "-f")
		}
		server := exec.CommandContext(cmd.Context(), program, call...)
		var said strings.Builder
		server.Stdout, server.Stderr = a.out, &said
		if foreground {
			server.Stderr = os.Stderr
		}
		if err := server.Run(); err != nil {
			if text := strings.TrimPrefix(strings.TrimSpace(said.String()), "viv-union: "); text != "" {
				return errors.New(text)
			}
			return fmt.Errorf("run %s: %w", program, err)
		}
		return nil
	}
	return c
}

// unionProgram finds viv-union: beside the own program, or in PATH.
func unionProgram() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "viv-union")
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	p, err := exec.LookPath("viv-union")
	if err != nil {
		return "", errors.New("viv-union, which serves unions, is neither beside viv nor in PATH: install it there")
	}
	return p, nil
}

func newUnionUmount(a *app) *cobra.Command {
	var lazy bool
	c := &cobra.Command{Use: "umount [OPTIONS] MOUNTPOINT [MOUNTPOINT...]", Short: "Unmount unions", Args: minArgs(1)}
	c.Flags().BoolVarP(&lazy, "lazy", "l", false, "detach it now, and end it when it is no longer used")
	c.RunE = func(_ *cobra.Command, args []string) error {
		return a.each(args, func(point string) (string, error) {
			s, name, err := stack.Find(point)
			if err != nil {
				return "", err
			}
			if name != "" {
				return "", fmt.Errorf("%s is in the union %s, not where it is mounted", point, s.Point)
			}
			flags := unix.UMOUNT_NOFOLLOW
			if lazy {
				flags |= unix.MNT_DETACH
			}
			if err := unix.Unmount(s.Point, flags); err != nil {
				return "", fmt.Errorf("unmount %s: %w", s.Point, err)
			}
			return point, nil
		})
	}
	return c
}

// unmounted lets a verb work on branches that are in no mounted union.
type unmounted struct {
	options []string
	kind    string
}

func (u *unmounted) flags(c *cobra.Command) {
	c.Flags().StringArrayVarP(&u.options, "options", "o", nil, "branches that are not mounted: dirs=UPPER:LOWER[:LOWER...]")
	c.Flags().StringVar(&u.kind, "type", stack.AUFS, "how these spell what is deleted: aufs or overlay")
}

func (u *unmounted) given() bool { return len(u.options) > 0 }

func (u *unmounted) stack() (stack.Stack, error) {
	o, err := aufs.ParseOptions(strings.Join(u.options, ","))
	if err != nil {
		return stack.Stack{}, err
	}
	if u.kind == stack.Overlay {
		for i := range o.Branches { // they count on each of its layers
			o.Branches[i].WH = true
		}
	}
	return stack.New(u.kind, o.Branches)
}

// one gives the stack of a verb that takes a mount point, or -o.
func (u *unmounted) one(args []string) (stack.Stack, error) {
	switch {
	case u.given() && len(args) > 0:
		return stack.Stack{}, errors.New("give a mount point, or branches with -o, not both")
	case u.given():
		return u.stack()
	case len(args) != 1:
		return stack.Stack{}, errors.New("give a mount point, or branches with -o dirs=UPPER:LOWER")
	}
	s, _, err := stack.Find(args[0])
	return s, err
}

type unionRow struct {
	Mountpoint, Type, Branches string
}

type branchRow struct {
	Index, Permissions, Files, Size, Branch string
}

func newUnionLs(a *app) *cobra.Command {
	var u unmounted
	var format string
	var quiet bool
	c := &cobra.Command{Use: "ls [OPTIONS] [MOUNTPOINT]", Short: "List the unions that are mounted, or the branches of one", Args: rangeArgs(0, 1)}
	c.Flags().StringVar(&format, "format", "", "a Go template, 'table TEMPLATE' or json")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "only display mount points, or the directories of the branches")
	u.flags(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 && !u.given() {
			unions, err := stack.All()
			if err != nil {
				return err
			}
			var rows []any
			for _, s := range unions {
				rows = append(rows, unionRow{s.Point, s.Type, strconv.Itoa(len(s.Branches))})
			}
			l := listing{format: format, table: "{{.Mountpoint}}\t{{.Type}}\t{{.Branches}}", quiet: "{{.Mountpoint}}",
				headers: headers{"Mountpoint": "MOUNTPOINT", "Type": "TYPE", "Branches": "BRANCHES"}}
			return l.print(a.out, quiet, rows)
		}
		s, err := u.one(args)
		if err != nil {
			return err
		}
		var rows []any
		for i, b := range s.Branches {
			row := branchRow{Index: strconv.Itoa(i), Permissions: b.Permissions(), Branch: b.Path}
			if !quiet {
				used, err := s.Usage(i)
				if err != nil {
					return err
				}
				row.Files, row.Size = strconv.FormatInt(used.Files, 10), units.HumanSizeWithPrecision(float64(used.Bytes), 3)
			}
			rows = append(rows, row)
		}
		l := listing{format: format, table: "{{.Index}}\t{{.Permissions}}\t{{.Files}}\t{{.Size}}\t{{.Branch}}", quiet: "{{.Branch}}",
			headers: headers{"Index": "INDEX", "Permissions": "PERMISSIONS", "Files": "FILES", "Size": "SIZE", "Branch": "BRANCH"}}
		return l.print(a.out, quiet, rows)
	}
	return c
}

func newUnionBranchAdd(*app) *cobra.Command {
	var at int
	var atEnd bool
	c := &cobra.Command{Use: "add [OPTIONS] MOUNTPOINT DIR[=PERMISSIONS]", Short: "Add a branch, on top if nothing else is said", Args: exactArgs(2)}
	c.Flags().IntVar(&at, "at", 0, "the index it gets; 0 is the top-most")
	c.Flags().BoolVar(&atEnd, "append", false, "below all others")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if atEnd && cmd.Flags().Changed("at") {
			return errors.New("give --at or --append, not both")
		}
		b, err := aufs.ParseBranch(args[1], aufs.RO)
		if err != nil {
			return err
		}
		command := fmt.Sprintf("add %d %s", at, b)
		if atEnd {
			command = "append " + b.String()
		}
		return aufs.Command(args[0], command)
	}
	return c
}

func newUnionBranchDel(*app) *cobra.Command {
	return &cobra.Command{
		Use: "del MOUNTPOINT DIR", Short: "Take a branch out of a union, if nothing on it is in use", Args: exactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := aufs.ParseBranch(args[1], aufs.RO)
			if err != nil {
				return err
			}
			return aufs.Command(args[0], "del "+b.Path)
		},
	}
}

func newUnionBranchMod(*app) *cobra.Command {
	return &cobra.Command{
		Use: "mod MOUNTPOINT DIR=PERMISSIONS", Short: "Change the permissions of a branch (rw, ro, rr; ro and rr with +wh or +ovl)", Args: exactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := aufs.ParseBranch(args[1], "")
			if err != nil {
				return err
			}
			if b.Perm == "" {
				return fmt.Errorf("%s: say which permissions: %s=ro", args[1], args[1])
			}
			return aufs.Command(args[0], "mod "+b.String())
		},
	}
}

type whereRow struct {
	Index, State, Mode, Size, Name, Branch string
}

func newUnionWhere(a *app) *cobra.Command {
	var u unmounted
	var format string
	c := &cobra.Command{
		Use: "where [OPTIONS] PATH", Short: "Show which branch shows a name, and which others have it or delete it", Args: exactArgs(1),
		Long: "Show which branch of a union shows a name, which others hide it, and which have it hidden beneath. With -o the branches\n" +
			"are given, and PATH is a name in their union. The exit status is 1 if the union does not show the name.",
	}
	c.Flags().StringVar(&format, "format", "", "a Go template, 'table TEMPLATE' or json")
	u.flags(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		s, name, err := stack.Stack{}, args[0], error(nil)
		if u.given() {
			s, err = u.stack()
		} else {
			s, name, err = stack.Find(args[0])
		}
		if err != nil {
			return err
		}
		places, err := s.Where(name)
		if err != nil {
			return err
		}
		var rows []any
		shown := false
		for _, p := range places {
			row := whereRow{Index: strconv.Itoa(p.Branch), State: string(p.State), Name: "/" + p.At, Branch: s.Branches[p.Branch].Path}
			if p.Mode != 0 {
				row.Mode = p.Mode.String()
				if !p.Mode.IsDir() {
					row.Size = strconv.FormatInt(p.Size, 10)
				}
			}
			shown = shown || p.State == stack.Shown
			rows = append(rows, row)
		}
		l := listing{format: format, table: "{{.Index}}\t{{.State}}\t{{.Mode}}\t{{.Size}}\t{{.Name}}\t{{.Branch}}",
			headers: headers{"Index": "INDEX", "State": "STATE", "Mode": "MODE", "Size": "SIZE", "Name": "NAME", "Branch": "BRANCH"}}
		if err := l.print(a.out, false, rows); err != nil {
			return err
		}
		if !shown {
			return &fs.PathError{Op: "where", Path: args[0], Err: errors.New("the union does not show it")}
		}
		return nil
	}
	return c
}

func newUnionDiff(a *app) *cobra.Command {
	var u unmounted
	var format string
	c := &cobra.Command{Use: "diff [OPTIONS] MOUNTPOINT", Short: "Show what the top-most branch adds (A), changes (C) and deletes (D)", Args: rangeArgs(0, 1)}
	c.Flags().StringVar(&format, "format", "", "a Go template, or json")
	u.flags(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		s, err := u.one(args)
		if err != nil {
			return err
		}
		changes, err := s.Diff()
		if err != nil {
			return err
		}
		var rows []any
		for _, c := range changes {
			rows = append(rows, struct{ Kind, Path string }{string(c.Kind), c.Path})
		}
		if format == "" {
			format = "{{.Kind}} {{.Path}}"
		}
		l := listing{format: format}
		return l.print(a.out, false, rows)
	}
	return c
}

func newUnionCommit(*app) *cobra.Command {
	var u unmounted
	c := &cobra.Command{
		Use: "commit [OPTIONS] -o dirs=UPPER:LOWER[:LOWER...]", Short: "Fold the top-most branch into the one below it", Args: rangeArgs(0, 1),
		Long: "Fold the top-most branch into the one below it: the union of the branches that are left shows the same as before, and the\n" +
			"top-most branch is empty. The two have to be on one file system, and in no union that is mounted. Cut off, it can be run again.",
	}
	u.flags(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := u.one(args)
		if err != nil {
			return err
		}
		return s.Commit(cmd.Context())
	}
	return c
}

func newUnionCheck(a *app) *cobra.Command {
	var u unmounted
	var format string
	c := &cobra.Command{
		Use: "check [OPTIONS] MOUNTPOINT", Short: "Look for what is of no use on the branches: orphans, stray whiteouts, leftovers", Args: rangeArgs(0, 1),
		Long: "Look for what is of no use on the branches of a union. The exit status is 1 if something was found.",
	}
	c.Flags().StringVar(&format, "format", "", "a Go template, 'table TEMPLATE' or json")
	u.flags(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		s, err := u.one(args)
		if err != nil {
			return err
		}
		found, err := s.Check()
		if err != nil || len(found) == 0 {
			return err
		}
		var rows []any
		for _, f := range found {
			rows = append(rows, struct{ Index, Kind, Path string }{strconv.Itoa(f.Branch), f.Kind, filepath.Join(s.Branches[f.Branch].Path, f.Path)})
		}
		l := listing{format: format, table: "{{.Index}}\t{{.Kind}}\t{{.Path}}", headers: headers{"Index": "INDEX", "Kind": "KIND", "Path": "PATH"}}
		if err := l.print(a.out, false, rows); err != nil {
			return err
		}
		return fmt.Errorf("%d finding(s)", len(found))
	}
	return c
}
