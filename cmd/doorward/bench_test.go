package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"golang.org/x/sys/unix"
)

// What is measured here is the processor time of a server process for each
// request, over real connections: doorward's, and that of a bare Echo handler
// which looks a cookie up in a sync.Map and answers the same JSON. Machines are
// shared and noisy, so the two take turns of a tenth of a second, and only their
// ratio says something. It counts when the bare handler against itself, in the
// same turns, is between 0.9 and 1.1.

const (
	turnTime = 100 * time.Millisecond
	callers  = 16 // at a time, each waiting for its answer

	bareSessions = 10_000 // of the bare handler, however many doorward has
)

// bareServer is that bare handler: it prints where it listens.
func bareServer() {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	var known sync.Map
	for i := range bareSessions {
		known.Store(bareToken(i), bareSession("alice"))
	}
	e.POST("/v1/login", func(c echo.Context) error {
		var in struct{ Username, Password, Transport string }
		if err := c.Bind(&in); err != nil {
			return err
		}
		token := "dw1_" + strconv.FormatInt(time.Now().UnixNano(), 36)
		s := bareSession(in.Username)
		known.Store(token, s)
		return c.JSON(http.StatusCreated, map[string]any{"session": s, "token": token})
	})
	e.GET("/v1/session", func(c echo.Context) error {
		cookie, err := c.Cookie("session")
		if err != nil {
			return echo.ErrUnauthorized
		}
		s, ok := known.Load(cookie.Value)
		if !ok {
			return echo.ErrUnauthorized
		}
		return c.JSON(http.StatusOK, s)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("ready public=http://%s\n", l.Addr())
	http.Serve(l, e)
}

// bareToken is as long as doorward's.
func bareToken(i int) string { return fmt.Sprintf("dw1_%049d", i) }

// bare is the JSON of a session, with the same members and the same kinds.
type bare struct {
	ID            string          `json:"id"`
	Tenant        string          `json:"tenant"`
	Subject       string          `json:"subject"`
	Claims        json.RawMessage `json:"claims"`
	AMR           []string        `json:"amr"`
	AuthTime      time.Time       `json:"auth_time"`
	CreatedAt     time.Time       `json:"created_at"`
	LastSeenAt    time.Time       `json:"last_seen_at"`
	IdleExpiresAt time.Time       `json:"idle_expires_at"`
	ExpiresAt     time.Time       `json:"expires_at"`
	RotateAfter   time.Time       `json:"rotate_after"`
	Verifier      struct {
		Version int    `json:"version"`
		Digest  string `json:"digest"`
	} `json:"verifier"`
	Client struct {
		IP        string `json:"ip"`
		UserAgent string `json:"user_agent"`
	} `json:"client"`
	Current  bool `json:"current"`
	Degraded bool `json:"degraded"`
}

// What every session of a benchmark is, here and there.
const (
	benchClaims  = `{"name":"Alice Example","roles":["reader","writer"]}`
	benchAgent   = "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0"
	benchVerdict = `{"decision":"accept","subject":"alice","amr":["pwd"],"claims":` + benchClaims + `}`
)

func bareSession(subject string) bare {
	now := time.Now().UTC().Truncate(time.Millisecond)
	s := bare{
		ID: "ses_01K0000000000000000000000", Tenant: "acme", Subject: subject, Claims: json.RawMessage(benchClaims), AMR: []string{"pwd"},
		AuthTime: now, CreatedAt: now, LastSeenAt: now, IdleExpiresAt: now, ExpiresAt: now, RotateAfter: now, Current: true,
	}
	s.Verifier.Version, s.Verifier.Digest = 1, "sha256:e7cf4ce70f8e900cc7928924fa3ee302c5ac57a288c2230f01e206411c7e30e8"
	s.Client.IP, s.Client.UserAgent = "127.0.0.1", benchAgent
	return s
}

// profileEnv names a socket at which a server that a benchmark runs serves
// net/http/pprof.
const profileEnv = "DOORWARD_BENCH_PROFILE"

// serveProfile lets a benchmark look into this process.
func serveProfile(socket string) {
	os.Remove(socket) // of the server before this one
	l, err := net.Listen("unix", socket)
	if err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/heap", pprof.Handler("heap"))
	mux.HandleFunc("/cpu", pprof.Profile)
	go http.Serve(l, mux)
}

// inspect asks a server about itself.
func (s *site) inspect(what string) []byte {
	s.Helper()
	inside := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", s.profile)
	}}}
	defer inside.CloseIdleConnections()
	got, err := inside.Get("http://server/" + what)
	if err != nil {
		s.Fatal(err)
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	if err != nil {
		s.Fatal(err)
	}
	return text
}

// heap is how many bytes of the server's heap are in use after a collection.
func (s *site) heap() float64 {
	s.Helper()
	for line := range strings.Lines(string(s.inspect("heap?gc=1&debug=1"))) {
		if text, ok := strings.CutPrefix(line, "# HeapAlloc = "); ok {
			return s.number(text)
		}
	}
	s.Fatal("the heap profile does not say how large the heap is")
	return 0
}

// metric is what GET /metrics says of a series.
func (s *site) metric(series string) float64 {
	s.Helper()
	for line := range strings.Lines(string(s.must(200, "GET "+s.admin+"/metrics", nil).body)) {
		if text, ok := strings.CutPrefix(line, series+" "); ok {
			return s.number(text)
		}
	}
	s.Fatalf("no metric %s", series)
	return 0
}

func (s *site) number(text string) float64 {
	s.Helper()
	n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil {
		s.Fatal(err)
	}
	return n
}

