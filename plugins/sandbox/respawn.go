package sandbox

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Pauses before another worker is started after some that died before they had
// loaded anything: on a broken machine each costs a fork and an exec. The first
// few in a row cost no pause: a module that ends its worker by being loaded looks
// the same, and is quarantined before it has ended more.
const (
	respawnFree  = 4
	respawnFirst = 100 * time.Millisecond
	respawnMost  = 30 * time.Second
)

// respawn keeps that pause. Safe for use by many goroutines.
type respawn struct {
	mu    sync.Mutex
	fails int // in a row
	until time.Time
	total int64
}

// failed notes a worker that died at its start, and returns how long no other
// is started: twice as long each time, between half of that and all of it.
func (r *respawn) failed() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fails++
	r.total++
	if r.fails <= respawnFree {
		return 0
	}
	pause := min(respawnFirst<<min(r.fails-respawnFree-1, 10), respawnMost)
	pause = pause/2 + rand.N(pause/2+1)
	r.until = time.Now().Add(pause)
	return pause
}

// worked notes a worker that loaded or ran something.
func (r *respawn) worked() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fails, r.until = 0, time.Time{}
}

// left is how long no worker is started, 0 or less when one may be.
func (r *respawn) left() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Until(r.until)
}

func (r *respawn) count() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total
}
