package etcd

import (
	"context"
	"math/bits"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Leases remove entries that have ended; that an entry counts no more is told by
// its own end. So many share one: a lease an entry would have etcd commit at
// each expiry, and twenty thousand at once stop every writer. Ends are rounded up
// by an eighth of the time to them, which keeps some dozens of leases a node in
// use, whatever ttls there are.
const (
	leaseKeys  = 1000 // entries on one lease at the most
	maxBuckets = 4096 // ends remembered
)

// leases hands out shared leases. The maps' zero values are not ready.
type leases struct {
	client  *clientv3.Client
	mu      sync.Mutex
	buckets map[int64]*bucket // by Unix second of the end
}

// bucket is the lease being filled for one end.
type bucket struct {
	mu   sync.Mutex // held while a lease is granted, so that one is, not a hundred
	id   clientv3.LeaseID
	room int
}

// lease is what an entry is put on.
type lease struct {
	id   clientv3.LeaseID
	from *bucket
}

// take returns a lease that outlives end.
func (l *leases) take(ctx context.Context, end time.Time) (*lease, error) {
	until := roundUp(time.Now(), end)
	b := l.bucket(until)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.id == 0 || b.room == 0 {
		granted, err := l.client.Grant(ctx, max(1, until-time.Now().Unix()))
		if err != nil {
			return nil, err
		}
		b.id, b.room = granted.ID, leaseKeys
	}
	b.room--
	return &lease{b.id, b}, nil
}

// roundUp is a Unix second after end, one of few.
func roundUp(now, end time.Time) int64 {
	grain := max(60, int64(1)<<bits.Len64(uint64(max(0, end.Sub(now)/time.Second)))/8)
	return (end.Unix()/grain + 1) * grain
}

// forget gives up a lease that etcd does not have any more.
func (l *lease) forget() {
	l.from.mu.Lock()
	defer l.from.mu.Unlock()
	if l.from.id == l.id {
		l.from.id = 0
	}
}

func (l *leases) bucket(until int64) *bucket {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.buckets[until]; b != nil {
		return b
	}
	if len(l.buckets) >= maxBuckets {
		clear(l.buckets) // what is on their leases stays there; new entries get new ones
	}
	b := &bucket{}
	l.buckets[until] = b
	return b
}
