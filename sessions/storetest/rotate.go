package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorward/doorward/sessions"
)

// rotation is one of what was read under old, to a fresh digest.
func (e exam) rotation(old sessions.Digest, was sessions.Session) sessions.Rotation {
	now := time.Now().UTC().Truncate(time.Millisecond)
	next := was
	next.IssuedAt, next.LastSeenAt = now, now
	was.RotatedAt, was.Salt = now, sessions.NewSalt()
	return sessions.Rotation{Old: old, Was: was, New: sessions.NewToken().Successor(sessions.NewSalt()).Digest(was.Tenant), Next: next}
}

// rotate makes it and returns both records as they should be read back.
func (e exam) rotate(r sessions.Rotation) (was, next sessions.Session) {
	e.Helper()
	revision := e.must(e.store.Rotate(e.Context(), r))
	if revision <= r.Was.Revision {
		e.Fatalf("revision went from %d to %d", r.Was.Revision, revision)
	}
	was, next = r.Was, r.Next
	was.Revision, next.Revision, next.Born = revision, revision, revision
	return was, next
}

// loses checks that a rotation is refused and writes nothing.
func (e exam) loses(r sessions.Rotation) {
	e.Helper()
	if _, err := e.store.Rotate(e.Context(), r); !errors.Is(err, sessions.ErrNotFound) {
		e.Fatalf("rotated: %v", err)
	}
	e.absent(r.Was.Tenant, r.New)
}

// gone checks that a session is over by every name it had: a record that was
// rotated away may still be there, and only that.
func (e exam) gone(tenant string, id sessions.ID, digests ...sessions.Digest) {
	e.Helper()
	for _, d := range digests {
		s, err := e.store.Find(e.Context(), tenant, d)
		if err == nil && !s.Superseded() || err != nil && !errors.Is(err, sessions.ErrNotFound) {
			e.Fatalf("the session is still there, or: %v", err)
		}
	}
	if _, err := e.store.FindID(e.Context(), tenant, id); !errors.Is(err, sessions.ErrNotFound) {
		e.Fatalf("found by its id, or: %v", err)
	}
	list, _, err := e.store.List(e.Context(), tenant, sessions.Filter{}, "", 1000)
	if err != nil || slices.ContainsFunc(list, func(s sessions.Session) bool { return s.ID == id }) {
		e.Fatalf("listed, or: %v", err)
	}
}

func rotates(e exam) {
	d, s := e.create(e.a, "alice")
	r := e.rotation(d, s)
	was, next := e.rotate(r)
	e.present(e.a, d, was)
	e.present(e.a, r.New, next)
	e.absent(e.b, r.New)
	got, err := e.store.FindID(e.Context(), e.a, s.ID)
	if err != nil || got.Revision != next.Revision || got.Superseded() {
		e.Fatalf("by id: revision %d superseded %v err %v", got.Revision, got.Superseded(), err)
	}
	for _, f := range []sessions.Filter{{}, {Subject: "alice"}, {Digest: s.Verifier.Digest}} {
		list, more, err := e.store.List(e.Context(), e.a, f, "", 10)
		if err != nil || more != "" || len(list) != 1 || list[0].Revision != next.Revision {
			e.Fatalf("%+v lists %v, more %v, err %v", f, list, more, err)
		}
		if n, err := e.store.Count(e.Context(), e.a, f); n != 1 || err != nil {
			e.Fatalf("%+v counts %d, err %v", f, n, err)
		}
	}
	e.loses(e.rotation(d, s)) // at the revision before
	if _, err := e.store.Touch(e.Context(), d, s); !errors.Is(err, sessions.ErrNotFound) {
		e.Fatalf("touched at the revision before: %v", err)
	}
	e.present(e.a, d, was)
	again := e.rotation(r.New, next)
	e.rotate(again)
	if r, err := e.store.DeleteAll(e.Context(), e.a, sessions.Filter{Subject: "alice"}, "", "", 10); r.N != 1 || err != nil {
		e.Fatalf("delete all ended %d, err %v", r.N, err)
	}
	e.gone(e.a, s.ID, d, r.New, again.New)
}

