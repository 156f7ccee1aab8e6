package main

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/plugins"
	pluginsetcd "github.com/doorward/doorward/plugins/etcd"
	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/sdk/abi"
)

// counted counts what a client asks of etcd, by itself or in a transaction.
type counted struct {
	clientv3.KV
	gets, others atomic.Int64
}

func (c *counted) Get(ctx context.Context, key string, o ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	c.gets.Add(1)
	return c.KV.Get(ctx, key, o...)
}

func (c *counted) Put(ctx context.Context, key, value string, o ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	c.others.Add(1)
	return c.KV.Put(ctx, key, value, o...)
}

func (c *counted) Delete(ctx context.Context, key string, o ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	c.others.Add(1)
	return c.KV.Delete(ctx, key, o...)
}

func (c *counted) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	c.others.Add(1)
	return c.KV.Do(ctx, op)
}

func (c *counted) Txn(ctx context.Context) clientv3.Txn {
	c.others.Add(1)
	return c.KV.Txn(ctx)
}

// The decision of a login reads its verifier by one request and writes nothing,
// however many versions there are: it once read the pointer and then all of them.
// What the verifier looks up comes on top, one read for each.
func TestADecisionReadsOneKeyOfEtcd(t *testing.T) {
	member := startMember(t)
	kv := &counted{KV: member.KV}
	client := clientv3.NewCtxClient(t.Context())
	client.KV, client.Lease, client.Watcher = kv, member.Lease, member.Watcher
	source := newSource(t, client)
	tenant := newTenant(t, source, "a")
	if err := source.PutConfig(t.Context(), tenant, []byte(`{"k":"v"}`)); err != nil {
		t.Fatal(err)
	}

	pool, err := sandbox.New(sandbox.Config{CacheDir: filepath.Join(t.TempDir(), "modules"), Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- pool.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	n := &node{source: source}
	host := plugins.NewHost(pool, plugins.Settings{
		Config: n.configValue, Secret: n.secretValue, KV: pluginsetcd.NewKV(client, source.Keys, 0),
	}, nil)
	catalog := plugins.NewCatalog(pluginsetcd.New(client, 0), host, plugins.CatalogConfig{})
	for i, g := range []guesttest.Guest{guesttest.Asks(), guesttest.Looks(), guesttest.Accepts("alice")} {
		if _, err := catalog.Upload(t.Context(), tenant, g.Module(), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := catalog.Activate(t.Context(), tenant, i+1, true); err != nil {
			t.Fatal(err)
		}
	}
	decide := func(version int) (plugins.Answer, error) {
		return catalog.Verify(t.Context(), plugins.Call{Tenant: tenant, Version: version, Request: abi.Request{
			ABI: abi.Version, Method: "password", Credential: abi.Credential{"username": "alice", "password": "x"}, State: json.RawMessage(`{}`), NowMS: time.Now().UnixMilli(),
		}})
	}
	for _, c := range []struct {
		what    string
		version int
		reads   int64
	}{
		{"a login", 0, 1},
		{"an answer to a challenge of a version that was active", 1, 1},
		{"a verifier that looks up its configuration", 2, 2},
	} {
		for range 3 {
			kv.gets.Store(0)
			kv.others.Store(0)
			if _, err := decide(c.version); err != nil {
				t.Fatalf("%s: %v", c.what, err)
			}
			if reads, others := kv.gets.Load(), kv.others.Load(); reads != c.reads || others != 0 {
				t.Errorf("%s: %d reads and %d other requests, want %d and none", c.what, reads, others, c.reads)
			}
		}
	}
}
