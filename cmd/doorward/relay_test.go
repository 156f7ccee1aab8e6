package main

import (
	"bytes"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// fault is what a relay does to what it carries.
type fault int

const (
	healthy  fault = iota
	deaf           // nothing that etcd sends on a watch arrives; all else does
	mute           // nothing that etcd sends arrives, and no connection is closed
	severed        // every connection is closed, and none is taken
	halfMute       // mute, but for connections that are made from now on
)

// relay stands between a node and its etcd as a bad network does. It knows
// HTTP/2, so that it can lose a watch and carry the calls beside it, which one
// connection has all.
type relay struct {
	address         string // for clients
	network, target string // of etcd

	mu    sync.Mutex
	fault fault
	lines map[*line]bool
}

// line is one connection of a client, with etcd's end of it.
type line struct {
	relay        *relay
	client, etcd net.Conn

	mu      sync.Mutex
	muted   bool
	watches map[uint32]bool // streams that are watches
}

// newRelay carries connections to an etcd at unix:///path or http://host:port
// until the test ends.
func newRelay(t *testing.T, endpoint string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{address: "http://" + l.Addr().String(), lines: map[*line]bool{}}
	r.network, r.target = "tcp", strings.TrimPrefix(endpoint, "http://")
	if path, ok := strings.CutPrefix(endpoint, "unix://"); ok {
		r.network, r.target = "unix", path
	}
	var carried sync.WaitGroup
	carried.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			carried.Go(func() { r.carry(client) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		r.set(severed)
		carried.Wait()
	})
	return r
}

// set changes what the relay does from now on.
func (r *relay) set(f fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = f
	for l := range r.lines {
		l.mu.Lock()
		l.muted = f == mute || f == halfMute
		l.mu.Unlock()
		if f == severed {
			l.client.Close()
			l.etcd.Close()
		}
	}
}

func (r *relay) is(f fault) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fault == f
}

// carry is one connection's life.
func (r *relay) carry(client net.Conn) {
	defer client.Close()
	etcd, err := net.Dial(r.network, r.target)
	if err != nil {
		return
	}
	defer etcd.Close()
	l := &line{relay: r, client: client, etcd: etcd, watches: map[uint32]bool{}}
	r.mu.Lock()
	if r.fault == severed {
		r.mu.Unlock()
		return
	}
	l.muted = r.fault == mute
	r.lines[l] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.lines, l)
	}()
	var both sync.WaitGroup
	both.Go(func() {
		defer etcd.Close()
		l.requests()
	})
	both.Go(func() {
		defer client.Close()
		l.answers()
	})
	both.Wait()
}

// requests carries what the client sends, and notes which streams are watches.
func (l *line) requests() {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(l.client, preface); err != nil {
		return
	}
	if _, err := l.etcd.Write(preface); err != nil {
		return
	}
	var raw bytes.Buffer
	frames := http2.NewFramer(nil, io.TeeReader(l.client, &raw))
	frames.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := frames.ReadFrame()
		if err != nil {
			return
		}
		if headers, ok := frame.(*http2.MetaHeadersFrame); ok && strings.HasSuffix(headers.PseudoValue("path"), "/Watch") {
			l.mu.Lock()
			l.watches[headers.StreamID] = true
			l.mu.Unlock()
		}
		if _, err := l.etcd.Write(raw.Bytes()); err != nil {
			return
		}
		raw.Reset()
	}
}

// answers carries what etcd sends, or loses it.
func (l *line) answers() {
	var raw bytes.Buffer
	frames := http2.NewFramer(nil, io.TeeReader(l.etcd, &raw))
	for {
		frame, err := frames.ReadFrame()
		if err != nil {
			return
		}
		_, data := frame.(*http2.DataFrame)
		isDeaf := data && l.relay.is(deaf)
		l.mu.Lock()
		lost := l.muted || isDeaf && l.watches[frame.Header().StreamID]
		l.mu.Unlock()
		if !lost {
			if _, err := l.client.Write(raw.Bytes()); err != nil {
				return
			}
		}
		raw.Reset()
	}
}
