// Package protocol is what the host and the guest of a test machine tell each
// other: one file on the way in, framed lines on a serial line on the way out.
package protocol

import (
	"fmt"
	"strconv"
	"strings"
)

// ConfigPath is where the guest finds its [Config].
const ConfigPath = "/vm.json"

// Config says what a guest does between its start and its power-off.
type Config struct {
	// Modules are kernel modules to load, by path, in order.
	Modules []string
	// Mounts are block devices to mount, after the modules are loaded.
	Mounts []Mount
	Jobs   []Job
}

// Mount is one block device of the guest.
type Mount struct {
	Device, Path, Type string
}

// Job is one program to run in the guest. Its two output streams become one.
type Job struct {
	Name string
	Path string
	Args []string
	Env  []string
	Dir  string
}

// marker begins a line that is the guest's own. A job's output is framed by them;
// its lines carry a prefix, so that no job can write a marker.
const (
	marker = "@"
	output = "|"
)

// Kind says what a line of the serial line is.
type Kind int

// What lines there are.
const (
	Noise  Kind = iota // not of this protocol: firmware, for one
	Begin              // a job starts
	Output             // a line that a job printed
	End                // a job has ended
	Done               // all jobs have ended; power-off follows
	Failed             // the guest could not do what Config says
)

// Line is one parsed line.
type Line struct {
	Kind Kind
	// Text is a job's name (Begin, End), what it printed, or what failed.
	Text string
	// Code is a job's exit status, at End.
	Code int
}

// String is the line as it is sent, without the newline.
func (l Line) String() string {
	switch l.Kind {
	case Begin:
		return marker + "begin " + l.Text
	case Output:
		return output + l.Text
	case End:
		return fmt.Sprintf("%send %d %s", marker, l.Code, l.Text)
	case Done:
		return marker + "done"
	case Failed:
		return marker + "failed " + strings.ReplaceAll(l.Text, "\n", "; ")
	}
	return l.Text
}

// Parse reads one line, without its newline. What is no line of the protocol is
// Noise.
func Parse(s string) Line {
	s = strings.TrimSuffix(s, "\r")
	if text, ok := strings.CutPrefix(s, output); ok {
		return Line{Kind: Output, Text: text}
	}
	rest, ok := strings.CutPrefix(s, marker)
	if !ok {
		return Line{Text: s}
	}
	verb, rest, _ := strings.Cut(rest, " ")
	switch verb {
	case "begin":
		return Line{Kind: Begin, Text: rest}
	case "end":
		number, name, _ := strings.Cut(rest, " ")
		if code, err := strconv.Atoi(number); err == nil {
			return Line{Kind: End, Text: name, Code: code}
		}
	case "done":
		return Line{Kind: Done}
	case "failed":
		return Line{Kind: Failed, Text: rest}
	}
	return Line{Text: s}
}
