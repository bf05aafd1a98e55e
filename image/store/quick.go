package store

import (
	"bytes"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/internal/lazyjson"
)

// quickFind decodes of an index only the descriptors that a name concerns.
// Decoding all of them is most of what `run` would spend on its image, and
// grows with every image of the store. It returns all entries of that image,
// the named one first; ok is false if the whole index has to be read, which is
// always right.
func quickFind(index []byte, ref string) (entries []entry, ok bool) {
	parsed, err := image.ParseReference(ref)
	if err != nil || parsed.Digest != "" {
		return nil, false
	}
	elements, ok := splitManifests(index)
	if !ok {
		return nil, false
	}
	name := parsed.String()
	// A name that another tool gave as it was typed would win (see find).
	if bytes.Contains(index, quoted(ref)) && ref != name {
		return nil, false
	}
	self, at := entry{}, -1
	for i, raw := range elements {
		if !bytes.Contains(raw, quoted(name)) {
			continue
		}
		e, err := decodeEntry(raw)
		if err != nil {
			return nil, false
		}
		if e.name == name {
			self, at = e, i
			break
		}
	}
	if at < 0 || self.id == "" {
		return nil, false
	}
	entries = append(entries, self)
	for i, raw := range elements {
		if i == at || !bytes.Contains(raw, quoted(string(self.id))) && !bytes.Contains(raw, quoted(string(self.desc.Digest))) {
			continue
		}
		e, err := decodeEntry(raw)
		if err != nil {
			return nil, false
		}
		entries = append(entries, e)
	}
	return entries, true
}

// quoted is a string as JSON has it; names and digests need no escapes.
func quoted(s string) []byte { return []byte(`"` + s + `"`) }

func decodeEntry(raw []byte) (entry, error) {
	var d ocispec.Descriptor
	if err := lazyjson.Unmarshal(raw, &d); err != nil {
		return entry{}, err
	}
	if err := CheckDescriptor(d); err != nil {
		return entry{}, err
	}
	return toEntry(d), nil
}

// splitManifests cuts the list of manifests into its elements, without looking
// into them further than brackets and strings need. It gives up on anything
// that this package does not write itself.
func splitManifests(index []byte) (elements [][]byte, ok bool) {
	const key = `"manifests":[`
	start := bytes.Index(index, []byte(key))
	// The key must stand in the outermost object: nothing is open before it.
	if start < 0 || bytes.Count(index[:start], []byte("{")) != 1 || bytes.ContainsAny(index[:start], "[}") {
		return nil, false
	}
	depth, from := 0, 0
	for i := start + len(key); i < len(index); i++ {
		switch index[i] {
		case '"':
			end := stringEnd(index, i)
			if end < 0 {
				return nil, false
			}
			i = end
		case '{':
			if depth == 0 {
				from = i
			}
			depth++
		case '}':
			if depth--; depth < 0 {
				return nil, false
			}
			if depth == 0 {
				elements = append(elements, index[from:i+1])
			}
		case ']':
			if depth == 0 {
				rest := strings.TrimSpace(string(index[i+1:]))
				return elements, rest == "}"
			}
		}
	}
	return nil, false
}

// stringEnd is the index of the quote that ends the string that starts at i.
func stringEnd(b []byte, i int) int {
	for {
		j := bytes.IndexByte(b[i+1:], '"')
		if j < 0 {
			return -1
		}
		i += 1 + j
		slashes := 0
		for k := i - 1; k >= 0 && b[k] == '\\'; k-- {
			slashes++
		}
		if slashes%2 == 0 {
			return i
		}
	}
}
