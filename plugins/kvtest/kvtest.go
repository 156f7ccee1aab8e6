// Package kvtest is the exam that every plugins.KV sits, whole.
package kvtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorward/doorward/plugins"
)

// Limit is how many entries of one tenant the KV under examination keeps.
const Limit = 20

// Run examines what open returns: a KV with that limit, and two tenants that it
// may keep entries of. It is opened anew for each part, and may hold what other
// tenants left.
func Run(t *testing.T, open func(t *testing.T) (kv plugins.KV, a, b string)) {
	for name, part := range map[string]func(t *testing.T, kv plugins.KV, a, b string){
		"an entry is there until it is removed":  entries,
		"slots are apart":                        slots,
		"counts count, and keep their end":       counts,
		"of many that swap one does":             swaps,
		"many that count at once lose nothing":   concurrentCounts,
		"an entry ends by itself":                ends,
		"a tenant has so many entries":           quota,
		"a tenant that is removed leaves none":   removal,
		"a caller that is gone gets nothing new": gone,
	} {
		t.Run(name, func(t *testing.T) {
			kv, a, b := open(t)
			part(t, kv, a, b)
		})
	}
}

func slot(tenant, key string) plugins.Slot {
	return plugins.Slot{Tenant: tenant, Verifier: "v", Namespace: "ns", Key: key}
}

func want(t *testing.T, kv plugins.KV, s plugins.Slot, value string) {
	t.Helper()
	if got, err := kv.Get(t.Context(), s); err != nil || string(got) != value || (got == nil) != (value == "") {
		t.Errorf("Get %s = %q, %v; want %q", s.Name(), got, err, value)
	}
}

func put(t *testing.T, kv plugins.KV, s plugins.Slot, value string) {
	t.Helper()
	if err := kv.Put(t.Context(), s, []byte(value), time.Hour); err != nil {
		t.Fatalf("Put %s: %v", s.Name(), err)
	}
}

func entries(t *testing.T, kv plugins.KV, a, _ string) {
	s := slot(a, "k")
	want(t, kv, s, "")
	put(t, kv, s, "") // removes what is not there
	put(t, kv, s, "one")
	want(t, kv, s, "one")
	put(t, kv, s, "two\x00\xff")
	want(t, kv, s, "two\x00\xff")
	long := strings.Repeat("v", 1024)
	put(t, kv, s, long)
	want(t, kv, s, long)
	put(t, kv, s, "")
	want(t, kv, s, "")
}

func slots(t *testing.T, kv plugins.KV, a, b string) {
	all := []plugins.Slot{
		{Tenant: a, Verifier: "v", Namespace: "ns", Key: "k"},
		{Tenant: b, Verifier: "v", Namespace: "ns", Key: "k"},
		{Tenant: a, Verifier: "w", Namespace: "ns", Key: "k"},
		{Tenant: a, Verifier: "v", Namespace: "n", Key: "k"},
		{Tenant: a, Verifier: "v", Namespace: "", Key: "k"},
		{Tenant: a, Verifier: "", Namespace: "", Key: "k"},
		{Tenant: a, Verifier: "v", Namespace: "ns", Key: ""},
		{Tenant: a, Verifier: "v", Namespace: "ns/k", Key: ""},
		{Tenant: a, Verifier: "v/ns", Namespace: "k", Key: ""},
		{Tenant: a, Verifier: "v", Namespace: "ns", Key: "../../" + b + "/k"},
		{Tenant: a, Verifier: "v", Namespace: "ns", Key: "k\x00"},
		{Tenant: a, Verifier: "v", Namespace: "ns", Key: "\xff"},
		{Tenant: a, Verifier: "v", Namespace: "ns", Key: "\ufffd"},
		{Tenant: a, Verifier: "v", Namespace: "ns", Key: `\xff`},
		{Tenant: a, Verifier: "v", Namespace: "ns", Key: `k"/"`},
	}
	for i, s := range all {
		put(t, kv, s, fmt.Sprint("value ", i))
	}
	for i, s := range all {
		want(t, kv, s, fmt.Sprint("value ", i))
	}
}

