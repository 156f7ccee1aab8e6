package etcd

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/tenants/seal"
)

const (
	kvPrefix   = "/dw/p/kv/"
	hostPrefix = "/dw/p/own/"

	// maxAll is how many entries verifiers of all tenants keep: with values of
	// 1 KiB, a tenth of a database of 4 GiB.
	maxAll    = 250_000
	countTime = 10 * time.Second // how old that count may be
)

// KeysFunc gives a tenant's data keys as they were at revision or later; with 0
// any will do. An error means that nothing of the tenant can be read or written.
type KeysFunc func(ctx context.Context, tenant string, revision int64) (*seal.Keys, error)

// KV is a plugins.KV in etcd. Values are sealed under the tenant's keys, and no
// key tells whose it is but for the tenant.
type KV struct {
	client *clientv3.Client
	keys   KeysFunc
	limit  int
	leases leases

	mu      sync.Mutex
	all     int64     // entries of all tenants
	counted time.Time // when that was so
}

// NewKV returns a KV on client that keeps limit entries of each tenant; 0:
// plugins.MaxEntries. keys gives a tenant's keys. The client stays the caller's.
func NewKV(client *clientv3.Client, keys KeysFunc, limit int) *KV {
	if limit == 0 {
		limit = plugins.MaxEntries
	}
	return &KV{client: client, keys: keys, limit: limit, leases: leases{client: client, buckets: map[int64]*bucket{}}}
}

// entry is what is at a slot.
type entry struct {
	value    []byte // nil: none
	end      time.Time
	revision int64 // 0: no key at all, not even of an entry that has ended
}

// Get implements plugins.KV.
func (k *KV) Get(ctx context.Context, s plugins.Slot) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	keys, path, err := k.place(ctx, s)
	if err != nil {
		return nil, err
	}
	e, err := k.read(ctx, keys, s.Tenant, path)
	return e.value, err
}

// Put implements plugins.KV.
func (k *KV) Put(ctx context.Context, s plugins.Slot, value []byte, ttl time.Duration) error {
	return k.change(ctx, s, func(entry) (entry, bool, error) {
		return entry{value: value, end: time.Now().Add(ttl)}, true, nil
	})
}

// Incr implements plugins.KV.
func (k *KV) Incr(ctx context.Context, s plugins.Slot, by int64, ttl time.Duration) (n int64, err error) {
	err = k.change(ctx, s, func(e entry) (entry, bool, error) {
		if n, err = plugins.Count(e.value, by); err != nil {
			return e, false, err
		}
		if e.value == nil {
			e.end = time.Now().Add(ttl)
		}
		e.value = strconv.AppendInt(nil, n, 10)
		return e, true, nil
	})
	return n, err
}

// Swap implements plugins.KV.
func (k *KV) Swap(ctx context.Context, s plugins.Slot, old, value []byte, ttl time.Duration) (done bool, err error) {
	err = k.change(ctx, s, func(e entry) (entry, bool, error) {
		done = bytes.Equal(e.value, old)
		return entry{value: value, end: time.Now().Add(ttl)}, done, nil
	})
	return done && err == nil, err
}

// RemoveTenant implements plugins.KV.
func (k *KV) RemoveTenant(ctx context.Context, tenant string) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	for _, prefix := range []string{kvPrefix, hostPrefix} {
		if _, err := k.client.Delete(ctx, prefix+tenant+"/", clientv3.WithPrefix()); err != nil {
			return unavailable(err)
		}
	}
	return nil
}

// place is a slot's key in etcd.
func (k *KV) place(ctx context.Context, s plugins.Slot) (*seal.Keys, string, error) {
	keys, err := k.keys(ctx, s.Tenant, 0)
	if err != nil {
		return nil, "", unavailable(err)
	}
	return keys, space(s) + hex.EncodeToString(keys.Index("kv "+s.Name())), nil
}

// space is the prefix that a slot's quota counts.
func space(s plugins.Slot) string {
	if s.Namespace == "" {
		return hostPrefix + s.Tenant + "/"
	}
	return kvPrefix + s.Tenant + "/"
}

