package main

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latencies are kept in microseconds with three significant digits: a reported
// percentile is at most 0.1 % off.
const (
	longest = time.Hour
	digits  = 3
)

// spread is a distribution of durations. It is not safe for concurrent use.
type spread struct{ h *hdrhistogram.Histogram }

func newSpread() spread {
	return spread{hdrhistogram.New(1, longest.Microseconds(), digits)}
}

// add counts d, rounded up to whole microseconds; nothing is longer than longest.
func (s spread) add(d time.Duration) {
	d = min(max(d, 0), longest)
	_ = s.h.RecordValue((d + time.Microsecond - 1).Microseconds()) // fails outside of the range alone
}

// percentiles are of one distribution, in microseconds.
type percentiles struct {
	N    int64   `json:"n"`
	Mean float64 `json:"mean_us"`
	P50  int64   `json:"p50_us"`
	P90  int64   `json:"p90_us"`
	P99  int64   `json:"p99_us"`
	P999 int64   `json:"p99_9_us"`
	Max  int64   `json:"max_us"`
}

func (s spread) percentiles() percentiles {
	if s.h.TotalCount() == 0 {
		return percentiles{}
	}
	return percentiles{
		N: s.h.TotalCount(), Mean: s.h.Mean(), P50: s.h.ValueAtQuantile(50), P90: s.h.ValueAtQuantile(90),
		P99: s.h.ValueAtQuantile(99), P999: s.h.ValueAtQuantile(99.9), Max: s.h.Max(),
	}
}

// outcome is what became of one arrival.
type outcome struct {
	op     string // the kind of request: hit, login …
	answer answer
	right  bool // the answer was the one that this request had to get
	none   bool // nothing was sent, there being no session to send it with
}

// recorder collects outcomes. It is safe for concurrent use.
type recorder struct {
	mu      sync.Mutex
	latency spread // from when it was due
	service spread // from when it was sent
	ops     map[string]spread
	answers map[answerCount]int
	right   int
	wrong   int
	none    int
}

func newRecorder() *recorder {
	return &recorder{latency: newSpread(), service: newSpread(), ops: map[string]spread{}, answers: map[answerCount]int{}}
}

// add records an outcome that was due, sent and answered then.
func (r *recorder) add(o outcome, due, sent, answered time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o.none {
		r.none++
		return
	}
	r.count(o)
	r.latency.add(answered.Sub(due))
	r.service.add(answered.Sub(sent))
	op, ok := r.ops[o.op]
	if !ok {
		op = newSpread()
		r.ops[o.op] = op
	}
	op.add(answered.Sub(due))
}

// note records an outcome whose time does not matter.
func (r *recorder) note(o outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count(o)
}

func (r *recorder) count(o outcome) {
	r.answers[answerCount{Op: o.op, Status: o.answer.status, Code: o.answer.code, Right: o.right}]++
	if o.right {
		r.right++
	} else {
		r.wrong++
	}
}

// answerCount is how often a kind of request got an answer. Status 0 is no
// answer at all, and the code says why: timeout, refused, transport.
type answerCount struct {
	Op     string `json:"op"`
	Status int    `json:"status"`
	Code   string `json:"code,omitempty"`
	Right  bool   `json:"right"`
	N      int    `json:"n"`
}

// counts lists the answers, in a stable order.
func (r *recorder) counts() []answerCount {
	list := []answerCount{}
	for a, n := range r.answers {
		a.N = n
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b answerCount) int {
		right := func(x answerCount) int {
			if x.Right {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.Op, b.Op), cmp.Compare(right(a), right(b)), cmp.Compare(a.Status, b.Status), cmp.Compare(a.Code, b.Code))
	})
	return list
}

// unanswered is how many requests got no answer at all.
func (r *recorder) unanswered() int {
	sum := 0
	for a, n := range r.answers {
		if a.Status == 0 {
			sum += n
		}
	}
	return sum
}

// merge adds what from has recorded.
func (r *recorder) merge(from *recorder) {
	r.latency.h.Merge(from.latency.h)
	r.service.h.Merge(from.service.h)
	for name, spread := range from.ops {
		if _, ok := r.ops[name]; !ok {
			r.ops[name] = newSpread()
		}
		r.ops[name].h.Merge(spread.h)
	}
	for a, n := range from.answers {
		r.answers[a] += n
	}
	r.right += from.right
	r.wrong += from.wrong
	r.none += from.none
}
