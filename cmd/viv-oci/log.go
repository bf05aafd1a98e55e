package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// logger writes what went wrong in the two formats that callers of runc parse:
// logrus' text and JSON lines.
type logger struct {
	path  string // "" for standard error
	json  bool
	debug bool
}

func (l *logger) write(level, msg string) {
	now := time.Now().UTC().Format(time.RFC3339)
	line := "time=" + strconv.Quote(now) + " level=" + level + " msg=" + quoteText(msg) + "\n"
	if l.json {
		line = `{"level":"` + level + `","msg":` + quoteJSON(msg) + `,"time":"` + now + "\"}\n"
	}
	fd := 2
	if l.path != "" {
		f, err := unix.Open(l.path, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_CLOEXEC, 0o644)
		if err != nil {
			fmt.Fprintf(os.Stderr, "open the log file %s: %v\n", l.path, err)
		} else {
			fd = f
			defer unix.Close(f)
		}
	}
	unix.Write(fd, []byte(line)) // in one call: others append to the same file
}

func (l *logger) error(msg string) {
	l.write("error", msg)
	// With a log file the message goes to people, too.
	if l.path != "" {
		fmt.Fprintln(os.Stderr, msg)
	}
}

// debugf tells what is done, when --debug asks for it.
func (l *logger) debugf(format string, args ...any) {
	if l.debug {
		l.write("debug", fmt.Sprintf(format, args...))
	}
}

func (l *logger) warn(msg string) { l.write("warning", msg) }

// quoteText is as logrus quotes: only what needs it.
func quoteText(s string) string {
	for _, c := range []byte(s) {
		plain := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		switch c {
		case '-', '.', '_', '/', '@', '^', '+':
			plain = true
		}
		if !plain {
			return strconv.Quote(s)
		}
	}
	return s
}

// quoteJSON is a JSON string; bytes that are no UTF-8 become U+FFFD.
func quoteJSON(s string) string {
	b := []byte{'"'}
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, '\\', 'n')
		case r == '\t':
			b = append(b, '\\', 't')
		case r < 0x20:
			b = append(b, fmt.Sprintf(`\u%04x`, r)...)
		default:
			b = append(b, string(r)...)
		}
	}
	return string(append(b, '"'))
}
