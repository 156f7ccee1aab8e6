package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/sessions"
)

const (
	centralized = sessions.Centralized
	cached      = sessions.Cached
	replicated  = sessions.Replicated
)

// The bound on what a copy may miss: an entry counts for half a second after
// the moment its proof is dated with.
const trust = 500 * time.Millisecond

// copies runs test for both kinds of copy: a node that reads and writes the
// store itself, and the one with the copy.
func copies(t *testing.T, test func(t *testing.T, writer, reader *node)) {
	for _, mode := range []sessions.Mode{cached, replicated} {
		t.Run(string(mode), func(t *testing.T) {
			inCluster(t, func(t *testing.T, nodes []*node) { test(t, nodes[0], nodes[1]) }, centralized, mode)
		})
	}
}

// find is a Find with its outcome as one word.
func find(t *testing.T, n *node, token sessions.Token, how ...sessions.Reading) string {
	t.Helper()
	s, err := n.Find(t.Context(), tenant, token, append(how, sessions.Reading{})[0])
	switch {
	case err == nil && s.Degraded > 0:
		return "degraded"
	case err == nil:
		return "live"
	case errors.Is(err, sessions.ErrNotFound):
		return "none"
	case errors.Is(err, sessions.ErrUnavailable):
		return "unavailable"
	}
	t.Fatal(err)
	return ""
}

// wants fails unless n finds what is wanted, by that many reads of a record.
func wants(t *testing.T, n *node, token sessions.Token, want string, reads int, how ...sessions.Reading) {
	t.Helper()
	before := n.link.calls("Find")
	got := find(t, n, token, how...)
	if n := n.link.calls("Find") - before; got != want || n != reads {
		t.Fatalf("found %q by %d reads, want %q by %d", got, n, want, reads)
	}
}

// heard waits until what was written has gone through every watch and a proof
// has dated it.
func heard() {
	time.Sleep(150 * time.Millisecond)
	synctest.Wait()
}

func TestAHitAsksTheStoreNothing(t *testing.T) {
	copies(t, func(t *testing.T, writer, reader *node) {
		token, opened := open(t, writer.Manager, opening("alice"))
		heard()
		first := 1
		if reader.mode == replicated {
			first = 0 // never seen here, and here nevertheless
		}
		wants(t, reader, token, "live", first)
		for range 100 {
			wants(t, reader, token, "live", 0)
			time.Sleep(10 * time.Millisecond)
		}
		s, err := reader.Find(t.Context(), tenant, token, sessions.Reading{})
		if err != nil || s.ID != opened.ID || s.Subject != "alice" || !s.ExpiresAt.Equal(opened.ExpiresAt) {
			t.Fatalf("found %+v, %v; opened %+v", s, err, opened)
		}
	})
}

func TestAStaleProofCostsOneRead(t *testing.T) {
	copies(t, func(t *testing.T, writer, reader *node) {
		token, _ := open(t, writer.Manager, opening("alice"))
		heard()
		wants(t, reader, token, "live", reader.link.firstRead(reader))
		reader.link.set(func(l *link) { l.silent = true })
		open(t, writer.Manager, opening("bob")) // what the copy now fails to reach
		time.Sleep(trust + time.Millisecond)
		wants(t, reader, token, "live", 1)
		wants(t, reader, token, "live", 1)
	})
}

// firstRead is what a node's first find of a session made elsewhere costs.
func (l *link) firstRead(n *node) int {
	if n.mode == replicated {
		return 0
	}
	return 1
}

func TestASilentWatchIsGivenUpAndNothingThatEndedIsAcceptedLonger(t *testing.T) {
	copies(t, func(t *testing.T, writer, reader *node) {
		token, s := open(t, writer.Manager, opening("alice"))
		other, _ := open(t, writer.Manager, opening("bob"))
		heard()
		find(t, reader, token)
		find(t, reader, other)
		reader.link.set(func(l *link) { l.silent = true })
		if _, err := writer.CloseID(t.Context(), tenant, s.ID); err != nil {
			t.Fatal(err)
		}
		ended := time.Now()
		for time.Since(ended) < 10*time.Second {
			if got := find(t, reader, token); got != "none" && (got != "live" || time.Since(ended) > trust) {
				t.Fatalf("%q %v after its end", got, time.Since(ended))
			}
			if got := find(t, reader, other); got != "live" {
				t.Fatalf("another: %q %v after that end", got, time.Since(ended))
			}
			time.Sleep(time.Millisecond)
		}
		if n := reader.link.calls("Load"); n < 2 {
			t.Fatalf("%d loads in ten seconds of a silent watch", n)
		}
	})
}

