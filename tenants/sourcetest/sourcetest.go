// Package sourcetest is the exam that every tenants.Source sits. Nobody may
// skip a part of it.
package sourcetest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/tenants"
)

// Run examines a source. open gives an empty one; it is called once for each
// part.
func Run(t *testing.T, open func(t *testing.T) tenants.Source) {
	for _, part := range []struct {
		name string
		run  func(e exam)
	}{
		{"what was created is loaded", created},
		{"an id is given once, also while its tenant is being deleted", ids},
		{"a host has one tenant", hosts},
		{"of many creators at once one has the host", hostRace},
		{"an update needs the revision it saw", updates},
		{"of many updates at once one wins", updateRace},
		{"a removed tenant leaves nothing, and its id and hosts are free", removes},
		{"a config is replaced whole and is the tenant's own", config},
		{"secrets go by name and are the tenant's own", secrets},
		{"a tenant has so many secrets", secretCount},
		{"a rotation of keys loses nothing, is seen, and spares what is gone", rotates},
		{"keys come, change and go", keys},
		{"a watch tells what a load shows", watches},
		{"a watch of the past ends where a load does", watchesThePast},
		{"a watch ends with its context", watchEnds},
		{"revisions grow", revisions},
		{"a context that is over is unavailable, and nothing is written", over},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(exam{t, open(t)}) })
	}
}

type exam struct {
	*testing.T
	source tenants.Source
}

// tenant is one to store, every member set.
func tenant(id string, hosts ...string) tenants.Tenant {
	born := time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)
	return tenants.Tenant{
		UUID: fmt.Sprintf("%x", sha256.Sum256([]byte(id+time.Now().String())))[:32], ID: id, Name: "Zoë & sons", Hosts: hosts,
		Apps:          []tenants.App{{ID: "shop", Origin: "https://shop.test", ReturnURLs: []string{"https://shop.test/in"}}},
		Session:       tenants.Policy{Idle: time.Minute, Absolute: time.Hour, Remember: 2 * time.Hour, MaxPerSubject: 3},
		WithoutQuorum: "bounded:30", State: tenants.Active, CreatedAt: born, UpdatedAt: born.Add(time.Second),
	}
}

func (e exam) create(id string, hosts ...string) tenants.Tenant {
	e.Helper()
	made, err := e.source.Create(e.Context(), tenant(id, hosts...))
	if err != nil {
		e.Fatalf("create %s: %v", id, err)
	}
	return made
}

func (e exam) update(t tenants.Tenant) tenants.Tenant {
	e.Helper()
	changed, err := e.source.Update(e.Context(), t)
	if err != nil {
		e.Fatalf("update %s: %v", t.ID, err)
	}
	return changed
}

func (e exam) load() tenants.Contents {
	e.Helper()
	c, err := e.source.Load(e.Context())
	if err != nil {
		e.Fatal(err)
	}
	return c
}

// holds wants exactly these tenants in the source.
func (e exam) holds(want ...tenants.Tenant) {
	e.Helper()
	if diff := cmp.Diff(byUUID(want), byUUID(e.load().Tenants)); diff != "" {
		e.Fatalf("loaded differs (-want +got):\n%s", diff)
	}
}

func (e exam) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

func (e exam) want(want, err error) {
	e.Helper()
	if !errors.Is(err, want) {
		e.Fatalf("err = %v, want %v", err, want)
	}
}

func byUUID(list []tenants.Tenant) map[string]tenants.Tenant {
	m := map[string]tenants.Tenant{}
	for _, t := range list {
		m[t.UUID] = t
	}
	return m
}

func created(e exam) {
	e.holds()
	want := tenant("acme", "login.acme.test", "acme.test")
	got, err := e.source.Create(e.Context(), want)
	e.must(err)
	if got.Revision <= 0 {
		e.Fatalf("revision %d", got.Revision)
	}
	want.Revision = got.Revision
	if diff := cmp.Diff(want, got); diff != "" {
		e.Fatalf("returned differs (-want +got):\n%s", diff)
	}
	bare := tenants.Tenant{UUID: "bare", ID: "bare", State: tenants.Suspended}
	bare, err = e.source.Create(e.Context(), bare)
	e.must(err)
	e.holds(want, bare)
}

