package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/tenants"
	"github.com/doorward/doorward/tenants/seal"
)

// known is a tenant's keys as this node has them.
type known struct {
	keys    *seal.Keys
	written int64     // revision of the write that made them
	read    int64     // revision up to which they are known to be the newest
	asked   time.Time // when they were last read and had not changed
}

// askAgain is how long a read of keys that brought nothing new keeps the next
// one away: what names a key that there is not, anybody can write who can write
// to etcd, and as often as they like.
const askAgain = time.Second

// Keys returns the tenant's data keys, unwrapped: those that this node has, if
// they are as of revision or later. Who meets seal.ErrNoKey asks with the
// revision of what did not open, since the key of a record is never younger than
// the record; with 0 any will do. tenants.ErrNotFound when it has none: it is
// gone. tenants.ErrUnavailable also when they were read in vain a moment ago.
func (s *Source) Keys(ctx context.Context, uuid string, revision int64) (*seal.Keys, error) {
	k, err := s.known(ctx, uuid, revision)
	return k.keys, err
}

func (s *Source) known(ctx context.Context, uuid string, revision int64) (known, error) {
	for range 2 { // it may join a read that began before revision; the next one did not
		s.mu.Lock()
		k, ok := s.keys[uuid]
		s.mu.Unlock()
		if ok && k.read >= revision {
			return k, nil
		}
		reading := s.reads.DoChan(uuid, func() (any, error) { return s.readKeys(context.WithoutCancel(ctx), uuid) })
		select {
		case got := <-reading:
			if got.Err != nil {
				return known{}, got.Err
			}
			if k := got.Val.(known); k.read >= revision {
				return k, nil
			}
		case <-ctx.Done():
			return known{}, fmt.Errorf("read tenant keys: %w", unavailable(ctx.Err()))
		}
	}
	return known{}, fmt.Errorf("read tenant keys: %w: revision %d is not of this store", tenants.ErrUnavailable, revision)
}

// readKeys reads keys and remembers them.
func (s *Source) readKeys(ctx context.Context, uuid string) (known, error) {
	s.mu.Lock()
	old := s.keys[uuid]
	s.mu.Unlock()
	if time.Since(old.asked) < askAgain {
		return known{}, fmt.Errorf("read tenant keys: %w: there was no newer one a moment ago", tenants.ErrUnavailable)
	}
	path := keysPrefix + uuid
	got, err := s.get(ctx, path)
	if err != nil {
		return known{}, fmt.Errorf("read tenant keys: %w", err)
	}
	if len(got.Kvs) == 0 {
		return known{}, tenants.ErrNotFound
	}
	k := known{written: got.Kvs[0].ModRevision, read: got.Header.Revision}
	if k.keys, err = s.ring.Unwrap([]byte(path), got.Kvs[0].Value); err != nil {
		return known{}, fmt.Errorf("unwrap tenant keys: %w; is this the key ring that the data was made with?", err)
	}
	if k.written == old.written {
		k.asked = time.Now()
	}
	s.remember(uuid, k)
	return k, nil
}

// remember keeps keys, unless they may have changed since they were read.
func (s *Source) remember(uuid string, k known) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k.read >= s.changed && k.read >= s.keys[uuid].read {
		s.keys[uuid] = k
	}
}

// forget drops what was known of a tenant's keys before revision, and keeps a
// read that is on its way from bringing it back. What the keys of a deleted
// tenant open is not to be read again.
func (s *Source) forget(uuid string, revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed = max(s.changed, revision)
	if s.keys[uuid].read < revision {
		delete(s.keys, uuid)
	}
}

// forgetBefore is forget for every tenant.
func (s *Source) forgetBefore(revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed = max(s.changed, revision)
	maps.DeleteFunc(s.keys, func(_ string, k known) bool { return k.read < revision })
}

// unseal opens what seal wrote. A key that is not known here another node may
// have made since.
func (s *Source) unseal(ctx context.Context, uuid string, kv *mvccpb.KeyValue) ([]byte, error) {
	keys, err := s.Keys(ctx, uuid, 0)
	if err != nil {
		return nil, err
	}
	value, err := keys.Open(kv.Key, kv.Value)
	if !errors.Is(err, seal.ErrNoKey) {
		return value, err
	}
	if keys, err = s.Keys(ctx, uuid, kv.ModRevision); err != nil {
		return nil, err
	}
	return keys.Open(kv.Key, kv.Value)
}

