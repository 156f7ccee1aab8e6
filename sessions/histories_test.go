package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/sessions/history"
)

// What many clients see at once, through two nodes with faults between them
// and the store, can have happened one after another; what a copy accepts was
// so at most half a second before it was asked.
func TestWhatClientsSeeAtOnceCanHaveHappenedOneAfterAnother(t *testing.T) {
	for _, modes := range [][2]sessions.Mode{
		{centralized, centralized}, {cached, centralized}, {cached, cached}, {cached, replicated}, {replicated, replicated},
	} {
		t.Run(fmt.Sprint(modes[0], " ", modes[1]), func(t *testing.T) {
			t.Parallel() // they wait more than they work
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			nodes, end := cluster(t.Context(), sessions.NewMemory(), modes[0], modes[1])
			ctx, stop := context.WithTimeout(t.Context(), 3*time.Second)
			defer stop()
			seen := &history.History{Grace: 30 * time.Second}
			var all sync.WaitGroup
			all.Go(func() { trouble(ctx, nodes, rand.New(rand.NewPCG(seed, 0))) })
			for i := range uint64(8) { // lives, side by side
				all.Go(func() {
					source := rand.New(rand.NewPCG(seed, i+1))
					for n := 0; ctx.Err() == nil; n++ {
						record(ctx, nodes, seen, fmt.Sprint(i, "-", n), source)
					}
				})
			}
			all.Wait()
			for _, n := range nodes {
				n.link.heal()
			}
			if err := end(); err != nil {
				t.Error(err)
			}
			if err := seen.Check(time.Minute); err != nil {
				t.Error(err)
			}
			for _, want := range []struct {
				kind    history.Kind
				outcome history.Outcome
			}{{history.Find, history.Yes}, {history.Find, history.No}, {history.Find, history.Unknown}, {history.Rotate, history.Yes}, {history.Rotate, history.Unknown}, {history.Revoke, history.Yes}, {history.Revoke, history.Unknown}} {
				n := seen.Count(want.kind, want.outcome)
				t.Logf("%s: %s: %d", want.kind, want.outcome, n)
				if n == 0 {
					t.Errorf("no %s was answered %s", want.kind, want.outcome)
				}
			}
		})
	}
}

// trouble makes things go wrong until ctx ends, and right again.
func trouble(ctx context.Context, nodes []*node, source *rand.Rand) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		l := nodes[source.IntN(len(nodes))].link
		l.heal()
		what, fate := source.IntN(8), fates(source.Uint64())
		l.set(func(l *link) {
			switch what {
			case 0:
				l.refuse = true
			case 1:
				l.silent = true
			case 2:
				l.delay = 300 * time.Millisecond
			case 3:
				l.slow = 30 * time.Millisecond
			case 4, 5:
				l.fate = fate
			}
		})
		if what == 6 {
			l.cut()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// record lets four clients share one session for a while, and notes what they
// see.
func record(ctx context.Context, nodes []*node, seen *history.History, name string, source *rand.Rand) {
	lifetime := time.Duration(100+source.IntN(900)) * time.Millisecond
	o := sessions.Opening{
		Tenant: tenant, Subject: name, Verifier: sessions.Verifier{Version: 1, Digest: "sha256:abc"},
		Policy: sessions.Policy{Idle: lifetime, Absolute: lifetime, MaxPerSubject: 1},
	}
	start := time.Now()
	first, s, err := nodes[source.IntN(2)].Open(ctx, o)
	if err != nil {
		time.Sleep(time.Millisecond)
		return // nobody knows its token
	}
	seen.Add(history.Op{Session: name, Kind: history.Create, Token: seen.Version(name, first.Reveal()), Outcome: history.Yes, Deadline: s.ExpiresAt, Start: start, End: time.Now()})

	var mu sync.Mutex
	tokens := []sessions.Token{first}
	var clients sync.WaitGroup
	for range 4 {
		source := rand.New(rand.NewPCG(source.Uint64(), 0))
		clients.Go(func() {
			// Once more when it is over. What stays unknown may have happened at any
			// time, and too much of that is more than can be thought through.
			for no, unknown := 0, 0; no < 2 && unknown < 3 && ctx.Err() == nil; {
				n := nodes[source.IntN(2)]
				mu.Lock()
				token := tokens[len(tokens)-1-min(len(tokens)-1, source.IntN(4)/2)]
				mu.Unlock()
				op := history.Op{Session: name, Kind: history.Find, Token: seen.Version(name, token.Reveal()), Start: time.Now()}
				var err error
				switch source.IntN(14) {
				case 0, 1:
					op.Kind = history.Rotate
					var next sessions.Token
					if next, _, err = n.Rotate(ctx, tenant, token); err == nil {
						mu.Lock()
						if op.Got = seen.Version(name, next.Reveal()); op.Got == len(tokens) {
							tokens = append(tokens, next)
						}
						mu.Unlock()
					}
				case 2:
					op.Kind = history.Revoke
					switch source.IntN(3) {
					case 0:
						_, err = n.Close(ctx, tenant, token)
					case 1:
						if _, err = n.CloseID(ctx, tenant, s.ID); errors.Is(err, sessions.ErrNotFound) {
							err = nil // over is over
						}
					case 2:
						_, _, _, err = n.Revoke(ctx, tenant, sessions.Filter{Subject: name}, "")
					}
				default:
					if n.mode != centralized {
						op.Stale = trust
					}
					_, err = n.Find(ctx, tenant, token, sessions.Reading{})
				}
				op.End, op.Outcome = time.Now(), outcomeOf(err)
				seen.Add(op)
				switch {
				case op.Outcome == history.No:
					no++
				case op.Outcome == history.Unknown && op.Kind != history.Find:
					unknown++
				}
				time.Sleep(time.Duration(source.IntN(40)) * time.Millisecond)
			}
		})
	}
	clients.Wait()
}

func outcomeOf(err error) history.Outcome {
	switch {
	case err == nil:
		return history.Yes
	case errors.Is(err, sessions.ErrNotFound):
		return history.No
	}
	return history.Unknown
}
