package etcd

import (
	"context"
	"crypto/rand"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"github.com/doorward/doorward/sessions"
)

// What a copy of the store must know lies side by side: epochs, then records.
// Tenants lie before them, under livePrefix too, and have a watcher of their
// own.
var (
	feedStart = epochPrefix
	epochEnd  = clientv3.GetPrefixRangeEnd(epochPrefix)
	feedEnd   = clientv3.GetPrefixRangeEnd(recordPrefix)
)

const (
	firstPage = 500      // keys that Load reads at first
	lastPage  = 32_000   // and in the end: each page makes etcd count all that are left
	pageBytes = 16 << 20 // what it reads at once, about

	keysTime = 2 * time.Second // bound on reading a tenant's keys for one change
)

// Load implements sessions.Store. The first read is linearizable and fixes the
// revision that the others read at. A page is read while the one before it is
// opened.
func (s *Store) Load(ctx context.Context, records bool, apply func(sessions.Change)) (revision int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	from, end := feedStart, epochEnd
	if records {
		end = feedEnd
	}
	pages := make(chan []*mvccpb.KeyValue)
	reading := make(chan error, 1)
	go func() {
		defer close(pages)
		more := true
		for limit := firstPage; more; {
			got, err := s.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(int64(limit)), clientv3.WithRev(revision))
			if err != nil {
				reading <- unavailable("load sessions", err)
				return
			}
			if revision == 0 {
				revision = got.Header.Revision
			}
			if more = got.More; more {
				from = string(got.Kvs[len(got.Kvs)-1].Key) + "\x00"
			}
			limit = nextPage(limit, got.Kvs)
			pages <- got.Kvs
		}
		reading <- nil
	}()
	for page := range pages {
		changes := s.opened(ctx, page)
		if ctx.Err() != nil {
			continue // its reader ends too
		}
		for _, change := range changes {
			apply(change)
		}
	}
	if err := <-reading; err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, unavailable("load sessions", err)
	}
	return revision, nil
}

// nextPage is how many keys Load reads after a page: twice as many, but no more
// than pageBytes of such as those were.
func nextPage(limit int, page []*mvccpb.KeyValue) int {
	size := 1
	for _, kv := range page {
		size += len(kv.Key) + len(kv.Value)
	}
	return max(firstPage, min(2*limit, lastPage, pageBytes*max(1, len(page))/size))
}

// opened are the changes that keys say, their records opened on all processors:
// that is most of what a start takes.
func (s *Store) opened(ctx context.Context, kvs []*mvccpb.KeyValue) []sessions.Change {
	changes := make([]sessions.Change, 0, len(kvs))
	for _, kv := range kvs {
		if change, ok := s.put(ctx, kv); ok {
			changes = append(changes, change)
		}
	}
	var all sync.WaitGroup
	for part := range slices.Chunk(changes, max(1, (len(changes)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))) {
		all.Go(func() {
			for i := range part {
				if open := part[i].Session; open != nil && ctx.Err() == nil {
					session, err := open()
					part[i].Session = func() (sessions.Session, error) { return session, err }
				}
			}
		})
	}
	all.Wait()
	return changes
}

