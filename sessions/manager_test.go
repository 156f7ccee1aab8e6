package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/sessions"
)

const tenant = "3f0e"

var policy = sessions.Policy{Idle: 30 * time.Minute, Absolute: 12 * time.Hour, Remember: 720 * time.Hour, MaxPerSubject: 3}

func opening(subject string) sessions.Opening {
	return sessions.Opening{Tenant: tenant, Subject: subject, Policy: policy, Verifier: sessions.Verifier{Version: 1, Digest: "sha256:abc"}}
}

// inBubble runs test with a running Manager over Memory, in fake time.
func inBubble(t *testing.T, test func(t *testing.T, m *sessions.Manager)) {
	synctest.Test(t, func(t *testing.T) {
		memory := sessions.NewMemory()
		m := sessions.New(memory, memory, sessions.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		test(t, m)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func open(t *testing.T, m *sessions.Manager, o sessions.Opening) (sessions.Token, sessions.Session) {
	t.Helper()
	token, s, err := m.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return token, s
}

// uses finds the session and lets Run write that down.
func uses(t *testing.T, m *sessions.Manager, token sessions.Token) error {
	t.Helper()
	_, err := m.Find(t.Context(), tenant, token, sessions.Reading{})
	synctest.Wait()
	return err
}

func TestASessionLivesAsLongAsItIsUsedAndNoLongerThanItsAbsoluteTime(t *testing.T) {
	inBubble(t, func(t *testing.T, m *sessions.Manager) {
		token, s := open(t, m, opening("alice"))
		born := time.Now()
		for time.Since(born) < policy.Absolute-20*time.Minute {
			time.Sleep(20 * time.Minute)
			if err := uses(t, m, token); err != nil {
				t.Fatalf("after %v: %v", time.Since(born), err)
			}
		}
		time.Sleep(time.Until(s.ExpiresAt) - time.Nanosecond)
		if err := uses(t, m, token); err != nil {
			t.Fatalf("a moment before its end: %v", err)
		}
		time.Sleep(time.Nanosecond)
		if err := uses(t, m, token); !errors.Is(err, sessions.ErrNotFound) {
			t.Fatalf("at its end: %v", err)
		}
	})
}

func TestAnUnusedSessionEndsAfterItsIdleTime(t *testing.T) {
	inBubble(t, func(t *testing.T, m *sessions.Manager) {
		token, _ := open(t, m, opening("alice"))
		time.Sleep(policy.Idle)
		if err := uses(t, m, token); !errors.Is(err, sessions.ErrNotFound) {
			t.Fatal(err)
		}
	})
}

func TestIdleTimeEndsUpToATenthEarlyAndNeverLate(t *testing.T) {
	inBubble(t, func(t *testing.T, m *sessions.Manager) {
		token, _ := open(t, m, opening("alice"))
		// A use before a tenth of the idle time has passed is not written.
		time.Sleep(policy.Idle/10 - time.Second)
		if err := uses(t, m, token); err != nil {
			t.Fatal(err)
		}
		lastUse := time.Now()
		time.Sleep(policy.Idle * 9 / 10)
		if err := uses(t, m, token); err != nil {
			t.Fatalf("%v after the last use: %v", time.Since(lastUse), err)
		}
		// That one was written: it counts in full, and no longer.
		time.Sleep(policy.Idle - time.Second)
		s, err := m.Find(t.Context(), tenant, token, sessions.Reading{})
		if err != nil {
			t.Fatal(err)
		}
		if left := time.Until(s.IdleExpiresAt); left > time.Second {
			t.Fatalf("%v are left, want a second", left)
		}
	})
}

func TestRememberMeLivesLonger(t *testing.T) {
	inBubble(t, func(t *testing.T, m *sessions.Manager) {
		o := opening("alice")
		o.Remember = true
		_, s := open(t, m, o)
		if got := s.ExpiresAt.Sub(s.CreatedAt); got != policy.Remember {
			t.Fatalf("lives %v, want %v", got, policy.Remember)
		}
	})
}

func TestTheOldestSessionsEndBeyondTheLimit(t *testing.T) {
	inBubble(t, func(t *testing.T, m *sessions.Manager) {
		var tokens []sessions.Token
		for range 5 {
			token, _ := open(t, m, opening("alice"))
			tokens = append(tokens, token)
			time.Sleep(time.Second)
		}
		other, _ := open(t, m, opening("bob"))
		for i, token := range append(tokens, other) {
			err := uses(t, m, token)
			if gone := i < 2; gone != errors.Is(err, sessions.ErrNotFound) {
				t.Errorf("session %d: %v", i, err)
			}
		}
	})
}

func TestALoginEndsTheSessionItTakesThePlaceOf(t *testing.T) {
	inBubble(t, func(t *testing.T, m *sessions.Manager) {
		old, _ := open(t, m, opening("alice"))
		o := opening("bob")
		o.Replaces = old
		token, _ := open(t, m, o)
		if err := uses(t, m, old); !errors.Is(err, sessions.ErrNotFound) {
			t.Errorf("the old one: %v", err)
		}
		if err := uses(t, m, token); err != nil {
			t.Errorf("the new one: %v", err)
		}
	})
}

func TestOnlyOnesOwnSessionsCanBeClosed(t *testing.T) {
	inBubble(t, func(t *testing.T, m *sessions.Manager) {
		token, s := open(t, m, opening("alice"))
		if _, err := m.CloseOwn(t.Context(), tenant, "mallory", s.ID); !errors.Is(err, sessions.ErrNotFound) {
			t.Fatalf("mallory: %v", err)
		}
		if err := uses(t, m, token); err != nil {
			t.Fatal(err)
		}
		if _, err := m.CloseOwn(t.Context(), tenant, "alice", s.ID); err != nil {
			t.Fatal(err)
		}
		if err := uses(t, m, token); !errors.Is(err, sessions.ErrNotFound) {
			t.Fatal(err)
		}
	})
}

func TestRevokeSparesOneAndTellsHowMany(t *testing.T) {
	inBubble(t, func(t *testing.T, m *sessions.Manager) {
		_, s := open(t, m, opening("alice"))
		for i := range 1200 {
			open(t, m, opening(fmt.Sprint("user-", i)))
		}
		n, more, _, err := m.Revoke(t.Context(), tenant, sessions.Filter{}, s.ID)
		if n != 1200 || more || err != nil {
			t.Fatalf("ended %d, more %v, err %v", n, more, err)
		}
		list, next, err := m.List(t.Context(), tenant, sessions.Filter{}, "", 10)
		if len(list) != 1 || next != "" || err != nil || list[0].ID != s.ID {
			t.Fatalf("left %v, next %q, err %v", list, next, err)
		}
	})
}

func TestARevisionAheadOfTheStoreIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, m *sessions.Manager) {
		token, s := open(t, m, opening("alice"))
		if _, err := m.Find(t.Context(), tenant, token, sessions.Reading{AtLeast: s.Revision}); err != nil {
			t.Error(err)
		}
		if _, err := m.Find(t.Context(), tenant, token, sessions.Reading{AtLeast: s.Revision + 1}); !errors.Is(err, sessions.ErrRevision) {
			t.Error(err)
		}
	})
}

func TestATokenMeansNothingAtAnotherTenant(t *testing.T) {
	inBubble(t, func(t *testing.T, m *sessions.Manager) {
		token, _ := open(t, m, opening("alice"))
		if _, err := m.Find(t.Context(), "other", token, sessions.Reading{}); !errors.Is(err, sessions.ErrNotFound) {
			t.Error(err)
		}
		if token.Digest(tenant) == token.Digest("other") {
			t.Error("a token has the same digest at two tenants")
		}
	})
}

func TestSecretsPrintAsRedacted(t *testing.T) {
	token, challenge := sessions.NewToken(), sessions.NewChallengeID()
	text, err := token.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v %s %q %x %#v %+v %s %v %#v %s", token, token, token, token, token, struct{ T sessions.Token }{token}, text, challenge, challenge, fmt.Errorf("x: %v", token))
	for _, secret := range []string{token.Reveal()[4:], challenge.Reveal()[3:], fmt.Sprintf("%x", token.Reveal())} {
		if strings.Contains(all, secret) {
			t.Errorf("%q shows a secret", all)
		}
	}
}

func FuzzToken(f *testing.F) {
	good := sessions.NewToken().Reveal()
	for _, seed := range []string{good, "", "dw1_", good[:len(good)-1], good + "=", strings.ToUpper(good), " " + good, good + "\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		token, err := sessions.ParseToken(text)
		if (err == nil) == token.IsZero() {
			t.Fatalf("%q: token %v, err %v", text, !token.IsZero(), err)
		}
		if err == nil && token.Reveal() != text {
			t.Fatalf("%q was read as another token", text)
		}
	})
}

