package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// options are the flags that the loads share.
type options struct {
	rate        float64
	arrivals    string
	duration    time.Duration
	requests    int
	maxInFlight int
	timeout     time.Duration
	warmup      time.Duration
	seed        uint64
	json        string
	anywhere    bool

	cookie       string
	username     string
	users        int
	passwordFile string
	sessions     int

	serverPID   int
	baseline    string
	baselinePID int
	slice       time.Duration

	maxP99      time.Duration
	maxErrors   int
	maxDropped  int
	maxCPURatio float64
}

// loadFlags are for every load.
func loadFlags(cmd *cobra.Command, o *options, rate float64) {
	f := cmd.Flags()
	f.SortFlags = false
	f.Float64Var(&o.rate, "rate", rate, "arrivals a second")
	f.StringVar(&o.arrivals, "arrivals", "poisson", "how they come: poisson (independent callers) or constant")
	f.DurationVar(&o.duration, "duration", 10*time.Second, "how long to measure, all sides together")
	f.IntVar(&o.requests, "requests", 1_000_000, "at most this many arrivals on each side")
	f.IntVar(&o.maxInFlight, "max-in-flight", 64, "at most this many at once; who finds them all busy starts late")
	f.DurationVar(&o.timeout, "timeout", 10*time.Second, "give an answer up after this long")
	f.Uint64Var(&o.seed, "seed", 1, "decides the arrivals, and what each of them asks")
	f.StringVar(&o.json, "json", "", "also write the report into this `file` as JSON")
	f.StringVar(&o.username, "username", "demo", "who signs in; {n} in it becomes a number below --users")
	f.IntVar(&o.users, "users", 1000, "how many different {n} there are; a tenant ends the oldest sessions of one subject beyond max_per_subject")
	f.StringVar(&o.passwordFile, "password-file", "", "`file` with the password, - for standard input (or DOORLOAD_PASSWORD)")
	f.StringVar(&o.cookie, "cookie", "", "send the token as the cookie of this `name`, such as __Host-doorward-demo, rather than as a bearer token")
	f.BoolVar(&o.anywhere, "i-own-this-target", false, "let the target be another machine; without it only loopback addresses are dialled, because a load on somebody else's server is an attack")
	f.IntVar(&o.maxErrors, "max-errors", -1, "exit 1 if more answers than this were wrong (-1: any number)")
	f.IntVar(&o.maxDropped, "max-dropped", -1, "exit 1 if more arrivals than this were dropped (-1: any number)")
	f.DurationVar(&o.maxP99, "max-p99", 0, "exit 1 if the 99th percentile is longer (of the latency, or of ack → refused)")
}

// comparisonFlags are for the loads that have a baseline.
func comparisonFlags(cmd *cobra.Command, o *options) {
	f := cmd.Flags()
	f.DurationVar(&o.warmup, "warmup", time.Second, "load each side this long before measuring")
	f.IntVar(&o.serverPID, "server-pid", 0, "count the processor time of this process and its children for each request: on a busy machine the figure that can be compared")
	f.StringVar(&o.baseline, "baseline", "", "`URL` of a bare handler (doorload baseline) to take turns with, or built-in to start one")
	f.IntVar(&o.baselinePID, "baseline-pid", 0, "the baseline's process (known if built-in)")
	f.DurationVar(&o.slice, "slice", time.Second, "how long a turn is")
	f.Float64Var(&o.maxCPURatio, "max-cpu-ratio", 0, "exit 1 if the CPU a request, ÷ the baseline's, is more, or if the baseline does not agree with itself")
}

