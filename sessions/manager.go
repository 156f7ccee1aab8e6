package sessions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Mode says where a validate finds the truth.
type Mode string

// The modes of a Manager. Memory stores need none of the others.
const (
	Centralized Mode = "centralized" // every read asks the store
	Cached      Mode = "cached"      // recently used sessions are read from memory while that is proven fresh
	Replicated  Mode = "replicated"  // all sessions are, also those this node never saw
)

// Config tunes a Manager. The zero value is ready.
type Config struct {
	Mode       Mode          // "" is Centralized
	CacheBytes int64         // what mode Cached may hold, about; 0: 256 MiB
	Timeout    time.Duration // bound on each call to the store; 0: 1 second
	Log        *slog.Logger  // nil discards
}

// createTime and createTries bound a create. A proposal that is forwarded to a
// leader which dies is silently dropped, so a try must not wait for long, and
// the next one goes to its successor.
const (
	createTime  = 700 * time.Millisecond
	createTries = 3
)

// writers is how many renewals may be on their way at a time. A store that
// commits in groups makes few transactions of them.
const writers = 128

// Manager applies the policy of sessions over a store. Safe for use by many
// goroutines. Without Run, sessions end when their idle time is over however
// much they are used, and every read asks the store.
type Manager struct {
	store      Store
	challenges Challenges
	view       *view // nil when every read asks the store
	timeout    time.Duration
	log        *slog.Logger
	counts     counts

	touches  chan touch
	mu       sync.Mutex
	waiting  map[Digest]struct{}       // what is in touches or being written
	revoking map[revocation]revokedYet // what was not gone through to its end
}

// touch is a use of a session that is due to be written down.
type touch struct {
	digest  Digest
	session Session
}

// New returns a Manager over its ports.
func New(store Store, challenges Challenges, cfg Config) *Manager {
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Second
	}
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = 256 << 20
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Manager{
		store: store, challenges: challenges, timeout: cfg.Timeout, log: cfg.Log,
		touches: make(chan touch, 1024), waiting: map[Digest]struct{}{}, revoking: map[revocation]revokedYet{},
	}
	if cfg.Mode == Cached || cfg.Mode == Replicated {
		m.view = &view{store: store, whole: cfg.Mode == Replicated, bytes: cfg.CacheBytes, log: cfg.Log, loaded: make(chan struct{})}
	}
	return m
}

// Run keeps the node's copy of sessions fresh and writes down their use until
// ctx ends, and returns ctx's error. It does so beside the requests: a validate
// never waits for a write, and a write that fails costs nobody a validate, only
// a later renewal.
func (m *Manager) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	if m.view != nil {
		group.Go(func() error { return m.view.Run(ctx) })
	}
	for range writers {
		group.Go(func() error { return m.write(ctx) })
	}
	return group.Wait()
}

