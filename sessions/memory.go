package sessions

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// Memory keeps sessions and challenges in this process: they end with it. It
// is for tests and for mode "memory".
type Memory struct {
	mu       sync.Mutex
	revision int64
	tenants  map[string]*memoryTenant
}

// memoryTenant is what one tenant has.
type memoryTenant struct {
	records    map[Digest]Session
	index      map[Filter]map[ID]Digest // one entry under each filter that matches
	challenges map[Digest]Challenge
}

// NewMemory returns an empty Memory.
func NewMemory() *Memory { return &Memory{tenants: map[string]*memoryTenant{}} }

// tenant is what a tenant has, made when it is the first time. The caller holds
// mu.
func (m *Memory) tenant(uuid string) *memoryTenant {
	t := m.tenants[uuid]
	if t == nil {
		t = &memoryTenant{
			records:    map[Digest]Session{},
			index:      map[Filter]map[ID]Digest{},
			challenges: map[Digest]Challenge{},
		}
		m.tenants[uuid] = t
	}
	return t
}

// filters are the index entries of a session.
func filters(s Session) []Filter {
	return []Filter{{}, {Subject: s.Subject}, {Digest: s.Verifier.Digest}}
}

func (t *memoryTenant) put(d Digest, s Session) {
	t.records[d] = s
	for _, f := range filters(s) {
		if t.index[f] == nil {
			t.index[f] = map[ID]Digest{}
		}
		t.index[f][s.ID] = d
	}
}

func (t *memoryTenant) drop(d Digest) bool {
	s, found := t.records[d]
	delete(t.records, d)
	for _, f := range filters(s) {
		delete(t.index[f], s.ID)
		if len(t.index[f]) == 0 {
			delete(t.index, f)
		}
	}
	return found
}

// sweep drops a few dead records it happens on. Each create meets two, so the
// dead never outnumber the living for long.
func (t *memoryTenant) sweep(now time.Time) {
	met := 0
	for d, s := range t.records {
		if !s.Live(now) {
			t.drop(d)
		}
		if met++; met == 2 {
			return
		}
	}
}

// Create implements Store.
func (m *Memory) Create(ctx context.Context, c Creation) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return 0, ErrUnavailable
	}
	t := m.tenant(c.Session.Tenant)
	if c.Challenge != nil {
		d := c.Challenge.Digest(c.Session.Tenant)
		if _, ok := t.challenges[d]; !ok {
			return 0, ErrNotFound
		}
		delete(t.challenges, d)
	}
	if c.Replaces != nil {
		t.drop(*c.Replaces)
	}
	t.sweep(time.Now())
	m.revision++
	c.Session.Revision = m.revision
	t.put(c.Digest, c.Session)
	return m.revision, nil
}

// Find implements Store.
func (m *Memory) Find(ctx context.Context, tenant string, d Digest) (Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return Session{}, ErrUnavailable
	}
	if t := m.tenants[tenant]; t != nil {
		if s, ok := t.records[d]; ok {
			return s, nil
		}
	}
	return Session{}, ErrNotFound
}

// FindID implements Store.
func (m *Memory) FindID(ctx context.Context, tenant string, id ID) (Session, error) {
	m.mu.Lock()
	d, ok := Digest{}, false
	if t := m.tenants[tenant]; t != nil {
		d, ok = t.index[Filter{}][id]
	}
	m.mu.Unlock()
	if !ok {
		return Session{}, ErrNotFound
	}
	return m.Find(ctx, tenant, d)
}

// Touch implements Store.
func (m *Memory) Touch(ctx context.Context, d Digest, s Session) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return 0, ErrUnavailable
	}
	t := m.tenant(s.Tenant)
	now, ok := t.records[d]
	if !ok || now.Revision != s.Revision {
		return 0, ErrNotFound
	}
	m.revision++
	now.LastSeenAt, now.IdleExpiresAt, now.Revision = s.LastSeenAt, s.IdleExpiresAt, m.revision
	t.records[d] = now
	return m.revision, nil
}

// Delete implements Store.
func (m *Memory) Delete(ctx context.Context, tenant string, d Digest) (int64, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return 0, false, ErrUnavailable
	}
	if !m.tenant(tenant).drop(d) {
		return m.revision, false, nil
	}
	m.revision++
	return m.revision, true, nil
}

// DeleteID implements Store.
func (m *Memory) DeleteID(ctx context.Context, tenant string, id ID) (int64, bool, error) {
	m.mu.Lock()
	d, ok := m.tenant(tenant).index[Filter{}][id]
	revision := m.revision
	m.mu.Unlock()
	if !ok {
		return revision, false, nil
	}
	return m.Delete(ctx, tenant, d)
}

// List implements Store.
func (m *Memory) List(ctx context.Context, tenant string, f Filter, after ID, limit int) ([]Session, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return nil, false, ErrUnavailable
	}
	t := m.tenant(tenant)
	ids := slices.Sorted(maps.Keys(t.index[f]))
	from, found := slices.BinarySearch(ids, after)
	if found {
		from++
	}
	to := min(from+limit, len(ids))
	var list []Session
	for _, id := range ids[from:to] {
		list = append(list, t.records[t.index[f][id]])
	}
	return list, to < len(ids), nil
}

// DeleteAll implements Store.
func (m *Memory) DeleteAll(ctx context.Context, tenant string, f Filter, except ID, limit int) (int, bool, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return 0, true, 0, ErrUnavailable
	}
	t, n := m.tenant(tenant), 0
	for id, d := range maps.Clone(t.index[f]) {
		if id == except {
			continue
		}
		if n == limit {
			return n, true, m.revision, nil
		}
		t.drop(d)
		m.revision++
		n++
	}
	return n, false, m.revision, nil
}

// RemoveTenant implements Store.
func (m *Memory) RemoveTenant(ctx context.Context, tenant string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return ErrUnavailable
	}
	delete(m.tenants, tenant)
	return nil
}

// Revision implements Store.
func (m *Memory) Revision(ctx context.Context) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return 0, ErrUnavailable
	}
	return m.revision, nil
}

// PutChallenge implements Challenges.
func (m *Memory) PutChallenge(ctx context.Context, id ChallengeID, c Challenge) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return ErrUnavailable
	}
	t := m.tenant(c.Tenant)
	now := time.Now()
	if len(t.challenges) >= MaxChallenges {
		maps.DeleteFunc(t.challenges, func(_ Digest, old Challenge) bool { return !now.Before(old.ExpiresAt) })
	}
	if len(t.challenges) >= MaxChallenges {
		return ErrTooMany
	}
	t.challenges[id.Digest(c.Tenant)] = c
	return nil
}

// SpendAttempt implements Challenges.
func (m *Memory) SpendAttempt(ctx context.Context, tenant string, id ChallengeID) (Challenge, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return Challenge{}, ErrUnavailable
	}
	t, d := m.tenant(tenant), id.Digest(tenant)
	c, ok := t.challenges[d]
	if !ok || c.Attempts <= 0 || !time.Now().Before(c.ExpiresAt) {
		return Challenge{}, ErrNotFound
	}
	c.Attempts--
	c.Answers++
	t.challenges[d] = c
	return c, nil
}

// DropChallenge implements Challenges.
func (m *Memory) DropChallenge(ctx context.Context, tenant string, id ChallengeID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return ErrUnavailable
	}
	delete(m.tenant(tenant).challenges, id.Digest(tenant))
	return nil
}
