package sessions

import (
	"encoding/json"
	"errors"
	"time"
)

// What can be said of a session that is not there, and of a store that cannot
// say. A caller may tell "no" (ErrNotFound) from "cannot decide"
// (ErrUnavailable); nothing else about a session is revealed by an error.
var (
	// ErrNotFound: no live session goes by that token, id or challenge. Absent,
	// expired, revoked and belonging to another tenant are the same answer.
	ErrNotFound = errors.New("no such session")

	// ErrUnavailable: the store did not answer in time, or refuses writes.
	ErrUnavailable = errors.New("session store unavailable")

	// ErrTooMany: the tenant has as many pending challenges as it may.
	ErrTooMany = errors.New("too many pending challenges")

	// ErrRevision: the caller asked for a revision the store has not reached.
	ErrRevision = errors.New("revision is ahead of the store")
)

// Session is one subject signed in at one tenant: everything about it but the
// token, which only its holder knows.
type Session struct {
	ID       ID              // public handle, for lists and revokes
	Tenant   string          // the tenant's immutable uuid, not its id
	Subject  string          // as the verifier gave it
	Claims   json.RawMessage // a JSON object; never empty
	AMR      []string        // RFC 8176 names
	Verifier Verifier        // who decided
	Client   Client          // who signed in

	AuthTime      time.Time // when the last credential was accepted
	CreatedAt     time.Time
	LastSeenAt    time.Time // coarse: written when a tenth of the idle time has passed
	IdleExpiresAt time.Time // moves with use
	ExpiresAt     time.Time // absolute; never moves

	Idle     time.Duration // how far each use moves IdleExpiresAt
	Remember bool          // the cookie outlives the browser

	IssuedAt  time.Time // when the token was made: CreatedAt, or the last rotation
	RotatedAt time.Time // when another token took this one's place; zero while it is the current one
	Salt      Salt      // what the successor is derived with; zero while there is none

	// Revision is the store's revision of this record, and Born the one at which
	// it came to be; neither is stored in it. An epoch ends what was born at or
	// before it.
	Revision, Born int64

	// Degraded is how old the proof is that this session had not ended, when it
	// was read without a majority; 0 otherwise.
	Degraded time.Duration
}

// Live reports whether s may be used at now: before both deadlines. A lease is
// not a clock (etcd restarts it after a leader change), so the deadlines in
// the record are the only ones that count.
func (s Session) Live(now time.Time) bool {
	return now.Before(s.IdleExpiresAt) && now.Before(s.ExpiresAt)
}

// RotateAfter is when the holder should ask for a new token: an hour after it
// got this one (SR D6).
func (s Session) RotateAfter() time.Time { return s.IssuedAt.Add(time.Hour) }

// Superseded reports whether another token has taken the place of the one that
// s was found by.
func (s Session) Superseded() bool { return !s.RotatedAt.IsZero() }

// Verifier names the module that decided.
type Verifier struct {
	Version int    // the tenant's version number
	Digest  string // "sha256:" and 64 hex digits
}

// Client is who signed in, as far as the edge trusted what it was told.
type Client struct {
	IP        string
	UserAgent string // cut to 256 bytes
}

// Policy says how long a tenant's sessions live. The caller sets every member;
// the tenant's record has resolved what was left out.
type Policy struct {
	Idle          time.Duration
	Absolute      time.Duration
	Remember      time.Duration // instead of Absolute, when "remember me" was asked for
	MaxPerSubject int           // the oldest ends beyond it
}
