package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"vivarium/engine"
	"vivarium/image"
)

const imagesTable = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"

var imagesHeaders = headers{
	"ID": "IMAGE ID", "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT",
	"Size": "SIZE", "Containers": "CONTAINERS", "VirtualSize": "SIZE", "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE",
}

type imageRow struct {
	Containers, CreatedAt, CreatedSince, Digest, ID, Repository, SharedSize, Size, Tag, UniqueSize, VirtualSize string
}

func newImages(a *app) *cobra.Command {
	var all, digests, noTrunc, quiet bool
	var filters []string
	l := listing{headers: imagesHeaders, quiet: "{{.ID}}"}
	c := &cobra.Command{Use: "images [OPTIONS] [REPOSITORY[:TAG]]", Short: "List images", Args: rangeArgs(0, 1)}
	fs := c.Flags()
	fs.BoolVarP(&all, "all", "a", false, "show all images")
	fs.BoolVar(&digests, "digests", false, "show digests")
	fs.StringArrayVarP(&filters, "filter", "f", nil, "filter output based on conditions provided")
	fs.StringVar(&l.format, "format", "", "a Go template, 'table TEMPLATE' or json")
	fs.BoolVar(&noTrunc, "no-trunc", false, "don't truncate output")
	fs.BoolVarP(&quiet, "quiet", "q", false, "only show image IDs")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		f, err := parseFilters(filters)
		if err != nil {
			return err
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		list, err := e.Images(cmd.Context(), strings.Join(args, ""), f)
		if err != nil {
			return err
		}
		if l.table = imagesTable; digests {
			l.table = strings.Replace(imagesTable, "{{.Tag}}", "{{.Tag}}\t{{.Digest}}", 1)
		}
		var rows []any
		now := time.Now()
		for i := range list {
			for _, r := range imageRows(&list[i], now, noTrunc) {
				rows = append(rows, r)
			}
		}
		if quiet {
			rows = uniqueIDs(rows)
		}
		return l.print(a.out, quiet, rows)
	}
	return c
}

// imageRows gives one row for each name, or one for an image without.
func imageRows(img *engine.ImageSummary, now time.Time, noTrunc bool) []imageRow {
	r := imageRow{ID: string(img.ID), Repository: "<none>", Tag: "<none>", Digest: "<none>", Containers: fmt.Sprint(img.Containers),
		SharedSize: "N/A", UniqueSize: "N/A", CreatedSince: "N/A", Size: units.HumanSizeWithPrecision(float64(img.Size), 3)}
	r.VirtualSize = r.Size
	if !img.Created.IsZero() {
		r.CreatedSince = units.HumanDuration(now.Sub(img.Created)) + " ago"
		r.CreatedAt = img.Created.Local().Format("2006-01-02 15:04:05 -0700 MST")
	}
	if !noTrunc {
		r.ID = image.ShortID(img.ID)
	}
	digests := map[string]string{}
	for _, d := range img.FamiliarDigests() {
		repo, dgst, _ := strings.Cut(d, "@")
		digests[repo] = dgst
	}
	var rows []imageRow
	for _, name := range img.RepoTags() {
		row := r
		row.Repository, row.Tag = name, "<none>"
		if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
			row.Repository, row.Tag = name[:i], name[i+1:]
		}
		if d, ok := digests[row.Repository]; ok {
			row.Digest = d
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		for repo, d := range digests {
			r.Repository, r.Digest = repo, d
		}
		rows = append(rows, r)
	}
	return rows
}

func uniqueIDs(rows []any) []any {
	seen := map[string]bool{}
	var out []any
	for _, r := range rows {
		if id := r.(imageRow).ID; !seen[id] {
			seen[id] = true
			out = append(out, r)
		}
	}
	return out
}

