package etcd

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/singleflight"
)

// How leases are shared. A lease per session is the known failure: each expiry
// forces etcd to commit synchronously, and twenty thousand at once stop every
// writer for half a minute. A thousand keys on one lease go in some 20 ms.
const (
	leaseKeys  = 1000            // keys on one lease at the most
	leaseSlack = 2 * time.Minute // how long a lease outlives what is on it
	maxBuckets = 4096            // expiry minutes remembered
)

// leases hands out shared leases, one after the other for each minute in which
// sessions end.
type leases struct {
	client *clientv3.Client
	grants singleflight.Group // by minute, so that one is granted, not a hundred

	mu      sync.Mutex // never held across a call to etcd
	buckets map[int64]*bucket
}

// bucket is the lease being filled for one minute, and the one after it.
type bucket struct {
	now, next clientv3.LeaseID // 0 is none
	room      int              // keys that still fit on now
}

// take returns a lease that outlives end, with room for n keys. When half of a
// lease is used up the next one is granted beside the writes, so that a busy
// minute waits for its first lease only.
func (l *leases) take(ctx context.Context, end time.Time, n int) (clientv3.LeaseID, error) {
	minute := minuteOf(end)
	for {
		id, ahead := l.fit(minute, n)
		if id != 0 {
			if ahead {
				l.grant(minute)
			}
			return id, nil
		}
		select {
		case granted := <-l.grant(minute):
			if granted.Err != nil {
				return 0, granted.Err
			}
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// fit takes room for n keys on a lease that is there, or returns 0; ahead says
// that the next lease will soon be wanted.
func (l *leases) fit(minute int64, n int) (id clientv3.LeaseID, ahead bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(minute)
	if b.now == 0 || b.room < n {
		if b.next == 0 {
			return 0, false
		}
		b.now, b.next, b.room = b.next, 0, leaseKeys
	}
	before := b.room
	b.room -= n
	return b.now, b.next == 0 && before >= leaseKeys/2 && b.room < leaseKeys/2
}

// grant makes the next lease of a minute. It belongs to no caller: one that
// leaves does not spoil it for the others.
func (l *leases) grant(minute int64) <-chan singleflight.Result {
	return l.grants.DoChan(strconv.FormatInt(minute, 10), func() (any, error) {
		l.mu.Lock()
		there := l.bucket(minute).next != 0 // granted since the caller looked
		l.mu.Unlock()
		if there {
			return nil, nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), commitTime)
		defer cancel()
		// Jitter keeps leases of the same minute on different nodes apart.
		ttl := time.Until(time.Unix(60*minute, 0)) + leaseSlack + rand.N(leaseSlack)
		granted, err := l.client.Grant(ctx, max(1, int64(ttl/time.Second)))
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.bucket(minute).next = granted.ID
		return nil, nil
	})
}

// forget gives up a lease that etcd does not have any more.
func (l *leases) forget(end time.Time, id clientv3.LeaseID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(minuteOf(end))
	if b.now == id {
		b.now, b.room = 0, 0
	}
	if b.next == id {
		b.next = 0
	}
}

// bucket is a minute's, made when it is the first time. The caller holds mu.
func (l *leases) bucket(minute int64) *bucket {
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

// minuteOf is the first Unix minute after end.
func minuteOf(end time.Time) int64 { return end.Unix()/60 + 1 }
