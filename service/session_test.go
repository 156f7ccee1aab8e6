package service_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/doorward/doorward/service"
	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/tenants"
)

// Most of what a node does is this; it is to leave next to no garbage.
func TestAValidateFromMemoryAllocatesAtMostTenTimes(t *testing.T) {
	memory, source := sessions.NewMemory(), tenants.NewMemory()
	for _, mode := range []sessions.Mode{sessions.Cached, sessions.Replicated} {
		t.Run(string(mode), func(t *testing.T) {
			s := &service.Service{
				Tenants: tenants.NewRegistry(source, tenants.RegistryConfig{}), Source: source,
				Sessions: sessions.New(memory, memory, sessions.Config{Mode: mode}), Log: slog.New(slog.DiscardHandler),
			}
			running, stop := context.WithCancel(t.Context())
			ended := make(chan struct{}, 2)
			go func() { s.Tenants.Run(running); ended <- struct{}{} }()
			go func() { s.Sessions.Run(running); ended <- struct{}{} }()
			defer func() { stop(); <-ended; <-ended }()
			acme, err := s.Tenants.New(tenants.Tenant{ID: string(mode)})
			if err == nil {
				acme, err = s.CreateTenant(t.Context(), acme)
			}
			if err != nil {
				t.Fatal(err)
			}
			token, _, err := s.Sessions.Open(t.Context(), sessions.Opening{
				Tenant: acme.UUID, Subject: "alice", Claims: []byte(`{"name":"Alice Example"}`), AMR: []string{"pwd"},
				Policy: sessions.Policy{Idle: time.Hour, Absolute: time.Hour, Remember: time.Hour, MaxPerSubject: 10},
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Sessions.WaitReady(t.Context()); err != nil {
				t.Fatal(err)
			}
			validate := func() {
				if _, err := s.Validate(t.Context(), service.Door{ID: string(mode)}, token, 0); err != nil {
					t.Error(err)
				}
			}
			validate() // mode cached has read it now
			const times = 1000
			before := s.Sessions.Stats()
			allocations := testing.AllocsPerRun(times, validate)
			after := s.Sessions.Stats()
			if got := after.FromMemory - before.FromMemory; got < times*9/10 {
				t.Fatalf("%d of %d came from memory", got, times) // the rest: a proof that came late
			}
			if allocations > 10 {
				t.Errorf("%v allocations, want at most 10", allocations)
			}
			t.Logf("%v allocations", allocations)
		})
	}
}