// RotateKeys implements tenants.Source, in one transaction under the condition
// that all it has read is unchanged. It writes the tenant's record too, as it
// was: that is what other nodes watch, and then they forget the keys they have.
func (s *Source) RotateKeys(ctx context.Context, uuid string) (tenants.Tenant, error) {
	record, wrapped, secrets := tenantPrefix+uuid, keysPrefix+uuid, secretPrefix+uuid+"/"
	for {
		got, err := s.commit(ctx, nil, []clientv3.Op{
			clientv3.OpGet(record), clientv3.OpGet(wrapped),
			clientv3.OpGet(configPrefix + uuid), clientv3.OpGet(secrets, clientv3.WithPrefix()),
		})
		if err != nil {
			return tenants.Tenant{}, fmt.Errorf("read what tenant keys seal: %w", err)
		}
		var kvs []*mvccpb.KeyValue
		for _, answer := range got.Responses {
			kvs = append(kvs, answer.GetResponseRange().Kvs...)
		}
		if len(kvs) < 2 || string(kvs[1].Key) != wrapped {
			return tenants.Tenant{}, tenants.ErrNotFound
		}
		t, err := decode(kvs[0])
		if err != nil {
			return tenants.Tenant{}, err
		}
		if t.State == tenants.Deleting {
			return tenants.Tenant{}, tenants.ErrNotFound
		}
		old, err := s.ring.Unwrap([]byte(wrapped), kvs[1].Value)
		if err != nil {
			return tenants.Tenant{}, fmt.Errorf("unwrap tenant keys: %w", err)
		}
		keys := old.Rotate()
		// The last condition is for a secret that is made meanwhile, each of the
		// others for what is changed or deleted.
		same := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(secrets), "<", got.Header.Revision+1).WithPrefix()}
		puts := []clientv3.Op{
			clientv3.OpPut(record, string(kvs[0].Value)),
			clientv3.OpPut(wrapped, string(s.ring.Wrap([]byte(wrapped), keys))),
		}
		for _, kv := range kvs {
			same = append(same, unchanged(kv))
		}
		for _, kv := range kvs[2:] {
			plain, err := old.Open(kv.Key, kv.Value)
			if err != nil {
				return tenants.Tenant{}, fmt.Errorf("open %s to seal it anew: %w", kv.Key, err)
			}
			puts = append(puts, clientv3.OpPut(string(kv.Key), string(keys.Seal(kv.Key, plain))))
		}
		done, err := s.commit(ctx, same, puts)
		if err != nil {
			return tenants.Tenant{}, fmt.Errorf("rotate tenant keys: %w", err)
		}
		if done.Succeeded {
			t.Revision = done.Header.Revision
			s.remember(uuid, known{keys: keys, written: t.Revision, read: t.Revision})
			return t, nil
		}
	}
}

// Rewrap wraps the keys of every tenant by the topmost root key that are wrapped
// by another one, and returns how many those were. Several nodes may do so at
// once, and again. A tenant whose keys cannot be wrapped holds up no other; the
// error tells of all of them.
func (s *Source) Rewrap(ctx context.Context) (n int, err error) {
	const page = 500
	from, end := keysPrefix, clientv3.GetPrefixRangeEnd(keysPrefix)
	for {
		got, failed := s.get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(page))
		if failed != nil {
			return n, errors.Join(err, fmt.Errorf("read tenant keys: %w", failed))
		}
		for _, kv := range got.Kvs {
			done, failed := s.rewrap(ctx, kv)
			if failed != nil {
				err = errors.Join(err, fmt.Errorf("wrap %s anew: %w", kv.Key, failed))
			}
			if done {
				n++
			}
		}
		if !got.More {
			return n, err
		}
		from = string(got.Kvs[len(got.Kvs)-1].Key) + "\x00"
	}
}

// rewrap wraps one tenant's keys, beginning with them as they were read.
func (s *Source) rewrap(ctx context.Context, kv *mvccpb.KeyValue) (done bool, err error) {
	for !s.ring.Wraps(kv.Value) {
		keys, err := s.ring.Unwrap(kv.Key, kv.Value)
		if err != nil {
			return false, err
		}
		path := string(kv.Key)
		answer, err := s.commit(ctx, []clientv3.Cmp{unchanged(kv)},
			[]clientv3.Op{clientv3.OpPut(path, string(s.ring.Wrap(kv.Key, keys)))}, clientv3.OpGet(path))
		if err != nil || answer.Succeeded {
			return err == nil, err
		}
		now := answer.Responses[0].GetResponseRange().Kvs
		if len(now) == 0 {
			return false, nil // the tenant is gone
		}
		kv = now[0]
	}
	return false, nil
}

func unchanged(kv *mvccpb.KeyValue) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(string(kv.Key)), "=", kv.ModRevision)
}