func TestAWatchThatBreaksIsReplacedByALoadAndASwap(t *testing.T) {
	copies(t, func(t *testing.T, writer, reader *node) {
		token, s := open(t, writer.Manager, opening("alice"))
		other, _ := open(t, writer.Manager, opening("bob"))
		heard()
		find(t, reader, token)
		find(t, reader, other)
		reader.link.cut()
		if _, err := writer.CloseID(t.Context(), tenant, s.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(trust + 100*time.Millisecond)
		heard()
		if n := reader.link.calls("Load"); n != 2 {
			t.Fatalf("loaded %d times", n)
		}
		if got := find(t, reader, token); got != "none" {
			t.Fatalf("what ended while the watch was gone: %q", got)
		}
		wants(t, reader, other, "live", reader.link.firstRead(reader))
		wants(t, reader, other, "live", 0)
	})
}

func TestACompactedWatchIsReplacedByALoadAndASwap(t *testing.T) {
	copies(t, func(t *testing.T, writer, reader *node) {
		token, s := open(t, writer.Manager, opening("alice"))
		other, _ := open(t, writer.Manager, opening("bob"))
		heard()
		find(t, reader, token)
		find(t, reader, other)
		reader.link.set(func(l *link) { l.hold = true }) // no new watch begins
		reader.link.cut()
		heard()
		if _, err := writer.CloseID(t.Context(), tenant, s.ID); err != nil {
			t.Fatal(err)
		}
		for i := range 9000 { // more than Memory keeps for a watch
			if i%500 == 0 {
				time.Sleep(time.Millisecond)
			}
			if _, err := writer.link.Memory.BumpEpoch(t.Context(), "elsewhere", sessions.Filter{}); err != nil {
				t.Fatal(err)
			}
		}
		reader.link.set(func(l *link) { l.hold = false }) // from a revision that is no longer kept
		time.Sleep(10 * time.Second)
		heard()
		if got := find(t, reader, token); got != "none" {
			t.Fatalf("what ended in the gap: %q", got)
		}
		wants(t, reader, other, "live", reader.link.firstRead(reader))
		wants(t, reader, other, "live", 0)
		if n := reader.link.trimmed.Load(); n == 0 {
			t.Fatal("no watch was told that its revision is gone")
		}
	})
}

func TestALoadIsTakenAsAWholeOrNotAtAll(t *testing.T) {
	inCluster(t, func(t *testing.T, nodes []*node) {
		writer, reader := nodes[0], nodes[1]
		token, s := open(t, writer.Manager, opening("alice"))
		heard()
		reader.link.set(func(l *link) { l.loadLong = 5 * time.Second })
		reader.link.cut()
		time.Sleep(time.Second) // the load has read the store, and is not done
		synctest.Wait()
		if _, err := writer.CloseID(t.Context(), tenant, s.ID); err != nil {
			t.Fatal(err)
		}
		for range 80 { // while it loads, and after
			if got := find(t, reader, token); got != "none" {
				t.Fatalf("%q, though it had ended", got)
			}
			time.Sleep(100 * time.Millisecond)
		}
		// What the load had read is by now followed by the end it did not see.
		if held := reader.Stats().Held; held != 0 {
			t.Fatalf("%d sessions are held", held)
		}
	}, centralized, replicated)
}

// The fill race: what a read found is older than the delete that comes in
// before the read returns.
func TestADeleteThatOvertakesAReadStays(t *testing.T) {
	copies(t, func(t *testing.T, writer, reader *node) {
		token, s := open(t, writer.Manager, opening("alice"))
		reader.link.set(func(l *link) {
			l.silent = reader.mode == replicated // so that it must read
			l.slow = 300 * time.Millisecond
		})
		if reader.mode == replicated {
			open(t, writer.Manager, opening("bob"))
			time.Sleep(2 * trust)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if got := find(t, reader, token); got != "live" { // it began before the end
				t.Errorf("the read in between: %q", got)
			}
		})
		time.Sleep(100 * time.Millisecond)
		if _, err := writer.CloseID(t.Context(), tenant, s.ID); err != nil {
			t.Fatal(err)
		}
		reader.link.set(func(l *link) { l.silent = false; l.slow = 0 })
		wg.Wait()
		for range 20 {
			if got := find(t, reader, token); got != "none" {
				t.Fatalf("%q after its end", got)
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
}

// A session that is read without a pause must come into the copy all the same
// when a change once arrived in the middle of a read: readers that overlap one
// another for ever shall not keep one spoilt read alive.
func TestAChangeDuringAReadDoesNotKeepABusySessionOutOfTheCopy(t *testing.T) {
	inCluster(t, func(t *testing.T, nodes []*node) {
		writer, reader := nodes[0], nodes[1]
		token, _ := open(t, writer.Manager, opening("alice"))
		time.Sleep(policy.Idle / 2) // due to be renewed
		heard()
		reader.link.set(func(l *link) { l.slow = 20 * time.Millisecond })
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 4 { // at each moment somebody is reading
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 5 * time.Millisecond)
				for ctx.Err() == nil {
					find(t, reader, token)
					time.Sleep(time.Millisecond)
				}
			})
		}
		time.Sleep(10 * time.Millisecond)
		if _, err := writer.Find(t.Context(), tenant, token, sessions.Reading{}); err != nil { // renews it
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		before := reader.link.calls("Find")
		time.Sleep(100 * time.Millisecond)
		if n := reader.link.calls("Find") - before; n > 0 {
			t.Errorf("%d reads in a tenth of a second, a second after the change", n)
		}
		stop()
		wg.Wait()
	}, centralized, cached)
}

func TestAChangeOfWhatIsNotHeldIsKeptByAWholeCopyOnly(t *testing.T) {
	copies(t, func(t *testing.T, writer, reader *node) {
		for i := range 50 {
			open(t, writer.Manager, opening(fmt.Sprint("user-", i)))
		}
		heard()
		want := 0
		if reader.mode == replicated {
			want = 50
		}
		if held := reader.Stats().Held; held != want {
			t.Fatalf("%d held, want %d", held, want)
		}
	})
}

func TestAnEpochEndsWhatIsHeldWithoutTouchingIt(t *testing.T) {
	copies(t, func(t *testing.T, writer, reader *node) {
		for name, end := range map[string]func(s sessions.Session) error{
			"tenant": func(sessions.Session) error {
				_, _, _, err := writer.Revoke(t.Context(), tenant, sessions.Filter{}, "")
				return err
			},
			"verifier": func(s sessions.Session) error {
				_, _, _, err := writer.Revoke(t.Context(), tenant, sessions.Filter{Digest: s.Verifier.Digest}, "")
				return err
			},
			"everybody": func(sessions.Session) error {
				_, err := writer.RevokeEverybody(t.Context())
				return err
			},
		} {
			token, s := open(t, writer.Manager, opening("alice"))
			heard()
			find(t, reader, token)
			wants(t, reader, token, "live", 0)
			held := reader.Stats().Held
			if err := end(s); err != nil {
				t.Fatal(err)
			}
			heard()
			if got := reader.Stats().Held; got != held {
				t.Errorf("%s: %d held before, %d after", name, held, got)
			}
			wants(t, reader, token, "none", 1)
			wants(t, reader, token, "none", 0) // its entry is still there, and so is the answer
			later, _ := open(t, writer.Manager, opening("alice"))
			heard()
			find(t, reader, later)
			wants(t, reader, later, "live", 0)
		}
	})
}

func TestATokenThatStandsForNothingCostsOneRead(t *testing.T) {
	copies(t, func(t *testing.T, writer, reader *node) {
		token := sessions.NewToken()
		wants(t, reader, token, "none", 1)
		for range 100 {
			wants(t, reader, token, "none", 0)
			time.Sleep(50 * time.Millisecond)
		}
	})
}

func TestATokenThatWasRotatedAwayIsNotServedFromMemory(t *testing.T) {
	copies(t, func(t *testing.T, writer, reader *node) {
		old, _ := open(t, writer.Manager, opening("alice"))
		heard()
		find(t, reader, old)
		wants(t, reader, old, "live", 0)
		next, _, err := writer.Rotate(t.Context(), tenant, old)
		if err != nil {
			t.Fatal(err)
		}
		heard()
		wants(t, reader, old, "live", 1)
		wants(t, reader, old, "live", 1)
		wants(t, reader, next, "live", reader.link.firstRead(reader))
		wants(t, reader, next, "live", 0)
		time.Sleep(30 * time.Second)
		wants(t, reader, next, "live", 0)
		wants(t, reader, old, "none", 1) // somebody kept it: the session ends
		heard()
		if got := find(t, reader, next); got != "none" {
			t.Fatalf("the successor of a token that was used again: %q", got)
		}
		if n := reader.Stats().Reused; n != 1 {
			t.Fatalf("%d reuses counted", n)
		}
	})
}

func TestAnEndOfIdleTimeThatAnotherNodeMovedIsNotBelieved(t *testing.T) {
	copies(t, func(t *testing.T, writer, reader *node) {
		token, s := open(t, writer.Manager, opening("alice"))
		heard()
		find(t, reader, token)
		time.Sleep(time.Until(s.IdleExpiresAt) - 50*time.Millisecond)
		synctest.Wait()
		reader.link.set(func(l *link) { l.delay = 400 * time.Millisecond })
		if got := find(t, writer, token); got != "live" {
			t.Fatal(got)
		}
		synctest.Wait() // the use is written
		time.Sleep(60 * time.Millisecond)
		if got := find(t, reader, token); got != "live" {
			t.Fatalf("%q, %v after its last use", got, 60*time.Millisecond)
		}
	})
}

func TestABoundedCopyKeepsToItsBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := sessions.NewMemory()
		m := sessions.New(memory, memory, sessions.Config{Mode: cached, CacheBytes: 1 << 20})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		if err := m.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		for i := range 20_000 {
			token, _ := open(t, m, opening(fmt.Sprint("user-", i)))
			if _, err := m.Find(ctx, tenant, token, sessions.Reading{}); err != nil {
				t.Fatal(err)
			}
		}
		if held := m.Stats().Held; held > 1<<20/360 || held < 1000 {
			t.Errorf("%d sessions held in a megabyte", held)
		}
		cancel()
		<-done
	})
}

