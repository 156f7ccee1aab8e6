package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/doorward/doorward/plugins/guesttest"
)

// What is measured here is the processor time of a server process for each
// request, over real connections: doorward's, and that of a bare Echo handler
// which looks a cookie up in a sync.Map and answers the same JSON. Machines are
// shared and noisy, so only the ratio in one run says something; it counts when
// the bare handler against itself is between 0.9 and 1.1.

// bareServer is that bare handler: it prints where it listens.
func bareServer() {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	var known sync.Map
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

// bare is the JSON of a session, with the same members and the same kinds.
type bare struct {
	ID            string         `json:"id"`
	Tenant        string         `json:"tenant"`
	Subject       string         `json:"subject"`
	Claims        map[string]any `json:"claims"`
	AMR           []string       `json:"amr"`
	AuthTime      time.Time      `json:"auth_time"`
	CreatedAt     time.Time      `json:"created_at"`
	LastSeenAt    time.Time      `json:"last_seen_at"`
	IdleExpiresAt time.Time      `json:"idle_expires_at"`
	ExpiresAt     time.Time      `json:"expires_at"`
	RotateAfter   time.Time      `json:"rotate_after"`
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

func bareSession(subject string) bare {
	now := time.Now().UTC()
	s := bare{
		ID: "ses_01K0000000000000000000000", Tenant: "acme", Subject: subject, Claims: map[string]any{}, AMR: []string{"pwd"},
		AuthTime: now, CreatedAt: now, LastSeenAt: now, IdleExpiresAt: now, ExpiresAt: now, RotateAfter: now, Current: true,
	}
	s.Verifier.Version, s.Verifier.Digest = 1, "sha256:e7cf4ce70f8e900cc7928924fa3ee302c5ac57a288c2230f01e206411c7e30e8"
	s.Client.IP, s.Client.UserAgent = "127.0.0.1", "Go-http-client/1.1"
	return s
}

// bareSite runs bareServer in a process of its own.
func bareSite(b *testing.B) *site {
	b.Helper()
	dir := b.TempDir()
	server, err := launch(dir, dir+"/log", os.Environ(), "bare")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(server.crash)
	return &site{TB: b, server: server, dir: dir, client: benchClient()}
}

func benchClient() *http.Client {
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}}
}

// cpu is the processor time that a process, without its children, has used.
func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	ticks := 0
	for _, f := range fields[11:13] { // utime, stime: hundredths of a second (USER_HZ)
		n, err := strconv.Atoi(f)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// measure runs request b.N times from 16 connections and reports the server's
// processor time for each, in microseconds.
func measure(b *testing.B, s *site, request func(i int) error) float64 {
	b.Helper()
	var next atomic.Int64
	var all sync.WaitGroup
	before := cpu(b, s.cmd.Process.Pid)
	b.ResetTimer()
	for range 16 {
		all.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if err := request(int(i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
	each := float64((cpu(b, s.cmd.Process.Pid) - before).Microseconds()) / float64(b.N)
	b.ReportMetric(each, "server-µs/op")
	return each
}

// against reports a ratio to the bare handler's figure, which has come first.
func against(b *testing.B, bareEach, each float64) {
	if bareEach > 0 {
		b.ReportMetric(each/bareEach, "×bare")
	}
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

// signIn logs in at base and returns the token.
func (s *site) signIn(base, username string) (string, error) {
	r, err := http.NewRequest("POST", base+"/v1/login", strings.NewReader(`{"username":"`+username+`","password":"x","transport":"token"}`))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/json")
	body, err := s.fetch(201, r)
	if err != nil {
		return "", err
	}
	var out struct{ Token string }
	return out.Token, json.Unmarshal(body, &out)
}

// signInMany returns the tokens of n sessions.
func (s *site) signInMany(b *testing.B, base string, n int) []string {
	b.Helper()
	tokens := make([]string, n)
	var all sync.WaitGroup
	for lane := range 16 {
		all.Go(func() {
			for i := lane; i < n; i += 16 {
				token, err := s.signIn(base, "alice")
				if err != nil {
					b.Error(err)
					return
				}
				tokens[i] = token
			}
		})
	}
	all.Wait()
	return tokens
}

// acme makes a tenant whose verifier accepts everybody, and one subject may
// have as many sessions as fit.
func (s *site) acme() string {
	s.Helper()
	s.tenant("acme", guesttest.Accepts("alice").Module())
	s.operate(200, "PATCH /tenants/acme", map[string]any{"session": map[string]any{"max_per_subject": 1000}})
	return s.public + "/t/acme"
}

func BenchmarkValidate(b *testing.B) {
	validate := func(b *testing.B, s *site, base, cookie string, tokens []string) float64 {
		return measure(b, s, func(i int) error {
			r, err := http.NewRequest("GET", base+"/v1/session", nil)
			if err != nil {
				return err
			}
			r.Header.Set("Cookie", cookie+"="+tokens[i*7919%len(tokens)])
			_, err = s.fetch(200, r)
			return err
		})
	}
	baseline := bareSite(b)
	known := baseline.signInMany(b, baseline.public, 500)
	var bareEach float64
	b.Run("bare", func(b *testing.B) { bareEach = validate(b, baseline, baseline.public, "session", known) })
	b.Run("bare-again", func(b *testing.B) {
		against(b, bareEach, validate(b, baseline, baseline.public, "session", known))
	})
	for _, mode := range []string{"memory", "centralized"} {
		s := newSite(b, "DOORWARD_SESSIONS_MODE="+mode, "DOORWARD_LOG_LEVEL=warn")
		s.client = benchClient()
		base := s.acme()
		tokens := s.signInMany(b, base, 500)
		b.Run(mode, func(b *testing.B) {
			against(b, bareEach, validate(b, s, base, "__Host-doorward-acme", tokens))
		})
	}
}

// BenchmarkLogin signs in with a verifier that hashes nothing: what is left is
// doorward's own part, the worker's call and the write to etcd.
func BenchmarkLogin(b *testing.B) {
	login := func(b *testing.B, s *site, base string) float64 {
		return measure(b, s, func(int) error {
			_, err := s.signIn(base, "alice")
			return err
		})
	}
	baseline := bareSite(b)
	var bareEach float64
	b.Run("bare", func(b *testing.B) { bareEach = login(b, baseline, baseline.public) })
	for _, mode := range []string{"memory", "centralized"} {
		s := newSite(b, "DOORWARD_SESSIONS_MODE="+mode, "DOORWARD_LOG_LEVEL=warn")
		s.client = benchClient()
		base := s.acme()
		s.operate(200, "PATCH /tenants/acme", map[string]any{"session": map[string]any{"max_per_subject": 10}})
		b.Run(mode, func(b *testing.B) { against(b, bareEach, login(b, s, base)) })
	}
}
