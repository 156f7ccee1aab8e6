// Package storetest is the exam that every sessions.Store sits, with the
// sessions.Challenges beside it. Nobody may skip a part of it.
package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/sessions"
)

// Store is what is examined: both ports on one truth.
type Store interface {
	sessions.Store
	sessions.Challenges
}

// Fixture is an empty store for two tenants.
type Fixture struct {
	Store   Store
	A, B    string // uuids
	Compact func() // makes the store forget which changes led to what it holds now
}

// Run examines a store. open gives an empty one; it is called once for each
// part.
func Run(t *testing.T, open func(t *testing.T) Fixture) {
	for _, part := range []struct {
		name string
		run  func(e exam)
	}{
		{"what was created is found", found},
		{"a tenant sees only its own", isolated},
		{"create replaces in the same write", replaces},
		{"create may be tried again", createsAgain},
		{"touch never brings back what was deleted", touch},
		{"delete is idempotent", deletes},
		{"lists are ordered and paged", lists},
		{"counts go by filter", counts},
		{"delete all goes by filter, in steps, and spares one", deletesAll},
		{"a removed tenant leaves nothing", removesTenant},
		{"revisions grow", revisions},
		{"a context that is over is unavailable, not absent", over},

		{"a rotation moves a session and marks what it leaves", rotates},
		{"whoever holds the old token can still end the session", endsByOld},
		{"a rotation loses to a revoke", rotationLoses},
		{"of many rotations at once one wins", rotationsRace},
		{"a session that was rotated is listed, counted and ended once", rotatedOnce},

		{"an epoch ends what was there and nothing later", epochs},
		{"an epoch ends what was touched or rotated", epochsOutrun},

		{"a load shows all as it was at one revision", loads},
		{"a watch brings every change in order, each revision whole", watches},
		{"a watch goes on from any revision", resumes},
		{"a watch tells how far it is when nothing changes", progresses},
		{"two watches do not hinder each other", twoWatches},
		{"a watch ends with its context", watchEnds},
		{"a watch that asks for what is forgotten says so", forgotten},
		{"a load and a watch make a true copy while others write", copies},

		{"a challenge is answered once", challenge},
		{"a challenge has so many attempts, however many ask at once", attempts},
		{"a challenge ends in time", challengeEnds},
		{"renewals race a revoke and lose", race},
		{"a renewal, a rotation and a revoke at once end the session", threeWayRace},
		{"many writers at once each keep their own", concurrent},
	} {
		t.Run(part.name, func(t *testing.T) {
			f := open(t)
			part.run(exam{t, f.Store, f.A, f.B, f.Compact})
		})
	}
}

type exam struct {
	*testing.T
	store   Store
	a, b    string
	compact func()
}

// session is one to store: every member set, times in whole milliseconds.
func (e exam) session(tenant, subject string) (sessions.Token, sessions.Session) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	token := sessions.NewToken()
	return token, sessions.Session{
		ID: token.Digest(tenant).ID(), Tenant: tenant, Subject: subject,
		Claims: json.RawMessage(`{"name":"Zoë"}`), AMR: []string{"pwd", "otp"},
		Verifier: sessions.Verifier{Version: 3, Digest: "sha256:abc"},
		Client:   sessions.Client{IP: "192.0.2.1", UserAgent: "exam/1"},
		AuthTime: now, CreatedAt: now, LastSeenAt: now,
		IdleExpiresAt: now.Add(time.Minute), ExpiresAt: now.Add(time.Hour),
		Idle: time.Minute, Remember: true, IssuedAt: now,
	}
}

// create stores a session and returns it as it should be read back.
func (e exam) create(tenant, subject string) (sessions.Digest, sessions.Session) {
	e.Helper()
	token, s := e.session(tenant, subject)
	d := token.Digest(tenant)
	s.Revision = e.must(e.store.Create(e.Context(), sessions.Creation{Digest: d, Session: s}))
	s.Born = s.Revision
	return d, s
}

func (e exam) must(revision int64, err error) int64 {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
	return revision
}

