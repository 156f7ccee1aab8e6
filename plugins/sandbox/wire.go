package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// wire is what a parent and its child speak over: a socket for each direction. On
// one socket each end is woken twice for a frame, once when it has come and once
// when the frame before it has been read by the other, which makes room for another.
// That took more than all else that a question to the host costs.
//
// This is the parent's end. One goroutine uses it at a time.
type wire struct {
	to    *os.File  // not known to Go's poller, which would be woken by room
	until time.Time // writes end then
	conn  net.Conn  // what is read from
	from  *bufio.Reader
}

// patience is for how long a write waits before it looks whether its deadline has
// come. Only a module is too large to be written at once.
const patience = 20 * time.Millisecond

// newWire makes a wire and the descriptors that its child is to have, as 3 and 4.
func newWire() (ours *wire, theirs []*os.File, err error) {
	to, reads, err := socketPair()
	if err != nil {
		return nil, nil, err
	}
	from, writes, err := socketPair()
	if err != nil {
		closeAll([]*os.File{to, reads})
		return nil, nil, err
	}
	defer from.Close()
	theirs = []*os.File{reads, writes}
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	conn, err := net.FileConn(from)
	if err == nil {
		err = unix.SetsockoptTimeval(int(to.Fd()), unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)
	}
	if err != nil {
		closeAll(append(theirs, to))
		return nil, nil, fmt.Errorf("make sockets: %w", err)
	}
	return &wire{to: to, conn: conn, from: bufio.NewReader(conn)}, theirs, nil
}

func socketPair() (one, other *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make sockets: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "sandbox"), os.NewFile(uintptr(fds[1]), "sandbox"), nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Read reads what has arrived together, not the length of a frame and then the frame.
func (w *wire) Read(into []byte) (int, error) { return w.from.Read(into) }

// Write returns os.ErrDeadlineExceeded when the child does not take it in time.
func (w *wire) Write(from []byte) (done int, err error) {
	for {
		n, err := w.to.Write(from[done:])
		done += max(n, 0)
		if !errors.Is(err, unix.EAGAIN) {
			return done, err
		}
		if !w.until.IsZero() && time.Now().After(w.until) {
			return done, os.ErrDeadlineExceeded
		}
	}
}

// SetDeadline bounds the reads and writes to come.
func (w *wire) SetDeadline(until time.Time) {
	w.until = until
	w.conn.SetReadDeadline(until) // fails where it is closed, as the read then does
}

// Close closes both sockets. The child then ends.
func (w *wire) Close() {
	w.to.Close()
	w.conn.Close()
}

// waiting is one of a child's sockets. Its one goroutine with work waits in the
// system call, and Go's scheduler is not told of it: that would look every 20 µs
// whether another goroutine wants its place, and have it queue for one when it
// comes back.
type waiting struct{ fd int }

// near is for how long the scheduler is not told. Whatever has to stop all
// goroutines, as a garbage collection does twice, waits for this one till then.
const near = 2 * time.Millisecond

// wireToParent is a child's end, of the descriptors that it was started with.
func wireToParent() (io.ReadWriter, error) { return childEnd(3, 4) }

func childEnd(from, to int) (io.ReadWriter, error) {
	limit := unix.NsecToTimeval(near.Nanoseconds())
	if err := unix.SetsockoptTimeval(from, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return nil, fmt.Errorf("limit how long it waits at once: %w", err)
	}
	if err := unix.SetsockoptTimeval(to, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return nil, fmt.Errorf("limit how long it waits at once: %w", err)
	}
	return struct {
		io.Reader
		io.Writer
	}{bufio.NewReader(waiting{from}), waiting{to}}, nil
}

func (w waiting) Read(into []byte) (int, error) {
	n, err := w.do(syscall.SYS_READ, into, unix.POLLIN)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

func (w waiting) Write(from []byte) (done int, err error) {
	for done < len(from) && err == nil {
		n := 0
		n, err = w.do(syscall.SYS_WRITE, from[done:], unix.POLLOUT)
		done += n
	}
	return done, err
}

// do reads or writes once, as soon as there is something or room.
func (w waiting) do(call uintptr, b []byte, ready int16) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(call, uintptr(w.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR: // the runtime's own signals
		case unix.EAGAIN: // not near: now the scheduler is told
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: ready}}, -1); err != nil && err != unix.EINTR {
				return 0, fmt.Errorf("wait for the parent: %w", err)
			}
		default:
			return 0, errno
		}
	}
}
