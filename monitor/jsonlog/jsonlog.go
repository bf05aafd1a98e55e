// Package jsonlog writes the json-file log of a container: one JSON object a
// line of output, in the form of Docker's driver of that name,
//
//	{"log":"text\n","stream":"stdout","time":"2006-01-02T15:04:05.999999999Z"}
//
// and with attributes {"log":…,"stream":…,"attrs":{"k":"v"},"time":…},
// with rotation by size. It is linked into the monitor, so it allocates nothing
// after Open and needs neither encoding/json nor time.
package jsonlog

import (
	"syscall"
	"unicode/utf8"
)

// maxLine is the longest line that is kept in one record; a longer one is cut
// into several, as Docker does (16 KiB).
const maxLine = 16 << 10

// Writer appends records to a file. It is for one goroutine.
type Writer struct {
	Attrs string // a JSON object that every record has as its "attrs"; "" for none

	path    string
	fd      int
	size    int64
	maxSize int64
	maxFile int
	partial [2][]byte // an unfinished line of stdout and of stderr
	out     []byte
}

// Open opens or makes the log. maxSize is in bytes, 0 for no rotation; maxFile
// counts the files that are kept, the current one included.
func Open(path string, maxSize int64, maxFile int) (*Writer, error) {
	w := &Writer{path: path, maxSize: maxSize, maxFile: max(maxFile, 1), fd: -1}
	return w, w.reopen(0)
}

func (w *Writer) reopen(flags int) error {
	fd, err := syscall.Open(w.path, syscall.O_WRONLY|syscall.O_APPEND|syscall.O_CREAT|syscall.O_CLOEXEC|flags, 0o640)
	if err != nil {
		return err
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		syscall.Close(fd)
		return err
	}
	w.fd, w.size = fd, st.Size
	return nil
}

