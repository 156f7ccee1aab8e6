package etcd

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/tenants/seal"
)

// KeysFunc gives a tenant's data keys. An error means that nothing of the
// tenant can be read or written.
type KeysFunc func(ctx context.Context, tenant string) (*seal.Keys, error)

// Store is a sessions.Store and sessions.Challenges in etcd.
type Store struct {
	client *clientv3.Client
	keys   KeysFunc
	leases leases
}

// New returns a Store on client. The client stays the caller's.
func New(client *clientv3.Client, keys KeysFunc) *Store {
	return &Store{client: client, keys: keys, leases: leases{client: client, buckets: map[int64]*bucket{}}}
}

// Create implements sessions.Store.
func (s *Store) Create(ctx context.Context, c sessions.Creation) (int64, error) {
	tenant := c.Session.Tenant
	keys, err := s.keys(ctx, tenant)
	if err != nil {
		return 0, unavailable("read tenant keys", err)
	}
	drop, err := s.replaced(ctx, keys, c)
	if err != nil {
		return 0, err
	}
	var when []clientv3.Cmp
	if c.Challenge != nil {
		pending := challengeKey(tenant, *c.Challenge)
		when = append(when, clientv3.Compare(clientv3.CreateRevision(pending), ">", 0))
		drop = append(drop, clientv3.OpDelete(pending))
	}
	index := indexKeys(keys, c.Session)
	record := recordKey(tenant, c.Digest)
	value := string(keys.Seal([]byte(record), encode(c.Session)))
	for {
		lease, bucket, err := s.leases.take(ctx, c.Session.ExpiresAt, 1+len(index))
		if err != nil {
			return 0, unavailable("grant lease", err)
		}
		ops := append(drop[:len(drop):len(drop)], clientv3.OpPut(record, value, clientv3.WithLease(lease)))
		for _, key := range index {
			ops = append(ops, clientv3.OpPut(key, c.Digest.Key(), clientv3.WithLease(lease)))
		}
		done, err := s.client.Txn(ctx).If(when...).Then(ops...).Commit()
		if errors.Is(err, rpctypes.ErrLeaseNotFound) && ctx.Err() == nil {
			bucket.forget(lease)
			continue
		}
		if err != nil {
			return 0, unavailable("store session", err)
		}
		if !done.Succeeded {
			return 0, sessions.ErrNotFound
		}
		return done.Header.Revision, nil
	}
}

// replaced are the deletes that end the session which c takes the place of.
func (s *Store) replaced(ctx context.Context, keys *seal.Keys, c sessions.Creation) ([]clientv3.Op, error) {
	if c.Replaces == nil {
		return nil, nil
	}
	old, err := s.Find(ctx, c.Session.Tenant, *c.Replaces)
	if errors.Is(err, sessions.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return deletes(keys, *c.Replaces, old), nil
}

// deletes removes a record and its index entries.
func deletes(keys indexer, d sessions.Digest, s sessions.Session) []clientv3.Op {
	ops := []clientv3.Op{clientv3.OpDelete(recordKey(s.Tenant, d))}
	for _, key := range indexKeys(keys, s) {
		ops = append(ops, clientv3.OpDelete(key))
	}
	return ops
}

// Find implements sessions.Store.
func (s *Store) Find(ctx context.Context, tenant string, d sessions.Digest) (sessions.Session, error) {
	got, err := s.client.Get(ctx, recordKey(tenant, d))
	if err != nil {
		return sessions.Session{}, unavailable("read session", err)
	}
	if len(got.Kvs) == 0 {
		return sessions.Session{}, sessions.ErrNotFound
	}
	keys, err := s.keys(ctx, tenant)
	if err != nil {
		return sessions.Session{}, unavailable("read tenant keys", err)
	}
	return open(keys, tenant, got.Kvs[0])
}

// open reads a record. One that does not open, being another tenant's or moved
// from another key, is no session here, and worth an error in the log.
func open(keys *seal.Keys, tenant string, kv *mvccpb.KeyValue) (sessions.Session, error) {
	text, err := keys.Open(kv.Key, kv.Value)
	if err != nil {
		return sessions.Session{}, fmt.Errorf("open session record: %w", err)
	}
	found, err := decode(tenant, text)
	found.Revision = kv.ModRevision
	return found, err
}

// FindID implements sessions.Store.
func (s *Store) FindID(ctx context.Context, tenant string, id sessions.ID) (sessions.Session, error) {
	d, err := s.digestOf(ctx, tenant, id)
	if err != nil {
		return sessions.Session{}, err
	}
	return s.Find(ctx, tenant, d)
}

func (s *Store) digestOf(ctx context.Context, tenant string, id sessions.ID) (sessions.Digest, error) {
	got, err := s.client.Get(ctx, idPrefix+tenant+"/"+string(id))
	if err != nil {
		return sessions.Digest{}, unavailable("read session index", err)
	}
	if len(got.Kvs) == 0 {
		return sessions.Digest{}, sessions.ErrNotFound
	}
	return sessions.ParseDigest(string(got.Kvs[0].Value))
}

// Touch implements sessions.Store. The record keeps its lease, which is by the
// absolute deadline and so does not change.
func (s *Store) Touch(ctx context.Context, d sessions.Digest, touched sessions.Session) (int64, error) {
	keys, err := s.keys(ctx, touched.Tenant)
	if err != nil {
		return 0, unavailable("read tenant keys", err)
	}
	record := recordKey(touched.Tenant, d)
	done, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(record), "=", touched.Revision)).
		Then(clientv3.OpPut(record, string(keys.Seal([]byte(record), encode(touched))), clientv3.WithIgnoreLease())).
		Commit()
	if err != nil {
		return 0, unavailable("renew session", err)
	}
	if !done.Succeeded {
		return 0, sessions.ErrNotFound
	}
	return done.Header.Revision, nil
}

