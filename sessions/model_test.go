package sessions_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/doorward/doorward/sessions"
)

// grace is how long a token that was rotated away still opens its session.
const grace = 30 * time.Second

// Short, so that whole lives fit into a test: what runs ten times a second
// costs real time.
var short = sessions.Policy{Idle: 60 * time.Second, Absolute: 150 * time.Second, Remember: 200 * time.Second, MaxPerSubject: 3}

// step is one thing that happens, drawn before the clock starts so that a
// failure shrinks to the fewest of them.
type step struct {
	Do     string
	Node   int
	Which  int    // session, subject, tenant, verifier: modulo what there is
	Back   int    // token: 0 is the latest
	Amount int    // of time, or whatever the step takes
	Seed   uint64 // of the fate of writes
}

func (s step) String() string {
	return fmt.Sprintf("%s node=%d which=%d back=%d amount=%d", s.Do, s.Node, s.Which, s.Back, s.Amount)
}

var steps = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
	return step{
		Do: rapid.SampledFrom([]string{
			"nothing", "open", "open", "find", "find", "find", "find", "find", "rotate", "rotate", "rotate together",
			"sleep", "sleep", "sleep", "sleep", "close", "close id", "revoke subject", "revoke others", "revoke tenant",
			"revoke verifier", "revoke everybody", "lease ends early", "fault", "fault", "fault", "heal", "heal",
		}).Draw(t, "do"),
		Node: rapid.IntRange(0, 1).Draw(t, "node"), Which: rapid.IntRange(0, 11).Draw(t, "which"),
		Back: rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(t, "back"), Amount: rapid.IntRange(0, 11).Draw(t, "amount"),
		Seed: rapid.Uint64().Draw(t, "seed"),
	}
}), 20, 45) // what a failure does not need shrinks to "nothing"

var modes = rapid.SampledFrom([]sessions.Mode{centralized, cached, cached, replicated, replicated})

// held is a session as the model knows it.
type held struct {
	sessions.Session
	tokens []chained // in the order of rotation; none when nobody was told of the session

	mustLive time.Time // until then its idle time cannot have ended
	mustDie  time.Time // from then on it must have
	ended    time.Time // when that was acknowledged
	revision int64     // of that write, if known
	doubt    bool      // it may have ended, or may never have been
}

// chained is one token of a session. It was rotated away at some moment
// between the two times, if they are set; maybe says that it may not have been.
type chained struct {
	sessions.Token
	from, to time.Time
	maybe    bool
}

// world is the model beside what it is a model of.
type world struct {
	ctx    context.Context
	memory *sessions.Memory
	nodes  []*node
	faulty [2]bool
	calm   [2]time.Time // when the faults of a node were healed
	began  time.Time    // this step
	held   []*held
	newest int64 // the latest revision that an end was acknowledged with
	trace  []string
}

// seen is what the lives came across, so that a model of nothing is noticed.
var seen struct {
	live, none, unavailable, degraded, memory, reused, loads, rotated, overLimit, late atomic.Int64
}

func TestAManagerDoesAsTheModelSays(t *testing.T) {
	checks := flag.Lookup("rapid.checks")
	if checks.Value.String() == checks.DefValue {
		if err := checks.Value.Set(fmt.Sprint(modelSeeds)); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = checks.Value.Set(checks.DefValue) }()
	}
	rapid.Check(t, func(r *rapid.T) {
		a, b, plan := modes.Draw(r, "mode of node 0"), modes.Draw(r, "mode of node 1"), steps.Draw(r, "steps")
		var failed error
		synctest.Test(t, func(t *testing.T) { failed = live(t.Context(), a, b, plan) })
		if failed != nil {
			r.Fatal(failed)
		}
	})
	for what, n := range map[string]int64{
		"live": seen.live.Load(), "none": seen.none.Load(), "unavailable": seen.unavailable.Load(), "degraded": seen.degraded.Load(),
		"from memory": seen.memory.Load(), "ended by reuse": seen.reused.Load(), "loads": seen.loads.Load(), "rotated": seen.rotated.Load(),
		"ended beyond the limit": seen.overLimit.Load(), "accepted within the trust of a copy": seen.late.Load(),
	} {
		t.Logf("%s: %d", what, n)
		if n == 0 && !t.Failed() && flag.Lookup("rapid.checks").Value.String() == "2000" {
			t.Errorf("no life came across: %s", what)
		}
	}
}

