package main

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write testdata anew")

// made is a side with figures that a reader can check.
func made(rate int, latency, used time.Duration, perRound ...float64) *side {
	s := &side{door: &door{base: "http://127.0.0.1:8480/t/demo"}, pid: 1, record: newRecorder(), perRound: perRound,
		tally: tally{Due: rate + 1, Sent: rate, Late: 2, Dropped: 1}, elapsed: 10 * time.Second, used: used, opened: 3}
	due := time.Now()
	for range rate {
		s.record.add(outcome{op: "hit", answer: answer{200, ""}, right: true}, due, due.Add(latency/2), due.Add(latency))
	}
	return s
}

func TestTheRatioIsOfWhatEachRequestCost(t *testing.T) {
	bare := made(1000, 200*time.Microsecond, 100*time.Millisecond, 90, 110, 0, 100)
	again := made(500, 200*time.Microsecond, 55*time.Millisecond, 110, 110, 100, 110)
	target := made(2000, 500*time.Microsecond, 300*time.Millisecond, 150, 110, 150, 210)

	r := ratioOf(target, bare)
	if r.CPU.Overall != 1.5 || r.P50 != 2.5 || r.Mean != 2.5 || r.Throughput != 2 {
		t.Errorf("%+v", r)
	}
	// 150/90, 110/110, none, 210/100
	if r.CPU.Min != 1 || r.CPU.Max != 2.1 || r.CPU.Median != 150.0/90 {
		t.Errorf("%+v", r.CPU)
	}
	if r := ratioOf(again, bare); r.CPU.Overall != 1.1 || !r.holds() {
		t.Errorf("%+v", r.CPU)
	}
	// Both halves: 155 ms for 1500 requests.
	both := bare.with(again)
	if r := ratioOf(target, both); r.CPU.Overall < 1.4516 || r.CPU.Overall > 1.4517 || r.CPU.Min != 1 {
		t.Errorf("%+v", r.CPU)
	}
	if bare.tally.Sent != 1000 || bare.record.right != 1000 {
		t.Error("the halves were changed by adding them up")
	}
}

func TestABaselineThatDoesNotAgreeWithItselfMakesTheRatioWorthless(t *testing.T) {
	for figure, holds := range map[float64]bool{0: false, 0.89: false, 0.9: true, 1: true, 1.1: true, 1.11: false} {
		if r := (&ratioReport{P50: 1, CPU: &roundRatio{Overall: figure}}); r.holds() != holds {
			t.Errorf("by CPU %g: %v", figure, !holds)
		}
		if r := (&ratioReport{P50: figure}); r.holds() != holds {
			t.Errorf("by latency %g: %v", figure, !holds)
		}
	}
	noisy, sides := report{}, []*side{made(10, time.Millisecond, 100*time.Millisecond, 100), made(10, time.Millisecond, 100*time.Millisecond, 100), made(10, time.Millisecond, 150*time.Millisecond, 150)}
	noisy.compare(sides)
	o := options{maxErrors: -1, maxDropped: -1, maxCPURatio: 5}
	if got := o.missed(&noisy); len(got) != 1 {
		t.Errorf("a ratio that does not count passed a threshold: %q", got)
	}
}

func TestThresholdsThatAreNotHeldAreNamed(t *testing.T) {
	r := report{Target: made(1000, 20*time.Millisecond, 0, 1).report()}
	r.Target.Wrong = 3
	for name, c := range map[string]struct {
		o      options
		missed int
	}{
		"none given":       {options{maxErrors: -1, maxDropped: -1}, 0},
		"all held":         {options{maxErrors: 3, maxDropped: 1, maxP99: 21 * time.Millisecond}, 0},
		"all missed":       {options{maxErrors: 2, maxDropped: 0, maxP99: 19 * time.Millisecond, maxCPURatio: 1}, 4},
		"errors alone are": {options{maxErrors: 0, maxDropped: -1}, 1},
	} {
		if got := c.o.missed(&r); len(got) != c.missed {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := (&options{maxErrors: -1, maxDropped: -1, maxP99: time.Second}).missed(&report{Target: &sideReport{}}); len(got) != 1 {
		t.Errorf("no answer at all is no short latency: %q", got)
	}
}

// The JSON is read by others' programs: members are added, never renamed.
func TestTheReportKeepsItsForm(t *testing.T) {
	bare, target, again := made(1000, 200*time.Microsecond, 100*time.Millisecond, 100), made(1000, 300*time.Microsecond, 150*time.Millisecond, 150), made(1000, 200*time.Microsecond, 105*time.Millisecond, 105)
	target.record.note(outcome{op: "hit", answer: answer{503, "unavailable"}})
	r := report{
		Doorload: 1, Mode: "validate", StartedAt: time.Date(2026, 11, 25, 7, 0, 0, 0, time.UTC),
		Plan:   planReport{Rate: 100, Arrivals: "poisson", DurationMS: 30_000, Requests: 1_000_000, MaxInFlight: 64, Seed: 1, Sessions: 500, Rounds: 10, SliceMS: 1000},
		Client: clientReport{PerRequest: 61.5, Cores: 0.25, Of: 2},
		Missed: []string{"--max-errors 0: 1 answers were wrong"},
	}
	r.compare([]*side{bare, target, again})
	v := newRevocation()
	v.at, v.other = &door{base: "http://127.0.0.1:1/t/demo"}, &door{base: "http://127.0.0.1:2/t/demo"}
	v.refused.add(7 * time.Millisecond)
	r.Revoke = v.result(tally{Due: 1, Sent: 1}, 10*time.Second)

	file := filepath.Join(t.TempDir(), "report.json")
	text, err := os.CreateTemp(t.TempDir(), "text")
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	if err := r.write(text, file); err != nil {
		t.Fatal(err)
	}
	for golden, written := range map[string]string{"testdata/report.json": file, "testdata/report.txt": text.Name()} {
		got, err := os.ReadFile(written)
		if err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-update writes it anew):\n%s", golden, diff)
		}
	}
}
