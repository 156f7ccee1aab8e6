package main

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/sessions/cluster"
	sessionsetcd "github.com/doorward/doorward/sessions/etcd"
	"github.com/doorward/doorward/sessions/storetest"
	"github.com/doorward/doorward/tenants"
	tenantsetcd "github.com/doorward/doorward/tenants/etcd"
	"github.com/doorward/doorward/tenants/seal"
)

// startMember runs a real etcd member for one test.
func startMember(t testing.TB) *clientv3.Client {
	t.Helper()
	return startMemberOf(t, cluster.Config{})
}

func startMemberOf(t testing.TB, cfg cluster.Config) *clientv3.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTime)
	defer cancel()
	cfg.Dir = t.TempDir()
	member, err := cluster.Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := member.Close(); err != nil {
			t.Error(err)
		}
	})
	return member.Client()
}

// newSource is a tenants source on client with a key ring of its own.
func newSource(t testing.TB, client *clientv3.Client) *tenantsetcd.Source {
	t.Helper()
	return newSourceWith(t, client, filepath.Join(t.TempDir(), "keyring"))
}

// newSourceWith is a tenants source on client with the key ring in a file.
func newSourceWith(t testing.TB, client *clientv3.Client, keyring string) *tenantsetcd.Source {
	t.Helper()
	ring, err := seal.LoadOrCreateRing(keyring)
	if err != nil {
		t.Fatal(err)
	}
	return tenantsetcd.New(client, ring, tenantsetcd.Config{})
}

// newTenant makes a tenant with that id and returns its uuid.
func newTenant(t testing.TB, source tenants.Source, id string) string {
	t.Helper()
	registry := tenants.NewRegistry(source, tenants.RegistryConfig{})
	made, err := registry.New(tenants.Tenant{ID: id})
	if err == nil {
		made, err = source.Create(t.Context(), made)
	}
	if err != nil {
		t.Fatal(err)
	}
	return made.UUID
}

// newStore is a session store on client that runs until the test ends.
func newStore(t testing.TB, client *clientv3.Client, source *tenantsetcd.Source, cfg sessionsetcd.Config) *sessionsetcd.Store {
	t.Helper()
	store := sessionsetcd.New(client, source.Keys, cfg)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- store.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return store
}

func TestSessionsInEtcdSitTheExam(t *testing.T) {
	examine(t, startMember(t), sessionsetcd.Config{})
}

// examine lets a store on client sit the exam.
func examine(t *testing.T, client *clientv3.Client, cfg sessionsetcd.Config) {
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		source := newSource(t, client)
		store := newStore(t, client, source, cfg)
		a, b := newTenant(t, source, "a"), newTenant(t, source, "b")
		t.Cleanup(func() { // the next part makes the same ids, and begins with an empty store
			for _, uuid := range []string{a, b} {
				if err := store.RemoveTenant(context.Background(), uuid); err != nil {
					t.Error(err)
				}
				if err := source.Remove(context.Background(), uuid); err != nil {
					t.Error(err)
				}
			}
		})
		return storetest.Fixture{Store: store, A: a, B: b, Compact: func() {
			revision, err := store.Revision(t.Context())
			if err == nil {
				_, err = client.Compact(t.Context(), revision)
			}
			if err != nil {
				t.Fatal(err)
			}
		}}
	})
}

// A dump of etcd shows neither tokens nor subjects nor claims nor secrets, and
// a record that is moved to another key does not open there.
func TestADumpOfEtcdOpensNothing(t *testing.T) {
	client := startMember(t)
	source := newSource(t, client)
	store := newStore(t, client, source, sessionsetcd.Config{})
	manager := sessions.New(store, store, sessions.Config{})
	a, b := newTenant(t, source, "a"), newTenant(t, source, "b")
	if err := source.PutSecret(t.Context(), a, "pepper", tenants.Secret("hot-secret")); err != nil {
		t.Fatal(err)
	}
	if err := source.PutConfig(t.Context(), a, []byte(`{"k":"configured-value"}`)); err != nil {
		t.Fatal(err)
	}
	opening := sessions.Opening{
		Tenant: a, Subject: "alice@example.test", Claims: []byte(`{"role":"claimed-role"}`),
		Verifier: sessions.Verifier{Version: 1, Digest: "sha256:abc"},
		Policy:   sessions.Policy{Idle: time.Hour, Absolute: time.Hour, Remember: time.Hour, MaxPerSubject: 10},
	}
	token, _, err := manager.Open(t.Context(), opening)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := manager.Ask(t.Context(), sessions.Challenge{
		Tenant: a, Type: "otp", Private: []byte(`{"user":"private-state"}`), Attempts: 1, ExpiresAt: time.Now().Add(time.Minute),
	}); err != nil {
		t.Fatal(err)
	}
	dump, err := client.Get(t.Context(), "", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	secrets := []string{token.Reveal(), token.Reveal()[4:20], "alice", "claimed-role", "hot-secret", "configured-value", "private-state"}
	for _, kv := range dump.Kvs {
		for _, secret := range secrets {
			if bytes.Contains(kv.Key, []byte(secret)) || bytes.Contains(kv.Value, []byte(secret)) {
				t.Errorf("%s shows %q", kv.Key, secret)
			}
		}
	}
	if _, err := manager.Find(t.Context(), a, token, sessions.Reading{}); err != nil {
		t.Fatalf("before it is moved: %v", err)
	}
	// An attacker who can write to etcd gives tenant b the record of tenant a,
	// and another session of a the record of alice.
	from := "/dw/live/s/" + a + "/" + token.Digest(a).Key()
	got, err := client.Get(t.Context(), from)
	if err != nil || len(got.Kvs) != 1 {
		t.Fatalf("the record is not at %s: %v", from, err)
	}
	forged := sessions.NewToken()
	for tenant, to := range map[string]sessions.Token{b: token, a: forged} {
		if _, err := client.Put(t.Context(), "/dw/live/s/"+tenant+"/"+to.Digest(tenant).Key(), string(got.Kvs[0].Value)); err != nil {
			t.Fatal(err)
		}
		if s, err := manager.Find(t.Context(), tenant, to, sessions.Reading{}); err == nil {
			t.Errorf("a moved record opened as %s", s.Subject)
		}
	}
}
