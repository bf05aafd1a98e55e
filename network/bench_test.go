package network

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// BenchmarkAttachDetach is what the bridge network adds to the life of one
// container: its namespace, its endpoint, and taking both away again.
func BenchmarkAttachDetach(b *testing.B) {
	for _, specs := range [][]string{nil, {"8080:80"}} {
		b.Run(fmt.Sprintf("ports=%d", len(specs)), func(b *testing.B) {
			m := newManager(b)
			attach(b, m, Request{ContainerID: "first"}) // makes the bridge
			request := Request{ContainerID: "c", Ports: mustPorts(b, specs...)}
			var spent [3]time.Duration
			for b.Loop() {
				begin := time.Now()
				namespace, err := NewNamespace()
				if err != nil {
					b.Fatal(err)
				}
				made := time.Now()
				if _, err := m.Attach(b.Context(), namespace, request); err != nil {
					b.Fatal(err)
				}
				attached := time.Now()
				_ = namespace.Close()
				if err := m.Detach(b.Context(), "c"); err != nil {
					b.Fatal(err)
				}
				spent[0] += made.Sub(begin)
				spent[1] += attached.Sub(made)
				spent[2] += time.Since(attached)
			}
			for i, name := range []string{"namespace-ms", "attach-ms", "detach-ms"} {
				b.ReportMetric(float64(spent[i].Microseconds())/1000/float64(b.N), name)
			}
		})
	}
}

// BenchmarkHundredAtOnce attaches a hundred containers from as many goroutines.
func BenchmarkHundredAtOnce(b *testing.B) {
	m := newManager(b)
	attach(b, m, Request{ContainerID: "first"})
	for b.Loop() {
		var wait sync.WaitGroup
		for i := range 100 {
			wait.Go(func() {
				id := fmt.Sprintf("c%d", i)
				namespace, err := NewNamespace()
				if err != nil {
					b.Error(err)
					return
				}
				if _, err := m.Attach(b.Context(), namespace, Request{ContainerID: id}); err != nil {
					b.Error(err)
				}
				_ = namespace.Close()
				if err := m.Detach(b.Context(), id); err != nil {
					b.Error(err)
				}
			})
		}
		wait.Wait()
	}
}

// BenchmarkFirstAttach makes the bridge and its table each time.
func BenchmarkFirstAttach(b *testing.B) {
	needWorld(b)
	for b.Loop() {
		m := Open(b.TempDir())
		namespace, err := NewNamespace()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := m.Attach(b.Context(), namespace, Request{ContainerID: "c"}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		_ = namespace.Close()
		if err := m.Teardown(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
