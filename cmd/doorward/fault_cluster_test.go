package main

import (
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/doorward/doorward/service/web"
	"github.com/doorward/doorward/sessions/history"
)

// What is promised of sessions when something is broken in a cluster of three
// members: real processes, each with an etcd of its own, and a bad network
// between them.

// trio is three nodes that started together.
type trio struct {
	*testing.T
	network *network
	nodes   []*site
	names   []string
	ring    string // key ring and authority, as an operator has copied them
	ca      string
}

// forFaults skips under the race detector, with which three servers and their
// clients on two cores are too slow to be asked anything: make unit runs these
// tests without it.
func forFaults(t *testing.T) {
	t.Helper()
	if raceEnabled {
		t.Skip("runs without the race detector")
	}
}

// newTrio starts three members that are in each other's cluster.initial.
func newTrio(t *testing.T, env ...string) *trio {
	t.Helper()
	c := &trio{T: t, network: newNetwork(t), names: []string{"a", "b", "c"}}
	shared := prepareSite(t)
	c.ring, c.ca = filepath.Join(shared.dir, "keyring"), filepath.Join(shared.dir, "authority.pem")
	shared.run("keyring", "create", c.ring)
	shared.run("cluster", "authority", c.ca)
	var initial []string
	at := map[string]string{}
	listens := map[string]string{}
	for _, name := range c.names {
		listens[name] = freeAddress(t)
		at[name] = "https://" + c.network.to(name, listens[name])
		initial = append(initial, name+"="+at[name])
	}
	for _, name := range c.names {
		c.nodes = append(c.nodes, newNode(t, name, append([]string{
			"DOORWARD_KEYRING_FILE=" + c.ring, "DOORWARD_CLUSTER_AUTHORITY=" + c.ca,
			"DOORWARD_CLUSTER_LISTEN=" + listens[name], "DOORWARD_CLUSTER_ADVERTISE=" + at[name],
			"DOORWARD_CLUSTER_CONTROL=" + freeAddress(t), "DOORWARD_CLUSTER_INITIAL=" + strings.Join(initial, ","),
		}, env...)...))
	}
	c.starts(0, 1, 2)
	c.nodes[0].until(20*time.Second, "three vote", voting(3))
	return c
}

// furnish makes two tenants and waits until every node lets people in to both:
// one whose sessions last, and one whose sessions end by themselves while a fault
// is on.
func (c *trio) furnish() {
	c.Helper()
	c.nodes[0].honest("acme", nil)
	c.nodes[0].honest("brief", map[string]any{"session": map[string]any{"idle": "4s", "absolute": "4s", "remember": "4s", "max_per_subject": 1000}})
	for _, s := range c.nodes {
		s.enters("acme")
		s.enters("brief")
	}
}

// starts starts these nodes together and tells the network their processes.
func (c *trio) starts(which ...int) {
	c.Helper()
	began := time.Now()
	var starting sync.WaitGroup
	for _, i := range which {
		starting.Go(func() {
			s := c.nodes[i]
			var err error
			if s.server, err = launch(s.dir, s.log, s.env, s.args...); err != nil {
				c.Errorf("start %s: %v", c.names[i], err)
				return
			}
			c.network.is(c.names[i], s.cmd.Process.Pid)
		})
	}
	starting.Wait()
	if c.Failed() {
		c.FailNow()
	}
	c.Logf("%d ready after %v", len(which), time.Since(began).Round(time.Millisecond))
}

// kills ends these at once, as a power failure does.
func (c *trio) kills(which ...int) {
	for _, i := range which {
		c.nodes[i].cmd.Process.Kill()
	}
	for _, i := range which {
		<-c.nodes[i].done
	}
}

// leader is which node leads, as most say.
func (c *trio) leader() int {
	c.Helper()
	var name string
	c.nodes[0].until(20*time.Second, "one leads", func(s web.ClusterStatus) bool {
		name = s.Leader
		return slices.Contains(c.names, name)
	})
	return slices.Index(c.names, name)
}

// others are all but one.
func (c *trio) others(one int) (list []int) {
	for i := range c.nodes {
		if i != one {
			list = append(list, i)
		}
	}
	return list
}

