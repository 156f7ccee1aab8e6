package etcd

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/tenants/seal"
)

// What one call reads of a long list: what it was asked for, and where that was
// ended long ago two larger pages. Each page makes etcd count all that are left.
const (
	listPages = 3
	deepPage  = 2000
)

// List implements sessions.Store.
func (s *Store) List(ctx context.Context, tenant string, f sessions.Filter, after sessions.ID, limit int) (list []sessions.Session, next sessions.ID, err error) {
	keys, err := s.keys(ctx, tenant, 0)
	if err != nil {
		return nil, "", unavailable("read tenant keys", err)
	}
	at := begins(keys, tenant, f)
	at.living = true
	if after != "" {
		at.goOn(after)
	}
	size := limit
	for range listPages {
		page, ended, err := s.page(ctx, keys, &at, size)
		if err != nil {
			return nil, "", err
		}
		for _, e := range page {
			if !e.is(f) || ended.has(e.session) {
				continue
			}
			if len(list) == limit {
				return list, list[limit-1].ID, nil
			}
			list = append(list, e.session)
		}
		if len(list) == limit || at.over {
			break
		}
		size = deepPage
	}
	return list, at.next(), nil
}

// sample is how many sessions a verifier's are estimated from.
const sample = 1000

// Count implements sessions.Store. No index is by verifiers: what they made is
// estimated from the first sessions of the tenant. Digests are random, so that
// these are a fair sample.
func (s *Store) Count(ctx context.Context, tenant string, f sessions.Filter) (int, error) {
	keys, err := s.keys(ctx, tenant, 0)
	if err != nil {
		return 0, unavailable("read tenant keys", err)
	}
	at := begins(keys, tenant, f)
	got, err := s.client.Get(ctx, at.from, clientv3.WithRange(at.end), clientv3.WithCountOnly())
	if err != nil {
		return 0, unavailable("count sessions", err)
	}
	if f.Digest == "" || got.Count == 0 {
		return int(got.Count), nil
	}
	list, _, err := s.page(ctx, keys, &at, sample)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, e := range list {
		if e.is(f) {
			n++
		}
	}
	if at.over {
		return n, nil
	}
	return int(int64(n) * got.Count / sample), nil
}

// place is how far a reader of a filter's sessions has come.
type place struct {
	tenant    string
	bySubject bool // along the subject's entries; else along the first tokens' records
	living    bool // what the tenant's epoch ended is passed over, unopened
	base      string
	from, end string
	last      sessions.ID // what it came by last
	over      bool
}

func begins(keys indexer, tenant string, f sessions.Filter) place {
	if f.Subject != "" {
		entries := subjectEntries(keys, tenant, f.Subject)
		return place{tenant: tenant, bySubject: true, base: entries, from: entries, end: clientv3.GetPrefixRangeEnd(entries)}
	}
	all := records(tenant)
	return place{tenant: tenant, base: all, from: all, end: firsts(tenant)}
}

// goOn goes on behind that session.
func (p *place) goOn(id sessions.ID) {
	p.last, p.from, p.over = id, p.base+id.First().Key()+"\x00", false
}

// next is what to go on after, "" at the end.
func (p *place) next() sessions.ID {
	if p.over {
		return ""
	}
	return p.last
}

// page reads up to limit sessions on from at, with the tenant's epochs as they
// were then or later. Those that have ended may be among them, or gone.
func (s *Store) page(ctx context.Context, keys *seal.Keys, at *place, limit int) ([]entry, epochs, error) {
	next := clientv3.OpGet(at.from, clientv3.WithRange(at.end), clientv3.WithLimit(int64(limit)))
	got, err := s.client.Txn(ctx).Then(append(epochReads(at.tenant), next)...).Commit()
	if err != nil {
		return nil, epochs{}, unavailable("read sessions", err)
	}
	var ended epochs
	ended.read(got)
	found := got.Responses[epochOps].GetResponseRange()
	list := make([]entry, 0, len(found.Kvs))
	for _, kv := range found.Kvs {
		d, err := digestIn(kv.Key)
		if err != nil {
			return nil, epochs{}, fmt.Errorf("read session key %s: %w", kv.Key, err)
		}
		at.goOn(d.ID())
		// A rotation after the epoch would have failed: with the first token's
		// record the whole session is over.
		if at.living && !at.bySubject && kv.CreateRevision <= ended.all {
			continue
		}
		e := entry{tenant: at.tenant, id: d.ID(), digest: d}
		if at.bySubject {
			err = e.goesBy(kv)
		} else {
			err = s.fill(ctx, keys, &e, kv)
		}
		if err != nil {
			return nil, epochs{}, err
		}
		list = append(list, e)
	}
	at.over = !found.More
	if at.bySubject {
		if ended, err = s.read(ctx, keys, at.tenant, list, ended); err != nil {
			return nil, epochs{}, err
		}
	}
	return s.follow(ctx, keys, at.tenant, list, ended)
}

// follow reads what became of those in list that were rotated, until none is that
// was rotated meanwhile, and leaves out those that have ended since. One that does
// not open is followed too: it may be what a rotation left, sealed by a key that is
// gone.
func (s *Store) follow(ctx context.Context, keys *seal.Keys, tenant string, list []entry, ended epochs) ([]entry, epochs, error) {
	for first := true; ; first = false {
		var kept, moved []entry
		for _, e := range list {
			if e.superseded() || first && e.err != nil && e.index == nil {
				moved = append(moved, e)
			} else {
				kept = append(kept, e)
			}
		}
		if len(moved) == 0 {
			slices.SortFunc(kept, func(a, b entry) int { return strings.Compare(string(a.id), string(b.id)) })
			return kept, ended, nil
		}
		indexes, err := s.indexes(ctx, tenant, moved)
		if err != nil {
			return nil, epochs{}, err
		}
		var found []entry
		for i, e := range moved {
			switch {
			case indexes[i] != nil:
				if err := e.goesBy(indexes[i]); err != nil {
					return nil, epochs{}, err
				}
				found = append(found, e)
			case e.err != nil:
				kept = append(kept, e)
			}
		}
		if ended, err = s.read(ctx, keys, tenant, found, ended); err != nil {
			return nil, epochs{}, err
		}
		list = append(kept, found...)
	}
}

// indexes reads where it stands what each of list was rotated to, nil where that
// stands nowhere.
func (s *Store) indexes(ctx context.Context, tenant string, list []entry) ([]*mvccpb.KeyValue, error) {
	var found []*mvccpb.KeyValue
	for page := range slices.Chunk(list, s.txnOps) {
		var ops []clientv3.Op
		for _, e := range page {
			ops = append(ops, clientv3.OpGet(idKey(tenant, e.id)))
		}
		got, err := s.client.Txn(ctx).Then(ops...).Commit()
		if err != nil {
			return nil, unavailable("read session index", err)
		}
		for i := range page {
			var index *mvccpb.KeyValue
			if kvs := got.Responses[i].GetResponseRange().Kvs; len(kvs) > 0 {
				index = kvs[0]
			}
			found = append(found, index)
		}
	}
	return found, nil
}
