package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// What parent and child say to each other. A frame is a kind and some byte
// strings:
//
//	length u32 | kind u8 | count u8 | count × (length u32, bytes)
//
// all big endian; the first length counts what follows it.
type frame struct {
	kind byte
	args [][]byte
}

// Kinds of frames: what the parent sends, and what the child answers.
const (
	kindLoad    = 'L' // key, memory MiB, module, its directory in the cache
	kindCall    = 'C' // key, profile, now in Unix milliseconds, input, fuel
	kindReply   = 'R' // code, and the result when there is one
	kindCompile = 'M' // module
	kindProbe   = 'P' // directory to write in, files to read…

	kindOK     = 'o' // loaded, or compiled, or what a probe found
	kindFailed = 'f' // text fit for the tenant
	kindStale  = 's' // its code cannot be had from the cache
	kindHost   = 'h' // name, arguments…
	kindDone   = 'd' // failure text ("" for none), output, memory KiB, logs, fuel used
)

// maxFrame bounds what either side will hold for the other: the largest module,
// and a quarter more for what counts its fuel.
const maxFrame = maxModule + maxModule/4

var errFrame = errors.New("malformed frame")

func (f frame) write(w io.Writer) error {
	size := 2
	for _, a := range f.args {
		size += 4 + len(a)
	}
	if size > maxFrame || len(f.args) > 255 {
		return fmt.Errorf("%w: %d bytes", errFrame, size)
	}
	out := make([]byte, 0, 4+size)
	out = binary.BigEndian.AppendUint32(out, uint32(size))
	out = append(out, f.kind, byte(len(f.args)))
	for _, a := range f.args {
		out = binary.BigEndian.AppendUint32(out, uint32(len(a)))
		out = append(out, a...)
	}
	_, err := w.Write(out)
	return err
}

// smallFrame is up to what length room is made at once, and not as it arrives.
const smallFrame = 64 << 10

// readFrame reads one frame. It makes room for what has arrived, not for what
// a length claims, but for a little.
func readFrame(r io.Reader) (frame, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < 2 || size > maxFrame {
		return frame{}, errFrame
	}
	body, err := readBody(r, int(size))
	if err != nil {
		return frame{}, err
	}
	f := frame{kind: body[0]}
	f.args = make([][]byte, 0, min(int(body[1]), len(body)/4))
	rest := body[2:]
	for range int(body[1]) {
		if len(rest) < 4 {
			return frame{}, errFrame
		}
		n := binary.BigEndian.Uint32(rest)
		rest = rest[4:]
		if uint64(n) > uint64(len(rest)) {
			return frame{}, errFrame
		}
		f.args = append(f.args, rest[:n:n])
		rest = rest[n:]
	}
	if len(rest) > 0 {
		return frame{}, errFrame
	}
	return f, nil
}

func readBody(r io.Reader, size int) (body []byte, err error) {
	if size > smallFrame {
		body, err = io.ReadAll(io.LimitReader(r, int64(size)))
	} else {
		body = make([]byte, size)
		_, err = io.ReadFull(r, body)
	}
	if errors.Is(err, io.EOF) || err == nil && len(body) != size {
		err = io.ErrUnexpectedEOF
	}
	return body, err
}

// need checks that a frame has at least n arguments.
func (f frame) need(n int) error {
	if len(f.args) < n {
		return errFrame
	}
	return nil
}

func number(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

// Number reads an argument of a granted function that is a number; 0 when it is
// none.
func Number(argument []byte) int64 { return parseNumber(argument) }

func parseNumber(b []byte) int64 {
	if len(b) != 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(b))
}
