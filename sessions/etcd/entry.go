package etcd

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/tenants/seal"
)

// entry is a session as it was read, and what led to it.
type entry struct {
	tenant  string
	id      sessions.ID      // "": reached by its digest
	digest  sessions.Digest  // what it is under
	index   *mvccpb.KeyValue // what said so; nil: its ID, or the caller
	record  *mvccpb.KeyValue // nil: gone
	session sessions.Session // in the record
	err     error            // why it could not be opened
}

// fill notes what is under e's digest. Only that the keys could not be read is
// an error here.
func (s *Store) fill(ctx context.Context, keys *seal.Keys, e *entry, record *mvccpb.KeyValue) error {
	e.record, e.session, e.err = record, sessions.Session{}, nil
	if record == nil {
		return nil
	}
	e.session, e.err = s.open(ctx, keys, e.tenant, e.digest, record)
	if errors.Is(e.err, sessions.ErrUnavailable) {
		return e.err
	}
	return nil
}

// names reports whether e's record is the session that e was reached by.
func (e entry) names() bool { return e.err == nil && (e.id == "" || e.id == e.session.ID) }

// superseded reports whether e is what a rotation left.
func (e entry) superseded() bool { return e.record != nil && e.names() && e.session.Superseded() }

// is reports whether e is a session that f chooses.
func (e entry) is(f sessions.Filter) bool {
	return e.record != nil && e.names() && !e.session.Superseded() &&
		(f.Subject == "" || f.Subject == e.session.Subject) && (f.Digest == "" || f.Digest == e.session.Verifier.Digest)
}

// unchanged is the condition under which what was read is still so. A rotation
// writes the record and its index entries, a touch the record.
func (e entry) unchanged() []clientv3.Cmp {
	var when []clientv3.Cmp
	for _, kv := range []*mvccpb.KeyValue{e.index, e.record} {
		if kv != nil {
			when = append(when, clientv3.Compare(clientv3.ModRevision(string(kv.Key)), "=", kv.ModRevision))
		}
	}
	return when
}

// deletes removes the record with its index entries, and what rotations left of
// its first token. A record that cannot be read can still be revoked: then index
// entries may stay, which readers pass over, until their lease ends. An entry
// whose record is gone goes too.
func (e entry) deletes(keys indexer) []clientv3.Op {
	var ops []clientv3.Op
	if e.record != nil && e.names() {
		ops = append(ops, clientv3.OpDelete(string(e.record.Key)), clientv3.OpDelete(subjectKey(keys, e.session)))
		if first := e.session.ID.First(); first != e.digest {
			ops = append(ops, clientv3.OpDelete(idKey(e.tenant, e.session.ID)), clientv3.OpDelete(recordKey(e.tenant, first)))
		}
		return ops
	}
	if e.record != nil && e.err != nil {
		ops = append(ops, clientv3.OpDelete(string(e.record.Key)))
	}
	if e.index != nil {
		ops = append(ops, clientv3.OpDelete(string(e.index.Key)))
	}
	return ops
}

// current reads the session that d stands for: what is under d, or, when that
// was rotated away, what its ID leads to. Epochs do not count: what they ended
// is garbage to be deleted.
func (s *Store) current(ctx context.Context, keys *seal.Keys, tenant string, d sessions.Digest) (entry, error) {
	list := []entry{{tenant: tenant, digest: d}}
	if _, err := s.read(ctx, keys, tenant, list, epochs{}); err != nil {
		return entry{}, err
	}
	switch {
	case list[0].record == nil:
		return entry{}, sessions.ErrNotFound
	case list[0].superseded():
		return s.named(ctx, keys, tenant, list[0].session.ID)
	case list[0].err != nil && !d.Later(): // it may be what a rotation left
		return s.named(ctx, keys, tenant, d.ID())
	}
	return list[0], nil // one that does not open is deleted as it is
}

// named reads the session with that ID: under its first token, or where the
// last rotation says that it went. Its record may be gone where an entry is
// left. ErrNotFound when there is nothing of it.
func (s *Store) named(ctx context.Context, keys *seal.Keys, tenant string, id sessions.ID) (entry, error) {
	e := entry{tenant: tenant, id: id, digest: id.First()}
	got, err := s.client.Txn(ctx).Then(clientv3.OpGet(recordKey(tenant, e.digest)), clientv3.OpGet(idKey(tenant, id))).Commit()
	if err != nil {
		return entry{}, unavailable("read session", err)
	}
	if entries := got.Responses[1].GetResponseRange().Kvs; len(entries) > 0 {
		list := []entry{e}
		if err := list[0].goesBy(entries[0]); err != nil {
			return entry{}, err
		}
		_, err := s.read(ctx, keys, tenant, list, epochs{})
		return list[0], err
	}
	if kvs := got.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		err = s.fill(ctx, keys, &e, kvs[0])
	}
	if err == nil && (e.record == nil || e.superseded() || e.err == nil && !e.names()) { // rotated, and ended since
		err = sessions.ErrNotFound
	}
	return e, err
}

// goesBy notes an index entry and reads where it says the session is: under
// the digest that its value is, or, when that is empty, under its ID's.
func (e *entry) goesBy(index *mvccpb.KeyValue) error {
	e.index = index
	if len(index.Value) == 0 {
		return nil
	}
	if copy(e.digest[:], index.Value) != len(index.Value) || len(index.Value) != len(e.digest) {
		return fmt.Errorf("read session index %s: a digest of %d bytes", index.Key, len(index.Value))
	}
	return nil
}

// read reads what is under the digests of list, all of one tenant, and the
// tenant's epochs as they were then or later: ended, as they were before, where
// the list is empty.
func (s *Store) read(ctx context.Context, keys *seal.Keys, tenant string, list []entry, ended epochs) (epochs, error) {
	for len(list) > 0 {
		ops := epochReads(tenant)
		page := list[:min(s.txnOps-len(ops), len(list))]
		list = list[len(page):]
		for _, e := range page {
			ops = append(ops, clientv3.OpGet(recordKey(tenant, e.digest)))
		}
		got, err := s.client.Txn(ctx).Then(ops...).Commit()
		if err != nil {
			return epochs{}, unavailable("read sessions", err)
		}
		ended = epochs{}
		ended.read(got)
		for i := range page {
			var record *mvccpb.KeyValue
			if kvs := got.Responses[epochOps+i].GetResponseRange().Kvs; len(kvs) > 0 {
				record = kvs[0]
			}
			if err := s.fill(ctx, keys, &page[i], record); err != nil {
				return epochs{}, err
			}
		}
	}
	return ended, nil
}