// Write takes output of a stream (1 stdout, 2 stderr) as it came, at a time in
// nanoseconds since the epoch. Lines are complete records; what does not end in
// a newline is kept for the next Write, or Flush.
func (w *Writer) Write(stream int, p []byte, now int64) error {
	part := &w.partial[(stream-1)&1]
	w.out = w.out[:0]
	for len(p) > 0 {
		n, ended := cut(p, maxLine-len(*part))
		line := p[:n]
		p = p[n:]
		if !ended {
			*part = append(*part, line...)
			continue
		}
		if len(*part) > 0 {
			*part = append(*part, line...)
			line = *part
		}
		w.out = Append(w.out, line, stream, w.Attrs, now)
		*part = (*part)[:0]
		if len(w.out) > 32<<10 {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	return w.flush()
}

// cut gives the length of p's first line with its newline, of at most limit
// bytes, and whether a record ends there.
func cut(p []byte, limit int) (int, bool) {
	for i, c := range p {
		if c == '\n' || i+1 >= limit {
			return i + 1, true
		}
	}
	return len(p), false
}

// Flush writes unfinished lines as they are: at the container's end.
func (w *Writer) Flush(now int64) error {
	w.out = w.out[:0]
	for i := range w.partial {
		if len(w.partial[i]) > 0 {
			w.out = Append(w.out, w.partial[i], i+1, w.Attrs, now)
			w.partial[i] = w.partial[i][:0]
		}
	}
	return w.flush()
}

func (w *Writer) flush() error {
	if len(w.out) == 0 {
		return nil
	}
	if w.maxSize > 0 && w.size > 0 && w.size+int64(len(w.out)) > w.maxSize {
		if err := w.rotate(); err != nil {
			return err
		}
	}
	n, err := syscall.Write(w.fd, w.out)
	w.size += int64(max(n, 0))
	w.out = w.out[:0]
	return err
}

// rotate renames log to log.1, log.1 to log.2 and so on; the oldest goes.
func (w *Writer) rotate() error {
	syscall.Close(w.fd)
	w.fd = -1
	for i := w.maxFile - 1; i > 0; i-- {
		syscall.Rename(w.numbered(i-1), w.numbered(i))
	}
	flags := 0
	if w.maxFile == 1 {
		flags = syscall.O_TRUNC
	}
	return w.reopen(flags)
}

func (w *Writer) numbered(i int) string {
	if i == 0 {
		return w.path
	}
	var digits [8]byte
	n := len(digits)
	for ; i > 0; i /= 10 {
		n--
		digits[n] = byte('0' + i%10)
	}
	return w.path + "." + string(digits[n:])
}

// Close closes the file.
func (w *Writer) Close() {
	if w.fd >= 0 {
		syscall.Close(w.fd)
		w.fd = -1
	}
}

// Append adds one record to b. attrs is as Writer.Attrs.
func Append(b, line []byte, stream int, attrs string, now int64) []byte {
	b = append(b, `{"log":"`...)
	b = AppendString(b, line)
	if stream == 2 {
		b = append(b, `","stream":"stderr"`...)
	} else {
		b = append(b, `","stream":"stdout"`...)
	}
	if attrs != "" {
		b = append(b, `,"attrs":`...)
		b = append(b, attrs...)
	}
	b = append(b, `,"time":"`...)
	b = AppendTime(b, now)
	return append(b, "\"}\n"...)
}

const hexDigits = "0123456789abcdef"

// AppendString adds text as the inside of a JSON string (RFC 8259, section 7).
// Bytes that are not UTF-8 become U+FFFD; <, > and & are escaped, as Docker's
// records have them.
func AppendString(b, text []byte) []byte {
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf {
			b = appendByte(b, c)
			i++
			continue
		}
		r, n := utf8.DecodeRune(text[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(b, `\ufffd`...)
		case r == '\u2028' || r == '\u2029':
			b = append(b, `\u202`...)
			b = append(b, hexDigits[r&15])
		default:
			b = append(b, text[i:i+n]...)
		}
		i += n
	}
	return b
}

func appendByte(b []byte, c byte) []byte {
	switch {
	case c == '"' || c == '\\':
		return append(b, '\\', c)
	case c == '\n':
		return append(b, '\\', 'n')
	case c == '\r':
		return append(b, '\\', 'r')
	case c == '\t':
		return append(b, '\\', 't')
	case c < ' ' || c == '<' || c == '>' || c == '&':
		return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
	}
	return append(b, c)
}

// AppendTime adds a time in UTC as RFC 3339 with nanoseconds, trailing zeros of
// the fraction left off, as time.RFC3339Nano does.
func AppendTime(b []byte, ns int64) []byte {
	sec, frac := ns/1e9, ns%1e9
	days, rest := sec/86400, sec%86400
	y, m, d := civil(days)
	b = append(digits(b, y, 4), '-')
	b = append(digits(b, m, 2), '-')
	b = append(digits(b, d, 2), 'T')
	b = append(digits(b, rest/3600, 2), ':')
	b = append(digits(b, rest/60%60, 2), ':')
	b = digits(b, rest%60, 2)
	if frac != 0 {
		b = digits(append(b, '.'), frac, 9)
		for b[len(b)-1] == '0' {
			b = b[:len(b)-1]
		}
	}
	return append(b, 'Z')
}

func digits(b []byte, v int64, width int) []byte {
	for range width {
		b = append(b, 0)
	}
	for i := len(b) - 1; i >= len(b)-width; i-- {
		b[i] = byte('0' + v%10)
		v /= 10
	}
	return b
}

// civil turns days since 1970-01-01 into a date of the Gregorian calendar. Years
// are counted from March, so that the leap day is a year's last.
func civil(days int64) (y, m, d int64) {
	days += 719468 // to 0000-03-01
	era := days / 146097
	doe := days % 146097                                   // day of the 400 years
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365 // year of them
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153 // month from March
	d = doy - (153*mp+2)/5 + 1
	m, y = mp+3, yoe+era*400
	if m > 12 {
		m, y = m-12, y+1
	}
	return y, m, d
}