// check names the first flag that cannot be.
func (o *options) check() error {
	for _, c := range []struct {
		flag string
		ok   bool
		must string
	}{
		{"rate", o.rate > 0 && o.rate <= 1_000_000, "above 0, and at most 1000000"},
		{"arrivals", o.arrivals == "poisson" || o.arrivals == "constant", "poisson or constant"},
		{"duration", o.duration > 0 && o.duration <= 24*time.Hour, "above 0, and at most 24h"},
		{"requests", o.requests > 0, "above 0"},
		{"max-in-flight", o.maxInFlight > 0 && o.maxInFlight <= 10_000, "between 1 and 10000"},
		{"timeout", o.timeout > 0 && o.timeout <= 5*time.Minute, "above 0, and at most 5m"},
		{"warmup", o.warmup >= 0 && o.warmup <= time.Hour, "between 0 and 1h"},
		{"users", o.users > 0, "above 0"},
		{"sessions", o.sessions >= 0, "0 or above"},
		{"slice", o.baseline == "" || o.slice >= 50*time.Millisecond, "at least 50ms"},
		{"baseline-pid", o.baselinePID == 0 || (o.baseline != "" && o.baseline != builtIn), "with --baseline URL"},
		{"max-cpu-ratio", o.maxCPURatio == 0 || (o.serverPID != 0 && o.baseline != "" && (o.baseline == builtIn || o.baselinePID != 0)), "with --baseline and both processes' ids"},
	} {
		if !c.ok {
			return usagef("--%s must be %s", c.flag, c.must)
		}
	}
	return nil
}

// password reads it from where the flags say. A command line is in every process
// list, so there is no flag for the password itself.
func (o *options) password(in io.Reader) (secret, error) {
	if o.passwordFile == "" {
		text, ok := os.LookupEnv("DOORLOAD_PASSWORD")
		if !ok {
			return secret{}, usagef("signing in takes a password: --password-file FILE, or DOORLOAD_PASSWORD")
		}
		return secret{text}, nil
	}
	if o.passwordFile != "-" {
		file, err := os.Open(o.passwordFile)
		if err != nil {
			return secret{}, fmt.Errorf("read the password: %w", err)
		}
		defer file.Close()
		in = file
	}
	text, err := io.ReadAll(io.LimitReader(in, 16<<10))
	if err != nil {
		return secret{}, fmt.Errorf("read the password: %w", err)
	}
	return secret{strings.TrimRight(string(text), "\r\n")}, nil
}

// user is the name of number n.
func (o *options) user(n int) string {
	return strings.ReplaceAll(o.username, "{n}", strconv.Itoa(n%o.users))
}

func (o *options) plan(mode string, t turns) planReport {
	return planReport{
		Rate: o.rate, Arrivals: o.arrivals, DurationMS: o.duration.Milliseconds(), Requests: o.requests, MaxInFlight: o.maxInFlight,
		Seed: o.seed, Sessions: o.sessions, Rounds: t.rounds, SliceMS: t.slice.Milliseconds(),
	}
}

// missed lists the thresholds that r does not hold.
func (o *options) missed(r *report) []string {
	list := []string{}
	var p99 percentiles
	var wrong, dropped int
	if r.Target != nil {
		p99, wrong, dropped = r.Target.Latency, r.Target.Wrong, r.Target.Arrivals.Dropped
	}
	if r.Revoke != nil {
		p99, wrong, dropped = r.Revoke.Refused, r.Revoke.Wrong, r.Revoke.Arrivals.Dropped
	}
	if o.maxP99 > 0 && (p99.N == 0 || p99.P99 > o.maxP99.Microseconds()) {
		list = append(list, fmt.Sprintf("--max-p99 %s: it was %s ms over %d", o.maxP99, ms(p99.P99), p99.N))
	}
	if o.maxErrors >= 0 && wrong > o.maxErrors {
		list = append(list, fmt.Sprintf("--max-errors %d: %d answers were wrong", o.maxErrors, wrong))
	}
	if o.maxDropped >= 0 && dropped > o.maxDropped {
		list = append(list, fmt.Sprintf("--max-dropped %d: %d arrivals were dropped", o.maxDropped, dropped))
	}
	if o.maxCPURatio > 0 {
		switch {
		case r.Ratio == nil || r.Ratio.CPU == nil || r.Ratio.CPU.Overall == 0:
			list = append(list, fmt.Sprintf("--max-cpu-ratio %g: there was nothing to compare", o.maxCPURatio))
		case !*r.Counts:
			list = append(list, fmt.Sprintf("--max-cpu-ratio %g: the baseline does not agree with itself (%.2f)", o.maxCPURatio, r.SelfCheck.CPU.Overall))
		case r.Ratio.CPU.Overall > o.maxCPURatio:
			list = append(list, fmt.Sprintf("--max-cpu-ratio %g: it was %.2f", o.maxCPURatio, r.Ratio.CPU.Overall))
		}
	}
	return list
}
