package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/tenants/seal"
)

// KeysFunc gives a tenant's data keys as they were at revision or later; with 0
// any will do. An error means that nothing of the tenant can be read or written.
type KeysFunc func(ctx context.Context, tenant string, revision int64) (*seal.Keys, error)

// Config tunes a Store. The zero value is for the embedded member.
type Config struct {
	// TxnOps is etcd's --max-txn-ops: how many operations it takes in one
	// transaction. 0 is 1024, as sessions/cluster sets it; etcd's own default is
	// 128.
	TxnOps int
}

// Store is a sessions.Store and sessions.Challenges in etcd. Safe for use by
// many goroutines.
type Store struct {
	client *clientv3.Client
	keys   KeysFunc
	leases leases
	txnOps int // of ours in one transaction
	queue  chan *write

	mu      sync.Mutex
	watches map[chan<- struct{}]bool // that run, to be asked for their progress
}

// nestedOps is the head-room for the operations of the largest nested
// transaction: etcd takes what is around it off its limit (checkTxnRequest in
// etcdserver/api/v3rpc/key.go).
const nestedOps = 8

// New returns a Store on client. The client stays the caller's. Creates and
// touches need Run.
func New(client *clientv3.Client, keys KeysFunc, cfg Config) *Store {
	if cfg.TxnOps == 0 {
		cfg.TxnOps = 1024
	}
	return &Store{
		client: client, keys: keys, txnOps: max(nestedOps, cfg.TxnOps-nestedOps),
		leases: leases{client: client, buckets: map[int64]*bucket{}},
		queue:  make(chan *write, queued), watches: map[chan<- struct{}]bool{},
	}
}

// Create implements sessions.Store. Only what has no condition shares its
// transaction with others: one condition that fails fails all.
func (s *Store) Create(ctx context.Context, c sessions.Creation) (int64, error) {
	keys, err := s.keys(ctx, c.Session.Tenant, 0)
	if err != nil {
		return 0, unavailable("read tenant keys", err)
	}
	if c.Session.ID != c.Digest.ID() {
		return 0, fmt.Errorf("create session %s: its ID is not its digest's", c.Session.ID)
	}
	puts := s.puts(keys, c.Digest, c.Session)
	if c.Replaces != nil || c.Challenge != nil {
		return s.createIf(ctx, keys, c, puts)
	}
	w := &write{record: puts[0].key, puts: puts, end: c.Session.ExpiresAt}
	for _, p := range puts {
		w.bytes += len(p.key) + len(p.value) + 64
	}
	o, err := s.enqueue(ctx, w)
	return o.revision, err
}

// puts are a session's record, sealed, and its index entries.
func (s *Store) puts(keys *seal.Keys, d sessions.Digest, session sessions.Session) []put {
	record := recordKey(session.Tenant, d)
	puts := []put{{record, sealed(keys, record, d, session)}}
	where := ""
	if session.ID != d.ID() {
		where = string(d[:])
		puts = append(puts, put{idKey(session.Tenant, session.ID), where})
	}
	return append(puts, put{subjectKey(keys, session), where})
}

func sealed(keys *seal.Keys, record string, d sessions.Digest, s sessions.Session) string {
	return string(keys.Seal([]byte(record), encode(d, s)))
}

// createIf creates in a transaction of its own: the challenge must be there
// still, and the session that is replaced must be as it was read.
func (s *Store) createIf(ctx context.Context, keys *seal.Keys, c sessions.Creation, puts []put) (int64, error) {
	for {
		var when []clientv3.Cmp
		var ops, orElse []clientv3.Op
		if c.Challenge != nil {
			pending := challengeKey(c.Session.Tenant, *c.Challenge)
			when = append(when, clientv3.Compare(clientv3.CreateRevision(pending), ">", 0))
			ops = append(ops, clientv3.OpDelete(pending))
			orElse = append(orElse, clientv3.OpGet(pending, clientv3.WithCountOnly()))
		}
		if c.Replaces != nil {
			old, err := s.current(ctx, keys, c.Session.Tenant, *c.Replaces)
			if err != nil && !errors.Is(err, sessions.ErrNotFound) {
				return 0, err
			}
			if err == nil {
				when = append(when, old.unchanged()...)
				ops = append(ops, old.deletes(keys)...)
			}
		}
		done, err := s.leased(ctx, c.Session.ExpiresAt, len(puts), func(lease clientv3.LeaseID) (*clientv3.TxnResponse, error) {
			all := ops[:len(ops):len(ops)]
			for _, p := range puts {
				all = append(all, clientv3.OpPut(p.key, p.value, clientv3.WithLease(lease)))
			}
			return s.client.Txn(ctx).If(when...).Then(all...).Else(orElse...).Commit()
		})
		if err != nil {
			return 0, err
		}
		if done.Succeeded {
			return done.Header.Revision, nil
		}
		if c.Challenge != nil && done.Responses[0].GetResponseRange().Count == 0 {
			return 0, sessions.ErrNotFound
		}
	}
}

