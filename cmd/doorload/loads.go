package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/sessions"
)

// noSession is the code of a 401 that says that nobody is signed in.
const noSession = "no_session"

// builtIn is the --baseline that doorload starts itself.
const builtIn = "built-in"

// load is a mode: how a door is made ready, and what an arrival then does there.
// The baseline gets the same of both as the target.
type load struct {
	mode string
	// ready prepares a door, and returns what an arrival does there.
	ready func(ctx context.Context, at *door, target bool) (shot, error)
}

func validateCommand() *cobra.Command {
	var o options
	var hit, miss, negative float64
	var tokenFile, saveFile, loginBase string
	cmd := &cobra.Command{
		Use:   "validate [flags] BASE",
		Short: "Ask whose session it is, with a random token each time",
		Long: "Sessions are made first, by logins at BASE or from a file of tokens. Then GET\n" +
			"BASE/v1/session is asked with\n\n" +
			"  hit       one of --sessions tokens, each of which was asked about before\n" +
			"  miss      a good token that BASE has not been asked about, and each only once\n" +
			"  negative  a well-formed token that nobody has\n\n" +
			"in those shares. 200 is right for the first two, 401 no_session for the third.",
		Args: oneTarget,
		RunE: func(cmd *cobra.Command, args []string) error {
			if hit < 0 || miss < 0 || negative < 0 || hit+miss+negative <= 0 {
				return usagef("--hit, --miss and --negative must be shares, and not all of them 0")
			}
			if miss > 0 && tokenFile == "" && loginBase == "" {
				return usagef("a session made at BASE may be in its cache already: --miss needs --login-at another node, or --tokens")
			}
			if o.sessions < 1 && hit > 0 {
				return usagef("--sessions must be above 0")
			}
			unseen := 0
			if miss > 0 {
				unseen = o.unseen(miss / (hit + miss + negative))
			}
			ready := func(ctx context.Context, at *door, target bool) (shot, error) {
				var known, fresh []sessions.Token
				switch {
				case target && tokenFile != "":
					tokens, err := readTokens(tokenFile)
					if err != nil {
						return nil, err
					}
					if len(tokens) < o.sessions+unseen {
						return nil, usagef("--tokens %s: it has %d tokens, and this run needs %d (--sessions, and %d for --miss)", tokenFile, len(tokens), o.sessions+unseen, unseen)
					}
					known, fresh = tokens[:o.sessions], tokens[o.sessions:]
				default:
					from, n := at, o.sessions
					password, err := o.passwordFor(cmd, target)
					if err != nil {
						return nil, err
					}
					if target && loginBase != "" {
						if from, err = openDoor(loginBase, o.cookie, setupInFlight, o.timeout, o.anywhere); err != nil {
							return nil, err
						}
						defer from.close()
						n += unseen
					}
					tokens, err := o.signInMany(ctx, from, password, n, cmd.ErrOrStderr())
					if err != nil {
						return nil, err
					}
					known, fresh = tokens[:o.sessions], tokens[o.sessions:]
					if target && saveFile != "" {
						if err := saveTokens(saveFile, tokens); err != nil {
							return nil, err
						}
					}
				}
				if err := touch(ctx, at, known); err != nil {
					return nil, err
				}
				if !target {
					fresh = nil // a map knows no misses: the bare handler's are hits
				}
				return validateShot(at, known, fresh, target, hit, miss, negative), nil
			}
			return o.run(cmd, args[0], load{"validate", ready})
		},
	}
	loadFlags(cmd, &o, 1000)
	f := cmd.Flags()
	f.IntVar(&o.sessions, "sessions", 1000, "how many sessions there are to be hit")
	f.Float64Var(&hit, "hit", 1, "share of hits")
	f.Float64Var(&miss, "miss", 0, "share of misses")
	f.Float64Var(&negative, "negative", 0, "share of unknown tokens")
	f.StringVar(&tokenFile, "tokens", "", "take the tokens from this `file`, one a line, instead of signing in")
	f.StringVar(&saveFile, "save-tokens", "", "keep the tokens in this new `file` (0600) for another run")
	f.StringVar(&loginBase, "login-at", "", "sign in at this `URL`, another node of the same site")
	comparisonFlags(cmd, &o)
	return cmd
}

// unseen is how many tokens are enough for that share of the target's arrivals,
// by Poisson's luck too.
func (o *options) unseen(share float64) int {
	measured := o.duration
	if o.baseline != "" {
		measured /= 3
	}
	mean := share * o.rate * (measured + o.warmup).Seconds()
	return min(int(mean+6*math.Sqrt(mean))+10, 2*o.requests) // the warm-up has as many requests at most
}

