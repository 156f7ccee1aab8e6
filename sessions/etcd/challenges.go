package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/sessions"
)

// PutChallenge implements sessions.Challenges.
func (s *Store) PutChallenge(ctx context.Context, id sessions.ChallengeID, c sessions.Challenge) error {
	keys, err := s.keys(ctx, c.Tenant, 0)
	if err != nil {
		return unavailable("read tenant keys", err)
	}
	pending, err := s.client.Get(ctx, challengePrefix+c.Tenant+"/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return unavailable("count challenges", err)
	}
	if pending.Count >= sessions.MaxChallenges {
		return sessions.ErrTooMany
	}
	text, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode challenge: %w", err)
	}
	path := challengeKey(c.Tenant, id)
	sealed := string(keys.Seal([]byte(path), text))
	_, err = s.leased(ctx, c.ExpiresAt, 1, func(lease clientv3.LeaseID) (*clientv3.TxnResponse, error) {
		return s.client.Txn(ctx).Then(clientv3.OpPut(path, sealed, clientv3.WithLease(lease))).Commit()
	})
	return err
}

// SpendAttempt implements sessions.Challenges.
func (s *Store) SpendAttempt(ctx context.Context, tenant string, id sessions.ChallengeID) (sessions.Challenge, error) {
	path := challengeKey(tenant, id)
	for {
		got, err := s.client.Get(ctx, path)
		if err != nil {
			return sessions.Challenge{}, unavailable("read challenge", err)
		}
		if len(got.Kvs) == 0 {
			return sessions.Challenge{}, sessions.ErrNotFound
		}
		keys, err := s.keys(ctx, tenant, 0)
		if err != nil {
			return sessions.Challenge{}, unavailable("read tenant keys", err)
		}
		text, err := s.unseal(ctx, keys, tenant, got.Kvs[0])
		if err != nil {
			return sessions.Challenge{}, fmt.Errorf("open challenge: %w", err)
		}
		var c sessions.Challenge
		if err := json.Unmarshal(text, &c); err != nil {
			return sessions.Challenge{}, fmt.Errorf("decode challenge: %w", err)
		}
		if c.Attempts <= 0 || !time.Now().Before(c.ExpiresAt) {
			return sessions.Challenge{}, sessions.ErrNotFound
		}
		c.Attempts--
		c.Answers++
		if text, err = json.Marshal(c); err != nil {
			return sessions.Challenge{}, fmt.Errorf("encode challenge: %w", err)
		}
		done, err := s.client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(path), "=", got.Kvs[0].ModRevision)).
			Then(clientv3.OpPut(path, string(keys.Seal([]byte(path), text)), clientv3.WithIgnoreLease())).
			Commit()
		if err != nil {
			return sessions.Challenge{}, unavailable("take an attempt", err)
		}
		if done.Succeeded {
			return c, nil
		}
	}
}

// DropChallenge implements sessions.Challenges.
func (s *Store) DropChallenge(ctx context.Context, tenant string, id sessions.ChallengeID) error {
	if err := begin(ctx); err != nil {
		return err
	}
	if _, err := s.client.Delete(ctx, challengeKey(tenant, id)); err != nil {
		return unavailable("drop challenge", err)
	}
	return nil
}
