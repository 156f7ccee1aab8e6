package etcd

import (
	"context"
	"errors"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/sessions"
)

// An epoch is a key whose revision is all that counts: a session is over when
// its record came to be at or before it. So no record holds an epoch's number,
// and none can hold an old one.
const (
	epochPrefix = livePrefix + "e/"
	globalEpoch = epochPrefix + "all"
	digestKind  = "sha256:" // in front of every module digest, and in no key
)

func tenantEpochs(tenant string) string { return epochPrefix + tenant + "/" }

func epochKey(tenant, verifier string) string {
	switch {
	case tenant == "":
		return globalEpoch
	case verifier == "":
		return tenantEpochs(tenant) + "all"
	}
	return tenantEpochs(tenant) + "v/" + strings.TrimPrefix(verifier, digestKind)
}

// parseEpochKey undoes epochKey.
func parseEpochKey(key string) (tenant, verifier string, ok bool) {
	if key == globalEpoch {
		return "", "", true
	}
	rest, ok := strings.CutPrefix(key, epochPrefix)
	if !ok {
		return "", "", false
	}
	tenant, rest, ok = strings.Cut(rest, "/")
	if !ok || tenant == "" {
		return "", "", false
	}
	if rest == "all" {
		return tenant, "", true
	}
	digest, ok := strings.CutPrefix(rest, "v/")
	return tenant, digestKind + digest, ok && digest != ""
}

// epochs are what counts for one tenant: a revision for all of it, and one for
// each verifier that was revoked.
type epochs struct {
	all       int64
	verifiers map[string]int64
}

// epochOps is how many operations epochReads are.
const epochOps = 2

// epochReads read a tenant's epochs, before operations that read its records at
// the same revision.
func epochReads(tenant string) []clientv3.Op {
	return []clientv3.Op{
		clientv3.OpGet(globalEpoch, clientv3.WithKeysOnly()),
		clientv3.OpGet(tenantEpochs(tenant), clientv3.WithPrefix(), clientv3.WithKeysOnly()),
	}
}

// read notes the answers of epochReads, which came first in a transaction.
func (e *epochs) read(done *clientv3.TxnResponse) {
	for _, answer := range done.Responses[:epochOps] {
		for _, kv := range answer.GetResponseRange().Kvs {
			_, verifier, ok := parseEpochKey(string(kv.Key))
			switch {
			case !ok:
			case verifier == "":
				e.all = max(e.all, kv.ModRevision)
			default:
				if e.verifiers == nil {
					e.verifiers = map[string]int64{}
				}
				e.verifiers[verifier] = kv.ModRevision
			}
		}
	}
}

// has reports whether an epoch has ended s.
func (e *epochs) has(s sessions.Session) bool {
	return s.Born <= e.all || s.Born <= e.verifiers[s.Verifier.Digest]
}

// noEpochSince are the conditions under which no epoch has ended s.
func noEpochSince(s sessions.Session) []clientv3.Cmp {
	keys := []string{globalEpoch, epochKey(s.Tenant, "")}
	if s.Verifier.Digest != "" {
		keys = append(keys, epochKey(s.Tenant, s.Verifier.Digest))
	}
	var when []clientv3.Cmp
	for _, key := range keys {
		when = append(when, clientv3.Compare(clientv3.ModRevision(key), "<", s.Born))
	}
	return when
}

// BumpEpoch implements sessions.Store.
func (s *Store) BumpEpoch(ctx context.Context, tenant string, f sessions.Filter) (int64, error) {
	if f.Subject != "" || tenant == "" && f != (sessions.Filter{}) {
		return 0, errors.New("bump epoch: there is none for this filter")
	}
	if err := begin(ctx); err != nil {
		return 0, err
	}
	done, err := s.client.Put(ctx, epochKey(tenant, f.Digest), "1")
	if err != nil {
		return 0, failed("bump epoch", err)
	}
	return done.Header.Revision, nil
}
