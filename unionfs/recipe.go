// Package unionfs says how layer directories become one tree.
//
// A Recipe is data: whoever makes the mount (the sandbox, inside the mount
// namespace of a container; Mount, without attaching it anywhere) reads it and
// makes the system calls. So nothing is mounted in the host's tree, and there
// is nothing to unmount when a process dies.
package unionfs

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Drivers.
const (
	DriverOverlay = "overlay"
	DriverAUFS    = "aufs"
	DriverCopy    = "copy"
)

// Recipe is the blueprint of one union.
//
// If Classic is false and FSType is set, it is made by fsopen(FSType), one
// fsconfig a Param in their order (FSCONFIG_SET_FLAG for a Flag, else
// FSCONFIG_SET_STRING), FSCONFIG_CMD_CREATE and fsmount. If Classic is true, it
// is made by mount("overlay", target, FSType, 0, Data()), because the new calls
// cannot carry it on this kernel. If FSType is empty, the union is the
// directory Upper itself: open_tree(Upper, OPEN_TREE_CLONE).
type Recipe struct {
	Driver string   `json:"driver"`
	FSType string   `json:"fsType,omitempty"`
	Lower  []string `json:"lower"` // top-most first
	Upper  string   `json:"upper,omitempty"`
	Work   string   `json:"work,omitempty"`
	Params []Param  `json:"params,omitempty"`
	// Classic asks for mount(2) instead of fsopen(2).
	Classic bool `json:"classic,omitempty"`
}

// Param is one parameter of a file system.
type Param struct {
	Key   string `json:"key"`
	Value string `json:"value,omitempty"`
	Flag  bool   `json:"flag,omitempty"`
}

// Data joins the parameters as mount(2) takes them.
func (r Recipe) Data() string {
	parts := make([]string, 0, len(r.Params))
	for _, p := range r.Params {
		if p.Flag {
			parts = append(parts, p.Key)
		} else {
			parts = append(parts, p.Key+"="+p.Value)
		}
	}
	return strings.Join(parts, ",")
}

// String is the union as a command line would make it; for people to read.
func (r Recipe) String() string {
	if r.FSType == "" {
		return fmt.Sprintf("bind %s", r.Upper)
	}
	return fmt.Sprintf("mount -t %s -o %s", r.FSType, r.Data())
}

// OverlayOptions are what may differ between unions.
type OverlayOptions struct {
	// Ephemeral is for a container layer that is thrown away when the
	// container ends: nothing is ever synchronized to the disk.
	Ephemeral bool
	// Unprivileged is for a mount in a user namespace.
	Unprivileged bool
	// Joined says that the kernel lacks lowerdir+; LowerPlus tells.
	Joined bool
}

const (
	// maxString is the longest value of FSCONFIG_SET_STRING (256 bytes with
	// the NUL, fsconfig(2)).
	maxString = 255
	// maxLowers is overlay's own limit (OVL_MAX_STACK).
	maxLowers = 500
)

// Overlay returns the recipe of an overlay: lower directories top-most first,
// at least one; upper and work both set or, for a tree that is read only, both
// empty. Upper and work must be two directories of one file system, and upper
// should have the mode and owner that layer.RootMode gives.
//
// Lower "/" works, with upper and work below it: the machine's own root file
// system, without what is mounted on it.
func Overlay(lower []string, upper, work string, opts OverlayOptions) (Recipe, error) {
	lower = dropRepeated(lower)
	if err := checkOverlay(lower, upper, work); err != nil {
		return Recipe{}, err
	}
	r := Recipe{Driver: DriverOverlay, FSType: "overlay", Lower: lower, Upper: upper, Work: work}
	r.Classic = opts.Joined || !fits(lower, upper, work)
	if r.Classic {
		escaped := make([]string, len(lower))
		for i, l := range lower {
			escaped[i] = escapeLower(l)
		}
		r.Params = append(r.Params, Param{Key: "lowerdir", Value: strings.Join(escaped, ":")})
	} else {
		for _, l := range lower {
			r.Params = append(r.Params, Param{Key: "lowerdir+", Value: l})
		}
	}
	if upper != "" {
		esc := escapeDir
		if r.Classic {
			esc = escapeClassic
		}
		r.Params = append(r.Params, Param{Key: "upperdir", Value: esc(upper)}, Param{Key: "workdir", Value: esc(work)})
	}
	r.Params = append(r.Params, tuning(upper != "", opts)...)
	if r.Classic && len(r.Data()) >= unix.Getpagesize() {
		return Recipe{}, fmt.Errorf("make overlay of %d layers: their paths need %d bytes, and this kernel takes %d; use a shorter --root", len(lower), len(r.Data()), unix.Getpagesize()-1)
	}
	return r, nil
}