// benchSite is a site in dir that is yet to be started.
func benchSite(b *testing.B, dir string, env ...string) *site {
	b.Helper()
	s := &site{TB: b, dir: dir, log: dir + "/log", profile: b.TempDir() + "/profile", opened: &atomic.Int64{}}
	s.env = append(append(os.Environ(), "DOORWARD_LOG_LEVEL=warn", profileEnv+"="+s.profile), env...)
	s.client = s.benchClient()
	return s
}

// benchClient keeps its connections and counts how many it opens.
func (s *site) benchClient() *http.Client {
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: 256, DisableCompression: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			s.opened.Add(1)
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}
}

// bareSite runs bareServer in a process of its own.
func bareSite(b *testing.B) *site {
	b.Helper()
	s := benchSite(b, b.TempDir())
	var err error
	if s.server, err = launch(s.dir, s.log, s.env, "bare"); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(s.crash)
	return s
}

// cpu is the processor time that the server, without its children, has used: its
// process clock, since /proc counts hundredths of a second and a turn has ten.
func (s *site) cpu() time.Duration {
	s.Helper()
	const schedClock = 2 // CPUCLOCK_SCHED in the kernel's posix-timers.h
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^s.cmd.Process.Pid<<3|schedClock), &used); err != nil {
		s.Fatal(err)
	}
	return time.Duration(used.Nano())
}

// side takes turns with others.
type side struct {
	*site
	ask     func() error // one request; errSpent when there is none left to make
	answers atomic.Int64
	used    time.Duration
}

var errSpent = fmt.Errorf("every token has been used")

// turn lets so many callers ask until the turn is over.
func (s *side) turn(b *testing.B, callers int, each func(took time.Duration)) {
	before, began := s.cpu(), time.Now()
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for time.Since(began) < turnTime {
				sent := time.Now()
				err := s.ask()
				if err == errSpent {
					return
				}
				if err != nil {
					b.Error(err)
					return
				}
				s.answers.Add(1)
				each(time.Since(sent))
			}
		})
	}
	all.Wait()
	s.used += s.cpu() - before
}

// cost is the processor time of one answer, in microseconds.
func (s *side) cost() float64 {
	return float64(s.used.Microseconds()) / float64(max(1, s.answers.Load()))
}

// compare lets a server and the bare handler take turns, and reports what an
// answer cost each, the ratio, and that of the bare handler to itself. Then one
// caller alone measures latencies.
func compare(b *testing.B, s, bare *site, ask, askBare func() error) {
	first, target, again := &side{site: bare, ask: askBare}, &side{site: s, ask: ask}, &side{site: bare, ask: askBare}
	ignore := func(time.Duration) {}
	for _, one := range []*side{{site: s, ask: ask}, {site: bare, ask: askBare}} { // connections, caches
		one.turn(b, callers, ignore)
	}
	opened := s.opened.Load()
	b.ResetTimer()
	for b.Loop() {
		for _, one := range []*side{first, target, again} {
			one.turn(b, callers, ignore)
		}
	}
	opened = s.opened.Load() - opened
	var waits []time.Duration
	for range 10 {
		target.turn(b, 1, func(took time.Duration) { waits = append(waits, took) })
	}
	if b.Failed() || len(waits) == 0 || target.answers.Load() == 0 {
		b.Fatal("nothing was measured")
	}
	bareCost := (first.cost() + again.cost()) / 2
	slices.Sort(waits)
	b.ReportMetric(0, "ns/op") // a round is as long as it is set to be
	b.ReportMetric(target.cost(), "µs")
	b.ReportMetric(bareCost, "bare-µs")
	b.ReportMetric(target.cost()/bareCost, "×bare")
	b.ReportMetric(again.cost()/first.cost(), "bare:bare")
	b.ReportMetric(float64(opened), "new-conns")
	b.ReportMetric(micros(percentile(waits, 50)), "p50-µs")
	b.ReportMetric(micros(percentile(waits, 99)), "p99-µs")
}

// fetch makes one request and wants that status.
func (s *site) fetch(status int, r *http.Request) ([]byte, error) {
	got, err := s.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer got.Body.Close()
	body, err := io.ReadAll(got.Body)
	if err != nil {
		return nil, err
	}
	if got.StatusCode != status {
		return nil, fmt.Errorf("%s %s: %d %s", r.Method, r.URL, got.StatusCode, body)
	}
	return body, nil
}

// validate asks whose session a token is, by cookie.
func (s *site) validate(status int, base, cookie, token string) error {
	r, err := http.NewRequest("GET", base+"/v1/session", nil)
	if err != nil {
		return err
	}
	r.Header.Set("Cookie", cookie+"="+token)
	_, err = s.fetch(status, r)
	return err
}

// validateBare asks the bare handler about one of its sessions.
func (s *site) validateBare() error {
	return s.validate(200, s.public, "session", bareToken(rand.IntN(bareSessions)))
}

// signIn logs in at base and returns the token.
func (s *site) signIn(base string) (string, error) {
	r, err := http.NewRequest("POST", base+"/v1/login", strings.NewReader(`{"username":"alice","password":"x","transport":"token"}`))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", benchAgent)
	body, err := s.fetch(201, r)
	if err != nil {
		return "", err
	}
	var out struct{ Token string }
	return out.Token, json.Unmarshal(body, &out)
}

// eachOf does something for every number below n, callers at a time.
func eachOf(b *testing.B, n int, do func(i int) error) {
	b.Helper()
	var next atomic.Int64
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				if err := do(int(i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
