package etcd

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// How leases are shared. A lease per session is the known failure: each expiry
// forces etcd to commit synchronously, and twenty thousand at once stop every
// writer for half a minute. A thousand keys on one lease go in some 20 ms.
const (
	leaseKeys  = 1000            // keys on one lease at the most
	leaseSlack = 2 * time.Minute // how long a lease outlives what is on it
	maxBuckets = 4096            // expiry minutes remembered
)

// leases hands out shared leases, one at a time for each minute in which
// sessions end.
type leases struct {
	client  *clientv3.Client
	mu      sync.Mutex
	buckets map[int64]*bucket // by Unix minute of the end
}

// bucket is the lease being filled for one minute.
type bucket struct {
	mu   sync.Mutex // held while a lease is granted, so that one is, not a hundred
	id   clientv3.LeaseID
	room int
}

// take returns a lease that outlives end, with room for n keys.
func (l *leases) take(ctx context.Context, end time.Time, n int) (clientv3.LeaseID, *bucket, error) {
	b := l.bucket(end)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.id == 0 || b.room < n {
		// Jitter keeps buckets of the same minute on different nodes apart.
		ttl := time.Until(end) + leaseSlack + rand.N(leaseSlack)
		granted, err := l.client.Grant(ctx, max(1, int64(ttl/time.Second)))
		if err != nil {
			return 0, nil, err
		}
		b.id, b.room = granted.ID, leaseKeys
	}
	b.room -= n
	return b.id, b, nil
}

// forget gives up a lease that etcd does not have any more.
func (b *bucket) forget(id clientv3.LeaseID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.id == id {
		b.id = 0
	}
}

func (l *leases) bucket(end time.Time) *bucket {
	minute := end.Unix()/60 + 1
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.buckets[minute]; b != nil {
		return b
	}
	if len(l.buckets) >= maxBuckets {
		clear(l.buckets) // what is on their leases stays there; new sessions get new ones
	}
	b := &bucket{}
	l.buckets[minute] = b
	return b
}
