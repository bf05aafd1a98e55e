// Package pseudolink knows the names of AUFS's pseudo-links: files of .wh..wh.plnk that
// were copied up from a branch below under one of their names, and are kept there for the
// sake of the others (AUFS, design/02struct.txt, "Pseudo-link").
package pseudolink

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
)

// Tag tells branches apart in such names.
func Tag(branch string) string {
	h := fnv.New32a()
	h.Write([]byte(branch))
	return fmt.Sprintf("%08x", h.Sum32())
}

// Name is INO.TAG.SHOWN: the file's number on the branch below, the tag of that branch, and how
// many of its names there still lead to the copy.
func Name(ino uint64, tag string, shown int) string {
	return fmt.Sprintf("%d.%s.%d", ino, tag, shown)
}

// Parse reads a Name; ok says whether it is one.
func Parse(name string) (ino uint64, tag string, shown int, ok bool) {
	parts := strings.Split(name, ".")
	if len(parts) != 3 {
		return 0, "", 0, false
	}
	ino, err := strconv.ParseUint(parts[0], 10, 64)
	if err != nil {
		return 0, "", 0, false
	}
	n, err := strconv.ParseUint(parts[2], 10, 31)
	return ino, parts[1], int(n), err == nil
}