// validateShot draws hits from known, and misses from fresh in their order.
func validateShot(at *door, known, fresh []sessions.Token, target bool, hit, miss, negative float64) shot {
	var used atomic.Int64
	return func(ctx context.Context, random *rand.Rand) outcome {
		var got answer
		switch draw := random.Float64() * (hit + miss + negative); {
		case draw < negative:
			got = at.validate(ctx, sessions.NewToken())
			return outcome{op: "negative", answer: got, right: got == answer{http.StatusUnauthorized, noSession}}
		case draw < negative+miss && target:
			i := int(used.Add(1)) - 1
			if i >= len(fresh) {
				return outcome{none: true}
			}
			got = at.validate(ctx, fresh[i])
			return outcome{op: "miss", answer: got, right: got.status == http.StatusOK}
		}
		if len(known) == 0 {
			return outcome{none: true}
		}
		got = at.validate(ctx, known[random.IntN(len(known))])
		return outcome{op: "hit", answer: got, right: got.status == http.StatusOK}
	}
}

func loginCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "login [flags] BASE",
		Short: "Sign in",
		Long: "POST BASE/v1/login for a token; 201 is right. A password is hashed for tens of\n" +
			"milliseconds on purpose, so with a verifier that does, start with --rate 5.",
		Args: oneTarget,
		RunE: func(cmd *cobra.Command, args []string) error {
			ready := func(_ context.Context, at *door, target bool) (shot, error) {
				password, err := o.passwordFor(cmd, target)
				if err != nil {
					return nil, err
				}
				return func(ctx context.Context, random *rand.Rand) outcome {
					token, got := at.login(ctx, o.user(random.IntN(o.users)), password)
					return outcome{op: "login", answer: got, right: !token.IsZero()}
				}, nil
			}
			return o.run(cmd, args[0], load{"login", ready})
		},
	}
	loadFlags(cmd, &o, 5)
	comparisonFlags(cmd, &o)
	return cmd
}

func mixedCommand() *cobra.Command {
	var o options
	var validate, login, logout float64
	cmd := &cobra.Command{
		Use:   "mixed [flags] BASE",
		Short: "Validate, sign in and sign out, in shares",
		Long: "Begins with --sessions sessions; logins add to them, logouts take a random one away,\n" +
			"validates ask about a random one. A validate must be answered 200, and may be\n" +
			"answered 401 only if the logout of that session had begun before the answer came.",
		Args: oneTarget,
		RunE: func(cmd *cobra.Command, args []string) error {
			if validate < 0 || login < 0 || logout < 0 || validate+login+logout <= 0 {
				return usagef("--validate, --login and --logout must be shares, and not all of them 0")
			}
			ready := func(ctx context.Context, at *door, target bool) (shot, error) {
				password, err := o.passwordFor(cmd, target)
				if err != nil {
					return nil, err
				}
				tokens, err := o.signInMany(ctx, at, password, o.sessions, cmd.ErrOrStderr())
				if err != nil {
					return nil, err
				}
				if err := touch(ctx, at, tokens); err != nil {
					return nil, err
				}
				live := &pool{}
				for _, t := range tokens {
					live.add(t)
				}
				return mixedShot(at, live, func(n int) (sessions.Token, answer) { return at.login(ctx, o.user(n), password) }, o.users, validate, login, logout), nil
			}
			return o.run(cmd, args[0], load{"mixed", ready})
		},
	}
	loadFlags(cmd, &o, 100)
	f := cmd.Flags()
	f.IntVar(&o.sessions, "sessions", 100, "how many sessions there are at the beginning")
	f.Float64Var(&validate, "validate", 0.95, "share of validates")
	f.Float64Var(&login, "login", 0.03, "share of logins")
	f.Float64Var(&logout, "logout", 0.02, "share of logouts")
	comparisonFlags(cmd, &o)
	return cmd
}

func mixedShot(at *door, live *pool, signIn func(n int) (sessions.Token, answer), users int, validate, login, logout float64) shot {
	return func(ctx context.Context, random *rand.Rand) outcome {
		draw := random.Float64() * (validate + login + logout)
		if draw < login {
			token, got := signIn(random.IntN(users))
			if !token.IsZero() {
				live.add(token)
			}
			return outcome{op: "login", answer: got, right: !token.IsZero()}
		}
		if draw < login+logout {
			s := live.take(random)
			if s == nil {
				return outcome{none: true}
			}
			got := at.logout(ctx, s.token)
			return outcome{op: "logout", answer: got, right: got.status == http.StatusNoContent}
		}
		s := live.pick(random)
		if s == nil {
			return outcome{none: true}
		}
		got := at.validate(ctx, s.token)
		ended := s.ending.Load() && got == answer{http.StatusUnauthorized, noSession}
		return outcome{op: "validate", answer: got, right: got.status == http.StatusOK || ended}
	}
}

// pool is the sessions that are signed in.
type pool struct {
	mu   sync.Mutex
	live []*held
}

// held is one of them. ending is set before its logout is sent.
type held struct {
	token  sessions.Token
	ending atomic.Bool
}

func (p *pool) add(t sessions.Token) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.live = append(p.live, &held{token: t})
}

