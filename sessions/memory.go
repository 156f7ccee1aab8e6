package sessions

import (
	"context"
	"errors"
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
	epochs   map[epochName]int64

	log     []Change      // the latest changes, oldest first
	trimmed int64         // the revision up to which log has forgotten
	moved   chan struct{} // closed, and replaced, when log grows or progress is asked for
}

// memoryLog is how many changes are kept for watches; who is further behind
// must load again.
const memoryLog = 4096

// memoryTenant is what one tenant has.
type memoryTenant struct {
	records    map[Digest]Session
	index      map[Filter]map[ID]Digest // one entry under each filter that matches
	challenges map[Digest]Challenge
}

// NewMemory returns an empty Memory.
func NewMemory() *Memory {
	return &Memory{tenants: map[string]*memoryTenant{}, epochs: map[epochName]int64{}, moved: make(chan struct{})}
}

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

// lock begins a call, or says that its time is over.
func (m *Memory) lock(ctx context.Context) error {
	m.mu.Lock()
	if ctx.Err() != nil {
		m.mu.Unlock()
		return errors.Join(ErrUnavailable, ctx.Err())
	}
	return nil
}

// filters are the index entries of a session.
func filters(s Session) []Filter {
	return []Filter{{}, {Subject: s.Subject}, {Digest: s.Verifier.Digest}}
}

// put writes a record at the current revision. A record that is not superseded
// is what its index entries point to.
func (m *Memory) put(d Digest, s Session) {
	t := m.tenant(s.Tenant)
	s.Revision = m.revision
	t.records[d] = s
	if !s.Superseded() {
		for _, f := range filters(s) {
			if t.index[f] == nil {
				t.index[f] = map[ID]Digest{}
			}
			t.index[f][s.ID] = d
		}
	}
	m.note(Change{Kind: Put, Digest: d, Session: func() (Session, error) { return s, nil }})
}

// drop removes a record, the index entries that point to it, and what rotations
// left of its first token.
func (m *Memory) drop(t *memoryTenant, d Digest) {
	s, found := t.records[d]
	if !found {
		return
	}
	delete(t.records, d)
	for _, f := range filters(s) {
		if t.index[f][s.ID] == d {
			delete(t.index[f], s.ID)
		}
		if len(t.index[f]) == 0 {
			delete(t.index, f)
		}
	}
	m.note(Change{Kind: Deleted, Digest: d})
	if first := s.ID.First(); first != d && !s.Superseded() {
		m.drop(t, first)
	}
}

// note logs a change at the current revision.
func (m *Memory) note(c Change) {
	c.Revision = m.revision
	m.log = append(m.log, c)
	if len(m.log) > 2*memoryLog {
		m.trimmed = m.log[memoryLog].Revision // what is left of that revision is not looked at any more
		m.log = slices.Clone(m.log[memoryLog:])
	}
	m.wake()
}

// wake lets every watch look again.
func (m *Memory) wake() {
	close(m.moved)
	m.moved = make(chan struct{})
}

// current finds the record under which the session of d is now.
func (t *memoryTenant) current(d Digest) (Digest, bool) {
	s, ok := t.records[d]
	if !ok || !s.Superseded() {
		return d, ok
	}
	d, ok = t.index[Filter{}][s.ID]
	return d, ok
}

// sweep drops a few dead records it happens on. Each create meets two, so the
// dead never outnumber the living for long. A superseded one stays as long as
// its session might: it is how a stolen token is noticed.
func (m *Memory) sweep(t *memoryTenant, now time.Time) {
	met := 0
	for d, s := range t.records {
		if !now.Before(s.ExpiresAt) || !s.Superseded() && !s.Live(now) {
			m.drop(t, d)
		}
		if met++; met == 2 {
			return
		}
	}
}