func FuzzIDs(f *testing.F) {
	for _, seed := range []string{string(sessions.NewToken().Digest("a").ID()), sessions.NewChallengeID().Reveal(), "ses_", "ch_", "ses_zzzzzzzzzzzzzzzzzzzzzzzzzz"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if id, err := sessions.ParseID(text); err == nil && string(id) != text {
			t.Fatalf("%q was read as %q", text, id)
		}
		if id, err := sessions.ParseChallengeID(text); err == nil && id.Reveal() != text {
			t.Fatalf("%q was read as another challenge", text)
		}
		if d, err := sessions.ParseDigest(text); err == nil && d.Key() != text {
			t.Fatalf("%q was read as another digest", text)
		}
	})
}

// One letter changed anywhere makes a token no token: CRC-32 finds every error
// of one byte.
func TestAChangedTokenIsRefused(t *testing.T) {
	good := sessions.NewToken().Reveal()
	for i := range good {
		for _, c := range []byte("aZ0_-.= \x00") {
			if good[i] == c {
				continue
			}
			bad := good[:i] + string(c) + good[i+1:]
			if _, err := sessions.ParseToken(bad); !errors.Is(err, sessions.ErrToken) {
				t.Fatalf("letter %d changed to %q: %v", i, c, err)
			}
		}
	}
}

