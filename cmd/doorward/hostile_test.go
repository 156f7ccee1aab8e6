package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/sdk/abi"
)

// Every attack that a module can make costs its own tenant that upload or that
// login, and nobody else anything: the process lives on and grows by less than 50
// MiB, and another tenant signs in and is validated all the while. The whole
// corpus is for the soak; this has of each number the first that gets further than
// its upload.
func TestHostileVerifiersCostOnlyTheirOwnLogins(t *testing.T) {
	if raceEnabled {
		t.Skip("a compile takes half a minute; run it without -race, as make test does")
	}
	attack(t, guesttest.Briefly())
}

func TestSoakTheWholeHostileCorpusCostsOnlyItsOwnLogins(t *testing.T) {
	if !soak() {
		t.Skip("the short form is TestHostileVerifiersCostOnlyTheirOwnLogins; this is for make soak")
	}
	attack(t, guesttest.Hostile())
}

func attack(t *testing.T, cases []guesttest.Case) {
	s := newSite(t)
	s.client.Timeout = 3 * time.Minute // one compile may take 90 s
	b := newBystander(s)
	ctx, enough := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { b.validates(ctx) })
	watching.Go(func() { b.signsIn(ctx) })
	began := time.Now()
	b.waitFor(400) // so many validates are what the others are held against
	calm := b.p99(began)
	pid := s.cmd.Process.Pid
	before := memory(t, pid, "VmRSS")

	var table strings.Builder
	rows := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(rows, "stopped by\tupload ms\tlogin ms\tserver +MiB\tp99 ×\t case")
	most := 0
	measured := func(name, where, upload, login string, since time.Time) {
		grown := (memory(t, pid, "VmHWM") - before) >> 20
		most = max(most, grown)
		ratio := "-" // none was validated meanwhile
		if p99 := b.p99(since); p99 > 0 {
			ratio = fmt.Sprintf("%.1f", float64(p99)/float64(calm))
		}
		fmt.Fprintf(rows, "%s\t%s\t%s\t%d\t%s\t %s\n", where, upload, login, grown, ratio, name)
		forgetPeak(t, pid)
	}
	forgetPeak(t, pid)
	attacked := time.Now()
	var callable []string
	for i, c := range cases {
		since, tenant := time.Now(), fmt.Sprint("case-", i)
		upload, login := s.attack(tenant, c)
		ms := func(d time.Duration) string {
			if d == 0 {
				return "-"
			}
			return fmt.Sprint(d.Milliseconds())
		}
		measured(c.String(), c.Stopped.String(), ms(upload), ms(login), since)
		if c.Stopped == guesttest.Calling {
			callable = append(callable, tenant)
		}
	}
	// And all of them at once, as far as there are sockets.
	since := time.Now()
	var all sync.WaitGroup
	for _, tenant := range callable[:min(len(callable), 40)] {
		all.Go(func() {
			if got, err := s.login(tenant, "alice", guesttest.Canary); err != nil || got.status != 503 {
				t.Errorf("%s, at once: %d %s %v", tenant, got.status, got.body, err)
			}
		})
	}
	all.Wait()
	measured(fmt.Sprintf("%d at once", min(len(callable), 40)), "", "-", fmt.Sprint(time.Since(since).Milliseconds()), since)
	enough()
	watching.Wait()
	rows.Flush()
	ratio := float64(b.p99(attacked)) / float64(calm)
	t.Logf("\n%s%d cases; main process %d still there; most it grew %d MiB from %d MiB; the honest tenant: %d logins, %d of them waited in vain, validates p99 %v before and %v during, × %.1f",
		table.String(), len(cases), pid, most, before>>20, b.logins, b.waited, calm, b.p99(attacked), ratio)

	select {
	case <-s.done:
		t.Fatal("the server has ended")
	default:
	}
	if b.logins < 10 {
		t.Errorf("only %d honest logins went through", b.logins)
	}
	// The race detector keeps several words of shadow for each that is touched. In
	// the whole corpus are guests that have passwords hashed, which this process
	// does, for anybody: up to 64 MiB for each core.
	limit := 50
	if len(cases) == len(guesttest.Hostile()) {
		limit += 64 * runtime.NumCPU()
	}
	if raceEnabled {
		limit *= 8
	}
	if most >= limit {
		t.Errorf("the server grew by %d MiB, want less than %d", most, limit)
	}
	// 2 × is the goal, on a machine that does nothing else. Here the attackers share
	// their two cores with the client that measures, and often with others: it finds
	// itself waiting for a core. A process that a guest held up stood still for a
	// second; that is what this would see.
	if during := b.p99(attacked); soak() && !raceEnabled && during > 2*calm && during > 100*time.Millisecond {
		t.Errorf("the honest tenant's validates: p99 %v before and %v during", calm, during)
	}
	log, err := os.ReadFile(s.log)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(log, []byte(guesttest.Canary)) {
		t.Error("the server's log holds a password or a secret")
	}
}

