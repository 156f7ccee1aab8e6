package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/sessions/cluster"
)

func TestABackupBringsBackWhatWasThereAtOneRevision(t *testing.T) {
	ctx := t.Context()
	from := start(t, t.TempDir())
	defer from.Close()
	client := from.Client()
	lease, err := client.Grant(ctx, 3600)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1200 { // more than two pages
		put(t, client, fmt.Sprintf("/dw/many/%04d", i), strings.Repeat("v", i))
	}
	put(t, client, "/dw/big", strings.Repeat("b", 1<<20))
	put(t, client, "/dw/leased", "l", clientv3.WithLease(lease.ID))
	put(t, client, "/other", "not ours")
	var saved bytes.Buffer
	made, err := cluster.Backup(ctx, client, "/dw/", &saved)
	if err != nil {
		t.Fatal(err)
	}
	if made.Keys != 1202 || made.Leases[int64(lease.ID)] < 3500 {
		t.Errorf("saved %d keys, %d s of the lease", made.Keys, made.Leases[int64(lease.ID)])
	}
	put(t, client, "/dw/later", "after the backup")

	to := start(t, t.TempDir())
	defer to.Close()
	skip := func(key string) bool { return strings.HasPrefix(key, "/dw/many/00") }
	if _, err := cluster.Restore(ctx, to.Client(), cluster.Restoration{Prefix: "/dw/", Skip: skip}, again(saved.Bytes()), nothing); err != nil {
		t.Fatal(err)
	}
	got, err := to.Client().Get(ctx, "", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kvs) != 1102 {
		t.Errorf("%d keys were restored, want 1102", len(got.Kvs))
	}
	for _, kv := range got.Kvs {
		was, err := client.Get(ctx, string(kv.Key), clientv3.WithRev(made.Revision))
		if err != nil || len(was.Kvs) != 1 || !bytes.Equal(was.Kvs[0].Value, kv.Value) || (was.Kvs[0].Lease == 0) != (kv.Lease == 0) {
			t.Fatalf("%s is not as it was (%v)", kv.Key, err)
		}
		if kv.Lease != 0 {
			if left, err := to.Client().TimeToLive(ctx, clientv3.LeaseID(kv.Lease)); err != nil || left.TTL < 3500 || left.TTL > 3600 {
				t.Errorf("%s has a lease of %v (%v)", kv.Key, left, err)
			}
		}
	}
	_, err = cluster.Restore(ctx, to.Client(), cluster.Restoration{Prefix: "/dw/"}, again(saved.Bytes()), nothing)
	if !errors.Is(err, cluster.ErrNotEmpty) {
		t.Errorf("a second restore into it: %v", err)
	}
}

// What an epoch had ended was revived by a restore in the order of keys.
func TestARestoreKeepsTheOrderOfWhatIsComparedByAge(t *testing.T) {
	ctx := t.Context()
	from := start(t, t.TempDir())
	defer from.Close()
	for _, key := range []string{"/dw/s/before", "/dw/e/one", "/dw/s/between", "/dw/e/two", "/dw/s/after"} {
		put(t, from.Client(), key, "v")
	}
	put(t, from.Client(), "/dw/s/before", "touched") // born before all the same
	var saved bytes.Buffer
	if _, err := cluster.Backup(ctx, from.Client(), "/dw/", &saved); err != nil {
		t.Fatal(err)
	}
	to := start(t, t.TempDir())
	defer to.Close()
	r := cluster.Restoration{Prefix: "/dw/", Aged: func(kv *mvccpb.KeyValue) (int64, bool, bool) {
		return kv.CreateRevision, strings.HasPrefix(string(kv.Key), "/dw/e/"), true
	}}
	if _, err := cluster.Restore(ctx, to.Client(), r, again(saved.Bytes()), nothing); err != nil {
		t.Fatal(err)
	}
	var last int64
	for _, key := range []string{"/dw/s/before", "/dw/e/one", "/dw/s/between", "/dw/e/two", "/dw/s/after"} {
		got, err := to.Client().Get(ctx, key)
		if err != nil || len(got.Kvs) != 1 {
			t.Fatalf("%s: %v", key, err)
		}
		if got.Kvs[0].CreateRevision <= last {
			t.Errorf("%s is not younger than what came before it", key)
		}
		last = got.Kvs[0].CreateRevision
	}
}

func TestWhatIsNoWholeBackupWritesNothing(t *testing.T) {
	m := start(t, t.TempDir())
	defer m.Close()
	put(t, m.Client(), "/dw/a", "1")
	put(t, m.Client(), "/dw/b", "2")
	var saved bytes.Buffer
	if _, err := cluster.Backup(t.Context(), m.Client(), "/dw/", &saved); err != nil {
		t.Fatal(err)
	}
	whole := saved.Bytes()
	to := start(t, t.TempDir())
	defer to.Close()
	bad := map[string][]byte{"empty": nil, "more": append(bytes.Clone(whole), 0), "twice": append(bytes.Clone(whole), whole...), "text": []byte("{}\n"), "huge": {0xff, 0xff, 0xff, 0xff, 0x0f}}
	for cut := range whole {
		bad[fmt.Sprintf("cut at %d", cut)] = whole[:cut]
	}
	for name, text := range bad {
		if _, err := cluster.Restore(t.Context(), to.Client(), cluster.Restoration{Prefix: "/dw/"}, again(text), nothing); !errors.Is(err, cluster.ErrBackup) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := cluster.Restore(t.Context(), to.Client(), cluster.Restoration{Prefix: "/dw/a"}, again(whole), nothing); !errors.Is(err, cluster.ErrBackup) {
		t.Errorf("keys of elsewhere: %v", err)
	}
	if got, err := to.Client().Get(t.Context(), "", clientv3.WithPrefix()); err != nil || len(got.Kvs) != 0 {
		t.Errorf("%v was written (%v)", got, err)
	}
}

func TestARestoreThatEndsEarlyIsKnownAndDoneAgain(t *testing.T) {
	ctx := t.Context()
	m := start(t, t.TempDir())
	defer m.Close()
	put(t, m.Client(), "/dw/a", "1")
	put(t, m.Client(), "/dw/z", "2")
	var saved bytes.Buffer
	if _, err := cluster.Backup(ctx, m.Client(), "/dw/", &saved); err != nil {
		t.Fatal(err)
	}
	to := start(t, t.TempDir())
	defer to.Close()
	broken := errors.New("power is out")
	if _, err := cluster.Restore(ctx, to.Client(), cluster.Restoration{Prefix: "/dw/"}, again(saved.Bytes()), func(context.Context) error { return broken }); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if err := cluster.Interrupted(ctx, to.Client(), "/dw/"); !errors.Is(err, cluster.ErrInterrupted) {
		t.Errorf("a restore that ended early: %v", err)
	}
	put(t, to.Client(), "/dw/half", "of the first try")
	if _, err := cluster.Restore(ctx, to.Client(), cluster.Restoration{Prefix: "/dw/"}, again(saved.Bytes()), nothing); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Interrupted(ctx, to.Client(), "/dw/"); err != nil {
		t.Errorf("after the second try: %v", err)
	}
	if got, err := to.Client().Get(ctx, "/dw/", clientv3.WithPrefix()); err != nil || len(got.Kvs) != 2 {
		t.Errorf("%v (%v)", got, err)
	}
}

func put(t *testing.T, client *clientv3.Client, key, value string, options ...clientv3.OpOption) {
	t.Helper()
	if _, err := client.Put(t.Context(), key, value, options...); err != nil {
		t.Fatal(err)
	}
}

func again(text []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }
}

func nothing(context.Context) error { return nil }
