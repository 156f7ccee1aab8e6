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

func rotate(t *testing.T, n *node, token sessions.Token) sessions.Token {
	t.Helper()
	next, _, err := n.Rotate(t.Context(), tenant, token)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func TestRotationsAtTheSameMomentComeToOneSuccessor(t *testing.T) {
	inCluster(t, func(t *testing.T, nodes []*node) {
		token, s := open(t, nodes[0].Manager, opening("alice"))
		for round := range 20 {
			results := make([]sessions.Token, 8)
			var tabs sync.WaitGroup
			for i := range results {
				tabs.Go(func() { results[i] = rotate(t, nodes[i%2], token) })
			}
			tabs.Wait()
			for _, other := range results {
				if other != results[0] {
					t.Fatalf("round %d: two successors", round)
				}
			}
			token = results[0]
			time.Sleep(time.Second)
		}
		list, _, err := nodes[1].List(t.Context(), tenant, sessions.Filter{}, "", 10)
		if err != nil || len(list) != 1 || list[0].ID != s.ID {
			t.Fatalf("%d sessions, %v", len(list), err)
		}
	}, cached, centralized)
}

// A tab that is two rotations behind and still within the first one's grace
// must not get a token whose own grace is nearly over: it would be taken for a
// thief.
func TestARotationOfAnOldTokenLeadsToTheCurrentOne(t *testing.T) {
	inCluster(t, func(t *testing.T, nodes []*node) {
		n := nodes[0]
		first, _ := open(t, n.Manager, opening("alice"))
		second := rotate(t, n, first)
		time.Sleep(time.Second)
		third := rotate(t, n, second)
		time.Sleep(28 * time.Second)
		late := rotate(t, n, first)
		if late != third {
			t.Error("an old token leads to one that was rotated away too")
		}
		time.Sleep(time.Minute)
		for _, token := range []sessions.Token{late, third} {
			if got := find(t, n, token); got != "live" {
				t.Errorf("a minute later: %q", got)
			}
		}
	}, centralized)
}

func TestAnOldTokenOpensItsSessionForHalfAMinuteAndExtendsNothing(t *testing.T) {
	inCluster(t, func(t *testing.T, nodes []*node) {
		n := nodes[0]
		old, _ := open(t, n.Manager, opening("alice"))
		next := rotate(t, n, old)
		s, err := n.Find(t.Context(), tenant, next, sessions.Reading{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(30*time.Second - time.Nanosecond)
		got, err := n.Find(t.Context(), tenant, old, sessions.Reading{})
		if err != nil || got.ID != s.ID || !got.IdleExpiresAt.Equal(s.IdleExpiresAt) {
			t.Fatalf("%v, %v; want %v", got, err, s)
		}
		time.Sleep(time.Nanosecond)
		if got := find(t, n, old); got != "none" {
			t.Fatalf("the old token after its grace: %q", got)
		}
		if got := find(t, n, next); got != "none" {
			t.Fatalf("its successor after that: %q", got)
		}
	}, centralized)
}

// What the caller was not told must not cost the session: the next try finds
// what the last one did.
func TestARotationWithoutAnAnswerIsFoundAgain(t *testing.T) {
	for _, first := range []outcome{madeMute, lostMute} {
		t.Run(fmt.Sprint(first), func(t *testing.T) {
			inCluster(t, func(t *testing.T, nodes []*node) {
				n := nodes[0]
				token, _ := open(t, n.Manager, opening("alice"))
				told := false
				n.link.set(func(l *link) {
					l.fate = func() outcome {
						if told {
							return answered
						}
						told = true
						return first
					}
				})
				next := rotate(t, n, token)
				time.Sleep(time.Minute)
				if got := find(t, n, next); got != "live" {
					t.Fatalf("the successor: %q", got)
				}
			}, centralized)
		})
	}
}

func TestALogoutByAnOldTokenEndsTheSession(t *testing.T) {
	inCluster(t, func(t *testing.T, nodes []*node) {
		n := nodes[0]
		old, _ := open(t, n.Manager, opening("alice"))
		next := rotate(t, n, old)
		if revision, err := n.Close(t.Context(), tenant, old); err != nil || revision == 0 {
			t.Fatal(revision, err)
		}
		for _, token := range []sessions.Token{old, next} {
			if got := find(t, n, token); got != "none" {
				t.Errorf("after the logout: %q", got)
			}
		}
		if _, _, err := n.Rotate(t.Context(), tenant, old); !errors.Is(err, sessions.ErrNotFound) {
			t.Error(err)
		}
	}, centralized)
}

// A renewal that is on its way when the token is rotated must not bring the
// old record back.
func TestARenewalDoesNotUndoARotation(t *testing.T) {
	inCluster(t, func(t *testing.T, nodes []*node) {
		n := nodes[0]
		old, _ := open(t, n.Manager, opening("alice"))
		time.Sleep(policy.Idle / 2)
		if got := find(t, n, old); got != "live" { // its renewal waits for Run
			t.Fatal(got)
		}
		rotate(t, n, old)
		synctest.Wait()
		s, err := n.link.Memory.Find(t.Context(), tenant, old.Digest(tenant))
		if err != nil || !s.Superseded() {
			t.Fatalf("the old record is %v, %v", s, err)
		}
	}, centralized)
}

// A rotation that another write outran is "not now", never an error of ours.
func TestARotationThatCannotWinIsUnavailable(t *testing.T) {
	inCluster(t, func(t *testing.T, nodes []*node) {
		n := nodes[0]
		token, _ := open(t, n.Manager, opening("alice"))
		ctx, cancel := context.WithCancel(t.Context())
		n.link.set(func(l *link) {
			l.found = func(error) { // between its read and its write comes a renewal, and its caller leaves
				s, err := l.Memory.Find(t.Context(), tenant, token.Digest(tenant))
				if err == nil {
					_, err = l.Memory.Touch(t.Context(), token.Digest(tenant), s)
				}
				if err != nil {
					t.Error(err)
				}
				cancel()
			}
		})
		if _, _, err := n.Rotate(ctx, tenant, token); !errors.Is(err, sessions.ErrUnavailable) {
			t.Errorf("rotate: %v", err)
		}
	}, centralized)
}
