package storetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/sessions"
)

// patience bounds the wait for a fact that must come.
const patience = 20 * time.Second

// watcher is a running watch and what it has brought.
type watcher struct {
	e    exam
	stop context.CancelFunc
	done chan error // what Watch returned

	mu      sync.Mutex
	changes []sessions.Change
	reached int64
	wrong   string // what broke the promise of Watch, if anything
	moved   chan struct{}
}

// watch starts a watch; hold, if set, is called before each step is noted.
func (e exam) watch(revision int64, hold func()) *watcher {
	ctx, cancel := context.WithCancel(e.Context())
	w := &watcher{e: e, stop: cancel, done: make(chan error, 1), reached: revision, moved: make(chan struct{}, 1)}
	go func() {
		w.done <- e.store.Watch(ctx, revision, func(changes []sessions.Change, reached int64) {
			if hold != nil {
				hold()
			}
			w.note(changes, reached)
		})
	}()
	e.Cleanup(cancel)
	return w
}

func (w *watcher) note(changes []sessions.Change, reached int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := w.reached
	for i, c := range changes {
		// What is before, or at, the revision reached so far has been there whole.
		if c.Revision <= w.reached || c.Revision < last || c.Revision > reached {
			w.wrong = fmt.Sprintf("change %d of %d is of revision %d, after %d, between %d and %d", i, len(changes), c.Revision, last, w.reached, reached)
		}
		last = c.Revision
	}
	if reached < w.reached {
		w.wrong = fmt.Sprintf("reached %d after %d", reached, w.reached)
	}
	w.changes, w.reached = append(w.changes, changes...), reached
	select {
	case w.moved <- struct{}{}:
	default:
	}
}

// until waits for the watch to reach a revision, asking for progress, and
// returns what it has brought.
func (w *watcher) until(revision int64) []sessions.Change {
	w.e.Helper()
	limit := time.After(patience)
	for {
		w.mu.Lock()
		reached, wrong := w.reached, w.wrong
		changes := slices.Clone(w.changes)
		w.mu.Unlock()
		if wrong != "" {
			w.e.Fatal(wrong)
		}
		if reached >= revision {
			return changes
		}
		if err := w.e.store.Progress(w.e.Context()); err != nil {
			w.e.Fatal(err)
		}
		select {
		case <-w.moved:
		case <-time.After(20 * time.Millisecond): // ask again: an answer is not promised
		case err := <-w.done:
			w.e.Fatalf("the watch ended: %v", err)
		case <-limit:
			w.e.Fatalf("the watch is at %d, not at %d", reached, revision)
		}
	}
}

// end stops the watch and returns what Watch did.
func (w *watcher) end() error {
	w.e.Helper()
	w.stop()
	return w.ended()
}

func (w *watcher) ended() error {
	w.e.Helper()
	select {
	case err := <-w.done:
		return err
	case <-time.After(patience):
		w.e.Fatal("the watch does not end")
		return nil
	}
}

// news is a change as one compares it.
type news struct {
	Kind     sessions.ChangeKind
	Revision int64
	Digest   sessions.Digest
	Tenant   string
	Verifier string
}

// told are changes as one compares them: those of one revision in any order.
func told(changes []sessions.Change) []news {
	var list []news
	for _, c := range changes {
		list = append(list, news{c.Kind, c.Revision, c.Digest, c.Tenant, c.Verifier})
	}
	slices.SortStableFunc(list, func(a, b news) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.Digest.Key(), b.Digest.Key()))
	})
	return list
}

// story makes one change of each kind and returns what a watch must tell.
func (e exam) story() (want []sessions.Change) {
	e.Helper()
	d, s := e.create(e.a, "alice")
	want = append(want, sessions.Change{Kind: sessions.Put, Revision: s.Revision, Digest: d})
	s.LastSeenAt = s.LastSeenAt.Add(10 * time.Second)
	s.Revision = e.must(e.store.Touch(e.Context(), d, s))
	want = append(want, sessions.Change{Kind: sessions.Put, Revision: s.Revision, Digest: d})
	r := e.rotation(d, s)
	_, next := e.rotate(r)
	want = append(want,
		sessions.Change{Kind: sessions.Put, Revision: next.Revision, Digest: d},
		sessions.Change{Kind: sessions.Put, Revision: next.Revision, Digest: r.New})
	revision, _, err := e.store.Delete(e.Context(), e.a, r.New)
	e.must(revision, err)
	want = append(want,
		sessions.Change{Kind: sessions.Deleted, Revision: revision, Digest: r.New},
		sessions.Change{Kind: sessions.Deleted, Revision: revision, Digest: r.Old})
	for tenant, f := range map[string]sessions.Filter{e.a: {}, e.b: {Digest: "sha256:abc"}, "": {}} {
		revision = e.must(e.store.BumpEpoch(e.Context(), tenant, f))
		want = append(want, sessions.Change{Kind: sessions.Epoch, Revision: revision, Tenant: tenant, Verifier: f.Digest})
	}
	return want
}

