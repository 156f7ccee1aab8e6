package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/sessions"
)

// outcome is what becomes of a write, and of what its caller is told.
type outcome int

const (
	answered outcome = iota // made, and said so
	madeMute                // made, but the caller is told ErrUnavailable
	lostMute                // not made, and the caller is told ErrUnavailable
)

// link is one node's way to a store that all nodes share. What goes wrong on
// it goes wrong for that node alone. What it hands on is the real Memory's.
type link struct {
	*sessions.Memory

	mu       sync.Mutex
	dark     bool          // no majority: calls wait until their time is over
	refuse   bool          // no majority, and it says so at once
	silent   bool          // the watch delivers nothing, and nobody says so
	noted    bool          // progress without changes is swallowed
	delay    time.Duration // how late the watch delivers
	slow     time.Duration // how long a read takes after the store answered it
	fate     func() outcome
	woken    chan struct{}   // closed, and replaced, when any of these changes
	cuts     []func(error)   // ends the watches
	asked    map[string]int  // calls by method
	found    func(err error) // called between the store's answer to Find and its return
	loadLong time.Duration   // how long Load takes after it read
	hold     bool            // no new watch begins
	trimmed  atomic.Int64    // watches that were told their revision is gone
}

func newLink(m *sessions.Memory) *link {
	return &link{Memory: m, woken: make(chan struct{}), asked: map[string]int{}}
}

// set changes what goes wrong.
func (l *link) set(change func(l *link)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l)
	close(l.woken)
	l.woken = make(chan struct{})
}

// heal ends everything that goes wrong.
func (l *link) heal() {
	l.set(func(l *link) {
		l.dark, l.refuse, l.silent, l.noted, l.hold = false, false, false, false, false
		l.delay, l.slow, l.loadLong, l.fate, l.found = 0, 0, 0, nil, nil
	})
}

// cut ends every watch with an error.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, end := range l.cuts {
		end(errors.New("stream reset"))
	}
	l.cuts = nil
}

func (l *link) calls(method string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked[method]
}

// ask begins a call: it is counted, and without a majority it waits for
// nothing.
func (l *link) ask(ctx context.Context, method string) error {
	l.mu.Lock()
	l.asked[method]++
	dark, refuse := l.dark, l.refuse
	l.mu.Unlock()
	if dark {
		<-ctx.Done()
		return fmt.Errorf("%s: %w: %w", method, sessions.ErrUnavailable, ctx.Err())
	}
	if refuse {
		return fmt.Errorf("%s: %w: no leader", method, sessions.ErrUnavailable)
	}
	return nil
}

// write makes one, or does not, and tells, or does not.
func (l *link) write(ctx context.Context, method string, make func() error) error {
	if err := l.ask(ctx, method); err != nil {
		return err
	}
	l.mu.Lock()
	fate := answered
	if l.fate != nil {
		fate = l.fate()
	}
	l.mu.Unlock()
	if fate != lostMute {
		if err := make(); err != nil || fate == answered {
			return err
		}
	}
	return fmt.Errorf("%s: %w: no answer", method, sessions.ErrUnavailable)
}

// pause is the time an answer takes on its way.
func (l *link) pause(ctx context.Context) error {
	l.mu.Lock()
	slow := l.slow
	l.mu.Unlock()
	if slow == 0 {
		return nil
	}
	select {
	case <-time.After(slow):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("answer: %w: %w", sessions.ErrUnavailable, ctx.Err())
	}
}

func (l *link) Create(ctx context.Context, c sessions.Creation) (revision int64, err error) {
	err = l.write(ctx, "Create", func() error { revision, err = l.Memory.Create(ctx, c); return err })
	return revision, err
}

func (l *link) Touch(ctx context.Context, d sessions.Digest, s sessions.Session) (revision int64, err error) {
	err = l.write(ctx, "Touch", func() error { revision, err = l.Memory.Touch(ctx, d, s); return err })
	return revision, err
}

