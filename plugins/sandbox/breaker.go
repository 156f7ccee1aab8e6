package sandbox

import (
	"fmt"
	"sync"
	"time"
)

// When a version of a tenant's is not run any more. Both are a node's own
// memory, never written: a restart or their time lifts them.
const (
	deathsToQuarantine = 3
	deathWindow        = 5 * time.Minute
	quarantineTime     = 10 * time.Minute
	overrunsToOpen     = 5 // wall limits in a row
	openTime           = 10 * time.Second
	maxRecords         = 10_000
)

// breakers remember which modules of which tenants kill workers or overrun
// their wall limit. Safe for use by many goroutines.
type breakers struct {
	mu          sync.Mutex
	records     map[string]*record // by tenant and digest; only those that fail
	quarantines int64
	opened      int64
	refused     int64
}

// record is what one module did lately.
type record struct {
	deaths      []time.Time
	quarantined time.Time // until then
	overruns    int       // in a row
	open        time.Time // until then; afterwards one call probes
	probing     bool
	seen        time.Time
}

func newBreakers() *breakers { return &breakers{records: map[string]*record{}} }

func recordOf(c Call) string { return c.Tenant + "/" + c.Digest }

// allow refuses a call of a module that is quarantined (ErrQuarantined) or whose
// breaker is open (ErrBusy). Whoever is let in must call note. probe is true for
// the one call that an open breaker lets through after its time.
func (b *breakers) allow(c Call) (probe bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.records[recordOf(c)]
	if r == nil {
		return false, nil
	}
	now := time.Now()
	if left := r.quarantined.Sub(now); left > 0 {
		b.refused++
		return false, fmt.Errorf("%w: it ended %d workers within %v; it is tried again in %v; activate another version, or lift the quarantine", ErrQuarantined, deathsToQuarantine, deathWindow, left.Round(time.Second))
	}
	if r.overruns < overrunsToOpen {
		return false, nil
	}
	if left := r.open.Sub(now); left > 0 || r.probing {
		b.refused++
		return false, fmt.Errorf("%w: it overran its wall limit %d times in a row; it is tried again within %v", ErrBusy, r.overruns, openTime)
	}
	r.probing = true
	return true, nil
}

// ending is how a call that was let in ended.
type ending int

const (
	endedWell ending = iota // with an answer, or a trap or fuel limit that its worker survived
	endedNot                // never begun: no worker was free
	overran
	died
)

// note counts how a call ended, and tells when that quarantines its module or
// opens its breaker.
func (b *breakers) note(c Call, probe bool, e ending) (quarantined, opened bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.records[recordOf(c)]
	if probe && r != nil {
		r.probing = false
	}
	if e == endedNot {
		return false, false
	}
	now := time.Now()
	if e == endedWell {
		if r != nil {
			r.overruns = 0
			if b.stale(r, now) {
				delete(b.records, recordOf(c))
			}
		}
		return false, false
	}
	if r == nil {
		b.sweep(now)
		r = &record{}
		b.records[recordOf(c)] = r
	}
	r.seen = now
	if e == overran {
		if r.overruns++; r.overruns == overrunsToOpen || probe && r.overruns > overrunsToOpen {
			r.open = now.Add(openTime)
			b.opened++
			return false, true
		}
		return false, false
	}
	recent := r.deaths[:0]
	for _, at := range r.deaths {
		if now.Sub(at) < deathWindow {
			recent = append(recent, at)
		}
	}
	r.deaths = append(recent, now)
	if len(r.deaths) < deathsToQuarantine {
		return false, false
	}
	r.deaths, r.quarantined = nil, now.Add(quarantineTime)
	b.quarantines++
	return true, false
}

// stale: nothing in a record matters any more.
func (b *breakers) stale(r *record, now time.Time) bool {
	return !r.probing && now.After(r.quarantined) && (len(r.deaths) == 0 || now.Sub(r.deaths[len(r.deaths)-1]) >= deathWindow)
}

// sweep makes room for one more record: first what is stale, then anything. The
// caller holds mu.
func (b *breakers) sweep(now time.Time) {
	if len(b.records) < maxRecords {
		return
	}
	for key, r := range b.records {
		if b.stale(r, now) && now.Sub(r.seen) > deathWindow {
			delete(b.records, key)
		}
	}
	for key := range b.records {
		if len(b.records) < maxRecords {
			return
		}
		delete(b.records, key)
	}
}

// until tells how long a module of a tenant's is quarantined, or its breaker
// open; zero times when it is not.
func (b *breakers) until(c Call) (quarantined, open time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.records[recordOf(c)]
	if r == nil {
		return time.Time{}, time.Time{}
	}
	now := time.Now()
	if r.quarantined.After(now) {
		quarantined = r.quarantined
	}
	if r.overruns >= overrunsToOpen && r.open.After(now) {
		open = r.open
	}
	return quarantined, open
}

// lift forgets what a module of a tenant's did.
func (b *breakers) lift(c Call) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.records, recordOf(c))
}