// known is a session that somebody opened.
type known struct {
	id, token string
	at        time.Time // when it was acknowledged
	ends      time.Time // by itself
	brief     bool
	asked     atomic.Int64 // when its end was asked for first, Unix nanoseconds
	ended     atomic.Int64 // when its end was acknowledged first
}

// witness records what clients see, and counts what must not be.
type witness struct {
	c      *trio
	seen   *history.History
	mu     sync.Mutex
	pool   []*known // of now
	tookMu sync.Mutex
	took   []time.Duration

	answers, unknown atomic.Int64
	late             atomic.Int64 // N2: accepts that started more than 5 s after the end's ack
	lateMax          atomic.Int64 // how late the last accept after an ack was, ns
	over             atomic.Int64 // N3: accepts more than 1 s after a session's own end
	lastYes          atomic.Int64 // of a free client, ns
	gap              atomic.Int64
	retried, failed  atomic.Int64 // validates of free clients: after one retry at another node
}

func (c *trio) newWitness() *witness {
	return &witness{c: c, seen: &history.History{Grace: 30 * time.Second}}
}

// trusted is how old the copy that a node answers from may be.
const trusted = 500 * time.Millisecond

func (w *witness) note(began time.Time, known bool) {
	w.tookMu.Lock()
	w.took = append(w.took, time.Since(began))
	w.tookMu.Unlock()
	if known {
		w.answers.Add(1)
	} else {
		w.unknown.Add(1)
	}
}

// opens signs in at a node.
func (w *witness) opens(at *site, tenant string) *known {
	began := time.Now()
	got, err := at.login(tenant, "alice", "x")
	ok := err == nil && got.status == http.StatusCreated
	w.note(began, ok)
	if !ok {
		if err == nil && got.status != http.StatusServiceUnavailable {
			w.c.Errorf("sign in: %d %s", got.status, got.body)
		}
		return nil
	}
	ends, err := time.Parse(time.RFC3339Nano, got.field("session.expires_at"))
	if err != nil {
		w.c.Errorf("sign in: %v", err)
		return nil
	}
	k := &known{id: got.field("session.id"), token: got.field("token"), at: time.Now(), ends: ends, brief: tenant == "brief"}
	w.seen.Add(history.Op{Session: k.id, Kind: history.Create, Outcome: history.Yes, Deadline: ends, Start: began, End: k.at})
	w.mu.Lock()
	if w.pool = append(w.pool, k); len(w.pool) > 400 {
		w.pool = w.pool[len(w.pool)-400:]
	}
	w.mu.Unlock()
	return k
}

func (k *known) tenant() string {
	if k.brief {
		return "brief"
	}
	return "acme"
}

// asks validates at a node.
func (w *witness) asks(at *site, k *known) history.Outcome {
	began := time.Now()
	got, err := at.session("GET", k.tenant(), k.token)
	outcome := history.Unknown
	switch {
	case err == nil && got.status == http.StatusOK:
		outcome = history.Yes
		if ack := k.ended.Load(); ack != 0 && ack < began.UnixNano() {
			after := began.UnixNano() - ack
			for old := w.lateMax.Load(); after > old && !w.lateMax.CompareAndSwap(old, after); old = w.lateMax.Load() {
			}
			if after > int64(5*time.Second) {
				w.late.Add(1)
			}
		}
		if began.After(k.ends.Add(time.Second)) {
			w.over.Add(1)
		}
	case err == nil && got.status == http.StatusUnauthorized:
		outcome = history.No
	case err == nil && got.status != http.StatusServiceUnavailable:
		w.c.Errorf("validate: %d %s", got.status, got.body)
	}
	w.note(began, outcome != history.Unknown)
	w.seen.Add(history.Op{Session: k.id, Kind: history.Find, Outcome: outcome, Stale: trusted, Start: began, End: time.Now()})
	return outcome
}

