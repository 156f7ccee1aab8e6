package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/singleflight"

	"github.com/doorward/doorward/tenants"
	"github.com/doorward/doorward/tenants/seal"
)

const (
	livePrefix   = "/dw/live/a/" // a for administration; sessions lie beside it
	tenantPrefix = livePrefix + "t/"
	keyPrefix    = livePrefix + "k/"
	epochPrefix  = "/dw/live/e/" // sessions/etcd has the same
	idPrefix     = "/dw/t/id/"
	hostPrefix   = "/dw/t/host/"
	keysPrefix   = "/dw/t/keys/"
	configPrefix = "/dw/t/config/"
	secretPrefix = "/dw/t/secret/"
)

// Config tunes a Source. The zero value is ready.
type Config struct {
	Timeout time.Duration // bound on each call to etcd; 0: 2 seconds
}

// Source is a tenants.Source in etcd.
type Source struct {
	client  *clientv3.Client
	ring    *seal.Ring
	timeout time.Duration

	reads singleflight.Group // of data keys, by uuid

	mu      sync.Mutex
	keys    map[string]known // by uuid
	changed int64            // the last revision at which keys may have changed
}

// New returns a Source on client whose tenants' keys are wrapped by ring. The
// client stays the caller's.
func New(client *clientv3.Client, ring *seal.Ring, cfg Config) *Source {
	if cfg.Timeout == 0 {
		cfg.Timeout = 2 * time.Second
	}
	return &Source{client: client, ring: ring, timeout: cfg.Timeout, keys: map[string]known{}}
}

// Create implements tenants.Source. The tenant's data keys come to be in the
// same transaction.
func (s *Source) Create(ctx context.Context, t tenants.Tenant) (tenants.Tenant, error) {
	keys := seal.NewKeys()
	record := tenantPrefix + t.UUID
	free := []clientv3.Cmp{absent(idPrefix + t.ID), absent(record)}
	puts := []clientv3.Op{
		clientv3.OpPut(record, encode(t)),
		clientv3.OpPut(idPrefix+t.ID, t.UUID),
		clientv3.OpPut(keysPrefix+t.UUID, string(s.ring.Wrap([]byte(keysPrefix+t.UUID), keys))),
	}
	for _, host := range t.Hosts {
		free = append(free, absent(hostPrefix+host))
		puts = append(puts, clientv3.OpPut(hostPrefix+host, t.UUID))
	}
	done, err := s.commit(ctx, free, puts, clientv3.OpGet(idPrefix+t.ID, clientv3.WithCountOnly()))
	if err != nil {
		return tenants.Tenant{}, fmt.Errorf("create tenant: %w", err)
	}
	if !done.Succeeded {
		if done.Responses[0].GetResponseRange().Count > 0 {
			return tenants.Tenant{}, tenants.ErrExists
		}
		return tenants.Tenant{}, tenants.ErrHostTaken
	}
	t.Revision = done.Header.Revision
	s.remember(t.UUID, known{keys: keys, written: t.Revision, read: t.Revision})
	return t, nil
}

// Update implements tenants.Source.
func (s *Source) Update(ctx context.Context, t tenants.Tenant) (tenants.Tenant, error) {
	record := tenantPrefix + t.UUID
	got, err := s.get(ctx, record)
	if err != nil {
		return tenants.Tenant{}, fmt.Errorf("read tenant: %w", err)
	}
	if len(got.Kvs) == 0 || got.Kvs[0].ModRevision != t.Revision {
		return tenants.Tenant{}, tenants.ErrChanged
	}
	old, err := decode(got.Kvs[0])
	if err != nil {
		return tenants.Tenant{}, err
	}
	same := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(record), "=", t.Revision)}
	ops := []clientv3.Op{clientv3.OpPut(record, encode(t))}
	if t.State != tenants.Active {
		// In the same write its sessions end, so that no node's older view of the
		// tenant can keep them alive. What reads this key is sessions/etcd.
		ops = append(ops, clientv3.OpPut(epochPrefix+t.UUID+"/all", "1"))
	}
	had := map[string]bool{}
	for _, host := range old.Hosts {
		had[host] = true
	}
	for _, host := range t.Hosts {
		if !had[host] {
			same = append(same, absent(hostPrefix+host))
			ops = append(ops, clientv3.OpPut(hostPrefix+host, t.UUID))
		}
		delete(had, host)
	}
	for host := range had {
		ops = append(ops, clientv3.OpDelete(hostPrefix+host))
	}
	done, err := s.commit(ctx, same, ops, clientv3.OpGet(record))
	if err != nil {
		return tenants.Tenant{}, fmt.Errorf("update tenant: %w", err)
	}
	if !done.Succeeded {
		if now := done.Responses[0].GetResponseRange().Kvs; len(now) == 1 && now[0].ModRevision == t.Revision {
			return tenants.Tenant{}, tenants.ErrHostTaken
		}
		return tenants.Tenant{}, tenants.ErrChanged
	}
	t.Revision = done.Header.Revision
	return t, nil
}

