package bundle

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// LookupUser resolves "name|uid[:group|gid]" with the content of a container's
// /etc/passwd and /etc/group, and adds the groups of extra (names or numbers). An
// empty spec is root. The additional groups begin with the primary one: without
// it, a process could drop it and gain what is denied to that group. home is
// empty where passwd has none.
func LookupUser(spec string, extra []string, passwd, group []byte) (u specs.User, home string, err error) {
	if strings.Count(spec, ":") > 1 || strings.ContainsAny(spec, "\n\x00") {
		return u, "", fmt.Errorf("invalid user %q: it must be name|uid[:group|gid]", spec)
	}
	// A number with a sign would be taken as that number: "+0" must not become root.
	if strings.HasPrefix(spec, "+") || strings.Contains(spec, ":+") {
		return u, "", fmt.Errorf("invalid user %q: it must be name|uid[:group|gid]", spec)
	}
	// The library takes a number that it cannot read for 0, which is root.
	passwd, group = wellFormed(passwd, 2, 3), wellFormed(group, 2)
	e, err := user.GetExecUser(spec, nil, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return u, "", err
	}
	groups := append([]int{e.Gid}, e.Sgids...)
	if len(extra) > 0 {
		more, err := user.GetAdditionalGroups(extra, bytes.NewReader(group))
		if err != nil {
			return u, "", err
		}
		// The library walks a map, and a spec must come out the same each time.
		slices.Sort(more)
		groups = append(groups, more...)
	}
	u.UID, u.GID = uint32(e.Uid), uint32(e.Gid)
	for _, g := range groups {
		if g < 0 || int64(g) > math.MaxUint32 {
			return u, "", fmt.Errorf("group ID %d is out of range", g)
		}
		if !slices.Contains(u.AdditionalGids, uint32(g)) {
			u.AdditionalGids = append(u.AdditionalGids, uint32(g))
		}
	}
	return u, e.Home, nil
}

// wellFormed returns the lines of a passwd or group file whose fields with these
// indexes are IDs.
func wellFormed(file []byte, ids ...int) []byte {
	out := make([]byte, 0, len(file))
	for line := range bytes.Lines(file) {
		rest, field, ok := line, 0, true
		for _, id := range ids {
			var text []byte
			for ; field <= id; field++ {
				text, rest, _ = bytes.Cut(rest, []byte(":"))
			}
			_, err := strconv.ParseUint(string(bytes.TrimSuffix(text, []byte("\n"))), 10, 31)
			ok = ok && err == nil
		}
		if ok {
			out = append(out, line...)
		}
	}
	return out
}

func (b *builder) user() (home string, err error) {
	b.s.Process.User, home, err = LookupUser(b.o.Config.User, b.o.HostConfig.GroupAdd, b.host.Passwd, b.host.Group)
	return home, err
}