func (l *link) Rotate(ctx context.Context, r sessions.Rotation) (revision int64, err error) {
	err = l.write(ctx, "Rotate", func() error { revision, err = l.Memory.Rotate(ctx, r); return err })
	return revision, err
}

func (l *link) Delete(ctx context.Context, tenant string, d sessions.Digest) (revision int64, found bool, err error) {
	err = l.write(ctx, "Delete", func() error { revision, found, err = l.Memory.Delete(ctx, tenant, d); return err })
	return revision, found, err
}

func (l *link) DeleteID(ctx context.Context, tenant string, id sessions.ID) (revision int64, found bool, err error) {
	err = l.write(ctx, "DeleteID", func() error { revision, found, err = l.Memory.DeleteID(ctx, tenant, id); return err })
	return revision, found, err
}

func (l *link) DeleteAll(ctx context.Context, tenant string, f sessions.Filter, except, after sessions.ID, limit int) (r sessions.Removal, err error) {
	err = l.write(ctx, "DeleteAll", func() error {
		r, err = l.Memory.DeleteAll(ctx, tenant, f, except, after, limit)
		return err
	})
	return r, err
}

func (l *link) BumpEpoch(ctx context.Context, tenant string, f sessions.Filter) (revision int64, err error) {
	err = l.write(ctx, "BumpEpoch", func() error { revision, err = l.Memory.BumpEpoch(ctx, tenant, f); return err })
	return revision, err
}

func (l *link) RemoveTenant(ctx context.Context, tenant string) error {
	return l.write(ctx, "RemoveTenant", func() error { return l.Memory.RemoveTenant(ctx, tenant) })
}

func (l *link) Find(ctx context.Context, tenant string, d sessions.Digest) (sessions.Session, error) {
	if err := l.ask(ctx, "Find"); err != nil {
		return sessions.Session{}, err
	}
	s, err := l.Memory.Find(ctx, tenant, d)
	l.mu.Lock()
	found := l.found
	l.mu.Unlock()
	if found != nil {
		found(err)
	}
	if late := l.pause(ctx); late != nil {
		return sessions.Session{}, late
	}
	return s, err
}

func (l *link) FindID(ctx context.Context, tenant string, id sessions.ID) (sessions.Session, error) {
	if err := l.ask(ctx, "FindID"); err != nil {
		return sessions.Session{}, err
	}
	s, err := l.Memory.FindID(ctx, tenant, id)
	if late := l.pause(ctx); late != nil {
		return sessions.Session{}, late
	}
	return s, err
}

func (l *link) List(ctx context.Context, tenant string, f sessions.Filter, after sessions.ID, limit int) ([]sessions.Session, sessions.ID, error) {
	if err := l.ask(ctx, "List"); err != nil {
		return nil, "", err
	}
	list, next, err := l.Memory.List(ctx, tenant, f, after, limit)
	if late := l.pause(ctx); late != nil {
		return nil, "", late
	}
	return list, next, err
}

func (l *link) Count(ctx context.Context, tenant string, f sessions.Filter) (int, error) {
	if err := l.ask(ctx, "Count"); err != nil {
		return 0, err
	}
	if late := l.pause(ctx); late != nil {
		return 0, late
	}
	return l.Memory.Count(ctx, tenant, f)
}

func (l *link) Revision(ctx context.Context) (int64, error) {
	if err := l.ask(ctx, "Revision"); err != nil {
		return 0, err
	}
	revision, err := l.Memory.Revision(ctx)
	if late := l.pause(ctx); late != nil {
		return 0, late
	}
	return revision, err
}

func (l *link) Load(ctx context.Context, records bool, apply func(sessions.Change)) (int64, error) {
	if err := l.ask(ctx, "Load"); err != nil {
		return 0, err
	}
	revision, err := l.Memory.Load(ctx, records, apply)
	l.mu.Lock()
	long := l.loadLong
	l.mu.Unlock()
	select {
	case <-time.After(long):
	case <-ctx.Done():
		return 0, fmt.Errorf("load: %w: %w", sessions.ErrUnavailable, ctx.Err())
	}
	return revision, err
}

