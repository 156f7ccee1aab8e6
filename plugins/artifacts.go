package plugins

import (
	"context"
	"time"
)

// Artifacts keeps modules and what is known of each tenant's versions. Dir and
// etcd.Artifacts implement it.
//
// A module is kept once however many versions of however many tenants are made
// of it, and for as long as one is. Errors other than the named ones wrap
// ErrUnavailable.
type Artifacts interface {
	// Add stores a version with its module, at once or not at all, under the
	// tenant's next number, which it returns. v.Number is not looked at. ErrQuota
	// when the modules of all tenants would take more room than they may.
	Add(ctx context.Context, tenant string, v Version, module []byte) (int, error)

	// Versions lists the tenant's versions by number, states as last written.
	Versions(ctx context.Context, tenant string) ([]Version, error)

	// Version returns one of the tenant's versions by one read, or ErrNotFound.
	Version(ctx context.Context, tenant string, number int) (Version, error)

	// ActiveVersion returns the version that is active by one read, as SetActive
	// last wrote it, with or without its Manifest, or ErrNotFound when none is.
	// Every login asks for it.
	ActiveVersion(ctx context.Context, tenant string) (Version, error)

	// Module returns the bytes with that digest, or ErrNotFound.
	Module(ctx context.Context, digest string) ([]byte, error)

	// Active tells which version is active and which was before it; 0 for none.
	// Both versions' numbers come from the same moment.
	Active(ctx context.Context, tenant string) (Pointer, error)

	// SetActive moves the pointer from what the caller saw to to, together with
	// the versions that this changes, to.Active among them. ErrConflict when the
	// pointer is not there any more or to.Active is gone.
	SetActive(ctx context.Context, tenant string, from, to Pointer, changed []Version) error

	// Watch calls seen with every version of every tenant, each as it is at some
	// moment after the call, in no order, and then with each one that is written,
	// soon after it was; until ctx ends, whose error it returns, or the store
	// fails. One may be seen twice, and of writes shortly after each other only the
	// last. seen is called by one goroutine, which it must not hold up.
	Watch(ctx context.Context, seen func(tenant string, v Version)) error

	// Remove deletes a version, and its module when nothing else is made of it.
	// Idempotent. ErrConflict when it is active.
	Remove(ctx context.Context, tenant string, number int) error

	// RemoveTenant deletes everything of the tenant. Idempotent, and works when
	// the store refuses puts.
	RemoveTenant(ctx context.Context, tenant string) error
}

// Pointer says which version decides a tenant's logins.
type Pointer struct {
	Active   int `json:"active"`
	Previous int `json:"previous"` // what Rollback goes back to

	// Revision is the store's, for SetActive; it is not stored.
	Revision int64 `json:"-"`
}

// Nodes are the nodes that share the artifacts. etcd.Nodes implements it.
type Nodes interface {
	// Ask has every live node compile a version, and waits until each has or has
	// said that it cannot, but not longer than wait. It returns the ids of those that
	// have not, sorted. Errors wrap ErrUnavailable.
	Ask(ctx context.Context, tenant string, v Version, wait time.Duration) (pending []string, err error)
}