// live is one life, from an empty store to everything healed and looked at.
func live(ctx context.Context, a, b sessions.Mode, plan []step) error {
	memory := sessions.NewMemory()
	nodes, end := cluster(ctx, memory, a, b)
	w := &world{ctx: ctx, memory: memory, nodes: nodes}
	w.say("nodes: %s, %s", a, b)
	synctest.Wait()
	err := w.play(plan)
	for _, n := range nodes {
		n.link.heal()
		stats := n.Stats()
		seen.memory.Add(stats.FromMemory)
		seen.degraded.Add(stats.Degraded)
		seen.reused.Add(stats.Reused)
		seen.loads.Add(int64(max(0, n.link.calls("Load")-1)))
	}
	if ended := end(); err == nil {
		err = ended
	}
	if err != nil {
		for _, line := range w.trace {
			err = fmt.Errorf("%w\n%s", err, line)
		}
	}
	return err
}

func (w *world) say(format string, args ...any) {
	w.trace = append(w.trace, time.Now().Format("04:05.000000 ")+fmt.Sprintf(format, args...))
}

func (w *world) play(plan []step) error {
	for _, s := range plan {
		w.say("%v", s)
		w.began = time.Now()
		if err := w.take(s); err != nil {
			return err
		}
		synctest.Wait()
		time.Sleep(time.Millisecond) // so that no two are made at the same moment
	}
	w.say("at the end")
	for i := range w.nodes {
		w.heal(i)
	}
	time.Sleep(3 * time.Second)
	w.began = time.Now()
	for i := range w.nodes {
		for _, h := range w.held {
			if len(h.tokens) > 0 {
				if err := w.find(i, h, 0, sessions.Reading{}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

var tenants = []string{"tenant-a", "tenant-b"}

func (w *world) take(s step) error {
	n := w.nodes[s.Node]
	if strings.HasPrefix(s.Do, "revoke") && s.Amount > 4 { // seldom, or nothing would live
		return nil
	}
	var known []*held // sessions with tokens
	for _, h := range w.held {
		if len(h.tokens) > 0 {
			known = append(known, h)
		}
	}
	switch s.Do {
	case "open":
		return w.open(s, known)
	case "nothing":
		return nil
	case "sleep":
		time.Sleep([]time.Duration{
			time.Millisecond, 20 * time.Millisecond, 99 * time.Millisecond, 300 * time.Millisecond, 501 * time.Millisecond, time.Second,
			3 * time.Second, 6 * time.Second, 17 * time.Second, 29 * time.Second, 31 * time.Second, 59 * time.Second,
		}[s.Amount])
		return nil
	case "fault":
		w.fault(s)
		return nil
	case "heal":
		w.heal(s.Node)
		return nil
	case "revoke tenant", "revoke verifier":
		tenant, f := tenants[s.Which%2], sessions.Filter{}
		if s.Do == "revoke verifier" {
			f.Digest = digests[s.Which/2%2]
		}
		_, _, revision, err := n.Revoke(w.ctx, tenant, f, "")
		return w.end(s, revision, err, func(h *held) bool {
			return h.Tenant == tenant && (f.Digest == "" || h.Verifier.Digest == f.Digest)
		})
	case "revoke everybody":
		revision, err := n.RevokeEverybody(w.ctx)
		return w.end(s, revision, err, func(*held) bool { return true })
	}
	if len(known) == 0 {
		return nil
	}
	h := known[max(0, len(known)-1-s.Which%6)]
	back := s.Back % len(h.tokens)
	switch s.Do {
	case "find":
		how := sessions.Reading{WithoutQuorum: []time.Duration{0, 0, 5 * time.Second, time.Minute}[s.Amount%4]}
		if s.Amount >= 8 {
			how.AtLeast = w.newest
		}
		return w.find(s.Node, h, back, how)
	case "rotate":
		return w.rotate(s, h, back, 1)
	case "rotate together":
		return w.rotate(s, h, 0, 4)
	case "close":
		token := h.tokens[len(h.tokens)-1-back].Token
		revision, err := n.Close(w.ctx, h.Tenant, token)
		if err == nil && revision == 0 {
			if w.certain(h, time.Now()) {
				return fmt.Errorf("close found nothing, though the session lives: %v", h.ID)
			}
		}
		return w.end(s, revision, err, func(other *held) bool { return other == h })
	case "close id":
		revision, err := n.CloseID(w.ctx, h.Tenant, h.ID)
		if errors.Is(err, sessions.ErrNotFound) {
			if w.certain(h, time.Now()) {
				return fmt.Errorf("close id found nothing, though the session lives: %v", h.ID)
			}
			err = nil
		}
		return w.end(s, revision, err, func(other *held) bool { return other == h })
	case "revoke subject", "revoke others":
		except := sessions.ID("")
		if s.Do == "revoke others" {
			except = h.ID
		}
		_, _, revision, err := n.Revoke(w.ctx, h.Tenant, sessions.Filter{Subject: h.Subject}, except)
		return w.end(s, revision, err, func(other *held) bool {
			return other.Tenant == h.Tenant && other.Subject == h.Subject && other.ID != except
		})
	case "lease ends early":
		revision, _, err := w.memory.DeleteID(w.ctx, h.Tenant, h.ID)
		return w.end(s, revision, err, func(other *held) bool { return other == h })
	}
	return fmt.Errorf("no such step: %s", s.Do)
}

// fault makes something go wrong at one node.
func (w *world) fault(s step) {
	l := w.nodes[s.Node].link
	w.faulty[s.Node] = true
	l.set(func(l *link) {
		switch s.Amount {
		case 0, 1:
			l.dark = true
		case 2:
			l.refuse = true
		case 3, 4:
			l.silent = true
		case 5:
			l.noted = true
		case 6:
			l.delay = 300 * time.Millisecond
		case 7:
			l.delay = 3 * time.Second
		case 8:
			l.slow = 150 * time.Millisecond
		case 9:
			l.slow = 600 * time.Millisecond
		case 10:
			l.fate = fates(s.Seed)
		}
	})
	if s.Amount == 11 {
		l.cut()
	}
}

func (w *world) heal(node int) {
	w.nodes[node].link.heal()
	if w.faulty[node] {
		w.faulty[node], w.calm[node] = false, time.Now()
	}
}

// mayFail reports whether a node may say ErrUnavailable in this step.
func (w *world) mayFail(node int) bool {
	return w.faulty[node] || w.calm[node].Add(2*time.Second).After(w.began)
}

// certain reports whether h lives, and will for as long as until.
func (w *world) certain(h *held, until time.Time) bool {
	return !h.doubt && h.ended.IsZero() && until.Before(h.ExpiresAt) && until.Before(h.mustLive)
}

// used notes a use on a node.
func (w *world) used(h *held, node int, at time.Time) {
	h.mustDie = time.Now().Add(h.Idle)
	if !w.mayFail(node) {
		h.mustLive = at.Add(h.Idle*9/10 - time.Second)
	}
}

var digests = []string{"sha256:one", "sha256:two"}

func (w *world) open(s step, known []*held) error {
	o := sessions.Opening{
		Tenant: tenants[s.Which%2], Subject: []string{"alice", "alice", "bob"}[s.Which/2%3],
		Verifier: sessions.Verifier{Version: 1, Digest: digests[s.Amount%2]}, Policy: short, Remember: s.Amount > 8,
	}
	var replaced *held
	if s.Back == 1 && len(known) > 0 {
		replaced = known[s.Which%len(known)]
		o.Tenant, o.Replaces = replaced.Tenant, replaced.tokens[len(replaced.tokens)-1].Token
	}
	began := time.Now()
	token, got, err := w.nodes[s.Node].Open(w.ctx, o)
	now := time.Now()
	// It may be there, with a token that nobody knows.
	nobodys := sessions.Session{Tenant: o.Tenant, Subject: o.Subject, Verifier: o.Verifier, Idle: short.Idle, ExpiresAt: now.Add(short.Remember)}
	h := &held{Session: got, doubt: err != nil}
	switch {
	case err == nil:
		h.tokens = []chained{{Token: token}}
		h.mustLive, h.mustDie = began.Add(h.Idle*9/10), now.Add(h.Idle)
	case !errors.Is(err, sessions.ErrUnavailable) || !w.mayFail(s.Node):
		return fmt.Errorf("open: %w", err)
	default:
		h.Session = nobodys
	}
	if w.mayFail(s.Node) { // and so may two earlier tries
		w.held = append(w.held, &held{Session: nobodys, doubt: true}, &held{Session: nobodys, doubt: true})
	}
	if replaced != nil {
		w.over(replaced, err == nil, 0)
	}
	kept := err == nil && !w.mayFail(s.Node) // a store that fails may leave the limit to the next login
	younger, certain := 1, 0
	if err == nil {
		certain = 1
	}
	for i := len(w.held) - 1; i >= 0; i-- {
		old := w.held[i]
		if old.Tenant != o.Tenant || old.Subject != o.Subject || !old.ended.IsZero() {
			continue
		}
		lives := w.certain(old, now)
		switch {
		case certain >= short.MaxPerSubject && kept:
			w.over(old, true, 0)
			seen.overLimit.Add(1)
		case younger >= short.MaxPerSubject:
			old.doubt = true
		}
		younger++
		if lives {
			certain++
		}
	}
	w.held = append(w.held, h)
	if !kept {
		return nil
	}
	list, _, err := w.memory.List(w.ctx, o.Tenant, sessions.Filter{Subject: o.Subject}, "", 100)
	if err != nil {
		return err
	}
	count := 0
	for _, other := range list {
		if other.Live(time.Now()) {
			count++
		}
	}
	if count > short.MaxPerSubject {
		return fmt.Errorf("%d sessions live after a login, %d may", count, short.MaxPerSubject)
	}
	return nil
}

// over notes that h has ended, or may have.
func (w *world) over(h *held, certainly bool, revision int64) {
	switch {
	case !h.ended.IsZero():
	case certainly:
		h.ended, h.revision = time.Now(), revision
	default:
		h.doubt = true
	}
}

// end notes an acknowledged end, or one whose outcome is not known.
func (w *world) end(s step, revision int64, err error, matches func(h *held) bool) error {
	if err != nil && (!errors.Is(err, sessions.ErrUnavailable) || !w.mayFail(s.Node)) {
		return fmt.Errorf("%s: %w", s.Do, err)
	}
	if err == nil {
		w.newest = max(w.newest, revision)
	}
	for _, h := range w.held {
		if matches(h) {
			w.over(h, err == nil, revision)
		}
	}
	w.say("  revision %d, %v", revision, err)
	return nil
}

// find compares one find with what the model allows.
func (w *world) find(node int, h *held, back int, how sessions.Reading) error {
	at := len(h.tokens) - 1 - back
	token := &h.tokens[at]
	n, began := w.nodes[node], time.Now()
	got, err := n.Find(w.ctx, h.Tenant, token.Token, how)
	now := time.Now()
	w.say("  find %v at node %d: degraded %v, err %v", h.ID, node, got.Degraded, err)
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("node %d (%s), session %v, token %d of %d, asked at %v: %s", node, n.mode, h.ID, at+1, len(h.tokens), began.Format("04:05.000000"), fmt.Sprintf(format, args...))
	}
	spent := !token.from.IsZero()
	switch {
	case err == nil:
		seen.live.Add(1)
		bound := trust
		if n.mode == centralized {
			bound = 0
		}
		if got.Degraded > 0 {
			bound = got.Degraded + time.Millisecond - now.Sub(began)
		}
		switch {
		case got.ID != h.ID || got.Subject != h.Subject || got.Tenant != h.Tenant:
			return wrong("another session: %+v", got)
		case !began.Before(h.ExpiresAt) || got.Degraded > 0 && !now.Before(h.ExpiresAt):
			return wrong("accepted after its deadline %v", h.ExpiresAt)
		case !began.Before(h.mustDie) || got.Degraded > 0 && !now.Before(h.mustDie):
			return wrong("accepted after its idle time had ended, at %v", h.mustDie)
		case !h.ended.IsZero() && began.Sub(h.ended) > bound:
			return wrong("accepted %v after its end, degraded %v", began.Sub(h.ended), got.Degraded)
		case h.revision > 0 && how.AtLeast >= h.revision:
			return wrong("accepted at revision %d, though it had ended at %d", how.AtLeast, h.revision)
		case got.Degraded > how.WithoutQuorum:
			return wrong("degraded %v, at most %v was asked for", got.Degraded, how.WithoutQuorum)
		case spent && !token.maybe && got.Degraded == 0 && !began.Before(token.to.Add(grace)):
			return wrong("a token that was rotated away before %v opened it", token.to)
		}
		if !h.ended.IsZero() {
			seen.late.Add(1)
		}
		if spent && token.maybe && got.Degraded == 0 && began.After(token.to.Add(grace+trust)) {
			*token = chained{Token: token.Token} // it was not rotated after all
			spent = false
		}
		if at == len(h.tokens)-1 && got.Degraded == 0 {
			w.used(h, node, began)
		}
		return nil
	case errors.Is(err, sessions.ErrUnavailable):
		seen.unavailable.Add(1)
		if !w.mayFail(node) {
			return wrong("%v", err)
		}
		if spent && now.After(token.from.Add(grace)) {
			h.doubt = true // the reuse may have ended it
		}
		return nil
	case errors.Is(err, sessions.ErrNotFound):
		seen.none.Add(1)
		return w.refused(h, token, began, wrong)
	}
	return wrong("%v", err)
}

// refused judges "no such session" for a token, asked for at began.
func (w *world) refused(h *held, token *chained, began time.Time, wrong func(string, ...any) error) error {
	now := time.Now()
	spent := !token.from.IsZero()
	if w.certain(h, now) && (!spent || now.Before(token.from.Add(grace))) {
		return wrong("refused, though it lives")
	}
	if spent && !now.Before(token.from.Add(grace)) {
		w.over(h, !token.maybe && !began.Before(token.to.Add(grace)), 0)
	}
	return nil
}

// rotate compares a rotation, or several at once on both nodes, with what the
// model allows.
func (w *world) rotate(s step, h *held, back, together int) error {
	at := len(h.tokens) - 1 - back
	token := &h.tokens[at]
	began := time.Now()
	type result struct {
		token sessions.Token
		err   error
	}
	results := make([]result, together)
	var tabs sync.WaitGroup
	for i := range results {
		tabs.Go(func() {
			next, _, err := w.nodes[(s.Node+i)%2].Rotate(w.ctx, h.Tenant, token.Token)
			results[i] = result{next, err}
		})
	}
	tabs.Wait()
	now := time.Now()
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("rotate %d together, session %v, token %d of %d, asked at %v: %s", together, h.ID, at+1, len(h.tokens), began.Format("04:05.000000"), fmt.Sprintf(format, args...))
	}
	var next sessions.Token
	var unknown bool
	for i, r := range results {
		node := (s.Node + i) % 2
		w.say("  rotate %v at node %d: err %v", h.ID, node, r.err)
		switch {
		case r.err == nil && (next.IsZero() || next == r.token):
			next = r.token
		case r.err == nil:
			return wrong("two successors")
		case errors.Is(r.err, sessions.ErrUnavailable) && w.mayFail(node):
			unknown = true
		case errors.Is(r.err, sessions.ErrNotFound):
			if err := w.refused(h, token, began, wrong); err != nil {
				return err
			}
		default:
			return wrong("%v", r.err)
		}
	}
	last := &h.tokens[len(h.tokens)-1]
	switch {
	case !next.IsZero():
		seen.rotated.Add(1)
		switch {
		case !h.ended.IsZero():
			return wrong("succeeded after the end")
		case !began.Before(h.ExpiresAt) || !began.Before(h.mustDie):
			return wrong("succeeded after a deadline: %v, %v", h.ExpiresAt, h.mustDie)
		case !token.from.IsZero() && !token.maybe && !began.Before(token.to.Add(grace)):
			return wrong("succeeded with a token that was rotated away before %v", token.to)
		case next == last.Token:
			return nil
		}
		for _, known := range h.tokens {
			if next == known.Token {
				return wrong("led to an old token")
			}
		}
		if token != last && !last.maybe {
			return wrong("an old token led to an unknown one")
		}
		if last.from.IsZero() {
			last.from = began
		}
		last.to, last.maybe = now, false
		h.tokens = append(h.tokens, chained{Token: next})
		w.used(h, s.Node, began)
		h.mustDie = now.Add(h.Idle)
	case unknown:
		if token == last {
			if last.from.IsZero() {
				last.from = began
			}
			last.to, last.maybe = now, true
			h.mustDie = now.Add(h.Idle)
		}
		if !token.from.IsZero() && now.After(token.from.Add(grace)) {
			h.doubt = true
		}
	}
	return nil
}
