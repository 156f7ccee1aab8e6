package main

import (
	"math"
	"testing"
	"time"
)

func TestPercentilesOfAKnownDistribution(t *testing.T) {
	s := newSpread()
	for i := 100_000; i >= 1; i-- { // 1 µs … 100 ms, evenly
		s.add(time.Duration(i) * time.Microsecond)
	}
	got := s.percentiles()
	for _, c := range []struct {
		name      string
		got, want float64
	}{
		{"p50", float64(got.P50), 50_000}, {"p90", float64(got.P90), 90_000}, {"p99", float64(got.P99), 99_000},
		{"p99.9", float64(got.P999), 99_900}, {"max", float64(got.Max), 100_000}, {"mean", got.Mean, 50_000.5}, {"n", float64(got.N), 100_000},
	} {
		if math.Abs(c.got/c.want-1) > 0.001 {
			t.Errorf("%s is %g, not %g", c.name, c.got, c.want)
		}
	}
}

func TestOneSlowAnswerIsTheMaximumAndNotTheMedian(t *testing.T) {
	s := newSpread()
	for range 999 {
		s.add(300 * time.Nanosecond) // rounded up: nothing takes no time
	}
	s.add(7 * time.Second)
	got := s.percentiles()
	if got.P50 != 1 || got.P99 != 1 || math.Abs(float64(got.Max)/7e6-1) > 0.001 {
		t.Errorf("%+v", got)
	}
}

func TestWhatIsOutOfRangeIsKeptAtItsEnd(t *testing.T) {
	s := newSpread()
	s.add(-time.Second)
	s.add(48 * time.Hour)
	if got := s.percentiles(); got.N != 2 || got.P50 > 1 || math.Abs(float64(got.Max)/3.6e9-1) > 0.001 {
		t.Errorf("%+v", got)
	}
	if got := newSpread().percentiles(); got != (percentiles{}) {
		t.Errorf("of nothing: %+v", got)
	}
}

func TestAnswersAreCountedByStatusAndCodeAndWhetherTheyWereRight(t *testing.T) {
	r, now := newRecorder(), time.Now()
	for range 3 {
		r.add(outcome{op: "hit", answer: answer{200, ""}, right: true}, now, now, now)
	}
	r.add(outcome{op: "hit", answer: answer{503, "unavailable"}}, now, now, now)
	r.add(outcome{op: "hit", answer: answer{0, "timeout"}}, now, now, now)
	r.add(outcome{none: true}, now, now, now)
	r.add(outcome{op: "negative", answer: answer{401, noSession}, right: true}, now, now, now)
	want := []answerCount{
		{"hit", 200, "", true, 3}, {"hit", 0, "timeout", false, 1}, {"hit", 503, "unavailable", false, 1},
		{"negative", 401, noSession, true, 1},
	}
	got := r.counts()
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%+v, want %+v", got[i], want[i])
		}
	}
	if r.right != 4 || r.wrong != 2 || r.none != 1 || r.unanswered() != 1 || r.latency.percentiles().N != 6 {
		t.Errorf("%d right, %d wrong, %d none", r.right, r.wrong, r.none)
	}
	twice := newRecorder()
	twice.merge(r)
	twice.merge(r)
	if twice.right != 8 || twice.none != 2 || twice.counts()[0].N != 6 || twice.ops["hit"].percentiles().N != 10 {
		t.Errorf("merged: %+v", twice.counts())
	}
}
