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
// or writes are refused, the error wraps ErrUnavailable; a write that ends so
// may have been made. Revisions grow with every write and never go back.
type Store interface {
	// Create stores a new session with its indexes in one transaction and
	// returns the revision. In the same transaction it ends the session that
	// c.Replaces stands for, when that is set and there, and deletes
	// c.Challenge, when that is set; if c.Challenge is no longer there nothing
	// is written and the error is ErrNotFound. It may be called again with the
	// same Creation when its outcome is not known.
	Create(ctx context.Context, c Creation) (int64, error)

	// Find returns the record under d, or ErrNotFound when there is none or an
	// epoch ended it. The record of a token that was rotated away is found too:
	// its RotatedAt is set.
	Find(ctx context.Context, tenant string, d Digest) (Session, error)

	// FindID returns the current record of that session, or ErrNotFound.
	FindID(ctx context.Context, tenant string, id ID) (Session, error)

	// Touch writes s, which is the record under d as it was read but for a later
	// LastSeenAt and IdleExpiresAt, if the record is still at s.Revision.
	// Otherwise it writes nothing (so it never brings back what a revoke deleted)
	// and returns ErrNotFound.
	Touch(ctx context.Context, d Digest, s Session) (int64, error)

	// Rotate moves a session to another digest in one transaction, if its record
	// is still at r.Was.Revision and no epoch has ended it: the session is then
	// under r.New, and what stays under r.Old is only marked. Otherwise it writes
	// nothing and returns ErrNotFound.
	Rotate(ctx context.Context, r Rotation) (int64, error)

	// Delete ends the session that d stands for, rotated away or not. Also what
	// is left under the session's first token goes. It is idempotent: found tells
	// whether there was one.
	Delete(ctx context.Context, tenant string, d Digest) (revision int64, found bool, err error)

	// DeleteID ends the session with that handle, likewise.
	DeleteID(ctx context.Context, tenant string, id ID) (revision int64, found bool, err error)

	// List returns up to limit sessions that match f, ordered by ID, from those
	// after the given one ("" for the start), and what to go on after, "" at the
	// end. What an epoch ended is passed over: a list may be short, or empty, with
	// more to come.
	List(ctx context.Context, tenant string, f Filter, after ID, limit int) (list []Session, next ID, err error)

	// Count returns how many sessions match f. It goes by what is stored, so that
	// some of them may have ended. By a verifier's digest it may be an estimate.
	Count(ctx context.Context, tenant string, f Filter) (int, error)

	// DeleteAll removes up to limit of the sessions after the given one ("" for the
	// start) that match f, but for except when set. With an error the Removal is
	// what was done until then. Idempotent. It must work when the store refuses puts
	// (etcd NOSPACE): it only deletes.
	DeleteAll(ctx context.Context, tenant string, f Filter, except, after ID, limit int) (Removal, error)

	// BumpEpoch ends, by one write, every session that was created before it
	// and matches f, which may not name a subject. The tenant "" is all of them;
	// then f is zero.
	BumpEpoch(ctx context.Context, tenant string, f Filter) (int64, error)

	// RemoveTenant removes every record, index entry, epoch and challenge of the
	// tenant. Idempotent; it must work when the store refuses puts.
	RemoveTenant(ctx context.Context, tenant string) error

	// Revision returns a revision at or after every write that was acknowledged
	// before the call. It is the proof that a copy is measured by, so it must
	// fail where a majority cannot be asked.
	Revision(ctx context.Context) (int64, error)

	// Load calls apply for every epoch, and with records also for every record,
	// as all were at one revision, which it returns: a revision as Revision
	// gives. apply is called by one goroutine.
	Load(ctx context.Context, records bool, apply func(Change)) (int64, error)

	// Watch calls apply with the changes after revision, in order and each
	// revision whole, until ctx ends or the stream is lost, and returns why. It
	// does not resume: what was lost is found by loading again. Each call says
	// which revision has been reached; one without changes says only that. Two
	// watches do not hinder each other.
	Watch(ctx context.Context, revision int64, apply func(changes []Change, reached int64)) error

	// Progress asks the watches of this store to say soon which revision they
	// have reached. That nothing comes is no error here.
	Progress(ctx context.Context) error
}

// Creation is one session to be stored.
type Creation struct {
	Digest    Digest
	Session   Session      // its ID is the digest's
	Replaces  *Digest      // a session of the same tenant that ends with this write
	Challenge *ChallengeID // a challenge of the same tenant that is used up by this write
}

// Rotation is one session that gets another token.
type Rotation struct {
	Old  Digest
	Was  Session // as it was read, with RotatedAt and Salt set
	New  Digest
	Next Session // the session as it is from now on; the ID is the same, so no longer the digest's
}

// Filter chooses sessions of one tenant. The zero value is all of them; at
// most one member is set.
type Filter struct {
	Subject string // exactly this subject
	Digest  string // made by the verifier with this digest
}

// Removal is how far a DeleteAll came.
type Removal struct {
	N        int   // sessions that it ended
	Next     ID    // what to go on after; "" at the end
	Left     bool  // one that it came by has changed meanwhile, and may be there still
	Revision int64 // of its last write; 0 when there was none
}

// ChangeKind says what a Change is about.
type ChangeKind int

// The kinds of change.
const (
	Put     ChangeKind = iota + 1 // the record under Digest was made or written
	Deleted                       // it is gone
	Epoch                         // what matches Tenant and Verifier and was born at or before Revision is over
)

// Change is one thing that a copy of the store must know.
type Change struct {
	Kind     ChangeKind
	Revision int64
	Digest   Digest                  // of Put and Deleted
	Session  func() (Session, error) // of Put: opens the record, which costs as much as it costs
	Tenant   string                  // of Epoch; "" is every tenant
	Verifier string                  // of Epoch: a verifier's digest; "" is every verifier
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
