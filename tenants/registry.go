package tenants

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// RegistryConfig says what a Registry knows besides its source.
type RegistryConfig struct {
	PublicHost string       // the shared host, normalised; no tenant may have it as its own
	Log        *slog.Logger // nil discards
}

// Registry answers whose door it is from memory. Run keeps it in step with its
// source; until the first load it knows nobody.
type Registry struct {
	source Source
	cfg    RegistryConfig
	now    atomic.Pointer[snapshot]

	mu    sync.Mutex
	moved chan struct{} // closed, and replaced, whenever now is
}

// snapshot is one moment. It is never written after it is published.
type snapshot struct {
	loaded   bool
	revision int64
	byUUID   map[string]Tenant // all, also those being deleted
	byID     map[string]string // uuid of those that can be found
	byHost   map[string]string
	ids      []string // sorted
	keys     map[[32]byte]Key
}

// NewRegistry returns a Registry over source. Start Run to fill it.
func NewRegistry(source Source, cfg RegistryConfig) *Registry {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Registry{source: source, cfg: cfg, moved: make(chan struct{})}
	r.now.Store(build(Contents{}))
	return r
}

// Run loads the source and follows it until ctx ends, and returns ctx's error.
// When the watch is lost it loads again, after a short, growing pause; until
// then the last snapshot stands.
func (r *Registry) Run(ctx context.Context) error {
	const first, last = 50 * time.Millisecond, 5 * time.Second
	for pause := first; ; pause = min(2*pause, last) {
		began := time.Now()
		err := r.follow(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(began) > time.Minute {
			pause = first
		}
		r.cfg.Log.Warn("tenant registry lost its source; loading again", "err", err, "in", pause)
		select {
		case <-time.After(pause + rand.N(pause)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *Registry) follow(ctx context.Context) error {
	contents, err := r.source.Load(ctx)
	if err != nil {
		return err
	}
	s := build(contents)
	s.loaded = true
	r.publish(s)
	return r.source.Watch(ctx, contents.Revision, func(c Change) {
		r.publish(r.now.Load().apply(c))
	})
}

func (r *Registry) publish(s *snapshot) {
	r.now.Store(s)
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.moved)
	r.moved = make(chan struct{})
}

// WaitReady waits for the first load.
func (r *Registry) WaitReady(ctx context.Context) error {
	return r.wait(ctx, func(s *snapshot) bool { return s.loaded })
}

// WaitFor waits until the registry has seen everything up to revision, so that
// who wrote may read what it wrote. ErrUnavailable when ctx ends first.
func (r *Registry) WaitFor(ctx context.Context, revision int64) error {
	return r.wait(ctx, func(s *snapshot) bool { return s.revision >= revision })
}

// WaitPast waits until the tenant is not at that revision any more, so that who
// met ErrChanged may see the change. ErrUnavailable when ctx ends first.
func (r *Registry) WaitPast(ctx context.Context, uuid string, revision int64) error {
	return r.wait(ctx, func(s *snapshot) bool { return s.byUUID[uuid].Revision != revision })
}

func (r *Registry) wait(ctx context.Context, there func(*snapshot) bool) error {
	for {
		r.mu.Lock()
		moved := r.moved
		r.mu.Unlock()
		if there(r.now.Load()) {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return errors.Join(ErrUnavailable, ctx.Err())
		}
	}
}

// ByID finds the tenant with that id. One being deleted is not found.
func (r *Registry) ByID(id string) (Tenant, bool) {
	s := r.now.Load()
	t, ok := s.byUUID[s.byID[id]]
	return t, ok
}

// ByHost finds the tenant with that normalised host.
func (r *Registry) ByHost(host string) (Tenant, bool) {
	s := r.now.Load()
	t, ok := s.byUUID[s.byHost[host]]
	return t, ok
}

// List returns up to limit tenants in order of their ids, after the given id,
// and the id to go on from, "" at the end.
func (r *Registry) List(after string, limit int) (list []Tenant, next string) {
	s := r.now.Load()
	from, found := slices.BinarySearch(s.ids, after)
	if found {
		from++
	}
	to := min(from+limit, len(s.ids))
	for _, id := range s.ids[from:to] {
		list = append(list, s.byUUID[s.byID[id]])
	}
	if to < len(s.ids) {
		next = s.ids[to-1]
	}
	return list, next
}

// Deleting lists the tenants whose delete has begun and not ended.
func (r *Registry) Deleting() []Tenant {
	var list []Tenant
	for _, t := range r.now.Load().byUUID {
		if t.State == Deleting {
			list = append(list, t)
		}
	}
	slices.SortFunc(list, func(a, b Tenant) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// FindKey finds the administration key with that secret, unless it has
// expired.
func (r *Registry) FindKey(secret KeySecret) (Key, bool) {
	k, ok := r.now.Load().keys[secret.Digest()]
	if !ok || !k.ExpiresAt.IsZero() && !time.Now().Before(k.ExpiresAt) {
		return Key{}, false
	}
	return k, true
}

// New makes a tenant ready for Source.Create: checked, active, under a fresh
// UUID. *Invalid when it cannot be.
func (r *Registry) New(t Tenant) (Tenant, error) {
	t, err := r.Check(t)
	if err != nil {
		return Tenant{}, err
	}
	t.UUID, t.State = newUUID(), Active
	t.CreatedAt = time.Now().UTC()
	t.UpdatedAt = t.CreatedAt
	return t, nil
}

// Check normalises a tenant and fills what was left out, or says with *Invalid
// what of it cannot be.
func (r *Registry) Check(t Tenant) (Tenant, error) { return check(t, r.cfg.PublicHost) }

func build(c Contents) *snapshot {
	s := &snapshot{
		revision: c.Revision,
		byUUID:   make(map[string]Tenant, len(c.Tenants)),
		byID:     make(map[string]string, len(c.Tenants)),
		byHost:   map[string]string{},
		keys:     make(map[[32]byte]Key, len(c.Keys)),
	}
	for _, t := range c.Tenants {
		s.put(t)
	}
	for _, k := range c.Keys {
		s.keys[k.Digest] = k
	}
	s.sort()
	return s
}

// apply returns the moment after c. It copies the maps, not what they hold:
// changes are rare, look-ups are not.
func (s *snapshot) apply(c Change) *snapshot {
	next := *s
	next.revision = max(s.revision, c.Revision)
	if len(c.Tenants)+len(c.Removed) > 0 {
		next.byUUID, next.byID, next.byHost = maps.Clone(s.byUUID), maps.Clone(s.byID), maps.Clone(s.byHost)
		for _, uuid := range c.Removed {
			next.drop(uuid)
		}
		for _, t := range c.Tenants {
			next.drop(t.UUID)
			next.put(t)
		}
		next.sort()
	}
	if len(c.Keys)+len(c.RemovedKeys) > 0 {
		next.keys = maps.Clone(s.keys)
		for _, id := range c.RemovedKeys {
			next.dropKey(id)
		}
		for _, k := range c.Keys { // one after the other: a key may have been replaced twice
			next.dropKey(k.ID)
			next.keys[k.Digest] = k
		}
	}
	return &next
}

func (s *snapshot) put(t Tenant) {
	s.byUUID[t.UUID] = t
	if t.State == Deleting {
		return
	}
	s.byID[t.ID] = t.UUID
	for _, host := range t.Hosts {
		s.byHost[host] = t.UUID
	}
}

func (s *snapshot) drop(uuid string) {
	old, ok := s.byUUID[uuid]
	if !ok {
		return
	}
	delete(s.byUUID, uuid)
	if s.byID[old.ID] == uuid {
		delete(s.byID, old.ID)
	}
	for _, host := range old.Hosts {
		if s.byHost[host] == uuid {
			delete(s.byHost, host)
		}
	}
}

func (s *snapshot) dropKey(id string) {
	maps.DeleteFunc(s.keys, func(_ [32]byte, k Key) bool { return k.ID == id })
}

func (s *snapshot) sort() {
	s.ids = slices.AppendSeq(make([]string, 0, len(s.byID)), maps.Keys(s.byID))
	slices.Sort(s.ids)
}
