package build

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"github.com/opencontainers/go-digest"
)

// keyVersion changes when the same key would mean another content.
const keyVersion = "viv build 1"

// hasher makes a key of strings, each with its length before it, so that no two lists
// of strings give the same bytes.
type hasher struct{ h hash.Hash }

func newHasher(kind string) *hasher {
	h := &hasher{sha256.New()}
	h.add(keyVersion, kind)
	return h
}

func (h *hasher) add(list ...string) {
	var n [8]byte
	for _, s := range list {
		binary.LittleEndian.PutUint64(n[:], uint64(len(s)))
		h.h.Write(n[:])
		h.h.Write([]byte(s))
	}
}

func (h *hasher) number(list ...uint64) {
	var n [8]byte
	for _, v := range list {
		binary.LittleEndian.PutUint64(n[:], v)
		h.h.Write(n[:])
	}
}

// list adds a list as one thing.
func (h *hasher) list(l []string) {
	h.number(uint64(len(l)))
	h.add(l...)
}

func (h *hasher) sum() digest.Digest { return digest.NewDigest(digest.SHA256, h.h) }