func endsByOld(e exam) {
	d, s := e.create(e.a, "alice")
	r := e.rotation(d, s)
	_, next := e.rotate(r)
	second := e.rotation(r.New, next)
	_, next = e.rotate(second)
	if _, found, err := e.store.Delete(e.Context(), e.b, d); found || err != nil {
		e.Fatalf("another tenant deleted: %v %v", found, err)
	}
	e.present(e.a, second.New, next)
	revision, found, err := e.store.Delete(e.Context(), e.a, d)
	if err != nil || !found || revision <= next.Revision {
		e.Fatalf("delete: revision %d found %v err %v", revision, found, err)
	}
	e.gone(e.a, s.ID, d, r.New, second.New)
	if _, found, err := e.store.Delete(e.Context(), e.a, d); found || err != nil {
		e.Fatalf("delete again: found %v err %v", found, err)
	}
	// A login over an old token ends what that stands for now.
	d, s = e.create(e.a, "alice")
	r = e.rotation(d, s)
	e.rotate(r)
	token, fresh := e.session(e.a, "bob")
	e.must(e.store.Create(e.Context(), sessions.Creation{Digest: token.Digest(e.a), Session: fresh, Replaces: &d}))
	e.gone(e.a, s.ID, d, r.New)
	if got := e.list(sessions.Filter{}); !slices.Equal(got, []sessions.ID{fresh.ID}) {
		e.Fatalf("left: %v", got)
	}
	// And by its handle.
	d, s = e.create(e.a, "alice")
	r = e.rotation(d, s)
	e.rotate(r)
	if _, found, err := e.store.DeleteID(e.Context(), e.a, s.ID); !found || err != nil {
		e.Fatalf("by id: found %v err %v", found, err)
	}
	e.gone(e.a, s.ID, d, r.New)
}

func rotationLoses(e exam) {
	d, s := e.create(e.a, "alice")
	if _, _, err := e.store.Delete(e.Context(), e.a, d); err != nil {
		e.Fatal(err)
	}
	e.loses(e.rotation(d, s))
	s.Revision = 0 // as absent keys have it
	e.loses(e.rotation(d, s))
	e.gone(e.a, s.ID, d)
	for _, epoch := range []struct {
		tenant string
		filter sessions.Filter
	}{{e.a, sessions.Filter{}}, {e.a, sessions.Filter{Digest: "sha256:abc"}}, {}} {
		d, s := e.create(e.a, "alice")
		e.must(e.store.BumpEpoch(e.Context(), epoch.tenant, epoch.filter))
		e.loses(e.rotation(d, s))
		e.absent(e.a, d)
		e.gone(e.a, s.ID, d)
		d, s = e.create(e.a, "alice")
		e.rotate(e.rotation(d, s)) // an epoch before it is no hindrance
	}
}

