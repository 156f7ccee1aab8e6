package sandbox

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestOneTenantsUploadsDoNotStarveAnothers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(2)
		order := make(chan string, 10)
		enter := func(tenant string) {
			go func() {
				if err := q.enter(t.Context(), tenant); err != nil {
					t.Error(err)
				}
				order <- tenant
			}()
			synctest.Wait()
		}
		for range 4 {
			enter("greedy") // one runs, three wait, and a slot stays free
		}
		enter("modest")
		if a, b := <-order, <-order; a != "greedy" || b != "modest" {
			t.Fatalf("ran %s, %s", a, b)
		}
		enter("third")
		enter("modest")
		q.leave("greedy")
		if got := <-order; got != "third" { // it came last but one, and has had nothing
			t.Fatalf("next was %s, not third", got)
		}
		q.leave("modest")
		if got := <-order; got != "greedy" {
			t.Fatalf("next was %s, not greedy", got)
		}
		q.leave("third")
		q.leave("greedy")
		<-order
		<-order
		q.leave("modest")
		q.leave("greedy")
		if got := <-order; got != "greedy" {
			t.Fatal(got)
		}
	})
}

func TestAFullCompileQueueRefusesAndSaysWhatToDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, queueLength+1)
		enter := func(tenant string) {
			go func() { ended <- q.enter(ctx, tenant) }()
			synctest.Wait()
		}
		enter("first")
		for range queuePerTenant {
			enter("a")
		}
		if err := q.enter(ctx, "a"); !errors.Is(err, ErrQueueFull) {
			t.Fatalf("one more of a tenant: %v", err)
		}
		for i := range queueLength - queuePerTenant {
			enter(fmt.Sprint("other", i))
		}
		if err := q.enter(ctx, "last"); !errors.Is(err, ErrQueueFull) {
			t.Fatalf("one more in all: %v", err)
		}
		cancel()
		synctest.Wait()
		if waiting, refused := q.counts(); waiting != 0 || refused != 2 {
			t.Fatalf("%d wait, %d were refused", waiting, refused)
		}
		q.leave("first")
		if err := q.enter(t.Context(), "a"); err != nil {
			t.Fatalf("once it is empty: %v", err)
		}
	})
}

func TestThreeDeathsQuarantineAVersionOfOneTenantForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreakers()
		c := Call{Tenant: "a", Digest: "d"}
		b.note(c, false, died)
		b.note(c, false, died)
		time.Sleep(deathWindow) // the two are too long ago to count
		for i := range deathsToQuarantine {
			if _, err := b.allow(c); err != nil {
				t.Fatalf("before death %d: %v", i+1, err)
			}
			if quarantined, _ := b.note(c, false, died); quarantined != (i == deathsToQuarantine-1) {
				t.Fatalf("death %d: quarantined is %v", i+1, quarantined)
			}
		}
		if _, err := b.allow(c); !errors.Is(err, ErrQuarantined) {
			t.Fatalf("in quarantine: %v", err)
		}
		if _, err := b.allow(Call{Tenant: "b", Digest: "d"}); err != nil {
			t.Fatalf("another tenant's version of the same module: %v", err)
		}
		time.Sleep(quarantineTime)
		if _, err := b.allow(c); err != nil {
			t.Fatalf("after its time: %v", err)
		}
		for range deathsToQuarantine {
			b.note(c, false, died)
		}
		b.lift(c)
		if _, err := b.allow(c); err != nil {
			t.Fatalf("lifted: %v", err)
		}
	})
}

func TestAnOpenBreakerLetsOneCallProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreakers()
		c := Call{Tenant: "a", Digest: "d"}
		for range overrunsToOpen {
			b.note(c, false, overran)
		}
		if _, err := b.allow(c); !errors.Is(err, ErrBusy) {
			t.Fatalf("open: %v", err)
		}
		for _, ending := range []ending{overran, endedNot, endedWell} {
			time.Sleep(openTime)
			probe, err := b.allow(c)
			if !probe || err != nil {
				t.Fatalf("after its time: %v, %v", probe, err)
			}
			if _, err := b.allow(c); !errors.Is(err, ErrBusy) {
				t.Fatalf("beside the probe: %v", err)
			}
			b.note(c, probe, ending)
		}
		if probe, err := b.allow(c); probe || err != nil {
			t.Fatalf("closed: %v, %v", probe, err)
		}
		if len(b.records) != 0 {
			t.Fatalf("%d records are left of what is well", len(b.records))
		}
	})
}

func TestWorkersThatDieAtTheirStartAreNotStartedWithoutEnd(t *testing.T) {
	p, err := New(Config{CacheDir: t.TempDir(), Command: []string{"/bin/false"}, Workers: 1, MaxWorkers: 4})
	if err != nil {
		t.Fatal(err)
	}
	c := Call{Tenant: "a", Digest: "sha256:0", Wall: time.Second}
	room, err := p.cache.room()
	if err != nil {
		t.Fatal(err)
	}
	leave(t, room, "wazero-v1", codeName, []byte("code"))
	if err := p.cache.install(c.Digest, nil, room); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	for until := time.Now().Add(2 * time.Second); time.Now().Before(until); {
		if _, err := p.Call(ctx, c); err == nil {
			t.Fatal("a worker that is no worker answered")
		}
	}
	cancel()
	<-done
	// Pauses of at least 50, 100, 200, 400, 800 ms, and what was started at once:
	// the free ones, and up to MaxWorkers beside each other.
	if n := p.Counters().Stillborn; n <= respawnFree || n > 16 {
		t.Fatalf("%d workers were started in 2 s", n)
	}
}