func ids(e exam) {
	first := e.create("acme")
	_, err := e.source.Create(e.Context(), tenant("acme"))
	e.want(tenants.ErrExists, err)
	first.State = tenants.Deleting
	first = e.update(first)
	_, err = e.source.Create(e.Context(), tenant("acme"))
	e.want(tenants.ErrExists, err)
	e.holds(first)
}

func hosts(e exam) {
	a := e.create("a", "login.test", "a.test")
	_, err := e.source.Create(e.Context(), tenant("b", "b.test", "login.test"))
	e.want(tenants.ErrHostTaken, err)
	b := e.create("b", "b.test") // the refused one has claimed nothing
	taking := b
	taking.Hosts = []string{"b.test", "login.test"}
	_, err = e.source.Update(e.Context(), taking)
	e.want(tenants.ErrHostTaken, err)
	e.holds(a, b)
	a.Hosts = []string{"a.test", "new.test"}
	a = e.update(a)
	b = e.update(taking) // a has let go of it
	e.holds(a, b)
	_, err = e.source.Create(e.Context(), tenant("c", "new.test"))
	e.want(tenants.ErrHostTaken, err)
	a.Name = "same hosts" // one's own are not taken from oneself
	e.update(a)
}

// atOnce runs do n times at the same moment and counts those without an error;
// the others must have failed with want.
func (e exam) atOnce(n int, want error, do func(i int) error) (won int) {
	e.Helper()
	var all sync.WaitGroup
	var count atomic.Int64
	start := make(chan struct{})
	for i := range n {
		all.Go(func() {
			<-start
			if err := do(i); err == nil {
				count.Add(1)
			} else if !errors.Is(err, want) {
				e.Errorf("err = %v, want %v", err, want)
			}
		})
	}
	close(start)
	all.Wait()
	return int(count.Load())
}

func hostRace(e exam) {
	won := e.atOnce(16, tenants.ErrHostTaken, func(i int) error {
		_, err := e.source.Create(e.Context(), tenant(fmt.Sprint("t", i), fmt.Sprint("t", i, ".test"), "login.test"))
		return err
	})
	if got := e.load().Tenants; won != 1 || len(got) != 1 {
		e.Fatalf("%d won and %d are there", won, len(got))
	}
}

func updates(e exam) {
	seen := e.create("acme", "acme.test")
	first := seen
	first.Name, first.State = "first", tenants.Suspended
	first = e.update(first)
	if first.Revision <= seen.Revision {
		e.Fatalf("revision %d after %d", first.Revision, seen.Revision)
	}
	second := seen
	second.Name, second.Hosts = "second", []string{"second.test"}
	_, err := e.source.Update(e.Context(), second)
	e.want(tenants.ErrChanged, err)
	e.holds(first)
	e.create("other", "second.test") // the refused update has claimed nothing
	e.must(e.source.Remove(e.Context(), first.UUID))
	_, err = e.source.Update(e.Context(), first)
	e.want(tenants.ErrChanged, err)
	if got := e.load().Tenants; len(got) != 1 {
		e.Fatalf("an update brought back what was removed: %v", got)
	}
}

func updateRace(e exam) {
	seen := e.create("acme")
	won := e.atOnce(16, tenants.ErrChanged, func(i int) error {
		mine := seen
		mine.Name, mine.Hosts = fmt.Sprint(i), []string{fmt.Sprint("h", i, ".test")}
		_, err := e.source.Update(e.Context(), mine)
		return err
	})
	got := e.load().Tenants
	if won != 1 || got[0].Revision <= seen.Revision || got[0].Hosts[0] != "h"+got[0].Name+".test" {
		e.Fatalf("%d won: %+v", won, got)
	}
}

