package sessions_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/doorward/doorward/sessions"
)

const benchTenant = "3f0e4c1e-0a4b-4a55-9d5e-6f1f5f0d7c11"

// supply fills a Memory with n sessions, as browsers have them with some 230
// bytes of text, and returns their tokens.
func supply(t testing.TB, n int) (*sessions.Memory, []sessions.Token) {
	memory := sessions.NewMemory()
	tokens := make([]sessions.Token, n)
	now := time.Now().UTC()
	for i := range tokens {
		tokens[i] = sessions.NewToken()
		_, err := memory.Create(t.Context(), sessions.Creation{Digest: tokens[i].Digest(benchTenant), Session: sessions.Session{
			ID: tokens[i].Digest(benchTenant).ID(), Tenant: benchTenant, Subject: fmt.Sprintf("user-%08d@example.org", i),
			Claims: json.RawMessage(`{"name":"Zoë Example","email":"zoe@example.org","groups":["staff","ops"]}`), AMR: []string{"pwd", "otp"},
			Verifier: sessions.Verifier{Version: 3, Digest: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
			Client:   sessions.Client{IP: "2001:db8::192:0:2:1", UserAgent: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"},
			AuthTime: now, CreatedAt: now, IssuedAt: now, LastSeenAt: now, IdleExpiresAt: now.Add(12 * time.Hour), ExpiresAt: now.Add(12 * time.Hour), Idle: 12 * time.Hour,
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	return memory, tokens
}

// proven runs a Manager over memory until the test ends.
func proven(t testing.TB, memory *sessions.Memory, cfg sessions.Config) *sessions.Manager {
	m := sessions.New(memory, memory, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	if err := m.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, func() bool { return m.Stats().ProofAge < 200*time.Millisecond })
	return m
}

func heap() float64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc)
}

// findAll finds every session once.
func findAll(t testing.TB, m *sessions.Manager, tokens []sessions.Token) {
	for _, token := range tokens {
		if _, err := m.Find(t.Context(), benchTenant, token, sessions.Reading{}); err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkFind is the hot path with random tokens: of sessions that are in
// memory, of sessions that must be read (from Memory, which costs next to
// nothing itself), and of tokens that stand for nothing. B/session is what a
// session takes in the copy.
func BenchmarkFind(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		memory, tokens := supply(b, n)
		find := func(b *testing.B, m *sessions.Manager, among []sessions.Token) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = m.Find(b.Context(), benchTenant, among[rand.IntN(len(among))], sessions.Reading{})
			}
		}
		for _, mode := range []sessions.Mode{cached, replicated} {
			before := heap()
			m := proven(b, memory, sessions.Config{Mode: mode, CacheBytes: 4 << 30})
			if mode == cached {
				findAll(b, m, tokens)
			}
			size := (heap() - before) / float64(n)
			name := fmt.Sprintf("%s/%d/", mode, n)
			b.Run(name+"hit", func(b *testing.B) {
				read := m.Stats().FromStore
				find(b, m, tokens)
				b.ReportMetric(size, "B/session")
				if read = m.Stats().FromStore - read; read > int64(b.N)/100 {
					b.Errorf("%d of %d were read from the store", read, b.N)
				}
			})
			b.Run(name+"negative", func(b *testing.B) {
				nothing := make([]sessions.Token, 1000)
				for i := range nothing {
					nothing[i] = sessions.NewToken()
				}
				find(b, m, nothing)
			})
		}
		b.Run(fmt.Sprintf("%s/%d/miss", cached, n), func(b *testing.B) {
			m := proven(b, memory, sessions.Config{Mode: cached, CacheBytes: 1})
			find(b, m, tokens)
			if hits := m.Stats().FromMemory; hits > 0 {
				b.Errorf("%d came from memory", hits)
			}
		})
	}
}

// What a session takes in a node's memory: in a copy of all, and in a bounded
// one, which must not believe it takes less than it does.
func TestASessionTakesFewBytesAndABoundedCopyKnowsHowMany(t *testing.T) {
	const n, room = 20_000, 5 << 20
	memory, tokens := supply(t, n)
	before := heap()
	m := proven(t, memory, sessions.Config{Mode: replicated})
	each := (heap() - before) / n
	if held := m.Stats().Held; held != n || each > 600 {
		t.Errorf("replicated: %d held at %.0f bytes each, at most 600 are wanted", held, each)
	}
	t.Logf("replicated: %.0f bytes a session", each)
	before = heap()
	bounded := proven(t, memory, sessions.Config{Mode: cached, CacheBytes: room})
	findAll(t, bounded, tokens)
	took, held := heap()-before, bounded.Stats().Held
	t.Logf("cached: %d sessions take %.0f bytes each, %.0f%% of the room they were given", held, took/float64(held), 100*took/room)
	if took > room*1.1 || held == n {
		t.Errorf("cached: %d sessions are held in %.0f bytes, %d were given", held, took, room)
	}
	runtime.KeepAlive(m)
}
