package tenants_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/tenants"
)

// inBubble runs test with a running Registry over Memory, in fake time.
func inBubble(t *testing.T, test func(t *testing.T, source *tenants.Memory, r *tenants.Registry)) {
	synctest.Test(t, func(t *testing.T) {
		source := tenants.NewMemory()
		r := tenants.NewRegistry(source, tenants.RegistryConfig{PublicHost: "login.example"})
		running(t, r, func() { test(t, source, r) })
	})
}

// running does what it is given while r runs.
func running(t *testing.T, r *tenants.Registry, do func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	}()
	do()
}

// create makes a tenant and waits until the registry knows it.
func create(t *testing.T, source tenants.Source, r *tenants.Registry, wanted tenants.Tenant) tenants.Tenant {
	t.Helper()
	made, err := r.New(wanted)
	if err == nil {
		made, err = source.Create(t.Context(), made)
	}
	if err == nil {
		err = r.WaitFor(t.Context(), made.Revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func update(t *testing.T, source tenants.Source, r *tenants.Registry, changed tenants.Tenant) tenants.Tenant {
	t.Helper()
	changed, err := source.Update(t.Context(), changed)
	if err == nil {
		err = r.WaitFor(t.Context(), changed.Revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

func TestTheRegistryFollowsItsSource(t *testing.T) {
	inBubble(t, func(t *testing.T, source *tenants.Memory, r *tenants.Registry) {
		acme := create(t, source, r, tenants.Tenant{ID: "acme", Hosts: []string{"Old.Acme.test"}})
		if got, ok := r.ByHost("old.acme.test"); !ok || got.UUID != acme.UUID {
			t.Fatalf("by host: %v %v", got, ok)
		}
		acme.Name, acme.Hosts = "Acme Ltd", []string{"new.acme.test"}
		acme = update(t, source, r, acme)
		if got, ok := r.ByID("acme"); !ok || got.Name != "Acme Ltd" || got.Revision != acme.Revision {
			t.Errorf("by id: %+v %v", got, ok)
		}
		if _, ok := r.ByHost("old.acme.test"); ok {
			t.Error("a host that was let go still leads here")
		}
		if got, ok := r.ByHost("new.acme.test"); !ok || got.UUID != acme.UUID {
			t.Errorf("the new host leads to %v", got)
		}
		if err := source.Remove(t.Context(), acme.UUID); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, ok := r.ByID("acme"); ok {
			t.Error("a removed tenant is found by its id")
		}
		if _, ok := r.ByHost("new.acme.test"); ok {
			t.Error("a removed tenant is found by its host")
		}
	})
}

func TestATenantBeingDeletedIsNotFoundButKnown(t *testing.T) {
	inBubble(t, func(t *testing.T, source *tenants.Memory, r *tenants.Registry) {
		acme := create(t, source, r, tenants.Tenant{ID: "acme", Hosts: []string{"acme.test"}})
		create(t, source, r, tenants.Tenant{ID: "other"})
		acme.State = tenants.Deleting
		update(t, source, r, acme)
		if _, ok := r.ByID("acme"); ok {
			t.Error("found by its id")
		}
		if _, ok := r.ByHost("acme.test"); ok {
			t.Error("found by its host")
		}
		if list, _ := r.List("", 10); len(list) != 1 || list[0].ID != "other" {
			t.Errorf("listed: %v", list)
		}
		if list := r.Deleting(); len(list) != 1 || list[0].UUID != acme.UUID {
			t.Errorf("Deleting = %v", list)
		}
	})
}

// A re-created id must not lose its place when the last of the old one goes.
func TestTheEndOfAnOldTenantTakesNothingFromItsSuccessor(t *testing.T) {
	inBubble(t, func(t *testing.T, source *tenants.Memory, r *tenants.Registry) {
		old := create(t, source, r, tenants.Tenant{ID: "acme", Hosts: []string{"acme.test"}})
		if err := source.Remove(t.Context(), old.UUID); err != nil {
			t.Fatal(err)
		}
		successor := create(t, source, r, tenants.Tenant{ID: "acme", Hosts: []string{"acme.test"}})
		if successor.UUID == old.UUID {
			t.Fatal("the uuid was used again")
		}
		if got, _ := r.ByID("acme"); got.UUID != successor.UUID {
			t.Errorf("the id leads to %s", got.UUID)
		}
		if got, _ := r.ByHost("acme.test"); got.UUID != successor.UUID {
			t.Errorf("the host leads to %s", got.UUID)
		}
	})
}

func TestListsComeInPagesInOrderOfIDs(t *testing.T) {
	inBubble(t, func(t *testing.T, source *tenants.Memory, r *tenants.Registry) {
		want := []string{"a", "a-b", "aa", "b", "c1", "c10", "c2"}
		for _, i := range []int{3, 0, 6, 2, 5, 1, 4} {
			create(t, source, r, tenants.Tenant{ID: want[i]})
		}
		for limit := 1; limit <= len(want)+1; limit++ {
			var got []string
			for after := ""; ; {
				list, next := r.List(after, limit)
				if len(list) > limit {
					t.Fatalf("%d in a page of %d", len(list), limit)
				}
				for _, one := range list {
					got = append(got, one.ID)
				}
				if next == "" {
					break
				}
				after = next
			}
			if !slices.Equal(got, want) {
				t.Errorf("in pages of %d: %v, want %v", limit, got, want)
			}
		}
		// A page may begin after an id that is gone meanwhile.
		if list, _ := r.List("a-c", 1); len(list) != 1 || list[0].ID != "aa" {
			t.Errorf("after a-c: %v", list)
		}
	})
}

func TestAKeyOpensUntilItExpiresOrIsRevoked(t *testing.T) {
	inBubble(t, func(t *testing.T, source *tenants.Memory, r *tenants.Registry) {
		short, ever := tenants.NewKeySecret(), tenants.NewKeySecret()
		expires := time.Now().Add(time.Hour)
		for _, k := range []tenants.Key{
			{ID: "short", Kind: "operator", Digest: short.Digest(), ExpiresAt: expires},
			{ID: "ever", Kind: "operator", Digest: ever.Digest()},
		} {
			if err := source.PutKey(t.Context(), k); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		opens := func(want bool, secret tenants.KeySecret) {
			t.Helper()
			if k, ok := r.FindKey(secret); ok != want || ok && k.Kind != "operator" {
				t.Errorf("FindKey = %+v %v, want %v", k, ok, want)
			}
		}
		opens(true, short)
		opens(true, ever)
		opens(false, tenants.NewKeySecret())
		opens(false, tenants.KeySecret{})
		time.Sleep(time.Until(expires) - time.Nanosecond)
		opens(true, short)
		time.Sleep(time.Nanosecond)
		opens(false, short)
		time.Sleep(1000 * time.Hour)
		opens(true, ever)
		renewed := tenants.NewKeySecret() // under the same id: the old secret is none any more
		if err := source.PutKey(t.Context(), tenants.Key{ID: "ever", Kind: "operator", Digest: renewed.Digest()}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		opens(false, ever)
		opens(true, renewed)
		if err := source.DeleteKey(t.Context(), "ever"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		opens(false, renewed)
	})
}

func TestBeforeItsFirstLoadARegistryKnowsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := tenants.NewMemory()
		r := tenants.NewRegistry(source, tenants.RegistryConfig{})
		acme, err := r.New(tenants.Tenant{ID: "acme"})
		if err == nil {
			_, err = source.Create(t.Context(), acme)
		}
		if err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.WaitReady(short); !errors.Is(err, tenants.ErrUnavailable) {
			t.Errorf("WaitReady without Run: %v", err)
		}
		if _, ok := r.ByID("acme"); ok {
			t.Error("it knows somebody")
		}
		running(t, r, func() {
			if err := r.WaitReady(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, ok := r.ByID("acme"); !ok {
				t.Error("after the load it does not know acme")
			}
			soon, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := r.WaitFor(soon, 1000); !errors.Is(err, tenants.ErrUnavailable) {
				t.Errorf("WaitFor a revision that never comes: %v", err)
			}
		})
	})
}

// flaky is a source that can lose its watch and refuse loads.
type flaky struct {
	*tenants.Memory
	lose   chan struct{} // a value ends the watch
	refuse int           // so many loads fail
	loads  []time.Time
}

func (f *flaky) Load(ctx context.Context) (tenants.Contents, error) {
	f.loads = append(f.loads, time.Now())
	if f.refuse > 0 {
		f.refuse--
		return tenants.Contents{}, tenants.ErrUnavailable
	}
	return f.Memory.Load(ctx)
}

func (f *flaky) Watch(ctx context.Context, revision int64, apply func(tenants.Change)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- f.Memory.Watch(ctx, revision, apply) }()
	select {
	case <-f.lose:
		cancel()
		<-ended
		return errors.New("stream lost")
	case err := <-ended:
		return err
	}
}

func TestALostWatchIsLoadedAgainAndTheLastSnapshotStandsMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &flaky{Memory: tenants.NewMemory(), lose: make(chan struct{})}
		r := tenants.NewRegistry(source, tenants.RegistryConfig{})
		running(t, r, func() {
			gone := create(t, source, r, tenants.Tenant{ID: "gone"})
			source.refuse = 5
			source.lose <- struct{}{}
			synctest.Wait() // it pauses
			if err := source.Remove(t.Context(), gone.UUID); err != nil {
				t.Fatal(err)
			}
			if _, ok := r.ByID("gone"); !ok {
				t.Error("the last snapshot does not stand")
			}
			create(t, source, r, tenants.Tenant{ID: "new"}) // waits until it is loaded
			if _, ok := r.ByID("gone"); ok {
				t.Error("what went while the watch was lost is still there")
			}
			if n := len(source.loads); n != 7 {
				t.Fatalf("%d loads, want the first, five that failed and one more", n)
			}
			for i := 2; i < len(source.loads); i++ {
				if pause := source.loads[i].Sub(source.loads[i-1]); pause < 50*time.Millisecond || pause > 10*time.Second {
					t.Errorf("%v between two loads", pause)
				}
			}
		})
	})
}

// A snapshot is never written after it is published: who holds a tenant may
// read it while the next one comes.
func TestATenantThatWasReadDoesNotChange(t *testing.T) {
	inBubble(t, func(t *testing.T, source *tenants.Memory, r *tenants.Registry) {
		acme := create(t, source, r, tenants.Tenant{ID: "acme", Hosts: []string{"h0.test"}})
		held, _ := r.ByID("acme")
		list, _ := r.List("", 10)
		acme.Hosts, acme.Name = []string{"h1.test"}, "changed"
		update(t, source, r, acme)
		create(t, source, r, tenants.Tenant{ID: "a"})
		if held.Hosts[0] != "h0.test" || held.Name != "acme" || list[0].Hosts[0] != "h0.test" || len(list) != 1 {
			t.Errorf("held %+v, listed %+v", held, list)
		}
	})
}

func TestANewTenantIsCheckedAndFilled(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *tenants.Memory, r *tenants.Registry) {
		made, err := r.New(tenants.Tenant{ID: "acme"})
		if err != nil {
			t.Fatal(err)
		}
		policy := tenants.Policy{Idle: 30 * time.Minute, Absolute: 12 * time.Hour, Remember: 720 * time.Hour, MaxPerSubject: 10}
		if made.Name != "acme" || made.State != tenants.Active || made.Session != policy || made.WithoutQuorum != "fail-closed" || !made.CreatedAt.Equal(time.Now()) {
			t.Errorf("made %+v", made)
		}
		other, err := r.New(tenants.Tenant{ID: "acme"})
		if err != nil || other.UUID == made.UUID || len(made.UUID) != 36 || made.UUID[14] != '4' || !strings.ContainsRune("89ab", rune(made.UUID[19])) {
			t.Errorf("uuids %s and %s, %v", made.UUID, other.UUID, err)
		}
		if _, err := r.New(tenants.Tenant{ID: "acme", Hosts: []string{"LOGIN.example."}}); err == nil {
			t.Error("the shared host was given to a tenant")
		}
	})
}
