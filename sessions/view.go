package sessions

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/errgroup"
)

// How fresh a copy must be known to be, and how that is found out. A watch that
// is silent proves nothing: it goes on reporting progress with two of three
// members dead (measured). Only a read that a majority confirmed does.
const (
	trust      = 500 * time.Millisecond // an entry counts while the last proof is at most this old
	proofEvery = 100 * time.Millisecond
	proofTime  = 400 * time.Millisecond // bound on one proof
	silence    = 2 * time.Second        // a watch this long behind the proven revision is given up
	lostAfter  = time.Second            // without any proof this long, the store is not asked by requests
	loadTime   = 2 * time.Minute
	lateUse    = 2 * time.Second // a use may be this long on its way from another node
)

// absentSize is how many tokens that stand for nothing are remembered.
const absentSize = 16 << 10

var errSilent = errors.New("the watch is silent, though the store has moved on")

// view is a node's own copy of the store and the proof of how fresh it is.
// Run fills it; until then, and whenever the proof is old, it knows nothing.
type view struct {
	store Store
	whole bool  // every session, not only those that were asked for
	bytes int64 // bound, when not whole
	log   *slog.Logger

	now    atomic.Pointer[replica]
	loaded chan struct{} // closed at the first load
	lost   atomic.Bool   // the store has not answered for lostAfter; Run finds out when it does again

	answered time.Time // when it last did
}

// Run keeps the copy in step until ctx ends, and returns ctx's error. When the
// watch is lost, compacted away or silent, the copy is loaded anew at one
// revision and swapped whole; what was there before is by then no longer
// trusted.
func (v *view) Run(ctx context.Context) error {
	const first, last = 20 * time.Millisecond, 2 * time.Second
	var pause time.Duration
	for {
		began := time.Now()
		err := v.follow(ctx, pause)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(began) > time.Minute {
			pause = 0
		}
		pause = min(max(2*pause, first), last)
		v.log.Warn("copy of sessions lost its store; loading again", "err", err, "in", pause)
	}
}

// follow loads a copy, publishes it, and keeps it until its watch ends.
func (v *view) follow(ctx context.Context, pause time.Duration) error {
	r, err := v.load(ctx, pause)
	if err != nil {
		return err
	}
	if v.now.Swap(r) == nil {
		close(v.loaded)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		err := v.store.Watch(ctx, r.reached.Load(), r.apply)
		return fmt.Errorf("watch sessions: %w", err)
	})
	group.Go(func() error { return v.prove(ctx, r) })
	return group.Wait()
}

// waitLoaded waits for the first load.
func (v *view) waitLoaded(ctx context.Context) error {
	select {
	case <-v.loaded:
		return nil
	case <-ctx.Done():
		return errors.Join(ErrUnavailable, ctx.Err())
	}
}

// load makes a copy after a pause. It may take long, and requests go to the
// store meanwhile, so whether that answers is found out beside it.
func (v *view) load(ctx context.Context, pause time.Duration) (*replica, error) {
	ctx, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { v.listen(ctx) })
	defer beside.Wait()
	defer cancel()
	select {
	case <-time.After(pause + rand.N(pause+1)):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	once, done := context.WithTimeout(ctx, loadTime)
	defer done()
	r := newReplica(v.whole, v.bytes)
	asked := time.Now()
	reached, err := v.store.Load(once, v.whole, r.learn)
	if err != nil {
		return nil, fmt.Errorf("load sessions: %w", err)
	}
	r.reached.Store(reached)
	r.fresh.Store(&asked)
	return r, nil
}

