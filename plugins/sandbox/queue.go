package sandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Bounds of the queue for compiles. Each that waits holds a module in memory.
const (
	queueLength    = 16
	queuePerTenant = 4
)

// ErrQueueFull: the module was not compiled, because too many wait for that. It is
// worth another try in a minute, and says nothing about the module.
var ErrQueueFull = errors.New("the compile queue is full")

// queue lets so many compiles run at once, one of a tenant's at a time, and the
// tenants by turns: the second upload of one waits behind the first of another.
// Safe for use by many goroutines.
type queue struct {
	mu      sync.Mutex
	slots   int             // free
	running map[string]bool // tenants that hold a slot
	waiting []*waiter       // in the order of their coming
	turn    int64           // counts the slots given
	served  map[string]int64
	refused int64
}

// waiter is one that waits; start is closed once it has a slot.
type waiter struct {
	tenant string
	start  chan struct{}
}

func newQueue(slots int) *queue {
	return &queue{slots: slots, running: map[string]bool{}, served: map[string]int64{}}
}

// enter waits for a slot, as long as ctx lets it. ErrQueueFull when there is no
// place to wait in, or ctx ends; otherwise leave must be called.
func (q *queue) enter(ctx context.Context, tenant string) error {
	q.mu.Lock()
	own := 0
	for _, w := range q.waiting {
		if w.tenant == tenant {
			own++
		}
	}
	if own >= queuePerTenant || len(q.waiting) >= queueLength {
		q.refused++
		q.mu.Unlock()
		if own >= queuePerTenant {
			return fmt.Errorf("%w: %d modules of this tenant wait to be compiled; upload again when they are done", ErrQueueFull, own)
		}
		return fmt.Errorf("%w: %d modules wait to be compiled; upload again in a minute", ErrQueueFull, queueLength)
	}
	w := &waiter{tenant, make(chan struct{})}
	q.waiting = append(q.waiting, w)
	q.next()
	q.mu.Unlock()
	select {
	case <-w.start:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiting, w); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
		q.forget()
		return fmt.Errorf("%w: other modules are still being compiled; upload again in a minute: %w", ErrQueueFull, ctx.Err())
	}
	return nil // it has got its slot meanwhile
}

// leave gives a slot back.
func (q *queue) leave(tenant string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.running, tenant)
	q.slots++
	q.next()
	q.forget()
}

// next gives free slots to those whose tenants have waited longest since their
// last one. The caller holds mu.
func (q *queue) next() {
	for q.slots > 0 {
		best := -1
		for i, w := range q.waiting {
			if !q.running[w.tenant] && (best < 0 || q.served[w.tenant] < q.served[q.waiting[best].tenant]) {
				best = i
			}
		}
		if best < 0 {
			return
		}
		w := q.waiting[best]
		q.waiting = slices.Delete(q.waiting, best, best+1)
		q.slots--
		q.running[w.tenant] = true
		q.turn++
		q.served[w.tenant] = q.turn
		close(w.start)
	}
}

// forget drops whose turn it was once nobody waits, so that it has no more
// entries than tenants came during one rush. The caller holds mu.
func (q *queue) forget() {
	if len(q.waiting) == 0 {
		clear(q.served)
	}
}

// counts tells how many wait and how many were turned away.
func (q *queue) counts() (waiting int, refused int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting), q.refused
}
