package etcd

import (
	"context"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// How reads are grouped.
const (
	readTime  = time.Second            // bound on one group
	readsMost = 128                    // look-ups in one
	slowRead  = 100 * time.Millisecond // after which nobody waits for a group to end
)

// reads makes groups of the look-ups that come at the same moment: one
// transaction, one proof by the majority, and one read of the epochs for all of
// them. A look-up joins a group whose transaction has not begun, so it sees what
// it would see alone: its record and its epochs at one revision, which is not
// older than the call.
type reads struct {
	client *clientv3.Client
	most   int // look-ups in a group

	mu      sync.Mutex
	next    *group // gathers while another is read
	running int
	began   time.Time // when the last group was
}

// group is some look-ups and, once done is closed, their answers.
type group struct {
	epochs  []string // prefixes of the tenants, each once
	records []string
	done    chan struct{}
	answers []*pb.ResponseOp // everybody's epoch, the tenants', the records
	err     error
}

// find reads a record, nil when there is none, and what has ended sessions of
// its tenant. Nobody waits for company: what comes alone is read at once, by its
// caller.
func (r *reads) find(ctx context.Context, tenant, record string) (*mvccpb.KeyValue, epochs, error) {
	g, at, i, alone := r.join(tenantEpochs(tenant), record)
	if alone {
		if next := r.read(ctx, g); next != nil {
			go r.readOn(next)
		}
	}
	select {
	case <-g.done:
	case <-ctx.Done():
		return nil, epochs{}, ctx.Err()
	}
	if g.err != nil {
		return nil, epochs{}, g.err
	}
	var ended epochs
	ended.add(g.answers[0].GetResponseRange())
	ended.add(g.answers[1+at].GetResponseRange())
	found := g.answers[1+len(g.epochs)+i].GetResponseRange().Kvs
	if len(found) == 0 {
		return nil, ended, nil
	}
	return found[0], ended, nil
}

// join puts a look-up into the next group, its epochs at at and its record at i.
// When nothing is read now, that is a group of one, for the caller to read. One
// that waits for a slow group, or is full, is read beside what is read now: what
// a dead member does not answer must not hold up those behind it.
func (r *reads) join(prefix, record string) (g *group, at, i int, alone bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next == nil {
		r.next = &group{done: make(chan struct{})}
	}
	g, i = r.next, len(r.next.records)
	g.records = append(g.records, record)
	if at = slices.Index(g.epochs, prefix); at < 0 {
		at = len(g.epochs)
		g.epochs = append(g.epochs, prefix)
	}
	switch {
	case r.running == 0:
		return r.begin(), at, i, true
	case len(g.records) == r.most || time.Since(r.began) > slowRead:
		go r.readOn(r.begin())
	}
	return g, at, i, false
}

// begin takes the next group, which is read from now on and gathers no more. The
// caller holds mu.
func (r *reads) begin() *group {
	g := r.next
	r.next, r.began = nil, time.Now()
	r.running++
	return g
}

// read reads a group, and begins what has gathered meanwhile.
func (r *reads) read(ctx context.Context, g *group) (next *group) {
	g.answers, g.err = r.commit(ctx, g)
	close(g.done)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running--; r.running > 0 || r.next == nil {
		return nil
	}
	return r.begin()
}

// readOn reads a group and what gathers meanwhile, until nobody waits. It is in
// no caller's time: one may leave, and the others still want their answers.
func (r *reads) readOn(g *group) {
	for g != nil {
		ctx, cancel := context.WithTimeout(context.Background(), readTime)
		g = r.read(ctx, g)
		cancel()
	}
}

func (r *reads) commit(ctx context.Context, g *group) ([]*pb.ResponseOp, error) {
	ops := make([]clientv3.Op, 0, 1+len(g.epochs)+len(g.records))
	ops = append(ops, clientv3.OpGet(globalEpoch, clientv3.WithKeysOnly()))
	for _, prefix := range g.epochs {
		ops = append(ops, clientv3.OpGet(prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly()))
	}
	for _, record := range g.records {
		ops = append(ops, clientv3.OpGet(record))
	}
	got, err := r.client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return nil, err
	}
	return got.Responses, nil
}
