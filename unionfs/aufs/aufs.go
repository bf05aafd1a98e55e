// Package aufs says what a union with the semantics of AUFS is made of: its
// branches, its options, and the names that it keeps on disk. Package server
// serves such a union through FUSE.
//
// The spellings are those of aufs(5); the meaning of the names on disk is that of
// AUFS's design documents (02struct.txt, "Whiteout", "Pseudo-link").
package aufs

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Names that AUFS keeps on a branch. No name that begins with [Prefix] can be seen
// or made through a union.
const (
	Prefix = ".wh."         // .wh.NAME: NAME is deleted
	Opaque = ".wh..wh..opq" // in a directory: it hides those of its name below
	Base   = ".wh..wh.aufs" // the file that all whiteouts of a branch are hard links to
	Links  = ".wh..wh.plnk" // pseudo-links: files with more names on a branch below
	Orphan = ".wh..wh.orph" // files that were removed while somebody had them open

	// Temp begins the names of what is being made or removed.
	Temp = ".wh..wh."
	// Control is the name, in the root of a mounted union, of the file that its
	// server is spoken to with. It is on no branch.
	Control = ".wh..wh.ctl"

	// MaxName is the longest name in a union: its whiteout must fit too.
	MaxName = 255 - len(Prefix)
)

// FSType is the type of a mounted union in mountinfo, and what mount(8) calls.
const FSType = "fuse.viv-union"

// Perm says what may be done to a branch.
type Perm string

const (
	RW Perm = "rw"
	RO Perm = "ro"
	// RR is a branch that never changes by itself, as a CD does.
	RR Perm = "rr"
)

// Branch is one directory of a union.
type Branch struct {
	Path string
	Perm Perm
	// WH says that whiteouts on a branch that is not rw count ("ro+wh").
	WH bool
	// Overlay says that they count as overlay spells them: devices 0/0, and directories with
	// the attribute overlay.opaque ("ro+ovl"; AUFS does not have it). Image layers are so.
	Overlay bool
}