// attack uploads a hostile module for a tenant of its own, tries it and signs in
// with it, and tells what that took: 0 for what it did not get to.
func (s *site) attack(tenant string, c guesttest.Case) (upload, login time.Duration) {
	s.Helper()
	s.operate(201, "POST /tenants", map[string]any{"id": tenant})
	if bytes.Contains(c.Module, []byte("PEPPER")) {
		s.operate(200, "PUT /tenants/"+tenant+"/secrets/PEPPER", map[string]any{"value": guesttest.Canary})
	}
	began := time.Now()
	if c.Stopped <= guesttest.Granting {
		got := s.operate(422, "POST /tenants/"+tenant+"/verifiers", c.Module)
		upload = max(1, time.Since(began))
		if got.field("code") != "verifier_invalid" || !strings.Contains(got.field("detail"), c.Says) {
			s.Errorf("%s: %.2000s, want %q", c, got.body, c.Says)
		}
		if len(got.body) > 4<<10 {
			s.Errorf("%s: refused with %d bytes", c, len(got.body))
		}
		return upload, 0
	}
	s.operate(201, "POST /tenants/"+tenant+"/verifiers", c.Module)
	upload = time.Since(began)
	trace := s.operate(200, "POST /tenants/"+tenant+"/verifiers/1/try", map[string]any{"credential": guesttest.Request().Credential})
	s.operate(200, "POST /tenants/"+tenant+"/verifiers/1/activate", map[string]any{})
	fails := c.Stopped != guesttest.Nowhere
	if fails && !strings.Contains(trace.field("error"), c.Says) || !fails && trace.field("decision") != "accept" {
		s.Errorf("%s, tried: %s, want %q", c, trace.body, c.Says)
	}
	// A login ends by its limit and a quarter of a second. The machine may be busy
	// with other things, so one of three tries has to.
	limit := abi.DefaultWallMS*time.Millisecond + 250*time.Millisecond
	if bytes.Contains(c.Module, []byte(`"wall_ms":5000`)) {
		limit = abi.MaxWallMS*time.Millisecond + 250*time.Millisecond
	}
	login = time.Hour
	var got answer
	for try := 0; try < 3 && login > limit; try++ {
		began = time.Now()
		var err error
		if got, err = s.login(tenant, "alice", guesttest.Canary); err != nil {
			s.Fatalf("%s: %v", c, err)
		}
		login = min(login, time.Since(began))
	}
	switch {
	case fails && (got.status != 503 || got.field("code") != "verifier_unavailable"), !fails && got.status != 201:
		s.Errorf("%s: %d %s", c, got.status, got.body)
	case bytes.Contains(got.body, []byte(guesttest.Canary)) || bytes.Contains(got.body, []byte("wasm")):
		s.Errorf("%s: the answer tells more than it should: %s", c, got.body)
	case login > limit && !raceEnabled:
		s.Errorf("%s: took %v three times, want at most %v", c, login, limit)
	}
	s.checkLog(tenant, c)
	return upload, login
}

