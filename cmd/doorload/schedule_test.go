package main

import (
	"context"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func plan(t *testing.T, arrivals string, rate float64, most int) *schedule {
	t.Helper()
	s, err := newSchedule(arrivals, rate, most, 1)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAConstantScheduleKeepsItsRateWhereAGapIsNoWholeNanosecond(t *testing.T) {
	s := plan(t, "constant", 3, 1_000_000)
	n := 0
	for {
		_, due, ok := s.take(1000 * time.Second)
		if !ok {
			break
		}
		if want := time.Duration(float64(n) * 1e9 / 3); (due - want).Abs() > time.Nanosecond {
			t.Fatalf("arrival %d is due at %s, not at %s", n, due, want)
		}
		n++
	}
	if n != 3000 {
		t.Errorf("%d arrivals in 1000 s at 3 a second", n)
	}
}

func TestPoissonGapsHaveTheMeanAndTheSpreadOfIndependentCallers(t *testing.T) {
	s := plan(t, "poisson", 1000, 200_000)
	var last time.Duration
	var sum, squares float64
	n := 0
	for {
		_, due, ok := s.take(time.Hour)
		if !ok {
			break
		}
		gap := (due - last).Seconds()
		last = due
		sum += gap
		squares += gap * gap
		n++
	}
	mean := sum / float64(n)
	deviation := math.Sqrt(squares/float64(n) - mean*mean)
	if n != 200_000 || math.Abs(mean*1000-1) > 0.01 || math.Abs(deviation/mean-1) > 0.02 {
		t.Errorf("%d gaps of %.6f s on average, deviation %.6f: an exponential's are equal, 0.001", n, mean, deviation)
	}
}

func TestASeedDecidesTheSchedule(t *testing.T) {
	a, b := plan(t, "poisson", 100, 100), plan(t, "poisson", 100, 100)
	other, err := newSchedule("poisson", 100, 100, 2)
	if err != nil {
		t.Fatal(err)
	}
	differs := false
	for range 100 {
		_, x, _ := a.take(time.Hour)
		_, y, _ := b.take(time.Hour)
		_, z, _ := other.take(time.Hour)
		if x != y {
			t.Fatalf("one seed, two schedules: %s and %s", x, y)
		}
		differs = differs || x != z
	}
	if !differs {
		t.Error("another seed gives the same schedule")
	}
}

// shots records when arrivals were due and begun.
type shots struct {
	mu    sync.Mutex
	n     []int
	due   []time.Time
	begun []time.Time
}

func (s *shots) add(n int, due time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n, s.due, s.begun = append(s.n, n), append(s.due, due), append(s.begun, time.Now())
}

func TestArrivalsStartWhenTheyAreDueHoweverSlowTheAnswersAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got shots
		start := time.Now()
		counts := fire(t.Context(), plan(t, "constant", 10, 1000), 0, time.Second, 100, func(n int, due time.Time) {
			got.add(n, due)
			time.Sleep(5 * time.Second) // longer than the whole window
		})
		if want := (tally{Due: 10, Sent: 10}); counts != want {
			t.Errorf("%+v, want %+v", counts, want)
		}
		for i, begun := range got.begun {
			if begun != got.due[i] || begun.Sub(start) != time.Duration(got.n[i])*100*time.Millisecond {
				t.Errorf("arrival %d was due at %s and begun at %s", got.n[i], got.due[i].Sub(start), begun.Sub(start))
			}
		}
		if took := time.Since(start); took != 900*time.Millisecond+5*time.Second {
			t.Errorf("it returned after %s, not with the last answer", took)
		}
	})
}

func TestAStallIsSeenByAllWhoWouldHaveComeMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		record := newRecorder()
		counts := fire(t.Context(), plan(t, "constant", 100, 1000), 0, 2*time.Second, 1, func(n int, due time.Time) {
			sent := time.Now()
			if n == 0 {
				time.Sleep(time.Second)
			} else {
				time.Sleep(time.Millisecond)
			}
			record.add(outcome{op: "x", right: true}, due, sent, time.Now())
		})
		// One stall of a second: the 100 arrivals due meanwhile waited 500 ms on
		// average, which the times from sending do not show at all.
		latency, service := record.latency.percentiles(), record.service.percentiles()
		if latency.P50 < 50_000 || latency.P90 < 700_000 {
			t.Errorf("latencies hide the stall: %s", latency)
		}
		if service.P99 > 1_010 {
			t.Errorf("from sending: %s", service)
		}
		if counts.Due != 200 || counts.Sent != 200 || counts.Late < 100 || counts.Dropped != 0 {
			t.Errorf("%+v", counts)
		}
	})
}

func TestWhatCannotBeSentInTimeIsCountedAsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		counts := fire(t.Context(), plan(t, "constant", 200, 1000), 0, time.Second, 1, func(int, time.Time) {
			time.Sleep(10 * time.Millisecond) // 100 a second go through
		})
		if counts.Due != 200 || counts.Sent+counts.Dropped != 200 || counts.Sent < 100 || counts.Sent > 101 {
			t.Errorf("%+v", counts)
		}
		if took := time.Since(start); took > 1020*time.Millisecond {
			t.Errorf("an overloaded target kept the run from ending: %s", took)
		}
	})
}

func TestNoMoreAreInFlightThanAllowedAndNoMoreAreSentThanAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var now, most int
		counts := fire(t.Context(), plan(t, "poisson", 1000, 50), 0, time.Minute, 7, func(int, time.Time) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			now--
			mu.Unlock()
		})
		if most != 7 || counts.Sent != 50 {
			t.Errorf("%d were in flight at once, %d sent", most, counts.Sent)
		}
	})
}

func TestAnEndedRunStartsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 350*time.Millisecond)
		defer cancel()
		start := time.Now()
		counts := fire(ctx, plan(t, "constant", 10, 1000), 0, time.Hour, 4, func(int, time.Time) {})
		if counts.Sent != 4 || time.Since(start) != 350*time.Millisecond {
			t.Errorf("%+v after %s", counts, time.Since(start))
		}
	})
}

func TestSlicesOfAScheduleLoseAndDoubleNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// One arrival every 2.5 slices, and a pause between two slices.
		s := plan(t, "constant", 0.4, 1000)
		var got shots
		var sum tally
		for i := range 10 {
			start := time.Now()
			sum.add(fire(t.Context(), s, time.Duration(i)*time.Second, time.Second, 2, got.add))
			if took := time.Since(start); took != time.Second {
				t.Errorf("slice %d took %s", i, took)
			}
			time.Sleep(3 * time.Second)
		}
		if sum.Sent != 4 || len(got.n) != 4 || got.n[3] != 3 {
			t.Errorf("%+v: %v", sum, got.n)
		}
	})
}

func TestTurnsGiveEachSideTheSame(t *testing.T) {
	for _, c := range []struct {
		duration, slice time.Duration
		sides           int
		want            turns
	}{
		{10 * time.Second, time.Second, 1, turns{1, 10 * time.Second, 9}},
		{9 * time.Second, time.Second, 3, turns{3, time.Second, 9}},
		{12 * time.Second, 5 * time.Second, 3, turns{1, 4 * time.Second, 9}},
		{time.Second, time.Second, 3, turns{1, time.Second / 3, 9}},
	} {
		if got := turnsOf(c.duration, c.slice, c.sides, 9); got != c.want {
			t.Errorf("%s in slices of %s for %d: %+v", c.duration, c.slice, c.sides, got)
		}
	}
}
