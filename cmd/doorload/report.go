package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is the result of a run, as --json writes it. Members are added, never
// renamed; times are in the unit that their name ends in.
type report struct {
	Doorload    int           `json:"doorload"` // the version of this form: 1
	Mode        string        `json:"mode"`
	StartedAt   time.Time     `json:"started_at"`
	Interrupted bool          `json:"interrupted"`
	Plan        planReport    `json:"plan"`
	Target      *sideReport   `json:"target,omitempty"`
	Baseline    *sideReport   `json:"baseline,omitempty"`
	Again       *sideReport   `json:"baseline_again,omitempty"`
	Ratio       *ratioReport  `json:"ratio,omitempty"`      // target ÷ baseline
	SelfCheck   *ratioReport  `json:"self_check,omitempty"` // baseline again ÷ baseline
	Counts      *bool         `json:"counts,omitempty"`     // the self-check is between 0.9 and 1.1
	Revoke      *revokeReport `json:"revoke,omitempty"`
	Client      clientReport  `json:"client"`
	Missed      []string      `json:"missed"` // thresholds that were given and not held
}

type planReport struct {
	Rate        float64 `json:"rate_per_s"`
	Arrivals    string  `json:"arrivals"`
	DurationMS  int64   `json:"duration_ms"`
	Requests    int     `json:"requests_at_most"`
	MaxInFlight int     `json:"max_in_flight"`
	Seed        uint64  `json:"seed"`
	Sessions    int     `json:"sessions"`
	Rounds      int     `json:"rounds"`
	SliceMS     int64   `json:"slice_ms"`
}

type sideReport struct {
	URL            string                 `json:"url"`
	Seconds        float64                `json:"seconds"`
	Arrivals       tally                  `json:"arrivals"`
	None           int                    `json:"no_session_left"` // arrivals that found no session to ask about
	Throughput     float64                `json:"answers_per_s"`
	Right          int                    `json:"right"`
	Wrong          int                    `json:"wrong"`
	Answers        []answerCount          `json:"answers"`
	Latency        percentiles            `json:"latency"`      // from when the request was due
	Service        percentiles            `json:"from_sending"` // from when it was sent: what a closed loop would have measured
	Ops            map[string]percentiles `json:"latency_by_op"`
	NewConnections int                    `json:"new_connections"`
	CPU            *cpuReport             `json:"server_cpu,omitempty"`
}

type cpuReport struct {
	PerRequest float64 `json:"us_per_request"`
	Cores      float64 `json:"cores"` // how many were busy on average
}

// ratioReport compares two sides. CPU is nil when nobody's processor time was
// counted.
type ratioReport struct {
	CPU        *roundRatio `json:"server_cpu_per_request,omitempty"`
	Mean       float64     `json:"latency_mean"`
	P50        float64     `json:"latency_p50"`
	P99        float64     `json:"latency_p99"`
	Throughput float64     `json:"answers_per_s"`
}

type roundRatio struct {
	Overall float64 `json:"overall"`
	Median  float64 `json:"median_of_rounds"`
	Min     float64 `json:"min_of_rounds"`
	Max     float64 `json:"max_of_rounds"`
}

type clientReport struct {
	PerRequest float64 `json:"us_per_request"`
	Cores      float64 `json:"cores"`
	Of         int     `json:"of_cores"`
}

func (s *side) report() *sideReport {
	r := &sideReport{
		URL: s.door.base, Seconds: s.elapsed.Seconds(), Arrivals: s.tally, None: s.record.none,
		Right: s.record.right, Wrong: s.record.wrong, Answers: s.record.counts(),
		Latency: s.record.latency.percentiles(), Service: s.record.service.percentiles(),
		Ops: map[string]percentiles{}, NewConnections: s.opened,
	}
	r.Throughput = over(float64(r.Right+r.Wrong-s.record.unanswered()), r.Seconds)
	for op, spread := range s.record.ops {
		r.Ops[op] = spread.percentiles()
	}
	if s.pid != 0 {
		r.CPU = &cpuReport{
			PerRequest: over(float64(s.used.Microseconds()), float64(s.tally.Sent)),
			Cores:      over(s.used.Seconds(), r.Seconds),
		}
	}
	return r
}

// ratioOf compares what s did with what to did.
func ratioOf(s, to *side) *ratioReport {
	a, b := s.report(), to.report()
	r := &ratioReport{
		Mean: over(a.Latency.Mean, b.Latency.Mean), P50: over(float64(a.Latency.P50), float64(b.Latency.P50)),
		P99: over(float64(a.Latency.P99), float64(b.Latency.P99)), Throughput: over(a.Throughput, b.Throughput),
	}
	if a.CPU != nil && b.CPU != nil {
		r.CPU = roundRatios(s.perRound, to.perRound)
		r.CPU.Overall = over(a.CPU.PerRequest, b.CPU.PerRequest)
	}
	return r
}

// roundRatios compares two sides round by round; rounds without a figure on
// both sides are left out.
func roundRatios(a, b []float64) *roundRatio {
	var each []float64
	for i := range min(len(a), len(b)) {
		if a[i] > 0 && b[i] > 0 {
			each = append(each, a[i]/b[i])
		}
	}
	if len(each) == 0 {
		return &roundRatio{}
	}
	slices.Sort(each)
	middle := len(each) / 2
	r := &roundRatio{Median: each[middle], Min: each[0], Max: each[len(each)-1]}
	if len(each)%2 == 0 {
		r.Median = (each[middle-1] + each[middle]) / 2
	}
	return r
}

