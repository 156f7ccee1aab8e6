package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/sessions"
	sessionsetcd "github.com/doorward/doorward/sessions/etcd"
	"github.com/doorward/doorward/tenants"
	tenantsetcd "github.com/doorward/doorward/tenants/etcd"
	"github.com/doorward/doorward/tenants/seal"
)

// openSession signs alice in at a tenant, for an hour.
func openSession(t *testing.T, m *sessions.Manager, tenant string) sessions.Token {
	t.Helper()
	token, _, err := m.Open(t.Context(), sessions.Opening{
		Tenant: tenant, Subject: "alice", Verifier: sessions.Verifier{Version: 1, Digest: "sha256:abc"},
		Policy: sessions.Policy{Idle: time.Hour, Absolute: time.Hour, Remember: time.Hour, MaxPerSubject: 1000},
	})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// sealedBy is the id of the key that sealed what lies under a key of etcd.
func sealedBy(t *testing.T, client *clientv3.Client, key string) string {
	t.Helper()
	got, err := client.Get(t.Context(), key)
	if err != nil || len(got.Kvs) != 1 || len(got.Kvs[0].Value) < 5 {
		t.Fatalf("%s: %v, %v", key, got, err)
	}
	return fmt.Sprintf("%x", got.Kvs[0].Value[1:5])
}

func recordPath(tenant string, token sessions.Token) string {
	return "/dw/live/s/" + tenant + "/" + token.Digest(tenant).Key()
}

// A node's copy of a tenant's keys was once good for the tenant's life. One node
// rotates them, as often as the first still opens, while the other, which
// nothing tells, reads and writes.
func TestKeysRotateWhileAnotherNodeReadsAndWrites(t *testing.T) {
	client := startMember(t)
	keyring := filepath.Join(t.TempDir(), "keyring")
	here, there := newSourceWith(t, client, keyring), newSourceWith(t, client, keyring)
	acme := newTenant(t, here, "acme")
	var managers []*sessions.Manager
	for _, source := range []*tenantsetcd.Source{here, there} {
		store := newStore(t, client, source, sessionsetcd.Config{})
		managers = append(managers, sessions.New(store, store, sessions.Config{Timeout: 20 * time.Second}))
	}
	if err := here.PutSecret(t.Context(), acme, "pepper", tenants.Secret("hot")); err != nil {
		t.Fatal(err)
	}

	const each = 15
	moves := make(chan struct{}, each*seal.MaxDataKeys*3)
	var mu sync.Mutex
	var tokens []sessions.Token
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var all sync.WaitGroup
	loop := func(do func(i int) error) {
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if err := do(i); err != nil && ctx.Err() == nil {
					t.Error(err)
					stop()
				}
				select {
				case moves <- struct{}{}:
				default:
				}
			}
		})
	}
	for n, source := range []*tenantsetcd.Source{here, there} {
		own, other := managers[n], managers[1-n]
		loop(func(int) error {
			token, _, err := own.Open(context.WithoutCancel(ctx), sessions.Opening{
				Tenant: acme, Subject: fmt.Sprint("user", n), Policy: sessions.Policy{Idle: time.Hour, Absolute: time.Hour, MaxPerSubject: 100_000},
			})
			if err != nil {
				return err
			}
			mu.Lock()
			tokens = append(tokens, token)
			mu.Unlock()
			_, err = other.Find(context.WithoutCancel(ctx), acme, token, sessions.Reading{})
			return err
		})
		loop(func(i int) error {
			name, value := fmt.Sprint("s", n), tenants.Secret(fmt.Sprint(i))
			if err := source.PutSecret(context.WithoutCancel(ctx), acme, name, value); err != nil {
				return err
			}
			if got, err := source.Secret(context.WithoutCancel(ctx), acme, name); err != nil || !bytes.Equal(got, value) {
				return fmt.Errorf("a secret that was %s is %q: %w", value, string(got), err)
			}
			got, err := source.Secret(context.WithoutCancel(ctx), acme, "pepper")
			if err == nil && string(got) != "hot" {
				err = fmt.Errorf("the pepper is %q", string(got))
			}
			return err
		})
	}
	for range seal.MaxDataKeys - 1 {
		for range each {
			select {
			case <-moves:
			case <-ctx.Done():
			}
		}
		if _, err := here.RotateKeys(t.Context(), acme); err != nil {
			t.Error(err)
		}
	}
	stop()
	all.Wait()

	for _, m := range managers {
		for _, token := range tokens {
			if _, err := m.Find(t.Context(), acme, token, sessions.Reading{}); err != nil {
				t.Fatalf("one of %d sessions: %v", len(tokens), err)
			}
		}
		// Found by their subjects under whatever key: the index key is the first.
		n, err := m.Count(t.Context(), acme, sessions.Filter{Subject: "user0"})
		if err == nil {
			var other int
			other, err = m.Count(t.Context(), acme, sessions.Filter{Subject: "user1"})
			n += other
		}
		if err != nil || n != len(tokens) {
			t.Errorf("the index has %d of %d sessions, %v", n, len(tokens), err)
		}
	}
	t.Log(len(tokens), "sessions")
}

