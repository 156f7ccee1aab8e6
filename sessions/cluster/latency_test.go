package cluster

import (
	"math"
	"testing"
	"time"
)

// counts is a cumulative histogram of so many quick ones and so many slow ones.
func counts(quick, slow uint64) map[float64]uint64 {
	return map[float64]uint64{0.004: quick, 0.256: quick + slow, 1.024: quick + slow, math.Inf(1): quick + slow}
}

// A disk that became slow once hid behind an hour of quick syncs, and one that
// was slow an hour ago was called sick for ever.
func TestALatencyIsOfTheLastMinute(t *testing.T) {
	var l latency
	if l.p99() != 0 {
		t.Error("something before anything")
	}
	l.note(counts(1_000_000, 0))
	if l.p99() != 0 {
		t.Error("what was before the first sample counts")
	}
	l.note(counts(1_000_100, 0))
	if got := l.p99(); got != 4*time.Millisecond {
		t.Errorf("quick ones: %v", got)
	}
	l.note(counts(1_000_200, 10))
	if got := l.p99(); got != 256*time.Millisecond {
		t.Errorf("ten slow of 210: %v", got)
	}
	for i := range uint64(samples + 1) {
		l.note(counts(1_000_200+1000*i, 10))
	}
	if got := l.p99(); got != 4*time.Millisecond {
		t.Errorf("a minute later: %v", got)
	}
	l.note(map[float64]uint64{0.004: 1_006_200, 0.256: 1_006_210, 1.024: 1_006_210, math.Inf(1): 1_106_210})
	if got := l.p99(); got != 1024*time.Millisecond {
		t.Errorf("above all bounds: %v", got)
	}
}