func (e exam) absent(tenant string, d sessions.Digest) {
	e.Helper()
	if _, err := e.store.Find(e.Context(), tenant, d); !errors.Is(err, sessions.ErrNotFound) {
		e.Fatalf("found what should be absent, or: %v", err)
	}
}

func (e exam) present(tenant string, d sessions.Digest, want sessions.Session) {
	e.Helper()
	got, err := e.store.Find(e.Context(), tenant, d)
	if err != nil {
		e.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		e.Fatalf("read back differs (-want +got):\n%s", diff)
	}
}

func (e exam) list(f sessions.Filter) []sessions.ID {
	e.Helper()
	list, next, err := e.store.List(e.Context(), e.a, f, "", 1000)
	if err != nil || next != "" {
		e.Fatalf("list: next %q, err %v", next, err)
	}
	ids := []sessions.ID{}
	for _, s := range list {
		ids = append(ids, s.ID)
	}
	return ids
}

func found(e exam) {
	d, want := e.create(e.a, "alice")
	e.present(e.a, d, want)
	got, err := e.store.FindID(e.Context(), e.a, want.ID)
	if err != nil {
		e.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		e.Fatalf("by id differs (-want +got):\n%s", diff)
	}
	e.absent(e.a, sessions.NewToken().Digest(e.a))
	if _, err := e.store.FindID(e.Context(), e.a, sessions.NewToken().Digest(e.a).ID()); !errors.Is(err, sessions.ErrNotFound) {
		e.Fatal(err)
	}
}

func isolated(e exam) {
	d, s := e.create(e.a, "alice")
	e.absent(e.b, d)
	if _, err := e.store.FindID(e.Context(), e.b, s.ID); !errors.Is(err, sessions.ErrNotFound) {
		e.Fatalf("another tenant found the id: %v", err)
	}
	if _, found, err := e.store.Delete(e.Context(), e.b, d); found || err != nil {
		e.Fatalf("another tenant deleted: %v %v", found, err)
	}
	if _, found, err := e.store.DeleteID(e.Context(), e.b, s.ID); found || err != nil {
		e.Fatalf("another tenant deleted by id: %v %v", found, err)
	}
	if r, err := e.store.DeleteAll(e.Context(), e.b, sessions.Filter{}, "", "", 100); r.N != 0 || err != nil {
		e.Fatalf("another tenant deleted %d: %v", r.N, err)
	}
	for _, f := range []sessions.Filter{{}, {Subject: "alice"}, {Digest: s.Verifier.Digest}} {
		if list, _, err := e.store.List(e.Context(), e.b, f, "", 10); len(list) != 0 || err != nil {
			e.Fatalf("another tenant lists %d: %v", len(list), err)
		}
	}
	e.present(e.a, d, s)
}

func replaces(e exam) {
	old, oldSession := e.create(e.a, "alice")
	token, s := e.session(e.a, "alice")
	d := token.Digest(e.a)
	s.Revision = e.must(e.store.Create(e.Context(), sessions.Creation{Digest: d, Session: s, Replaces: &old}))
	s.Born = s.Revision
	e.absent(e.a, old)
	e.present(e.a, d, s)
	if got := e.list(sessions.Filter{Subject: "alice"}); !slices.Equal(got, []sessions.ID{s.ID}) {
		e.Fatalf("the subject has %v, want only %v, not %v", got, s.ID, oldSession.ID)
	}
	// One that is not there is no hindrance.
	token, s = e.session(e.a, "alice")
	e.must(e.store.Create(e.Context(), sessions.Creation{Digest: token.Digest(e.a), Session: s, Replaces: &old}))
}

// createsAgain: whoever does not know whether a create was made makes it again.
func createsAgain(e exam) {
	d, s := e.create(e.a, "alice")
	again := s
	again.Revision, again.Born = 0, 0
	s.Revision = e.must(e.store.Create(e.Context(), sessions.Creation{Digest: d, Session: again}))
	e.present(e.a, d, s) // it was born by the first
	if got := e.list(sessions.Filter{}); !slices.Equal(got, []sessions.ID{s.ID}) {
		e.Fatalf("listed %v", got)
	}
}

