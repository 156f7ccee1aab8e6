// Package artifacttest is the exam that every plugins.Artifacts sits. Nobody
// may skip a part of it.
package artifacttest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/sdk/abi"
)

// Run examines artifacts. open gives an empty store; it is called once for each
// part.
func Run(t *testing.T, open func(t *testing.T) plugins.Artifacts) {
	for _, part := range []struct {
		name string
		run  func(e exam)
	}{
		{"what was added is there, under the tenant's next number", adds},
		{"a module of any size comes back byte for byte", sizes},
		{"a module is kept as long as one version of anybody is made of it", shares},
		{"a number is not given twice", numbers},
		{"uploads at once each get their own number", addRace},
		{"the active version moves with its states, and only from what was seen", activates},
		{"one version, and the active one, are each read by themselves", reads},
		{"of activations at once one wins", activationRace},
		{"the active version stays", activeStays},
		{"removing is idempotent", removes},
		{"a removed tenant leaves nothing, and takes nothing of another's", removesTenant},
		{"a module that is removed and added at once is whole or gone", removeRace},
		{"who watches sees every version, and each that is added or activated", watches},
		{"a context that is over is unavailable, and nothing is written", over},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(exam{t, open(t)}) })
	}
}

type exam struct {
	*testing.T
	store plugins.Artifacts
}

// module is so many bytes that do not compress, the same for the same seed.
func module(seed uint64, size int) []byte {
	out := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(out)
	return out
}

func digestOf(module []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(module)) }

// version is one to store, every member set but the number.
func version(code []byte) plugins.Version {
	return plugins.Version{
		Digest: digestOf(code), State: plugins.Staged, Size: len(code),
		Imports: []string{"doorward_v1.output_write"}, Grants: abi.Grants{Config: true, Secrets: []string{"PW"}},
		Limits: abi.Limits{WallMS: 100, MemoryMiB: 2}, Methods: []string{"password"}, Name: "Zoë", Profile: "core",
		Vectors: plugins.Tally{Passed: 2}, Warnings: []string{"w"}, CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 6000000, time.UTC),
	}
}

// add stores a version made of code and returns it with its number.
func (e exam) add(tenant string, code []byte) plugins.Version {
	e.Helper()
	v := version(code)
	n, err := e.store.Add(e.Context(), tenant, v, code)
	if err != nil {
		e.Fatalf("add: %v", err)
	}
	v.Number = n
	return v
}

// holds wants exactly these versions of a tenant.
func (e exam) holds(tenant string, want ...plugins.Version) {
	e.Helper()
	got, err := e.store.Versions(e.Context(), tenant)
	if err != nil {
		e.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" && len(want)+len(got) > 0 {
		e.Fatalf("versions of %s differ (-want +got):\n%s", tenant, diff)
	}
}

// there wants the bytes of a module.
func (e exam) there(code []byte) {
	e.Helper()
	got, err := e.store.Module(e.Context(), digestOf(code))
	if err != nil || !bytes.Equal(got, code) {
		e.Fatalf("module has %d bytes of %d, %v", len(got), len(code), err)
	}
}

func (e exam) gone(code []byte) {
	e.Helper()
	if got, err := e.store.Module(e.Context(), digestOf(code)); !errors.Is(err, plugins.ErrNotFound) {
		e.Fatalf("%d bytes are still there, or: %v", len(got), err)
	}
}

func (e exam) active(tenant string) plugins.Pointer {
	e.Helper()
	p, err := e.store.Active(e.Context(), tenant)
	if err != nil {
		e.Fatal(err)
	}
	return p
}

// points moves a tenant's pointer, with the state of the new version.
func (e exam) points(tenant string, to plugins.Version) plugins.Version {
	e.Helper()
	from := e.active(tenant)
	to.State = plugins.Active
	if err := e.store.SetActive(e.Context(), tenant, from, plugins.Pointer{Active: to.Number, Previous: from.Active}, []plugins.Version{to}); err != nil {
		e.Fatal(err)
	}
	return to
}

func (e exam) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

func (e exam) want(want, err error) {
	e.Helper()
	if !errors.Is(err, want) {
		e.Fatalf("err = %v, want %v", err, want)
	}
}

func adds(e exam) {
	e.holds("a")
	one, two := module(1, 100), module(2, 100)
	e.gone(one)
	first := e.add("a", one)
	second := e.add("a", two)
	other := e.add("b", one)
	if first.Number != 1 || second.Number != 2 || other.Number != 1 {
		e.Fatalf("numbers %d, %d and %d", first.Number, second.Number, other.Number)
	}
	e.holds("a", first, second)
	e.holds("b", other)
	e.there(one)
	e.there(two)
	if p := e.active("a"); p.Active != 0 || p.Previous != 0 {
		e.Fatalf("active before any activation: %+v", p)
	}
}

