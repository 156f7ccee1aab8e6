package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestMain lets the test binary be the program, for the baseline that it starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "baseline" {
		main()
	}
	os.Exit(m.Run())
}

// result is what one command line did.
type result struct {
	code      int
	out, errs string
	report    report
}

// doorload runs one command line against url, with the flags that all need.
func doorload(t *testing.T, ctx context.Context, mode, url string, flags ...string) result {
	t.Helper()
	t.Setenv("DOORLOAD_PASSWORD", "hunter2-not-to-be-seen")
	file := filepath.Join(t.TempDir(), "report.json")
	var out, errs bytes.Buffer
	args := append([]string{mode, "--cookie", baselineCookie, "--json", file}, flags...)
	r := result{code: execute(ctx, append(args, url), strings.NewReader(""), &out, &errs)}
	r.out, r.errs = out.String(), errs.String()
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &r.report)
	}
	if err != nil && r.code != 2 && r.code != 1 {
		t.Errorf("the report: %v", err)
	}
	if strings.Contains(r.out+r.errs+string(text), "hunter2") {
		t.Error("the password was printed")
	}
	return r
}

// serve is a server on a loopback address.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func problem(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"status":%d,"code":%q}`, status, code)
}

func TestValidateTellsEveryAnswerApart(t *testing.T) {
	bare := bareHandler()
	var asked atomic.Int64
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The first 20 are asked before the run; of the others each tenth fails.
		if r.Method == "GET" {
			if n := asked.Add(1); n > 20 && n%10 == 0 {
				problem(w, 503, "unavailable")
				return
			}
		}
		bare.ServeHTTP(w, r)
	}))
	got := doorload(t, t.Context(), "validate", url, "--rate", "500", "--duration", "1m", "--requests", "400", "--warmup", "0s",
		"--sessions", "20", "--hit", "0.75", "--negative", "0.25", "--max-in-flight", "16")
	if got.code != 0 {
		t.Fatalf("exit %d: %s%s", got.code, got.out, got.errs)
	}
	target := got.report.Target
	if target.Arrivals.Sent != 400 || target.Right != 360 || target.Wrong != 40 || target.Latency.N != 400 {
		t.Errorf("%+v", target)
	}
	sum := map[answerCount]int{}
	for _, a := range target.Answers {
		n := a.N
		a.Op, a.N = "", 0
		sum[a] += n
	}
	if sum[answerCount{Status: 503, Code: "unavailable"}] != 40 {
		t.Errorf("%+v", target.Answers)
	}
	if hits, none := target.Ops["hit"].N, target.Ops["negative"].N; hits+none != 400 || none < 60 || none > 140 {
		t.Errorf("%d hits and %d negatives of 400, at shares of 3 to 1", hits, none)
	}
	if target.NewConnections > 16 {
		t.Errorf("%d connections for 400 requests with at most 16 in flight", target.NewConnections)
	}
	if !strings.Contains(got.out, "WRONG") || !strings.Contains(got.out, "503 unavailable") {
		t.Errorf("the failures are not in the text:\n%s", got.out)
	}
}

func TestAnAcceptOfAnUnknownTokenIsWrong(t *testing.T) {
	bare := bareHandler()
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			fmt.Fprint(w, "{}")
			return
		}
		bare.ServeHTTP(w, r)
	}))
	got := doorload(t, t.Context(), "validate", url, "--rate", "500", "--requests", "50", "--duration", "1s", "--warmup", "0s",
		"--sessions", "1", "--hit", "0.5", "--negative", "0.5", "--max-errors", "0")
	if got.code != 1 || got.report.Target.Wrong != int(got.report.Target.Ops["negative"].N) || got.report.Target.Wrong == 0 || len(got.report.Missed) != 1 {
		t.Errorf("exit %d: %s", got.code, got.out)
	}
}

