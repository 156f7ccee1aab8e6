package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/sessions"
	sessionsetcd "github.com/doorward/doorward/sessions/etcd"
)

// What is promised of sessions when something is broken, on real processes.

// newPair runs two nodes with these environments at the same time.
func newPair(t *testing.T, first, second []string) (a, b *site) {
	t.Helper()
	var starting sync.WaitGroup
	starting.Go(func() { a = newSite(t, first...) }) // nil where it failed
	starting.Go(func() { b = newSite(t, second...) })
	starting.Wait()
	if t.Failed() || a == nil || b == nil {
		t.FailNow()
	}
	return a, b
}

// behind is newPair on one etcd, the second node with a relay before it.
func behind(t *testing.T, relayed ...string) (a, b *site, r *relay) {
	t.Helper()
	_, env := sharedEtcd(t)
	r = newRelay(t, strings.TrimPrefix(env[0], "DOORWARD_ETCD_ENDPOINTS="))
	a, b = newPair(t, env, append([]string{"DOORWARD_ETCD_ENDPOINTS=" + r.address, env[1]}, relayed...))
	return a, b, r
}

// in is s for a part of its test.
func (s *site) in(t *testing.T) *site {
	part := *s
	part.TB = t
	return &part
}

// honest makes a tenant that signs everybody in as alice, who may have a
// thousand sessions, with these settings besides.
func (s *site) honest(id string, settings map[string]any) {
	s.Helper()
	s.tenant(id, guesttest.Accepts("alice").Module())
	all := map[string]any{"session": map[string]any{"max_per_subject": 1000}}
	for name, value := range settings {
		all[name] = value
	}
	s.operate(http.StatusOK, "PATCH /tenants/"+id, all)
}

