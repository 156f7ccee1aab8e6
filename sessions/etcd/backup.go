package etcd

import (
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// IsSession reports whether a key is of one session or pending second step: what
// a restore leaves out unless told otherwise, since a session that was revoked
// after the backup would come back.
func IsSession(key string) bool {
	for _, prefix := range []string{recordPrefix, idPrefix, subjectPrefix, challengePrefix} {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// Age is for a restore that keeps sessions: which revision of a record, or of an
// epoch, the other counts beside its own. An epoch is a border: what it ended
// must stay before it, and what came later behind it.
func Age(kv *mvccpb.KeyValue) (revision int64, border, is bool) {
	key := string(kv.Key)
	switch {
	case strings.HasPrefix(key, recordPrefix):
		return kv.CreateRevision, false, true
	case strings.HasPrefix(key, epochPrefix):
		return kv.ModRevision, true, true
	}
	return 0, false, false
}
