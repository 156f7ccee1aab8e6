package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/plugins/guesttest"
)

// still is a pool whose children are never started: what is compiled here ends with
// the reader, or has not begun.
func still(t *testing.T) *Pool {
	t.Helper()
	p, err := New(Config{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// gives is a call of a module whose bytes are these, and counts who fetched them.
func gives(tenant, digest string, fetched *atomic.Int32, module []byte, err error) Call {
	return Call{Tenant: tenant, Digest: digest, Module: func(context.Context) ([]byte, error) {
		fetched.Add(1)
		return module, err
	}}
}

// Each login of such a version once started another compile.
func TestAModuleThatCannotBeCompiledIsNotTriedByEachCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := still(t)
		var fetched atomic.Int32
		c := gives("a", "sha256:1", &fetched, []byte("no module"), nil)
		calls := func(want int32) {
			t.Helper()
			for range 100 {
				if _, err := p.Call(t.Context(), c); !errors.Is(err, ErrPending) {
					t.Fatalf("Call: %v", err)
				}
				synctest.Wait()
			}
			if n := fetched.Load(); n != want {
				t.Fatalf("the module was fetched %d times, want %d", n, want)
			}
		}
		if err := p.Prepare(t.Context(), c); !errors.Is(err, ErrModule) {
			t.Fatalf("Prepare: %v", err)
		}
		calls(1)
		other := gives("b", c.Digest, &fetched, nil, nil)
		if err := p.Prepare(t.Context(), other); !errors.Is(err, ErrModule) {
			t.Fatalf("another tenant's of the same module: %v", err)
		}
		calls(1)
		if until, _ := p.Until("a", c.Digest); !until.Equal(time.Now().Add(refusedFirst)) {
			t.Errorf("quarantined until %v", until)
		}
		time.Sleep(refusedFirst)
		calls(2)
		time.Sleep(refusedFirst) // twice as long now
		calls(2)
		p.Lift("a", c.Digest)
		if until, _ := p.Until("a", c.Digest); !until.IsZero() {
			t.Errorf("lifted, and quarantined until %v", until)
		}
		calls(3)
	})
}

// What the store could not give may be there a second later.
func TestACompileThatFailedForOtherReasonsIsTriedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := still(t)
		var fetched atomic.Int32
		gone := errors.New("the store does not answer")
		c := gives("a", "sha256:1", &fetched, nil, gone)
		for n := range int32(3) {
			for range 10 {
				if err := p.Prepare(t.Context(), c); !errors.Is(err, gone) {
					t.Fatalf("Prepare: %v", err)
				}
			}
			if got := fetched.Load(); got != n+1 {
				t.Fatalf("asked the store %d times, want %d", got, n+1)
			}
			if until, _ := p.Until("a", c.Digest); !until.IsZero() {
				t.Errorf("that is no fault of the module's: quarantined until %v", until)
			}
			time.Sleep(missedFirst << n)
		}
	})
}

// One compile serves all who wait for it, but each tenant has its own turn in the
// queue, and its own trouble.
func TestWhatATenantIsRefusedAnotherIsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := still(t)
		var fetched atomic.Int32
		for _, tenant := range []string{"x", "y"} { // both slots
			if err := p.compiles.enter(t.Context(), tenant); err != nil {
				t.Fatal(err)
			}
		}
		var all sync.WaitGroup
		errs := map[string]error{}
		var mu sync.Mutex
		prepare := func(c Call) {
			all.Go(func() {
				err := p.Prepare(t.Context(), c)
				mu.Lock()
				defer mu.Unlock()
				errs[c.Tenant] = err
			})
			synctest.Wait()
		}
		gone := errors.New("the store does not answer")
		prepare(gives("a", "sha256:1", &fetched, nil, gone))
		prepare(gives("b", "sha256:1", &fetched, []byte("no module"), nil)) // waits for a's
		p.compiles.leave("x")
		p.compiles.leave("y")
		all.Wait()
		if !errors.Is(errs["a"], gone) || !errors.Is(errs["b"], ErrModule) || errors.Is(errs["b"], gone) {
			t.Errorf("a: %v; b: %v", errs["a"], errs["b"])
		}
		if n := fetched.Load(); n != 2 {
			t.Errorf("fetched %d times", n)
		}
	})
}

// After a start with an empty cache each tenant's login finds its verifier missing;
// uploads must find a place in the queue all the same.
func TestCallsOfMissingModulesDoNotFillTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := still(t)
		for _, tenant := range []string{"x", "y"} {
			if err := p.compiles.enter(t.Context(), tenant); err != nil {
				t.Fatal(err)
			}
		}
		var fetched atomic.Int32
		for i := range 3 * queueLength {
			c := gives(fmt.Sprint("tenant", i), fmt.Sprint("sha256:", i), &fetched, []byte("no module"), nil)
			if _, err := p.Call(t.Context(), c); !errors.Is(err, ErrPending) {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if waiting, refused := p.compiles.counts(); waiting != asked || refused != 0 {
			t.Errorf("%d wait, %d were refused", waiting, refused)
		}
		if n := fetched.Load(); n != 0 {
			t.Errorf("%d of those that wait hold their module", n)
		}
		p.compiles.leave("x")
		p.compiles.leave("y")
		synctest.Wait()
		if n := fetched.Load(); n != asked {
			t.Errorf("%d were compiled", n)
		}
	})
}