// read reads one entry; one that has ended has a revision and no value. What
// these keys do not open another node may have sealed with newer ones.
func (k *KV) read(ctx context.Context, keys *seal.Keys, tenant, path string) (entry, error) {
	got, err := k.client.Get(ctx, path)
	if err != nil || len(got.Kvs) == 0 {
		return entry{}, unavailable(err)
	}
	e := entry{revision: got.Kvs[0].ModRevision}
	plain, err := keys.Open([]byte(path), got.Kvs[0].Value)
	if errors.Is(err, seal.ErrNoKey) {
		if keys, err = k.keys(ctx, tenant, e.revision); err != nil {
			return e, unavailable(err)
		}
		plain, err = keys.Open([]byte(path), got.Kvs[0].Value)
	}
	if err != nil || len(plain) < 8 {
		return e, unavailable(fmt.Errorf("open %s: %w", path, err))
	}
	e.end = time.UnixMilli(int64(binary.BigEndian.Uint64(plain)))
	if time.Now().Before(e.end) {
		e.value = plain[8:]
	}
	return e, nil
}

// change applies f to what is at a slot until nobody came in between. f says
// whether there is anything to write.
func (k *KV) change(ctx context.Context, s plugins.Slot, f func(entry) (entry, bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	keys, path, err := k.place(ctx, s)
	if err != nil {
		return err
	}
	for {
		old, err := k.read(ctx, keys, s.Tenant, path)
		if err != nil {
			return err
		}
		next, write, err := f(old)
		if err != nil || !write || len(next.value) == 0 && old.revision == 0 {
			return err
		}
		if old.revision == 0 {
			if err := k.room(ctx, s); err != nil {
				return err
			}
		}
		done, err := k.commit(ctx, keys, path, old, next)
		if err != nil || done {
			return err
		}
	}
}

// commit writes next over old, unless somebody else did.
func (k *KV) commit(ctx context.Context, keys *seal.Keys, path string, old, next entry) (bool, error) {
	then, held := clientv3.OpDelete(path), (*lease)(nil)
	if len(next.value) > 0 {
		plain := binary.BigEndian.AppendUint64(nil, uint64(next.end.UnixMilli()))
		sealed := string(keys.Seal([]byte(path), append(plain, next.value...)))
		if old.value != nil && next.end.Equal(old.end) {
			then = clientv3.OpPut(path, sealed, clientv3.WithIgnoreLease())
		} else {
			var err error
			if held, err = k.leases.take(ctx, next.end); err != nil {
				return false, unavailable(err)
			}
			then = clientv3.OpPut(path, sealed, clientv3.WithLease(held.id))
		}
	}
	done, err := k.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(path), "=", old.revision)).Then(then).Commit()
	if errors.Is(err, rpctypes.ErrLeaseNotFound) && held != nil && ctx.Err() == nil {
		held.forget()
		return false, nil
	}
	if err != nil {
		return false, unavailable(err)
	}
	return done.Succeeded, nil
}

// room refuses an entry more where there are too many. Those that come at the
// same moment may exceed it by as many as they are. The host's own are bounded
// by how often it writes.
func (k *KV) room(ctx context.Context, s plugins.Slot) error {
	if s.Namespace == "" {
		return nil
	}
	got, err := k.client.Get(ctx, space(s), clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return unavailable(err)
	}
	if got.Count >= int64(k.limit) {
		return fmt.Errorf("%w: the tenant's verifiers keep %d entries; let them end, or delete some", plugins.ErrQuota, got.Count)
	}
	all, err := k.total(ctx)
	if err != nil {
		return err
	}
	if all >= maxAll {
		return fmt.Errorf("%w: verifiers of all tenants keep %d entries", plugins.ErrQuota, all)
	}
	return nil
}

// total is how many entries there are of all tenants, lately.
func (k *KV) total(ctx context.Context) (int64, error) {
	k.mu.Lock()
	all, fresh := k.all, time.Since(k.counted) < countTime
	k.mu.Unlock()
	if fresh {
		return all, nil
	}
	got, err := k.client.Get(ctx, kvPrefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, unavailable(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.all, k.counted = got.Count, time.Now()
	return got.Count, nil
}
