package wasm

import (
	"fmt"
	"unicode/utf8"
)

// cursor reads a module from front to back. The first trouble stays; after it
// every read gives nothing, so that a caller may look at err once, at the end
// of what it does.
type cursor struct {
	b       []byte
	at, end int    // end is that of the section, or of the function body
	section string // for errors
	err     *Error
}

// fail notes trouble at an offset. Names in it are cut (%.64q): an author may have
// chosen one of megabytes.
func (c *cursor) fail(offset int, format string, args ...any) {
	c.stop(&Error{Section: c.section, Offset: offset, Problem: fmt.Sprintf(format, args...)})
}

// over notes that a limit is exceeded.
func (c *cursor) over(offset int, limit string, most int, found uint64) {
	c.stop(&Error{Section: c.section, Offset: offset, Limit: limit, Max: int64(most), Found: int64(min(found, 1<<62))})
}

func (c *cursor) stop(e *Error) {
	if c.err == nil {
		c.err = e
	}
	c.at = c.end
}

func (c *cursor) byte() byte {
	if c.at >= c.end {
		c.fail(c.at, "it ends in the middle of something")
		return 0
	}
	b := c.b[c.at]
	c.at++
	return b
}

// bytes takes n bytes, as a part of the module and not a copy.
func (c *cursor) bytes(n uint32) []byte {
	if uint64(n) > uint64(c.end-c.at) {
		c.fail(c.at, "%d bytes are announced and %d are left", n, c.end-c.at)
		return nil
	}
	b := c.b[c.at : c.at+int(n) : c.at+int(n)]
	c.at += int(n)
	return b
}

// u32 reads an unsigned LEB128 of at most 32 bits in at most five bytes. Zeros
// that a linker pads with are the format's own.
func (c *cursor) u32() uint32 {
	if c.at < c.end && c.b[c.at] < 0x80 {
		c.at++
		return uint32(c.b[c.at-1])
	}
	start, value := c.at, uint32(0)
	for shift := 0; shift < 35; shift += 7 {
		b := c.byte()
		if shift == 28 && b > 0x0f {
			break
		}
		value |= uint32(b&0x7f) << shift
		if b < 0x80 {
			return value
		}
	}
	c.fail(start, "a number is longer than 32 bits")
	return 0
}

// signed reads a signed LEB128 of at most so many bits.
func (c *cursor) signed(bits int) int64 {
	start, value := c.at, int64(0)
	for shift := 0; shift < bits; shift += 7 {
		b := c.byte()
		if left := bits - shift; left < 7 {
			// The bits that do not fit must all be copies of the sign.
			if high := int8(b<<1) >> left; b >= 0x80 || high != 0 && high != -1 {
				break
			}
		}
		value |= int64(b&0x7f) << shift
		if b < 0x80 {
			if shift += 7; shift < 64 && b&0x40 != 0 {
				value |= -1 << shift
			}
			return value
		}
	}
	c.fail(start, "a number is longer than %d bits", bits)
	return 0
}

// count reads the length of a vector. It is held against the limit and against
// the bytes that are left, each entry taking one at least: so what is made for
// the vector is never larger than the file.
func (c *cursor) count(limit string, most int) int {
	at := c.at
	n := c.u32()
	if most >= 0 && uint64(n) > uint64(most) {
		c.over(at, limit, most, uint64(n))
		return 0
	}
	if uint64(n) > uint64(c.end-c.at) {
		c.fail(at, "%s: %d are announced and %d bytes are left", limit, n, c.end-c.at)
		return 0
	}
	return int(n)
}

// name reads a UTF-8 string.
func (c *cursor) name() string {
	at := c.at
	b := c.bytes(c.u32())
	if !utf8.Valid(b) {
		c.fail(at, "a name is not valid UTF-8")
		return ""
	}
	return string(b)
}
