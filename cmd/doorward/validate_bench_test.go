package main

import (
	"context"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/sessions/cluster"
	sessionsetcd "github.com/doorward/doorward/sessions/etcd"
)

// unseen is how many sessions a node is not asked about before it is measured
// what that costs.
const unseen = 40_000

// benchSizes are how many sessions there are: $DOORWARD_BENCH_SESSIONS.
func benchSizes(b *testing.B) []int {
	var sizes []int
	for text := range strings.SplitSeq(os.Getenv("DOORWARD_BENCH_SESSIONS"), ",") {
		if text == "" {
			return []int{10_000}
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			b.Fatalf("DOORWARD_BENCH_SESSIONS has %q; it takes numbers such as 10000,100000", text)
		}
		sizes = append(sizes, n)
	}
	return sizes
}

// BenchmarkValidate asks whose session it is, with a random one of N tokens each
// time (hit), one that the node was never asked about (miss), or one that
// nobody has (negative). The sessions are made by the store, in this process, in the
// data directory that the servers are then started on, one mode after another; in mode memory, by logins. None is due for a renewal.
func BenchmarkValidate(b *testing.B) {
	bare := bareSite(b)
	for _, n := range benchSizes(b) {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			if n <= 10_000 { // logins take their time
				b.Run("memory", func(b *testing.B) { inMemoryMode(b, bare, n) })
			}
			dir := b.TempDir()
			first := benchSite(b, dir, "DOORWARD_SESSIONS_MODE=centralized")
			first.start() // it makes its demo tenant, which the others find
			end(b, first)
			full := fillStore(b, filepath.Join(dir, "data"), n+unseen)
			first.start()
			full.empty = first.heap()
			full.bytes = (first.metric("doorward_etcd_db_in_use_bytes") - full.before) / float64(len(full.tokens))
			end(b, first)
			for _, mode := range []string{"centralized", "cached", "replicated"} {
				b.Run(mode, func(b *testing.B) { inMode(b, bare, dir, mode, full) })
			}
		})
	}
}

// filled is a data directory with sessions.
type filled struct {
	tokens []string
	before float64 // bytes in use of the database without them
	bytes  float64 // and what each of them has added to that
	empty  float64 // bytes of heap of a server that holds none of them
}

// fillStore makes n sessions of tenant acme in an etcd on dir.
func fillStore(b *testing.B, dir string, n int) filled {
	b.Helper()
	starting, cancel := context.WithTimeout(b.Context(), startTime)
	defer cancel()
	member, err := cluster.Start(starting, cluster.Config{Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	defer member.Close()
	source := newSourceWith(b, member.Client(), filepath.Join(dir, "keyring"))
	acme := newTenant(b, source, "acme")
	store := sessionsetcd.New(member.Client(), source.Keys, sessionsetcd.Config{})
	ctx, stop := context.WithCancel(b.Context())
	var running sync.WaitGroup
	running.Go(func() { store.Run(ctx) })
	defer running.Wait()
	defer stop()
	f := filled{tokens: make([]string, n), before: float64(member.Stats().InUseBytes)}
	var next atomic.Int64
	var all sync.WaitGroup
	for range 256 {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				token, s := benchSession(acme)
				if _, err := store.Create(ctx, sessions.Creation{Digest: token.Digest(acme), Session: s}); err != nil {
					b.Error(err)
					return
				}
				f.tokens[i] = token.Reveal()
			}
		})
	}
	all.Wait()
	if b.Failed() {
		b.FailNow()
	}
	return f
}

// inMode measures one server on a data directory. The heap of a session is
// what this server has more than one that holds none.
func inMode(b *testing.B, bare *site, dir, mode string, full filled) {
	s := benchSite(b, dir, "DOORWARD_SESSIONS_MODE="+mode, "DOORWARD_SESSIONS_CACHE_BYTES=2000000000")
	began := time.Now()
	s.start()
	restart := time.Since(began)
	for s.metric("doorward_sessions_proof_age_seconds") < 0 && mode != "centralized" {
		time.Sleep(20 * time.Millisecond) // between two looks
	}
	copied := time.Since(began)
	b.Cleanup(func() { end(b, s) })
	base, cookie := s.public+"/t/acme", "__Host-doorward-acme"
	known, fresh := full.tokens[unseen:], full.tokens[:unseen]
	if mode == "cached" {
		eachOf(b, len(known), func(i int) error { return s.validate(200, base, cookie, known[i]) })
	}
	inMemory := s.metric("doorward_sessions_held")
	heap := (s.heap() - full.empty) / max(1, inMemory)
	b.Run("hit", func(b *testing.B) {
		read, held := s.readsAndHits()
		compare(b, s, bare, func() error {
			return s.validate(200, base, cookie, known[rand.IntN(len(known))])
		}, bare.validateBare)
		readNow, heldNow := s.readsAndHits()
		b.ReportMetric((readNow-read)/(readNow-read+heldNow-held), "reads/op")
		b.ReportMetric(restart.Seconds(), "restart-s")
		b.ReportMetric(copied.Seconds(), "copied-s")
		b.ReportMetric(full.bytes, "etcd-B")
		if inMemory > 0 {
			b.ReportMetric(heap, "heap-B")
		}
	})
	if mode == "cached" {
		var next atomic.Int64
		b.Run("miss", func(b *testing.B) {
			compare(b, s, bare, func() error {
				i := next.Add(1) - 1
				if i >= int64(len(fresh)) {
					return errSpent
				}
				return s.validate(200, base, cookie, fresh[i])
			}, bare.validateBare)
		})
	}
	b.Run("negative", func(b *testing.B) { negative(b, s, bare, base, cookie) })
}

