package blackbox

import (
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vivarium/internal/testenv"

	"github.com/google/go-containerregistry/pkg/v1/random"
)

// killer counts what a registry sends of blobs, and kills a process at a byte of it.
type killer struct {
	mu     sync.Mutex
	sent   int64
	at     int64 // negative: never
	victim func()
}

func (k *killer) arm(at int64, victim func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sent, k.at, k.victim = 0, at, victim
}

func (k *killer) total() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.sent
}

type countingWriter struct {
	http.ResponseWriter
	k *killer
}

func (w countingWriter) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		var m int
		m, err = w.ResponseWriter.Write(b[:min(len(b), 32<<10)])
		n, b = n+m, b[m:]
		w.k.mu.Lock()
		w.k.sent += int64(m)
		if w.k.at >= 0 && w.k.sent >= w.k.at {
			w.k.at = -1
			w.k.victim()
		}
		w.k.mu.Unlock()
	}
	return n, err
}

// TestPullKilled kills pulls at random bytes of what they fetch, and after the last:
// the store is always whole, and what had come is not fetched again.
func TestPullKilled(t *testing.T) {
	testenv.Root(t)
	vivOnly(t, "the registry is in the engine's own network")
	e := testenv.Engine(t)
	k := &killer{at: -1}
	host := e.Registry(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				w = countingWriter{w, k}
			}
			next.ServeHTTP(w, r)
		})
	})
	img, err := random.Image(6<<20, 4)
	if err != nil {
		t.Fatal(err)
	}
	const size = 24 << 20
	ref := host + "/test/random:v1"
	push(t, e, ref, img)
	for round := range 30 {
		// One in four after the last byte: while it is unpacked, synchronized and named.
		at := rand.Int64N(size * 4 / 3)
		started := make(chan *testenv.Process, 1)
		kill := func() {
			p := <-started
			_ = p.Signal(syscall.SIGKILL)
		}
		if at >= size {
			late := time.Duration(at%50) * time.Millisecond
			kill = func() {
				p := <-started
				time.AfterFunc(late, func() { _ = p.Signal(syscall.SIGKILL) })
			}
			at = size
		}
		k.arm(at, kill)
		p := e.Command("pull", "-q", ref).Start()
		started <- p
		done := p.Wait().Code == 0
		k.arm(-1, nil)
		if got := e.MustViv("images", "-q"); got != "" {
			want(t, e.Viv("run", "--rm", "--network", "none", "--pull", "never", ref, "/nothing"), 127, "")
		} else if done {
			t.Fatalf("round %d: a pull that was done left no image", round)
		}
		check := e.Viv("system", "check")
		for line := range strings.Lines(check.Stdout) {
			if !strings.Contains(line, "left by a process that is gone") && !strings.Contains(line, "nothing needs it") && line != "all is well\n" {
				t.Errorf("round %d, killed at %d: %s", round, at, line)
			}
		}
		want(t, check, 0, check.Stdout)
		want(t, e.Viv("system", "check", "--dry-run"), 0, "all is well\n")
		if e.MustViv("images", "-q") != "" {
			e.MustViv("rmi", ref)
		}
		if round%5 == 4 { // the kept parts of four kills, and whatever the fifth left
			e.MustViv("pull", "-q", ref)
			e.MustViv("rmi", ref)
		}
	}
	// What a kill in the middle left is not fetched once more.
	const bigSize = 2 * 24 << 20
	if img, err = random.Image(bigSize/2, 2); err != nil {
		t.Fatal(err)
	}
	ref = host + "/test/big:v1"
	push(t, e, ref, img)
	started := make(chan *testenv.Process, 1)
	k.arm(bigSize*3/4, func() { _ = (<-started).Signal(syscall.SIGKILL) })
	p := e.Command("pull", "-q", ref).Start()
	started <- p
	p.Wait()
	k.arm(-1, nil)
	e.MustViv("pull", "-q", ref)
	// Most of what the registry had sent may have been in sockets still.
	if again := k.total(); again > bigSize-1<<20 {
		t.Errorf("killed after three quarters of %d bytes, the next pull fetched %d", bigSize, again)
	}
}