// Create implements Store.
func (m *Memory) Create(ctx context.Context, c Creation) (int64, error) {
	if err := m.lock(ctx); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	t := m.tenant(c.Session.Tenant)
	if c.Challenge != nil {
		d := c.Challenge.Digest(c.Session.Tenant)
		if _, ok := t.challenges[d]; !ok {
			return 0, ErrNotFound
		}
		delete(t.challenges, d)
	}
	m.revision++
	if c.Replaces != nil {
		if d, ok := t.current(*c.Replaces); ok {
			m.drop(t, d)
		}
	}
	m.sweep(t, time.Now())
	c.Session.Born = m.revision
	if again, ok := t.records[c.Digest]; ok { // a second try
		c.Session.Born = again.Born
		m.drop(t, c.Digest)
	}
	m.put(c.Digest, c.Session)
	return m.revision, nil
}

// Find implements Store.
func (m *Memory) Find(ctx context.Context, tenant string, d Digest) (Session, error) {
	if err := m.lock(ctx); err != nil {
		return Session{}, err
	}
	defer m.mu.Unlock()
	if t := m.tenants[tenant]; t != nil {
		if s, ok := t.records[d]; ok {
			return s, nil
		}
	}
	return Session{}, ErrNotFound
}

// FindID implements Store.
func (m *Memory) FindID(ctx context.Context, tenant string, id ID) (Session, error) {
	if err := m.lock(ctx); err != nil {
		return Session{}, err
	}
	defer m.mu.Unlock()
	if t := m.tenants[tenant]; t != nil {
		if d, ok := t.index[Filter{}][id]; ok {
			return t.records[d], nil
		}
	}
	return Session{}, ErrNotFound
}

// Touch implements Store.
func (m *Memory) Touch(ctx context.Context, d Digest, s Session) (int64, error) {
	if err := m.lock(ctx); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	if now, ok := m.tenant(s.Tenant).records[d]; !ok || now.Revision != s.Revision {
		return 0, ErrNotFound
	}
	m.revision++
	m.put(d, s)
	return m.revision, nil
}

// Rotate implements Store.
func (m *Memory) Rotate(ctx context.Context, r Rotation) (int64, error) {
	if err := m.lock(ctx); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	if now, ok := m.tenant(r.Was.Tenant).records[r.Old]; !ok || now.Revision != r.Was.Revision {
		return 0, ErrNotFound
	}
	m.revision++
	r.Next.Born = m.revision
	m.put(r.Old, r.Was)
	m.put(r.New, r.Next)
	return m.revision, nil
}

// Delete implements Store.
func (m *Memory) Delete(ctx context.Context, tenant string, d Digest) (int64, bool, error) {
	if err := m.lock(ctx); err != nil {
		return 0, false, err
	}
	defer m.mu.Unlock()
	t := m.tenant(tenant)
	d, found := t.current(d)
	if !found {
		return m.revision, false, nil
	}
	m.revision++
	m.drop(t, d)
	return m.revision, true, nil
}

// DeleteID implements Store.
func (m *Memory) DeleteID(ctx context.Context, tenant string, id ID) (int64, bool, error) {
	if err := m.lock(ctx); err != nil {
		return 0, false, err
	}
	defer m.mu.Unlock()
	t := m.tenant(tenant)
	d, found := t.index[Filter{}][id]
	if !found {
		return m.revision, false, nil
	}
	m.revision++
	m.drop(t, d)
	return m.revision, true, nil
}

// List implements Store.
func (m *Memory) List(ctx context.Context, tenant string, f Filter, after ID, limit int) (list []Session, next ID, err error) {
	if err := m.lock(ctx); err != nil {
		return nil, "", err
	}
	defer m.mu.Unlock()
	t := m.tenant(tenant)
	for _, id := range t.after(f, after) {
		if len(list) == limit {
			return list, list[limit-1].ID, nil
		}
		list = append(list, t.records[t.index[f][id]])
	}
	return list, "", nil
}

// after are the IDs of the sessions that match f and come after that one.
func (t *memoryTenant) after(f Filter, after ID) []ID {
	ids := slices.Sorted(maps.Keys(t.index[f]))
	from, found := slices.BinarySearch(ids, after)
	if found {
		from++
	}
	return ids[from:]
}