func removes(e exam) {
	old := e.create("acme", "acme.test")
	other := e.create("other", "other.test")
	for _, t := range []tenants.Tenant{old, other} {
		e.must(e.source.PutConfig(e.Context(), t.UUID, json.RawMessage(`{"of":"`+t.ID+`"}`)))
		e.must(e.source.PutSecret(e.Context(), t.UUID, "s", tenants.Secret(t.ID)))
	}
	e.must(e.source.Remove(e.Context(), old.UUID))
	e.must(e.source.Remove(e.Context(), old.UUID))
	e.must(e.source.Remove(e.Context(), "never-was"))
	e.holds(other)
	e.want(tenants.ErrNotFound, e.source.PutConfig(e.Context(), old.UUID, json.RawMessage(`{}`)))
	e.want(tenants.ErrNotFound, e.source.PutSecret(e.Context(), old.UUID, "s", tenants.Secret("x")))
	again := e.create("acme", "acme.test")
	for _, uuid := range []string{old.UUID, again.UUID} {
		if got, err := e.source.Config(e.Context(), uuid); err != nil || string(got) != "{}" {
			e.Fatalf("config of %s: %s, %v", uuid, got, err)
		}
		if names, err := e.source.SecretNames(e.Context(), uuid); err != nil || len(names) != 0 {
			e.Fatalf("secrets of %s: %v, %v", uuid, names, err)
		}
		_, err := e.source.Secret(e.Context(), uuid, "s")
		e.want(tenants.ErrNotFound, err)
	}
	if got, err := e.source.Secret(e.Context(), other.UUID, "s"); err != nil || string(got) != "other" {
		e.Fatalf("another's secret: %d bytes, %v", len(got), err)
	}
}

func config(e exam) {
	a, b := e.create("a"), e.create("b")
	none, err := e.source.Config(e.Context(), a.UUID)
	if err != nil || string(none) != "{}" {
		e.Fatalf("before any: %s, %v", none, err)
	}
	for _, text := range []string{`{"k": "first"}`, `{"other":[1,{"ü":null}]}`, `{"big":"` + strings.Repeat("x", tenants.MaxConfig-10) + `"}`, `{}`} {
		given := []byte(text)
		e.must(e.source.PutConfig(e.Context(), a.UUID, given))
		clear(given)
		got, err := e.source.Config(e.Context(), a.UUID)
		if err != nil || string(got) != text {
			e.Fatalf("config is %.40s, %v; want %.40s", got, err, text)
		}
		clear(got)
		if again, err := e.source.Config(e.Context(), a.UUID); err != nil || string(again) != text {
			e.Fatalf("what a caller did to its copy is seen: %.40s, %v", again, err)
		}
	}
	if got, err := e.source.Config(e.Context(), b.UUID); err != nil || string(got) != "{}" {
		e.Fatalf("another's config: %s, %v", got, err)
	}
	e.want(tenants.ErrNotFound, e.source.PutConfig(e.Context(), "never-was", json.RawMessage(`{}`)))
}

func secrets(e exam) {
	a, b := e.create("a"), e.create("b")
	values := map[string]string{"pepper": "p", "pep": "other", "a.b-c_D": strings.Repeat("\x00\xff", tenants.MaxSecret/2)}
	for name, value := range values {
		given := tenants.Secret(value)
		e.must(e.source.PutSecret(e.Context(), a.UUID, name, tenants.Secret("before")))
		e.must(e.source.PutSecret(e.Context(), a.UUID, name, given))
		clear(given)
	}
	names, err := e.source.SecretNames(e.Context(), a.UUID)
	if err != nil || !slices.Equal(names, slices.Sorted(maps.Keys(values))) {
		e.Fatalf("names %v, %v", names, err)
	}
	for name, value := range values {
		if got, err := e.source.Secret(e.Context(), a.UUID, name); err != nil || string(got) != value {
			e.Fatalf("secret %s has %d bytes, %v", name, len(got), err)
		}
	}
	_, err = e.source.Secret(e.Context(), b.UUID, "pepper")
	e.want(tenants.ErrNotFound, err)
	e.must(e.source.DeleteSecret(e.Context(), b.UUID, "pepper")) // another's of that name stays
	e.must(e.source.DeleteSecret(e.Context(), a.UUID, "pep"))
	e.must(e.source.DeleteSecret(e.Context(), a.UUID, "pep"))
	_, err = e.source.Secret(e.Context(), a.UUID, "pep")
	e.want(tenants.ErrNotFound, err)
	if got, err := e.source.Secret(e.Context(), a.UUID, "pepper"); err != nil || string(got) != "p" {
		e.Fatalf("a name that begins like the deleted one: %d bytes, %v", len(got), err)
	}
	e.want(tenants.ErrNotFound, e.source.PutSecret(e.Context(), "never-was", "s", tenants.Secret("x")))
}