func sizes(e exam) {
	const piece = 1 << 20
	for seed, size := range []int{1, piece - 1, piece, piece + 1, 3*piece + 7} {
		code := module(uint64(seed), size)
		given := bytes.Clone(code)
		v := version(code)
		_, err := e.store.Add(e.Context(), "a", v, given)
		e.must(err)
		clear(given)
		e.there(code)
	}
	zeros := make([]byte, 8<<20) // packs to next to nothing
	e.add("a", zeros)
	e.there(zeros)
}

func shares(e exam) {
	code := module(3, 2<<20)
	a1, a2, b1 := e.add("a", code), e.add("a", code), e.add("b", code)
	e.must(e.store.Remove(e.Context(), "a", a1.Number))
	e.there(code)
	e.must(e.store.Remove(e.Context(), "a", a2.Number))
	e.there(code)
	e.holds("a")
	e.holds("b", b1)
	e.must(e.store.Remove(e.Context(), "b", b1.Number))
	e.gone(code)
	e.add("a", code)
	e.there(code)
}

func numbers(e exam) {
	e.add("a", module(1, 10))
	last := e.add("a", module(2, 10))
	e.must(e.store.Remove(e.Context(), "a", last.Number))
	if next := e.add("a", module(2, 10)); next.Number != 3 {
		e.Fatalf("number %d was given after 2 had been removed", next.Number)
	}
}

func addRace(e exam) {
	const uploads = 12
	var all sync.WaitGroup
	got := make([]int, uploads)
	for i := range uploads {
		all.Go(func() {
			code := module(uint64(i%3), 1000)
			n, err := e.store.Add(e.Context(), "a", version(code), code)
			if err != nil {
				e.Errorf("add: %v", err)
			}
			got[i] = n
		})
	}
	all.Wait()
	seen := map[int]bool{}
	for _, n := range got {
		seen[n] = true
	}
	list, err := e.store.Versions(e.Context(), "a")
	if err != nil || len(seen) != uploads || len(list) != uploads {
		e.Fatalf("numbers %v, %d versions, %v", got, len(list), err)
	}
	for i, v := range list {
		if v.Number != i+1 {
			e.Fatalf("version %d stands at %d", v.Number, i)
		}
	}
}

func activates(e exam) {
	one, two := e.add("a", module(1, 10)), e.add("a", module(2, 10))
	start := e.active("a")
	one.State, one.ActivatedAt = plugins.Active, one.CreatedAt.Add(time.Hour)
	e.must(e.store.SetActive(e.Context(), "a", start, plugins.Pointer{Active: 1}, []plugins.Version{one}))
	first := e.active("a")
	if first.Active != 1 || first.Previous != 0 {
		e.Fatalf("active %+v", first)
	}
	e.holds("a", one, two)

	// Whoever saw an older moment changes nothing.
	late := two
	late.State = plugins.Active
	e.want(plugins.ErrConflict, e.store.SetActive(e.Context(), "a", start, plugins.Pointer{Active: 2}, []plugins.Version{late}))
	e.holds("a", one, two)
	if p := e.active("a"); p != first {
		e.Fatalf("active %+v, want %+v", p, first)
	}

	// Forward, and back.
	retired := one
	retired.State = plugins.Retired
	e.must(e.store.SetActive(e.Context(), "a", first, plugins.Pointer{Active: 2, Previous: 1}, []plugins.Version{late, retired}))
	e.holds("a", retired, late)
	second := e.active("a")
	e.must(e.store.SetActive(e.Context(), "a", second, plugins.Pointer{Active: 1, Previous: 2}, []plugins.Version{one}))
	if p := e.active("a"); p.Active != 1 || p.Previous != 2 {
		e.Fatalf("after the way back: %+v", p)
	}

	// Nobody can point at what is not there.
	e.want(plugins.ErrConflict, e.store.SetActive(e.Context(), "a", e.active("a"), plugins.Pointer{Active: 9, Previous: 1}, nil))
	e.want(plugins.ErrConflict, e.store.SetActive(e.Context(), "b", e.active("b"), plugins.Pointer{Active: 1}, nil))
	if p := e.active("b"); p.Active != 0 {
		e.Fatalf("another tenant's pointer moved: %+v", p)
	}
}