// listen finds out whether the store answers, until ctx ends.
func (v *view) listen(ctx context.Context) {
	tick := time.NewTicker(proofEvery)
	defer tick.Stop()
	for {
		once, cancel := context.WithTimeout(ctx, proofTime)
		_, err := v.store.Revision(once)
		cancel()
		if ctx.Err() != nil {
			return
		}
		v.heard(err)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// heard takes what came of asking the store for a revision. Only Run's
// goroutines call it, one at a time.
func (v *view) heard(err error) {
	if err == nil {
		v.answered = time.Now()
	}
	v.lost.Store(time.Since(v.answered) > lostAfter)
}

// prove dates the copy until ctx ends or its watch turns out to be silent.
func (v *view) prove(ctx context.Context, r *replica) error {
	tick := time.NewTicker(proofEvery)
	defer tick.Stop()
	inStepAt := time.Now() // when the watch was last found in step, or could not be judged
	for {
		asked := time.Now()
		inStep, err := v.proof(ctx, r)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		v.heard(err)
		switch {
		case err != nil:
			inStepAt = time.Now()
		case inStep:
			r.fresh.Store(&asked)
			inStepAt = time.Now()
		case time.Since(inStepAt) > silence:
			return errSilent
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// proof asks the store which revision a majority has reached, and reports
// whether r comes to have applied it. What r then holds is true as of the
// moment before this was called.
func (v *view) proof(ctx context.Context, r *replica) (inStep bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, proofTime)
	defer cancel()
	revision, err := v.store.Revision(ctx)
	if err != nil {
		return false, err
	}
	again := time.NewTicker(proofEvery / 2)
	defer again.Stop()
	nudge := true
	for step := r.next(); r.reached.Load() < revision; step = r.next() {
		if nudge {
			if err := v.store.Progress(ctx); err != nil {
				return false, nil // the store answers; it is the watch that does not
			}
		}
		select {
		case <-step:
			nudge = false
		case <-again.C:
			nudge = true
		case <-ctx.Done():
			return r.reached.Load() >= revision, nil
		}
	}
	return true, nil
}

// await waits until the copy has come to revision, so that who is told that a
// session has ended does not meet it once more at this node. It need not wait
// longer than a proof counts: every later one has come to revision.
func (v *view) await(ctx context.Context, revision int64) {
	r := v.now.Load()
	if r == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, trust)
	defer cancel()
	for step := r.next(); r.reached.Load() < revision; step = r.next() {
		select {
		case <-step:
		case <-ctx.Done():
			return
		}
	}
}

// forget drops what the copy has under d, which has ended.
func (v *view) forget(d Digest) {
	if r := v.now.Load(); r != nil {
		r.change(Change{Kind: Deleted, Digest: d}, nil)
	}
}

// find looks d up in memory alone. known is false when the copy cannot say;
// otherwise e is the session, or nil when there is none.
func (v *view) find(d Digest, now time.Time, atLeast int64) (e *entry, known bool) {
	r := v.now.Load()
	if r == nil {
		return nil, false
	}
	if _, ok := r.proven(now, trust); !ok || r.reached.Load() < atLeast {
		return nil, false
	}
	if e, ok := r.entries.get(d); ok && !e.over() {
		return e, !e.idleEnded(now)
	}
	_, absent := r.absent.GetIfPresent(d)
	return nil, absent
}

// stale is find without a majority: what was proven at most bound ago, and how
// long ago that is.
func (v *view) stale(d Digest, now time.Time, bound time.Duration, atLeast int64) (*entry, time.Duration, bool) {
	r := v.now.Load()
	if r == nil {
		return nil, 0, false
	}
	age, ok := r.proven(now, bound)
	if !ok || r.reached.Load() < atLeast {
		return nil, 0, false
	}
	e, ok := r.entries.get(d)
	return e, age, ok && !e.over()
}

// fetch reads d from the store and remembers the answer.
func (v *view) fetch(ctx context.Context, tenant string, d Digest) (Session, error) {
	r := v.now.Load()
	if r == nil {
		return v.store.Find(ctx, tenant, d)
	}
	f := r.begin(d)
	s, err := v.store.Find(ctx, tenant, d)
	var e *entry
	if err == nil && !s.Superseded() {
		e = pack(s, r.makers.of(s))
	}
	r.end(d, f, e)
	if errors.Is(err, ErrNotFound) {
		// For ever: a token is random and made by its session's write, so nobody
		// can hold one whose session is yet to come.
		r.absent.Set(d, struct{}{})
	}
	return s, err
}

// replica is one copy: what it holds, how far it has come, and when that was
// last known to be everything.
type replica struct {
	whole   bool
	entries entries
	makers  *makers
	absent  *otter.Cache[Digest, struct{}]

	reached atomic.Int64
	step    atomic.Pointer[chan struct{}] // closed, and replaced, at each step
	fresh   atomic.Pointer[time.Time]

	mu    sync.Mutex
	fills map[Digest]*fill
}

// fill is a read of one record on its way. A change that arrives meanwhile may
// be newer or older than what the read will find, so neither is kept.
type fill struct {
	readers int
	changed bool
}

func newReplica(all bool, bytes int64) *replica {
	r := &replica{
		whole: all, makers: newMakers(), fills: map[Digest]*fill{},
		absent: otter.Must(&otter.Options[Digest, struct{}]{MaximumSize: absentSize, Executor: func(work func()) { work() }}),
	}
	step := make(chan struct{})
	r.step.Store(&step)
	if all {
		r.entries = newWhole()
	} else {
		r.entries = newBounded(bytes)
	}
	return r
}

// proven tells how old the proof of r is, and whether that is at most most.
// The monotonic clock counts, and the wall clock must agree: where a whole
// machine was paused the monotonic one may not have noticed.
func (r *replica) proven(now time.Time, most time.Duration) (time.Duration, bool) {
	fresh := r.fresh.Load()
	if fresh == nil {
		return 0, false
	}
	age := now.Sub(*fresh)
	wall := time.Duration(now.UnixNano() - fresh.UnixNano())
	return max(age, wall), age <= most && wall.Abs() <= max(most, trust)
}

// learn takes one change of a load.
func (r *replica) learn(c Change) {
	switch c.Kind {
	case Epoch:
		r.makers.bump(epochName{c.Tenant, c.Verifier}, c.Revision)
	case Put:
		if s, err := c.Session(); err == nil && !s.Superseded() {
			r.entries.put(c.Digest, pack(s, r.makers.of(s)))
		}
	}
}

// apply takes the changes of a watch.
func (r *replica) apply(changes []Change, reached int64) {
	for _, c := range changes {
		if c.Kind == Epoch {
			r.makers.bump(epochName{c.Tenant, c.Verifier}, c.Revision)
			continue
		}
		r.change(c, r.written(c))
	}
	if reached > r.reached.Load() {
		r.reached.Store(reached)
	}
	step := make(chan struct{})
	close(*r.step.Swap(&step))
}

// next is closed at the next step. Take it before looking how far r has come.
func (r *replica) next() <-chan struct{} { return *r.step.Load() }

// written opens what a change wrote, nil when r does not keep it. One that does
// not open is not kept: the store will say why when it is asked for. It may
// take a while, so nothing is locked meanwhile.
func (r *replica) written(c Change) *entry {
	if c.Kind != Put {
		return nil
	}
	old, had := r.entries.get(c.Digest)
	if !had && !r.whole || had && old.revision >= c.Revision {
		return nil
	}
	s, err := c.Session()
	if err != nil || s.Superseded() {
		return nil
	}
	return pack(s, r.makers.of(s))
}

// change puts what was written, or nothing, in the place of what r holds,
// unless a read has already found something newer.
func (r *replica) change(c Change, e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.fills[c.Digest]; f != nil {
		f.changed = true
	}
	old, had := r.entries.get(c.Digest)
	switch {
	case had && c.Kind == Put && old.revision >= c.Revision:
	case e != nil:
		r.entries.put(c.Digest, e)
	case had:
		r.entries.drop(c.Digest)
	}
}

// begin announces a read of d.
func (r *replica) begin(d Digest) *fill {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.fills[d]
	if f == nil || f.changed { // a read from now on sees that change; else readers that overlap for ever keep nothing
		f = &fill{}
		r.fills[d] = f
	}
	f.readers++
	return f
}

// end takes what the read found, nil for nothing.
func (r *replica) end(d Digest, f *fill, e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.readers--; f.readers == 0 && r.fills[d] == f {
		delete(r.fills, d)
	}
	if e == nil || f.changed {
		return
	}
	if old, ok := r.entries.get(d); !ok || old.revision < e.revision {
		r.entries.put(d, e)
	}
}
