package service_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/service"
	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/tenants"
)

// behind is a source whose watch can be held, and which counts tries to update.
type behind struct {
	*tenants.Memory
	held    chan struct{}
	updates int
}

func (b *behind) Watch(ctx context.Context, revision int64, apply func(tenants.Change)) error {
	return b.Memory.Watch(ctx, revision, func(c tenants.Change) {
		if b.held != nil {
			<-b.held
		}
		apply(c)
	})
}

func (b *behind) Update(ctx context.Context, t tenants.Tenant) (tenants.Tenant, error) {
	if b.updates++; b.updates > 10 {
		return tenants.Tenant{}, errors.New("it asks without end")
	}
	return b.Memory.Update(ctx, t)
}

// An edit that met another node's change once asked the store again and again,
// as fast as it could, until the watch had brought that change.
func TestAnEditThatCameSecondWaitsForTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &behind{Memory: tenants.NewMemory()}
		registry := tenants.NewRegistry(source, tenants.RegistryConfig{})
		ctx, cancel := context.WithCancel(t.Context())
		defer func() { cancel(); synctest.Wait() }()
		go registry.Run(ctx)
		s := &service.Service{Tenants: registry, Source: source}
		acme, err := registry.New(tenants.Tenant{ID: "acme"})
		if err == nil {
			acme, err = s.CreateTenant(ctx, acme)
		}
		if err == nil { // which takes the registry past the tenant's own revision
			err = source.PutKey(ctx, tenants.Key{ID: "k"})
		}
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()

		source.held = make(chan struct{})
		first := acme
		first.WithoutQuorum = "bounded:9"
		if _, err := source.Memory.Update(ctx, first); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := s.UpdateTenant(ctx, "acme", 0, func(t *tenants.Tenant) error { t.Name = "Acme Ltd"; return nil })
			done <- err
		}()
		synctest.Wait()
		if source.updates != 1 {
			t.Errorf("%d tries while the change was not there, want 1", source.updates)
		}
		close(source.held)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got, _ := registry.ByID("acme"); got.Name != "Acme Ltd" || got.WithoutQuorum != "bounded:9" {
			t.Errorf("the tenant is %+v, want both edits", got)
		}
	})
}

// stuck is a source that cannot remove one of its tenants.
type stuck struct {
	*tenants.Memory
	uuid string
}

func (s stuck) Remove(ctx context.Context, uuid string) error {
	if uuid == s.uuid {
		return tenants.ErrUnavailable
	}
	return s.Memory.Remove(ctx, uuid)
}

// A delete that could not be finished once kept all later ones from it, and the
// node from starting.
func TestADeleteThatCannotBeFinishedHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &stuck{Memory: tenants.NewMemory()}
		registry := tenants.NewRegistry(source, tenants.RegistryConfig{})
		ctx, cancel := context.WithCancel(t.Context())
		defer func() { cancel(); synctest.Wait() }()
		go registry.Run(ctx)
		artifacts, err := plugins.NewDir(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		s := &service.Service{
			Tenants: registry, Source: source, Log: slog.New(slog.DiscardHandler),
			Sessions: sessions.New(sessions.NewMemory(), nil, sessions.Config{}),
			Catalog:  plugins.NewCatalog(artifacts, plugins.NewHost(nil, plugins.Settings{}, nil), plugins.CatalogConfig{}),
		}
		for _, id := range []string{"a", "b"} {
			made, err := registry.New(tenants.Tenant{ID: id})
			if err != nil {
				t.Fatal(err)
			}
			made.State = tenants.Deleting
			if made, err = source.Create(ctx, made); err != nil {
				t.Fatal(err)
			}
			if id == "a" {
				source.uuid = made.UUID
			}
		}
		synctest.Wait()
		if err := s.ResumeDeletes(ctx); !errors.Is(err, tenants.ErrUnavailable) {
			t.Errorf("ResumeDeletes: %v, want ErrUnavailable for a", err)
		}
		synctest.Wait()
		if left := registry.Deleting(); len(left) != 1 || left[0].ID != "a" {
			t.Errorf("left over: %+v, want a alone", left)
		}
	})
}
