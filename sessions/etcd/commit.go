package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/sessions"
)

// How writes are grouped.
const (
	queued     = 4096                   // writes that may wait for the committer
	batchBytes = 1 << 20                // etcd takes requests up to 1.5 MiB
	stallTime  = 700 * time.Millisecond // after which a group is not waited for
	commitTime = 5 * time.Second        // bound on one group
)

// write is one write that may share a transaction with others: a create without
// conditions, or a touch.
type write struct {
	gone   <-chan struct{} // the caller has left: the write must not be made any more
	record string          // key of the record; one write of a key goes into a batch
	bytes  int
	puts   []put     // of a create
	end    time.Time // of a create: what its lease must outlive
	touch  clientv3.Op
	done   chan outcome // has room for the one answer
}

type put struct{ key, value string }

// outcome is what became of a write.
type outcome struct {
	revision int64
	met      bool // its condition, if it had one
	err      error
}

// ops is how many operations of a transaction the write takes.
func (w *write) ops() int { return max(1, len(w.puts)) }

// Run commits creates and touches in groups until ctx ends, and returns ctx's
// error. A group is what queued while the one before it was committed: nobody
// waits for company. Without Run they wait until their contexts end.
//
// A group that stalls does not hold up the ones behind it: what a member has
// forwarded to a leader that died is dropped, and nobody is told (an election
// takes less than stallTime).
func (s *Store) Run(ctx context.Context) error {
	var committing sync.WaitGroup
	defer committing.Wait()
	var next *write // did not fit into the last group
	for {
		if next == nil {
			select {
			case next = <-s.queue:
			case <-ctx.Done():
				s.refuse(ctx.Err())
				return ctx.Err()
			}
		}
		var group []*write
		group, next = s.gather(next)
		done := make(chan struct{})
		committing.Go(func() {
			defer close(done)
			s.commit(ctx, group)
		})
		select {
		case <-done:
		case <-time.After(stallTime):
		}
	}
}

// refuse answers what is queued when nobody will commit it.
func (s *Store) refuse(err error) {
	for {
		select {
		case w := <-s.queue:
			w.done <- outcome{err: unavailable("write session", err)}
		default:
			return
		}
	}
}

// gather makes a group of first and what has queued, as large as a transaction
// may be, and returns the write that it had to leave.
func (s *Store) gather(first *write) (group []*write, left *write) {
	records := map[string]bool{}
	ops, bytes := 0, 0
	for w := first; ; {
		select {
		case <-w.gone: // its caller may have tried again, or revoked, since
			w.done <- outcome{err: unavailable("write session", context.Canceled)}
		default:
			full := ops+w.ops() > s.txnOps || bytes+w.bytes > batchBytes
			if len(group) > 0 && (full || records[w.record]) { // etcd takes a key once only
				return group, w
			}
			group = append(group, w)
			records[w.record] = true
			ops, bytes = ops+w.ops(), bytes+w.bytes
		}
		select {
		case w = <-s.queue:
		default:
			return group, nil
		}
	}
}

// commit writes a group in one transaction and answers its callers. When etcd
// refuses the group for what is in it, each half is tried alone, so that one
// bad write spoils nothing; a write that is alone learns why.
func (s *Store) commit(ctx context.Context, group []*write) {
	if len(group) == 0 {
		return
	}
	done, err := s.try(ctx, group)
	switch {
	case err == nil:
		for i, at := 0, 0; i < len(group); i++ {
			w := group[i]
			met := len(w.puts) > 0 || done.Responses[at].GetResponseTxn().Succeeded
			w.done <- outcome{revision: done.Header.Revision, met: met}
			at += w.ops()
		}
	case refused(err) && len(group) > 1:
		s.commit(ctx, group[:len(group)/2])
		s.commit(ctx, group[len(group)/2:])
	default:
		for _, w := range group {
			w.done <- outcome{err: failed("write session", err)}
		}
	}
}

// try makes one transaction of a group, and once more when a lease it was to
// use has vanished.
func (s *Store) try(ctx context.Context, group []*write) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	for again := true; ; again = false {
		var ops []clientv3.Op
		used := map[clientv3.LeaseID]time.Time{}
		for _, w := range group {
			if len(w.puts) == 0 {
				ops = append(ops, w.touch)
				continue
			}
			lease, err := s.leases.take(ctx, w.end, len(w.puts))
			if err != nil {
				return nil, fmt.Errorf("grant lease: %w", err)
			}
			used[lease] = w.end
			for _, p := range w.puts {
				ops = append(ops, clientv3.OpPut(p.key, p.value, clientv3.WithLease(lease)))
			}
		}
		done, err := s.client.Txn(ctx).Then(ops...).Commit()
		if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return done, err
		}
		for lease, end := range used { // etcd does not say which
			s.leases.forget(end, lease)
		}
		if !again {
			return nil, err
		}
	}
}

// enqueue hands a write to the committer and waits for what becomes of it.
func (s *Store) enqueue(ctx context.Context, w *write) (outcome, error) {
	w.gone, w.done = ctx.Done(), make(chan outcome, 1)
	if err := begin(ctx); err != nil {
		return outcome{}, err
	}
	select {
	case s.queue <- w:
	case <-ctx.Done():
		return outcome{}, unavailable("write session", ctx.Err())
	}
	select {
	case o := <-w.done:
		return o, o.err
	case <-ctx.Done():
		return outcome{}, unavailable("write session", ctx.Err())
	}
}

// begin stands before a write that reads nothing first: in process, etcd may
// take a proposal whose time is over.
func begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return unavailable("write session", err)
	}
	return nil
}

// leased makes a write of its own on a lease that outlives end, with room for n
// keys. When etcd has lost the lease it takes another one.
func (s *Store) leased(ctx context.Context, end time.Time, n int, commit func(clientv3.LeaseID) (*clientv3.TxnResponse, error)) (*clientv3.TxnResponse, error) {
	for {
		if err := begin(ctx); err != nil {
			return nil, err
		}
		lease, err := s.leases.take(ctx, end, n)
		if err != nil {
			return nil, unavailable("grant lease", err)
		}
		done, err := commit(lease)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			s.leases.forget(end, lease)
			continue
		}
		if err != nil {
			return nil, failed("write session", err)
		}
		return done, nil
	}
}

// refused reports whether etcd has certainly written nothing, because of what
// it was asked to write.
func refused(err error) bool {
	for _, definite := range []error{
		rpctypes.ErrLeaseNotFound, rpctypes.ErrRequestTooLarge, rpctypes.ErrTooManyOps,
		rpctypes.ErrDuplicateKey, rpctypes.ErrEmptyKey, rpctypes.ErrKeyNotFound,
	} {
		if errors.Is(err, definite) {
			return true
		}
	}
	return false
}

// failed tells a write that etcd will never take from one that it could not
// take now, or of which nobody knows whether it has.
func failed(what string, err error) error {
	if refused(err) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return unavailable(what, err)
}

// unavailable says that etcd, or what is read from it, could not be reached or
// would not write. The cause stays readable for the log.
func unavailable(what string, err error) error {
	return fmt.Errorf("%s: %w: %w", what, sessions.ErrUnavailable, err)
}