func touch(e exam) {
	d, s := e.create(e.a, "alice")
	before := s
	s.LastSeenAt = s.LastSeenAt.Add(10 * time.Second)
	s.IdleExpiresAt = s.IdleExpiresAt.Add(10 * time.Second)
	s.Revision = e.must(e.store.Touch(e.Context(), d, s))
	if s.Revision <= before.Revision {
		e.Fatalf("revision went from %d to %d", before.Revision, s.Revision)
	}
	e.present(e.a, d, s)
	// At an older revision it writes nothing.
	before.LastSeenAt = before.LastSeenAt.Add(time.Second)
	if _, err := e.store.Touch(e.Context(), d, before); !errors.Is(err, sessions.ErrNotFound) {
		e.Fatalf("touched at an old revision: %v", err)
	}
	e.present(e.a, d, s)
	if _, _, err := e.store.Delete(e.Context(), e.a, d); err != nil {
		e.Fatal(err)
	}
	if _, err := e.store.Touch(e.Context(), d, s); !errors.Is(err, sessions.ErrNotFound) {
		e.Fatalf("touched what was deleted: %v", err)
	}
	s.Revision = 0 // as absent keys have it
	if _, err := e.store.Touch(e.Context(), d, s); !errors.Is(err, sessions.ErrNotFound) {
		e.Fatalf("touched what never was: %v", err)
	}
	e.absent(e.a, d)
}

func deletes(e exam) {
	d, s := e.create(e.a, "alice")
	revision, found, err := e.store.Delete(e.Context(), e.a, d)
	if err != nil || !found || revision <= s.Revision {
		e.Fatalf("delete: revision %d found %v err %v", revision, found, err)
	}
	e.absent(e.a, d)
	if _, found, err := e.store.Delete(e.Context(), e.a, d); found || err != nil {
		e.Fatalf("delete again: found %v err %v", found, err)
	}
	d, s = e.create(e.a, "alice")
	if _, found, err := e.store.DeleteID(e.Context(), e.a, s.ID); !found || err != nil {
		e.Fatalf("delete by id: found %v err %v", found, err)
	}
	e.absent(e.a, d)
	if _, found, err := e.store.DeleteID(e.Context(), e.a, s.ID); found || err != nil {
		e.Fatalf("delete by id again: found %v err %v", found, err)
	}
	if got := e.list(sessions.Filter{}); len(got) != 0 {
		e.Fatalf("still listed: %v", got)
	}
}

func lists(e exam) {
	var want []sessions.ID
	for i := range 7 {
		_, s := e.create(e.a, fmt.Sprintf("user-%d", i%2))
		want = append(want, s.ID)
	}
	slices.Sort(want)
	var got []sessions.ID
	after, pages := sessions.ID(""), 0
	for more := true; more; pages++ {
		list, next, err := e.store.List(e.Context(), e.a, sessions.Filter{}, after, 3)
		if err != nil {
			e.Fatal(err)
		}
		if len(list) > 3 || pages > 7 {
			e.Fatalf("page %d has %d", pages, len(list))
		}
		for _, s := range list {
			got = append(got, s.ID)
		}
		after, more = next, next != ""
	}
	if diff := cmp.Diff(want, got); diff != "" {
		e.Fatalf("pages differ (-want +got):\n%s", diff)
	}
	if n := len(e.list(sessions.Filter{Subject: "user-0"})); n != 4 {
		e.Fatalf("user-0 has %d", n)
	}
	if n := len(e.list(sessions.Filter{Subject: "user"})); n != 0 {
		e.Fatalf("a prefix of a subject found %d", n)
	}
	if n := len(e.list(sessions.Filter{Digest: "sha256:abc"})); n != 7 {
		e.Fatalf("the verifier made %d", n)
	}
}

