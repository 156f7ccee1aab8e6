package tenants

import (
	"context"
	"encoding/json"
)

// Source keeps tenants, their config and secrets, and the administration keys.
// Memory and etcd.Source implement it; tenants/sourcetest is the exam both sit.
//
// When the truth cannot be reached before ctx ends, or writes are refused, the
// error wraps ErrUnavailable. Revisions grow with every write to a tenant or
// key and never go back.
type Source interface {
	// Create stores t, whose UUID, State and times the caller has set, and
	// returns it with its revision. ErrExists, ErrHostTaken.
	Create(ctx context.Context, t Tenant) (Tenant, error)

	// Update replaces the record with t.UUID if it is still at t.Revision:
	// ErrChanged otherwise, also when it is gone; ErrHostTaken.
	Update(ctx context.Context, t Tenant) (Tenant, error)

	// Remove deletes the tenant's record, names, config, secrets and data keys,
	// the record last. Idempotent; it must work when the source refuses puts.
	Remove(ctx context.Context, uuid string) error

	// Load returns everything that is watched, at one revision.
	Load(ctx context.Context) (Contents, error)

	// Watch calls apply for each batch of changes after revision, in order, until
	// ctx ends or the stream is lost, and returns why. It does not resume: what
	// was lost is found by loading again.
	Watch(ctx context.Context, revision int64, apply func(Change)) error

	// Config returns the tenant's configuration, a JSON object, "{}" when there
	// is none.
	Config(ctx context.Context, uuid string) (json.RawMessage, error)

	// PutConfig replaces it. ErrNotFound when the tenant is gone.
	PutConfig(ctx context.Context, uuid string, object json.RawMessage) error

	// SecretNames lists the names, sorted.
	SecretNames(ctx context.Context, uuid string) ([]string, error)

	// Secret returns one secret, or ErrNotFound.
	Secret(ctx context.Context, uuid, name string) (Secret, error)

	// PutSecret makes or replaces one. ErrNotFound when the tenant is gone.
	PutSecret(ctx context.Context, uuid, name string, value Secret) error

	// DeleteSecret removes one. Idempotent.
	DeleteSecret(ctx context.Context, uuid, name string) error

	// RotateKeys gives the tenant a new key to seal with, under which its config
	// and secrets are sealed at once, and returns it with its new revision. What
	// older keys sealed elsewhere still opens, but for those dropped beyond
	// seal.MaxDataKeys. Memory seals nothing: there it is a change without one.
	// ErrNotFound when the tenant is gone or being deleted.
	RotateKeys(ctx context.Context, uuid string) (Tenant, error)

	// PutKey makes or replaces an administration key.
	PutKey(ctx context.Context, k Key) error

	// DeleteKey removes one. Idempotent.
	DeleteKey(ctx context.Context, id string) error
}

// Contents is everything watched, at one revision. Tenants being deleted are
// among them.
type Contents struct {
	Tenants  []Tenant
	Keys     []Key
	Revision int64
}

// Change is what came to be up to a revision. What was made and removed on the
// way is only removed, and the reverse: nothing stands on both sides. A batch
// without anything says only that nothing happened up to it.
type Change struct {
	Tenants     []Tenant // made or replaced
	Removed     []string // uuids
	Keys        []Key    // made or replaced
	RemovedKeys []string // ids
	Revision    int64
}

// Secret is a tenant's secret value. It prints as "redacted".
type Secret []byte

// String shows nothing.
func (Secret) String() string { return "redacted" }

// GoString shows nothing.
func (Secret) GoString() string { return "redacted" }

// MarshalText shows nothing.
func (Secret) MarshalText() ([]byte, error) { return []byte("redacted"), nil }
