package build

import (
	"sync"
	"time"
)

// EventKind is what has happened in a build.
type EventKind int

// The kinds of event, in the order in which a step has them.
const (
	Started EventKind = iota // a step begins; Name
	Output                   // it has written; Data
	Cached                   // it was in the cache, and has ended
	Done                     // it has ended well; Took
	Failed                   // it has ended; Err
	Warned                   // something of the Dockerfile should be looked at; Warning
)

// Event is one thing that happened.
type Event struct {
	Kind    EventKind
	Step    int // number of the step, from 1
	Name    string
	Data    []byte // good during the call only
	At      time.Time
	Took    time.Duration
	Err     error
	Warning *Warning
}

// Warning is what one of BuildKit's checks found.
type Warning struct {
	Rule, Description, Text, URL string

	File       string
	Line, Last int    // 0: none
	Excerpt    string // of the file, with the lines marked
}

// reporter numbers steps, and lets one goroutine at a time speak.
type reporter struct {
	mu   sync.Mutex
	tell func(Event)
	last int
}

// begin gives a step its number.
func (r *reporter) begin(name string) *step {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	s := &step{r: r, number: r.last, name: name, began: time.Now()}
	r.send(Event{Kind: Started, Step: s.number, Name: name, At: s.began})
	return s
}

func (r *reporter) send(e Event) {
	if r.tell != nil {
		r.tell(e)
	}
}

func (r *reporter) warn(w *Warning) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.send(Event{Kind: Warned, Warning: w})
}

// step is one step that users see.
type step struct {
	r      *reporter
	number int
	name   string
	began  time.Time
	tail   tail
	// noCache: it is carried out, whether the cache has it or not.
	noCache bool
}

func (s *step) event(kind EventKind, data []byte, err error) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	now := time.Now()
	if kind == Output {
		s.tail.write(data)
	}
	s.r.send(Event{Kind: kind, Step: s.number, Name: s.name, Data: data, At: now, Took: now.Sub(s.began), Err: err})
}

// Write takes output of the step's command.
func (s *step) Write(b []byte) (int, error) {
	s.event(Output, b, nil)
	return len(b), nil
}

// end says how the step ended.
func (s *step) end(cached bool, err error) {
	switch {
	case err != nil:
		s.event(Failed, nil, err)
	case cached:
		s.event(Cached, nil, nil)
	default:
		s.event(Done, nil, nil)
	}
}

// tailLines and tailBytes bound what is kept of a command's output for an error.
const (
	tailLines = 20
	tailBytes = 8 << 10
)

// tail keeps the end of a step's output.
type tail struct{ buf []byte }

func (t *tail) write(b []byte) {
	t.buf = append(t.buf, b...)
	if len(t.buf) > 2*tailBytes {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-tailBytes:]...)
	}
}

func (t *tail) lines() []string {
	var out []string
	end := len(t.buf)
	for end > 0 && t.buf[end-1] == '\n' {
		end--
	}
	for i := end - 1; i >= -1 && len(out) < tailLines && end > 0; i-- {
		if i < 0 || t.buf[i] == '\n' {
			out = append([]string{string(t.buf[i+1 : end])}, out...)
			end = i
		}
	}
	return out
}
