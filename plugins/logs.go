package plugins

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/doorward/doorward/plugins/sandbox"
)

// ErrFollowed: as many read a log as it is written as may; worth another try
// when one of them has left.
var ErrFollowed = errors.New("too many follow verifiers' logs")

// LogEntry is one line of a tenant's log.
type LogEntry struct {
	// ID is one more with each line of the tenant's on one node. Lines that a node
	// kept before it was restarted have smaller ones.
	ID        int64     `json:"id"`
	Time      time.Time `json:"time"`
	Version   int       `json:"version"`
	Level     string    `json:"level"`
	Text      string    `json:"text"` // printable: what is not stands there escaped
	RequestID string    `json:"request_id,omitempty"`
}

// Bounds of the tenants' logs on one node.
const (
	keepEntries  = 200
	keepText     = 2 << 10  // bytes of an entry
	keepBytes    = 64 << 20 // of all tenants; who wrote least lately loses all
	entryBytes   = 128      // of an entry, besides its text
	maxFollowers = 64       // of all tenants
	tenantShare  = 4        // of a tenant
)

// logRings keep the last lines of each tenant. Safe for use by many goroutines.
type logRings struct {
	limit int // bytes

	mu        sync.Mutex
	rings     map[string]*logRing
	lately    *list.List // of *logRing, who wrote last in front
	bytes     int
	followers int
}

// logRing is what is kept of one tenant.
type logRing struct {
	tenant    string
	entries   []LogEntry
	born      int64 // ID of its first entry ever
	next      int64 // ID of the next
	bytes     int
	place     *list.Element
	followers int
	news      chan struct{} // closed, and replaced, at each line
	gone      bool          // with its tenant
}

func newLogRings(limit int) *logRings {
	return &logRings{limit: limit, rings: map[string]*logRing{}, lately: list.New()}
}

func (l *logRings) add(tenant string, e LogEntry) {
	e.Text = sandbox.Escape(e.Text) // a worker that was taken over sends what it likes
	if len(e.Text) > keepText {
		e.Text = strings.ToValidUTF8(e.Text[:keepText], "") + " …"
	}
	e.Time = time.Now().UTC()
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.ring(tenant)
	l.lately.MoveToFront(r.place)
	if len(r.entries) >= keepEntries {
		size := entrySize(r.entries[0])
		r.bytes, l.bytes = r.bytes-size, l.bytes-size
		r.entries = slices.Delete(r.entries, 0, 1)
	}
	e.ID = r.next
	r.next++
	r.entries = append(r.entries, e)
	r.bytes, l.bytes = r.bytes+entrySize(e), l.bytes+entrySize(e)
	close(r.news)
	r.news = make(chan struct{})
	for old := l.lately.Back(); l.bytes > l.limit && old != r.place; old = l.lately.Back() {
		l.clear(old.Value.(*logRing))
	}
}

func entrySize(e LogEntry) int { return len(e.Text) + entryBytes }

// ring is the tenant's, made when there is none. The caller holds mu.
func (l *logRings) ring(tenant string) *logRing {
	r := l.rings[tenant]
	if r == nil {
		born := time.Now().UnixMicro() // after any ID that was given out before it
		r = &logRing{tenant: tenant, born: born, next: born, news: make(chan struct{})}
		r.place = l.lately.PushFront(r)
		l.rings[tenant] = r
	}
	return r
}

// clear drops a tenant's lines. Who follows goes on with the next that come, and
// is told how many are missing. The caller holds mu.
func (l *logRings) clear(r *logRing) {
	l.bytes -= r.bytes
	r.entries, r.bytes = nil, 0
	if r.followers > 0 {
		l.lately.MoveToFront(r.place) // it has nothing more to lose
		return
	}
	l.lately.Remove(r.place)
	delete(l.rings, r.tenant)
}

func (l *logRings) of(tenant string) []LogEntry {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.rings[tenant]; r != nil {
		return append([]LogEntry{}, r.entries...)
	}
	return []LogEntry{}
}

func (l *logRings) forget(tenant string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.rings[tenant]
	if r == nil {
		return
	}
	r.gone = true
	close(r.news)
	l.bytes -= r.bytes
	l.lately.Remove(r.place)
	delete(l.rings, tenant)
}

// follow begins with the line after that ID, 0 for the oldest that is kept.
func (l *logRings) follow(tenant string, after int64) (*LogReader, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.followers >= maxFollowers {
		return nil, fmt.Errorf("%w: %d do on this node", ErrFollowed, l.followers)
	}
	r := l.ring(tenant)
	if r.followers >= tenantShare {
		return nil, fmt.Errorf("%w: %d follow this tenant's on this node", ErrFollowed, r.followers)
	}
	l.followers++
	r.followers++
	reader := &LogReader{rings: l, ring: r, next: after + 1}
	switch {
	case after == 0 && len(r.entries) > 0:
		reader.next = r.entries[0].ID
	case after == 0:
		reader.next = r.next
	case reader.next < r.born, reader.next > r.next:
		reader.next = r.born // the ID is of another time or node
	}
	return reader, nil
}

// LogReader reads a tenant's log as it is written. It buffers nothing: who reads
// too slowly misses lines, and the log costs what it costs without readers. One
// goroutine may use it.
type LogReader struct {
	rings *logRings
	ring  *logRing
	next  int64
	done  bool
}

// Read returns the lines since those that it returned last, as soon as there is
// one, and how many came before them that are not kept any more. ctx's error
// when there is none by then, io.EOF when the tenant is gone.
func (r *LogReader) Read(ctx context.Context) (lines []LogEntry, missed int64, err error) {
	for {
		lines, missed, news, err := r.take()
		if err != nil || len(lines) > 0 {
			return lines, missed, err
		}
		select {
		case <-news:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

func (r *LogReader) take() (lines []LogEntry, missed int64, news chan struct{}, err error) {
	r.rings.mu.Lock()
	defer r.rings.mu.Unlock()
	if r.ring.gone {
		return nil, 0, nil, io.EOF
	}
	kept := r.ring.entries
	if len(kept) == 0 {
		return nil, 0, r.ring.news, nil
	}
	missed = max(0, kept[0].ID-r.next)
	lines = append(lines, kept[max(0, r.next-kept[0].ID):]...)
	r.next = r.ring.next
	return lines, missed, r.ring.news, nil
}

// Close lets another one follow. Idempotent.
func (r *LogReader) Close() {
	r.rings.mu.Lock()
	defer r.rings.mu.Unlock()
	if r.done {
		return
	}
	r.done = true
	r.rings.followers--
	if r.ring.followers--; r.ring.followers == 0 && len(r.ring.entries) == 0 && !r.ring.gone {
		r.rings.clear(r.ring)
	}
}