func TestTheBaselineTakesTurnsAndIsComparedWithItself(t *testing.T) {
	url := serve(t, bareHandler())
	got := doorload(t, t.Context(), "validate", url, "--arrivals", "constant", "--rate", "200", "--duration", "1200ms", "--slice", "100ms", "--warmup", "100ms",
		"--sessions", "10", "--baseline", "built-in", "--server-pid", fmt.Sprint(os.Getpid()))
	if got.code != 0 {
		t.Fatalf("exit %d: %s%s", got.code, got.out, got.errs)
	}
	r := got.report
	if r.Plan.Rounds != 4 || r.Plan.SliceMS != 100 {
		t.Errorf("%+v", r.Plan)
	}
	for name, s := range map[string]*sideReport{"target": r.Target, "baseline": r.Baseline, "again": r.Again} {
		if s == nil || s.Arrivals.Due != 80 || s.Arrivals.Sent+s.Arrivals.Dropped != 80 || s.Wrong != 0 || s.CPU == nil {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if r.Baseline.URL == r.Target.URL || r.Baseline.URL != r.Again.URL {
		t.Errorf("%s, %s and %s", r.Target.URL, r.Baseline.URL, r.Again.URL)
	}
	if r.Ratio == nil || r.SelfCheck == nil || r.Counts == nil || r.Ratio.P50 <= 0 || r.Ratio.CPU == nil {
		t.Errorf("%+v", r.Ratio)
	}
}

func TestTokensAreKeptForTheirOwnerAndServeAgain(t *testing.T) {
	url := serve(t, bareHandler())
	file := filepath.Join(t.TempDir(), "tokens")
	quick := []string{"--rate", "500", "--requests", "20", "--duration", "1s", "--warmup", "0s"}
	if got := doorload(t, t.Context(), "validate", url, append(quick, "--sessions", "30", "--save-tokens", file)...); got.code != 0 {
		t.Fatalf("exit %d: %s", got.code, got.errs)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	// The sessions at hand are the first ten; misses come from the others, once each.
	got := doorload(t, t.Context(), "validate", url, "--rate", "10", "--requests", "5", "--duration", "500ms", "--warmup", "0s", "--sessions", "5", "--tokens", file, "--hit", "0", "--miss", "1")
	if got.code != 0 || got.report.Target.Ops["miss"].N != got.report.Target.Latency.N || got.report.Target.Wrong != 0 {
		t.Errorf("exit %d: %s%s", got.code, got.out, got.errs)
	}
	if got := doorload(t, t.Context(), "validate", url, "--sessions", "31", "--tokens", file); got.code != 2 {
		t.Errorf("a file with too few tokens: exit %d: %s", got.code, got.errs)
	}
	if got := doorload(t, t.Context(), "validate", url, append(quick, "--sessions", "1", "--save-tokens", file)...); got.code != 1 {
		t.Errorf("a file of tokens was overwritten: exit %d", got.code)
	}
}

func TestSessionsThatThePolicyEndedAreNotLoaded(t *testing.T) {
	bare := bareHandler()
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			problem(w, 401, noSession)
			return
		}
		bare.ServeHTTP(w, r)
	}))
	got := doorload(t, t.Context(), "validate", url, "--sessions", "5")
	if got.code != 1 || !strings.Contains(got.errs, "max_per_subject") {
		t.Errorf("exit %d: %s", got.code, got.errs)
	}
}

func TestLoginSignsInAsManyUsers(t *testing.T) {
	bare := bareHandler()
	var mu sync.Mutex
	users := map[string]bool{}
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Username, Password, Transport string }
		body := new(bytes.Buffer)
		if _, err := body.ReadFrom(r.Body); err != nil || json.Unmarshal(body.Bytes(), &in) != nil || in.Transport != "token" || in.Password != "hunter2-not-to-be-seen" {
			t.Errorf("%s %q", r.URL, body)
		}
		mu.Lock()
		users[in.Username] = true
		mu.Unlock()
		r.Body = http.NoBody
		bare.ServeHTTP(w, httptest.NewRequest("POST", "/v1/login", body))
	}))
	got := doorload(t, t.Context(), "login", url, "--rate", "500", "--requests", "60", "--duration", "2s", "--warmup", "0s", "--username", "u{n}", "--users", "3")
	if got.code != 0 || got.report.Target.Wrong != 0 || len(users) != 3 || !users["u2"] {
		t.Errorf("exit %d, %v: %s", got.code, users, got.out)
	}
}