// ends signs out at a node.
func (w *witness) ends(at *site, k *known) {
	began := time.Now()
	k.asked.CompareAndSwap(0, began.UnixNano())
	got, err := at.session("DELETE", k.tenant(), k.token)
	ok := err == nil && got.status == http.StatusNoContent
	outcome := history.Unknown
	if ok {
		outcome = history.Yes
		k.ended.CompareAndSwap(0, time.Now().UnixNano())
	} else if err == nil && got.status != http.StatusServiceUnavailable {
		w.c.Errorf("sign out: %d %s", got.status, got.body)
	}
	w.note(began, ok)
	w.seen.Add(history.Op{Session: k.id, Kind: history.Revoke, Outcome: outcome, Start: began, End: time.Now()})
}

// some is a session of the pool.
func (w *witness) some(r *rand.Rand) *known {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pool) == 0 {
		return nil
	}
	return w.pool[max(0, len(w.pool)-1-r.IntN(min(len(w.pool), 120)))]
}

// perSecond is what all clients together ask for; a run counts only if they got
// enough of it before the fault.
const (
	perSecond = 160
	enough    = 100
)

// works has clients at each node, and free ones that go to another node when one
// does not answer, until stop is closed.
func (w *witness) works(stop <-chan struct{}) *sync.WaitGroup {
	var people sync.WaitGroup
	const lanes = 24
	began := time.Now()
	for lane := range lanes {
		people.Go(func() {
			r := rand.New(rand.NewPCG(uint64(lane), uint64(began.UnixNano())))
			for n := lane; ; n += lanes {
				select {
				case <-stop:
					return
				case <-time.After(time.Until(began.Add(time.Duration(n) * time.Second / perSecond))):
				}
				if late := time.Since(began)*perSecond/time.Second - time.Duration(n); late > lanes {
					n += int(late) / lanes * lanes // nobody makes up for what was not asked
				}
				free := lane%4 == 3
				at := w.c.nodes[lane%4%3]
				if free {
					at = w.c.nodes[r.IntN(3)]
				}
				k := w.some(r)
				switch p := r.IntN(100); {
				case k == nil || p < 18:
					tenant := "acme"
					if p%4 == 0 {
						tenant = "brief"
					}
					w.opens(at, tenant)
				case p < 28:
					w.ends(at, k)
					w.asks(w.c.nodes[r.IntN(3)], k) // who hears of it last
				case !free:
					w.asks(at, k)
				default:
					w.tries(at, k, r)
				}
			}
		})
	}
	return &people
}

// tries is a free client's validate: once more, elsewhere, when nobody decides.
func (w *witness) tries(at *site, k *known, r *rand.Rand) {
	w.retried.Add(1)
	if w.asks(at, k) == history.Unknown {
		next := w.c.nodes[(slices.Index(w.c.nodes, at)+1+r.IntN(2))%3]
		if w.asks(next, k) == history.Unknown {
			w.failed.Add(1)
			return
		}
	}
	now := time.Now().UnixNano()
	if last := w.lastYes.Swap(now); last != 0 {
		for old := w.gap.Load(); now-last > old && !w.gap.CompareAndSwap(old, now-last); old = w.gap.Load() {
		}
	}
}

// under runs clients, breaks something once they are at speed, mends it, and
// checks that what they saw can have been, and that nothing is lost.
func (c *trio) under(name string, fault breakage) {
	c.Helper()
	c.T.Run(name, func(t *testing.T) {
		part := *c
		part.T = t
		part.nodes = make([]*site, len(c.nodes))
		for i, s := range c.nodes {
			part.nodes[i] = s.in(t)
		}
		defer func() {
			for i, s := range part.nodes {
				c.nodes[i].server = s.server
			}
		}()
		part.broken(fault)
	})
}