// rotatedOnce: what rotations leave behind is in no list.
func rotatedOnce(e exam) {
	var want []sessions.ID
	last := map[sessions.ID]sessions.Digest{}
	for i := range 9 {
		d, s := e.create(e.a, "alice")
		for range i % 3 {
			r := e.rotation(d, s)
			_, s = e.rotate(r)
			d = r.New
		}
		want = append(want, s.ID)
		last[s.ID] = d
	}
	slices.Sort(want)
	for _, f := range []sessions.Filter{{}, {Subject: "alice"}, {Digest: "sha256:abc"}} {
		var got []sessions.ID
		after := sessions.ID("")
		for more := true; more; {
			list, next, err := e.store.List(e.Context(), e.a, f, after, 2)
			if err != nil {
				e.Fatal(err)
			}
			for _, s := range list {
				e.present(e.a, last[s.ID], s)
				got = append(got, s.ID)
			}
			after, more = next, next != ""
		}
		if !slices.Equal(got, want) {
			e.Fatalf("%+v lists %v, want %v", f, got, want)
		}
		if n, err := e.store.Count(e.Context(), e.a, f); n != len(want) || err != nil {
			e.Fatalf("%+v counts %d, want %d, err %v", f, n, len(want), err)
		}
	}
	left := len(want)
	for _, f := range []sessions.Filter{{Subject: "alice"}, {Digest: "sha256:abc"}, {}} {
		r, err := e.store.DeleteAll(e.Context(), e.a, f, want[0], "", 2)
		if r.N != 2 || r.Next == "" || err != nil {
			e.Fatalf("%+v: want 2 ended and more: %+v, err %v", f, r, err)
		}
		left -= r.N
		if got := e.list(sessions.Filter{}); len(got) != left || got[0] != want[0] {
			e.Fatalf("left are %v, want %d and %v first", got, left, want[0])
		}
	}
}

func rotationsRace(e exam) {
	for range 20 {
		d, s := e.create(e.a, "alice")
		var won atomic.Int32
		var all sync.WaitGroup
		rotations := make([]sessions.Rotation, 8)
		for i := range rotations {
			rotations[i] = e.rotation(d, s)
			all.Go(func() {
				_, err := e.store.Rotate(e.Context(), rotations[i])
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, sessions.ErrNotFound) {
					e.Error(err)
				}
			})
		}
		all.Wait()
		there := 0
		for _, r := range rotations {
			if _, err := e.store.Find(e.Context(), e.a, r.New); err == nil {
				there++
			}
		}
		if won.Load() != 1 || there != 1 {
			e.Fatalf("%d rotations won, %d successors are there", won.Load(), there)
		}
		if _, _, err := e.store.DeleteID(e.Context(), e.a, s.ID); err != nil {
			e.Fatal(err)
		}
	}
	if n, err := e.store.Count(e.Context(), e.a, sessions.Filter{}); n != 0 || err != nil {
		e.Fatalf("%d are left, err %v", n, err)
	}
}

func epochs(e exam) {
	for _, epoch := range []struct {
		name               string
		tenant             string
		filter             sessions.Filter
		sparesB, sparesOld bool // the other tenant, another verifier's
	}{
		{"tenant", e.a, sessions.Filter{}, true, false},
		{"verifier", e.a, sessions.Filter{Digest: "sha256:abc"}, true, true},
		{"all", "", sessions.Filter{}, false, false},
	} {
		d, s := e.create(e.a, "alice")
		dB, sB := e.create(e.b, "alice")
		token, sOld := e.session(e.a, "alice")
		sOld.Verifier.Digest = "sha256:0ld"
		dOld := token.Digest(e.a)
		sOld.Revision = e.must(e.store.Create(e.Context(), sessions.Creation{Digest: dOld, Session: sOld}))
		sOld.Born = sOld.Revision
		revision := e.must(e.store.BumpEpoch(e.Context(), epoch.tenant, epoch.filter))
		if revision <= sOld.Revision {
			e.Fatalf("%s: the epoch is at %d, after a create at %d", epoch.name, revision, sOld.Revision)
		}
		dNew, sNew := e.create(e.a, "alice")
		e.absent(e.a, d)
		e.gone(e.a, s.ID, d)
		e.present(e.a, dNew, sNew)
		want := []sessions.ID{sNew.ID}
		if epoch.sparesOld {
			want = append(want, sOld.ID)
			e.present(e.a, dOld, sOld)
		} else {
			e.absent(e.a, dOld)
		}
		if epoch.sparesB {
			e.present(e.b, dB, sB)
		} else {
			e.absent(e.b, dB)
		}
		got := e.list(sessions.Filter{})
		slices.Sort(want)
		if !slices.Equal(got, want) {
			e.Fatalf("%s: listed %v, want %v", epoch.name, got, want)
		}
		// What an epoch ended may be deleted, and nothing else goes with it.
		if _, _, err := e.store.Delete(e.Context(), e.a, d); err != nil {
			e.Fatal(err)
		}
		e.present(e.a, dNew, sNew)
		for more, after := true, sessions.ID(""); more; {
			r, err := e.store.DeleteAll(e.Context(), e.a, sessions.Filter{}, "", after, 10)
			if err != nil || r.Left {
				e.Fatal(r, err)
			}
			after, more = r.Next, r.Next != ""
		}
		if n, err := e.store.Count(e.Context(), e.a, sessions.Filter{}); n != 0 || err != nil {
			e.Fatalf("%s: %d are left, err %v", epoch.name, n, err)
		}
	}
}