func last(changes []sessions.Change) int64 { return changes[len(changes)-1].Revision }

func (e exam) tells(want, got []sessions.Change) {
	e.Helper()
	if diff := gocmp.Diff(told(want), told(got)); diff != "" {
		e.Fatalf("the watch tells something else (-want +got):\n%s", diff)
	}
}

func watches(e exam) {
	w := e.watch(e.must(e.store.Revision(e.Context())), nil)
	want := e.story()
	got := w.until(last(want))
	e.tells(want, got)
	// Each put opens as the record was then.
	first, err := got[0].Session()
	if err != nil {
		e.Fatal(err)
	}
	touched, err := got[1].Session()
	if err != nil {
		e.Fatal(err)
	}
	if first.Subject != "alice" || first.Revision != got[0].Revision || first.Born != first.Revision ||
		touched.Born != first.Born || touched.Revision != got[1].Revision || !touched.LastSeenAt.After(first.LastSeenAt) {
		e.Fatalf("opened as %+v and %+v", first, touched)
	}
	for _, c := range got[2:4] {
		s, err := c.Session()
		if err != nil || s.Superseded() != (c.Digest == got[0].Digest) || s.Revision != c.Revision {
			e.Fatalf("opened as %+v: %v", s, err)
		}
	}
	e.tells(want, w.until(e.must(e.store.Revision(e.Context())))) // and nothing twice
}

func resumes(e exam) {
	start := e.must(e.store.Revision(e.Context()))
	want := e.story()
	for from := start; from < last(want); {
		rest := slices.DeleteFunc(slices.Clone(want), func(c sessions.Change) bool { return c.Revision <= from })
		w := e.watch(from, nil)
		e.tells(rest, w.until(last(want)))
		if err := w.end(); !errors.Is(err, context.Canceled) {
			e.Fatal(err)
		}
		from = rest[0].Revision
	}
	// One that is stopped and goes on, while others write, misses nothing and
	// sees nothing twice.
	revision := e.must(e.store.Revision(e.Context()))
	const writers, each = 4, 50
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for range each {
				token, s := e.session(e.a, "alice")
				if _, err := e.store.Create(e.Context(), sessions.Creation{Digest: token.Digest(e.a), Session: s}); err != nil {
					e.Error(err)
				}
			}
		})
	}
	seen := map[sessions.Digest]bool{}
	for len(seen) < writers*each && !e.Failed() {
		w := e.watch(revision, nil)
		w.until(revision + 1)
		if err := w.end(); !errors.Is(err, context.Canceled) {
			e.Fatal(err)
		}
		for _, c := range w.changes { // it has ended: nobody writes any more
			if seen[c.Digest] {
				e.Fatalf("revision %d came twice", c.Revision)
			}
			seen[c.Digest] = true
		}
		revision = w.reached
	}
	all.Wait()
}

func progresses(e exam) {
	w := e.watch(e.must(e.store.Revision(e.Context())), nil)
	// A write that no copy needs to know.
	if err := e.store.PutChallenge(e.Context(), sessions.NewChallengeID(), e.challenge(e.a)); err != nil {
		e.Fatal(err)
	}
	if got := w.until(e.must(e.store.Revision(e.Context()))); len(got) != 0 {
		e.Fatalf("it tells %v", told(got))
	}
}

func twoWatches(e exam) {
	start := e.must(e.store.Revision(e.Context()))
	release := make(chan struct{})
	slow, quick := e.watch(start, func() { <-release }), e.watch(start, nil)
	want := e.story()
	e.tells(want, quick.until(last(want)))
	if err := quick.end(); !errors.Is(err, context.Canceled) {
		e.Fatal(err)
	}
	close(release)
	e.tells(want, slow.until(last(want)))
}

func watchEnds(e exam) {
	w := e.watch(e.must(e.store.Revision(e.Context())), nil)
	_, s := e.create(e.a, "alice")
	w.until(s.Revision)
	if err := w.end(); !errors.Is(err, context.Canceled) {
		e.Fatal(err)
	}
	over, cancel := context.WithCancel(e.Context())
	cancel()
	if err := e.store.Watch(over, s.Revision, func([]sessions.Change, int64) {}); !errors.Is(err, context.Canceled) {
		e.Fatal(err)
	}
}

