package engine

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestFetchStandsStill: a server that stops speaking, before its answer or within
// it, is not waited for without end.
func TestFetchStandsStill(t *testing.T) {
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/never":
		case "/half":
			w.Header().Set("Content-Length", "10")
			_, _ = w.Write([]byte("hello"))
			w.(http.Flusher).Flush()
		default:
			_, _ = w.Write([]byte("hello"))
			return
		}
		<-release
	}))
	defer s.Close()
	defer close(release)
	const idle = 100 * time.Millisecond
	if _, err := fetch(t.Context(), s.URL+"/never", idle); err == nil || !strings.Contains(err.Error(), "nothing came for 100ms") {
		t.Errorf("no answer: %v", err)
	}
	d, err := fetch(t.Context(), s.URL+"/half", idle)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(d); string(b) != "hello" || err == nil || !strings.Contains(err.Error(), "nothing came for 100ms") {
		t.Errorf("half an answer: %q %v", b, err)
	}
	d.Close()
	d, err = fetch(t.Context(), s.URL+"/whole/name", idle)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(d); string(b) != "hello" || err != nil || d.Name != "name" {
		t.Errorf("%q %v %s", b, err, d.Name)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
