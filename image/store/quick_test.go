package store

import (
	"testing"
)

// FuzzQuickFind compares the quick way with reading the whole index.
func FuzzQuickFind(f *testing.F) {
	const d1 = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	const d2 = "sha256:1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	one := `{"mediaType":"m","digest":"` + d1 + `","size":1,"annotations":{"io.vivarium.image.id":"` + d2 + `","org.opencontainers.image.ref.name":"docker.io/library/a:latest"}}`
	two := `{"mediaType":"m","digest":"` + d2 + `","size":1,"annotations":{"x":"\"docker.io/library/a:latest","io.vivarium.image.id":"` + d1 + `","org.opencontainers.image.ref.name":"b"}}`
	f.Add(`{"schemaVersion":2,"manifests":[`+one+`,`+two+"]}\n", "a")
	f.Add(`{"schemaVersion":2,"manifests":[`+two+`,`+one+`]}`, "b")
	f.Add(`{"manifests":[]}`, "a")
	f.Add(`{"x":{"manifests":[`+one+`]},"manifests":[]}`, "a")
	f.Add(`{"manifests":[`+one+`],"manifests":[]}`, "a")
	f.Add(`{"manifests":[{"a":"]}"},[`+one+`]]}`, "a")
	f.Fuzz(func(t *testing.T, index, ref string) {
		quick, ok := quickFind([]byte(index), ref)
		if !ok {
			return
		}
		all, err := parseIndex([]byte(index))
		if err != nil {
			return // damage elsewhere in the index does not concern this image
		}
		e, err := find(all, ref)
		if err != nil || e.name != quick[0].name || e.id != quick[0].id || e.desc.Digest != quick[0].desc.Digest {
			t.Errorf("quick %+v, whole %+v, %v", quick[0], e, err)
		}
		same := 0
		for _, o := range all {
			if o.desc.Digest == e.desc.Digest || o.id == e.id {
				same++
			}
		}
		if same > len(quick) {
			t.Errorf("quick found %d of %d entries", len(quick), same)
		}
	})
}