// pick returns one at random, or nil.
func (p *pool) pick(random *rand.Rand) *held {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.live) == 0 {
		return nil
	}
	return p.live[random.IntN(len(p.live))]
}

// take takes one away to be ended, or returns nil.
func (p *pool) take(random *rand.Rand) *held {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.live) == 0 {
		return nil
	}
	i, last := random.IntN(len(p.live)), len(p.live)-1
	s := p.live[i]
	p.live[i] = p.live[last]
	p.live = p.live[:last]
	s.ending.Store(true)
	return s
}

// passwordFor is the password for the target; the bare handler takes any.
func (o *options) passwordFor(cmd *cobra.Command, target bool) (secret, error) {
	if !target {
		return secret{"x"}, nil
	}
	return o.password(cmd.InOrStdin())
}

// run makes the doors ready, measures, and reports.
func (o *options) run(cmd *cobra.Command, base string, l load) error {
	if err := o.check(); err != nil {
		return err
	}
	ctx := cmd.Context()
	sides, closeAll, err := o.sides(ctx, base, l, cmd.ErrOrStderr())
	defer closeAll()
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%w: nothing was, it was still being prepared", errInterrupted)
		}
		return err
	}
	t := turnsOf(o.duration, o.slice, len(sides), o.maxInFlight)
	r := &report{Doorload: 1, Mode: l.mode, StartedAt: time.Now().UTC(), Plan: o.plan(l.mode, t)}
	ownBefore, start := ownTime(), time.Now()
	if err := t.take(ctx, sides); err != nil {
		return err
	}
	requests := 0
	for _, s := range sides {
		requests += s.tally.Sent
	}
	r.Client = clientOf(ownTime()-ownBefore, time.Since(start), requests)
	r.Interrupted = ctx.Err() != nil
	r.compare(sides)
	return o.finish(cmd.OutOrStdout(), r)
}

// compare fills in what the sides did. Where there are three they are in the
// order baseline, target, baseline again, and the target is compared with both
// halves of the baseline: what drifts during a round cancels out.
func (r *report) compare(sides []*side) {
	if len(sides) == 1 {
		r.Target = sides[0].report()
		return
	}
	bare, target, again := sides[0], sides[1], sides[2]
	r.Target, r.Baseline, r.Again = target.report(), bare.report(), again.report()
	r.Ratio, r.SelfCheck = ratioOf(target, bare.with(again)), ratioOf(again, bare)
	counts := r.SelfCheck.holds()
	r.Counts = &counts
}

// finish writes the report, and returns why the run is not a good one.
func (o *options) finish(out io.Writer, r *report) error {
	r.Missed = o.missed(r)
	if err := r.write(out, o.json); err != nil {
		return err
	}
	switch {
	case r.Interrupted:
		return errInterrupted
	case r.Target != nil && r.Target.Right == 0:
		return errors.New("not one request was answered as it should be")
	case r.Revoke != nil && r.Revoke.Refused.N == 0:
		return errors.New("not one session was seen to end")
	case len(r.Missed) > 0:
		return fmt.Errorf("%d of the thresholds given were missed", len(r.Missed))
	}
	return nil
}

// sides makes those that take turns, warm and ready.
func (o *options) sides(ctx context.Context, base string, l load, errs io.Writer) (list []*side, closeAll func(), err error) {
	var closers []func()
	closeAll = func() {
		for _, c := range closers {
			c()
		}
	}
	add := func(base, cookie string, pid int, target bool) (*side, error) {
		d, err := openDoor(base, cookie, o.maxInFlight, o.timeout, o.anywhere)
		if err != nil {
			return nil, err
		}
		closers = append(closers, d.close)
		shoot, err := l.ready(ctx, d, target)
		if err != nil {
			return nil, err
		}
		s := &side{door: d, shoot: shoot, seed: o.seed, pid: pid, record: newRecorder()}
		s.plan, err = newSchedule(o.arrivals, o.rate, o.requests, o.seed)
		if err != nil {
			return nil, err
		}
		warm, err := newSchedule(o.arrivals, o.rate, o.requests, ^o.seed)
		if err != nil {
			return nil, err
		}
		s.warm(ctx, warm, o.warmup, o.maxInFlight)
		return s, ctx.Err()
	}
	target, err := add(base, o.cookie, o.serverPID, true)
	if err != nil {
		return nil, closeAll, err
	}
	if o.baseline == "" {
		return []*side{target}, closeAll, nil
	}
	at, pid := o.baseline, o.baselinePID
	if at == builtIn {
		var stop func()
		if at, pid, stop, err = startBaseline(); err != nil {
			return nil, closeAll, err
		}
		closers = append(closers, stop)
	}
	bare, err := add(at, baselineCookie, pid, false)
	if err != nil {
		return nil, closeAll, err
	}
	again := *bare
	again.record, again.seed = newRecorder(), o.seed+1
	again.plan, err = newSchedule(o.arrivals, o.rate, o.requests, again.seed)
	return []*side{bare, target, &again}, closeAll, err
}
