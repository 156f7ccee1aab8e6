package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// grace is how long a token that was rotated away still opens its session, for
// the requests that were on their way with it (SR D6).
const grace = 30 * time.Second

// rotateTries bounds how often a rotation that lost to another write is tried.
const rotateTries = 5

// Rotate gives the holder of a token another one for the same session, and
// counts as a use. The old token is good for 30 seconds more; who rotates it
// once again meanwhile gets the same successor, or what that has led to since,
// so that two tabs of one browser end up with one session. ErrNotFound when the
// token stands for no live session.
func (m *Manager) Rotate(ctx context.Context, tenant string, token Token) (Token, Session, error) {
	if token.IsZero() {
		return Token{}, Session{}, ErrNotFound
	}
	if m.lost() {
		return Token{}, Session{}, fmt.Errorf("rotate session: %w", ErrUnavailable)
	}
	for try := 1; ; try++ {
		next, s, err := m.rotate(ctx, tenant, token)
		// Unavailable: it may have been written, which the next try will see.
		// Changed: a renewal or another rotation came first.
		again := errors.Is(err, ErrUnavailable) || errors.Is(err, errChanged)
		if !again {
			return next, s, err
		}
		if try == rotateTries || ctx.Err() != nil || m.lost() {
			return Token{}, Session{}, fmt.Errorf("rotate session: %w: %w", ErrUnavailable, err)
		}
	}
}

// errChanged: the record was written between reading and rotating it.
var errChanged = errors.New("session has changed meanwhile")

func (m *Manager) rotate(ctx context.Context, tenant string, token Token) (Token, Session, error) {
	ctx, cancel := context.WithTimeout(ctx, createTime)
	defer cancel()
	d := token.Digest(tenant)
	was, err := m.store.Find(ctx, tenant, d)
	if err != nil {
		return Token{}, Session{}, err
	}
	if was.Superseded() {
		if _, err := m.superseded(ctx, was); err != nil {
			return Token{}, Session{}, err
		}
		return m.latest(ctx, tenant, token.Successor(was.Salt))
	}
	now := instant()
	if !was.Live(now) {
		return Token{}, Session{}, ErrNotFound
	}
	s := was
	s.IssuedAt, s.LastSeenAt = now, now
	s.IdleExpiresAt = earlier(now.Add(s.Idle), s.ExpiresAt)
	was.RotatedAt, was.Salt = now, NewSalt()
	next := token.Successor(was.Salt)
	revision, err := m.store.Rotate(ctx, Rotation{Old: d, Was: was, New: next.Digest(tenant), Next: s})
	if errors.Is(err, ErrNotFound) {
		return Token{}, Session{}, errChanged
	}
	if err != nil {
		return Token{}, Session{}, err
	}
	s.Revision, s.Born = revision, revision
	return next, s, nil
}

// latest follows a token to the one that its session is under now. A successor
// may have been rotated away too, and handing it out with what is left of its
// grace would make a thief of its holder. Whose predecessor is within its grace
// is so itself.
func (m *Manager) latest(ctx context.Context, tenant string, token Token) (Token, Session, error) {
	for {
		s, err := m.store.Find(ctx, tenant, token.Digest(tenant))
		if err == nil && s.Superseded() {
			token = token.Successor(s.Salt)
			continue
		}
		if err == nil && !s.Live(time.Now()) {
			err = ErrNotFound
		}
		if err != nil {
			return Token{}, Session{}, err
		}
		return token, s, nil
	}
}

// superseded is what a token that was rotated away still stands for: its
// session, for a while. Later than that somebody kept the token, and it cannot
// be told whether the thief has the old one or the new one, so the session
// ends.
func (m *Manager) superseded(ctx context.Context, was Session) (Session, error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	now := time.Now()
	s, err := m.store.FindID(ctx, was.Tenant, was.ID)
	if err == nil && !s.Live(now) {
		err = ErrNotFound // it ended by itself: nobody is to be warned of
	}
	if err != nil {
		return Session{}, err
	}
	if now.Before(was.RotatedAt.Add(grace)) {
		return s, nil
	}
	_, found, err := m.store.DeleteID(ctx, was.Tenant, was.ID)
	if err != nil {
		m.log.Error("a token was used again after its rotation, and its session could not be ended", "tenant", was.Tenant, "session", was.ID, "err", err)
		return Session{}, err
	}
	if found {
		m.counts.reused.Add(1)
		m.log.Warn("a token was used again after its rotation; its session has ended", "tenant", was.Tenant, "session", was.ID)
	}
	return Session{}, ErrNotFound
}