// reads holds both ways to the active version against each other: a store that
// keeps it twice must not tell two stories.
func reads(e exam) {
	read := func(tenant string, number int, want plugins.Version) {
		e.Helper()
		got, err := e.store.Version(e.Context(), tenant, number)
		e.must(err)
		if diff := cmp.Diff(want, got); diff != "" {
			e.Fatalf("version %d differs (-want +got):\n%s", number, diff)
		}
	}
	decides := func(tenant string, want plugins.Version) {
		e.Helper()
		got, err := e.store.ActiveVersion(e.Context(), tenant)
		e.must(err)
		if diff := cmp.Diff(want, got); diff != "" {
			e.Fatalf("the active version differs (-want +got):\n%s", diff)
		}
		read(tenant, want.Number, want)
	}
	none := func(tenant string) {
		e.Helper()
		_, err := e.store.ActiveVersion(e.Context(), tenant)
		e.want(plugins.ErrNotFound, err)
	}
	none("a")
	one, two := e.add("a", module(1, 10)), e.add("a", module(2, 10))
	none("a")
	read("a", 1, one)
	for _, number := range []int{-1, 0, 3} {
		_, err := e.store.Version(e.Context(), "a", number)
		e.want(plugins.ErrNotFound, err)
	}
	one = e.points("a", one)
	decides("a", one)
	none("b")
	start := e.active("a")
	two = e.points("a", two)
	decides("a", two)
	late := one
	late.ActivatedAt = late.CreatedAt.Add(time.Hour)
	e.want(plugins.ErrConflict, e.store.SetActive(e.Context(), "a", start, plugins.Pointer{Active: 1}, []plugins.Version{late}))
	decides("a", two)
	e.must(e.store.SetActive(e.Context(), "a", e.active("a"), plugins.Pointer{Active: 1, Previous: 2}, []plugins.Version{late}))
	decides("a", late)
	e.must(e.store.Remove(e.Context(), "a", 2))
	decides("a", late)
	e.must(e.store.RemoveTenant(e.Context(), "a"))
	none("a")

	ctx, cancel := context.WithCancel(e.Context())
	cancel()
	_, err := e.store.ActiveVersion(ctx, "a")
	e.want(plugins.ErrUnavailable, err)
	_, err = e.store.Version(ctx, "a", 1)
	e.want(plugins.ErrUnavailable, err)
}

func activationRace(e exam) {
	const many = 8
	versions := make([]plugins.Version, many)
	for i := range many {
		versions[i] = e.add("a", module(uint64(i), 10))
	}
	seen := e.active("a")
	errs := make([]error, many)
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() {
			errs[i] = e.store.SetActive(e.Context(), "a", seen, plugins.Pointer{Active: i + 1}, versions[i:i+1])
		})
	}
	all.Wait()
	won := 0
	for i, err := range errs {
		if err == nil {
			won = i + 1
			continue
		}
		e.want(plugins.ErrConflict, err)
	}
	if p := e.active("a"); p.Active != won || won == 0 {
		e.Fatalf("%d won and %d is active: %v", won, p.Active, errs)
	}
	if v, err := e.store.ActiveVersion(e.Context(), "a"); err != nil || v.Number != won {
		e.Fatalf("%d won and version %d decides, %v", won, v.Number, err)
	}
	wins := 0
	for _, err := range errs {
		if err == nil {
			wins++
		}
	}
	if wins != 1 {
		e.Fatalf("%d won", wins)
	}
}

func activeStays(e exam) {
	code := module(1, 10)
	one, two := e.add("a", code), e.add("a", module(2, 10))
	one = e.points("a", one)
	e.want(plugins.ErrConflict, e.store.Remove(e.Context(), "a", one.Number))
	e.holds("a", one, two)
	e.there(code)
	two = e.points("a", two)
	e.must(e.store.Remove(e.Context(), "a", one.Number)) // the one before it may go
	e.holds("a", two)
	e.gone(code)
}

func removes(e exam) {
	code := module(1, 10)
	v := e.add("a", code)
	e.must(e.store.Remove(e.Context(), "a", 7))
	e.must(e.store.Remove(e.Context(), "b", v.Number))
	e.holds("a", v)
	e.must(e.store.Remove(e.Context(), "a", v.Number))
	e.must(e.store.Remove(e.Context(), "a", v.Number))
	e.holds("a")
	e.gone(code)
}

