package service

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/tenants"
)

// CreateTenant stores a new tenant and returns it once this node's registry
// knows it, so that its creator can sign in at once.
func (s *Service) CreateTenant(ctx context.Context, t tenants.Tenant) (tenants.Tenant, error) {
	made, err := s.Source.Create(ctx, t)
	if err != nil {
		return tenants.Tenant{}, fmt.Errorf("create tenant: %w", err)
	}
	return made, s.seen(ctx, made.Revision)
}

// UpdateTenant changes a tenant by edit. revision, when above zero, is what the
// caller saw: tenants.ErrChanged when it is no longer that. Without it the
// edit is tried again on what is there.
func (s *Service) UpdateTenant(ctx context.Context, id string, revision int64, edit func(*tenants.Tenant) error) (tenants.Tenant, error) {
	for {
		t, ok := s.Tenants.ByID(id)
		if !ok {
			return tenants.Tenant{}, tenants.ErrNotFound
		}
		if revision > 0 && t.Revision != revision {
			return tenants.Tenant{}, tenants.ErrChanged
		}
		uuid, seen := t.UUID, t.Revision
		if err := edit(&t); err != nil {
			return tenants.Tenant{}, err
		}
		t.UpdatedAt = time.Now().UTC()
		changed, err := s.Source.Update(ctx, t)
		if errors.Is(err, tenants.ErrChanged) && revision == 0 {
			if err := s.Tenants.WaitPast(ctx, uuid, seen); err != nil {
				return tenants.Tenant{}, fmt.Errorf("wait for registry: %w", err)
			}
			continue
		}
		if err != nil {
			return tenants.Tenant{}, fmt.Errorf("update tenant: %w", err)
		}
		return changed, s.seen(ctx, changed.Revision)
	}
}

// Suspend stops a tenant's logins and ends its sessions. Where the store takes
// no puts, the sessions end all the same, and the error says that the state
// could not be written.
func (s *Service) Suspend(ctx context.Context, id string) (tenants.Tenant, error) {
	t, unwritten := s.setState(ctx, id, tenants.Suspended)
	if unwritten != nil {
		var ok bool
		if t, ok = s.Tenants.ByID(id); !ok || !errors.Is(unwritten, tenants.ErrUnavailable) {
			return tenants.Tenant{}, unwritten
		}
	}
	for {
		done, err := s.revoke(ctx, t.UUID, sessions.Filter{}, "")
		if err != nil {
			return tenants.Tenant{}, errors.Join(unwritten, err)
		}
		if !done.More {
			return t, unwritten
		}
	}
}

// Resume lets a suspended tenant sign people in again.
func (s *Service) Resume(ctx context.Context, id string) (tenants.Tenant, error) {
	return s.setState(ctx, id, tenants.Active)
}

// RotateKeys gives a tenant a new key to seal with. Its sessions go on.
func (s *Service) RotateKeys(ctx context.Context, id string) (tenants.Tenant, error) {
	t, ok := s.Tenants.ByID(id)
	if !ok {
		return tenants.Tenant{}, tenants.ErrNotFound
	}
	rotated, err := s.Source.RotateKeys(ctx, t.UUID)
	if err != nil {
		return tenants.Tenant{}, fmt.Errorf("rotate keys of tenant: %w", err)
	}
	return rotated, s.seen(ctx, rotated.Revision)
}

func (s *Service) setState(ctx context.Context, id string, state tenants.State) (tenants.Tenant, error) {
	return s.UpdateTenant(ctx, id, 0, func(t *tenants.Tenant) error {
		t.State = state
		return nil
	})
}

// DeleteTenant deletes a tenant and everything that was its own. The mark is
// the decision: from then on nobody finds the tenant, and ResumeDeletes
// finishes what a crash interrupts. Asking again for a tenant that is only
// half gone finishes it too.
func (s *Service) DeleteTenant(ctx context.Context, id string, revision int64) error {
	for _, t := range s.Tenants.Deleting() {
		if t.ID == id {
			return s.finishDelete(ctx, t)
		}
	}
	t, err := s.UpdateTenant(ctx, id, revision, func(t *tenants.Tenant) error {
		t.State = tenants.Deleting
		return nil
	})
	if err != nil {
		return err
	}
	return s.finishDelete(ctx, t)
}

