package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/plugins"
	pluginsetcd "github.com/doorward/doorward/plugins/etcd"
	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/service"
	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/sessions/cluster"
	"github.com/doorward/doorward/tenants"
	"github.com/doorward/doorward/tenants/seal"
)

// What two nodes on one etcd do to each other.

// follow runs a registry over source for one test.
func follow(t *testing.T, source tenants.Source) *tenants.Registry {
	t.Helper()
	registry := tenants.NewRegistry(source, tenants.RegistryConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); registry.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	if err := registry.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	return registry
}

// late is a source whose reader loaded it some time ago.
type late struct {
	tenants.Source
	loaded tenants.Contents
}

func (l late) Load(context.Context) (tenants.Contents, error) { return l.loaded, nil }

// A watch that is behind gets many changes at once. A key made and deleted in
// one batch was once good for ever, and a tenant made and deleted was never
// gone: a later delete of its id then deleted nothing and said that it had.
func TestAWatchThatWasBehindEndsWhereTheStoreIs(t *testing.T) {
	client := startMember(t)
	source := newSource(t, client)
	before, err := source.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	deleted, first, second := tenants.NewKeySecret(), tenants.NewKeySecret(), tenants.NewKeySecret()
	for _, err := range []error{
		source.PutKey(t.Context(), tenants.Key{ID: "deleted", Kind: "operator", Digest: deleted.Digest()}),
		source.DeleteKey(t.Context(), "deleted"),
		source.PutKey(t.Context(), tenants.Key{ID: "replaced", Kind: "operator", Digest: first.Digest()}),
		source.PutKey(t.Context(), tenants.Key{ID: "replaced", Kind: "operator", Digest: second.Digest()}),
		source.Remove(t.Context(), newTenant(t, source, "acme")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	acme := newTenant(t, source, "acme")
	after, err := source.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	registry := follow(t, late{source, before})
	if err := registry.WaitFor(t.Context(), after.Revision); err != nil {
		t.Fatal(err)
	}
	for name, secret := range map[string]tenants.KeySecret{"deleted": deleted, "replaced": first} {
		if _, ok := registry.FindKey(secret); ok {
			t.Errorf("the %s key is still good", name)
		}
	}
	if _, ok := registry.FindKey(second); !ok {
		t.Error("the key that replaced another is not there")
	}
	if list, _ := registry.List("", 10); len(list) != 1 || list[0].UUID != acme {
		t.Errorf("the tenants are %+v, want the second acme alone", list)
	}
}

// A tenant's data keys are gone from every node when the tenant is, not only
// from the one that deleted it.
func TestADeletedTenantsKeysAreForgottenOnEveryNode(t *testing.T) {
	client := startMember(t)
	keyring := filepath.Join(t.TempDir(), "keyring")
	here, there := newSourceWith(t, client, keyring), newSourceWith(t, client, keyring)
	acme := newTenant(t, here, "acme")
	if _, err := there.Keys(t.Context(), acme, 0); err != nil {
		t.Fatal(err)
	}
	registry := follow(t, there)
	if err := here.Remove(t.Context(), acme); err != nil {
		t.Fatal(err)
	}
	after, err := here.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := registry.WaitFor(t.Context(), after.Revision); err != nil {
		t.Fatal(err)
	}
	if _, err := there.Keys(t.Context(), acme, 0); !errors.Is(err, tenants.ErrNotFound) {
		t.Errorf("Keys on the other node: %v, want ErrNotFound", err)
	}
}

// meanwhile does something once, after the first read of a key that begins so.
type meanwhile struct {
	clientv3.KV
	at   string
	once sync.Once
	do   func()
}

func (m *meanwhile) Get(ctx context.Context, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	got, err := m.KV.Get(ctx, key, options...)
	if strings.HasPrefix(key, m.at) {
		m.once.Do(m.do)
	}
	return got, err
}

// through is client with its reads and writes going through kv.
func through(client *clientv3.Client, kv clientv3.KV) *clientv3.Client {
	c := clientv3.NewCtxClient(context.Background())
	c.KV, c.Watcher, c.Lease = kv, client, client
	return c
}

// Two nodes may finish the same delete. The second once deleted the guard of the
// id by what it had read before, though the id was another tenant's since; then
// two tenants could have one id.
func TestASecondRemoveLeavesTheNextTenantItsNames(t *testing.T) {
	client := startMember(t)
	source := newSource(t, client)
	first := newTenant(t, source, "acme")
	between := &meanwhile{KV: client.KV, at: "/dw/live/a/t/", do: func() {
		if err := source.Remove(context.Background(), first); err != nil {
			t.Error(err)
		}
		newTenant(t, source, "acme")
	}}
	second := newSource(t, through(client, between))
	if err := second.Remove(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	registry := tenants.NewRegistry(source, tenants.RegistryConfig{})
	again, err := registry.New(tenants.Tenant{ID: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := source.Create(ctx, again); !errors.Is(err, tenants.ErrExists) {
		t.Errorf("a third acme beside the second: %v, want ErrExists", err)
	}
}

// A process that is stopped in the middle of an upload for longer than its mark
// lives finds the pieces gone. It once said all the same that they were there,
// and no upload of that module ever wrote them again.
func TestAnUploadWhoseMarkHasEndedStoresNothing(t *testing.T) {
	client := startMember(t)
	other := pluginsetcd.New(client, 0)
	paused := &meanwhile{KV: client.KV, at: "/dw/p/seq/", do: func() {
		if _, err := client.Delete(context.Background(), "/dw/p/ref/", clientv3.WithPrefix()); err != nil { // the mark's lease has ended
			t.Error(err)
		}
		if err := other.Sweep(context.Background()); err != nil {
			t.Error(err)
		}
	}}
	module := []byte("a module")
	v := plugins.Version{Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(module)), Size: len(module)}
	if n, err := pluginsetcd.New(through(client, paused), 0).Add(t.Context(), "a", v, module); !errors.Is(err, plugins.ErrUnavailable) {
		t.Errorf("Add = %d, %v; want ErrUnavailable", n, err)
	}
	if _, err := other.Add(t.Context(), "a", v, module); err != nil {
		t.Fatal(err)
	}
	if got, err := other.Module(t.Context(), v.Digest); err != nil || string(got) != string(module) {
		t.Errorf("Module after the next upload = %q, %v", got, err)
	}
}

// A node whose key ring was lost once made another, and served: every old record
// was unreadable, and every new one sealed by a key that nobody had kept.
func TestANodeWithAnotherKeyRingDoesNotStart(t *testing.T) {
	c := config{dev: true, DataDir: t.TempDir()}
	c.Sessions.Mode = "centralized" // there is no copy to wait for
	c.complete()
	member, err := cluster.Start(t.Context(), cluster.Config{Dir: c.DataDir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { member.Close() })
	prepared := func() error {
		n, err := assemble(c, member.Client(), nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		n.config.dev = false // without the demo tenant
		n.registry = follow(t, n.source)
		n.service.Tenants = n.registry
		return n.prepare(t.Context(), io.Discard)
	}
	if err := prepared(); err != nil {
		t.Fatal(err)
	}
	newTenant(t, newSourceWith(t, member.Client(), c.Keyring.File), "acme")
	if err := prepared(); err != nil {
		t.Errorf("with the same key ring: %v", err)
	}
	if err := os.Remove(c.Keyring.File); err != nil {
		t.Fatal(err)
	}
	if err := prepared(); !errors.Is(err, seal.ErrSealed) || !strings.Contains(err.Error(), c.Keyring.File) {
		t.Errorf("with another key ring: %v, want it refused by name", err)
	}
}

// slow is an artifact store that something happens before.
type slow struct {
	plugins.Artifacts
	before func()
}

func (s slow) Add(ctx context.Context, tenant string, v plugins.Version, module []byte) (int, error) {
	s.before()
	return s.Artifacts.Add(ctx, tenant, v, module)
}

// A module takes seconds to compile. A tenant that was deleted meanwhile once got
// a version afterwards, which nobody could see and nothing ever deleted.
func TestAnUploadToATenantThatIsDeletedLeavesNothing(t *testing.T) {
	client := startMember(t)
	source := newSource(t, client)
	uuid := newTenant(t, source, "acme")
	registry := follow(t, source)
	pool, err := sandbox.New(sandbox.Config{CacheDir: filepath.Join(t.TempDir(), "modules"), Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); pool.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })

	s := &service.Service{Tenants: registry, Source: source, Sessions: sessions.New(sessions.NewMemory(), nil, sessions.Config{}), Log: slog.New(slog.DiscardHandler)}
	s.Catalog = plugins.NewCatalog(slow{pluginsetcd.New(client, 0), func() {
		if err := s.DeleteTenant(context.Background(), "acme", 0); err != nil {
			t.Error(err)
		}
	}}, plugins.NewHost(pool, plugins.Settings{}, nil), plugins.CatalogConfig{})
	acme, ok := registry.ByID("acme")
	if !ok || acme.UUID != uuid {
		t.Fatal("acme is not there")
	}
	if _, err := s.UploadVerifier(t.Context(), acme, guesttest.Accepts("alice").Module(), nil); !errors.Is(err, tenants.ErrNotFound) {
		t.Errorf("UploadVerifier: %v, want ErrNotFound", err)
	}
	left, err := client.Get(t.Context(), "/dw/p/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range left.Kvs {
		t.Errorf("%s is left", kv.Key)
	}
}

// Whoever wrote something may ask another node for what is at least as new.
func TestEveryWriteOfAnOperatorHasARevision(t *testing.T) {
	s := newSite(t)
	module := guesttest.Accepts("alice").Module()
	last := int64(0)
	for _, write := range []struct {
		status int
		what   string
		body   any
	}{
		{201, "POST /tenants", map[string]any{"id": "acme"}},
		{200, "PATCH /tenants/acme", map[string]any{"name": "Acme"}},
		{200, "PUT /tenants/acme/config", map[string]any{"colour": "green"}},
		{200, "PUT /tenants/acme/secrets/key", map[string]any{"value": "s3cret"}},
		{204, "DELETE /tenants/acme/secrets/key", nil},
		{201, "POST /tenants/acme/verifiers", module},
		{200, "POST /tenants/acme/verifiers/1/activate", map[string]any{}},
		{200, "POST /tenants/acme/rotate-keys", nil},
		{200, "POST /tenants/acme/sessions/revoke", map[string]any{"all": true}},
		{200, "POST /tenants/acme/suspend", nil},
		{200, "POST /tenants/acme/resume", nil},
		{200, "POST /sessions/revoke", map[string]any{"all": true}},
		{204, "DELETE /tenants/acme", nil},
	} {
		text := s.operate(write.status, write.what, write.body).header.Get("Doorward-Revision")
		revision, err := strconv.ParseInt(text, 10, 64)
		if err != nil || revision <= last {
			t.Errorf("%s: revision %q after %d", write.what, text, last)
		}
		last = revision
	}
	if got := s.operate(200, "GET /tenants", nil); got.header.Get("Doorward-Revision") != "" {
		t.Error("a read has a revision")
	}
}