// Two logins that see each other must not end each other: then the subject
// would be left with none.
func TestLoginsAtTheSameMomentLeaveAsManyAsTheLimitAllows(t *testing.T) {
	for _, limit := range []int{1, 3} {
		inCluster(t, func(t *testing.T, nodes []*node) {
			o := opening("alice")
			o.Policy.MaxPerSubject = limit
			for range limit {
				open(t, nodes[0].Manager, o)
				time.Sleep(time.Second)
			}
			for _, n := range nodes {
				n.link.set(func(l *link) { l.slow = 50 * time.Millisecond }) // each counts when all are stored
			}
			var logins sync.WaitGroup
			tokens := make([]sessions.Token, 6)
			for i := range tokens {
				logins.Go(func() { tokens[i], _ = open(t, nodes[i%2].Manager, o) })
			}
			logins.Wait()
			live := 0
			for _, token := range tokens {
				if find(t, nodes[0], token) == "live" {
					live++
				}
			}
			list, _, err := nodes[0].List(t.Context(), tenant, sessions.Filter{Subject: "alice"}, "", 100)
			if err != nil || len(list) != limit || live != limit {
				t.Errorf("limit %d: %d of the new ones live, %d listed, err %v", limit, live, len(list), err)
			}
		}, centralized, centralized)
	}
}