func removesTenant(e exam) {
	shared, own := module(1, 10), module(2, 2<<20)
	e.add("a", own)
	e.points("a", e.add("a", shared))
	kept := e.add("a-b", shared) // a tenant whose name begins like the removed one's
	kept = e.points("a-b", kept)
	e.must(e.store.RemoveTenant(e.Context(), "a"))
	e.must(e.store.RemoveTenant(e.Context(), "a"))
	e.must(e.store.RemoveTenant(e.Context(), "never-was"))
	e.holds("a")
	if p := e.active("a"); p.Active != 0 || p.Previous != 0 {
		e.Fatalf("a removed tenant's pointer: %+v", p)
	}
	e.gone(own)
	e.there(shared)
	e.holds("a-b", kept)
	if p := e.active("a-b"); p.Active != kept.Number {
		e.Fatalf("another's pointer: %+v", p)
	}
}

func removeRace(e exam) {
	code := module(5, 1<<20+5)
	for round := range 15 {
		old := e.add("a", code)
		var all sync.WaitGroup
		all.Go(func() {
			if err := e.store.Remove(e.Context(), "a", old.Number); err != nil {
				e.Errorf("remove: %v", err)
			}
		})
		all.Go(func() {
			if _, err := e.store.Add(e.Context(), "b", version(code), code); err != nil {
				e.Errorf("add: %v", err)
			}
		})
		all.Wait()
		e.there(code) // b has a version of it, whatever a's remove saw
		e.must(e.store.RemoveTenant(e.Context(), "b"))
		if list, err := e.store.Versions(e.Context(), "a"); err != nil || len(list) > 0 {
			e.Fatalf("round %d: %v, %v", round, list, err)
		}
		e.gone(code)
	}
}

func watches(e exam) {
	one, other := e.add("a", module(1, 10)), e.add("b", module(2, 10))
	ctx, cancel := context.WithCancel(e.Context())
	seen, done := make(chan string, 100), make(chan error, 1)
	go func() {
		done <- e.store.Watch(ctx, func(tenant string, v plugins.Version) {
			seen <- fmt.Sprintf("%s %d %s %s", tenant, v.Number, v.State, v.Digest)
		})
	}()
	sees := func(tenant string, v plugins.Version) {
		e.Helper()
		want := fmt.Sprintf("%s %d %s %s", tenant, v.Number, v.State, v.Digest)
		late := time.After(30 * time.Second)
		for {
			select {
			case got := <-seen:
				if got == want {
					return
				}
			case err := <-done:
				e.Fatalf("the watch ended with %v before %s", err, want)
			case <-late:
				e.Fatalf("not seen: %s", want)
			}
		}
	}
	first := map[string]bool{}
	for range 2 {
		select {
		case got := <-seen:
			first[got] = true
		case <-time.After(30 * time.Second):
			e.Fatalf("seen of two: %v", first)
		}
	}
	for tenant, v := range map[string]plugins.Version{"a": one, "b": other} {
		if !first[fmt.Sprintf("%s %d staged %s", tenant, v.Number, v.Digest)] {
			e.Fatalf("%s is not among %v", v.Digest, first)
		}
	}
	sees("a", e.points("a", one))
	sees("c", e.add("c", module(3, 10)))
	e.must(e.store.Remove(e.Context(), "b", other.Number))
	e.must(e.store.RemoveTenant(e.Context(), "c"))
	sees("a", e.add("a", module(2, 10)))
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		e.Fatalf("the watch ended with %v", err)
	}
	e.want(context.Canceled, e.store.Watch(ctx, func(string, plugins.Version) { e.Error("seen after the end") }))
}

func over(e exam) {
	code := module(1, 2<<20)
	kept := e.points("a", e.add("a", code))
	spare := e.add("a", code)
	before := e.active("a")
	ctx, cancel := context.WithCancel(e.Context())
	cancel()
	fresh := module(2, 2<<20)
	_, err := e.store.Add(ctx, "a", version(fresh), fresh)
	e.want(plugins.ErrUnavailable, err)
	e.want(plugins.ErrUnavailable, e.store.SetActive(ctx, "a", before, plugins.Pointer{Active: spare.Number}, nil))
	e.want(plugins.ErrUnavailable, e.store.Remove(ctx, "a", spare.Number))
	e.want(plugins.ErrUnavailable, e.store.RemoveTenant(ctx, "a"))
	_, err = e.store.Versions(ctx, "a")
	e.want(plugins.ErrUnavailable, err)
	_, err = e.store.Active(ctx, "a")
	e.want(plugins.ErrUnavailable, err)
	_, err = e.store.Module(ctx, kept.Digest)
	e.want(plugins.ErrUnavailable, err)
	e.holds("a", kept, spare)
	if p := e.active("a"); p != before {
		e.Fatalf("active %+v, want %+v", p, before)
	}
	e.there(code)
	e.gone(fresh)
}
