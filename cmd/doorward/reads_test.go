package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/sessions"
	sessionsetcd "github.com/doorward/doorward/sessions/etcd"
)

// watchedKV is a client's KV whose transactions are counted, and held up while
// hold says so.
type watchedKV struct {
	clientv3.KV
	begun atomic.Int64
	hold  func(n int64) // called by each transaction with its number, from 1
}

func (k *watchedKV) Txn(ctx context.Context) clientv3.Txn {
	if n := k.begun.Add(1); k.hold != nil {
		k.hold(n)
	}
	return k.KV.Txn(ctx)
}

// watchKV is a client that goes to the same etcd through a watchedKV.
func watchKV(t *testing.T, client *clientv3.Client) (*clientv3.Client, *watchedKV) {
	kv := &watchedKV{KV: client.KV}
	watched := clientv3.NewCtxClient(t.Context())
	watched.KV, watched.Lease, watched.Watcher, watched.Maintenance = kv, client.Lease, client.Watcher, client.Maintenance
	return watched, kv
}

// Each of many look-ups at the same moment gets its own answer, of its own tenant:
// a session, none, or one that an epoch has ended.
func TestLookUpsAtTheSameMomentShareTransactions(t *testing.T) {
	t.Parallel()
	client := startMember(t)
	source := newSource(t, client)
	watched, kv := watchKV(t, client)
	store := newStore(t, watched, source, sessionsetcd.Config{TxnOps: 64}) // groups get full, too
	type lookUp struct {
		tenant string
		digest sessions.Digest
		want   sessions.ID // "": there is none
	}
	var all []lookUp
	for i := range 8 {
		tenant := newTenant(t, source, fmt.Sprintf("tenant-%d", i))
		create := func() lookUp {
			d, s := storedSession(tenant)
			if _, err := store.Create(t.Context(), sessions.Creation{Digest: d, Session: s}); err != nil {
				t.Fatal(err)
			}
			return lookUp{tenant, d, s.ID}
		}
		old := create()
		if i%2 == 0 {
			if _, err := store.BumpEpoch(t.Context(), tenant, sessions.Filter{}); err != nil {
				t.Fatal(err)
			}
			old.want = ""
		}
		elsewhere := create()
		all = append(all, old, elsewhere, lookUp{tenant, sessions.NewToken().Digest(tenant), ""}, lookUp{"nobody", elsewhere.digest, ""})
	}
	before, finds := kv.begun.Load(), int64(0)
	var running sync.WaitGroup
	for worker := range 64 {
		finds += 50
		running.Go(func() {
			for i := range 50 {
				l := all[(worker*7+i*11)%len(all)]
				found, err := store.Find(t.Context(), l.tenant, l.digest)
				if found.ID != l.want || (l.want == "") != errors.Is(err, sessions.ErrNotFound) {
					t.Errorf("found %q, %v; want %q", found.ID, err, l.want)
				}
			}
		})
	}
	running.Wait()
	if made := kv.begun.Load() - before; made >= finds/2 {
		t.Errorf("%d transactions for %d look-ups", made, finds)
	}
}

// A transaction that is not answered holds up its own look-up, and nobody who comes
// more than a tenth of a second later; who leaves, leaves at once.
func TestASlowReadHoldsUpNobodyBehindIt(t *testing.T) {
	t.Parallel()
	client := startMember(t)
	source := newSource(t, client)
	tenant := newTenant(t, source, "a")
	held, stuck := make(chan struct{}), make(chan struct{})
	watched, kv := watchKV(t, client)
	store := newStore(t, watched, source, sessionsetcd.Config{})
	d, s := storedSession(tenant)
	if _, err := store.Create(t.Context(), sessions.Creation{Digest: d, Session: s}); err != nil {
		t.Fatal(err)
	}
	first := kv.begun.Load() + 1
	kv.hold = func(n int64) {
		if n == first {
			close(stuck)
			<-held
		}
	}
	done := make(chan error, 1)
	go func() {
		_, err := store.Find(context.WithoutCancel(t.Context()), tenant, d)
		done <- err
	}()
	<-stuck
	left, leave := context.WithCancel(t.Context())
	leave()
	if _, err := store.Find(left, tenant, d); !errors.Is(err, sessions.ErrUnavailable) {
		t.Errorf("who has left is told %v", err)
	}
	for began := time.Now(); ; {
		once, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := store.Find(once, tenant, d)
		cancel()
		if err == nil {
			break
		}
		if time.Since(began) > 10*time.Second {
			t.Fatal("nobody is answered behind it")
		}
	}
	close(held)
	if err := <-done; err != nil {
		t.Errorf("what was slow ends with %v", err)
	}
}