func TestWithoutAMajorityWhatWasProvenIsServedAsOldAsItIsAndNoLonger(t *testing.T) {
	const bound = 20 * time.Second
	how := sessions.Reading{WithoutQuorum: bound}
	copies(t, func(t *testing.T, writer, reader *node) {
		token, _ := open(t, writer.Manager, opening("alice"))
		never, _ := open(t, writer.Manager, opening("bob"))
		heard()
		find(t, reader, token)
		lost := time.Now()
		reader.link.set(func(l *link) { l.dark = true })
		time.Sleep(trust + time.Millisecond)
		for time.Since(lost) < bound+5*time.Second {
			s, err := reader.Find(t.Context(), tenant, token, how)
			passed := time.Since(lost)
			switch {
			case err == nil && passed > bound:
				t.Fatalf("accepted %v after the majority was lost", passed)
			case err == nil && (s.Degraded > bound || s.Degraded < passed-time.Millisecond):
				t.Fatalf("%v after the majority was lost the proof is said to be %v old", passed, s.Degraded)
			case err != nil && passed < bound-2*time.Second || err != nil && !errors.Is(err, sessions.ErrUnavailable):
				t.Fatalf("%v after the majority was lost: %v", passed, err)
			}
			if got := find(t, reader, token); got != "unavailable" {
				t.Fatalf("a tenant that fails closed: %q", got)
			}
			if got := find(t, reader, never, how); reader.mode == cached && got != "unavailable" {
				t.Fatalf("what this node never saw: %q", got)
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}

// Whoever asks for a revision has learnt of a write that must not be missed.
func TestWithoutAMajorityNothingOlderThanTheRevisionAskedForIsServed(t *testing.T) {
	copies(t, func(t *testing.T, writer, reader *node) {
		token, s := open(t, writer.Manager, opening("alice"))
		heard()
		find(t, reader, token)
		reader.link.set(func(l *link) { l.dark, l.silent = true, true })
		ended, err := writer.CloseID(t.Context(), tenant, s.ID)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		how := sessions.Reading{WithoutQuorum: time.Minute, AtLeast: s.Revision}
		if got := find(t, reader, token, how); got != "degraded" {
			t.Fatalf("at the revision it was made: %q", got)
		}
		how.AtLeast = ended
		if got := find(t, reader, token, how); got != "unavailable" {
			t.Fatalf("at the revision it was ended: %q", got)
		}
	})
}

// The answer counts when it is given, not when it was asked for.
func TestADegradedAnswerIsNotGivenAfterADeadline(t *testing.T) {
	copies(t, func(t *testing.T, writer, reader *node) {
		token, s := open(t, writer.Manager, opening("alice"))
		heard()
		find(t, reader, token)
		time.Sleep(time.Until(s.IdleExpiresAt) - 600*time.Millisecond)
		reader.link.set(func(l *link) { l.dark = true })
		time.Sleep(550 * time.Millisecond) // no longer trusted, and not yet known to be lost
		got := find(t, reader, token, sessions.Reading{WithoutQuorum: time.Minute})
		if got == "degraded" && !time.Now().Before(s.IdleExpiresAt) {
			t.Fatalf("accepted %v after its end", time.Since(s.IdleExpiresAt))
		}
	})
}

func TestALostStoreIsNotAskedAndAnsweredForAtOnce(t *testing.T) {
	copies(t, func(t *testing.T, writer, reader *node) {
		token, _ := open(t, writer.Manager, opening("alice"))
		heard()
		reader.link.set(func(l *link) { l.dark = true })
		time.Sleep(2 * time.Second)
		before := time.Now()
		wants(t, reader, token, "unavailable", 0)
		if _, _, err := reader.Open(t.Context(), opening("bob")); !errors.Is(err, sessions.ErrUnavailable) {
			t.Fatal(err)
		}
		if _, _, err := reader.Rotate(t.Context(), tenant, token); !errors.Is(err, sessions.ErrUnavailable) {
			t.Fatal(err)
		}
		if waited := time.Since(before); waited > 0 {
			t.Fatalf("waited %v", waited)
		}
		reader.link.heal()
		time.Sleep(600 * time.Millisecond) // the question that was on its way, and the next
		wants(t, reader, token, "live", reader.link.firstRead(reader))
	})
}

// N6: a load may take long. It must not keep a store that answers from being
// asked, nor one that does not from being given up.
func TestAStoreThatAnswersAgainIsAskedWhileTheCopyIsLoaded(t *testing.T) {
	copies(t, func(t *testing.T, writer, reader *node) {
		token, _ := open(t, writer.Manager, opening("alice"))
		heard()
		reader.link.set(func(l *link) { l.dark = true; l.loadLong = 30 * time.Second })
		time.Sleep(2 * time.Second)
		reader.link.cut()
		time.Sleep(time.Second)
		reader.link.set(func(l *link) { l.dark = false })
		time.Sleep(10 * time.Second)
		if got := find(t, reader, token); got != "live" {
			t.Fatalf("ten seconds after the majority came back: %q", got)
		}
	})
}

func TestAStoreThatStopsAnsweringIsGivenUpWhileTheCopyIsLoaded(t *testing.T) {
	copies(t, func(t *testing.T, writer, reader *node) {
		token, _ := open(t, writer.Manager, opening("alice"))
		heard()
		reader.link.set(func(l *link) { l.dark = true })
		reader.link.cut()
		time.Sleep(5 * time.Second) // the load waits for nothing
		before := time.Now()
		if got := find(t, reader, token); got != "unavailable" {
			t.Fatal(got)
		}
		if waited := time.Since(before); waited > 0 {
			t.Fatalf("waited %v for a store that has not answered for five seconds", waited)
		}
	})
}

func TestAHitAllocatesLittle(t *testing.T) {
	for _, mode := range []sessions.Mode{cached, replicated} {
		memory := sessions.NewMemory()
		nodes, end := cluster(t.Context(), memory, mode)
		n := nodes[0]
		token, _ := open(t, n.Manager, opening("alice"))
		waitUntil(t, func() bool {
			find(t, n, token)
			before := n.link.calls("Find")
			find(t, n, token)
			return n.link.calls("Find") == before
		})
		allocs := testing.AllocsPerRun(1000, func() {
			if _, err := n.Find(t.Context(), tenant, token, sessions.Reading{}); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%s: %.0f allocations", mode, allocs)
		if allocs > 10 {
			t.Errorf("%s: %.0f allocations for a hit", mode, allocs)
		}
		if err := end(); err != nil {
			t.Error(err)
		}
	}
}

// waitUntil waits for a fact in real time.
func waitUntil(t testing.TB, fact func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !fact() {
		if time.Now().After(deadline) {
			t.Fatal("waited half a minute in vain")
		}
		time.Sleep(time.Millisecond)
	}
}

// A proof is dated with the moment before its question: what ended while the
// answer was on its way is not in it.
func TestAProofThatTookLongIsAsOldAsItsQuestion(t *testing.T) {
	copies(t, func(t *testing.T, writer, reader *node) {
		for wait := range 10 { // wherever in a proof the end comes
			token, s := open(t, writer.Manager, opening("alice"))
			heard()
			find(t, reader, token)
			reader.link.set(func(l *link) { l.slow = 300 * time.Millisecond })
			time.Sleep(time.Second + time.Duration(wait)*30*time.Millisecond)
			reader.link.set(func(l *link) { l.silent = true })
			if _, err := writer.CloseID(t.Context(), tenant, s.ID); err != nil {
				t.Fatal(err)
			}
			for ended := time.Now(); time.Since(ended) < 2*time.Second; time.Sleep(time.Millisecond) {
				began := time.Now()
				if got := find(t, reader, token); got == "live" && began.Sub(ended) > trust {
					t.Fatalf("accepted %v after its end", began.Sub(ended))
				}
			}
			reader.link.heal()
			time.Sleep(3 * time.Second)
		}
	})
}