func TestAQuarantinedModuleIsNotCompiled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := still(t)
		var fetched atomic.Int32
		c := gives("a", "sha256:1", &fetched, []byte("no module"), nil)
		for range deathsToQuarantine {
			p.breakers.note(c, false, died)
		}
		_, err := p.Call(t.Context(), c)
		if prepared := p.Prepare(t.Context(), c); !errors.Is(err, ErrQuarantined) || !errors.Is(prepared, ErrQuarantined) {
			t.Errorf("Call: %v; Prepare: %v", err, prepared)
		}
		synctest.Wait()
		if n := fetched.Load(); n != 0 {
			t.Errorf("fetched %d times", n)
		}
		if until, _ := p.Until("a", c.Digest); !until.Equal(time.Now().Add(quarantineTime)) {
			t.Errorf("quarantined until %v", until)
		}
	})
}

func TestWhoWaitsForACompileGivesUpWithItsOwnDeadlineAndTheCompileGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := still(t)
		for _, tenant := range []string{"x", "y"} {
			if err := p.compiles.enter(t.Context(), tenant); err != nil {
				t.Fatal(err)
			}
		}
		var fetched atomic.Int32
		c := gives("a", "sha256:1", &fetched, []byte("no module"), nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Prepare(ctx, c); !errors.Is(err, ErrBusy) || errors.Is(err, ErrModule) {
			t.Fatalf("Prepare: %v", err)
		}
		p.compiles.leave("x")
		synctest.Wait()
		if err := p.Prepare(t.Context(), c); !errors.Is(err, ErrModule) || fetched.Load() != 1 {
			t.Errorf("Prepare: %v, fetched %d times", err, fetched.Load())
		}
		p.compiles.leave("y")
	})
}

func TestATenantHasSoManyLoginsAtOnceAndTheNextWaitInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := still(t)
		soon := func() time.Time { return time.Now().Add(slotWait) }
		var inside []func()
		for range p.cfg.Inside {
			leave, err := p.enter(t.Context(), "a", soon())
			if err != nil {
				t.Fatal(err)
			}
			inside = append(inside, leave)
		}
		began := time.Now()
		if _, err := p.enter(t.Context(), "a", soon()); !errors.Is(err, ErrBusy) || time.Since(began) != slotWait {
			t.Fatalf("one more: %v after %v", err, time.Since(began))
		}
		if leave, err := p.enter(t.Context(), "b", soon()); err != nil {
			t.Fatalf("another tenant: %v", err)
		} else {
			leave()
		}
		order := make(chan int, 3)
		for i := range 3 {
			go func() {
				leave, err := p.enter(t.Context(), "a", soon())
				if err != nil {
					t.Error(err)
					return
				}
				order <- i
				leave()
			}()
			synctest.Wait()
		}
		inside[0]()
		for want := range 3 {
			if got := <-order; got != want {
				t.Fatalf("%d got in, not %d", got, want)
			}
		}
		for _, leave := range inside[1:] {
			leave()
		}
		synctest.Wait()
		if len(p.doors) != 0 {
			t.Errorf("%d doors are left of tenants without logins", len(p.doors))
		}
	})
}

// A caller in a hurry once had a good module refused for good.
func TestACompileThatItsCallerCutShortIsNotTheModulesFault(t *testing.T) {
	p, err := New(Config{CacheDir: t.TempDir(), Command: []string{"/bin/sh", "-c", "exec sleep 60"}, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	running, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Run(running) }()
	defer func() { cancel(); <-done }()
	ctx, enough := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer enough()
	if _, err := p.Compile(ctx, "a", "sha256:1", guesttest.Accepts("alice").Module()); !errors.Is(err, ErrBusy) || errors.Is(err, ErrModule) {
		t.Errorf("Compile: %v", err)
	}
}

// What nobody waits for once pushed out what was compiled for others, at each start
// where more was active than the cache holds.
func TestThereIsRoomAsLongAsWhatIsInUseLeavesSome(t *testing.T) {
	p, err := New(Config{CacheDir: t.TempDir(), CacheBytes: 4 * 1006}) // four entries
	if err != nil {
		t.Fatal(err)
	}
	const old = 2 * 24 * 60 // minutes
	for _, digest := range []string{"sha256:1", "sha256:2", "sha256:3"} {
		put(t, p.cache, digest, old)
	}
	put(t, p.cache, "sha256:4", 0)
	if !p.Room() {
		t.Error("no room beside what nobody used for days")
	}
	for _, digest := range []string{"sha256:1", "sha256:2"} {
		if err := p.Prepare(t.Context(), Call{Tenant: "a", Digest: digest}); err != nil {
			t.Fatal(err)
		}
	}
	if p.Room() {
		t.Error("room where three of four are in use")
	}
}

func TestCodeThatIsSpoiltAsSoonAsItIsMadeIsNotMadeByEachCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := still(t)
		var fetched atomic.Int32
		c := gives("a", "sha256:1", &fetched, nil, errors.New("unused"))
		again := func(times int) {
			t.Helper()
			for range 10 {
				put(t, p.cache, c.Digest, 0) // which a worker finds spoilt
				p.compileAgain(t.Context(), c)
				synctest.Wait()
				p.forgive(c) // as though it had been made
			}
			if n := fetched.Load(); n != int32(times) {
				t.Fatalf("made %d times, want %d", n, times)
			}
		}
		again(1)
		time.Sleep(missedFirst)
		again(2)
		time.Sleep(missedFirst)
		again(2)
	})
}
