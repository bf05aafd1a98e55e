package registry_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"vivarium/image/imagetest"
	"vivarium/image/registry"
)

// trickler gives a whole layer out piece by piece, and ranges as answer says.
type trickler struct {
	fake
	whole, ranges atomic.Int64 // requests
}

func newTrickler(img *imagetest.Image, answer func(w http.ResponseWriter, r *http.Request, body []byte, from, to int)) *trickler {
	c := &trickler{fake: fake{img: img}}
	layer := string(img.Desc.Layers[0].Digest)
	c.fault = func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		if !strings.HasSuffix(r.URL.Path, layer) {
			return false
		}
		var from, to int
		if n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); n == 2 {
			c.ranges.Add(1)
			answer(w, r, body, from, to)
			return true
		}
		c.whole.Add(1)
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		for len(body) > 0 && r.Context().Err() == nil {
			n := min(len(body), 16<<10)
			if _, err := w.Write(body[:n]); err != nil {
				return true
			}
			w.(http.Flusher).Flush()
			body = body[n:]
			select { // a slow network
			case <-time.After(2 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
		return true
	}
	return c
}

func partOf(w http.ResponseWriter, body []byte, from, to, length int) {
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, length))
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(http.StatusPartialContent)
	_, _ = w.Write(body)
}

// TestPullInRanges: a layer that comes slowly is fetched in several ranges at the same time,
// and comes out right, also if the registry answers ranges wrongly.
func TestPullInRanges(t *testing.T) {
	needRoot(t)
	img := imagetest.Make(t, imagetest.PackGzip, nil, imagetest.Tar(t, imagetest.File("noise", noise(6<<20))))
	good := func(w http.ResponseWriter, r *http.Request, body []byte, from, to int) {
		partOf(w, body[from:to+1], from, to, len(body))
	}
	var inside atomic.Int64
	two := make(chan struct{})
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request, body []byte, from, to int){
		"well": good,
		"at the same time": func(w http.ResponseWriter, r *http.Request, body []byte, from, to int) {
			if inside.Add(1) == 2 {
				close(two)
			}
			select { // the first waits for the second
			case <-two:
				good(w, r, body, from, to)
			case <-r.Context().Done():
			}
		},
		"cut off": func(w http.ResponseWriter, r *http.Request, body []byte, from, to int) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(body)))
			w.Header().Set("Content-Length", fmt.Sprint(to-from+1))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(body[from : from+(to-from)/2+1])
		},
		"too much": func(w http.ResponseWriter, r *http.Request, body []byte, from, to int) {
			partOf(w, body[from:], from, len(body)-1, len(body))
		},
		"the whole": func(w http.ResponseWriter, r *http.Request, body []byte, from, to int) { _, _ = w.Write(body) },
		"of another place": func(w http.ResponseWriter, r *http.Request, body []byte, from, to int) {
			partOf(w, body[:to-from+1], from, to, len(body))
		},
		"another range": func(w http.ResponseWriter, r *http.Request, body []byte, from, to int) {
			partOf(w, body[from+5:to+1], from+5, to, len(body))
		},
		"not satisfiable": func(w http.ResponseWriter, r *http.Request, body []byte, from, to int) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limits := quick
			limits.Split, limits.Range = time.Millisecond, 200_000
			c := newTrickler(img, answer)
			st, _ := openStore(t)
			var last, total int64
			res, err := registry.Pull(context.Background(), st, serve(t, &c.fake)+"/x:v1", registry.Options{Limits: limits, Progress: func(e registry.Event) {
				if e.Status == registry.StatusDownloading {
					if e.Current < last && name != "of another place" { // which begins anew
						t.Errorf("progress went back from %d to %d", last, e.Current)
					}
					last, total = e.Current, e.Total
				}
			}})
			if err != nil || res.Image.ID != img.ID() {
				t.Fatalf("%s %v", res.Image.ID, err)
			}
			if b, err := os.ReadFile(res.Image.Layers[0].Dir + "/noise"); err != nil || string(b) != noise(6<<20) {
				t.Errorf("the file is not what it was: %v", err)
			}
			if c.ranges.Load() == 0 || last != total {
				t.Errorf("%d requests of ranges and %d of the whole, told %d of %d", c.ranges.Load(), c.whole.Load(), last, total)
			}
		})
	}
	t.Run("goes on later", func(t *testing.T) {
		t.Parallel()
		var broken atomic.Bool
		broken.Store(true)
		c := newTrickler(img, func(w http.ResponseWriter, r *http.Request, body []byte, from, to int) {
			if broken.Load() && from > 3<<20 {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			good(w, r, body, from, to)
		})
		limits := quick
		limits.Split, limits.Range = time.Millisecond, 200_000
		st, root := openStore(t)
		ref := serve(t, &c.fake) + "/x:v1"
		if _, err := registry.Pull(context.Background(), st, ref, registry.Options{Limits: limits}); err == nil || len(partials(t, root)) != 1 {
			t.Fatalf("%v, kept %v", err, partials(t, root))
		}
		broken.Store(false)
		c.whole.Store(0)
		res, err := registry.Pull(context.Background(), st, ref, registry.Options{Limits: limits})
		if err != nil || res.Image.ID != img.ID() || c.whole.Load() != 0 {
			t.Fatalf("%s %v, the whole was asked for %d times", res.Image.ID, err, c.whole.Load())
		}
	})
}