func secretCount(e exam) {
	a := e.create("a")
	for i := range tenants.MaxSecrets {
		e.must(e.source.PutSecret(e.Context(), a.UUID, fmt.Sprint("s", i), tenants.Secret("x")))
	}
	var invalid *tenants.Invalid
	if err := e.source.PutSecret(e.Context(), a.UUID, "one-more", tenants.Secret("x")); !errors.As(err, &invalid) {
		e.Fatalf("one secret too many: %v", err)
	}
	e.must(e.source.PutSecret(e.Context(), a.UUID, "s7", tenants.Secret("replaced")))
	e.must(e.source.DeleteSecret(e.Context(), a.UUID, "s7"))
	e.must(e.source.PutSecret(e.Context(), a.UUID, "one-more", tenants.Secret("x")))
}

func rotates(e exam) {
	a, other := e.create("a", "a.test"), e.create("b")
	e.must(e.source.PutConfig(e.Context(), a.UUID, json.RawMessage(`{"k":1}`)))
	e.must(e.source.PutSecret(e.Context(), a.UUID, "kept", tenants.Secret("x")))
	e.must(e.source.PutSecret(e.Context(), a.UUID, "gone", tenants.Secret("x")))
	e.must(e.source.DeleteSecret(e.Context(), a.UUID, "gone"))
	m := e.follow(e.load())
	for range 20 { // more than there are kept keys
		rotated, err := e.source.RotateKeys(e.Context(), a.UUID)
		e.must(err)
		if rotated.Revision <= a.Revision {
			e.Fatalf("revision %d after %d", rotated.Revision, a.Revision)
		}
		a.Revision = rotated.Revision
		if diff := cmp.Diff(a, rotated); diff != "" {
			e.Fatalf("returned differs (-want +got):\n%s", diff)
		}
	}
	e.holds(a, other)
	e.reaches(m)
	if got, err := e.source.Config(e.Context(), a.UUID); err != nil || string(got) != `{"k":1}` {
		e.Fatalf("config is %s, %v", got, err)
	}
	if got, err := e.source.Secret(e.Context(), a.UUID, "kept"); err != nil || string(got) != "x" {
		e.Fatalf("secret has %d bytes, %v", len(got), err)
	}
	_, err := e.source.Secret(e.Context(), a.UUID, "gone")
	e.want(tenants.ErrNotFound, err)

	a.State = tenants.Deleting
	a = e.update(a)
	for _, uuid := range []string{a.UUID, "never-was"} {
		_, err := e.source.RotateKeys(e.Context(), uuid)
		e.want(tenants.ErrNotFound, err)
	}
	e.must(e.source.Remove(e.Context(), a.UUID))
	_, err = e.source.RotateKeys(e.Context(), a.UUID)
	e.want(tenants.ErrNotFound, err)
	e.holds(other)
}

func key(id string, expires time.Time) tenants.Key {
	return tenants.Key{ID: id, Kind: "operator", Digest: tenants.NewKeySecret().Digest(), CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), ExpiresAt: expires}
}

func (e exam) holdsKeys(want ...tenants.Key) {
	e.Helper()
	got := e.load().Keys
	slices.SortFunc(got, func(a, b tenants.Key) int { return strings.Compare(a.ID, b.ID) })
	if diff := cmp.Diff(want, got); diff != "" && len(want)+len(got) > 0 {
		e.Fatalf("keys differ (-want +got):\n%s", diff)
	}
}

