package registry_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vivarium/image/imagetest"
	"vivarium/image/registry"
)

// cutter is a registry that breaks off its first layer after some bytes, and is away
// after that until it is mended.
type cutter struct {
	fake
	mu     sync.Mutex
	broken bool
	from   []int64 // where transfers of the layer began
}

func newCutter(t *testing.T, img *imagetest.Image, after int) *cutter {
	c := &cutter{fake: fake{img: img}, broken: true}
	c.fault = func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		if !strings.HasSuffix(r.URL.Path, string(img.Desc.Layers[0].Digest)) {
			return false
		}
		var from int64
		if rg := r.Header.Get("Range"); rg != "" {
			if _, err := fmt.Sscanf(rg, "bytes=%d-", &from); err != nil {
				t.Error(err)
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.from = append(c.from, from)
		if !c.broken {
			return false
		}
		if from > 0 {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body[:after])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return c
}

func (c *cutter) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken, c.from = false, nil
}

// began gives where transfers of the layer began since the registry was mended.
func (c *cutter) began() []int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.from
}

func partials(t *testing.T, root string) []string {
	t.Helper()
	list, err := filepath.Glob(root + "/partial/*")
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestPullGoesOnLater(t *testing.T) {
	needRoot(t)
	for name, pack := range map[string]imagetest.Pack{"gzip": imagetest.PackGzip, "zstd": imagetest.PackZstd, "plain": imagetest.PackPlain} {
		t.Run(name, func(t *testing.T) {
			img := imagetest.Make(t, pack, nil, imagetest.Tar(t, imagetest.File("noise", noise(4<<20))), imagetest.Tar(t, imagetest.File("b", "b")))
			c := newCutter(t, img, 3<<20)
			ref := serve(t, &c.fake) + "/x:v1"
			st, root := openStore(t)
			if _, err := registry.Pull(context.Background(), st, ref, registry.Options{Limits: quick}); err == nil {
				t.Fatal("was pulled")
			}
			if got := partials(t, root); len(got) != 1 {
				t.Fatalf("kept %v", got)
			}
			c.mend()
			var first int64 = -1
			res, err := registry.Pull(context.Background(), st, ref, registry.Options{Limits: quick, Progress: func(e registry.Event) {
				if e.Status == registry.StatusDownloading && e.Layer == img.Desc.Layers[0].Digest && first < 0 {
					first = e.Current
				}
			}})
			if err != nil || res.Image.ID != img.ID() {
				t.Fatalf("%s %v", res.Image.ID, err)
			}
			if got := c.began(); len(got) != 1 || got[0] < 2<<20 || first < got[0] {
				t.Errorf("went on from %v, told %d", got, first)
			}
			if got := partials(t, root); len(got) != 0 {
				t.Errorf("kept %v", got)
			}
			if b, err := os.ReadFile(res.Image.Layers[0].Dir + "/noise"); err != nil || string(b) != noise(4<<20) {
				t.Errorf("the file is not what it was: %v", err)
			}
			if problems, err := st.Check(context.Background(), false); err != nil || len(problems) != 0 {
				t.Errorf("%v %v", problems, err)
			}
		})
	}
}

// TestPullGoesOnFromWrongBytes: what was kept is no part of the blob, in content or
// in length.
func TestPullGoesOnFromWrongBytes(t *testing.T) {
	needRoot(t)
	img := imagetest.Make(t, imagetest.PackGzip, nil, imagetest.Tar(t, imagetest.File("noise", noise(4<<20))))
	size := int(img.Desc.Layers[0].Size)
	good := img.Blobs[img.Desc.Layers[0].Digest]
	for name, kept := range map[string]string{
		"zeros":            strings.Repeat("\x00", 2<<20),
		"zeros at its end": string(good[:2<<20]) + strings.Repeat("\x00", 1<<20),
		"whole and wrong":  strings.Repeat("x", size),
		"too long":         string(good) + "more",
	} {
		t.Run(name, func(t *testing.T) {
			st, root := openStore(t)
			dir := root + "/partial"
			if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(dir+"/"+img.Desc.Layers[0].Digest.Encoded(), []byte(kept), 0o600)); err != nil {
				t.Fatal(err)
			}
			res, err := registry.Pull(context.Background(), st, serve(t, &fake{img: img})+"/x:v1", registry.Options{Limits: quick})
			if err != nil || res.Image.ID != img.ID() {
				t.Fatalf("%s %v", res.Image.ID, err)
			}
			if got := partials(t, root); len(got) != 0 {
				t.Errorf("kept %v", got)
			}
		})
	}
}

