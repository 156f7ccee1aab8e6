package tenants

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
)

// Memory is a Source in this process, for tests and for reading how a Source
// behaves. Make one with NewMemory.
type Memory struct {
	mu       sync.Mutex
	revision int64
	tenants  map[string]Tenant
	keys     map[string]Key
	config   map[string]json.RawMessage
	secrets  map[string]map[string]Secret
	log      []Change // every change, for watches that begin in the past
	grown    chan struct{}
}

// NewMemory returns an empty Memory.
func NewMemory() *Memory {
	return &Memory{
		tenants: map[string]Tenant{}, keys: map[string]Key{},
		config: map[string]json.RawMessage{}, secrets: map[string]map[string]Secret{},
		grown: make(chan struct{}),
	}
}

// commit notes a change under the next revision. The caller holds mu.
func (m *Memory) commit(c Change) int64 {
	m.revision++
	c.Revision = m.revision
	for i := range c.Tenants {
		c.Tenants[i].Revision = m.revision
	}
	m.log = append(m.log, c)
	close(m.grown)
	m.grown = make(chan struct{})
	return m.revision
}

// taken reports whether another tenant has a host of t. The caller holds mu.
func (m *Memory) taken(t Tenant) bool {
	for _, other := range m.tenants {
		if other.UUID != t.UUID && slices.ContainsFunc(other.Hosts, func(h string) bool { return slices.Contains(t.Hosts, h) }) {
			return true
		}
	}
	return false
}

// Create implements Source.
func (m *Memory) Create(ctx context.Context, t Tenant) (Tenant, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return Tenant{}, ErrUnavailable
	}
	for _, other := range m.tenants {
		if other.ID == t.ID {
			return Tenant{}, ErrExists
		}
	}
	if m.taken(t) {
		return Tenant{}, ErrHostTaken
	}
	t.Revision = m.commit(Change{Tenants: []Tenant{t}})
	m.tenants[t.UUID] = t
	return t, nil
}

// Update implements Source.
func (m *Memory) Update(ctx context.Context, t Tenant) (Tenant, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return Tenant{}, ErrUnavailable
	}
	if old, ok := m.tenants[t.UUID]; !ok || old.Revision != t.Revision {
		return Tenant{}, ErrChanged
	}
	if m.taken(t) {
		return Tenant{}, ErrHostTaken
	}
	t.Revision = m.commit(Change{Tenants: []Tenant{t}})
	m.tenants[t.UUID] = t
	return t, nil
}

// Remove implements Source.
func (m *Memory) Remove(ctx context.Context, uuid string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return ErrUnavailable
	}
	delete(m.config, uuid)
	delete(m.secrets, uuid)
	if _, ok := m.tenants[uuid]; ok {
		delete(m.tenants, uuid)
		m.commit(Change{Removed: []string{uuid}})
	}
	return nil
}

// Load implements Source.
func (m *Memory) Load(ctx context.Context) (Contents, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return Contents{}, ErrUnavailable
	}
	return Contents{
		Tenants:  slices.Collect(maps.Values(m.tenants)),
		Keys:     slices.Collect(maps.Values(m.keys)),
		Revision: m.revision,
	}, nil
}

// Watch implements Source.
func (m *Memory) Watch(ctx context.Context, revision int64, apply func(Change)) error {
	for {
		m.mu.Lock()
		grown := m.grown
		from, _ := slices.BinarySearchFunc(m.log, revision+1, func(c Change, r int64) int { return int(c.Revision - r) })
		news := slices.Clone(m.log[from:])
		m.mu.Unlock()
		for _, c := range news {
			apply(c)
			revision = c.Revision
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Config implements Source.
func (m *Memory) Config(ctx context.Context, uuid string) (json.RawMessage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return nil, ErrUnavailable
	}
	if object, ok := m.config[uuid]; ok {
		return bytes.Clone(object), nil
	}
	return json.RawMessage("{}"), nil
}

// PutConfig implements Source.
func (m *Memory) PutConfig(ctx context.Context, uuid string, object json.RawMessage) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return ErrUnavailable
	}
	if _, ok := m.tenants[uuid]; !ok {
		return ErrNotFound
	}
	m.config[uuid] = bytes.Clone(object)
	return nil
}

// SecretNames implements Source.
func (m *Memory) SecretNames(ctx context.Context, uuid string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return nil, ErrUnavailable
	}
	return slices.Sorted(maps.Keys(m.secrets[uuid])), nil
}

// Secret implements Source.
func (m *Memory) Secret(ctx context.Context, uuid, name string) (Secret, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return nil, ErrUnavailable
	}
	value, ok := m.secrets[uuid][name]
	if !ok {
		return nil, ErrNotFound
	}
	return bytes.Clone(value), nil
}

// PutSecret implements Source.
func (m *Memory) PutSecret(ctx context.Context, uuid, name string, value Secret) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return ErrUnavailable
	}
	if _, ok := m.tenants[uuid]; !ok {
		return ErrNotFound
	}
	if err := CheckSecretCount(slices.Collect(maps.Keys(m.secrets[uuid])), name); err != nil {
		return err
	}
	if m.secrets[uuid] == nil {
		m.secrets[uuid] = map[string]Secret{}
	}
	m.secrets[uuid][name] = bytes.Clone(value)
	return nil
}

// DeleteSecret implements Source.
func (m *Memory) DeleteSecret(ctx context.Context, uuid, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return ErrUnavailable
	}
	delete(m.secrets[uuid], name)
	return nil
}

// RotateKeys implements Source. Only the revision grows: nothing is sealed here.
func (m *Memory) RotateKeys(ctx context.Context, uuid string) (Tenant, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return Tenant{}, ErrUnavailable
	}
	t, ok := m.tenants[uuid]
	if !ok || t.State == Deleting {
		return Tenant{}, ErrNotFound
	}
	t.Revision = m.commit(Change{Tenants: []Tenant{t}})
	m.tenants[uuid] = t
	return t, nil
}

// PutKey implements Source.
func (m *Memory) PutKey(ctx context.Context, k Key) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return ErrUnavailable
	}
	m.keys[k.ID] = k
	m.commit(Change{Keys: []Key{k}})
	return nil
}

// DeleteKey implements Source.
func (m *Memory) DeleteKey(ctx context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return ErrUnavailable
	}
	delete(m.keys, id)
	m.commit(Change{RemovedKeys: []string{id}})
	return nil
}
