package sessions

import (
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

// entry is a session as a copy keeps it: a fraction of a Session's size, and
// never written after it is made, so that readers need no lock.
type entry struct {
	from *maker
	text string // subject, claims, ip and user agent, one after another
	cut  [3]uint32
	id   Digest // of its first token

	auth, created, issued, seen, idleEnd, end int64 // Unix milliseconds
	idle                                      int64 // milliseconds
	born, revision                            int64
	remember                                  bool
}

// maker is what the sessions that one verifier made at one tenant have in
// common, kept once: that, and the epochs that end them.
type maker struct {
	tenant   string
	verifier Verifier
	amr      []string
	epochs   [3]*atomic.Int64 // of everybody, of the tenant, of the verifier
}

// entrySize is what an entry takes besides its text: itself, its place in a
// table, and what the cache keeps beside it. It is an estimate on the high
// side; BenchmarkValidate in cmd/doorward measures the truth.
const entrySize = 360

// pack makes an entry of a session that is current.
func pack(s Session, from *maker) *entry {
	e := &entry{
		from: from,
		auth: s.AuthTime.UnixMilli(), created: s.CreatedAt.UnixMilli(), issued: s.IssuedAt.UnixMilli(),
		seen: s.LastSeenAt.UnixMilli(), idleEnd: s.IdleExpiresAt.UnixMilli(), end: s.ExpiresAt.UnixMilli(),
		idle: s.Idle.Milliseconds(), born: s.Born, revision: s.Revision, remember: s.Remember,
	}
	e.id = s.ID.First()
	var text strings.Builder
	text.Grow(len(s.Subject) + len(s.Claims) + len(s.Client.IP) + len(s.Client.UserAgent))
	text.WriteString(s.Subject)
	e.cut[0] = uint32(text.Len())
	text.Write(s.Claims)
	e.cut[1] = uint32(text.Len())
	text.WriteString(s.Client.IP)
	e.cut[2] = uint32(text.Len())
	text.WriteString(s.Client.UserAgent)
	e.text = text.String()
	return e
}

// session undoes pack.
func (e *entry) session() Session {
	return Session{
		ID: e.id.ID(), Tenant: e.from.tenant,
		Subject: e.text[:e.cut[0]], Claims: json.RawMessage(e.text[e.cut[0]:e.cut[1]]), AMR: e.from.amr,
		Verifier: e.from.verifier,
		Client:   Client{IP: e.text[e.cut[1]:e.cut[2]], UserAgent: e.text[e.cut[2]:]},
		AuthTime: milli(e.auth), CreatedAt: milli(e.created), IssuedAt: milli(e.issued),
		LastSeenAt: milli(e.seen), IdleExpiresAt: milli(e.idleEnd), ExpiresAt: milli(e.end),
		Idle: time.Duration(e.idle) * time.Millisecond, Remember: e.remember,
		Revision: e.revision, Born: e.born,
	}
}

func milli(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// over reports whether an epoch has ended the session.
func (e *entry) over() bool {
	for _, epoch := range e.from.epochs {
		if e.born <= epoch.Load() {
			return true
		}
	}
	return false
}

// idleEnded reports whether the session's idle time ended so short a time ago
// that a use on another node, which moved that end, may not have come here yet.
func (e *entry) idleEnded(now time.Time) bool {
	ago := now.UnixMilli() - e.idleEnd
	return e.idleEnd < e.end && ago >= 0 && ago < lateUse.Milliseconds()
}

// epochName is what an epoch ends.
type epochName struct{ tenant, verifier string }

// makers keeps what entries share, and the epochs.
type makers struct {
	mu     sync.Mutex
	epochs map[epochName]*atomic.Int64
	known  map[makerName]*maker
}

type makerName struct {
	tenant   string
	verifier Verifier
	amr      string
}

// maxMakers bounds what is shared: a verifier that answers with ever new amr
// must not fill the memory. Beyond it entries have a maker of their own.
const maxMakers = 10_000

func newMakers() *makers {
	return &makers{epochs: map[epochName]*atomic.Int64{}, known: map[makerName]*maker{}}
}

// of is the maker of s.
func (m *makers) of(s Session) *maker {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := makerName{s.Tenant, s.Verifier, strings.Join(s.AMR, "\x00")}
	if found := m.known[name]; found != nil {
		return found
	}
	made := &maker{tenant: s.Tenant, verifier: s.Verifier, amr: s.AMR, epochs: [3]*atomic.Int64{
		m.epoch(epochName{}), m.epoch(epochName{s.Tenant, ""}), m.epoch(epochName{s.Tenant, s.Verifier.Digest}),
	}}
	if len(m.known) < maxMakers {
		m.known[name] = made
	}
	return made
}

// bump puts an epoch at revision.
func (m *makers) bump(name epochName, revision int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.epoch(name)
	e.Store(max(e.Load(), revision))
}

// epoch finds or makes one. The caller holds mu.
func (m *makers) epoch(name epochName) *atomic.Int64 {
	e := m.epochs[name]
	if e == nil {
		e = &atomic.Int64{}
		m.epochs[name] = e
	}
	return e
}

// entries is where a copy keeps what it has: bounded for mode "cached", whole
// for mode "replicated".
type entries interface {
	get(d Digest) (*entry, bool)
	put(d Digest, e *entry)
	drop(d Digest)
	len() int
}

// bounded keeps recently used entries within a number of bytes.
type bounded struct{ cache *otter.Cache[Digest, *entry] }

func newBounded(bytes int64) bounded {
	return bounded{otter.Must(&otter.Options[Digest, *entry]{
		MaximumWeight: uint64(bytes),
		Weigher:       func(_ Digest, e *entry) uint32 { return uint32(entrySize + len(e.text)) },
		Executor:      func(work func()) { work() }, // its upkeep is microseconds; no goroutine that nobody owns
	})}
}

func (b bounded) get(d Digest) (*entry, bool) { return b.cache.GetIfPresent(d) }
func (b bounded) put(d Digest, e *entry)      { b.cache.Set(d, e) }
func (b bounded) drop(d Digest)               { b.cache.Invalidate(d) }
func (b bounded) len() int                    { return b.cache.EstimatedSize() }

// whole keeps every entry. It is cut into parts so that writes seldom stop
// reads.
type whole struct{ parts [64]wholePart }

type wholePart struct {
	mu      sync.RWMutex
	entries map[Digest]*entry
}

func newWhole() *whole {
	w := &whole{}
	for i := range w.parts {
		w.parts[i].entries = map[Digest]*entry{}
	}
	return w
}

func (w *whole) part(d Digest) *wholePart { return &w.parts[d[0]%64] }

func (w *whole) get(d Digest) (*entry, bool) {
	p := w.part(d)
	p.mu.RLock()
	defer p.mu.RUnlock()
	e, ok := p.entries[d]
	return e, ok
}

func (w *whole) put(d Digest, e *entry) {
	p := w.part(d)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.entries[d] = e
}

func (w *whole) drop(d Digest) {
	p := w.part(d)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.entries, d)
}

func (w *whole) len() int {
	n := 0
	for i := range w.parts {
		p := &w.parts[i]
		p.mu.RLock()
		n += len(p.entries)
		p.mu.RUnlock()
	}
	return n
}