// checkLog reads what a tenant's log has of a case: the reason, no secret, and
// nothing that a terminal would act on.
func (s *site) checkLog(tenant string, c guesttest.Case) {
	s.Helper()
	got := s.operate(200, "GET /tenants/"+tenant+"/verifiers/logs", nil)
	var kept struct{ Logs []plugins.LogEntry }
	if err := json.Unmarshal(got.body, &kept); err != nil {
		s.Fatalf("%s: %v", c, err)
	}
	said := c.Stopped == guesttest.Nowhere
	for _, line := range kept.Logs {
		said = said || line.Level == "error" && strings.Contains(line.Text, c.Says)
		if at := strings.IndexFunc(line.Text, func(r rune) bool { return !unicode.IsPrint(r) }); at >= 0 {
			s.Errorf("%s: a line holds what is not printable: %q", c, line.Text[at:])
		}
	}
	if !said {
		s.Errorf("%s: its log does not say %q: %.500s", c, c.Says, got.body)
	}
	if bytes.Contains(got.body, []byte(guesttest.Canary)) {
		s.Errorf("%s: its log holds a secret", c)
	}
	if len(got.body) > 256<<10 {
		s.Errorf("%s: %d bytes of log were kept", c, len(got.body))
	}
}

// bystander is two tenants that have nothing to do with it.
type bystander struct {
	*site
	token string

	mu             sync.Mutex
	seen           []validated
	logins, waited int
	enough         chan struct{} // closed once there are so many validates
	wanted         int
}

type validated struct {
	began time.Time
	took  time.Duration
}

func newBystander(s *site) *bystander {
	s.Helper()
	s.tenant("honest", guesttest.Accepts("alice").Module())
	s.tenant("bystander", guesttest.Accepts("bob").Module())
	got, err := s.login("honest", "alice", "x")
	if err != nil || got.status != 201 {
		s.Fatalf("honest login: %d %s %v", got.status, got.body, err)
	}
	return &bystander{site: s, token: got.field("token"), enough: make(chan struct{})}
}

// validates asks for its session 200 times a second.
func (b *bystander) validates(ctx context.Context) {
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	for {
		select {
		case <-pace.C:
		case <-ctx.Done():
			return
		}
		began := time.Now()
		got, err := b.send("GET "+b.public+"/t/honest/v1/session", nil, "Authorization", "Bearer "+b.token)
		if err != nil || got.status != 200 {
			b.Errorf("an honest validate: %d %s %v", got.status, got.body, err)
			return
		}
		b.mu.Lock()
		if b.seen = append(b.seen, validated{began, time.Since(began)}); len(b.seen) == b.wanted {
			close(b.enough)
		}
		b.mu.Unlock()
	}
}

// signsIn signs in ten times a second, at another tenant's door than the session
// that is validated: an eleventh of one user's ends the first.
func (b *bystander) signsIn(ctx context.Context) {
	pace := time.NewTicker(100 * time.Millisecond)
	defer pace.Stop()
	for {
		select {
		case <-pace.C:
		case <-ctx.Done():
			return
		}
		got, err := b.login("bystander", "bob", "x")
		switch {
		case err == nil && got.status == 201:
			b.logins++
		case err == nil && got.status == 503 && raceEnabled:
			b.waited++ // loading a module takes so much longer that it may wait in vain
		default:
			b.Errorf("honest login %d: %d %s %v", b.logins, got.status, got.body, err)
			return
		}
	}
}

// waitFor waits until there are so many validates.
func (b *bystander) waitFor(n int) {
	b.Helper()
	b.mu.Lock()
	b.wanted = n
	done := len(b.seen) >= n
	b.mu.Unlock()
	if done {
		return
	}
	select {
	case <-b.enough:
	case <-time.After(time.Minute):
		b.Fatalf("no %d validates in a minute", n)
	}
}

