package tenants

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// What a change to a tenant can meet.
var (
	// ErrNotFound: no such tenant, secret or key. A tenant being deleted is
	// already not found.
	ErrNotFound = errors.New("no such tenant")

	// ErrExists: the id is taken, also by a tenant still being deleted.
	ErrExists = errors.New("tenant id is taken")

	// ErrHostTaken: another tenant has one of the hosts.
	ErrHostTaken = errors.New("host belongs to another tenant")

	// ErrChanged: the record is no longer at the revision the caller saw.
	ErrChanged = errors.New("tenant has changed meanwhile")

	// ErrUnavailable: the source did not answer in time, or refuses writes.
	ErrUnavailable = errors.New("tenant store unavailable")
)

// State is what a tenant may do.
type State string

// The states of a tenant. Deleting is never shown to a caller: such a tenant
// is not found, and its id stays taken until all that was its is gone.
const (
	Active    State = "active"
	Suspended State = "suspended"
	Deleting  State = "deleting"
)

// Tenant is one customer of this installation: whose door it is.
type Tenant struct {
	UUID          string   // random and immutable; everything stored is under it, so a re-created ID sees nothing old
	ID            string   // [a-z0-9-]{1,40}; in paths and cookie names
	Name          string   // shown to people
	Hosts         []string // normalised by NormalizeHost; unique among tenants
	Apps          []App
	Session       Policy
	WithoutQuorum string // "fail-closed" or "bounded:<seconds>"
	State         State
	CreatedAt     time.Time
	UpdatedAt     time.Time

	// Revision is the source's revision of this record; it is not stored in it.
	Revision int64
}

// App is an application that signs its users in here.
type App struct {
	ID         string   // [a-z0-9-]{1,40}, unique in the tenant
	Origin     string   // scheme://host[:port], as NormalizeOrigin gives it
	ReturnURLs []string // absolute; empty: any path of Origin
}

// Policy says how long sessions live. Durations are whole: resolved by
// Policy.Resolve, 1s ≤ Idle ≤ Absolute ≤ Remember ≤ 8760h.
type Policy struct {
	Idle          time.Duration
	Absolute      time.Duration
	Remember      time.Duration
	MaxPerSubject int // 1 to 1000
}

// Source keeps tenants, their config and secrets, and the operators' keys.
// Memory and etcd.Source implement it; tenants/sourcetest is the exam both sit.
// Writes return the new revision inside the value they return. When the truth
// cannot be reached before ctx ends, the error wraps ErrUnavailable.
type Source interface {
	// Create stores t, whose UUID, State and times the caller has set, if neither
	// its ID nor a host of it is taken: ErrExists, ErrHostTaken.
	Create(ctx context.Context, t Tenant) (Tenant, error)

	// Update replaces the record with t.UUID if it is still at t.Revision:
	// ErrChanged, ErrNotFound, ErrHostTaken.
	Update(ctx context.Context, t Tenant) (Tenant, error)

	// Remove deletes the tenant's record, names, config, secrets and data keys.
	// Idempotent; the last step of a delete.
	Remove(ctx context.Context, uuid string) error

	// Load returns every tenant, also those being deleted, at one revision.
	Load(ctx context.Context) ([]Tenant, int64, error)

	// Watch calls apply for each batch of changes after revision, in order, until
	// ctx ends or the stream is lost; it returns why. A loss is not resumed here:
	// the Registry loads again. Progress with no changes may be applied too.
	Watch(ctx context.Context, revision int64, apply func(Change)) error

	// Config returns the tenant's configuration, a JSON object ("{}" when none).
	Config(ctx context.Context, uuid string) (json.RawMessage, error)
	// PutConfig replaces it.
	PutConfig(ctx context.Context, uuid string, object json.RawMessage) error

	// SecretNames lists the names, sorted.
	SecretNames(ctx context.Context, uuid string) ([]string, error)
	// Secret returns one secret, or ErrNotFound.
	Secret(ctx context.Context, uuid, name string) (Secret, error)
	// PutSecret replaces or makes one.
	PutSecret(ctx context.Context, uuid, name string, value Secret) error
	// DeleteSecret removes one. Idempotent.
	DeleteSecret(ctx context.Context, uuid, name string) error

	// Keys lists every administration key, by ID.
	Keys(ctx context.Context) ([]Key, error)
	// PutKey makes or replaces one.
	PutKey(ctx context.Context, k Key) error
	// DeleteKey removes one. Idempotent.
	DeleteKey(ctx context.Context, id string) error
}

// Change is what happened in a Source after some revision.
type Change struct {
	Revision int64
	Put      []Tenant
	Removed  []string // uuids
}

// Secret is a tenant's secret value. It prints as "redacted".
type Secret []byte

// String implements fmt.Stringer and shows nothing.
func (Secret) String() string { return "redacted" }

// GoString implements fmt.GoStringer and shows nothing.
func (Secret) GoString() string { return "redacted" }