// ResumeDeletes finishes every delete that did not come to its end. One that
// cannot be finished holds up none of the others; the error tells of all.
func (s *Service) ResumeDeletes(ctx context.Context) error {
	var left error
	for _, t := range s.Tenants.Deleting() {
		s.Log.Info("finishing an interrupted delete", "tenant", t.ID)
		if err := s.finishDelete(ctx, t); err != nil {
			left = errors.Join(left, fmt.Errorf("finish delete of %s: %w", t.ID, err))
		}
	}
	return left
}

// finishDelete removes what a marked tenant owns, each step idempotent, the
// tenant's own record last because it is what ResumeDeletes goes by.
func (s *Service) finishDelete(ctx context.Context, t tenants.Tenant) error {
	if err := s.Sessions.RemoveTenant(ctx, t.UUID); err != nil {
		return fmt.Errorf("remove sessions: %w", err)
	}
	if err := s.Catalog.RemoveTenant(ctx, t.UUID); err != nil {
		return fmt.Errorf("remove verifiers: %w", err)
	}
	if err := s.Source.Remove(ctx, t.UUID); err != nil {
		return fmt.Errorf("remove tenant: %w", err)
	}
	return nil
}

// UploadVerifier stages a module as t's next version. A tenant that was deleted
// while it was being compiled is tenants.ErrNotFound, and keeps nothing of it.
func (s *Service) UploadVerifier(ctx context.Context, t tenants.Tenant, module, manifest []byte) (plugins.Version, error) {
	v, err := s.Catalog.Upload(ctx, t.UUID, module, manifest)
	if err != nil {
		return plugins.Version{}, err
	}
	if now, ok := s.Tenants.ByID(t.ID); ok && now.UUID == t.UUID {
		return v, nil
	}
	if err := s.Catalog.RemoveTenant(ctx, t.UUID); err != nil {
		return plugins.Version{}, fmt.Errorf("remove verifier of deleted tenant: %w", err)
	}
	return plugins.Version{}, tenants.ErrNotFound
}

// RevokeSessions ends the sessions of a tenant that match f.
func (s *Service) RevokeSessions(ctx context.Context, tenantID string, f sessions.Filter) (Revoked, error) {
	t, ok := s.Tenants.ByID(tenantID)
	if !ok {
		return Revoked{}, tenants.ErrNotFound
	}
	return s.revoke(ctx, t.UUID, f, "")
}

// RevokeEverybody ends every session of every tenant, by one write. How many
// that were is counted afterwards, as well as it can be. Where the store takes
// no puts, it ends those of one tenant after the other, and may say that it is
// to be called again; what it has ended stays ended when it fails half-way.
func (s *Service) RevokeEverybody(ctx context.Context) (Revoked, error) {
	revision, err := s.Sessions.RevokeEverybody(ctx)
	if err != nil {
		s.Log.Warn("everybody's sessions could not be ended by one write; ending each tenant's", "err", err)
		return s.revokeEach(ctx)
	}
	done := Revoked{Revision: revision}
	for t := range s.everyTenant() {
		n, err := s.Sessions.Count(ctx, t.UUID, sessions.Filter{})
		if err != nil {
			return done, nil // they have ended all the same
		}
		done.Processed += n
	}
	return done, nil
}

func (s *Service) revokeEach(ctx context.Context) (Revoked, error) {
	var all Revoked
	for t := range s.everyTenant() {
		done, err := s.revoke(ctx, t.UUID, sessions.Filter{}, "")
		if err != nil {
			return Revoked{}, err
		}
		all.Processed += done.Processed
		all.Revision = max(all.Revision, done.Revision)
		if all.More = done.More; all.More {
			break
		}
	}
	return all, nil
}

// everyTenant is each tenant that the registry knows, suspended ones too.
func (s *Service) everyTenant() iter.Seq[tenants.Tenant] {
	return func(yield func(tenants.Tenant) bool) {
		for after, more := "", true; more; more = after != "" {
			var page []tenants.Tenant
			page, after = s.Tenants.List(after, 500)
			for _, t := range page {
				if !yield(t) {
					return
				}
			}
		}
	}
}

// seen waits until this node's registry has what was just written.
func (s *Service) seen(ctx context.Context, revision int64) error {
	if err := s.Tenants.WaitFor(ctx, revision); err != nil {
		return fmt.Errorf("wait for registry: %w", err)
	}
	return nil
}
