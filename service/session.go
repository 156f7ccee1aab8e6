package service

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/doorward/doorward/sessions"
)

// Validate tells whose session a token stands for. atLeast, when above zero,
// asks that every write up to that revision is seen: sessions.ErrRevision when
// the store is not that far. sessions.ErrNotFound when there is no such
// session, sessions.ErrUnavailable when that cannot be decided; where the
// tenant allows it, the answer may then be an old one, and is marked so.
func (s *Service) Validate(ctx context.Context, d Door, token sessions.Token, atLeast int64) (sessions.Session, error) {
	t, err := s.inside(d)
	if err != nil {
		return sessions.Session{}, err
	}
	return s.find(ctx, t, token, sessions.Reading{AtLeast: atLeast, WithoutQuorum: t.Bounded()})
}

// Rotate gives the holder of a token another one for the same session. The old
// one dies half a minute later. sessions.ErrNotFound when there is no session.
func (s *Service) Rotate(ctx context.Context, d Door, token sessions.Token) (sessions.Token, sessions.Session, error) {
	t, err := s.inside(d)
	if err != nil {
		return sessions.Token{}, sessions.Session{}, err
	}
	next, session, err := s.Sessions.Rotate(ctx, t.UUID, token)
	if err != nil {
		return sessions.Token{}, sessions.Session{}, fmt.Errorf("rotate session: %w", err)
	}
	return next, session, nil
}

// Logout ends the session of a token and returns the revision of that write, 0
// when there was nothing to end.
func (s *Service) Logout(ctx context.Context, d Door, token sessions.Token) (int64, error) {
	t, err := s.Tenant(d)
	if err != nil {
		return 0, err
	}
	revision, err := s.Sessions.Close(ctx, t.UUID, token)
	if err != nil {
		return 0, fmt.Errorf("close session: %w", err)
	}
	return revision, nil
}

// OwnSessions lists what the holder of a token has open, and which of them is
// the token's own. atLeast is as for Validate.
func (s *Service) OwnSessions(ctx context.Context, d Door, token sessions.Token, atLeast int64) (list []sessions.Session, current sessions.ID, err error) {
	t, own, err := s.holder(ctx, d, token, sessions.Reading{AtLeast: atLeast})
	if err != nil {
		return nil, "", err
	}
	for after := sessions.ID(""); ; {
		page, next, err := s.Sessions.List(ctx, t.UUID, sessions.Filter{Subject: own.Subject}, after, 200)
		if err != nil {
			return nil, "", fmt.Errorf("list sessions: %w", err)
		}
		list = append(list, page...)
		if next == "" {
			slices.SortFunc(list, sessions.Older) // each page is, by itself
			return list, own.ID, nil
		}
		after = next
	}
}

// EndOwn ends one session of the token's own subject, and tells whether it was
// the token's own. sessions.ErrNotFound for any other, ErrNoSession when the
// token itself stands for none.
func (s *Service) EndOwn(ctx context.Context, d Door, token sessions.Token, id sessions.ID) (revision int64, current bool, err error) {
	t, own, err := s.holder(ctx, d, token, sessions.Reading{})
	if errors.Is(err, sessions.ErrNotFound) {
		return 0, false, ErrNoSession
	}
	if err != nil {
		return 0, false, err
	}
	revision, err = s.Sessions.CloseOwn(ctx, t.UUID, own.Subject, id)
	return revision, id == own.ID, err
}

// EndOthers ends every session of the token's subject but the token's own.
func (s *Service) EndOthers(ctx context.Context, d Door, token sessions.Token) (Revoked, error) {
	t, own, err := s.holder(ctx, d, token, sessions.Reading{})
	if err != nil {
		return Revoked{}, err
	}
	return s.revoke(ctx, t.UUID, sessions.Filter{Subject: own.Subject}, own.ID)
}

// ErrNoSession: the caller's own token stands for no session. It is told apart
// from sessions.ErrNotFound where a verb is about another session.
var ErrNoSession = errors.New("caller has no session")

// Revoked tells how far a revoke of many came.
type Revoked struct {
	Processed int
	More      bool // call again
	Revision  int64
}

func (s *Service) revoke(ctx context.Context, tenant string, f sessions.Filter, except sessions.ID) (Revoked, error) {
	n, more, revision, err := s.Sessions.Revoke(ctx, tenant, f, except)
	if err != nil {
		return Revoked{}, fmt.Errorf("revoke sessions: %w", err)
	}
	return Revoked{Processed: n, More: more, Revision: revision}, nil
}
