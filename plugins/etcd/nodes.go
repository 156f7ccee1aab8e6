package etcd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/doorward/doorward/plugins"
)

const (
	nodePrefix = "/dw/p/node/"
	askPrefix  = "/dw/p/ask/"
	hasPrefix  = "/dw/p/has/"

	nodeTime    = 10 * time.Second // how long a node that crashed counts as live
	askTime     = time.Minute      // what is left of an ask whose asker crashed ends by then
	answerTime  = askTime          // to compile a version that was asked for: then nobody waits any more
	answers     = 16               // asks answered at once
	readyAgain  = time.Second      // after a compile for an ask failed that may work then
	lookAgain   = time.Second      // while asking: which nodes are live
	revokeTime  = time.Second      // to end a lease early; a node that drains waits for it
	attendAgain = time.Second      // after a node lost its lease or its watch
)

// Nodes are plugins.Nodes that find each other in etcd.
type Nodes struct {
	client *clientv3.Client
	id     string
	log    *slog.Logger
}

// NewNodes returns the Nodes on client, of which this one is id; "/" must not be
// in it. A nil log discards. The client stays the caller's. Until Run this node is
// none of them.
func NewNodes(client *clientv3.Client, id string, log *slog.Logger) *Nodes {
	return &Nodes{client, id, cmp.Or(log, slog.New(slog.DiscardHandler))}
}

// ask is what lies at an ask's key.
type ask struct {
	Tenant  string `json:"tenant"`
	Version int    `json:"version"`
}

// What lies at a node's answer.
const (
	compiled    = "compiled"
	notCompiled = "cannot" // nor soon
)

// Ask implements plugins.Nodes.
func (n *Nodes) Ask(ctx context.Context, tenant string, v plugins.Version, wait time.Duration) ([]string, error) {
	lease, err := n.grant(ctx, askTime)
	if err != nil {
		return nil, err
	}
	defer n.revoke(ctx, lease)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	name := strconv.FormatInt(int64(lease), 16)
	asked, err := n.put(ctx, askPrefix+name, encode(ask{tenant, v.Number}), lease)
	if err != nil {
		return nil, err
	}
	answers := n.client.Watch(ctx, hasPrefix+name+"/", clientv3.WithPrefix(), clientv3.WithRev(asked.Header.Revision))
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	over := time.After(wait)
	for {
		pending, silent, err := n.pending(ctx, name)
		if err != nil || silent == 0 {
			return pending, err
		}
		select {
		case _, open := <-answers:
			if !open {
				answers = nil // the ticker is left
			}
		case <-look.C:
		case <-over:
			return pending, nil
		case <-ctx.Done():
			return nil, unavailable(ctx.Err())
		}
	}
}

// pending are the live nodes that have not compiled what an ask names, and how many
// of them have not answered it.
func (n *Nodes) pending(ctx context.Context, name string) (pending []string, silent int, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	got, err := n.client.Txn(ctx).Then(
		clientv3.OpGet(nodePrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly()),
		clientv3.OpGet(hasPrefix+name+"/", clientv3.WithPrefix()),
	).Commit()
	if err != nil {
		return nil, 0, unavailable(err)
	}
	said := map[string]string{}
	for _, kv := range got.Responses[1].GetResponseRange().Kvs {
		said[strings.TrimPrefix(string(kv.Key), hasPrefix+name+"/")] = string(kv.Value)
	}
	for _, kv := range got.Responses[0].GetResponseRange().Kvs {
		id := strings.TrimPrefix(string(kv.Key), nodePrefix)
		switch said[id] {
		case compiled:
			continue
		case "":
			silent++
		}
		pending = append(pending, id)
	}
	return pending, silent, nil
}