// String is the branch as options spell it.
func (b Branch) String() string {
	s := strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`).Replace(b.Path) + "=" + string(b.Perm)
	return s + b.attr()
}

// attr is what follows the permission.
func (b Branch) attr() string {
	switch {
	case b.Perm == RW:
	case b.Overlay:
		return "+ovl"
	case b.WH:
		return "+wh"
	}
	return ""
}

// Permissions are the branch's as options spell them: rw, ro, rr, ro+wh and so on.
func (b Branch) Permissions() string { return string(b.Perm) + b.attr() }

// Whiteouts tells whether the names .wh.NAME on this branch mean something.
func (b Branch) Whiteouts() bool { return b.WH && !b.Overlay || b.Perm == RW }

// Policies of aufs(5), "Policies to Select One among Multiple Writable Branches".
const (
	CreateTDP  = "tdp"  // top-down-parent: the highest branch that has the parent directory
	CreateRR   = "rr"   // round-robin
	CreateMFS  = "mfs"  // most free space
	CreatePMFS = "pmfs" // most free space, among those that have the parent directory

	CopyupTDP = "tdp" // top-down-parent
	CopyupBUP = "bup" // bottom-up-parent: the nearest above that has the parent directory
	CopyupBU  = "bu"  // bottom-up: the nearest above

	UDBANone   = "none"   // nobody changes branches directly
	UDBAReval  = "reval"  // look again at each access
	UDBANotify = "notify" // be told of changes
)

// Options are what a union is mounted with.
type Options struct {
	Branches []Branch // top-most first
	Create   string
	// FreeEvery is how long the free space of branches is remembered (mfs, pmfs).
	FreeEvery time.Duration
	Copyup    string
	UDBA      string
	// Flags are options of any mount: ro, nosuid, nodev, noexec, noatime.
	Flags []string
}

// ErrOptions is what cannot be understood in the options of a union.
var ErrOptions = errors.New("bad union options")

// ParseOptions reads the options that follow -o, as aufs(5) and the notes of many
// people spell them: br:BRANCH:BRANCH, br=… or dirs=…, then create=, cpup=, udba=.
// Paths are made absolute. With no permission given, the first branch is rw and
// the others are ro.
func ParseOptions(text string) (Options, error) {
	o := Options{Create: CreateTDP, Copyup: CopyupTDP, UDBA: UDBAReval, FreeEvery: 30 * time.Second}
	for _, opt := range splitEscaped(text, ',') {
		if err := o.set(opt); err != nil {
			return Options{}, err
		}
	}
	if len(o.Branches) == 0 {
		return Options{}, fmt.Errorf("%w: no branches; say dirs=UPPER:LOWER…", ErrOptions)
	}
	return o, nil
}

func (o *Options) set(opt string) error {
	key, value, _ := strings.Cut(opt, "=")
	if k, v, ok := strings.Cut(opt, ":"); ok && k == "br" {
		key, value = k, v
	}
	switch key {
	case "":
	case "br", "dirs":
		list, err := ParseBranches(value, len(o.Branches) == 0)
		o.Branches = append(o.Branches, list...)
		return err
	case "create", "create_policy":
		return o.setCreate(value)
	case "cpup", "copyup", "copyup_policy":
		return oneOf(&o.Copyup, opt, value, CopyupTDP, CopyupBUP, CopyupBU)
	case "udba":
		return oneOf(&o.UDBA, opt, value, UDBANone, UDBAReval, UDBANotify)
	case "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "atime", "noatime", "relatime", "nodiratime":
		o.Flags = append(o.Flags, key)
	case "defaults", "auto", "noauto", "nofail", "user", "_netdev": // what fstab says to others
	default:
		if strings.HasPrefix(key, "x-") {
			return nil
		}
		return fmt.Errorf("%w: unknown option %q", ErrOptions, opt)
	}
	return nil
}

func oneOf(dst *string, opt, value string, known ...string) error {
	for _, k := range known {
		if k == value {
			*dst = value
			return nil
		}
	}
	return fmt.Errorf("%w: %q: known are %s", ErrOptions, opt, strings.Join(known, ", "))
}

// setCreate reads a create policy; mfs and pmfs take seconds after a colon.
func (o *Options) setCreate(value string) error {
	name, seconds, timed := strings.Cut(value, ":")
	if timed && (name == CreateMFS || name == CreatePMFS) {
		n, err := strconv.ParseUint(seconds, 10, 16)
		if err != nil || n > 3600 {
			return fmt.Errorf("%w: create=%s: seconds are a number up to 3600", ErrOptions, value)
		}
		o.FreeEvery = time.Duration(n) * time.Second
		value = name
	}
	return oneOf(&o.Create, "create="+value, value, CreateTDP, CreateRR, CreateMFS, CreatePMFS)
}

// ParseBranches reads branches that are separated by colons; of a first list the
// first is rw by default.
func ParseBranches(text string, first bool) ([]Branch, error) {
	var out []Branch
	for i, part := range splitEscaped(text, ':') {
		perm := RO
		if first && i == 0 {
			perm = RW
		}
		b, err := ParseBranch(part, perm)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// ParseBranch reads DIR[=PERM[+wh]].
func ParseBranch(text string, perm Perm) (Branch, error) {
	b := Branch{Path: text, Perm: perm}
	if i := strings.LastIndexByte(text, '='); i >= 0 {
		if p, attr, err := parsePerm(text[i+1:]); err == nil {
			b.Path, b.Perm, b.WH, b.Overlay = text[:i], p, attr == "wh", attr == "ovl"
		} else if !strings.Contains(text[i+1:], "/") {
			return Branch{}, err
		}
	}
	b.Path = unescape(b.Path)
	if b.Path == "" {
		return Branch{}, fmt.Errorf("%w: a branch has no directory", ErrOptions)
	}
	if strings.IndexByte(b.Path, 0) >= 0 || strings.IndexByte(b.Path, '\n') >= 0 {
		return Branch{}, fmt.Errorf("%w: branch %q has a byte that no option can carry", ErrOptions, b.Path)
	}
	abs, err := filepath.Abs(b.Path)
	if err != nil {
		return Branch{}, fmt.Errorf("find branch %s: %w", b.Path, err)
	}
	b.Path = abs
	return b, nil
}

func parsePerm(text string) (p Perm, attr string, err error) {
	word, attr, has := strings.Cut(text, "+")
	p = Perm(word)
	switch {
	case p != RW && p != RO && p != RR:
		return "", "", fmt.Errorf("%w: permission %q: known are rw, ro, rr, and ro and rr with +wh or +ovl", ErrOptions, text)
	case has && (attr != "wh" && attr != "ovl" || p == RW):
		return "", "", fmt.Errorf("%w: permission %q: the attribute %q is not known for %s", ErrOptions, text, attr, p)
	}
	return p, attr, nil
}

// splitEscaped splits at sep; a backslash takes the next byte's meaning. The
// backslashes stay.
func splitEscaped(text string, sep byte) []string {
	if text == "" {
		return nil
	}
	var out []string
	start := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case sep:
			out = append(out, text[start:i])
			start = i + 1
		}
	}
	return append(out, text[start:])
}

func unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
