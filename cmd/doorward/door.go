package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// door answers at a listener from its first moment: 503 until the rooms behind it
// are ready, which may take until a majority of a cluster is there, and then what
// they answer. Who comes too early would else wait as long, and a balancer does
// not send elsewhere what is taken and not answered.
type door struct {
	*http.Server
	ready  atomic.Pointer[http.Handler]
	probes bool // it is where machines ask whether the process lives
	ended  chan error
}

// newDoor is a door with a bound on everything that a client may drag out. Headers
// have what the whole request has: a time of their own would be one more timer
// set for each request.
func newDoor(log *slog.Logger, probes bool) *door {
	d := &door{probes: probes, ended: make(chan error, 1)}
	d.Server = &http.Server{
		Handler:        d,
		ReadTimeout:    10 * time.Second,
		WriteTimeout:   30 * time.Second,
		IdleTimeout:    60 * time.Second,
		MaxHeaderBytes: 32 << 10,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return d
}

// serve answers at l until the door is shut, and leaves in ended why it was when
// nobody shut it.
func (d *door) serve(l net.Listener) {
	err := d.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	} else {
		err = fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	d.ended <- err
}

// open has h answer from now on.
func (d *door) open(h http.Handler) { d.ready.Store(&h) }

// ServeHTTP implements http.Handler.
func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := d.ready.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	switch {
	case d.probes && r.URL.Path == "/livez":
		fmt.Fprintln(w, "ok")
	case d.probes && r.URL.Path == "/readyz":
		http.Error(w, "unavailable", http.StatusServiceUnavailable)
	default:
		id := rand.Text()
		h.Set("Content-Type", "application/problem+json")
		h.Set("Retry-After", "1")
		h.Set("X-Request-Id", id)
		w.WriteHeader(http.StatusServiceUnavailable)
		json.NewEncoder(w).Encode(map[string]any{ // a client that has gone needs none
			"type": "about:blank", "title": "Service Unavailable", "status": http.StatusServiceUnavailable,
			"code": "unavailable", "detail": "This node is starting. Try again, or another one.", "request_id": id,
		})
	}
}