// Remove implements tenants.Source: everything in one transaction of deletes, if
// the record is still as it was read. Two nodes may finish one delete; the
// second must not take the id and hosts from a tenant that has them since.
func (s *Source) Remove(ctx context.Context, uuid string) error {
	record := tenantPrefix + uuid
	for {
		got, err := s.get(ctx, record)
		if err != nil {
			return fmt.Errorf("read tenant: %w", err)
		}
		ops := []clientv3.Op{
			clientv3.OpDelete(secretPrefix+uuid+"/", clientv3.WithPrefix()),
			clientv3.OpDelete(configPrefix + uuid),
			clientv3.OpDelete(keysPrefix + uuid),
			clientv3.OpDelete(record),
		}
		read := int64(0) // the revision of a record that is not there
		if len(got.Kvs) > 0 {
			old, err := decode(got.Kvs[0])
			if err != nil {
				return err
			}
			read = old.Revision
			ops = append(ops, clientv3.OpDelete(idPrefix+old.ID))
			for _, host := range old.Hosts {
				ops = append(ops, clientv3.OpDelete(hostPrefix+host))
			}
		}
		done, err := s.commit(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(record), "=", read)}, ops)
		if err != nil {
			return fmt.Errorf("remove tenant: %w", err)
		}
		if done.Succeeded {
			s.forget(uuid, done.Header.Revision)
			return nil
		}
	}
}

// Load implements tenants.Source.
func (s *Source) Load(ctx context.Context) (tenants.Contents, error) {
	const page = 1000
	var c tenants.Contents
	for _, prefix := range []string{tenantPrefix, keyPrefix} {
		from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
		for {
			options := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(page)}
			if c.Revision > 0 {
				options = append(options, clientv3.WithRev(c.Revision))
			}
			got, err := s.get(ctx, from, options...)
			if err != nil {
				return tenants.Contents{}, fmt.Errorf("load tenants: %w", err)
			}
			if c.Revision == 0 {
				c.Revision = got.Header.Revision
			}
			for _, kv := range got.Kvs {
				if err := (*contents)(&c).add(kv); err != nil {
					return tenants.Contents{}, err
				}
			}
			if !got.More {
				break
			}
			from = string(got.Kvs[len(got.Kvs)-1].Key) + "\x00"
		}
	}
	s.forgetBefore(c.Revision) // who loads has not watched
	return c, nil
}