func keys(e exam) {
	a, b := key("a", time.Time{}), key("b", time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC))
	e.must(e.source.PutKey(e.Context(), a))
	e.must(e.source.PutKey(e.Context(), b))
	e.holdsKeys(a, b)
	a.Digest = tenants.NewKeySecret().Digest()
	e.must(e.source.PutKey(e.Context(), a))
	e.holdsKeys(a, b)
	e.must(e.source.DeleteKey(e.Context(), "a"))
	e.must(e.source.DeleteKey(e.Context(), "a"))
	e.holdsKeys(b)
}

// mirror follows a source as a registry does: of one change it takes first what
// is gone, then what came to be.
type mirror struct {
	mu       sync.Mutex
	tenants  map[string]tenants.Tenant
	keys     map[string]tenants.Key
	revision int64
	moved    chan struct{}
}

func (m *mirror) apply(e exam, c tenants.Change) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.Revision < m.revision {
		e.Errorf("a change of revision %d after one of %d", c.Revision, m.revision)
	}
	m.revision = c.Revision
	for _, uuid := range c.Removed {
		delete(m.tenants, uuid)
	}
	for _, t := range c.Tenants {
		m.tenants[t.UUID] = t
	}
	for _, id := range c.RemovedKeys {
		delete(m.keys, id)
	}
	for _, k := range c.Keys {
		m.keys[k.ID] = k
	}
	close(m.moved)
	m.moved = make(chan struct{})
}

// follow watches from a moment on. The watch ends with the part.
func (e exam) follow(from tenants.Contents) *mirror {
	m := &mirror{tenants: byUUID(from.Tenants), keys: map[string]tenants.Key{}, revision: from.Revision, moved: make(chan struct{})}
	for _, k := range from.Keys {
		m.keys[k.ID] = k
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- e.source.Watch(ctx, from.Revision, func(c tenants.Change) { m.apply(e, c) })
	}()
	e.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			e.Errorf("the watch ended with %v", err)
		}
	})
	return m
}

// reaches waits until the mirror shows what a load shows.
func (e exam) reaches(m *mirror) {
	e.Helper()
	want := e.load()
	keys := map[string]tenants.Key{}
	for _, k := range want.Keys {
		keys[k.ID] = k
	}
	ctx, cancel := context.WithTimeout(e.Context(), 20*time.Second)
	defer cancel()
	for {
		m.mu.Lock()
		moved := m.moved
		diff := cmp.Diff(byUUID(want.Tenants), m.tenants) + cmp.Diff(keys, m.keys)
		m.mu.Unlock()
		if diff == "" {
			return
		}
		select {
		case <-moved:
		case <-ctx.Done():
			e.Fatalf("the watch does not come to what is there (-loaded +watched):\n%s", diff)
		}
	}
}

// history is a bit of everything that a watch tells.
func (e exam) history() {
	e.Helper()
	a := e.create("a", "a.test")
	b := e.create("b")
	e.must(e.source.PutKey(e.Context(), key("kept", time.Time{})))
	e.must(e.source.PutKey(e.Context(), key("revoked", time.Time{})))
	a.Name = "changed"
	a = e.update(a)
	e.must(e.source.PutConfig(e.Context(), a.UUID, json.RawMessage(`{"k":1}`)))
	b.State = tenants.Deleting
	b = e.update(b)
	e.must(e.source.Remove(e.Context(), b.UUID))
	e.must(e.source.DeleteKey(e.Context(), "revoked"))
	b = e.create("b")
	b.State = tenants.Suspended
	e.update(b)
}

func watches(e exam) {
	before := e.create("before")
	m := e.follow(e.load())
	e.history()
	e.must(e.source.Remove(e.Context(), before.UUID))
	e.reaches(m)
}

