package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/tenants"
)

// What a verb can say besides the nouns' own sentinels.
var (
	// ErrNoDoor: no tenant behind that host or id.
	ErrNoDoor = errors.New("no tenant at this address")

	// ErrDenied: the credential is not good. Unknown user, wrong password,
	// locked and disabled are this one answer.
	ErrDenied = errors.New("login denied")

	// ErrChallenge: the answer is wrong, or there is no such challenge any more.
	ErrChallenge = errors.New("challenge failed")

	// ErrVerifier: no verdict could be had; nothing is known about the credential.
	ErrVerifier = errors.New("no verdict")

	// ErrSuspended: the tenant may not sign anybody in.
	ErrSuspended = errors.New("tenant is suspended")
)

// Verifier decides logins. *plugins.Host is one; a func in tests is the other.
type Verifier interface {
	// Verify returns a checked verdict, or an error that wraps
	// plugins.ErrVerifier. A rejection is a verdict, not an error.
	Verify(ctx context.Context, c plugins.Call) (plugins.Answer, error)
}

// VerifierFunc lets a function decide logins.
type VerifierFunc func(ctx context.Context, c plugins.Call) (plugins.Answer, error)

// Verify calls f.
func (f VerifierFunc) Verify(ctx context.Context, c plugins.Call) (plugins.Answer, error) {
	return f(ctx, c)
}

// Service carries out the verbs. Its fields are the nouns; all are required,
// but that a service without operators may leave Source and Catalog nil.
type Service struct {
	Tenants  *tenants.Registry // what is read
	Source   tenants.Source    // what operators write
	Sessions *sessions.Manager
	Verifier Verifier
	Catalog  *plugins.Catalog
	Log      *slog.Logger
}

// Door is how a caller came: by a tenant's own host, or by its id under the
// shared host. Exactly one is set.
type Door struct {
	Host string // normalised by tenants.NormalizeHost
	ID   string
}

// Base is the path prefix of the door: "" at a tenant's own host, "/t/{id}"
// under the shared one.
func (d Door) Base() string {
	if d.Host != "" {
		return ""
	}
	return "/t/" + d.ID
}

// Tenant finds whose door it is. ErrNoDoor when nobody's; a suspended tenant
// is found, because signing out of it still works.
func (s *Service) Tenant(d Door) (tenants.Tenant, error) {
	find, name := s.Tenants.ByID, d.ID
	if d.Host != "" {
		find, name = s.Tenants.ByHost, d.Host
	}
	t, ok := find(name)
	if !ok {
		return tenants.Tenant{}, ErrNoDoor
	}
	return t, nil
}

// open is Tenant for the verbs that a suspended tenant may not do.
func (s *Service) open(d Door) (tenants.Tenant, error) {
	t, err := s.Tenant(d)
	if err != nil {
		return t, err
	}
	if t.State != tenants.Active {
		return t, ErrSuspended
	}
	return t, nil
}

// inside is open for the verbs of who is signed in. Nobody is at a suspended
// tenant, and that is the published answer: 401, not 403.
func (s *Service) inside(d Door) (tenants.Tenant, error) {
	t, err := s.open(d)
	if errors.Is(err, ErrSuspended) {
		return t, sessions.ErrNotFound
	}
	return t, err
}

// holder finds the session that a token stands for, read as how says, and whose
// door it is at.
func (s *Service) holder(ctx context.Context, d Door, token sessions.Token, how sessions.Reading) (tenants.Tenant, sessions.Session, error) {
	t, err := s.inside(d)
	if err != nil {
		return t, sessions.Session{}, err
	}
	found, err := s.find(ctx, t, token, how)
	return t, found, err
}

func (s *Service) find(ctx context.Context, t tenants.Tenant, token sessions.Token, how sessions.Reading) (sessions.Session, error) {
	found, err := s.Sessions.Find(ctx, t.UUID, token, how)
	if err != nil {
		return sessions.Session{}, fmt.Errorf("find session: %w", err)
	}
	return found, nil
}
