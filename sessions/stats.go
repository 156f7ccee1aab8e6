package sessions

import (
	"sync/atomic"
	"time"
)

// counts is what a Manager has seen.
type counts struct{ memory, store, degraded, reused atomic.Int64 }

// Stats is what operators may want to see of a Manager.
type Stats struct {
	FromMemory int64         // finds answered without a read
	FromStore  int64         // finds that read the store, or could not
	Degraded   int64         // finds answered without a majority
	Reused     int64         // sessions ended because an old token was used again
	Held       int           // sessions in memory
	ProofAge   time.Duration // how old the proof of what is in memory is; negative when there is none
}

// Stats reports what m has seen since it was made.
func (m *Manager) Stats() Stats {
	s := Stats{
		FromMemory: m.counts.memory.Load(), FromStore: m.counts.store.Load(),
		Degraded: m.counts.degraded.Load(), Reused: m.counts.reused.Load(), ProofAge: -1,
	}
	if m.view == nil {
		return s
	}
	if r := m.view.now.Load(); r != nil {
		s.Held = r.entries.len()
		s.ProofAge = time.Since(*r.fresh.Load())
	}
	return s
}