// Run makes this node one of them until ctx ends, whose error it returns. ready
// returns when a version is compiled on this node, as plugins.Catalog.Prepare does;
// it is called for each ask, by several goroutines, and again a second after an
// error that is neither plugins.ErrInvalid nor plugins.ErrNotFound.
func (n *Nodes) Run(ctx context.Context, ready func(ctx context.Context, tenant string, version int) error) error {
	for {
		err := n.attend(ctx, ready)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n.log.Warn("other nodes do not see this one for a moment", "err", err)
		select {
		case <-time.After(attendAgain):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// attend answers asks as long as this node's lease and its watch hold.
func (n *Nodes) attend(ctx context.Context, ready func(context.Context, string, int) error) error {
	lease, err := n.grant(ctx, nodeTime)
	if err != nil {
		return err
	}
	defer n.revoke(ctx, lease) // so that nobody waits for a node that has ended
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	alive, err := n.client.KeepAlive(ctx, lease)
	if err != nil {
		return unavailable(err)
	}
	if _, err := n.put(ctx, nodePrefix+n.id, "", lease); err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(answers)
	defer group.Wait()
	defer cancel()
	answer := func(kv *mvccpb.KeyValue) {
		group.Go(func() error { n.answer(ctx, kv, ready); return nil })
	}
	reading, done := context.WithTimeout(ctx, callTime)
	defer done()
	open, err := n.client.Get(reading, askPrefix, clientv3.WithPrefix())
	if err != nil {
		return unavailable(err)
	}
	for _, kv := range open.Kvs {
		answer(kv)
	}
	asks := n.client.Watch(clientv3.WithRequireLeader(ctx), askPrefix, clientv3.WithPrefix(),
		clientv3.WithRev(open.Header.Revision+1), clientv3.WithFilterDelete())
	for {
		select {
		case got, open := <-asks:
			if err := got.Err(); err != nil || !open {
				return fmt.Errorf("watch asks: %w", errors.Join(plugins.ErrUnavailable, err))
			}
			for _, event := range got.Events {
				answer(event.Kv)
			}
		case _, open := <-alive:
			if !open {
				return fmt.Errorf("%w: this node's lease has ended", plugins.ErrUnavailable)
			}
		}
	}
}

// answer compiles what an ask names, and says so. The asker may have gone: then
// its lease has, and there is nobody to say it to.
func (n *Nodes) answer(ctx context.Context, kv *mvccpb.KeyValue, ready func(context.Context, string, int) error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	var a ask
	err := json.Unmarshal(kv.Value, &a)
	if err != nil {
		err = fmt.Errorf("%w: decode %s: %w", plugins.ErrInvalid, kv.Key, err)
	} else {
		err = ready(ctx, a.Tenant, a.Version)
	}
	for err != nil && !errors.Is(err, plugins.ErrInvalid) && !errors.Is(err, plugins.ErrNotFound) && ctx.Err() == nil {
		select {
		case <-time.After(readyAgain):
			err = ready(ctx, a.Tenant, a.Version)
		case <-ctx.Done():
		}
	}
	says := compiled
	if err != nil {
		says = notCompiled
		n.log.Warn("other nodes are told that a verifier is not compiled here", "tenant", a.Tenant, "version", a.Version, "err", err)
	}
	name := strings.TrimPrefix(string(kv.Key), askPrefix)
	if _, err := n.put(ctx, hasPrefix+name+"/"+n.id, says, clientv3.LeaseID(kv.Lease)); err != nil {
		n.log.Debug("nobody waits any more for the answer whether a verifier is compiled here", "tenant", a.Tenant, "version", a.Version, "err", err)
	}
}

func (n *Nodes) grant(ctx context.Context, ttl time.Duration) (clientv3.LeaseID, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	lease, err := n.client.Grant(ctx, int64(ttl/time.Second))
	if err != nil {
		return 0, unavailable(err)
	}
	return lease.ID, nil
}

// revoke ends a lease, after ctx too. What it cannot end, time does.
func (n *Nodes) revoke(ctx context.Context, lease clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTime)
	defer cancel()
	if _, err := n.client.Revoke(ctx, lease); err != nil {
		n.log.Debug("lease not revoked; it ends by itself", "err", err)
	}
}

func (n *Nodes) put(ctx context.Context, key, value string, lease clientv3.LeaseID) (*clientv3.PutResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	done, err := n.client.Put(ctx, key, value, clientv3.WithLease(lease))
	return done, unavailable(err)
}