func counts(e exam) {
	for i := range 5 {
		e.create(e.a, fmt.Sprintf("user-%d", i%2))
	}
	d, _ := e.create(e.a, "user-0")
	e.create(e.b, "user-0")
	if _, _, err := e.store.Delete(e.Context(), e.a, d); err != nil {
		e.Fatal(err)
	}
	for f, want := range map[sessions.Filter]int{
		{}: 5, {Subject: "user-0"}: 3, {Subject: "user"}: 0, {Digest: "sha256:abc"}: 5, {Digest: "sha256:ab"}: 0,
	} {
		if n, err := e.store.Count(e.Context(), e.a, f); n != want || err != nil {
			e.Errorf("%+v: %d, want %d, err %v", f, n, want, err)
		}
	}
}

func deletesAll(e exam) {
	var ids []sessions.ID
	for range 5 {
		_, s := e.create(e.a, "alice")
		ids = append(ids, s.ID)
	}
	bob, _ := e.create(e.a, "bob")
	total, steps, after := 0, 0, sessions.ID("")
	for more := true; more; steps++ {
		r, err := e.store.DeleteAll(e.Context(), e.a, sessions.Filter{Subject: "alice"}, ids[2], after, 2)
		if err != nil {
			e.Fatal(err)
		}
		if r.N > 2 || r.Left || steps > 6 {
			e.Fatalf("step %d: %+v", steps, r)
		}
		total += r.N
		after, more = r.Next, r.Next != ""
	}
	if got := e.list(sessions.Filter{Subject: "alice"}); total != 4 || !slices.Equal(got, ids[2:3]) {
		e.Fatalf("ended %d, left %v, want %v", total, got, ids[2:3])
	}
	if _, err := e.store.Find(e.Context(), e.a, bob); err != nil {
		e.Fatalf("bob: %v", err)
	}
	token, s := e.session(e.a, "carol")
	s.Verifier.Digest = "sha256:other"
	e.must(e.store.Create(e.Context(), sessions.Creation{Digest: token.Digest(e.a), Session: s}))
	if r, err := e.store.DeleteAll(e.Context(), e.a, sessions.Filter{Digest: s.Verifier.Digest}, "", "", 100); r.N != 1 || r.Next != "" || r.Left || err != nil {
		e.Fatalf("of one verifier among another's: %+v %v", r, err)
	}
	e.absent(e.a, token.Digest(e.a))
	if r, err := e.store.DeleteAll(e.Context(), e.a, sessions.Filter{Digest: "sha256:abc"}, "", "", 100); r.N != 2 || r.Next != "" || r.Left || err != nil {
		e.Fatalf("by verifier: %+v %v", r, err)
	}
	if r, err := e.store.DeleteAll(e.Context(), e.a, sessions.Filter{}, "", "", 100); r != (sessions.Removal{}) || err != nil {
		e.Fatalf("of nothing: %+v %v", r, err)
	}
}

func removesTenant(e exam) {
	d, _ := e.create(e.a, "alice")
	other, s := e.create(e.b, "alice")
	id := sessions.NewChallengeID()
	if err := e.store.PutChallenge(e.Context(), id, e.challenge(e.a)); err != nil {
		e.Fatal(err)
	}
	for range 2 { // idempotent
		if err := e.store.RemoveTenant(e.Context(), e.a); err != nil {
			e.Fatal(err)
		}
	}
	e.absent(e.a, d)
	e.present(e.b, other, s)
	if got := e.list(sessions.Filter{}); len(got) != 0 {
		e.Fatalf("left: %v", got)
	}
	for _, f := range []sessions.Filter{{}, {Subject: "alice"}} {
		if n, err := e.store.Count(e.Context(), e.a, f); n != 0 || err != nil {
			e.Fatalf("%+v: %d are left, err %v", f, n, err)
		}
	}
	if _, err := e.store.SpendAttempt(e.Context(), e.a, id); !errors.Is(err, sessions.ErrNotFound) {
		e.Fatalf("its challenge: %v", err)
	}
}

