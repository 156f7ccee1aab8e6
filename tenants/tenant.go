package tenants

import (
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
	ID            string   // [a-z0-9-]{1,40}, not beginning with "flow-"; in paths and cookie names
	Name          string   // shown to people
	Hosts         []string // normalised by NormalizeHost; unique among tenants
	Apps          []App
	Session       Policy
	WithoutQuorum string // "fail-closed" or "bounded:<seconds>"
	State         State
	CreatedAt     time.Time
	UpdatedAt     time.Time

	// Revision is the source's revision of this record; it is not stored in it.
	Revision int64 `json:"-"`
}

// App is an application that signs its users in here.
type App struct {
	ID         string   // [a-z0-9-]{1,40}, unique in the tenant
	Origin     string   // scheme://host[:port], as NormalizeOrigin gives it
	ReturnURLs []string // absolute, of that origin; empty: any path of it
}

// Policy says how long sessions live: 1s ≤ Idle ≤ Absolute ≤ Remember ≤ 8760h
// and 1 ≤ MaxPerSubject ≤ 1000 once checked.
type Policy struct {
	Idle          time.Duration // how long one may do nothing; 30 minutes when left out
	Absolute      time.Duration // how long a session lives at the most; 12 hours
	Remember      time.Duration // the same with "remember me"; 720 hours
	MaxPerSubject int           // the oldest ends beyond it; 10
}
