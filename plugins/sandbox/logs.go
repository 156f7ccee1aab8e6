package sandbox

import (
	"bytes"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/doorward/doorward/sdk/abi"
)

// logBuffer takes what a guest logs: so many lines and bytes, and no more.
type logBuffer struct {
	lines   []Log
	bytes   int
	dropped int
	partial [3][]byte // a line not yet ended, of descriptors 1 and 2
}

// add takes one line.
func (b *logBuffer) add(level int, text []byte) {
	if b.full() {
		b.dropped++
		return
	}
	text = text[:min(len(text), abi.MaxLogBytes-b.bytes)]
	b.bytes += len(text)
	b.lines = append(b.lines, Log{Level: min(max(level, 0), 3), Text: escape(string(text))})
}

// full reports whether nothing more is kept.
func (b *logBuffer) full() bool { return len(b.lines) >= abi.MaxLogLines || b.bytes >= abi.MaxLogBytes }

// write takes what a guest prints and cuts it into lines. It is quick with what is
// not kept: a guest pays for a byte what it takes to look at one.
func (b *logBuffer) write(fd int, text []byte) {
	for len(text) > 0 {
		if b.full() {
			b.dropped += bytes.Count(text, []byte{'\n'})
			return
		}
		if len(b.partial[fd]) == 0 {
			text = bytes.TrimLeft(text, "\n")
		}
		line, rest, ended := bytes.Cut(text, []byte{'\n'})
		text = rest
		room := max(0, abi.MaxLogBytes-len(b.partial[fd]))
		b.partial[fd] = append(b.partial[fd], line[:min(len(line), room)]...)
		if ended {
			b.flush(fd)
		}
	}
}

func (b *logBuffer) flush(fd int) {
	if len(b.partial[fd]) > 0 {
		b.add(fd, b.partial[fd]) // 1 is info, 2 is warn
		b.partial[fd] = b.partial[fd][:0]
	}
}

// logs are the lines of a run, and how many more there were.
func (r *run) logs() []Log {
	r.log.flush(1)
	r.log.flush(2)
	if r.log.dropped > 0 {
		return append(r.log.lines, Log{Level: 2, Text: strconv.Itoa(r.log.dropped) + " more lines were not kept"})
	}
	return r.log.lines
}

// Escape is how a guest's text stands in a Log.
func Escape(s string) string { return escape(s) }

// escape shows what would move a cursor, end a line or hide text.
func escape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			out.WriteString(`\x` + strconv.FormatUint(uint64(s[i])>>4, 16) + strconv.FormatUint(uint64(s[i])&15, 16))
		case !unicode.IsPrint(r):
			quoted := strconv.QuoteRuneToASCII(r)
			out.WriteString(quoted[1 : len(quoted)-1])
		default:
			out.WriteRune(r)
		}
		i += n
	}
	return out.String()
}