func revisions(e exam) {
	last := e.must(e.store.Revision(e.Context()))
	for range 3 {
		d, s := e.create(e.a, "alice")
		if s.Revision <= last {
			e.Fatalf("create: revision %d after %d", s.Revision, last)
		}
		deleted, _, err := e.store.Delete(e.Context(), e.a, d)
		if err != nil || deleted <= s.Revision {
			e.Fatalf("delete: revision %d after %d, err %v", deleted, s.Revision, err)
		}
		last = e.must(e.store.Revision(e.Context()))
		if last < deleted {
			e.Fatalf("the store is at %d, behind its own write at %d", last, deleted)
		}
	}
}

func over(e exam) {
	d, s := e.create(e.a, "alice")
	ctx, cancel := context.WithCancel(e.Context())
	cancel()
	token, fresh := e.session(e.a, "bob")
	for what, err := range map[string]error{
		"create":   second(e.store.Create(ctx, sessions.Creation{Digest: token.Digest(e.a), Session: fresh})),
		"find":     second(e.store.Find(ctx, e.a, d)),
		"touch":    second(e.store.Touch(ctx, d, s)),
		"rotate":   second(e.store.Rotate(ctx, e.rotation(d, s))),
		"find id":  second(e.store.FindID(ctx, e.a, s.ID)),
		"count":    second(e.store.Count(ctx, e.a, sessions.Filter{})),
		"epoch":    second(e.store.BumpEpoch(ctx, e.a, sessions.Filter{})),
		"load":     second(e.store.Load(ctx, true, func(sessions.Change) {})),
		"revision": second(e.store.Revision(ctx)),
		"remove":   e.store.RemoveTenant(ctx, e.a),
		"put":      e.store.PutChallenge(ctx, sessions.NewChallengeID(), e.challenge(e.a)),
		"spend":    second(e.store.SpendAttempt(ctx, e.a, sessions.NewChallengeID())),
	} {
		if !errors.Is(err, sessions.ErrUnavailable) {
			e.Errorf("%s: %v", what, err)
		}
	}
	if _, _, err := e.store.Delete(ctx, e.a, d); !errors.Is(err, sessions.ErrUnavailable) {
		e.Errorf("delete: %v", err)
	}
	if _, _, err := e.store.List(ctx, e.a, sessions.Filter{}, "", 1); !errors.Is(err, sessions.ErrUnavailable) {
		e.Errorf("list: %v", err)
	}
	if _, err := e.store.DeleteAll(ctx, e.a, sessions.Filter{}, "", "", 1); !errors.Is(err, sessions.ErrUnavailable) {
		e.Errorf("delete all: %v", err)
	}
	e.present(e.a, d, s)
}

func second[T any](_ T, err error) error { return err }

func (e exam) challenge(tenant string) sessions.Challenge {
	return sessions.Challenge{
		Tenant: tenant, Method: "password", Type: "otp",
		Public: json.RawMessage(`{"label":"Code"}`), Private: json.RawMessage(`{"user":"alice"}`),
		Verifier: sessions.Verifier{Version: 2, Digest: "sha256:abc"},
		Attempts: 3, Remember: true, Token: true, App: "shop",
		ExpiresAt: time.Now().UTC().Truncate(time.Millisecond).Add(time.Minute),
	}
}

