package sessions

import (
	"context"
	"encoding/json"
	"time"
)

// Store keeps sessions. Memory and etcd.Store implement it; sessions/storetest
// is the exam both sit.
//
// Every method takes the tenant's uuid (inside the digest, or by name) and
// never answers about another tenant. A read is linearizable: it sees every
// write acknowledged before it began. A store checks no deadline and makes no
// policy; the Manager does. When the truth cannot be reached before ctx ends,
// or writes are refused, the error wraps ErrUnavailable. Revisions grow with
// every write and never go back.
type Store interface {
	// Create stores a new session with its indexes in one transaction and
	// returns the revision. In the same transaction it deletes c.Replaces, when
	// that is set and there, and c.Challenge, when that is set; if c.Challenge is
	// no longer there nothing is written and the error is ErrNotFound.
	Create(ctx context.Context, c Creation) (int64, error)

	// Find returns the record under d, or ErrNotFound.
	Find(ctx context.Context, tenant string, d Digest) (Session, error)

	// FindID returns the record with that handle, or ErrNotFound.
	FindID(ctx context.Context, tenant string, id ID) (Session, error)

	// Touch writes s, which is the record under d as it was read but for a later
	// LastSeenAt and IdleExpiresAt, if the record is still at s.Revision.
	// Otherwise it writes nothing (so it never brings back what a revoke deleted)
	// and returns ErrNotFound.
	Touch(ctx context.Context, d Digest, s Session) (int64, error)

	// Delete removes the record under d. It is idempotent: found tells whether
	// there was one.
	Delete(ctx context.Context, tenant string, d Digest) (revision int64, found bool, err error)

	// DeleteID removes the record with that handle, likewise.
	DeleteID(ctx context.Context, tenant string, id ID) (revision int64, found bool, err error)

	// List returns up to limit sessions that match f, ordered by ID, after the
	// given one ("" for the start), and whether there may be more. Index entries
	// whose record is gone are passed over.
	List(ctx context.Context, tenant string, f Filter, after ID, limit int) (list []Session, more bool, err error)

	// DeleteAll removes up to limit sessions that match f, but for except when
	// set, and tells how many and whether there may be more. Idempotent. It must
	// work when the store refuses puts (etcd NOSPACE): it only deletes.
	DeleteAll(ctx context.Context, tenant string, f Filter, except ID, limit int) (n int, more bool, revision int64, err error)

	// RemoveTenant removes every record, index entry and challenge of the tenant.
	// Idempotent; it must work when the store refuses puts.
	RemoveTenant(ctx context.Context, tenant string) error

	// Revision returns the store's revision by a linearizable read.
	Revision(ctx context.Context) (int64, error)
}

// Creation is one session to be stored.
type Creation struct {
	Digest    Digest
	Session   Session
	Replaces  *Digest      // a session of the same tenant that ends with this write
	Challenge *ChallengeID // a challenge of the same tenant that is used up by this write
}

// Filter chooses sessions of one tenant. The zero value is all of them; at
// most one member is set.
type Filter struct {
	Subject string // exactly this subject
	Digest  string // made by the verifier with this digest
}

// Challenges keeps second steps that wait for an answer. Memory and etcd.Store
// implement it; it shares the Store's transaction so that a challenge is used
// up by the write that creates its session.
type Challenges interface {
	// PutChallenge stores c under id until c.ExpiresAt. ErrTooMany beyond
	// MaxChallenges pending for the tenant.
	PutChallenge(ctx context.Context, id ChallengeID, c Challenge) error

	// SpendAttempt takes one attempt off the challenge, by compare-and-swap and
	// before the caller runs anything, and returns the challenge as it is after
	// that. ErrNotFound when it is absent, expired, or has no attempt left.
	SpendAttempt(ctx context.Context, tenant string, id ChallengeID) (Challenge, error)

	// DropChallenge removes it. Idempotent.
	DropChallenge(ctx context.Context, tenant string, id ChallengeID) error
}

// MaxChallenges is how many challenges may be pending for one tenant.
const MaxChallenges = 10_000

// Challenge is a login that waits for its second step.
type Challenge struct {
	Tenant    string          // uuid
	Method    string          // of the login that began it
	Type      string          // "otp" or "custom"
	Public    json.RawMessage // what the client was shown
	Private   json.RawMessage // what only the verifier reads
	Verifier  Verifier        // answers go to this version
	Attempts  int             // left
	Answers   int             // given so far
	Remember  bool            // asked for at the first step
	Token     bool            // the caller wants a token, not a cookie
	App       string          // the app the login is for, if any
	ExpiresAt time.Time
}
