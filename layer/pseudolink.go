package layer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vivarium/internal/pseudolink"
)

// aufsLinks is where AUFS keeps a file of the layers below that was copied up under one of
// its names, for the sake of the others: as INO.TAG.SHOWN, its number there, the branch that
// it is on, and how many names below still lead to the copy (02struct.txt, "Pseudo-link").
const aufsLinks = whiteoutMeta + "plnk"

// linkedName is a name that is on no upper layer, and shows a file of it all the same.
type linkedName struct {
	name string // of the union
	file string // in aufsLinks
}

// linkedNames finds the other names of files that were copied up. There are few such files,
// and for each all names of its layer are looked at.
func (u *Upper) linkedNames(v *View) ([]linkedName, error) {
	if u.Spelling != SpelledAUFS {
		return nil, nil
	}
	wanted, err := u.pseudoLinks()
	if err != nil {
		return nil, err
	}
	var out []linkedName
	for i, dir := range u.Lower {
		files := wanted[pseudolink.Tag(dir)]
		if len(files) == 0 {
			continue
		}
		s := linkSearch{u: u, v: v, root: v.roots[i], files: files}
		if err := s.dir(v.roots[i], ""); err != nil {
			return nil, fmt.Errorf("look for names of linked files: %w", err)
		}
		out = append(out, s.out...)
	}
	slices.SortFunc(out, func(a, b linkedName) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

// pseudoLinks are the files that names below lead to: by tag and number.
func (u *Upper) pseudoLinks() (map[string]map[uint64]string, error) {
	fd, err := unix.Openat(int(u.Dir.Fd()), aufsLinks, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open pseudo-links: %w", err)
	}
	defer unix.Close(fd)
	names, err := readNames(fd)
	if err != nil {
		return nil, fmt.Errorf("list pseudo-links: %w", err)
	}
	out := map[string]map[uint64]string{}
	for _, n := range names {
		ino, tag, shown, ok := pseudolink.Parse(n)
		if !ok || shown == 0 {
			continue
		}
		if out[tag] == nil {
			out[tag] = map[uint64]string{}
		}
		out[tag][ino] = n
	}
	return out, nil
}

// linkSearch goes through one layer.
type linkSearch struct {
	u     *Upper
	v     *View
	root  int
	files map[uint64]string
	out   []linkedName
}

func (s *linkSearch) dir(dirfd int, name string) error {
	fd, err := unix.Openat(dirfd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	names, err := readNames(fd)
	if err != nil {
		return err
	}
	for _, n := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, n, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		full := joinName(name, n)
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			sub, err := unix.Openat(fd, n, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			err = s.dir(sub, full)
			unix.Close(sub)
			if err != nil {
				return err
			}
			continue
		}
		file, linked := s.files[st.Ino]
		if !linked || st.Nlink < 2 {
			continue
		}
		shown, err := s.shown(full, &st)
		if err != nil {
			return err
		}
		if shown {
			s.out = append(s.out, linkedName{full, file})
		}
	}
	return nil
}

// shown tells whether the union shows the layer's file by this name: no layer above has or
// deletes it.
func (s *linkSearch) shown(name string, st *unix.Stat_t) (bool, error) {
	dir, e, err := s.v.find(name)
	if dir != nil {
		defer dir.close()
	}
	if errors.Is(err, errLinkInPath) || err == nil && (e == nil || e.st.Ino != st.Ino || e.st.Dev != st.Dev) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return !s.u.hidesName(name), nil
}

// hidesName tells whether an upper layer of AUFS has or deletes a name, or hides what is
// below a directory of its path.
func (u *Upper) hidesName(name string) bool {
	has := func(path string) bool {
		var st unix.Stat_t
		return unix.Fstatat(int(u.Dir.Fd()), path, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
	}
	for end := 0; end <= len(name); end++ {
		if end < len(name) && name[end] != '/' {
			continue
		}
		dir, base := splitName(name[:end])
		if has(joinName(dir, WhiteoutPrefix+base)) || end < len(name) && has(joinName(name[:end], WhiteoutOpaque)) {
			return true
		}
	}
	return has(name)
}