// A watch that begins in the past gets many revisions in one batch. etcd's once
// told a key that was made and revoked within one as made: the revoked key
// would have opened the admin listener until the next load.
func watchesThePast(e exam) {
	from := e.load()
	e.history()
	last := e.create("last")
	m := e.follow(from)
	for {
		m.mu.Lock()
		moved, there := m.moved, m.tenants[last.UUID].UUID != ""
		m.mu.Unlock()
		if there {
			break
		}
		select {
		case <-moved:
		case <-time.After(20 * time.Second):
			e.Fatal("the watch does not come to the end")
		}
	}
	e.reaches(m)
}

func watchEnds(e exam) {
	ctx, cancel := context.WithCancel(e.Context())
	done := make(chan error, 1)
	go func() { done <- e.source.Watch(ctx, e.load().Revision, func(tenants.Change) {}) }()
	cancel()
	select {
	case err := <-done:
		e.want(context.Canceled, err)
	case <-time.After(20 * time.Second):
		e.Fatal("the watch goes on without its context")
	}
}

func revisions(e exam) {
	last := e.load().Revision
	grows := func(what string, revision int64) {
		e.Helper()
		if revision <= last {
			e.Fatalf("%s: revision %d after %d", what, revision, last)
		}
		last = revision
	}
	t := e.create("a")
	grows("create", t.Revision)
	t = e.update(t)
	grows("update", t.Revision)
	e.must(e.source.PutKey(e.Context(), key("k", time.Time{})))
	grows("put key", e.load().Revision)
	e.must(e.source.DeleteKey(e.Context(), "k"))
	grows("delete key", e.load().Revision)
	e.must(e.source.Remove(e.Context(), t.UUID))
	grows("remove", e.load().Revision)
}

func over(e exam) {
	t := e.create("a", "a.test")
	e.must(e.source.PutConfig(e.Context(), t.UUID, json.RawMessage(`{"k":1}`)))
	e.must(e.source.PutSecret(e.Context(), t.UUID, "s", tenants.Secret("x")))
	k := key("k", time.Time{})
	e.must(e.source.PutKey(e.Context(), k))
	before := e.load()
	ctx, cancel := context.WithCancel(e.Context())
	cancel()
	for name, call := range map[string]func() error{
		"Create":       func() error { _, err := e.source.Create(ctx, tenant("b")); return err },
		"Update":       func() error { changed := t; changed.Name = "no"; _, err := e.source.Update(ctx, changed); return err },
		"Remove":       func() error { return e.source.Remove(ctx, t.UUID) },
		"Load":         func() error { _, err := e.source.Load(ctx); return err },
		"Config":       func() error { _, err := e.source.Config(ctx, t.UUID); return err },
		"PutConfig":    func() error { return e.source.PutConfig(ctx, t.UUID, json.RawMessage(`{"k":2}`)) },
		"SecretNames":  func() error { _, err := e.source.SecretNames(ctx, t.UUID); return err },
		"Secret":       func() error { _, err := e.source.Secret(ctx, t.UUID, "s"); return err },
		"PutSecret":    func() error { return e.source.PutSecret(ctx, t.UUID, "s2", tenants.Secret("x")) },
		"DeleteSecret": func() error { return e.source.DeleteSecret(ctx, t.UUID, "s") },
		"RotateKeys":   func() error { _, err := e.source.RotateKeys(ctx, t.UUID); return err },
		"PutKey":       func() error { return e.source.PutKey(ctx, key("k2", time.Time{})) },
		"DeleteKey":    func() error { return e.source.DeleteKey(ctx, "k") },
	} {
		if err := call(); !errors.Is(err, tenants.ErrUnavailable) {
			e.Errorf("%s: %v, want ErrUnavailable", name, err)
		}
	}
	if diff := cmp.Diff(before, e.load()); diff != "" {
		e.Errorf("something was written (-before +after):\n%s", diff)
	}
	if names, err := e.source.SecretNames(e.Context(), t.UUID); err != nil || !slices.Equal(names, []string{"s"}) {
		e.Errorf("secrets are %v, %v", names, err)
	}
	if got, err := e.source.Config(e.Context(), t.UUID); err != nil || string(got) != `{"k":1}` {
		e.Errorf("config is %s, %v", got, err)
	}
}