func TestALimitOfNoneIsALimitOfOne(t *testing.T) {
	inBubble(t, func(t *testing.T, m *sessions.Manager) {
		o := opening("alice")
		o.Policy.MaxPerSubject = 0
		open(t, m, o)
		token, _ := open(t, m, o)
		if err := uses(t, m, token); err != nil {
			t.Fatal(err)
		}
	})
}

// thorough says that there may be more until it has found nothing, as etcd's
// store does when a record changed under it; and what finds nothing writes
// nothing, so that it has no revision.
type thorough struct{ *sessions.Memory }

func (s thorough) DeleteAll(ctx context.Context, tenant string, f sessions.Filter, except, after sessions.ID, limit int) (sessions.Removal, error) {
	r, err := s.Memory.DeleteAll(ctx, tenant, f, except, after, limit)
	if r.N > 0 && r.Next == "" {
		r.Next = "ses_3ZZZZZZZZZZZZZZZZZZZZZZZZZ" // the last that there can be
	}
	return r, err
}

// cut takes no epochs, and answers three revokes and then only once the test says so.
type cut struct {
	*sessions.Memory
	calls  int
	mended bool
	firsts []sessions.ID // what each went on after
}

func (s *cut) DeleteAll(ctx context.Context, tenant string, f sessions.Filter, except, after sessions.ID, limit int) (sessions.Removal, error) {
	s.calls++
	s.firsts = append(s.firsts, after)
	if s.calls > 3 && !s.mended {
		return sessions.Removal{}, sessions.ErrUnavailable
	}
	return s.Memory.DeleteAll(ctx, tenant, f, except, after, limit)
}

func (s *cut) BumpEpoch(context.Context, string, sessions.Filter) (int64, error) {
	return 0, sessions.ErrUnavailable
}

// Each call began at the start: by a verifier, where no index helps, it never got
// past those that others had made.
func TestARevokeThatWasCutGoesOnWhereItWas(t *testing.T) {
	store := &cut{Memory: sessions.NewMemory()}
	m := sessions.New(store, store, sessions.Config{})
	for i := range 1000 {
		open(t, m, opening(fmt.Sprint("user-", i)))
	}
	n, more, _, err := m.Revoke(t.Context(), tenant, sessions.Filter{}, "")
	if n != 600 || !more || !errors.Is(err, sessions.ErrUnavailable) {
		t.Fatalf("ended %d, more %v, err %v", n, more, err)
	}
	store.mended = true
	n, more, _, err = m.Revoke(t.Context(), tenant, sessions.Filter{}, "")
	if n != 400 || more || err != nil {
		t.Fatalf("then ended %d, more %v, err %v", n, more, err)
	}
	if store.firsts[4] != store.firsts[3] || store.firsts[4] == "" {
		t.Errorf("it went on after %q, and had come to %q", store.firsts[4], store.firsts[3])
	}
	if _, _, _, err := m.Revoke(t.Context(), tenant, sessions.Filter{}, ""); err != nil || store.firsts[len(store.firsts)-1] != "" {
		t.Errorf("the next one began at %q, err %v", store.firsts[len(store.firsts)-1], err)
	}
}

func TestAnIDOfALaterTokenIsNone(t *testing.T) {
	later := sessions.NewToken().Successor(sessions.NewSalt()).Digest(tenant)
	if id, err := sessions.ParseID(string(later.ID())); !errors.Is(err, sessions.ErrToken) {
		t.Errorf("%q, %v", id, err)
	}
}

func TestARevokeHasTheRevisionOfItsLastWrite(t *testing.T) {
	store := thorough{sessions.NewMemory()}
	m := sessions.New(store, store, sessions.Config{})
	_, s := open(t, m, opening("alice"))
	n, more, revision, err := m.Revoke(t.Context(), tenant, sessions.Filter{Subject: "alice"}, "")
	if n != 1 || more || err != nil || revision <= s.Revision {
		t.Errorf("ended %d, more %v, revision %d, err %v; the session was made at %d", n, more, revision, err, s.Revision)
	}
}