// write writes uses down, one after another.
func (m *Manager) write(ctx context.Context) error {
	for {
		select {
		case t := <-m.touches:
			m.writeOne(ctx, t)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *Manager) writeOne(ctx context.Context, t touch) {
	once, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	_, err := m.store.Touch(once, t.digest, t.session)
	m.mu.Lock()
	delete(m.waiting, t.digest)
	m.mu.Unlock()
	if err != nil && !errors.Is(err, ErrNotFound) && ctx.Err() == nil { // not found: touched or ended meanwhile
		m.log.Warn("session not renewed", "session", t.session.ID, "err", err)
	}
}

// WaitReady waits until validates may be answered from memory, where the mode
// has them so.
func (m *Manager) WaitReady(ctx context.Context) error {
	if m.view == nil {
		return nil
	}
	return m.view.waitLoaded(ctx)
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
// ended before Open returns, unless the store fails at that: then the next
// login ends them. ErrNotFound when the challenge is no longer
// there, ErrUnavailable when it is not known whether the session was stored.
func (m *Manager) Open(ctx context.Context, o Opening) (Token, Session, error) {
	if m.lost() {
		return Token{}, Session{}, fmt.Errorf("open session: %w", ErrUnavailable)
	}
	c := Creation{Session: newSession(o, instant())}
	if !o.Replaces.IsZero() {
		old := o.Replaces.Digest(o.Tenant)
		c.Replaces = &old
	}
	if !o.Challenge.IsZero() {
		c.Challenge = &o.Challenge
	}
	token, s, err := m.create(ctx, c)
	if err != nil {
		return Token{}, Session{}, err
	}
	if c.Replaces != nil {
		m.settle(ctx, s.Revision)
	}
	if err := m.endOldest(ctx, s, o.Policy.MaxPerSubject); err != nil {
		// The session is there. To refuse it now would leave it behind, and the
		// next tries would end others for it; the next login looks again.
		m.log.Warn("the limit of sessions per subject could not be kept", "session", s.ID, "err", err)
	}
	return token, s, nil
}

// instant is now as stores and copies keep it, so that a session ends when its
// holder was told, and not a part of a millisecond before.
func instant() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

func newSession(o Opening, now time.Time) Session {
	lifetime := o.Policy.Absolute
	if o.Remember {
		lifetime = o.Policy.Remember
	}
	lifetime, idle := lifetime.Truncate(time.Millisecond), o.Policy.Idle.Truncate(time.Millisecond)
	s := Session{
		Tenant: o.Tenant, Subject: o.Subject, Claims: o.Claims, AMR: o.AMR,
		Verifier: o.Verifier, Client: o.Client,
		AuthTime: now, CreatedAt: now, IssuedAt: now, LastSeenAt: now, ExpiresAt: now.Add(lifetime),
		Idle: idle, Remember: o.Remember,
	}
	if len(s.Claims) == 0 {
		s.Claims = json.RawMessage("{}")
	}
	s.IdleExpiresAt = earlier(now.Add(s.Idle), s.ExpiresAt)
	return s
}

// create stores c's session and returns it as it is then, with its token. A try
// whose outcome is not known is made again, as another session: the first may
// be made yet, long after the one that took its place was revoked (a member
// that was stopped forwards what it had received), and must bring nothing back
// that anybody has a token for. Not with a challenge, which the first try may
// have used up.
func (m *Manager) create(ctx context.Context, c Creation) (Token, Session, error) {
	var unknown []ID
	for try := 1; ; try++ {
		token := NewToken()
		c.Digest = token.Digest(c.Session.Tenant)
		c.Session.ID = c.Digest.ID()
		once, cancel := context.WithTimeout(ctx, createTime)
		revision, err := m.store.Create(once, c)
		cancel()
		if err == nil {
			m.endUnknown(ctx, c.Session.Tenant, unknown)
			c.Session.Revision, c.Session.Born = revision, revision
			return token, c.Session, nil
		}
		again := errors.Is(err, ErrUnavailable) && try < createTries && c.Challenge == nil && ctx.Err() == nil && !m.lost()
		if !again {
			return Token{}, Session{}, err
		}
		unknown = append(unknown, c.Session.ID)
		// What this try may make yet is older than what the next one makes, and so
		// the first to go where a subject has too many.
		made := instant()
		if !made.After(c.Session.CreatedAt) {
			made = c.Session.CreatedAt.Add(time.Millisecond)
		}
		c.Session.CreatedAt, c.Session.IssuedAt = made, made
	}
}

// endUnknown ends what earlier tries of a create may have made. Nobody has its
// token; it would stand in its subject's list, and count.
func (m *Manager) endUnknown(ctx context.Context, tenant string, ids []ID) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	for _, id := range ids {
		if _, _, err := m.store.DeleteID(ctx, tenant, id); err != nil {
			m.log.Warn("a session that nobody has the token of may be left", "session", id, "err", err)
		}
	}
}

// endOldest ends the subject's oldest sessions beyond limit. Of logins at the
// same moment each may see the other's. It spares what was stored after s: who
// did that sees s, and ends what is then too much. So none of them ends one
// that is younger, and the last leaves as many as there may be. What the index
// still counts of sessions that ended by themselves goes too.
func (m *Manager) endOldest(ctx context.Context, s Session, limit int) error {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	limit = max(limit, 1)
	last := int64(0)
	for next := ID("more"); next != ""; { // again where the limit was lowered by much
		n, err := m.store.Count(ctx, s.Tenant, Filter{Subject: s.Subject})
		if err != nil {
			return fmt.Errorf("count sessions of subject: %w", err)
		}
		if n <= limit {
			break
		}
		var list []Session
		if list, next, err = m.store.List(ctx, s.Tenant, Filter{Subject: s.Subject}, "", limit+64); err != nil {
			return fmt.Errorf("list sessions of subject: %w", err)
		}
		end := tooMany(list, s, limit)
		for _, id := range end {
			revision, _, err := m.store.DeleteID(ctx, s.Tenant, id)
			if err != nil {
				return fmt.Errorf("end oldest session: %w", err)
			}
			last = max(last, revision)
		}
		if len(end) == 0 {
			break // what is too much is younger: who made it ends it
		}
	}
	m.settle(ctx, last)
	return nil
}

// Older sorts sessions by when they were made.
func Older(a, b Session) int { return a.CreatedAt.Compare(b.CreatedAt) }

// tooMany chooses what must end of a subject's oldest sessions, so that limit of
// those that were there when s came are left, s among them.
func tooMany(list []Session, s Session, limit int) (end []ID) {
	now, live := time.Now(), []Session{}
	for _, other := range list {
		rotated := !other.IssuedAt.Equal(other.CreatedAt) // then it may be older than its record
		switch {
		case other.ID == s.ID:
		case !other.Live(now):
			end = append(end, other.ID)
		case other.Born < s.Born || rotated:
			live = append(live, other)
		}
	}
	slices.SortFunc(live, Older)
	for _, old := range live[:max(0, len(live)+1-limit)] {
		end = append(end, old.ID)
	}
	return end
}

// Reading says what a Find may rest on.
type Reading struct {
	// AtLeast asks that every write up to that revision is seen.
	AtLeast int64

	// WithoutQuorum is how old the proof of a session may be while no majority
	// can be asked; 0 refuses it then.
	WithoutQuorum time.Duration
}

// Find returns the live session that token stands for at this tenant.
// ErrNotFound when there is none, ErrUnavailable when that cannot be decided,
// ErrRevision when the store has not come to the revision asked for.
//
// It answers from memory while that is proven to be at most half a second old,
// and otherwise by one read that a majority confirms.
func (m *Manager) Find(ctx context.Context, tenant string, token Token, how Reading) (Session, error) {
	if token.IsZero() {
		return Session{}, ErrNotFound
	}
	d, now := token.Digest(tenant), time.Now()
	if m.view != nil {
		if e, known := m.view.find(d, now, how.AtLeast); known {
			m.counts.memory.Add(1)
			return m.live(d, e, now)
		}
	}
	m.counts.store.Add(1)
	s, err := m.ask(ctx, tenant, d, how.AtLeast)
	if errors.Is(err, ErrUnavailable) && how.WithoutQuorum > 0 && m.view != nil {
		now := time.Now() // asking took a while, and what counts is the answer's age
		if e, age, ok := m.view.stale(d, now, how.WithoutQuorum, how.AtLeast); ok {
			if s := e.session(); s.Live(now) {
				m.counts.degraded.Add(1)
				s.Degraded = max(age, time.Millisecond)
				return s, nil
			}
		}
	}
	if err != nil {
		return Session{}, err
	}
	if s.Superseded() {
		return m.superseded(ctx, s)
	}
	if !s.Live(time.Now()) {
		return Session{}, ErrNotFound
	}
	m.renew(d, s, now)
	return s, nil
}

// live is what memory says of a session, nil being none.
func (m *Manager) live(d Digest, e *entry, now time.Time) (Session, error) {
	if e == nil {
		return Session{}, ErrNotFound
	}
	s := e.session()
	if !s.Live(now) {
		return Session{}, ErrNotFound
	}
	m.renew(d, s, now)
	return s, nil
}

// ask reads a record from the store. While the store is known not to answer, it
// is not asked: everybody would wait for the same nothing.
func (m *Manager) ask(ctx context.Context, tenant string, d Digest, atLeast int64) (Session, error) {
	if m.lost() {
		return Session{}, fmt.Errorf("find session: %w", ErrUnavailable)
	}
	if atLeast > 0 {
		if err := m.reached(ctx, atLeast); err != nil {
			return Session{}, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	if m.view != nil {
		return m.view.fetch(ctx, tenant, d)
	}
	return m.store.Find(ctx, tenant, d)
}

// Available returns ErrUnavailable while the store is known not to answer, so
// that nobody works for a session which could not be stored. It asks nobody.
func (m *Manager) Available() error {
	if m.lost() {
		return ErrUnavailable
	}
	return nil
}

// lost reports whether the store is known not to answer.
func (m *Manager) lost() bool { return m.view != nil && m.view.lost.Load() }

// renew hands a use over to Run when a tenth of the idle time has passed since
// the last one that was written, so that a session may end up to a tenth of
// its idle time early, and never late. When Run is far behind, the use is
// forgotten; the next one comes.
func (m *Manager) renew(d Digest, s Session, now time.Time) {
	if now.Sub(s.LastSeenAt) < s.Idle/10 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, on := m.waiting[d]; on {
		return
	}
	s.LastSeenAt = now.UTC()
	s.IdleExpiresAt = earlier(s.LastSeenAt.Add(s.Idle), s.ExpiresAt)
	select {
	case m.touches <- touch{d, s}:
		m.waiting[d] = struct{}{}
	default:
	}
}

// reached returns nil when the store has come to revision, and ErrRevision when
// it has not: then the caller's revision is not of this store.
func (m *Manager) reached(ctx context.Context, revision int64) error {
	now, err := m.Revision(ctx)
	if err != nil {
		return err
	}
	if now < revision {
		return ErrRevision
	}
	return nil
}

// Revision returns a revision of the store at or after every write that was
// acknowledged before the call, also of what is not a session.
func (m *Manager) Revision(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	return m.store.Revision(ctx)
}

// Close ends the session of a token and returns the revision of that write, 0
// when there was nothing to end.
func (m *Manager) Close(ctx context.Context, tenant string, token Token) (int64, error) {
	if token.IsZero() {
		return 0, nil
	}
	once, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	d := token.Digest(tenant)
	revision, found, err := m.store.Delete(once, tenant, d)
	if err != nil {
		return 0, err
	}
	if m.view != nil {
		m.view.forget(d) // also when another node ended it first
	}
	if !found {
		return 0, nil
	}
	m.settle(ctx, revision)
	return revision, nil
}

// settle waits until this node no longer knows what the write at revision ended.
// The other nodes follow within milliseconds; here nobody shall meet a session
// that was just reported ended.
func (m *Manager) settle(ctx context.Context, revision int64) {
	if m.view != nil {
		m.view.await(ctx, revision)
	}
}

// CloseID ends the session with that handle. ErrNotFound when there is none.
func (m *Manager) CloseID(ctx context.Context, tenant string, id ID) (int64, error) {
	once, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	revision, found, err := m.store.DeleteID(once, tenant, id)
	if err == nil && !found {
		err = ErrNotFound
	}
	if err != nil {
		return 0, err
	}
	m.settle(ctx, revision)
	return revision, nil
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

// List returns up to limit live sessions that match f, after the given ID, and
// the ID to go on from, "" at the end. A page may hold fewer than limit and
// still not be the last. It is in the order its sessions were made; pages are in
// no order of time.
func (m *Manager) List(ctx context.Context, tenant string, f Filter, after ID, limit int) (list []Session, next ID, err error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	list, next, err = m.store.List(ctx, tenant, f, after, limit)
	if err != nil {
		return nil, "", err
	}
	now := time.Now()
	list = slices.DeleteFunc(list, func(s Session) bool { return !s.Live(now) })
	slices.SortFunc(list, Older)
	return list, next, nil
}

// How many sessions one step, and one call, of Revoke end where each must be
// ended by itself, and how long a call goes on.
const (
	revokeStep = 200
	revokeCall = 10_000
	revokeTime = 5 * time.Second
)

// revocation is what a Revoke was asked for.
type revocation struct {
	tenant string
	filter Filter
	except ID
}

// revokedYet is how far a revocation came whose call had to end.
type revokedYet struct {
	next ID
	left bool // some that have changed meanwhile
	when time.Time
}

// How many revocations that had to end are remembered, and for how long.
const (
	maxRevoking = 1000
	resumeTime  = time.Minute
)

// Revoke ends sessions that match f, but for except when set. It tells how
// many, and whether to call again. Idempotent. What it has ended stays ended
// when it fails half-way.
//
// All sessions of a tenant or of a verifier end by one write, whatever their
// number; n is then what the index counted. Where the store takes no puts, and
// for a subject, they are deleted one by one.
func (m *Manager) Revoke(ctx context.Context, tenant string, f Filter, except ID) (n int, more bool, revision int64, err error) {
	if f.Subject == "" && except == "" {
		n, revision, failed := m.bump(ctx, tenant, f)
		if failed == nil {
			m.settle(ctx, revision)
			return n, false, revision, nil
		}
		m.log.Warn("sessions could not be ended by an epoch; deleting them", "err", failed)
	}
	what := revocation{tenant, f, except}
	at := m.resume(what)
	began := time.Now()
	for more = true; more && n < revokeCall && time.Since(began) < revokeTime; {
		step, cancel := context.WithTimeout(ctx, m.timeout)
		done, failed := m.store.DeleteAll(step, tenant, f, except, at.next, revokeStep)
		cancel()
		n, revision = n+done.N, max(revision, done.Revision)
		at.left = at.left || done.Left
		if failed != nil {
			err = failed
			break
		}
		at.next, more = done.Next, done.Next != ""
	}
	if more {
		m.remember(what, at)
	}
	m.settle(ctx, revision)
	return n, more || at.left, revision, err
}

// resume is where a revocation goes on that had to end a moment ago: from the
// start again, a verifier's few sessions among a million were never come to. Only
// what an epoch ends otherwise is resumed: that no epoch could be put says that no
// session could, so that none was made behind it since.
func (m *Manager) resume(what revocation) revokedYet {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.revoking[what]
	delete(m.revoking, what)
	if time.Since(at.when) > resumeTime {
		return revokedYet{}
	}
	return at
}

// remember keeps how far a revocation came.
func (m *Manager) remember(what revocation, at revokedYet) {
	if what.filter.Subject != "" || what.except != "" {
		return
	}
	at.when = time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.revoking) >= maxRevoking {
		clear(m.revoking) // those calls begin again
	}
	m.revoking[what] = at
}

func (m *Manager) bump(ctx context.Context, tenant string, f Filter) (int, int64, error) {
	once, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	revision, err := m.store.BumpEpoch(once, tenant, f)
	if err != nil {
		return 0, 0, err
	}
	n, err := m.Count(ctx, tenant, f)
	if err != nil {
		m.log.Warn("sessions have ended, but could not be counted", "err", err)
	}
	return n, revision, nil
}

// Count tells how many sessions of the tenant the index has for f. Some of them
// may have ended.
func (m *Manager) Count(ctx context.Context, tenant string, f Filter) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	return m.store.Count(ctx, tenant, f)
}

// RevokeEverybody ends every session of every tenant, by one write.
func (m *Manager) RevokeEverybody(ctx context.Context) (int64, error) {
	once, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	revision, err := m.store.BumpEpoch(once, "", Filter{})
	if err != nil {
		return 0, err
	}
	m.settle(ctx, revision)
	return revision, nil
}

// removeTime bounds the removal of a tenant: a million sessions take a while.
const removeTime = time.Minute

// RemoveTenant removes everything of a tenant: sessions, indexes, challenges.
// What it has not come to when its time is over the next call removes.
func (m *Manager) RemoveTenant(ctx context.Context, tenant string) error {
	ctx, cancel := context.WithTimeout(ctx, removeTime)
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