// Delete implements sessions.Store.
func (s *Store) Delete(ctx context.Context, tenant string, d sessions.Digest) (int64, bool, error) {
	found, err := s.Find(ctx, tenant, d)
	if errors.Is(err, sessions.ErrNotFound) {
		return 0, false, nil
	}
	ops := []clientv3.Op{clientv3.OpDelete(recordKey(tenant, d))}
	switch {
	case errors.Is(err, sessions.ErrUnavailable):
		return 0, false, err
	case err == nil:
		keys, err := s.keys(ctx, tenant)
		if err != nil {
			return 0, false, unavailable("read tenant keys", err)
		}
		ops = deletes(keys, d, found)
	default:
		// A record that cannot be read can still be revoked; its index entries
		// are passed over by readers and end with their lease.
	}
	done, err := s.client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return 0, false, unavailable("delete session", err)
	}
	return done.Header.Revision, done.Responses[0].GetResponseDeleteRange().Deleted > 0, nil
}

// DeleteID implements sessions.Store.
func (s *Store) DeleteID(ctx context.Context, tenant string, id sessions.ID) (int64, bool, error) {
	d, err := s.digestOf(ctx, tenant, id)
	if errors.Is(err, sessions.ErrNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	return s.Delete(ctx, tenant, d)
}

// List implements sessions.Store.
func (s *Store) List(ctx context.Context, tenant string, f sessions.Filter, after sessions.ID, limit int) ([]sessions.Session, bool, error) {
	keys, err := s.keys(ctx, tenant)
	if err != nil {
		return nil, false, unavailable("read tenant keys", err)
	}
	found, more, err := s.matching(ctx, keys, tenant, f, after, limit)
	if err != nil {
		return nil, false, err
	}
	list := make([]sessions.Session, len(found))
	for i, one := range found {
		list[i] = one.session
	}
	return list, more, nil
}

// match is one session and where it lies.
type match struct {
	digest  sessions.Digest
	session sessions.Session
}

// matching reads up to limit sessions by an index, in the order of their IDs.
func (s *Store) matching(ctx context.Context, keys *seal.Keys, tenant string, f sessions.Filter, after sessions.ID, limit int) (list []match, more bool, err error) {
	prefix := indexPrefix(keys, tenant, f)
	from := prefix
	if after != "" {
		from = prefix + string(after) + "\x00"
	}
	for more = true; more && len(list) < limit; {
		entries, err := s.client.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(int64(limit-len(list))))
		if err != nil {
			return nil, false, unavailable("read session index", err)
		}
		found, err := s.records(ctx, keys, tenant, entries.Kvs)
		if err != nil {
			return nil, false, err
		}
		list = append(list, found...)
		more = entries.More
		if more {
			from = string(entries.Kvs[len(entries.Kvs)-1].Key) + "\x00"
		}
	}
	return list, more, nil
}