// Watch implements tenants.Source.
func (s *Source) Watch(ctx context.Context, revision int64, apply func(tenants.Change)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream := s.client.Watch(clientv3.WithRequireLeader(ctx), livePrefix, clientv3.WithPrefix(),
		clientv3.WithRev(revision+1), clientv3.WithProgressNotify())
	for answer := range stream {
		if err := answer.Err(); err != nil {
			return fmt.Errorf("watch tenants: %w", err)
		}
		c := tenants.Change{Revision: answer.Header.Revision}
		for _, event := range answer.Events {
			if err := note(&c, event); err != nil {
				return err
			}
			// Another node may have deleted the tenant, or rotated its keys.
			if uuid, ok := strings.CutPrefix(string(event.Kv.Key), tenantPrefix); ok {
				s.forget(uuid, event.Kv.ModRevision)
			}
		}
		apply(c)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return errors.New("watch tenants: stream ended")
}

// note puts one event into a change. A watch that was behind gets many in one
// batch, and the last about each key is what counts.
func note(c *tenants.Change, event *clientv3.Event) error {
	key := string(event.Kv.Key)
	c.Revision = max(c.Revision, event.Kv.ModRevision)
	if uuid, ok := strings.CutPrefix(key, tenantPrefix); ok {
		c.Removed = slices.DeleteFunc(c.Removed, func(other string) bool { return other == uuid })
		c.Tenants = slices.DeleteFunc(c.Tenants, func(t tenants.Tenant) bool { return t.UUID == uuid })
		if event.Type == clientv3.EventTypeDelete {
			c.Removed = append(c.Removed, uuid)
		}
	}
	if id, ok := strings.CutPrefix(key, keyPrefix); ok {
		c.RemovedKeys = slices.DeleteFunc(c.RemovedKeys, func(other string) bool { return other == id })
		c.Keys = slices.DeleteFunc(c.Keys, func(k tenants.Key) bool { return k.ID == id })
		if event.Type == clientv3.EventTypeDelete {
			c.RemovedKeys = append(c.RemovedKeys, id)
		}
	}
	if event.Type == clientv3.EventTypeDelete {
		return nil
	}
	var put tenants.Contents
	if err := (*contents)(&put).add(event.Kv); err != nil {
		return err
	}
	c.Tenants = append(c.Tenants, put.Tenants...)
	c.Keys = append(c.Keys, put.Keys...)
	return nil
}

// PutKey implements tenants.Source.
func (s *Source) PutKey(ctx context.Context, k tenants.Key) error {
	if _, err := s.commit(ctx, nil, []clientv3.Op{clientv3.OpPut(keyPrefix+k.ID, encode(k))}); err != nil {
		return fmt.Errorf("put key: %w", err)
	}
	return nil
}

// DeleteKey implements tenants.Source.
func (s *Source) DeleteKey(ctx context.Context, id string) error {
	if _, err := s.commit(ctx, nil, []clientv3.Op{clientv3.OpDelete(keyPrefix + id)}); err != nil {
		return fmt.Errorf("delete key: %w", err)
	}
	return nil
}

// contents adds what a key holds to a Contents.
type contents tenants.Contents

func (c *contents) add(kv *mvccpb.KeyValue) error {
	key := string(kv.Key)
	if strings.HasPrefix(key, tenantPrefix) {
		t, err := decode(kv)
		if err != nil {
			return err
		}
		c.Tenants = append(c.Tenants, t)
	}
	if strings.HasPrefix(key, keyPrefix) {
		var k tenants.Key
		if err := json.Unmarshal(kv.Value, &k); err != nil {
			return fmt.Errorf("decode %s: %w", key, err)
		}
		c.Keys = append(c.Keys, k)
	}
	return nil
}

func encode(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic("tenants/etcd: encode: " + err.Error()) // plain fields only
	}
	return string(text)
}

func decode(kv *mvccpb.KeyValue) (tenants.Tenant, error) {
	var t tenants.Tenant
	if err := json.Unmarshal(kv.Value, &t); err != nil {
		return tenants.Tenant{}, fmt.Errorf("decode %s: %w", kv.Key, err)
	}
	t.Revision = kv.ModRevision
	return t, nil
}

func absent(key string) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
}

func (s *Source) get(ctx context.Context, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	got, err := s.client.Get(ctx, key, options...)
	return got, unavailable(err)
}

func (s *Source) commit(ctx context.Context, when []clientv3.Cmp, then []clientv3.Op, otherwise ...clientv3.Op) (*clientv3.TxnResponse, error) {
	if err := ctx.Err(); err != nil {
		return nil, unavailable(err) // the client in this process proposes before it looks
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	done, err := s.client.Txn(ctx).If(when...).Then(then...).Else(otherwise...).Commit()
	return done, unavailable(err)
}

// unavailable marks whatever etcd could not do: the caller cannot tell a
// time-out from a full disk and need not, but the log can.
func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", tenants.ErrUnavailable, err)
}