// p99 is of the validates that began since then.
func (b *bystander) p99(since time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	var took []time.Duration
	for _, v := range slices.Backward(b.seen) {
		if v.began.Before(since) {
			break
		}
		took = append(took, v.took)
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[(len(took)*99-1)/100]
}

// A verifier that asked for the server's own addresses in its manifest does not
// reach them; its tenant's log says why, and no address that was not known.
func TestAVerifierReachesNothingInside(t *testing.T) {
	s := newSite(t)
	_, port, _ := strings.Cut(strings.TrimPrefix(s.admin, "http://"), ":")
	for i, c := range []struct{ host, url, want string }{
		{"127.0.0.1:443", "https://127.0.0.1/", "http_fetch: upstream failed: 127.0.0.1 is at an address that verifiers may not reach"},
		{"127.0.0.1:8443", "https://127.0.0.1:8443/", "is at an address that verifiers may not reach"},
		{"127.0.0.1:" + port, "http://127.0.0.1:" + port + "/metrics", "host not allowed"},
		{"169.254.169.254:443", "https://169.254.169.254/", "is at an address that verifiers may not reach"},
	} {
		g := guesttest.Calls(abi.FuncHTTPFetch, 1, `{"url":"`+c.url+`"}`)
		g.Manifest = fmt.Appendf(nil, `{"abi":1,"grants":{"http":{"hosts":[%q]}}}`, c.host)
		tenant := fmt.Sprint("inside", i)
		s.tenant(tenant, g.Module())
		if got, err := s.login(tenant, "alice", "x"); err != nil || got.status != 503 {
			t.Errorf("%s: %d %s %v", c.url, got.status, got.body, err)
		}
		if logs := s.operate(200, "GET /tenants/"+tenant+"/verifiers/logs", nil); !strings.Contains(string(logs.body), c.want) {
			t.Errorf("%s: %s, want %q", c.url, logs.body, c.want)
		}
	}
}

func TestAWorkerKilledMidLoginCostsThatLogin(t *testing.T) {
	s := newSite(t)
	loops := guesttest.Loops()
	loops.Manifest = []byte(`{"abi":1,"limits":{"cpu_ms":500,"wall_ms":5000}}`) // long enough to be killed in the middle
	s.tenant("loops", loops.Module())
	ended := make(chan answer, 1)
	go func() {
		got, err := s.login("loops", "alice", "x")
		if err != nil {
			t.Error(err)
		}
		ended <- got
	}()
	// Kill its children, until the login has ended.
	for killed := false; !killed; {
		select {
		case got := <-ended:
			if got.status != 503 {
				t.Errorf("the login whose worker was killed: %d %s", got.status, got.body)
			}
			killed = true
		default:
			out, _ := exec.Command("pgrep", "-P", strconv.Itoa(s.cmd.Process.Pid)).Output() // none is no error here
			for pid := range strings.FieldsSeq(string(out)) {
				n, _ := strconv.Atoi(pid)
				if child, err := os.FindProcess(n); err == nil {
					child.Kill()
				}
			}
		}
	}
	// All children were killed, some of them a moment ago: a login may meet one of
	// those yet, but there are only so many.
	for try := 1; ; try++ {
		got, err := s.login("demo", "demo", s.password)
		if err == nil && got.status == 201 {
			break
		}
		if err != nil || try == 32 {
			t.Fatalf("login %d after it: %d %s %v", try, got.status, got.body, err)
		}
	}
}

func TestWhatWasAcknowledgedOutlivesKill9(t *testing.T) {
	s := newSite(t)
	s.tenant("honest", guesttest.Accepts("alice").Module())
	var tokens []string
	for round := range 3 {
		for i := range 20 {
			got, err := s.login("honest", "alice"+fmt.Sprint(i%3), "x")
			if err != nil || got.status != 201 {
				t.Fatalf("round %d: %d %s %v", round, got.status, got.body, err)
			}
			tokens = append(tokens, got.field("token"))
		}
		s.crash()
		s.start()
		// All are alice's, who may have ten: the last ten live, in whatever round.
		for i, token := range tokens {
			got, err := s.send("GET "+s.public+"/t/honest/v1/session", nil, "Authorization", "Bearer "+token)
			if want := i >= len(tokens)-10; err != nil || want != (got.status == 200) {
				t.Errorf("round %d, session %d of %d: %d %s %v", round, i, len(tokens), got.status, got.body, err)
			}
		}
	}
}

// memory is a line of a process's status, such as VmRSS, in bytes.
func memory(t *testing.T, pid int, what string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, what+":"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("no %s in /proc", what)
	return 0
}

// forgetPeak has the kernel measure VmHWM anew.
func forgetPeak(t *testing.T, pid int) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
}