// txnOps is how many operations go into one transaction: etcd's own default
// limit, which an external cluster will have.
const txnOps = 128

// records reads what index entries point to. An entry whose record is gone, or
// holds another session, is passed over.
func (s *Store) records(ctx context.Context, keys *seal.Keys, tenant string, entries []*mvccpb.KeyValue) ([]match, error) {
	var list []match
	for len(entries) > 0 {
		batch := entries[:min(txnOps, len(entries))]
		entries = entries[len(batch):]
		var ops []clientv3.Op
		var digests []sessions.Digest
		for _, entry := range batch {
			d, err := sessions.ParseDigest(string(entry.Value))
			if err != nil {
				return nil, fmt.Errorf("read session index %s: %w", entry.Key, err)
			}
			digests = append(digests, d)
			ops = append(ops, clientv3.OpGet(recordKey(tenant, d)))
		}
		got, err := s.client.Txn(ctx).Then(ops...).Commit()
		if err != nil {
			return nil, unavailable("read sessions", err)
		}
		for i, answer := range got.Responses {
			kvs := answer.GetResponseRange().Kvs
			if len(kvs) == 0 {
				continue
			}
			found, err := open(keys, tenant, kvs[0])
			if err != nil {
				return nil, err
			}
			if found.ID == idIn(string(batch[i].Key)) {
				list = append(list, match{digests[i], found})
			}
		}
	}
	return list, nil
}

// DeleteAll implements sessions.Store.
func (s *Store) DeleteAll(ctx context.Context, tenant string, f sessions.Filter, except sessions.ID, limit int) (n int, more bool, revision int64, err error) {
	keys, err := s.keys(ctx, tenant)
	if err != nil {
		return 0, true, 0, unavailable("read tenant keys", err)
	}
	found, more, err := s.matching(ctx, keys, tenant, f, "", limit+1) // one more: except may be among them
	if err != nil {
		return 0, true, 0, err
	}
	var ops []clientv3.Op
	flush := func() error {
		if len(ops) == 0 {
			return nil
		}
		done, err := s.client.Txn(ctx).Then(ops...).Commit()
		if err != nil {
			return unavailable("delete sessions", err)
		}
		revision, ops = done.Header.Revision, ops[:0]
		return nil
	}
	for _, one := range found {
		if one.session.ID == except {
			continue
		}
		if n == limit {
			more = true
			break
		}
		ops = append(ops, deletes(keys, one.digest, one.session)...)
		n++
		if len(ops)+4 > txnOps {
			if err := flush(); err != nil {
				return n, true, revision, err
			}
		}
	}
	return n, more, revision, flush()
}

// RemoveTenant implements sessions.Store: ranges of deletes, in one
// transaction.
func (s *Store) RemoveTenant(ctx context.Context, tenant string) error {
	var ops []clientv3.Op
	for _, prefix := range []string{recordPrefix, idPrefix, subjectPrefix, verifierPrefix, challengePrefix} {
		ops = append(ops, clientv3.OpDelete(prefix+tenant+"/", clientv3.WithPrefix()))
	}
	if _, err := s.client.Txn(ctx).Then(ops...).Commit(); err != nil {
		return unavailable("remove sessions of tenant", err)
	}
	return nil
}

// Revision implements sessions.Store.
func (s *Store) Revision(ctx context.Context) (int64, error) {
	got, err := s.client.Get(ctx, recordPrefix, clientv3.WithCountOnly())
	if err != nil {
		return 0, unavailable("read revision", err)
	}
	return got.Header.Revision, nil
}

// unavailable says that etcd, or what is read from it, could not be reached or
// would not write. The cause stays readable for the log.
func unavailable(what string, err error) error {
	return fmt.Errorf("%s: %w: %w", what, sessions.ErrUnavailable, err)
}
