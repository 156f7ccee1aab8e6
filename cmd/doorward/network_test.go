package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// network carries what members say to each other, bytes as they are (they are
// TLS), and loses what it is told to. What is lost is not refused: whoever sends
// gets no answer, as when a cable is pulled.
type network struct {
	t testing.TB

	mu     sync.Mutex
	heard  chan struct{} // closed, and replaced, when cut changes
	cut    map[[2]string]bool
	pids   map[string]int // of the nodes, to tell who has connected
	closed bool
}

// caller is the other end of a connection: a node, which is known by its process
// when that is.
type caller struct {
	inode string // of its socket
	name  string
}

func newNetwork(t testing.TB) *network {
	return &network{t: t, heard: make(chan struct{}), cut: map[[2]string]bool{}, pids: map[string]int{}}
}

// to listens for the node of that name and carries to target what comes, until
// the test ends. It returns the address.
func (n *network) to(name, target string) string {
	n.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	var carried sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	carried.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[from] = true
			mu.Unlock()
			carried.Go(func() {
				n.carry(from, name, target)
				mu.Lock()
				delete(open, from)
				mu.Unlock()
			})
		}
	})
	n.t.Cleanup(func() {
		l.Close()
		n.change(func() { n.closed = true })
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		carried.Wait()
	})
	return l.Addr().String()
}

// is says which process a node is now.
func (n *network) is(name string, pid int) {
	n.change(func() { n.pids[name] = pid })
}

// lose loses what these pairs send from now on, the first to the second, and
// nothing else. What is held up comes when it is lost no more.
func (n *network) lose(pairs ...[2]string) {
	n.change(func() {
		clear(n.cut)
		for _, p := range pairs {
			n.cut[p] = true
		}
	})
}

// apart is everything between one and the others, both ways.
func apart(one string, others ...string) (pairs [][2]string) {
	for _, other := range others {
		pairs = append(pairs, [2]string{one, other}, [2]string{other, one})
	}
	return pairs
}

func (n *network) change(what func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	what()
	close(n.heard)
	n.heard = make(chan struct{})
}

// passes waits while what goes between them, there or back, is lost; false when
// the test is over.
func (n *network) passes(who *caller, to string, back bool) bool {
	for {
		n.mu.Lock()
		if who.name == "" && len(n.cut) > 0 {
			who.name = n.whose(who.inode)
		}
		pair := [2]string{who.name, to}
		if back {
			pair = [2]string{to, who.name}
		}
		cut, closed, heard := n.cut[pair], n.closed, n.heard
		n.mu.Unlock()
		if closed || !cut {
			return !closed
		}
		<-heard
	}
}

func (n *network) carry(from net.Conn, to, target string) {
	defer from.Close()
	who := &caller{inode: socketAt(from.RemoteAddr().(*net.TCPAddr).Port)}
	// With one way lost no connection comes about.
	if !n.passes(who, to, false) || !n.passes(who, to, true) {
		return
	}
	there, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer there.Close()
	var both sync.WaitGroup
	pump := func(in, out net.Conn, back bool) {
		defer in.Close()
		defer out.Close()
		buffer := make([]byte, 32<<10)
		for {
			size, err := in.Read(buffer)
			if err != nil || !n.passes(who, to, back) {
				return
			}
			if _, err := out.Write(buffer[:size]); err != nil {
				return
			}
		}
	}
	both.Go(func() { pump(from, there, false) })
	both.Go(func() { pump(there, from, true) })
	both.Wait()
}

// whose finds the node that has that socket, "" when none has.
func (n *network) whose(inode string) string {
	for name, pid := range n.pids {
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, fd := range fds {
			if at, err := os.Readlink(fd); err == nil && at == "socket:["+inode+"]" {
				return name
			}
		}
	}
	return ""
}

// socketAt is the inode of the socket that is connected from that port.
func socketAt(port int) string {
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 {
			continue
		}
		_, text, _ := strings.Cut(fields[1], ":")
		if at, err := strconv.ParseUint(text, 16, 16); err == nil && int(at) == port && fields[3] == "01" && fields[9] != "0" {
			return fields[9]
		}
	}
	return ""
}