func newRmi(a *app) *cobra.Command {
	var force, noPrune bool
	c := &cobra.Command{Use: "rmi [OPTIONS] IMAGE [IMAGE...]", Short: "Remove one or more images", Args: minArgs(1)}
	c.Flags().BoolVarP(&force, "force", "f", false, "force removal of the image")
	c.Flags().BoolVar(&noPrune, "no-prune", false, "do not delete untagged parents (there are none)")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		return a.each(args, func(ref string) (string, error) {
			removed, err := e.ImageRemove(cmd.Context(), ref, force)
			if force && errors.Is(err, engine.ErrNoSuchImage) {
				fmt.Fprintf(a.err, "viv: %s\n", message(err))
				return "", nil
			}
			for _, r := range removed {
				fmt.Fprintln(a.out, r)
			}
			return "", err
		})
	}
	return c
}

func newTag(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", Short: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE", Args: exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return e.Tag(cmd.Context(), args[0], args[1])
		},
	}
}

func newPull(a *app) *cobra.Command {
	var o engine.PullOptions
	var quiet bool
	c := &cobra.Command{Use: "pull [OPTIONS] NAME[:TAG|@DIGEST]", Short: "Download an image from a registry", Args: exactArgs(1)}
	c.Flags().StringVar(&o.Platform, "platform", "", "platform of the image: os/arch[/variant]")
	c.Flags().BoolVar(&o.Insecure, "insecure", false, "allow plain HTTP, and certificates that nobody vouches for")
	c.Flags().StringVar(&o.Policy, "signature-policy", "", "file of the signature policy, instead of the user's or the system's policy.json")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "suppress verbose output")
	c.Flags().BoolVarP(&o.All, "all-tags", "a", false, "download all tagged images in the repository")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if o.All && hasTag(args[0]) {
			return errors.New("tag can't be used with --all-tags/-a")
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		o.Progress = newPullPrinter(a, a.out, quiet)
		res, err := e.Pull(cmd.Context(), args[0], o)
		if err == nil && o.All {
			fmt.Fprintln(a.out, fullRepo(args[0]))
		} else if err == nil {
			fmt.Fprintln(a.out, res.Name)
		}
		return err
	}
	return c
}

func fullRepo(ref string) string {
	if r, err := image.ParseReference(ref); err == nil {
		return r.Repo()
	}
	return ref
}

func newLoad(a *app) *cobra.Command {
	var input, platform string
	var quiet bool
	c := &cobra.Command{Use: "load [OPTIONS]", Short: "Load an image from a tar archive or STDIN", Args: noArgs}
	c.Flags().StringVarP(&input, "input", "i", "", "read from tar archive file, instead of STDIN")
	c.Flags().StringVar(&platform, "platform", "", "platform of the image: os/arch[/variant]")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "suppress the load output")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := a.openInput(input)
		if err != nil {
			return err
		}
		defer r.Close()
		e, err := a.engine()
		if err != nil {
			return err
		}
		list, err := e.Load(cmd.Context(), r, platform)
		for i := range list {
			names := list[i].RepoTags()
			for _, n := range names {
				fmt.Fprintf(a.out, "Loaded image: %s\n", n)
			}
			if len(names) == 0 {
				fmt.Fprintf(a.out, "Loaded image ID: %s\n", list[i].ID)
			}
		}
		return err
	}
	return c
}

// openInput opens a file, or standard input for "" and "-".
func (a *app) openInput(path string) (io.ReadCloser, error) {
	if path != "" && path != "-" {
		return os.Open(path)
	}
	if term.IsTerminal(int(a.in.Fd())) {
		return nil, errors.New("requested load from stdin, but stdin is empty")
	}
	return io.NopCloser(a.in), nil
}