func TestMixedForgivesOnlyWhatOverlapsALogout(t *testing.T) {
	// Enough sessions that the pool does not run dry: then there is nothing to lose.
	shares := []string{"--rate", "1000", "--requests", "500", "--duration", "2s", "--warmup", "0s", "--sessions", "60", "--validate", "0.7", "--login", "0.2", "--logout", "0.1"}
	good := doorload(t, t.Context(), "mixed", serve(t, bareHandler()), append(shares, "--max-errors", "0")...)
	if good.code != 0 || good.report.Target.Ops["logout"].N == 0 || good.report.Target.Ops["login"].N == 0 {
		t.Errorf("exit %d: %s%s", good.code, good.out, good.errs)
	}

	// This one forgets who is signed in, half-way.
	var handler atomic.Value
	handler.Store(bareHandler())
	var asked atomic.Int64
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 250 {
			handler.Store(bareHandler())
		}
		handler.Load().(http.Handler).ServeHTTP(w, r)
	}))
	bad := doorload(t, t.Context(), "mixed", url, append(shares, "--max-errors", "0")...)
	if bad.code != 1 || bad.report.Target.Wrong == 0 {
		t.Errorf("lost sessions went unseen: exit %d: %s", bad.code, bad.out)
	}
}

// twoNodes are one handler, and another node that answers as it did until some
// time after a logout.
func twoNodes(t *testing.T, behind time.Duration, after func(w http.ResponseWriter, asked int) bool) (at, other string) {
	bare := bareHandler()
	var ended sync.Map // cookie → when, and how often it was asked about after that
	type end struct {
		at    time.Time
		asked *atomic.Int64
	}
	at = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		bare.ServeHTTP(w, r)
		if r.Method == "DELETE" {
			ended.Store(r.Header.Get("Cookie"), end{time.Now(), new(atomic.Int64)})
		}
	}))
	other = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e, ok := ended.Load(r.Header.Get("Cookie"))
		switch {
		case !ok:
			bare.ServeHTTP(w, r)
		case time.Since(e.(end).at) < behind:
			fmt.Fprint(w, "{}")
		case after != nil && after(w, int(e.(end).asked.Add(1))):
		default:
			problem(w, 401, noSession)
		}
	}))
	return at, other
}

func TestRevokeMeasuresHowLongASessionOutlivesItsEnd(t *testing.T) {
	at, other := twoNodes(t, 200*time.Millisecond, nil)
	got := doorload(t, t.Context(), "revoke", at, "--ask-at", other, "--rate", "50", "--requests", "5", "--duration", "3s", "--max-errors", "0")
	r := got.report.Revoke
	// An accept that was asked for less than 200 ms after the logout was handled,
	// and a refusal after that; the ack came a little later than the logout.
	if got.code != 0 || r.Refused.N != 5 || r.Refused.P50 < 100_000 || r.LastAccept.N != 5 || r.LastAccept.Max > 200_200 || r.Accepts < 5 || r.LateAccepts != 0 || r.Wrong != 0 {
		t.Errorf("exit %d: %s%s", got.code, got.out, got.errs)
	}
	late := doorload(t, t.Context(), "revoke", at, "--ask-at", other, "--rate", "50", "--requests", "2", "--duration", "3s", "--late-after", "5ms", "--max-errors", "0")
	if late.code != 1 || late.report.Revoke.LateAccepts == 0 || late.report.Revoke.Wrong != late.report.Revoke.LateAccepts {
		t.Errorf("exit %d: %s", late.code, late.out)
	}
}

func TestASessionThatComesBackOrIsNeverRefusedIsWrong(t *testing.T) {
	at, other := twoNodes(t, 0, func(w http.ResponseWriter, asked int) bool {
		if asked == 5 {
			fmt.Fprint(w, "{}")
		}
		return asked == 5
	})
	got := doorload(t, t.Context(), "revoke", at, "--ask-at", other, "--rate", "50", "--requests", "3", "--duration", "3s", "--max-errors", "0")
	if r := got.report.Revoke; got.code != 1 || r.CameBack != 3 || r.Wrong != 3 {
		t.Errorf("exit %d: %s", got.code, got.out)
	}

	at, other = twoNodes(t, 0, func(w http.ResponseWriter, _ int) bool {
		problem(w, 503, "unavailable")
		return true
	})
	got = doorload(t, t.Context(), "revoke", at, "--ask-at", other, "--requests", "1", "--duration", "3s", "--late-after", "0s", "--give-up", "50ms")
	if r := got.report.Revoke; got.code != 1 || r.NeverRefused != 1 || r.Undecided == 0 || r.Accepts != 0 || r.Wrong != 1 {
		t.Errorf("exit %d: %s", got.code, got.out)
	}
}