// Count implements Store.
func (m *Memory) Count(ctx context.Context, tenant string, f Filter) (int, error) {
	if err := m.lock(ctx); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	return len(m.tenant(tenant).index[f]), nil
}

// DeleteAll implements Store.
func (m *Memory) DeleteAll(ctx context.Context, tenant string, f Filter, except, after ID, limit int) (r Removal, err error) {
	if err := m.lock(ctx); err != nil {
		return r, err
	}
	defer m.mu.Unlock()
	t := m.tenant(tenant)
	for _, id := range t.after(f, after) {
		if id == except {
			continue
		}
		if r.N == limit {
			return r, nil
		}
		m.revision++
		m.drop(t, t.index[f][id])
		r.N, r.Next, r.Revision = r.N+1, id, m.revision
	}
	r.Next = ""
	return r, nil
}

// BumpEpoch implements Store. Watches learn of the epoch alone, as they do from
// etcd, though here the records go at once.
func (m *Memory) BumpEpoch(ctx context.Context, tenant string, f Filter) (int64, error) {
	if err := m.lock(ctx); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	m.revision++
	for uuid, t := range m.tenants {
		if tenant != "" && uuid != tenant {
			continue
		}
		maps.DeleteFunc(t.records, func(_ Digest, s Session) bool { return f.Digest == "" || s.Verifier.Digest == f.Digest })
		for by, list := range t.index {
			maps.DeleteFunc(list, func(_ ID, d Digest) bool { _, ok := t.records[d]; return !ok })
			if len(list) == 0 {
				delete(t.index, by)
			}
		}
	}
	m.epochs[epochName{tenant, f.Digest}] = m.revision
	m.note(Change{Kind: Epoch, Tenant: tenant, Verifier: f.Digest})
	return m.revision, nil
}

// RemoveTenant implements Store.
func (m *Memory) RemoveTenant(ctx context.Context, tenant string) error {
	if err := m.lock(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	m.revision++
	for d := range m.tenant(tenant).records {
		m.note(Change{Kind: Deleted, Digest: d})
	}
	delete(m.tenants, tenant)
	return nil
}

// Revision implements Store.
func (m *Memory) Revision(ctx context.Context) (int64, error) {
	if err := m.lock(ctx); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	return m.revision, nil
}

// Load implements Store.
func (m *Memory) Load(ctx context.Context, records bool, apply func(Change)) (int64, error) {
	if err := m.lock(ctx); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	for name, revision := range m.epochs {
		apply(Change{Kind: Epoch, Revision: revision, Tenant: name.tenant, Verifier: name.verifier})
	}
	if records {
		for _, t := range m.tenants {
			for d, s := range t.records {
				apply(Change{Kind: Put, Revision: s.Revision, Digest: d, Session: func() (Session, error) { return s, nil }})
			}
		}
	}
	return m.revision, nil
}

// errTrimmed: a watch asked for changes that are no longer kept.
var errTrimmed = errors.New("changes since that revision are no longer kept")

// Watch implements Store.
func (m *Memory) Watch(ctx context.Context, revision int64, apply func([]Change, int64)) error {
	for {
		m.mu.Lock()
		if revision < m.trimmed {
			m.mu.Unlock()
			return errTrimmed
		}
		from := len(m.log)
		for from > 0 && m.log[from-1].Revision > revision {
			from--
		}
		changes, reached, moved := slices.Clone(m.log[from:]), m.revision, m.moved
		m.mu.Unlock()
		apply(changes, reached)
		revision = reached
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Progress implements Store.
func (m *Memory) Progress(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wake()
	return ctx.Err()
}

// PutChallenge implements Challenges.
func (m *Memory) PutChallenge(ctx context.Context, id ChallengeID, c Challenge) error {
	if err := m.lock(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
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
	if err := m.lock(ctx); err != nil {
		return Challenge{}, err
	}
	defer m.mu.Unlock()
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
	if err := m.lock(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	delete(m.tenant(tenant).challenges, id.Digest(tenant))
	return nil
}