// TestPullLies: a registry answers ranges wrongly.
func TestPullLies(t *testing.T) {
	needRoot(t)
	img := imagetest.Make(t, imagetest.PackGzip, nil, imagetest.Tar(t, imagetest.File("noise", noise(4<<20))))
	part := func(w http.ResponseWriter, b []byte, contentRange string) {
		w.Header().Set("Content-Range", contentRange)
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(b)
	}
	for name, lie := range map[string]func(w http.ResponseWriter, body []byte, from int){
		"from the start": func(w http.ResponseWriter, body []byte, from int) {
			part(w, body, fmt.Sprintf("bytes 0-%d/%d", len(body)-1, len(body)))
		},
		"from the start, and says not": func(w http.ResponseWriter, body []byte, from int) {
			part(w, body, fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
		},
		"from further on, and says not": func(w http.ResponseWriter, body []byte, from int) {
			part(w, body[from+10:], fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
		},
		"from further on": func(w http.ResponseWriter, body []byte, from int) {
			part(w, body[from+10:], fmt.Sprintf("bytes %d-%d/%d", from+10, len(body)-1, len(body)))
		},
		"without a range": func(w http.ResponseWriter, body []byte, from int) { part(w, body[from:], "") },
		"not satisfiable": func(w http.ResponseWriter, body []byte, from int) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCutter(t, img, 2<<20)
			cut := c.fault
			var lying atomic.Bool
			c.fault = func(w http.ResponseWriter, r *http.Request, body []byte) bool {
				if !lying.Load() {
					return cut(w, r, body)
				}
				rg := r.Header.Get("Range")
				if rg == "" {
					return false
				}
				var from int
				_, _ = fmt.Sscanf(rg, "bytes=%d-", &from)
				lie(w, body, from)
				return true
			}
			ref := serve(t, &c.fake) + "/x:v1"
			st, root := openStore(t)
			if _, err := registry.Pull(context.Background(), st, ref, registry.Options{Limits: quick}); err == nil || len(partials(t, root)) != 1 {
				t.Fatalf("%v, kept %v", err, partials(t, root))
			}
			lying.Store(true)
			res, err := registry.Pull(context.Background(), st, ref, registry.Options{Limits: quick})
			if err != nil || res.Image.ID != img.ID() {
				t.Fatalf("%s %v", res.Image.ID, err)
			}
		})
	}
}

// TestPartialsAreGivenBack: prune removes what no pull went on with, and other
// collections what is old.
func TestPartialsAreGivenBack(t *testing.T) {
	needRoot(t)
	img := imagetest.Make(t, imagetest.PackGzip, nil, imagetest.Tar(t, imagetest.File("noise", noise(4<<20))))
	c := newCutter(t, img, 2<<20)
	ref := serve(t, &c.fake) + "/x:v1"
	st, root := openStore(t)
	cut := func() {
		t.Helper()
		if _, err := registry.Pull(context.Background(), st, ref, registry.Options{Limits: quick}); err == nil || len(partials(t, root)) != 1 {
			t.Fatalf("%v, kept %v", err, partials(t, root))
		}
	}
	cut()
	if _, err := st.GC(context.Background()); err != nil || len(partials(t, root)) != 1 {
		t.Errorf("collected at once: %v", err)
	}
	old := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(partials(t, root)[0], old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := st.GC(context.Background()); err != nil || len(partials(t, root)) != 0 {
		t.Errorf("stays: %v %v", partials(t, root), err)
	}
	cut()
	if _, freed, err := st.Prune(context.Background(), false, nil); err != nil || freed < 1<<20 || len(partials(t, root)) != 0 {
		t.Errorf("prune freed %d, left %v: %v", freed, partials(t, root), err)
	}
	// One that is written is left alone.
	tx, err := st.Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	d := img.Desc.Layers[0]
	if p := tx.Partial(d); p == nil {
		t.Fatal("cannot begin one")
	}
	if _, _, err := st.Prune(context.Background(), false, nil); err != nil || len(partials(t, root)) != 1 {
		t.Errorf("taken from under its pull: %v", err)
	}
	other, err := st.Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if other.Partial(d) != nil {
		t.Error("two write one file")
	}
}