func TestAnInterruptedRunPrintsWhatItHas(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	bare := bareHandler()
	var asked atomic.Int64
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 100 {
			interrupt()
		}
		bare.ServeHTTP(w, r)
	}))
	got := doorload(t, ctx, "validate", url, "--rate", "500", "--duration", "1h", "--warmup", "0s", "--sessions", "5")
	if got.code != 130 || !got.report.Interrupted || !strings.Contains(got.out, "INTERRUPTED") {
		t.Errorf("exit %d: %s%s", got.code, got.out, got.errs)
	}
	// What was in flight is waited for, and no error of the server's.
	if r := got.report.Target; r.Right < 80 || r.Wrong != 0 {
		t.Errorf("%+v", r)
	}
}

func TestOnlyThisMachineIsPutUnderLoadUnlessSaidOtherwise(t *testing.T) {
	for _, foreign := range []string{"http://192.0.2.1/t/demo", "http://[2001:db8::1]:80", "http://[::ffff:192.0.2.1]", "http://0.0.0.0:80"} {
		got := doorload(t, t.Context(), "validate", foreign)
		if got.code != 2 || !strings.Contains(got.errs, "--i-own-this-target") {
			t.Errorf("%s: exit %d: %s", foreign, got.code, got.errs)
		}
	}
	// A name says nothing: what it resolves to is checked when it is dialled.
	d, err := openDoor("http://localhost:1", "", 1, time.Second, false)
	if err != nil {
		t.Fatal(err)
	}
	transport := d.client.Transport.(*http.Transport)
	if _, err := transport.DialContext(t.Context(), "tcp", "192.0.2.1:80"); why(err) != "not_loopback" {
		t.Errorf("dialled: %v", err)
	}
	if _, err := transport.DialContext(t.Context(), "tcp", "127.0.0.1:1"); why(err) != "refused" {
		t.Errorf("a loopback address: %v", err)
	}
}

func TestExitCodes(t *testing.T) {
	url := serve(t, bareHandler())
	refusing := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { problem(w, 401, "login_failed") }))
	for name, c := range map[string]struct {
		mode, url string
		flags     []string
		code      int
	}{
		"nobody listens":           {"validate", "http://127.0.0.1:1", []string{"--sessions", "1"}, 1},
		"nobody may sign in":       {"login", refusing, []string{"--requests", "2", "--duration", "1s", "--warmup", "0s", "--rate", "100"}, 1},
		"a rate of nothing":        {"validate", url, []string{"--rate", "0"}, 2},
		"no such arrivals":         {"login", url, []string{"--arrivals", "often"}, 2},
		"no such flag":             {"mixed", url, []string{"--fast"}, 2},
		"no URL":                   {"login", "demo", nil, 2},
		"no share":                 {"mixed", url, []string{"--validate", "0", "--login", "0", "--logout", "0"}, 2},
		"misses from one node":     {"validate", url, []string{"--miss", "1"}, 2},
		"a ratio without a pid":    {"validate", url, []string{"--max-cpu-ratio", "2"}, 2},
		"a p99 that is not held":   {"validate", url, []string{"--sessions", "1", "--requests", "5", "--rate", "100", "--duration", "1s", "--warmup", "0s", "--max-p99", "1us"}, 1},
		"an open baseline":         {"baseline", "", []string{"--listen", "0.0.0.0:0"}, 2},
		"a pid that is not there":  {"validate", url, []string{"--sessions", "1", "--warmup", "0s", "--server-pid", "1073741824"}, 1},
		"a password from nowhere":  {"login", url, []string{"--password-file", filepath.Join(t.TempDir(), "none")}, 1},
		"a revoke that cannot end": {"revoke", url, []string{"--give-up", "1s", "--late-after", "2s"}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			if c.mode == "baseline" {
				if got := execute(t.Context(), append([]string{c.mode}, c.flags...), strings.NewReader(""), new(bytes.Buffer), new(bytes.Buffer)); got != c.code {
					t.Errorf("exit %d, want %d", got, c.code)
				}
				return
			}
			if got := doorload(t, t.Context(), c.mode, c.url, c.flags...); got.code != c.code {
				t.Errorf("exit %d, want %d: %s%s", got.code, c.code, got.out, got.errs)
			}
		})
	}
}

func TestAPasswordIsNotPrinted(t *testing.T) {
	s := secret{"hunter2"}
	if text := fmt.Sprintf("%v %+v %#v %s %q", s, s, s, s, struct{ S secret }{s}); strings.Contains(text, "hunter2") {
		t.Error(text)
	}
}