func challenge(e exam) {
	id, want := sessions.NewChallengeID(), e.challenge(e.a)
	if err := e.store.PutChallenge(e.Context(), id, want); err != nil {
		e.Fatal(err)
	}
	if _, err := e.store.SpendAttempt(e.Context(), e.b, id); !errors.Is(err, sessions.ErrNotFound) {
		e.Fatalf("another tenant answered: %v", err)
	}
	got, err := e.store.SpendAttempt(e.Context(), e.a, id)
	if err != nil {
		e.Fatal(err)
	}
	want.Attempts, want.Answers = 2, 1
	if diff := cmp.Diff(want, got); diff != "" {
		e.Fatalf("read back differs (-want +got):\n%s", diff)
	}
	token, s := e.session(e.a, "alice")
	d := token.Digest(e.a)
	c := sessions.Creation{Digest: d, Session: s, Challenge: &id}
	s.Revision = e.must(e.store.Create(e.Context(), c))
	s.Born = s.Revision
	e.present(e.a, d, s)
	if _, err := e.store.SpendAttempt(e.Context(), e.a, id); !errors.Is(err, sessions.ErrNotFound) {
		e.Fatalf("answered twice: %v", err)
	}
	token, s = e.session(e.a, "alice")
	again := token.Digest(e.a)
	if _, err := e.store.Create(e.Context(), sessions.Creation{Digest: again, Session: s, Challenge: &id}); !errors.Is(err, sessions.ErrNotFound) {
		e.Fatalf("a used challenge made a session: %v", err)
	}
	e.absent(e.a, again)
	if err := e.store.PutChallenge(e.Context(), id, want); err != nil {
		e.Fatal(err)
	}
	for range 2 { // idempotent
		if err := e.store.DropChallenge(e.Context(), e.a, id); err != nil {
			e.Fatal(err)
		}
	}
	if _, err := e.store.SpendAttempt(e.Context(), e.a, id); !errors.Is(err, sessions.ErrNotFound) {
		e.Fatalf("answered after drop: %v", err)
	}
}

func attempts(e exam) {
	id := sessions.NewChallengeID()
	if err := e.store.PutChallenge(e.Context(), id, e.challenge(e.a)); err != nil {
		e.Fatal(err)
	}
	var spent atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			_, err := e.store.SpendAttempt(e.Context(), e.a, id)
			if err == nil {
				spent.Add(1)
			} else if !errors.Is(err, sessions.ErrNotFound) {
				e.Error(err)
			}
		})
	}
	all.Wait()
	if spent.Load() != 3 {
		e.Fatalf("%d answers for 3 attempts", spent.Load())
	}
}

func challengeEnds(e exam) {
	id, c := sessions.NewChallengeID(), e.challenge(e.a)
	c.ExpiresAt = time.Now().Add(-time.Millisecond)
	if err := e.store.PutChallenge(e.Context(), id, c); err != nil {
		e.Fatal(err)
	}
	if _, err := e.store.SpendAttempt(e.Context(), e.a, id); !errors.Is(err, sessions.ErrNotFound) {
		e.Fatalf("answered after its end: %v", err)
	}
}

// race: a renewal that puts without looking once brought revoked sessions back
// (F-11); so it is tried often, from both sides at the same moment.
func race(e exam) {
	rounds := 10_000
	if testing.Short() {
		rounds = 500
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
				var both sync.WaitGroup
				both.Go(func() {
					if _, err := e.store.Touch(e.Context(), d, s); err != nil && !errors.Is(err, sessions.ErrNotFound) {
						e.Errorf("touch: %v", err)
					}
				})
				both.Go(func() {
					if _, found, err := e.store.Delete(e.Context(), e.a, d); err != nil || !found {
						e.Errorf("delete: found %v err %v", found, err)
					}
				})
				both.Wait()
				if _, err := e.store.Find(e.Context(), e.a, d); !errors.Is(err, sessions.ErrNotFound) {
					e.Errorf("a revoked session is back: %v", err)
					return
				}
			}
		})
	}
	all.Wait()
}

func concurrent(e exam) {
	const writers, each = 16, 20
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				subject := fmt.Sprintf("writer-%d", w)
				token, s := e.session(e.a, subject)
				d := token.Digest(e.a)
				if _, err := e.store.Create(e.Context(), sessions.Creation{Digest: d, Session: s}); err != nil {
					e.Error(err)
					return
				}
				got, err := e.store.Find(e.Context(), e.a, d)
				if err != nil || got.Subject != subject || got.ID != s.ID {
					e.Errorf("writer %d finds %q %v: %v", w, got.Subject, got.ID, err)
					return
				}
				if i%2 == 0 {
					if _, found, err := e.store.Delete(e.Context(), e.a, d); !found || err != nil {
						e.Errorf("writer %d: %v %v", w, found, err)
					}
				}
			}
		})
	}
	all.Wait()
	if n := len(e.list(sessions.Filter{})); n != writers*each/2 {
		e.Fatalf("%d are left, want %d", n, writers*each/2)
	}
}