// epochsOutrun: a later write to a session does not save it.
func epochsOutrun(e exam) {
	d, s := e.create(e.a, "touched before")
	s.Revision = e.must(e.store.Touch(e.Context(), d, s))
	after, sAfter := e.create(e.a, "touched after")
	old, sOld := e.create(e.a, "rotated")
	r := e.rotation(old, sOld)
	e.rotate(r)
	e.must(e.store.BumpEpoch(e.Context(), e.a, sessions.Filter{}))
	if _, err := e.store.Touch(e.Context(), after, sAfter); err != nil && !errors.Is(err, sessions.ErrNotFound) {
		e.Fatal(err)
	}
	for _, d := range []sessions.Digest{d, after, old, r.New} {
		e.absent(e.a, d)
	}
	for _, s := range []sessions.Session{s, sAfter, sOld} {
		e.gone(e.a, s.ID)
	}
}

// threeWayRace: whatever order they come in, the revoke has the last word.
func threeWayRace(e exam) {
	rounds := 2_000
	if testing.Short() {
		rounds = 200
	}
	var all sync.WaitGroup
	const lanes = 16
	for lane := range lanes {
		all.Go(func() {
			for range rounds / lanes {
				token, s := e.session(e.a, fmt.Sprint("racer-", lane))
				d := token.Digest(e.a)
				var err error
				if s.Revision, err = e.store.Create(e.Context(), sessions.Creation{Digest: d, Session: s}); err != nil {
					e.Error(err)
					return
				}
				s.Born = s.Revision
				r := e.rotation(d, s)
				var three sync.WaitGroup
				three.Go(func() {
					if _, err := e.store.Touch(e.Context(), d, s); err != nil && !errors.Is(err, sessions.ErrNotFound) {
						e.Errorf("touch: %v", err)
					}
				})
				three.Go(func() {
					if _, err := e.store.Rotate(e.Context(), r); err != nil && !errors.Is(err, sessions.ErrNotFound) {
						e.Errorf("rotate: %v", err)
					}
				})
				three.Go(func() {
					if _, found, err := e.store.Delete(e.Context(), e.a, d); err != nil || !found {
						e.Errorf("delete: found %v err %v", found, err)
					}
				})
				three.Wait()
				if _, err := e.store.Find(e.Context(), e.a, r.New); !errors.Is(err, sessions.ErrNotFound) {
					e.Errorf("a revoked session is back under its new token: %v", err)
				}
				if now, err := e.store.Find(e.Context(), e.a, d); err == nil && !now.Superseded() {
					e.Error("a revoked session is back under its old token")
				}
				if _, err := e.store.FindID(e.Context(), e.a, s.ID); !errors.Is(err, sessions.ErrNotFound) {
					e.Errorf("a revoked session is back by its id: %v", err)
				}
			}
		})
	}
	all.Wait()
	filters := []sessions.Filter{{}}
	for lane := range lanes {
		filters = append(filters, sessions.Filter{Subject: fmt.Sprint("racer-", lane)})
	}
	for _, f := range filters {
		if n, err := e.store.Count(e.Context(), e.a, f); n != 0 || err != nil {
			e.Fatalf("%+v: %d are left, err %v", f, n, err)
		}
	}
}
