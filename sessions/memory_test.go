package sessions_test

import (
	"testing"
	"time"

	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/sessions/storetest"
)

func TestMemorySitsTheExam(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		m := sessions.NewMemory()
		return storetest.Fixture{Store: m, A: "tenant-a", B: "tenant-b", Compact: func() {
			// It forgets by itself, once enough has changed.
			s := sessions.Session{Tenant: "tenant-c", ExpiresAt: time.Now().Add(time.Hour), IdleExpiresAt: time.Now().Add(time.Hour)}
			d := sessions.NewToken().Digest(s.Tenant)
			s.ID = d.ID()
			for range 10_000 {
				if _, err := m.Create(t.Context(), sessions.Creation{Digest: d, Session: s}); err != nil {
					t.Fatal(err)
				}
			}
		}}
	})
}