// dropRepeated keeps the top-most of equal directories, as an image has them
// that runs the same step twice. The kernel refuses them (ELOOP), and the lower
// one adds nothing: all that it shows, the upper one shows above it.
func dropRepeated(lower []string) []string {
	seen := make(map[string]bool, len(lower))
	out := make([]string, 0, len(lower))
	for _, l := range lower {
		if !seen[l] {
			seen[l] = true
			out = append(out, l)
		}
	}
	return out
}

func checkOverlay(lower []string, upper, work string) error {
	if len(lower) == 0 {
		return fmt.Errorf("make overlay: no lower layer is given")
	}
	if len(lower) > maxLowers {
		return fmt.Errorf("make overlay: %d layers, and the kernel takes %d", len(lower), maxLowers)
	}
	if (upper == "") != (work == "") {
		return fmt.Errorf("make overlay: upper %q and work directory %q must be given together", upper, work)
	}
	for _, p := range append([]string{upper, work}, lower...) {
		if p != "" && !strings.HasPrefix(p, "/") {
			return fmt.Errorf("make overlay: %q is no absolute path", p)
		}
	}
	if upper == "" && len(lower) == 1 {
		return fmt.Errorf("make overlay: one lower layer without an upper one is no union; bind %s instead", lower[0])
	}
	return nil
}

func fits(lower []string, upper, work string) bool {
	for _, l := range lower {
		if len(l) > maxString {
			return false
		}
	}
	return len(escapeDir(upper)) <= maxString && len(escapeDir(work)) <= maxString
}

// tuning is what is set knowingly; the defaults of all these are the kernel's
// configuration or a module parameter, and differ between distributions.
func tuning(writable bool, opts OverlayOptions) []Param {
	p := []Param{
		// A renamed lower directory is copied, not redirected, and copy-up
		// takes content along: the upper directory can be read by itself, by
		// diff, commit and people, and no attribute that a container might
		// forge is followed (overlayfs.rst, "redirect_dir", "metacopy").
		{Key: "redirect_dir", Value: "off"},
		// metacopy needs redirect_dir, and is refused if a kernel defaults to it.
		{Key: "metacopy", Value: "off"},
		// Without the index, hard links of lower files break on copy-up, as
		// under Docker; with it, an upper directory could not be moved or
		// mounted over other layers, and each mount writes to the work directory.
		{Key: "index", Value: "off"},
	}
	if opts.Unprivileged {
		// Only user.overlay.* may be written there (since 5.11). It excludes
		// redirect_dir and metacopy by itself, and refuses them spelled out
		// on some kernels.
		p = []Param{{Key: "index", Value: "off"}, {Key: "userxattr", Flag: true}}
	}
	if writable && opts.Ephemeral {
		// Since 5.10: fsync and syncfs in the container do nothing. A crash
		// would leave a layer that must not be used again, and it is not.
		p = append(p, Param{Key: "volatile", Flag: true})
	}
	return p
}

// escapeLower quotes a path in the joined list, where ':' separates layers.
func escapeLower(p string) string {
	return strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`).Replace(p)
}

// escapeDir quotes upperdir and workdir, in which the kernel removes
// backslashes (ovl_mount_dir), for fsconfig.
func escapeDir(p string) string {
	return strings.ReplaceAll(p, `\`, `\\`)
}

// escapeClassic quotes upperdir and workdir in a list of options.
func escapeClassic(p string) string {
	return strings.NewReplacer(`\`, `\\`, ",", `\,`).Replace(p)
}

// Bind returns the recipe of a union that is one directory already: what the
// copy driver made, or a single layer that is only read.
func Bind(dir string) Recipe {
	return Recipe{Driver: DriverCopy, Upper: dir}
}