// readsAndHits is how many finds have been answered by a read, and from memory.
func (s *site) readsAndHits() (read, held float64) {
	s.Helper()
	return s.metric(`doorward_sessions_finds_total{from="store"}`), s.metric(`doorward_sessions_finds_total{from="memory"}`)
}

func negative(b *testing.B, s, bare *site, base, cookie string) {
	compare(b, s, bare, func() error {
		return s.validate(401, base, cookie, sessions.NewToken().Reveal())
	}, bare.validateBare)
}

// inMemoryMode measures a server whose sessions are in it alone.
func inMemoryMode(b *testing.B, bare *site, n int) {
	s := benchSite(b, b.TempDir(), "DOORWARD_SESSIONS_MODE=memory")
	s.start()
	b.Cleanup(func() { end(b, s) })
	const most = 1000
	ids := make([]string, (n+most-1)/most)
	for i := range ids {
		ids[i] = "acme" + strconv.Itoa(i)
		s.acme(ids[i])
	}
	before := s.heap()
	tokens := make([]string, n)
	eachOf(b, n, func(i int) error {
		token, err := s.signIn(s.public + "/t/" + ids[i/most])
		tokens[i] = token
		return err
	})
	heap := (s.heap() - before) / float64(n)
	b.Run("hit", func(b *testing.B) {
		compare(b, s, bare, func() error {
			i := rand.IntN(n)
			return s.validate(200, s.public+"/t/"+ids[i/most], "__Host-doorward-"+ids[i/most], tokens[i])
		}, bare.validateBare)
		b.ReportMetric(heap, "heap-B")
	})
	b.Run("negative", func(b *testing.B) {
		negative(b, s, bare, s.public+"/t/acme0", "__Host-doorward-acme0")
	})
}

// acme makes a tenant whose verifier accepts everybody as alice and hashes
// nothing.
func (s *site) acme(id string) {
	s.Helper()
	s.tenant(id, guesttest.Answers(benchVerdict).Module())
	s.operate(200, "PATCH /tenants/"+id, map[string]any{"session": map[string]any{"max_per_subject": 1000}})
}

// end ends a server within a benchmark, so that another can have its directory.
func end(b *testing.B, s *site) {
	b.Helper()
	if err := s.drain(); err != nil {
		s.crash()
		b.Error(err)
	}
}

// BenchmarkLogin signs in with a verifier that hashes nothing: what is left is
// doorward's own part, the worker's call and the write to etcd.
func BenchmarkLogin(b *testing.B) {
	bare := bareSite(b)
	for _, mode := range []string{"memory", "cached"} {
		b.Run(mode, func(b *testing.B) {
			s := benchSite(b, b.TempDir(), "DOORWARD_SESSIONS_MODE="+mode)
			s.start()
			b.Cleanup(func() { end(b, s) })
			s.acme("acme")
			s.operate(200, "PATCH /tenants/acme", map[string]any{"session": map[string]any{"max_per_subject": 10}})
			at := func(s *site, base string) func() error {
				return func() error {
					_, err := s.signIn(base)
					return err
				}
			}
			compare(b, s, bare, at(s, s.public+"/t/acme"), at(bare, bare.public))
		})
	}
}

// BenchmarkRevoke signs out at one node and asks another, which has the session
// in its memory, as fast as it answers: how long after the ack of the one the
// other's refusal had come.
func BenchmarkRevoke(b *testing.B) {
	for _, mode := range []string{"cached", "replicated"} {
		b.Run(mode, func(b *testing.B) {
			_, env := sharedEtcd(b)
			env = append(env, "DOORWARD_SESSIONS_MODE="+mode)
			here, there := benchSite(b, b.TempDir(), env...), benchSite(b, b.TempDir(), env...)
			for _, s := range []*site{here, there} {
				s.start()
				b.Cleanup(func() { end(b, s) })
			}
			here.acme("acme")
			const cookie = "__Host-doorward-acme"
			var waits []time.Duration
			accepts := 0
			for b.Loop() {
				token, err := here.signIn(here.public + "/t/acme")
				if err != nil {
					b.Fatal(err)
				}
				for began := time.Now(); ; { // the tenant and the session come to the other node
					err := there.validate(200, there.public+"/t/acme", cookie, token)
					if err == nil {
						break
					}
					if time.Since(began) > 10*time.Second {
						b.Fatal(err)
					}
				}
				r, err := http.NewRequest("DELETE", here.public+"/t/acme/v1/session", nil)
				if err != nil {
					b.Fatal(err)
				}
				r.Header.Set("Cookie", cookie+"="+token)
				if _, err := here.fetch(204, r); err != nil {
					b.Fatal(err)
				}
				acked := time.Now()
				for there.validate(401, there.public+"/t/acme", cookie, token) != nil {
					accepts++
					if time.Since(acked) > 10*time.Second {
						b.Fatal("it is never refused")
					}
				}
				waits = append(waits, time.Since(acked))
			}
			slices.Sort(waits)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(micros(percentile(waits, 50))/1000, "p50-ms")
			b.ReportMetric(micros(percentile(waits, 99))/1000, "p99-ms")
			b.ReportMetric(micros(percentile(waits, 100))/1000, "max-ms")
			b.ReportMetric(float64(accepts)/float64(len(waits)), "accepts/op")
			b.ReportMetric(float64(len(waits)), "revokes")
		})
	}
}
