package sessions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Config tunes a Manager. The zero value is ready.
type Config struct {
	Timeout time.Duration // bound on each call to the store; 0: 2 seconds
	Log     *slog.Logger  // nil discards
}

// Manager applies the policy of sessions over a store. Safe for use by many
// goroutines. Without Run, sessions end when their idle time is over however
// much they are used.
type Manager struct {
	store      Store
	challenges Challenges
	timeout    time.Duration
	log        *slog.Logger
	touches    chan touch
}

// touch is a use of a session that is due to be written down.
type touch struct {
	digest  Digest
	session Session
}

// New returns a Manager over its ports.
func New(store Store, challenges Challenges, cfg Config) *Manager {
	if cfg.Timeout == 0 {
		cfg.Timeout = 2 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Manager{
		store: store, challenges: challenges, timeout: cfg.Timeout, log: cfg.Log,
		touches: make(chan touch, 1024),
	}
}

// Run writes down the use of sessions until ctx ends, and returns ctx's error.
// It does so beside the requests: a validate never waits for a write, and a
// write that fails costs nobody a validate, only a later renewal.
func (m *Manager) Run(ctx context.Context) error {
	for {
		select {
		case t := <-m.touches:
			m.write(ctx, t)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *Manager) write(ctx context.Context, t touch) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	_, err := m.store.Touch(ctx, t.digest, t.session)
	if err != nil && !errors.Is(err, ErrNotFound) { // not found: touched or ended meanwhile
		m.log.Warn("session not renewed", "session", t.session.ID, "err", err)
	}
}

// Opening is what a new session is made of. Everything but the last two is
// required.
type Opening struct {
	Tenant   string // uuid
	Subject  string
	Claims   json.RawMessage // a JSON object, or empty
	AMR      []string
	Verifier Verifier
	Client   Client
	Policy   Policy
	Remember bool

	Replaces  Token       // the session that this browser had: it ends in the same write
	Challenge ChallengeID // the challenge that was answered: it is used up in the same write
}

// Open makes a session and returns its token, which is nowhere else. When the
// subject then has more sessions than the policy lets it have, the oldest have
// ended before Open returns. ErrNotFound when the challenge is no longer
// there, ErrUnavailable when it is not known whether the session was stored.
func (m *Manager) Open(ctx context.Context, o Opening) (Token, Session, error) {
	now := time.Now().UTC()
	token := NewToken()
	s := newSession(o, now)
	c := Creation{Digest: token.Digest(o.Tenant), Session: s}
	if !o.Replaces.IsZero() {
		old := o.Replaces.Digest(o.Tenant)
		c.Replaces = &old
	}
	if !o.Challenge.IsZero() {
		c.Challenge = &o.Challenge
	}
	revision, err := m.create(ctx, c)
	if err != nil {
		return Token{}, Session{}, err
	}
	s.Revision = revision
	if err := m.endOldest(ctx, s, o.Policy.MaxPerSubject); err != nil {
		return Token{}, Session{}, err
	}
	return token, s, nil
}

func newSession(o Opening, now time.Time) Session {
	lifetime := o.Policy.Absolute
	if o.Remember {
		lifetime = o.Policy.Remember
	}
	s := Session{
		ID: NewID(now), Tenant: o.Tenant, Subject: o.Subject, Claims: o.Claims, AMR: o.AMR,
		Verifier: o.Verifier, Client: o.Client,
		AuthTime: now, CreatedAt: now, LastSeenAt: now, ExpiresAt: now.Add(lifetime),
		Idle: o.Policy.Idle, Remember: o.Remember,
	}
	if len(s.Claims) == 0 {
		s.Claims = json.RawMessage("{}")
	}
	s.IdleExpiresAt = earlier(now.Add(s.Idle), s.ExpiresAt)
	return s
}

// create stores c. A first try whose outcome is not known is made once more,
// with the same token: the record is the same either way.
func (m *Manager) create(ctx context.Context, c Creation) (int64, error) {
	for try := 0; ; try++ {
		once, cancel := context.WithTimeout(ctx, m.timeout)
		revision, err := m.store.Create(once, c)
		cancel()
		retry := errors.Is(err, ErrUnavailable) && try == 0 && c.Challenge == nil && ctx.Err() == nil
		if !retry {
			return revision, err
		}
	}
}

// endOldest ends the subject's oldest sessions beyond limit. Logins at the same
// moment may each see the other's: then there are too few for an instant,
// never too many for longer than the logins take.
func (m *Manager) endOldest(ctx context.Context, s Session, limit int) error {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	list, _, err := m.store.List(ctx, s.Tenant, Filter{Subject: s.Subject}, "", limit+64)
	if err != nil {
		return fmt.Errorf("count sessions of subject: %w", err)
	}
	list = slices.DeleteFunc(list, func(other Session) bool { return other.ID == s.ID })
	for _, old := range list[:max(0, len(list)+1-limit)] {
		if _, _, err := m.store.DeleteID(ctx, s.Tenant, old.ID); err != nil {
			return fmt.Errorf("end oldest session: %w", err)
		}
	}
	return nil
}

// Find returns the live session that token stands for at this tenant. ErrNotFound
// when there is none, ErrUnavailable when that cannot be decided.
func (m *Manager) Find(ctx context.Context, tenant string, token Token) (Session, error) {
	if token.IsZero() {
		return Session{}, ErrNotFound
	}
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	d := token.Digest(tenant)
	s, err := m.store.Find(ctx, tenant, d)
	if err != nil {
		return Session{}, err
	}
	now := time.Now()
	if !s.Live(now) {
		return Session{}, ErrNotFound
	}
	m.renew(d, s, now)
	return s, nil
}

// renew hands a use over to Run when a tenth of the idle time has passed since
// the last one that was written, so that a session may end up to a tenth of
// its idle time early, and never late. When Run is far behind, the use is
// forgotten; the next one comes.
func (m *Manager) renew(d Digest, s Session, now time.Time) {
	if now.Sub(s.LastSeenAt) < s.Idle/10 {
		return
	}
	s.LastSeenAt = now.UTC()
	s.IdleExpiresAt = earlier(s.LastSeenAt.Add(s.Idle), s.ExpiresAt)
	select {
	case m.touches <- touch{d, s}:
	default:
	}
}

// Reached returns nil when the store has come to revision, and ErrRevision when
// it has not: then the caller's revision is not of this store.
func (m *Manager) Reached(ctx context.Context, revision int64) error {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	now, err := m.store.Revision(ctx)
	if err != nil {
		return err
	}
	if now < revision {
		return ErrRevision
	}
	return nil
}

// Close ends the session of a token and returns the revision of that write, 0
// when there was nothing to end.
func (m *Manager) Close(ctx context.Context, tenant string, token Token) (int64, error) {
	if token.IsZero() {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	revision, found, err := m.store.Delete(ctx, tenant, token.Digest(tenant))
	if err != nil || !found {
		return 0, err
	}
	return revision, nil
}

// CloseID ends the session with that handle. ErrNotFound when there is none.
func (m *Manager) CloseID(ctx context.Context, tenant string, id ID) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	revision, found, err := m.store.DeleteID(ctx, tenant, id)
	if err == nil && !found {
		err = ErrNotFound
	}
	return revision, err
}

// CloseOwn is CloseID for a subject's own sessions: another's is ErrNotFound.
func (m *Manager) CloseOwn(ctx context.Context, tenant, subject string, id ID) (int64, error) {
	reading, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	s, err := m.store.FindID(reading, tenant, id)
	if err != nil {
		return 0, err
	}
	if s.Subject != subject || !s.Live(time.Now()) {
		return 0, ErrNotFound
	}
	return m.CloseID(ctx, tenant, id)
}

// List returns up to limit live sessions that match f, in the order they were
// made, after the given ID, and the ID to go on from, "" at the end. A page
// may hold fewer than limit and still not be the last.
func (m *Manager) List(ctx context.Context, tenant string, f Filter, after ID, limit int) (list []Session, next ID, err error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	list, more, err := m.store.List(ctx, tenant, f, after, limit)
	if err != nil {
		return nil, "", err
	}
	if more && len(list) > 0 {
		next = list[len(list)-1].ID
	}
	now := time.Now()
	return slices.DeleteFunc(list, func(s Session) bool { return !s.Live(now) }), next, nil
}

// How many sessions one step, and one call, of Revoke end.
const (
	revokeStep = 500
	revokeCall = 10_000
)

// Revoke ends sessions that match f, but for except when set. It tells how many
// and whether to call again. Idempotent. What it has ended stays ended when it
// fails half-way.
func (m *Manager) Revoke(ctx context.Context, tenant string, f Filter, except ID) (n int, more bool, revision int64, err error) {
	for more = true; more && n < revokeCall; {
		step, cancel := context.WithTimeout(ctx, m.timeout)
		var done int
		done, more, revision, err = m.store.DeleteAll(step, tenant, f, except, revokeStep)
		cancel()
		if err != nil {
			return n, true, revision, err
		}
		n += done
	}
	return n, more, revision, nil
}

// RemoveTenant removes everything of a tenant: sessions, indexes, challenges.
func (m *Manager) RemoveTenant(ctx context.Context, tenant string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*m.timeout) // one range delete may be a large one
	defer cancel()
	return m.store.RemoveTenant(ctx, tenant)
}

// Ask keeps a challenge until it is answered. ErrTooMany when the tenant has as
// many pending as it may.
func (m *Manager) Ask(ctx context.Context, c Challenge) (ChallengeID, error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	id := NewChallengeID()
	if err := m.challenges.PutChallenge(ctx, id, c); err != nil {
		return ChallengeID{}, err
	}
	return id, nil
}

// Answer takes one attempt off a pending challenge and returns it. ErrNotFound
// when it is over.
func (m *Manager) Answer(ctx context.Context, tenant string, id ChallengeID) (Challenge, error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	return m.challenges.SpendAttempt(ctx, tenant, id)
}

// Drop removes a challenge. Idempotent.
func (m *Manager) Drop(ctx context.Context, tenant string, id ChallengeID) error {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	return m.challenges.DropChallenge(ctx, tenant, id)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