func forgotten(e exam) {
	start := e.must(e.store.Revision(e.Context()))
	d, s := e.create(e.a, "alice")
	e.create(e.a, "alice")
	e.compact()
	if err := e.watch(start, nil).ended(); err == nil || errors.Is(err, context.Canceled) {
		e.Fatalf("a watch with a gap ended with %v", err)
	}
	copied := e.load()
	if copied.records[d] != s.Revision {
		e.Fatalf("loaded at revision %d, want %d", copied.records[d], s.Revision)
	}
	w := e.watch(copied.revision, nil)
	want := e.story()
	e.tells(want, w.until(last(want)))
}

// replica is what one keeps by Load and Watch.
type replica struct {
	revision int64
	records  map[sessions.Digest]int64 // their revisions
	epochs   map[[2]string]int64
}

func (e exam) load() replica {
	e.Helper()
	r := replica{records: map[sessions.Digest]int64{}, epochs: map[[2]string]int64{}}
	var err error
	if r.revision, err = e.store.Load(e.Context(), true, r.apply); err != nil {
		e.Fatal(err)
	}
	return r
}

func (r *replica) apply(c sessions.Change) {
	switch c.Kind {
	case sessions.Put:
		r.records[c.Digest] = c.Revision
	case sessions.Deleted:
		delete(r.records, c.Digest)
	case sessions.Epoch:
		r.epochs[[2]string{c.Tenant, c.Verifier}] = c.Revision
	}
}

func loads(e exam) {
	d, s := e.create(e.a, "alice")
	dB, _ := e.create(e.b, "bob")
	e.must(e.store.BumpEpoch(e.Context(), e.b, sessions.Filter{Digest: "sha256:0ld"}))
	revision := e.must(e.store.BumpEpoch(e.Context(), e.b, sessions.Filter{Digest: "sha256:0ld"}))
	opened := map[sessions.Digest]sessions.Session{}
	loaded, err := e.store.Load(e.Context(), true, func(c sessions.Change) {
		if c.Kind == sessions.Put {
			s, err := c.Session()
			if err != nil {
				e.Error(err)
			}
			opened[c.Digest] = s
		}
	})
	if err != nil || loaded < revision {
		e.Fatalf("loaded at %d, after a write at %d: %v", loaded, revision, err)
	}
	if diff := gocmp.Diff(s, opened[d]); diff != "" {
		e.Fatalf("loaded differs (-want +got):\n%s", diff)
	}
	if opened[dB].Tenant != e.b || opened[dB].Subject != "bob" {
		e.Fatalf("loaded %+v", opened[dB])
	}
	if got := e.load().epochs[[2]string{e.b, "sha256:0ld"}]; got != revision {
		e.Fatalf("the epoch is at %d, want %d", got, revision)
	}
	_, err = e.store.Load(e.Context(), false, func(c sessions.Change) {
		if c.Kind != sessions.Epoch {
			e.Errorf("a load without records brings %v", told([]sessions.Change{c}))
		}
	})
	if err != nil {
		e.Fatal(err)
	}
}

func copies(e exam) {
	const lanes, each = 8, 40
	var all sync.WaitGroup
	half := make(chan struct{}, lanes)
	for lane := range lanes {
		all.Go(func() {
			for i := range each {
				if i == each/2 {
					half <- struct{}{}
				}
				if err := e.live(fmt.Sprint("lane-", lane), i); err != nil {
					e.Error(err)
				}
			}
		})
	}
	<-half
	copied := e.load() // while they write
	w := e.watch(copied.revision, nil)
	all.Wait()
	for _, c := range w.until(e.must(e.store.Revision(e.Context()))) {
		copied.apply(c)
	}
	want := e.load()
	copied.revision, want.revision = 0, 0
	if len(want.records) < lanes*each/2 || !maps.Equal(copied.records, want.records) || !maps.Equal(copied.epochs, want.epochs) {
		e.Fatalf("the copy differs: %d records and %d epochs, want %d and %d", len(copied.records), len(copied.epochs), len(want.records), len(want.epochs))
	}
}

// live is one session's life, which goes another way each time.
func (e exam) live(subject string, turn int) error {
	token, s := e.session(e.a, subject)
	d := token.Digest(e.a)
	var err error
	if s.Revision, err = e.store.Create(e.Context(), sessions.Creation{Digest: d, Session: s}); err != nil {
		return err
	}
	s.Born = s.Revision
	switch turn % 4 {
	case 1:
		_, err = e.store.Touch(e.Context(), d, s)
	case 2:
		_, err = e.store.Rotate(e.Context(), e.rotation(d, s))
	case 3:
		_, _, err = e.store.Delete(e.Context(), e.a, d)
	}
	return err
}