// over is a ÷ b, and 0 where there is nothing to divide by.
func over(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// holds reports whether the baseline agreed with itself well enough for the
// ratio beside it to say something: by processor time if that was counted, else
// by the median latency.
func (r *ratioReport) holds() bool {
	figure := r.P50
	if r.CPU != nil {
		figure = r.CPU.Overall
	}
	return figure >= 0.9 && figure <= 1.1
}

func clientOf(used, elapsed time.Duration, requests int) clientReport {
	return clientReport{
		PerRequest: over(float64(used.Microseconds()), float64(requests)),
		Cores:      over(used.Seconds(), elapsed.Seconds()), Of: runtime.NumCPU(),
	}
}

// write puts the report on out as text and, if path is not empty, into that file
// as JSON.
func (r *report) write(out io.Writer, path string) error {
	if _, err := io.WriteString(out, r.text()); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if path == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

func (r *report) text() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(&b, "%s: %s/s %s for %s or %d arrivals, at most %d in flight, %d sessions, seed %d\n", r.Mode, number(r.Plan.Rate), r.Plan.Arrivals,
		time.Duration(r.Plan.DurationMS)*time.Millisecond, r.Plan.Requests, r.Plan.MaxInFlight, r.Plan.Sessions, r.Plan.Seed)
	if r.Plan.Rounds > 1 {
		fmt.Fprintf(&b, "%d rounds of %s each\n", r.Plan.Rounds, time.Duration(r.Plan.SliceMS)*time.Millisecond)
	}
	if r.Interrupted {
		fmt.Fprintln(&b, "INTERRUPTED: this is what was measured until then")
	}
	for _, s := range []struct {
		name string
		*sideReport
	}{{"target", r.Target}, {"baseline", r.Baseline}, {"baseline again", r.Again}} {
		if s.sideReport != nil {
			fmt.Fprintf(w, "\n%s  %s\n", s.name, s.URL)
			s.print(w)
		}
	}
	if r.Revoke != nil {
		fmt.Fprintln(w)
		r.Revoke.print(w)
	}
	if r.Ratio != nil {
		fmt.Fprintf(w, "\ntarget ÷ baseline\t%s\n", r.Ratio)
		verdict := "the ratio counts"
		if !*r.Counts {
			verdict = "outside of 0.9–1.1, so the ratio does NOT count; the machine was too busy or the run too short"
		}
		fmt.Fprintf(w, "baseline ÷ itself\t%s: %s\n", r.SelfCheck, verdict)
	}
	fmt.Fprintf(w, "\nthis client\t%.0f µs CPU a request, %.2f of %d cores\n", r.Client.PerRequest, r.Client.Cores, r.Client.Of)
	for _, m := range r.Missed {
		fmt.Fprintf(w, "MISSED\t%s\n", m)
	}
	w.Flush()
	return b.String()
}

func (s *sideReport) print(w io.Writer) {
	fmt.Fprintf(w, "  arrivals\t%d due, %d sent, %d of them late (> %s), %d dropped", s.Arrivals.Due, s.Arrivals.Sent, s.Arrivals.Late, lateAfter, s.Arrivals.Dropped)
	if s.None > 0 {
		fmt.Fprintf(w, ", %d found no session left", s.None)
	}
	fmt.Fprintf(w, "\n  throughput\t%s answers/s over %.1f s\n", number(s.Throughput), s.Seconds)
	if s.Arrivals.Dropped > 0 {
		fmt.Fprintf(w, "  OVERLOAD\tthe rate is more than the target or this client can bear; percentiles are of what was sent\n")
	}
	fmt.Fprintf(w, "  latency\t%s\tfrom when it was due\n", s.Latency)
	fmt.Fprintf(w, "  from sending\t%s\tonce it was sent\n", s.Service)
	if len(s.Ops) > 1 {
		for _, op := range sortedKeys(s.Ops) {
			fmt.Fprintf(w, "  - %s\t%s\t%d requests\n", op, s.Ops[op], s.Ops[op].N)
		}
	}
	printAnswers(w, s.Answers)
	fmt.Fprintf(w, "  connections\t%d opened while measuring, for %d requests\n", s.NewConnections, s.Arrivals.Sent)
	if s.CPU != nil {
		fmt.Fprintf(w, "  server\t%.1f µs CPU a request, %.2f cores busy\n", s.CPU.PerRequest, s.CPU.Cores)
	}
}

func printAnswers(w io.Writer, answers []answerCount) {
	for _, a := range answers {
		verdict := "answers"
		if !a.Right {
			verdict = "WRONG"
		}
		what := fmt.Sprint(a.Status)
		if a.Status == 0 {
			what = "no answer"
		}
		fmt.Fprintf(w, "  %s\t%d × %s: %s\n", verdict, a.N, a.Op, strings.TrimSpace(what+" "+a.Code))
	}
}

func (r *ratioReport) String() string {
	text := fmt.Sprintf("latency p50 %.2f, p99 %.2f, mean %.2f", r.P50, r.P99, r.Mean)
	if r.CPU != nil {
		text = fmt.Sprintf("CPU a request %.2f (rounds %.2f–%.2f, median %.2f); %s", r.CPU.Overall, r.CPU.Min, r.CPU.Max, r.CPU.Median, text)
	}
	return text
}

func (p percentiles) String() string {
	return fmt.Sprintf("p50 %s  p90 %s  p99 %s  p99.9 %s  max %s ms", ms(p.P50), ms(p.P90), ms(p.P99), ms(p.P999), ms(p.Max))
}

// ms prints microseconds as milliseconds.
func ms(us int64) string {
	switch v := float64(us) / 1000; {
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.0f", v)
	}
}

func number(v float64) string {
	if v >= 100 || v == float64(int(v)) {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

func sortedKeys[V any](m map[string]V) []string {
	list := make([]string, 0, len(m))
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}
