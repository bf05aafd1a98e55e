package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"vivarium/image"
)

func TestPolicyScopes(t *testing.T) {
	p, err := parsePolicy([]byte(`{"default":[{"type":"reject"}],"transports":{"docker":{
		"example.com":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}],
		"example.com/team":[{"type":"insecureAcceptAnything"}],
		"example.com/team/app:v1":[{"type":"reject"}],
		"*.example.net":[{"type":"insecureAcceptAnything"}],
		"127.0.0.1:5000/x":[{"type":"sigstoreSigned","fulcio":{}}]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	p.file = "policy.json"
	for name, want := range map[string]string{
		"example.com/team/app:v2": "", "example.com/team/app:v1": "rejects", "example.com/other": "signedBy", "a.b.example.net/x": "",
		"example.net/x": "rejects", "ubuntu": "rejects", "127.0.0.1:5000/x/y": "fulcio", "127.0.0.1:5001/x": "rejects",
	} {
		ref, err := image.ParseReference(name)
		if err != nil {
			t.Fatal(err)
		}
		err = p.admit(ref)
		if (err == nil) != (want == "") || want != "" && (!errors.Is(err, ErrPolicy) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	for _, bad := range []string{`{}`, `{"default":[]}`, `{"default":[{"type":"maybe"}]}`, `{"default":[{"type":"reject","color":1}]}`, `{"default":[{"type":"reject"}]} {}`,
		`{"default":[{"type":"reject"}],"transports":{"docker":{"x":[]}}}`, `{"default":[{"type":"sigstoreSigned","keyPath":"k","signedIdentity":{"type":"any"}}]}`} {
		if _, err := parsePolicy([]byte(bad)); err == nil {
			t.Errorf("accepted %s", bad)
		}
	}
	if _, err := LoadPolicy(t.TempDir() + "/none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a policy that was named and is not there: %v", err)
	}
}

func TestSignedIdentity(t *testing.T) {
	sum := "@sha256:" + strings.Repeat("0", 64)
	for _, tt := range []struct {
		id, ref, signed string
		want            bool
	}{
		{"", "a.io/x:v1", "a.io/x:v1", true}, {"", "a.io/x:v1", "a.io/x", false}, {"", "a.io/x:v1", "a.io/x:v2", false}, {"", "a.io/x" + sum, "a.io/x", true},
		{"", "a.io/x", "a.io/x", false}, {"", "a.io/x" + sum, "a.io/y:v1", false},
		{`{"type":"matchRepository"}`, "a.io/x:v1", "a.io/x", true}, {`{"type":"matchRepository"}`, "a.io/x:v1", "b.io/x", false},
		{`{"type":"matchExact"}`, "a.io/x" + sum, "a.io/x", false}, {`{"type":"matchExact"}`, "a.io/x:v1", "a.io/x:v1", true},
		{`{"type":"exactReference","dockerReference":"b.io/y:v1"}`, "a.io/x:v1", "b.io/y:v1", true},
		{`{"type":"exactRepository","dockerRepository":"b.io/y"}`, "a.io/x:v1", "b.io/y", true},
		{`{"type":"exactRepository","dockerRepository":"b.io/y"}`, "a.io/x:v1", "a.io/x:v1", false},
		{`{"type":"remapIdentity","prefix":"mirror.io/v","signedPrefix":"a.io"}`, "mirror.io/v/x:v1", "a.io/x:v1", true},
		{`{"type":"remapIdentity","prefix":"mirror.io/v","signedPrefix":"a.io"}`, "mirror.io/vx:v1", "a.io/x:v1", false},
		{"", "a.io/x:v1", "no name at all", false},
	} {
		var r requirement
		if tt.id != "" {
			r.Identity = new(identity)
			if err := json.Unmarshal([]byte(tt.id), r.Identity); err != nil {
				t.Fatal(err)
			}
		}
		ref, err := image.ParseReference(tt.ref)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.names(ref, tt.signed); got != tt.want {
			t.Errorf("%s: %s signed as %s: %v", tt.id, tt.ref, tt.signed, got)
		}
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add([]byte(`{"default":[{"type":"reject"}],"transports":{"docker":{"a.io/x":[{"type":"insecureAcceptAnything"}]}}}`), "a.io/x/y:v1")
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		p, err := parsePolicy(b)
		if err != nil {
			return
		}
		ref, err := image.ParseReference(name)
		if err != nil {
			return
		}
		if len(p.requirements(ref)) == 0 {
			t.Errorf("nothing is required of %s", fmt.Sprint(ref))
		}
		_ = p.admit(ref)
	})
}