func newSave(a *app) *cobra.Command {
	var output, format string
	c := &cobra.Command{Use: "save [OPTIONS] IMAGE [IMAGE...]", Short: "Save one or more images to a tar archive (streamed to STDOUT by default)", Args: minArgs(1)}
	c.Flags().StringVarP(&output, "output", "o", "", "write to a file, instead of STDOUT")
	c.Flags().StringVar(&format, "format", "docker-archive", "docker-archive or oci-archive")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if format != "docker-archive" && format != "oci-archive" {
			return fmt.Errorf("invalid value for --format: %q is neither docker-archive nor oci-archive", format)
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		return a.toFile(output, func(w io.Writer) error { return e.Save(cmd.Context(), w, args, format == "oci-archive") })
	}
	return c
}

func newImport(a *app) *cobra.Command {
	var o engine.ImportOptions
	var changes []string
	c := &cobra.Command{Use: "import [OPTIONS] file|- [REPOSITORY[:TAG]]", Short: "Import the contents from a tarball to create a filesystem image", Args: rangeArgs(1, 2)}
	fs := c.Flags()
	fs.StringArrayVarP(&changes, "change", "c", nil, "apply a Dockerfile instruction (CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR)")
	fs.StringVarP(&o.Message, "message", "m", "", "set commit message for imported image")
	fs.StringVar(&o.Platform, "platform", "", "platform of the image: os/arch[/variant]")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		for _, ch := range changes {
			if err := applyChange(&o.Config, ch); err != nil {
				return err
			}
		}
		if len(args) == 2 {
			o.Ref = args[1]
		}
		if strings.HasPrefix(args[0], "http://") || strings.HasPrefix(args[0], "https://") {
			return errors.New("import from a URL is not supported: download the file and import it, or pipe it to `viv import -`")
		}
		r, err := a.openInput(args[0])
		if err != nil {
			return err
		}
		defer r.Close()
		e, err := a.engine()
		if err != nil {
			return err
		}
		img, err := e.Import(cmd.Context(), r, o)
		if err == nil {
			fmt.Fprintln(a.out, img.ID)
		}
		return err
	}
	return c
}

const historyTable = "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"

var historyHeaders = headers{"ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY", "Size": "SIZE", "Comment": "COMMENT"}

type historyRow struct{ Comment, CreatedAt, CreatedBy, CreatedSince, ID, Size string }

func newHistory(a *app) *cobra.Command {
	var noTrunc, quiet, human bool
	l := listing{table: historyTable, headers: historyHeaders, quiet: "{{.ID}}"}
	c := &cobra.Command{Use: "history [OPTIONS] IMAGE", Short: "Show the history of an image", Args: exactArgs(1)}
	fs := c.Flags()
	fs.StringVar(&l.format, "format", "", "a Go template, 'table TEMPLATE' or json")
	fs.BoolVarP(&human, "human", "H", true, "print sizes and dates in human readable format")
	fs.BoolVar(&noTrunc, "no-trunc", false, "don't truncate output")
	fs.BoolVarP(&quiet, "quiet", "q", false, "only show image IDs")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		list, err := e.History(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		var rows []any
		now := time.Now()
		for _, h := range list {
			rows = append(rows, historyRowOf(h, now, noTrunc, human))
		}
		return l.print(a.out, quiet, rows)
	}
	return c
}

func historyRowOf(h engine.HistoryEntry, now time.Time, noTrunc, human bool) historyRow {
	r := historyRow{ID: h.ID, CreatedBy: strings.ReplaceAll(h.CreatedBy, "\t", " "), Comment: h.Comment, CreatedSince: "N/A",
		Size: fmt.Sprint(h.Size), CreatedAt: h.Created.Format(time.RFC3339)}
	if human {
		r.Size = units.HumanSizeWithPrecision(float64(h.Size), 3)
	}
	if !h.Created.IsZero() {
		if r.CreatedSince = r.CreatedAt; human {
			r.CreatedSince = units.HumanDuration(now.Sub(h.Created)) + " ago"
		}
	}
	if !noTrunc {
		if id, ok := strings.CutPrefix(r.ID, "sha256:"); ok {
			r.ID = id[:12]
		}
		r.CreatedBy = ellipsis(r.CreatedBy, 45)
	}
	return r
}
