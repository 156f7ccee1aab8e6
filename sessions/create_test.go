package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/doorward/doorward/sessions"
)

// delayed is a store whose first create is made only when somebody says so: its
// caller was told long before that nobody knows. A member that was stopped does
// that, when it goes on and forwards what it had received.
type delayed struct {
	*sessions.Memory
	first *sessions.Creation
}

func (d *delayed) Create(ctx context.Context, c sessions.Creation) (int64, error) {
	if d.first == nil {
		d.first = &c
		return 0, fmt.Errorf("create: %w: no answer", sessions.ErrUnavailable)
	}
	return d.Memory.Create(ctx, c)
}

func TestACreateThatIsMadeLateBringsNothingBack(t *testing.T) {
	store := &delayed{Memory: sessions.NewMemory()}
	m := sessions.New(store, store, sessions.Config{})
	token, _ := open(t, m, opening("alice"))
	if _, err := m.Find(t.Context(), tenant, token, sessions.Reading{}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Close(t.Context(), tenant, token); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Memory.Create(t.Context(), *store.first); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Find(t.Context(), tenant, token, sessions.Reading{}); !errors.Is(err, sessions.ErrNotFound) {
		t.Errorf("a token whose session was ended finds %v", err)
	}
}

// The first try of a create may have been made though nobody said so. What it
// left is no session of anybody.
func TestACreateThatIsTriedAgainLeavesOneSession(t *testing.T) {
	inCluster(t, func(t *testing.T, nodes []*node) {
		fate := []outcome{madeMute, lostMute, answered}
		nodes[0].link.set(func(l *link) {
			l.fate = func() outcome {
				now := answered
				if len(fate) > 0 {
					now, fate = fate[0], fate[1:]
				}
				return now
			}
		})
		token, s := open(t, nodes[0].Manager, opening("alice"))
		wants(t, nodes[0], token, "live", 1)
		list, _, err := nodes[0].List(t.Context(), tenant, sessions.Filter{Subject: "alice"}, "", 10)
		if err != nil || len(list) != 1 || list[0].ID != s.ID {
			t.Errorf("listed %v, %v; opened %v", list, err, s.ID)
		}
	}, centralized)
}

// A copy keeps milliseconds. What the holder is told must not say more.
func TestASessionIsFoundWithTheTimesItWasOpenedWith(t *testing.T) {
	copies(t, func(t *testing.T, writer, reader *node) {
		time.Sleep(1234567 * time.Nanosecond)
		o := opening("alice")
		o.Policy.Absolute += 999999 * time.Nanosecond
		token, opened := open(t, writer.Manager, o)
		heard()
		find(t, reader, token)
		s, err := reader.Find(t.Context(), tenant, token, sessions.Reading{})
		if err != nil || !s.ExpiresAt.Equal(opened.ExpiresAt) || !s.IdleExpiresAt.Equal(opened.IdleExpiresAt) || !s.CreatedAt.Equal(opened.CreatedAt) {
			t.Fatalf("found %+v, %v; opened %+v", s, err, opened)
		}
	})
}
