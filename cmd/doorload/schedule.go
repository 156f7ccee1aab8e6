package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// schedule says when requests are due, whatever becomes of them. Its time runs
// only while its side is under load, so that slices of two sides can take turns
// without either losing or doubling an arrival.
type schedule struct {
	mu   sync.Mutex
	gap  func() time.Duration
	next time.Duration // when the next arrival is due, in the schedule's own time
	n    int           // how many have been taken
	most int           // how many there are at most
}

// newSchedule makes one with rate arrivals a second, at most most of them:
// "constant" spaces them evenly, "poisson" as independent callers would come.
// The seed decides the whole course of a poisson schedule.
func newSchedule(arrivals string, rate float64, most int, seed uint64) (*schedule, error) {
	mean := float64(time.Second) / rate
	s := &schedule{most: most}
	switch arrivals {
	case "constant":
		// From the count, not by adding up: rounding must not change the rate.
		i := 0.0
		s.gap = func() time.Duration { i++; return time.Duration(i*mean) - time.Duration((i-1)*mean) }
	case "poisson":
		random := rand.New(rand.NewPCG(seed, 1))
		s.gap = func() time.Duration { return time.Duration(random.ExpFloat64() * mean) }
		s.next = s.gap()
	default:
		return nil, fmt.Errorf("arrivals are constant or poisson, not %q", arrivals)
	}
	return s, nil
}

// take returns the next arrival that is due before until, and when.
func (s *schedule) take(until time.Duration) (n int, due time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n >= s.most || s.next >= until {
		return 0, 0, false
	}
	n, due = s.n, s.next
	s.n++
	s.next += s.gap()
	return n, due, true
}

// exhausted reports that there are no more arrivals.
func (s *schedule) exhausted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n >= s.most
}

// lateAfter is how far behind its schedule a request may start without being
// called late.
const lateAfter = time.Millisecond

// tally counts arrivals. Every arrival that was due was sent or dropped.
type tally struct {
	Due     int `json:"due"`
	Sent    int `json:"sent"`
	Late    int `json:"late"`    // of those sent: started more than lateAfter behind
	Dropped int `json:"dropped"` // not sent: the window had ended before one of those in flight was through
}

func (t *tally) add(u tally) {
	t.Due += u.Due
	t.Sent += u.Sent
	t.Late += u.Late
	t.Dropped += u.Dropped
}

// fire calls do at each arrival of plan between from and from+window of the
// plan's time, with at most inFlight running. An arrival that finds all of them
// busy starts late, and do is told when it should have been. What is still
// waiting when the window ends is dropped, or an overloaded server would keep
// the run from ending. Fire returns when the window is over, or the plan is, and
// the last do has returned. When ctx ends it starts no more.
func fire(ctx context.Context, plan *schedule, from, window time.Duration, inFlight int, do func(n int, due time.Time)) tally {
	var sent, late, dropped atomic.Int64
	start := time.Now()
	var all sync.WaitGroup
	for range inFlight {
		all.Go(func() {
			for {
				n, offset, ok := plan.take(from + window)
				if !ok {
					return
				}
				due := start.Add(offset - from)
				free := time.Until(due) > 0
				if !sleepUntil(ctx, due) {
					return
				}
				if !free && time.Since(start) > window {
					dropped.Add(1)
					continue
				}
				if time.Since(due) > lateAfter {
					late.Add(1)
				}
				sent.Add(1)
				do(n, due)
			}
		})
	}
	all.Wait()
	if !plan.exhausted() {
		sleepUntil(ctx, start.Add(window))
	}
	t := tally{Sent: int(sent.Load()), Late: int(late.Load()), Dropped: int(dropped.Load())}
	t.Due = t.Sent + t.Dropped
	return t
}

// coarse is how far off the runtime's timers may be when the program is idle:
// they wait in whole milliseconds (epoll_wait(2)), which half a millisecond in
// every latency at low rates came from.
const coarse = 1200 * time.Microsecond

// sleepUntil reports whether it is then, rather than that ctx has ended.
func sleepUntil(ctx context.Context, then time.Time) bool {
	if wait := time.Until(then) - coarse; wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return false
		}
	}
	// The rest is the kernel's, which is some 60 µs off.
	if rest := time.Until(then); rest > 0 {
		left := syscall.NsecToTimespec(rest.Nanoseconds())
		for syscall.Nanosleep(&left, &left) == syscall.EINTR {
		}
	}
	// The kernel does not know of a test's own time.
	time.Sleep(time.Until(then))
	return ctx.Err() == nil
}