func TestARotationSealsAnewAndOldSessionsOpenUntilTheirKeyIsDropped(t *testing.T) {
	client := startMember(t)
	keyring := filepath.Join(t.TempDir(), "keyring")
	source := newSourceWith(t, client, keyring)
	store := newStore(t, client, source, sessionsetcd.Config{})
	manager := sessions.New(store, store, sessions.Config{})
	acme := newTenant(t, source, "acme")
	old := openSession(t, manager, acme)
	for _, err := range []error{
		source.PutConfig(t.Context(), acme, []byte(`{"k":"v"}`)),
		source.PutSecret(t.Context(), acme, "pepper", tenants.Secret("hot")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	// Three nodes have the keys of now, and nothing tells them of the rotation.
	readsSessions, readsConfig := newSourceWith(t, client, keyring), newSourceWith(t, client, keyring)
	for _, source := range []*tenantsetcd.Source{readsSessions, readsConfig} {
		if _, err := source.Keys(t.Context(), acme, 0); err != nil {
			t.Fatal(err)
		}
	}
	behind := newSourceWith(t, client, keyring)
	if err := behind.PutSecret(t.Context(), acme, "other", tenants.Secret("hot")); err != nil {
		t.Fatal(err)
	}
	was := sealedBy(t, client, recordPath(acme, old))
	rotate := func() {
		t.Helper()
		if _, err := source.RotateKeys(t.Context(), acme); err != nil {
			t.Fatal(err)
		}
	}
	rotate()
	now := sealedBy(t, client, "/dw/t/config/"+acme)
	other := sealedBy(t, client, "/dw/t/secret/"+acme+"/other")
	if err := behind.PutSecret(t.Context(), acme, "other", tenants.Secret("hotter")); err != nil {
		t.Fatal(err)
	}
	fresh := openSession(t, manager, acme)
	if _, err := sessionsetcd.New(client, readsSessions.Keys, sessionsetcd.Config{}).Find(t.Context(), acme, fresh.Digest(acme)); err != nil {
		t.Errorf("a new session at a node with the old keys: %v", err)
	}
	if got, err := readsConfig.Config(t.Context(), acme); err != nil || string(got) != `{"k":"v"}` {
		t.Errorf("config at a node with the old keys: %s, %v", got, err)
	}
	for what, by := range map[string]string{
		"the secret":                             sealedBy(t, client, "/dw/t/secret/"+acme+"/pepper"),
		"another":                                other,
		"one written by a node with the old key": sealedBy(t, client, "/dw/t/secret/"+acme+"/other"),
		"a new session":                          sealedBy(t, client, recordPath(acme, fresh)),
	} {
		if by != now || by == was {
			t.Errorf("%s is sealed by %s; before %s, config now %s", what, by, was, now)
		}
	}
	if by := sealedBy(t, client, recordPath(acme, old)); by != was {
		t.Errorf("the old session is sealed by %s, not %s", by, was)
	}

	for range seal.MaxDataKeys - 2 {
		rotate()
	}
	late := newSourceWith(t, client, keyring)
	lateStore := newStore(t, client, late, sessionsetcd.Config{})
	elsewhere := sessions.New(lateStore, lateStore, sessions.Config{})
	for _, m := range []*sessions.Manager{manager, elsewhere} {
		if _, err := m.Find(t.Context(), acme, old, sessions.Reading{}); err != nil {
			t.Errorf("after seven rotations: %v", err)
		}
	}
	rotate()
	if _, err := manager.Find(t.Context(), acme, old, sessions.Reading{}); !errors.Is(err, sessions.ErrNotFound) {
		t.Errorf("after eight rotations: %v, want ErrNotFound", err)
	}
	for _, m := range []*sessions.Manager{manager, elsewhere} { // what is lost is in nobody's way
		list, _, err := m.List(t.Context(), acme, sessions.Filter{Subject: "alice"}, "", 10)
		if err != nil || len(list) == 0 {
			t.Errorf("the others: %d, %v", len(list), err)
		}
	}
	r, err := store.DeleteAll(t.Context(), acme, sessions.Filter{Subject: "alice"}, "", "", 10)
	if err != nil || r.Next != "" || r.N != 2 {
		t.Errorf("revoked: %+v, %v", r, err)
	}
}

// between does something once, before the second transaction.
type between struct {
	clientv3.KV
	n  atomic.Int64
	do func()
}

func (b *between) Txn(ctx context.Context) clientv3.Txn {
	if b.n.Add(1) == 2 {
		b.do()
	}
	return b.KV.Txn(ctx)
}

// What is written while a rotation is between its read and its write is neither
// lost nor brought back nor left under the old key.
func TestARotationMindsWhatIsWrittenMeanwhile(t *testing.T) {
	client := startMember(t)
	keyring := filepath.Join(t.TempDir(), "keyring")
	source := newSourceWith(t, client, keyring)
	acme := newTenant(t, source, "acme")
	put := func(name, value string) func() error {
		return func() error { return source.PutSecret(context.Background(), acme, name, tenants.Secret(value)) }
	}
	for what, c := range map[string]struct {
		meanwhile func() error
		name      string
		want      string // "" for none
	}{
		"changed": {put("changed", "after"), "changed", "after"},
		"made":    {put("made", "after"), "made", "after"},
		"deleted": {func() error { return source.DeleteSecret(context.Background(), acme, "deleted") }, "deleted", ""},
	} {
		for _, name := range []string{"changed", "deleted"} {
			if err := put(name, "before")(); err != nil {
				t.Fatal(err)
			}
		}
		kv := &between{KV: client.KV, do: func() {
			if err := c.meanwhile(); err != nil {
				t.Error(err)
			}
		}}
		rotating := newSourceWith(t, through(client, kv), keyring)
		if _, err := rotating.RotateKeys(t.Context(), acme); err != nil {
			t.Fatal(err)
		}
		got, err := source.Secret(t.Context(), acme, c.name)
		if c.want == "" {
			if !errors.Is(err, tenants.ErrNotFound) {
				t.Errorf("%s meanwhile: %q, %v", what, string(got), err)
			}
			continue
		}
		if err != nil || string(got) != c.want {
			t.Errorf("%s meanwhile: %q, %v", what, string(got), err)
		}
		keys, err := rotating.Keys(t.Context(), acme, 0)
		if err != nil {
			t.Fatal(err)
		}
		if by := sealedBy(t, client, "/dw/t/secret/"+acme+"/"+c.name); by != fmt.Sprintf("%x", keys.Seal(nil, nil)[1:5]) {
			t.Errorf("%s meanwhile: sealed by the old key", what)
		}
	}
}

// keyReads counts the reads of tenants' data keys.
type keyReads struct {
	clientv3.KV
	n atomic.Int64
}

func (k *keyReads) Get(ctx context.Context, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if strings.HasPrefix(key, "/dw/t/keys/") {
		k.n.Add(1)
	}
	return k.KV.Get(ctx, key, options...)
}

// Whoever can write to etcd can write records that name keys which there are
// not. Each is refused, and they make no storm of reads.
func TestForgedRecordsDoNotMakeAStormOfKeyReads(t *testing.T) {
	client := startMember(t)
	reads := &keyReads{KV: client.KV}
	source := newSource(t, through(client, reads))
	store := newStore(t, client, source, sessionsetcd.Config{})
	manager := sessions.New(store, store, sessions.Config{})
	acme := newTenant(t, source, "acme")
	good := openSession(t, manager, acme)
	began := time.Now()
	for i := range 50 {
		forged := sessions.NewToken()
		value := append([]byte{2, 0xff, 0xff, 0xff, byte(i)}, make([]byte, 100)...)
		if _, err := client.Put(t.Context(), recordPath(acme, forged), string(value)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if s, err := manager.Find(t.Context(), acme, forged, sessions.Reading{}); !errors.Is(err, sessions.ErrNotFound) && !errors.Is(err, sessions.ErrUnavailable) {
				t.Fatalf("a forged record: %+v, %v", s, err)
			}
		}
		if _, err := manager.Find(t.Context(), acme, good, sessions.Reading{}); err != nil {
			t.Fatalf("a good session beside it: %v", err)
		}
	}
	if most := 1 + int64(time.Since(began)/time.Second); reads.n.Load() > most {
		t.Errorf("the keys were read %d times in %v", reads.n.Load(), time.Since(began))
	}
	if reads.n.Load() == 0 {
		t.Error("the keys were never read again")
	}
}

// One node rotates, and the others seal with the new key too.
func TestARotationIsHeardOfByTheWatch(t *testing.T) {
	client := startMember(t)
	keyring := filepath.Join(t.TempDir(), "keyring")
	here, there := newSourceWith(t, client, keyring), newSourceWith(t, client, keyring)
	acme := newTenant(t, here, "acme")
	away := newSourceWith(t, client, keyring) // its watch is lost for a while
	for _, source := range []*tenantsetcd.Source{there, away} {
		if _, err := source.Keys(t.Context(), acme, 0); err != nil {
			t.Fatal(err)
		}
	}
	registry := follow(t, there)
	rotated, err := here.RotateKeys(t.Context(), acme)
	if err != nil {
		t.Fatal(err)
	}
	if err := registry.WaitFor(t.Context(), rotated.Revision); err != nil {
		t.Fatal(err)
	}
	if _, err := away.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	mine, err := here.Keys(t.Context(), acme, 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, source := range map[string]*tenantsetcd.Source{"watches": there, "has loaded again": away} {
		keys, err := source.Keys(t.Context(), acme, 0)
		if err != nil || !bytes.Equal(keys.Seal(nil, nil)[1:5], mine.Seal(nil, nil)[1:5]) {
			t.Errorf("the node that %s still seals with the old key; %v", name, err)
		}
	}
}

// The root key is changed node by node, and nothing is closed to any of them.
func TestRootKeysAreChangedNodeByNode(t *testing.T) {
	client := startMember(t)
	dir := t.TempDir()
	// Every node has its own copy of the file.
	file := func(name string, ring *seal.Ring) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if _, err := seal.LoadOrCreateRing(path); err != nil {
			t.Fatal(err)
		}
		if err := ring.Replace(path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	first, err := seal.LoadOrCreateRing(filepath.Join(dir, "first"))
	if err != nil {
		t.Fatal(err)
	}
	added, err := first.Add()
	if err != nil {
		t.Fatal(err)
	}
	promoted, err := added.Promote()
	if err != nil {
		t.Fatal(err)
	}
	dropped, err := promoted.Drop(first.IDs()[0])
	if err != nil {
		t.Fatal(err)
	}

	source := newSourceWith(t, client, filepath.Join(dir, "first"))
	var uuids []string
	for i := range 20 {
		uuid := newTenant(t, source, fmt.Sprint("t", i))
		if err := source.PutConfig(t.Context(), uuid, []byte(`{"k":"v"}`)); err != nil {
			t.Fatal(err)
		}
		uuids = append(uuids, uuid)
	}
	readable := func(source *tenantsetcd.Source) error {
		for _, uuid := range uuids {
			if got, err := source.Config(t.Context(), uuid); err != nil || string(got) != `{"k":"v"}` {
				return fmt.Errorf("config %s: %w", got, err)
			}
		}
		return nil
	}
	behind := newSourceWith(t, client, file("behind", added)) // it has the new key and does not seal with it

	// Two nodes with the promoted ring start at once, while keys rotate too.
	var all sync.WaitGroup
	var wrapped atomic.Int64
	for i := range 2 {
		node := newSourceWith(t, client, file(fmt.Sprint("promoted", i), promoted))
		all.Go(func() {
			n, err := node.Rewrap(t.Context())
			if err != nil {
				t.Error(err)
			}
			wrapped.Add(int64(n))
		})
	}
	all.Go(func() {
		for _, uuid := range uuids[10:] {
			if _, err := behind.RotateKeys(t.Context(), uuid); err != nil {
				t.Error(err)
			}
		}
	})
	all.Wait()
	if wrapped.Load() < 20-10 || wrapped.Load() > 20+10 {
		t.Errorf("%d were wrapped anew", wrapped.Load())
	}
	for name, ring := range map[string]*seal.Ring{"behind": added, "promoted": promoted} {
		if err := readable(newSourceWith(t, client, file(name, ring))); err != nil {
			t.Errorf("a node with the ring %s: %v", name, err)
		}
	}
	if err := readable(behind); err != nil {
		t.Errorf("a node that has not been restarted: %v", err)
	}

	// The last node is restarted, and what it wrapped meanwhile is wrapped too.
	last := newSourceWith(t, client, file("last", promoted))
	if _, err := last.Rewrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := last.Rewrap(t.Context()); err != nil || n != 0 {
		t.Errorf("a second time: %d, %v", n, err)
	}
	if err := readable(newSourceWith(t, client, file("dropped", dropped))); err != nil {
		t.Errorf("without the old key: %v", err)
	}
	// Now nothing is wrapped by it any more: who has no other opens nothing.
	if err := readable(newSourceWith(t, client, filepath.Join(dir, "first"))); !errors.Is(err, seal.ErrSealed) {
		t.Errorf("with the old key alone: %v, want ErrSealed", err)
	}
	// And who dropped the only key that opens a tenant is told of each.
	newTenant(t, source, "late")
	if n, err := newSourceWith(t, client, file("dropped", dropped)).Rewrap(t.Context()); n != 0 || !errors.Is(err, seal.ErrSealed) {
		t.Errorf("a tenant whose key was dropped: %d, %v", n, err)
	}
}
