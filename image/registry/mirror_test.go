package registry_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"testing"

	"vivarium/image/registry"
)

// TestPullFromMirror: the mirror is asked first, the registry when it fails, and the
// image has the name that was asked for.
func TestPullFromMirror(t *testing.T) {
	needRoot(t)
	img := simple(t)
	mirror, origin := &fake{img: img}, &fake{img: img}
	at, home := serve(t, mirror), serve(t, origin)
	file := t.TempDir() + "/registries.conf"
	conf := "[[registry]]\nprefix='example.com/team'\nlocation='" + home + "/moved'\n[[registry.mirror]]\nlocation='" + at + "/copy'\n[[registry]]\nlocation='bad.example'\nblocked=true\n"
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CONTAINERS_REGISTRIES_CONF", file)
	c, err := registry.LoadConf()
	if err != nil {
		t.Fatal(err)
	}
	for _, away := range []bool{false, true} {
		if away {
			mirror.fault = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
				w.WriteHeader(http.StatusNotFound)
				return true
			}
		}
		st, _ := openStore(t)
		res, err := registry.Pull(context.Background(), st, "example.com/team/x:v1", registry.Options{Limits: quick, Conf: c})
		if err != nil || len(res.Image.Names) != 1 || res.Image.Names[0] != "example.com/team/x:v1" {
			t.Fatalf("away %v: %v %v", away, res.Image.Names, err)
		}
		if n := origin.asked(img.Desc.Layers[0].Digest); (n > 0) != away {
			t.Errorf("away %v: the registry was asked %d times", away, n)
		}
	}
	st, _ := openStore(t)
	if _, err := registry.Pull(context.Background(), st, "bad.example/x:v1", registry.Options{Limits: quick, Conf: c}); !errors.Is(err, registry.ErrBlocked) {
		t.Errorf("%v", err)
	}
}