func counts(t *testing.T, kv plugins.KV, a, _ string) {
	s := slot(a, "n")
	for i, step := range []struct{ by, want int64 }{{1, 1}, {1, 2}, {0, 2}, {-2, 0}, {1<<31 - 1, 1<<31 - 1}} {
		if n, err := kv.Incr(t.Context(), s, step.by, time.Hour); err != nil || n != step.want {
			t.Errorf("step %d: %d, %v; want %d", i, n, err, step.want)
		}
	}
	if _, err := kv.Incr(t.Context(), s, 1, time.Hour); !errors.Is(err, plugins.ErrInvalid) {
		t.Errorf("above an i32: %v", err)
	}
	want(t, kv, s, "2147483647")
	for _, value := range []string{"x", "-1", "1.5", "99999999999"} {
		put(t, kv, s, value)
		if _, err := kv.Incr(t.Context(), s, 1, time.Hour); !errors.Is(err, plugins.ErrInvalid) {
			t.Errorf("counting on from %q: %v", value, err)
		}
		want(t, kv, s, value)
	}
	put(t, kv, s, "")
	if _, err := kv.Incr(t.Context(), s, -1, time.Hour); !errors.Is(err, plugins.ErrInvalid) {
		t.Errorf("below 0: %v", err)
	}
	want(t, kv, s, "")
	// A later count with a long ttl does not prolong one with a short one.
	if _, err := kv.Incr(t.Context(), s, 1, time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Incr(t.Context(), s, 1, time.Hour); err != nil {
		t.Fatal(err)
	}
	untilGone(t, kv, s)
	if n, err := kv.Incr(t.Context(), s, 1, time.Hour); err != nil || n != 1 {
		t.Errorf("after its end: %d, %v; want 1", n, err)
	}
}

func swaps(t *testing.T, kv plugins.KV, a, _ string) {
	s := slot(a, "once")
	swap := func(old, value string) bool {
		t.Helper()
		done, err := kv.Swap(t.Context(), s, []byte(old), []byte(value), time.Hour)
		if err != nil {
			t.Fatalf("Swap %q for %q: %v", old, value, err)
		}
		return done
	}
	var won atomic.Int32
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if done, err := kv.Swap(t.Context(), s, nil, fmt.Append(nil, i), time.Hour); err != nil {
				t.Error(err)
			} else if done {
				won.Add(1)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of 20 found nothing there", won.Load())
	}
	put(t, kv, s, "now")
	if swap("then", "x") || swap("", "x") || swap("no", "x") {
		t.Error("it was swapped for what was not there")
	}
	if !swap("now", "next") || !swap("next", "") {
		t.Error("it was not swapped for what was there")
	}
	want(t, kv, s, "")
	if swap("next", "x") || !swap("", "") || !swap("", "again") {
		t.Error("an entry that is gone is none")
	}
	want(t, kv, s, "again")
}

func concurrentCounts(t *testing.T, kv plugins.KV, a, _ string) {
	s := slot(a, "n")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 5 {
				if _, err := kv.Incr(t.Context(), s, 1, time.Hour); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	want(t, kv, s, "40")
}

// untilGone waits for an entry's end.
func untilGone(t *testing.T, kv plugins.KV, s plugins.Slot) {
	t.Helper()
	for tick := time.Tick(20 * time.Millisecond); ; <-tick {
		value, err := kv.Get(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if value == nil {
			return
		}
	}
}

func ends(t *testing.T, kv plugins.KV, a, _ string) {
	brief, long := slot(a, "brief"), slot(a, "long")
	put(t, kv, long, "long")
	if err := kv.Put(t.Context(), brief, []byte("brief"), time.Second); err != nil {
		t.Fatal(err)
	}
	untilGone(t, kv, brief)
	want(t, kv, long, "long")
	if done, err := kv.Swap(t.Context(), brief, nil, []byte("anew"), time.Hour); err != nil || !done {
		t.Errorf("an entry that has ended is in the way: %v", err)
	}
	want(t, kv, brief, "anew")
	// A put gives a new end, either way.
	if err := kv.Put(t.Context(), long, []byte("brief"), time.Second); err != nil {
		t.Fatal(err)
	}
	untilGone(t, kv, long)
}

func quota(t *testing.T, kv plugins.KV, a, b string) {
	for i := range Limit {
		put(t, kv, slot(a, fmt.Sprint(i)), "v")
	}
	more := slot(a, "more")
	if err := kv.Put(t.Context(), more, []byte("v"), time.Hour); !errors.Is(err, plugins.ErrQuota) {
		t.Errorf("Put: %v", err)
	}
	if _, err := kv.Incr(t.Context(), more, 1, time.Hour); !errors.Is(err, plugins.ErrQuota) {
		t.Errorf("Incr: %v", err)
	}
	if done, err := kv.Swap(t.Context(), more, nil, []byte("v"), time.Hour); done || !errors.Is(err, plugins.ErrQuota) {
		t.Errorf("Swap: %v, %v", done, err)
	}
	want(t, kv, more, "")
	put(t, kv, slot(a, "0"), "another value")
	put(t, kv, slot(b, "0"), "another tenant's")
	put(t, kv, plugins.Slot{Tenant: a, Key: "the host's own"}, "v")
	put(t, kv, slot(a, "1"), "")
	put(t, kv, more, "v")
}

func removal(t *testing.T, kv plugins.KV, a, b string) {
	own := plugins.Slot{Tenant: a, Key: "the host's own"}
	put(t, kv, slot(a, "k"), "v")
	put(t, kv, own, "v")
	put(t, kv, slot(b, "k"), "v")
	for range 2 {
		if err := kv.RemoveTenant(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	want(t, kv, slot(a, "k"), "")
	want(t, kv, own, "")
	want(t, kv, slot(b, "k"), "v")
}

// gone: what could not be known is an error or done, never a wrong answer.
func gone(t *testing.T, kv plugins.KV, a, _ string) {
	s := slot(a, "k")
	put(t, kv, s, "v")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := kv.Get(ctx, s); err == nil && string(got) != "v" || err != nil && !errors.Is(err, plugins.ErrUnavailable) {
		t.Errorf("Get = %q, %v", got, err)
	}
	if done, err := kv.Swap(ctx, s, []byte("other"), []byte("w"), time.Hour); done || err != nil && !errors.Is(err, plugins.ErrUnavailable) {
		t.Errorf("Swap = %v, %v", done, err)
	}
	want(t, kv, s, "v")
}