func (c *trio) broken(fault breakage) {
	w := c.newWitness()
	stop := make(chan struct{})
	people := w.works(stop)
	stopped := sync.OnceFunc(func() { close(stop); people.Wait() })
	defer stopped()
	rate := w.speed()
	w.tookMu.Lock()
	w.took = nil
	w.tookMu.Unlock()
	before, unknown := w.answers.Load(), w.unknown.Load()
	began := time.Now()
	mend := fault(c)
	during, dark := w.answers.Load()-before, w.unknown.Load()-unknown
	lasted := time.Since(began)
	w.tookMu.Lock()
	p99 := percentile(slices.Clone(w.took), 99)
	w.tookMu.Unlock()
	mended := time.Now()
	mend()
	for _, s := range c.nodes {
		s.enters("acme")
	}
	recovered := time.Since(mended)
	w.speed() // and on for a second: what was late may come now
	stopped()
	lost := w.survives()
	c.Logf("%.0f answers/s before; %v of fault: %d answered, %d not, p99 %v; longest gap of free clients %v, %d of %d failed after one retry; all nodes let people in %v after it was mended; the last accept began %v after its end's ack; N1 %d, N2 %d, N3 %d",
		rate, lasted.Round(time.Millisecond), during, dark, p99.Round(time.Millisecond), time.Duration(w.gap.Load()).Round(time.Millisecond), w.failed.Load(), w.retried.Load(),
		recovered.Round(time.Millisecond), time.Duration(w.lateMax.Load()).Round(time.Millisecond), lost, w.late.Load(), w.over.Load())
	if lost > 0 || w.late.Load() > 0 || w.over.Load() > 0 {
		c.Errorf("N1 %d, N2 %d, N3 %d: none may be", lost, w.late.Load(), w.over.Load())
	}
	if p99 > 2*time.Second {
		c.Errorf("p99 %v: something hangs", p99)
	}
	if dark == 0 {
		c.Error("every request was answered, so nothing was broken")
	}
	if err := w.seen.Check(time.Minute); err != nil {
		c.Error(err)
	}
}

// speed waits until the clients get enough answers in a second, and returns how
// many.
func (w *witness) speed() float64 {
	w.c.Helper()
	for began := time.Now(); ; {
		before, at := w.answers.Load(), time.Now()
		time.Sleep(time.Second) // a rate is counted over a time
		rate := float64(w.answers.Load()-before) / time.Since(at).Seconds()
		if rate >= enough {
			return rate
		}
		if time.Since(began) > 30*time.Second {
			w.c.Fatalf("the clients get %.0f answers a second, so this shows nothing: is the machine too busy?", rate)
		}
	}
}

// survives asks every node about each session that nobody has ended, and returns
// how many of those that were acknowledged are not there (N1).
func (w *witness) survives() int {
	w.mu.Lock()
	pool := slices.Clone(w.pool)
	w.mu.Unlock()
	var lost atomic.Int64
	each(len(pool)*len(w.c.nodes), 12, func(i int) {
		k, at := pool[i/len(w.c.nodes)], w.c.nodes[i%len(w.c.nodes)]
		outcome := history.Unknown
		for began := time.Now(); outcome == history.Unknown && time.Since(began) < 20*time.Second; {
			outcome = w.asks(at, k)
		}
		if k.asked.Load() == 0 && outcome != history.Yes && time.Now().Before(k.ends) {
			lost.Add(1)
		}
	})
	return int(lost.Load())
}

// holds lets a fault last.
func holds(long time.Duration) { time.Sleep(long) }

// breakage breaks something for a while, and returns what mends it.
type breakage func(c *trio) (mend func())