// each does n things, some at a time.
func each(n, atOnce int, do func(i int)) {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(n, atOnce) {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	workers.Wait()
}

// decided asks again while a machine that is busy with other things says 503.
func (s *site) decided(ask func() (answer, error)) (answer, error) {
	for began := time.Now(); ; {
		got, err := ask()
		if err != nil || got.status != http.StatusServiceUnavailable || time.Since(began) > 20*time.Second {
			return got, err
		}
	}
}

// opens signs in n times and returns their tokens.
func (s *site) opens(tenant string, n int) []string {
	s.Helper()
	tokens := make([]string, n)
	each(n, 12, func(i int) {
		got, err := s.decided(func() (answer, error) { return s.login(tenant, "alice", "x") })
		if err != nil || got.status != http.StatusCreated {
			s.Errorf("sign in: %d %s %v", got.status, got.body, err)
			return
		}
		tokens[i] = got.field("token")
	})
	if s.Failed() {
		s.FailNow()
	}
	return tokens
}

// session asks for a session, or with DELETE ends it.
func (s *site) session(method, tenant, token string) (answer, error) {
	return s.send(method+" "+s.public+"/t/"+tenant+"/v1/session", nil, "Authorization", "Bearer "+token)
}

// meets waits until the node answers 200 for each of them, and reports how long
// that took.
func (s *site) meets(within time.Duration, tenant string, tokens ...string) time.Duration {
	s.Helper()
	began := time.Now()
	each(len(tokens), 16, func(i int) {
		for {
			got, err := s.session("GET", tenant, tokens[i])
			if err == nil && got.status == http.StatusOK && got.field("degraded") == "false" {
				return
			}
			if time.Since(began) > within {
				s.Errorf("session %d is not accepted within %v: %d %s %v", i, within, got.status, got.body, err)
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
	if s.Failed() {
		s.FailNow()
	}
	return time.Since(began)
}

// ends signs out and returns when that was acknowledged.
func (s *site) ends(tenant, token string) time.Time {
	s.Helper()
	got, err := s.decided(func() (answer, error) { return s.session("DELETE", tenant, token) })
	if err != nil || got.status != http.StatusNoContent {
		s.Errorf("sign out: %d %s %v", got.status, got.body, err)
	}
	return time.Now()
}

// percentile of durations, which it sorts.
func percentile(of []time.Duration, p int) time.Duration {
	slices.Sort(of)
	return of[max(0, (len(of)*p+99)/100-1)]
}

// finds reads how many sessions the node has found, by where.
func (s *site) finds(from string) int {
	s.Helper()
	return int(s.metric(`doorward_sessions_finds_total{from="` + from + `"}`))
}

func TestFaultARevokeIsHeardWithinMilliseconds(t *testing.T) {
	_, env := sharedEtcd(t)
	a, b := newPair(t, env, env)
	a.honest("honest", nil)
	const rounds, sessions = 3, 100
	for round := range rounds {
		var gaps []time.Duration // from the ack until the first refusal had come
		accepts, late := 0, time.Duration(0)
		for _, token := range a.opens("honest", sessions) {
			b.meets(5*time.Second, "honest", token)
			ack := a.ends("honest", token)
			for {
				asked := time.Now()
				got, err := b.session("GET", "honest", token)
				if err != nil || got.status != http.StatusOK && got.status != http.StatusUnauthorized && got.status != http.StatusServiceUnavailable {
					t.Fatalf("validate at B: %d %s %v", got.status, got.body, err)
				}
				if got.status == http.StatusUnauthorized {
					gaps = append(gaps, time.Since(ack))
					break
				}
				if got.status == http.StatusOK {
					accepts++
					late = max(late, asked.Sub(ack))
				}
				time.Sleep(time.Until(asked.Add(time.Millisecond)))
			}
		}
		p50, p99 := percentile(gaps, 50), percentile(gaps, 99)
		t.Logf("%d sessions: ack → refused p50 %v, p99 %v, longest %v; %d accepts after the ack, the last %v after it",
			sessions, p50, p99, gaps[len(gaps)-1], accepts, late)
		if late > 2*time.Second {
			t.Errorf("an ended session was accepted %v after its end", late)
		}
		// The machine may be busy with other things, so one of the rounds has to.
		if p99 <= 100*time.Millisecond {
			return
		}
		if round == rounds-1 {
			t.Errorf("p99 was above 100 ms %d times", rounds)
		}
	}
}

func TestFaultAStoppedNodeAcceptsNothingThatEnded(t *testing.T) { stopped(t, 3*time.Second) }

func TestSoakAStoppedNodeAcceptsNothingThatEnded(t *testing.T) {
	if !soak() {
		t.Skip("takes a minute; make soak")
	}
	stopped(t, 20*time.Second)
}

// stopped stops a node that long, while sessions it knows end at another.
func stopped(t *testing.T, long time.Duration) {
	_, env := sharedEtcd(t)
	a, b := newPair(t, env, env)
	a.honest("honest", nil)
	b.client.Transport.(*http.Transport).MaxIdleConnsPerHost = 600
	for _, c := range []struct {
		name string
		end  func(a *site, tokens []string)
		wait bool // with asking until the node runs again
	}{
		{"one by one", func(a *site, tokens []string) {
			each(len(tokens), 16, func(i int) { a.ends("honest", tokens[i]) })
		}, true},
		{"all at once, and asked while it is stopped", func(a *site, _ []string) {
			a.operate(http.StatusOK, "POST /tenants/honest/sessions/revoke", map[string]bool{"all": true})
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := a.in(t), b.in(t)
			const n = 500
			tokens := a.opens("honest", n)
			b.meets(10*time.Second, "honest", tokens...)
			before := b.finds("memory")
			ask := make(chan struct{})
			var ready, asking sync.WaitGroup
			var statuses sync.Map
			var began, last atomic.Int64
			for _, token := range tokens {
				ready.Add(1)
				asking.Go(func() {
					// The first one is to open the connection and to see it in memory.
					if got, err := b.session("GET", "honest", token); err != nil || got.status != http.StatusOK {
						t.Errorf("validate before: %d %s %v", got.status, got.body, err)
					}
					ready.Done()
					<-ask
					now := time.Now().UnixNano()
					began.CompareAndSwap(0, now)
					for old := last.Load(); now > old && !last.CompareAndSwap(old, now); old = last.Load() {
					}
					got, err := b.session("GET", "honest", token)
					if err != nil {
						t.Errorf("validate: %v", err)
						return
					}
					count, _ := statuses.LoadOrStore(got.status, new(atomic.Int64))
					count.(*atomic.Int64).Add(1)
				})
			}
			ready.Wait()
			// Under the race detector a busy machine lets proofs grow old.
			if found := b.finds("memory") - before; found < n/2 && !raceEnabled {
				t.Errorf("only %d of %d sessions were in B's memory", found, n)
			}
			stop := time.Now()
			b.cmd.Process.Signal(syscall.SIGSTOP)
			c.end(a, tokens)
			if !c.wait {
				close(ask)
			}
			time.Sleep(time.Until(stop.Add(long))) // it is the length of the stop that is tried
			b.cmd.Process.Signal(syscall.SIGCONT)
			if c.wait {
				close(ask)
			}
			asking.Wait()
			got := map[int]int64{}
			statuses.Range(func(status, count any) bool {
				got[status.(int)] = count.(*atomic.Int64).Load()
				return true
			})
			t.Logf("stopped for %v; %d asked within %v of each other: %v", long, n, time.Duration(last.Load()-began.Load()), got)
			if got[http.StatusOK] > 0 {
				t.Errorf("%d ended sessions were accepted", got[http.StatusOK])
			}
			if got[http.StatusUnauthorized]+got[http.StatusServiceUnavailable] != n {
				t.Errorf("answers are %v", got)
			}
			// It serves again: what ended is refused, what did not is accepted.
			b.meets(10*time.Second, "honest", a.opens("honest", 1)...)
			if got, err := b.session("GET", "honest", tokens[0]); err != nil || got.status != http.StatusUnauthorized {
				t.Errorf("validate after: %d %s %v", got.status, got.body, err)
			}
		})
	}
}

// Whatever the network between a node and etcd loses, and whether anybody says
// so or not, a session's end counts at that node, or it says that it cannot
// tell.
func TestFaultALostWatchAcceptsNothingThatEnded(t *testing.T) {
	a, b, r := behind(t)
	a.honest("honest", nil)
	watched := 7 * time.Second
	for i, c := range []struct {
		name  string
		fault fault
		heals bool // by itself
	}{
		{"the watch alone is swallowed", deaf, false},
		{"all that etcd says is swallowed", mute, false},
		{"all that etcd says is swallowed on the connections there are", halfMute, true},
		{"every connection is cut", severed, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := a.in(t), b.in(t)
			live, ended := a.opens("honest", 5), a.opens("honest", 10)
			b.meets(20*time.Second, "honest", append(live, ended...)...)
			// One more ends with its tenant, of whose state B does not hear either.
			leaves := "leaves" + strconv.Itoa(i)
			a.honest(leaves, nil)
			left := a.opens(leaves, 1)[0]
			b.meets(20*time.Second, leaves, left)
			r.set(c.fault)
			defer r.set(healthy)
			var watching sync.WaitGroup
			var mu sync.Mutex
			counts := map[string]int{}
			lastAccept, slowest := time.Duration(0), time.Duration(0)
			watch := func(tenant, token, is string, since time.Time) {
				for tick := since; time.Since(since) < watched; tick = tick.Add(20 * time.Millisecond) {
					time.Sleep(time.Until(tick))
					asked := time.Now()
					got, err := b.session("GET", tenant, token)
					if err != nil {
						t.Errorf("validate: %v", err)
						return
					}
					mu.Lock()
					counts[is+" "+strconv.Itoa(got.status)]++
					slowest = max(slowest, time.Since(asked))
					if is == "ended" && got.status == http.StatusOK {
						lastAccept = max(lastAccept, asked.Sub(since))
					}
					mu.Unlock()
					if got.status != http.StatusOK && got.status != http.StatusServiceUnavailable && (is == "live" || got.status != http.StatusUnauthorized) {
						t.Errorf("validate of one that is %s: %d %s", is, got.status, got.body)
					}
				}
			}
			a.operate(http.StatusOK, "POST /tenants/"+leaves+"/suspend", nil)
			suspended := time.Now()
			watching.Go(func() { watch(leaves, left, "ended", suspended) })
			for _, token := range live {
				watching.Go(func() { watch("honest", token, "live", time.Now()) })
			}
			for _, token := range ended {
				watching.Go(func() { watch("honest", token, "ended", a.ends("honest", token)) })
			}
			watching.Wait()
			t.Logf("the last accept began %v after the ack; answers %v, the slowest took %v", lastAccept, counts, slowest)
			if lastAccept > 5*time.Second {
				t.Errorf("an ended session was accepted %v after its end", lastAccept)
			}
			if !c.heals {
				r.set(healthy)
			}
			t.Logf("accepts again %v after it was healed", b.meets(25*time.Second, "honest", live...))
			for _, token := range ended {
				got, err := b.decided(func() (answer, error) { return b.session("GET", "honest", token) })
				if err != nil || got.status != http.StatusUnauthorized {
					t.Errorf("validate of one that ended, after all: %d %s %v", got.status, got.body, err)
				}
			}
			b.meets(10*time.Second, "honest", b.opens("honest", 1)...)
		})
	}
}

// The etcd of these two nodes is the first one's own, and stops with it.
func TestFaultWithoutEtcdATenantChoosesWhatCounts(t *testing.T) {
	a := newSite(t)
	b := newSite(t, "DOORWARD_ETCD_ENDPOINTS=unix://"+a.dir+"/data/run/client", "DOORWARD_KEYRING_FILE="+a.dir+"/data/keyring")
	const bound = 4 * time.Second
	a.honest("closed", nil)
	a.honest("bounded", map[string]any{"without_quorum": "bounded:4"})
	tokens := map[string]string{"closed": a.opens("closed", 1)[0], "bounded": a.opens("bounded", 1)[0]}
	unseen := a.opens("bounded", 1)[0] // of which B never heard
	for tenant, token := range tokens {
		b.meets(20*time.Second, tenant, token)
	}
	a.cmd.Process.Signal(syscall.SIGSTOP)
	stop := time.Now()
	type found struct {
		tenant   string
		at, took time.Duration
		status   int
		age      time.Duration // of the proof, when degraded
	}
	var mu sync.Mutex
	var all []found
	var asking sync.WaitGroup
	ask := func(name, tenant, token string) {
		for tick := stop; time.Since(stop) < bound+3*time.Second; tick = tick.Add(20 * time.Millisecond) {
			time.Sleep(time.Until(tick))
			asked := time.Now()
			got, err := b.session("GET", tenant, token)
			if err != nil {
				t.Errorf("validate: %v", err)
				return
			}
			f := found{tenant: name, at: asked.Sub(stop), took: time.Since(asked), status: got.status}
			if got.field("degraded") == "true" {
				if f.age, err = time.ParseDuration(got.field("proof_age")); err != nil || f.age <= 0 {
					t.Errorf("degraded without the age of its proof: %s", got.body)
				}
			}
			mu.Lock()
			all = append(all, f)
			mu.Unlock()
		}
	}
	for tenant, token := range tokens {
		asking.Go(func() { ask(tenant, tenant, token) })
	}
	asking.Go(func() { ask("unseen", "bounded", unseen) })
	began := time.Now()
	in, err := b.login("bounded", "alice", "x")
	if err != nil || in.status != http.StatusServiceUnavailable || in.header.Get("Retry-After") == "" {
		t.Errorf("sign in without etcd: %d %s %v", in.status, in.body, err)
	}
	t.Logf("sign in without etcd: %s after %v", in.field("code"), time.Since(began))
	asking.Wait()
	slices.SortFunc(all, func(x, y found) int { return cmp.Compare(x.at, y.at) })
	var took []time.Duration
	degraded, oldest := 0, time.Duration(0)
	last, firstRefused := map[string]time.Duration{}, map[string]time.Duration{}
	for _, f := range all {
		took = append(took, f.took)
		switch f.status {
		case http.StatusOK:
			last[f.tenant] = f.at
			// Trust ends 500 ms after the last proof, which was before the stop.
			if f.age == 0 && f.at > 500*time.Millisecond {
				t.Errorf("%s: accepted %v after the stop, and not marked", f.tenant, f.at)
			}
			if f.age > 0 {
				degraded++
				oldest = max(oldest, f.age)
			}
		case http.StatusServiceUnavailable:
			if _, ok := firstRefused[f.tenant]; !ok {
				firstRefused[f.tenant] = f.at
			}
			if f.tenant == "bounded" && f.at+f.took < bound-500*time.Millisecond {
				t.Errorf("bounded: 503 after %v", f.at)
			}
		default:
			t.Errorf("%s: %d after %v", f.tenant, f.status, f.at)
		}
	}
	t.Logf("%d asked, p99 %v; closed: last 200 asked for at %v, first 503 at %v; bounded: %d degraded, the oldest proof %v, last 200 at %v, first 503 at %v",
		len(all), percentile(took, 99), last["closed"], firstRefused["closed"], degraded, oldest, last["bounded"], firstRefused["bounded"])
	if degraded == 0 || oldest > bound || last["bounded"] > bound || last["bounded"] < bound-time.Second || firstRefused["bounded"] == 0 {
		t.Errorf("the bound of %v is not what counted", bound)
	}
	if last["closed"] > 500*time.Millisecond || firstRefused["closed"] > 2*time.Second {
		t.Error("fail-closed did not close at once")
	}
	if at, ok := last["unseen"]; ok {
		t.Errorf("a session that B never knew was accepted after %v", at)
	}
	if p99 := percentile(took, 99); p99 > 2*time.Second {
		t.Errorf("p99 %v", p99)
	}
	a.cmd.Process.Signal(syscall.SIGCONT)
	for tenant, token := range tokens {
		t.Logf("%s: accepts again after %v", tenant, b.meets(20*time.Second, tenant, token))
	}
	b.meets(20*time.Second, "bounded", unseen)
	b.meets(20*time.Second, "bounded", b.opens("bounded", 1)...)
}

func TestFaultASecondNodeAnswersFromMemory(t *testing.T) {
	for _, mode := range []string{"replicated", "cached"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			_, env := sharedEtcd(t)
			a, b := newPair(t, env, append(env, "DOORWARD_SESSIONS_MODE="+mode))
			a.honest("honest", nil)
			const n, tries = 100, 3
			// A busy machine may let a proof grow old; it need not three times.
			for try := 1; ; try++ {
				before := b.metric("doorward_sessions_held")
				tokens := a.opens("honest", n)
				if mode == "cached" {
					b.meets(10*time.Second, "honest", tokens...) // the first read of each
				}
				for began := time.Now(); b.metric("doorward_sessions_held") < before+n; {
					if time.Since(began) > 10*time.Second {
						t.Fatalf("B holds %v sessions, want %v", b.metric("doorward_sessions_held"), before+n)
					}
				}
				store, memory := b.finds("store"), b.finds("memory")
				for _, token := range tokens {
					if got, err := b.session("GET", "honest", token); err != nil || got.status != http.StatusOK {
						t.Fatalf("validate at B: %d %s %v", got.status, got.body, err)
					}
				}
				store, memory = b.finds("store")-store, b.finds("memory")-memory
				t.Logf("%d sessions made at A, found at B: %d from memory, %d from the store", n, memory, store)
				if store == 0 && memory == n {
					break
				}
				if try == tries {
					t.Fatalf("%d reads of the store", store)
				}
			}
		})
	}
}

// Many sessions end at one moment, and none of them lives longer because etcd
// has so many to clear away: the deadline is in the record.
func deadline(t *testing.T, n int, in time.Duration) {
	client := startMember(t)
	source := newSource(t, client)
	store := newStore(t, client, source, sessionsetcd.Config{})
	tenant := newTenant(t, source, "acme")
	managers := map[sessions.Mode]*sessions.Manager{}
	// What each asks about: a read of the store takes its time.
	most := map[sessions.Mode]int{sessions.Centralized: 2000, sessions.Cached: 10_000, sessions.Replicated: n}
	for _, mode := range []sessions.Mode{sessions.Centralized, sessions.Cached, sessions.Replicated} {
		m := sessions.New(store, store, sessions.Config{Mode: mode})
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		done := make(chan struct{})
		go func() { defer close(done); m.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-done })
		if err := m.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		managers[mode] = m
	}
	now := time.Now().UTC().Truncate(time.Millisecond) // as records keep it
	end := now.Add(in)
	tokens := make([]sessions.Token, n)
	each(n, 256, func(i int) {
		tokens[i] = sessions.NewToken()
		d := tokens[i].Digest(tenant)
		one := sessions.Creation{Digest: d, Session: sessions.Session{
			ID: d.ID(), Tenant: tenant, Subject: "user" + strconv.Itoa(i), Claims: json.RawMessage("{}"),
			AuthTime: now, CreatedAt: now, IssuedAt: now, LastSeenAt: now,
			Idle: time.Hour, IdleExpiresAt: end.Add(time.Hour), ExpiresAt: end, // the absolute one alone decides
		}}
		_, err := store.Create(t.Context(), one)
		for errors.Is(err, sessions.ErrUnavailable) && time.Now().Before(end) { // a busy machine is slow
			_, err = store.Create(t.Context(), one)
		}
		if err != nil {
			t.Errorf("create: %v", err)
		}
	})
	made := time.Since(now)
	if t.Failed() {
		return
	}
	// sweep asks about each once, and reports how many were accepted, of how many,
	// and when the last of these was asked about.
	sweep := func(mode sessions.Mode) (accepted, of int64, last time.Time) {
		var count, latest atomic.Int64
		step := max(1, n/most[mode])
		each(n/step, 8, func(i int) {
			asked := time.Now()
			_, err := managers[mode].Find(t.Context(), tenant, tokens[i*step], sessions.Reading{})
			switch {
			case err == nil:
				count.Add(1)
				for old := latest.Load(); asked.UnixNano() > old && !latest.CompareAndSwap(old, asked.UnixNano()); old = latest.Load() {
				}
			case !errors.Is(err, sessions.ErrNotFound) || asked.Before(end) && time.Now().Before(end):
				t.Errorf("find %v before the deadline: %v", end.Sub(asked), err)
			}
		})
		return count.Load(), int64(n / step), time.Unix(0, latest.Load())
	}
	for mode := range managers {
		if accepted, of, _ := sweep(mode); accepted < of {
			t.Fatalf("%s: %d of %d were accepted before their deadline, which is in %v: is the machine too slow?", mode, accepted, of, time.Until(end))
		}
	}
	asked := time.Until(end)
	var last time.Time
	for time.Now().Before(end) { // they are used all the time
		if accepted, _, at := sweep(sessions.Replicated); accepted > 0 {
			last = at
		}
	}
	time.Sleep(time.Until(end.Add(time.Second)))
	for _, mode := range []sessions.Mode{sessions.Replicated, sessions.Cached, sessions.Centralized} {
		if accepted, of, _ := sweep(mode); accepted > 0 {
			t.Errorf("%s: %d of %d were accepted a second after their deadline", mode, accepted, of)
		}
	}
	held, err := store.Count(t.Context(), tenant, sessions.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d sessions made in %v, all accepted until %v before their deadline; the last accept was asked for %v before it; etcd still holds %d %v after it",
		n, made, asked, end.Sub(last), held, time.Since(end))
	if last.After(end) {
		t.Errorf("one was accepted %v after its deadline", last.Sub(end))
	}
	if held != n {
		t.Errorf("etcd holds %d of %d, so this shows nothing", held, n)
	}
}

func TestFaultSessionsThatEndTogetherEndInTime(t *testing.T) { deadline(t, 2000, 12*time.Second) }

func TestSoakSessionsThatEndTogetherEndInTime(t *testing.T) {
	if !soak() {
		t.Skip("takes minutes; make soak")
	}
	deadline(t, 100_000, 3*time.Minute)
}

// soak reports whether there is time for the long forms of these tests.
func soak() bool { return os.Getenv("DOORWARD_SOAK") != "" }