// Find implements sessions.Store.
func (s *Store) Find(ctx context.Context, tenant string, d sessions.Digest) (sessions.Session, error) {
	got, err := s.client.Txn(ctx).Then(append(epochReads(tenant), clientv3.OpGet(recordKey(tenant, d)))...).Commit()
	if err != nil {
		return sessions.Session{}, unavailable("read session", err)
	}
	kvs := got.Responses[epochOps].GetResponseRange().Kvs
	if len(kvs) == 0 {
		return sessions.Session{}, sessions.ErrNotFound
	}
	keys, err := s.keys(ctx, tenant, 0)
	if err != nil {
		return sessions.Session{}, unavailable("read tenant keys", err)
	}
	found, err := s.open(ctx, keys, tenant, d, kvs[0])
	if err != nil {
		return sessions.Session{}, err
	}
	var ended epochs
	ended.read(got)
	if ended.has(found) {
		return sessions.Session{}, sessions.ErrNotFound
	}
	return found, nil
}

// open reads a record. One that does not open, being another tenant's or moved
// from another key, is no session here, and worth an error in the log. One whose
// key is gone, so many rotations ago was it written, is not there any more:
// ErrNotFound.
func (s *Store) open(ctx context.Context, keys *seal.Keys, tenant string, d sessions.Digest, kv *mvccpb.KeyValue) (sessions.Session, error) {
	text, err := s.unseal(ctx, keys, tenant, kv)
	if errors.Is(err, seal.ErrNoKey) {
		return sessions.Session{}, fmt.Errorf("open session record: %w: %w", sessions.ErrNotFound, err)
	}
	if err != nil {
		return sessions.Session{}, fmt.Errorf("open session record: %w", err)
	}
	found, err := decode(tenant, d, text)
	found.Revision, found.Born = kv.ModRevision, kv.CreateRevision
	return found, err
}

// unseal opens what is sealed by a tenant's keys. One that is not among these
// another node may have made since, but not after the record.
func (s *Store) unseal(ctx context.Context, keys *seal.Keys, tenant string, kv *mvccpb.KeyValue) ([]byte, error) {
	text, err := keys.Open(kv.Key, kv.Value)
	if !errors.Is(err, seal.ErrNoKey) {
		return text, err
	}
	if keys, err = s.keys(ctx, tenant, kv.ModRevision); err != nil {
		return nil, unavailable("read tenant keys", err)
	}
	return keys.Open(kv.Key, kv.Value)
}

// FindID implements sessions.Store. A rotation between its two reads leads it
// to a record that is no longer current; then it looks again.
func (s *Store) FindID(ctx context.Context, tenant string, id sessions.ID) (sessions.Session, error) {
	keys, err := s.keys(ctx, tenant, 0)
	if err != nil {
		return sessions.Session{}, unavailable("read tenant keys", err)
	}
	for {
		e, err := s.named(ctx, keys, tenant, id)
		if err != nil {
			return sessions.Session{}, err
		}
		found, err := s.Find(ctx, tenant, e.digest)
		if err != nil {
			return sessions.Session{}, err
		}
		if found.ID != id {
			return sessions.Session{}, sessions.ErrNotFound
		}
		if !found.Superseded() {
			return found, nil
		}
	}
}

// Touch implements sessions.Store. The record keeps its lease, which is by the
// absolute deadline and so does not change.
func (s *Store) Touch(ctx context.Context, d sessions.Digest, touched sessions.Session) (int64, error) {
	if touched.Revision == 0 { // etcd has absent keys at 0
		return 0, sessions.ErrNotFound
	}
	keys, err := s.keys(ctx, touched.Tenant, 0)
	if err != nil {
		return 0, unavailable("read tenant keys", err)
	}
	record := recordKey(touched.Tenant, d)
	value := sealed(keys, record, d, touched)
	o, err := s.enqueue(ctx, &write{
		record: record, bytes: 2*len(record) + len(value) + 128,
		touch: clientv3.OpTxn(
			[]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(record), "=", touched.Revision)},
			[]clientv3.Op{clientv3.OpPut(record, value, clientv3.WithIgnoreLease())}, nil),
	})
	if err == nil && !o.met {
		err = sessions.ErrNotFound
	}
	if err != nil {
		return 0, err
	}
	return o.revision, nil
}

// Rotate implements sessions.Store. What moves has a new birth, so that an
// epoch since the old one must stop it here.
func (s *Store) Rotate(ctx context.Context, r sessions.Rotation) (int64, error) {
	if r.Was.Revision == 0 { // etcd has absent keys at 0
		return 0, sessions.ErrNotFound
	}
	if !r.New.Later() {
		return 0, fmt.Errorf("rotate session %s: its new digest is one that a session begins with", r.Was.ID)
	}
	keys, err := s.keys(ctx, r.Was.Tenant, 0)
	if err != nil {
		return 0, unavailable("read tenant keys", err)
	}
	old := recordKey(r.Was.Tenant, r.Old)
	when := append(noEpochSince(r.Was), clientv3.Compare(clientv3.ModRevision(old), "=", r.Was.Revision))
	// The mark is what a list comes by first, so it lasts as long as what it stands
	// for: on the lease of now, whatever the clock was when it was made.
	puts := append(s.puts(keys, r.New, r.Next), put{old, sealed(keys, old, r.Old, r.Was)})
	done, err := s.leased(ctx, r.Next.ExpiresAt, len(puts), func(lease clientv3.LeaseID) (*clientv3.TxnResponse, error) {
		var ops []clientv3.Op
		for _, p := range puts {
			ops = append(ops, clientv3.OpPut(p.key, p.value, clientv3.WithLease(lease)))
		}
		return s.client.Txn(ctx).If(when...).Then(ops...).Commit()
	})
	if err != nil {
		return 0, err
	}
	if !done.Succeeded {
		return 0, sessions.ErrNotFound
	}
	return done.Header.Revision, nil
}