// breakages are what can be done to a cluster of three, each for that long.
func breakages(long time.Duration) []struct {
	name  string
	fault breakage
} {
	restarts := func(c *trio, which ...int) func() { return func() { c.starts(which...) } }
	heals := func(c *trio) func() { return func() { c.network.lose() } }
	isolate := func(c *trio, one int) {
		var others []string
		for _, i := range c.others(one) {
			others = append(others, c.names[i])
		}
		c.network.lose(apart(c.names[one], others...)...)
	}
	return []struct {
		name  string
		fault breakage
	}{
		{"a follower is killed", func(c *trio) func() {
			one := c.others(c.leader())[0]
			c.kills(one)
			holds(long)
			return restarts(c, one)
		}},
		{"the leader is killed", func(c *trio) func() {
			one := c.leader()
			c.kills(one)
			holds(long)
			return restarts(c, one)
		}},
		{"two of three are killed", func(c *trio) func() {
			leader := c.leader()
			two := []int{leader, c.others(leader)[1]}
			c.kills(two...)
			holds(long)
			return restarts(c, two...)
		}},
		{"all three are killed", func(c *trio) func() {
			c.kills(0, 1, 2)
			return restarts(c, 0, 1, 2)
		}},
		{"the leader is cut off", func(c *trio) func() {
			isolate(c, c.leader())
			holds(long)
			return heals(c)
		}},
		{"a follower is cut off", func(c *trio) func() {
			isolate(c, c.others(c.leader())[1])
			holds(long)
			return heals(c)
		}},
		{"the leader hears and is not heard", func(c *trio) func() {
			leader := c.leader()
			others := c.others(leader)
			c.network.lose([2]string{c.names[leader], c.names[others[0]]}, [2]string{c.names[leader], c.names[others[1]]})
			holds(long)
			return heals(c)
		}},
		{"the leader is heard and does not hear", func(c *trio) func() {
			leader := c.leader()
			others := c.others(leader)
			c.network.lose([2]string{c.names[others[0]], c.names[leader]}, [2]string{c.names[others[1]], c.names[leader]})
			holds(long)
			return heals(c)
		}},
		{"nobody hears anybody", func(c *trio) func() {
			c.network.lose(append(apart("a", "b", "c"), apart("b", "c")...)...)
			holds(2 * long) // a login once took five seconds to be refused
			return heals(c)
		}},
		{"the leader's network flaps", func(c *trio) func() {
			leader := c.leader()
			for range 3 {
				isolate(c, leader)
				holds(max(long/4, time.Second)) // less may pass unnoticed
				c.network.lose()
				holds(max(long/4, time.Second))
			}
			return heals(c)
		}},
		{"the leader is stopped and goes on", func(c *trio) func() {
			process := c.nodes[c.leader()].cmd.Process
			process.Signal(syscall.SIGSTOP)
			holds(long)
			return func() { process.Signal(syscall.SIGCONT) }
		}},
		{"a member loses its disk and is replaced", func(c *trio) func() {
			one := c.others(c.leader())[0]
			c.kills(one)
			s := c.nodes[one]
			if err := os.RemoveAll(filepath.Join(s.dir, "data")); err != nil {
				c.Fatal(err)
			}
			if out, err := s.command("serve"); err == nil || !strings.Contains(out, "cluster replace URL") {
				c.Fatalf("a wiped member started: %v %s", err, out)
			}
			return func() {
				at := c.nodes[c.others(one)[0]]
				invited := at.invites(roleMember)
				s.run("cluster", "replace", invited.URL, "--token", invited.Token)
				c.starts(one)
				at.until(20*time.Second, "three vote", voting(3))
			}
		}},
	}
}

// Three nodes that are broken in one way after another lose nothing that was
// acknowledged and accept nothing that ended.
func TestFaultAClusterOfThree(t *testing.T) {
	forFaults(t)
	c := newTrio(t)
	c.furnish()
	for _, b := range breakages(2500 * time.Millisecond) {
		c.under(b.name, b.fault)
	}
}

// The same at random, for half an hour, or as long as DOORWARD_SOAK_TIME says.
// DOORWARD_SOAK_SEED has it go the same way again.
func TestSoakAClusterOfThree(t *testing.T) {
	if !soak() {
		t.Skip("takes half an hour; make soak")
	}
	forFaults(t)
	long, seed := 30*time.Minute, rand.Uint64()
	var err error
	if text := os.Getenv("DOORWARD_SOAK_TIME"); text != "" {
		if long, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	if text := os.Getenv("DOORWARD_SOAK_SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("again: DOORWARD_SOAK=1 DOORWARD_SOAK_TIME=%v DOORWARD_SOAK_SEED=%d go test ./cmd/doorward -run TestSoakAClusterOfThree -v -timeout 2h", long, seed)
	random := rand.New(rand.NewPCG(seed, 0))
	c := newTrio(t)
	c.furnish()
	for began := time.Now(); time.Since(began) < long && !t.Failed(); {
		all := breakages(time.Second + time.Duration(random.Int64N(int64(8*time.Second))))
		b := all[random.IntN(len(all))]
		c.under(b.name, b.fault)
	}
}