// Watch implements sessions.Store. It has a stream of its own: etcd answers
// for the progress of a whole stream, and not at all while one watcher on it
// is behind (etcd #20242). A stream is told from another by its metadata.
//
// An answer without events says that every event up to its revision has been
// sent on this stream: etcd takes the store's revision and sends it while it
// holds the lock that writers hold while they raise the revision and send their
// events, and only when the watcher is not behind (progressIfSync in
// storage/mvcc/watchable_store.go and watchableStoreTxnWrite.End in
// watchable_store_txn.go, v3.7.3; #15220 was that it did not).
//
// The client connects again by itself, from the revision it had come to, so
// nothing is lost by that; what etcd has meanwhile compacted ends the watch.
func (s *Store) Watch(ctx context.Context, revision int64, apply func(changes []sessions.Change, reached int64)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ask := make(chan struct{}, 1)
	s.join(ask)
	defer s.leave(ask)
	own := metadata.Pairs("doorward-watch", rand.Text())
	// In process the server does not look for the leader: there only Revision
	// tells that a majority is gone.
	stream := clientv3.WithRequireLeader(metadata.NewOutgoingContext(ctx, own))
	answers := s.client.Watch(stream, feedStart, clientv3.WithRange(feedEnd), clientv3.WithRev(revision+1), clientv3.WithProgressNotify())
	for {
		select {
		case answer, open := <-answers:
			if err := ctx.Err(); err != nil {
				return err
			}
			if !open {
				return unavailable("watch sessions", errors.New("the stream ended"))
			}
			if err := answer.Err(); err != nil {
				return unavailable("watch sessions", err)
			}
			if n := len(answer.Events); n > 0 {
				apply(s.changes(ctx, answer.Events), answer.Events[n-1].Kv.ModRevision)
			} else if answer.IsProgressNotify() {
				apply(nil, answer.Header.Revision)
			}
		case <-ask:
			if err := s.client.RequestProgress(stream); err != nil {
				return unavailable("ask for progress", err)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Progress implements sessions.Store. A watch that is behind does not answer;
// it will when it is asked again.
func (s *Store) Progress(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return unavailable("ask for progress", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for ask := range s.watches {
		select {
		case ask <- struct{}{}:
		default: // it has been asked and has not yet passed it on
		}
	}
	return nil
}

// join makes a watch known to Progress.
func (s *Store) join(ask chan<- struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watches[ask] = true
}

func (s *Store) leave(ask chan<- struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watches, ask)
}

func (s *Store) changes(ctx context.Context, events []*clientv3.Event) []sessions.Change {
	changes := make([]sessions.Change, 0, len(events))
	for _, event := range events {
		change, ok := s.put(context.WithoutCancel(ctx), event.Kv) // it may be opened after the watch has ended
		if event.Type == clientv3.EventTypeDelete {
			// An epoch's key goes with the tenant and all its records.
			ok = ok && change.Kind == sessions.Put
			change.Kind, change.Session = sessions.Deleted, nil
		}
		if ok {
			changes = append(changes, change)
		}
	}
	return changes
}

// put is what a key that was put says. What is no record and no epoch says
// nothing.
func (s *Store) put(ctx context.Context, kv *mvccpb.KeyValue) (sessions.Change, bool) {
	key := string(kv.Key)
	if tenant, verifier, ok := parseEpochKey(key); ok {
		return sessions.Change{Kind: sessions.Epoch, Revision: kv.ModRevision, Tenant: tenant, Verifier: verifier}, true
	}
	rest, ok := strings.CutPrefix(key, recordPrefix)
	if !ok {
		return sessions.Change{}, false
	}
	tenant, text, ok := strings.Cut(rest, "/")
	d, err := sessions.ParseDigest(text)
	if !ok || err != nil {
		return sessions.Change{}, false
	}
	return sessions.Change{
		Kind: sessions.Put, Revision: kv.ModRevision, Digest: d,
		Session: func() (sessions.Session, error) {
			ctx, cancel := context.WithTimeout(ctx, keysTime)
			defer cancel()
			keys, err := s.keys(ctx, tenant, 0)
			if err != nil {
				return sessions.Session{}, unavailable("read tenant keys", err)
			}
			return s.open(ctx, keys, tenant, d, kv)
		},
	}, true
}

// Revision implements sessions.Store. It counts one key, because to count a
// prefix takes as long as there are keys.
func (s *Store) Revision(ctx context.Context) (int64, error) {
	got, err := s.client.Get(ctx, recordPrefix, clientv3.WithCountOnly())
	if err != nil {
		return 0, unavailable("read revision", err)
	}
	return got.Header.Revision, nil
}
