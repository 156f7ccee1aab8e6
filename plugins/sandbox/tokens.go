package sandbox

import (
	"context"
	"sync"
)

// Tokens bound how much of one kind of work is done at once, in all and for one
// tenant: whoever computes for as long as it may leaves a core to the others.
// Safe for use by many goroutines.
type Tokens struct {
	all       chan struct{}
	perTenant int

	mu    sync.Mutex
	held  map[string]int
	freed chan struct{}
}

// NewTokens returns so many tokens in all, of which one tenant may hold so many.
func NewTokens(all, perTenant int) *Tokens {
	return &Tokens{all: make(chan struct{}, all), perTenant: perTenant, held: map[string]int{}, freed: make(chan struct{})}
}

// Take waits for a token until ctx ends, and then returns its error.
func (t *Tokens) Take(ctx context.Context, tenant string) error {
	for {
		t.mu.Lock()
		freed := t.freed
		if t.held[tenant] < t.perTenant {
			t.held[tenant]++
			t.mu.Unlock()
			break
		}
		t.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	select {
	case t.all <- struct{}{}:
		return nil
	case <-ctx.Done():
		t.release(tenant)
		return ctx.Err()
	}
}

// Give gives a token back.
func (t *Tokens) Give(tenant string) {
	<-t.all
	t.release(tenant)
}

func (t *Tokens) release(tenant string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held[tenant]--; t.held[tenant] == 0 {
		delete(t.held, tenant)
	}
	close(t.freed)
	t.freed = make(chan struct{})
}