func (l *link) Progress(ctx context.Context) error {
	l.mu.Lock()
	noted := l.noted
	l.mu.Unlock()
	if noted {
		return nil
	}
	return l.Memory.Progress(ctx)
}

// letter is one delivery of a watch.
type letter struct {
	changes []sessions.Change
	reached int64
	due     time.Time
}

// Watch hands on what Memory's watch delivers: in order, when it is due, and
// not while the link is silent.
func (l *link) Watch(ctx context.Context, revision int64, apply func([]sessions.Change, int64)) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var (
		mail   []letter
		posted = make(chan struct{}, 1)
		done   = make(chan error, 1)
	)
	l.mu.Lock()
	l.asked["Watch"]++
	l.cuts = append(l.cuts, end)
	for l.hold {
		woken := l.woken
		l.mu.Unlock()
		select {
		case <-woken:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		l.mu.Lock()
	}
	l.mu.Unlock()
	go func() {
		done <- l.Memory.Watch(ctx, revision, func(changes []sessions.Change, reached int64) {
			l.mu.Lock()
			if len(changes) > 0 || !l.noted {
				mail = append(mail, letter{changes, reached, time.Now().Add(l.delay)})
			}
			l.mu.Unlock()
			select {
			case posted <- struct{}{}:
			default:
			}
		})
	}()
	for {
		l.mu.Lock()
		silent, woken := l.silent, l.woken
		var due <-chan time.Time
		var next *letter
		if len(mail) > 0 && !silent {
			if wait := time.Until(mail[0].due); wait > 0 {
				due = time.After(wait)
			} else {
				next = &mail[0]
				mail = mail[1:]
			}
		}
		l.mu.Unlock()
		if next != nil {
			apply(next.changes, next.reached)
			continue
		}
		select {
		case <-posted:
		case <-due:
		case <-woken:
		case err := <-done:
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			l.trimmed.Add(1)
			return err
		}
	}
}

// node is a Manager on a link of its own.
type node struct {
	*sessions.Manager
	link *link
	mode sessions.Mode
}

// cluster runs nodes over one Memory, in the modes given, until the returned
// function is called. It returns when each may answer from its copy.
func cluster(ctx context.Context, memory *sessions.Memory, modes ...sessions.Mode) ([]*node, func() error) {
	ctx, cancel := context.WithCancel(ctx)
	var nodes []*node
	done := make(chan error)
	for _, mode := range modes {
		l := newLink(memory)
		n := &node{sessions.New(l, memory, sessions.Config{Mode: mode}), l, mode}
		nodes = append(nodes, n)
		go func() { done <- n.Run(ctx) }()
	}
	for _, n := range nodes {
		if err := n.WaitReady(ctx); err != nil {
			panic(err)
		}
	}
	return nodes, func() error {
		cancel()
		var all error
		for range nodes {
			if err := <-done; !errors.Is(err, context.Canceled) {
				all = errors.Join(all, fmt.Errorf("a node ended with: %w", err))
			}
		}
		return all
	}
}

// inCluster runs test with nodes in the modes given, in fake time, with their
// first proofs behind them.
func inCluster(t *testing.T, test func(t *testing.T, nodes []*node), modes ...sessions.Mode) {
	synctest.Test(t, func(t *testing.T) {
		nodes, end := cluster(t.Context(), sessions.NewMemory(), modes...)
		defer func() {
			for _, n := range nodes {
				n.link.heal()
			}
			if err := end(); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		test(t, nodes)
	})
}

// fates draws outcomes from a source of its own, so that a seed tells them.
func fates(seed uint64) func() outcome {
	source := rand.New(rand.NewPCG(seed, 1))
	return func() outcome {
		switch source.IntN(4) {
		case 0:
			return madeMute
		case 1:
			return lostMute
		}
		return answered
	}
}
