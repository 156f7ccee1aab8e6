package plugins

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/doorward/doorward/sdk/abi"
)

// KV keeps what verifiers remember between logins, and which one-time codes
// were used. MemoryKV and etcd.KV implement it, and plugins/kvtest examines
// them.
//
// Every operation is atomic and linearizable among all that use the same store:
// a guard stands on it. An entry is gone when its ttl is over, by the clock of
// who reads, however long the store takes to remove it. An empty value is no
// entry. A ttl is positive. Errors other than the named ones wrap ErrUnavailable.
type KV interface {
	// Get returns the value, nil when there is none.
	Get(ctx context.Context, s Slot) ([]byte, error)

	// Put sets the value; an empty one removes the entry. ErrQuota when the
	// tenant may not have one more.
	Put(ctx context.Context, s Slot, value []byte, ttl time.Duration) error

	// Incr adds by to a count in decimal text, 0 when there is none, and returns
	// the sum. An entry that is there keeps its end. ErrInvalid when the value is
	// not a count or the sum is not from 0 to 2³¹−1; ErrQuota as Put.
	Incr(ctx context.Context, s Slot, by int64, ttl time.Duration) (int64, error)

	// Swap sets the value if it is old, and reports whether it was; an empty old
	// is for no entry. ErrQuota as Put.
	Swap(ctx context.Context, s Slot, old, value []byte, ttl time.Duration) (bool, error)

	// RemoveTenant removes all entries of a tenant. Idempotent, and works when
	// the store refuses puts.
	RemoveTenant(ctx context.Context, tenant string) error
}

// Slot is where an entry is.
type Slot struct {
	Tenant    string // uuid
	Verifier  string // the manifest's name: versions of one verifier share entries
	Namespace string // granted; "" is the host's own, and outside the tenant's quota
	Key       string // any bytes
}

// Name is one text for what a slot is within its tenant: different slots have
// different names.
func (s Slot) Name() string { return fmt.Sprintf("%q/%q/%q", s.Verifier, s.Namespace, s.Key) }

// MaxEntries is how many entries of one tenant a KV keeps unless it is told
// otherwise: with values of at most abi.MaxKVValue, 10 MiB.
const MaxEntries = abi.MaxKVEntries

// Count is what Incr makes of a value; for implementations.
func Count(value []byte, by int64) (int64, error) {
	var n int64
	if len(value) > 0 {
		var err error
		if n, err = strconv.ParseInt(string(value), 10, 32); err != nil || n < 0 {
			return 0, fmt.Errorf("%w: the entry is not a count", ErrInvalid)
		}
	}
	if n += by; n < 0 || n > math.MaxInt32 {
		return 0, fmt.Errorf("%w: the count would leave 0 to %d", ErrInvalid, math.MaxInt32)
	}
	return n, nil
}

// MemoryKV is a KV for one process, and forgets when it ends. Safe for use by
// many goroutines.
type MemoryKV struct {
	limit int

	mu      sync.Mutex
	tenants map[string]*memoryEntries
}

type memoryEntries struct {
	own, host map[string]memoryEntry // by name; host holds those without a namespace
	sweepAt   int                    // how many there are when those that ended are looked for
}

type memoryEntry struct {
	value []byte
	end   time.Time
}

// NewMemoryKV returns an empty MemoryKV that keeps limit entries of each
// tenant; 0: MaxEntries.
func NewMemoryKV(limit int) *MemoryKV {
	if limit == 0 {
		limit = MaxEntries
	}
	return &MemoryKV{limit: limit, tenants: map[string]*memoryEntries{}}
}

// Get implements KV.
func (m *MemoryKV) Get(_ context.Context, s Slot) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.entry(s).value), nil
}

// Put implements KV.
func (m *MemoryKV) Put(_ context.Context, s Slot, value []byte, ttl time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.set(s, value, time.Now().Add(ttl))
}

// Incr implements KV.
func (m *MemoryKV) Incr(_ context.Context, s Slot, by int64, ttl time.Duration) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entry(s)
	n, err := Count(e.value, by)
	if err != nil {
		return 0, err
	}
	if e.value == nil {
		e.end = time.Now().Add(ttl)
	}
	return n, m.set(s, strconv.AppendInt(nil, n, 10), e.end)
}

// Swap implements KV.
func (m *MemoryKV) Swap(_ context.Context, s Slot, old, value []byte, ttl time.Duration) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !bytes.Equal(m.entry(s).value, old) {
		return false, nil
	}
	if err := m.set(s, value, time.Now().Add(ttl)); err != nil {
		return false, err
	}
	return true, nil
}

// RemoveTenant implements KV.
func (m *MemoryKV) RemoveTenant(_ context.Context, tenant string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.tenants, tenant)
	return nil
}

// space is the map that a slot is in. The caller holds mu.
func (m *MemoryKV) space(s Slot) (*memoryEntries, map[string]memoryEntry) {
	t := m.tenants[s.Tenant]
	if t == nil {
		t = &memoryEntries{own: map[string]memoryEntry{}, host: map[string]memoryEntry{}, sweepAt: 64}
		m.tenants[s.Tenant] = t
	}
	if s.Namespace == "" {
		return t, t.host
	}
	return t, t.own
}

// entry is the one at s, the zero one when it has ended. The caller holds mu.
func (m *MemoryKV) entry(s Slot) memoryEntry {
	_, space := m.space(s)
	e := space[s.Name()]
	if !time.Now().Before(e.end) {
		return memoryEntry{}
	}
	return e
}

// set puts a value at s. The caller holds mu.
func (m *MemoryKV) set(s Slot, value []byte, end time.Time) error {
	t, space := m.space(s)
	name := s.Name()
	if len(value) == 0 {
		delete(space, name)
		return nil
	}
	if _, there := space[name]; !there {
		if len(t.own)+len(t.host) >= t.sweepAt || s.Namespace != "" && len(t.own) >= m.limit {
			t.sweep()
		}
		if s.Namespace != "" && len(t.own) >= m.limit {
			return fmt.Errorf("%w: the tenant's verifiers keep %d entries", ErrQuota, len(t.own))
		}
	}
	space[name] = memoryEntry{bytes.Clone(value), end}
	return nil
}

// sweep removes what has ended.
func (t *memoryEntries) sweep() {
	now := time.Now()
	for _, space := range []map[string]memoryEntry{t.own, t.host} {
		for name, e := range space {
			if !now.Before(e.end) {
				delete(space, name)
			}
		}
	}
	t.sweepAt = max(64, 2*(len(t.own)+len(t.host)))
}
