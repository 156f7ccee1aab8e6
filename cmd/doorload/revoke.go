package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// revocation ends sessions at one node and asks another about them.
type revocation struct {
	at, other *door
	every     time.Duration // between the starts of two questions
	confirm   int           // how often it asks again after the first refusal
	tolerated time.Duration // an accept that starts later after the ack is an error
	giveUp    time.Duration

	mu         sync.Mutex
	refused    spread
	lastAccept spread
	seen       spread
	logout     spread
	report     revokeReport // the counts of it
	record     *recorder
}

func newRevocation() *revocation {
	return &revocation{refused: newSpread(), lastAccept: newSpread(), seen: newSpread(), logout: newSpread(), record: newRecorder()}
}

// revokeReport is what became of sessions that were ended. Times count from the
// ack: the moment that the answer to the DELETE had come.
type revokeReport struct {
	EndedAt      string        `json:"ended_at"`
	AskedAt      string        `json:"asked_at"`
	Seconds      float64       `json:"seconds"`
	Arrivals     tally         `json:"arrivals"`
	Refused      percentiles   `json:"ack_to_refused"`     // until the first 401 had come: not flattering
	LastAccept   percentiles   `json:"ack_to_last_accept"` // until the last 200 was asked for; of the sessions that had one after the ack
	Seen         percentiles   `json:"login_to_seen"`      // until the other node had answered its first 200
	Logout       percentiles   `json:"logout"`             // how long the DELETE took
	Accepts      int           `json:"accepts_after_ack"`  // 200s that were asked for after the ack
	ToleratedMS  int64         `json:"tolerated_ms"`
	LateAccepts  int           `json:"late_accepts"`      // those asked for later than that after the ack
	CameBack     int           `json:"accepts_after_401"` // 200s that were asked for after a 401 had come
	NeverRefused int           `json:"never_refused"`     // sessions given up on
	Undecided    int           `json:"undecided"`         // answers that were neither 200 nor 401 no_session
	Wrong        int           `json:"wrong"`             // late accepts, accepts after a 401, never refused, and answers to login and logout that were no success
	Answers      []answerCount `json:"answers"`
}

func revokeCommand() *cobra.Command {
	var o options
	var askAt string
	v := newRevocation()
	cmd := &cobra.Command{
		Use:   "revoke [flags] BASE",
		Short: "Measure how long a session outlives its end on another node",
		Long: "Each arrival signs in at BASE, asks --ask-at until it answers 200, ends the session\n" +
			"at BASE, and then asks --ask-at every millisecond until it answers 401, and some\n" +
			"times more. Without --ask-at it asks BASE, on other connections.",
		Args: oneTarget,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			if v.every <= 0 || v.confirm < 0 || v.tolerated < 0 || v.giveUp <= v.tolerated {
				return usagef("--every must be above 0, and --give-up above --late-after")
			}
			if askAt == "" {
				askAt = args[0]
			}
			password, err := o.password(cmd.InOrStdin())
			if err != nil {
				return err
			}
			if v.at, err = openDoor(args[0], o.cookie, o.maxInFlight, o.timeout, o.anywhere); err != nil {
				return err
			}
			defer v.at.close()
			if v.other, err = openDoor(askAt, o.cookie, o.maxInFlight, o.timeout, o.anywhere); err != nil {
				return err
			}
			defer v.other.close()
			plan, err := newSchedule(o.arrivals, o.rate, o.requests, o.seed)
			if err != nil {
				return usage(err)
			}
			r := &report{Doorload: 1, Mode: "revoke", StartedAt: time.Now().UTC(), Plan: o.plan("revoke", turnsOf(o.duration, 0, 1, o.maxInFlight))}
			ownBefore, start := ownTime(), time.Now()
			arrivals := fire(cmd.Context(), plan, 0, o.duration, o.maxInFlight, func(n int, _ time.Time) {
				v.end(cmd.Context(), o.user(n), password)
			})
			r.Revoke = v.result(arrivals, time.Since(start))
			requests := 0
			for _, a := range r.Revoke.Answers {
				requests += a.N
			}
			r.Client = clientOf(ownTime()-ownBefore, time.Since(start), requests)
			r.Interrupted = cmd.Context().Err() != nil
			return o.finish(cmd.OutOrStdout(), r)
		},
	}
	loadFlags(cmd, &o, 5)
	f := cmd.Flags()
	f.StringVar(&askAt, "ask-at", "", "`URL` of the other node")
	f.DurationVar(&v.every, "every", time.Millisecond, "how often to ask")
	f.IntVar(&v.confirm, "confirm", 20, "how often to ask again after the first 401")
	f.DurationVar(&v.tolerated, "late-after", 2*time.Second, "a 200 that is asked for later than this after the ack is an error")
	f.DurationVar(&v.giveUp, "give-up", 10*time.Second, "how long to wait for the first 200, and for the first 401")
	return cmd
}

// end takes one session through its life.
func (v *revocation) end(ctx context.Context, username string, password secret) {
	token, got := v.at.login(ctx, username, password)
	v.record.note(outcome{op: "login", answer: got, right: !token.IsZero()})
	if token.IsZero() {
		return
	}
	made := time.Now()
	ask := func() (started time.Time, got answer) {
		started = time.Now()
		return started, v.other.validate(ctx, token)
	}
	for {
		started, got := ask()
		if got.status == http.StatusOK {
			v.keep(func() { v.seen.add(time.Since(made)) })
			break
		}
		if time.Since(made) > v.giveUp {
			v.record.note(outcome{op: "seen", answer: got})
			return
		}
		pause(started.Add(v.every))
	}

	sent := time.Now()
	got = v.at.logout(ctx, token)
	ack := time.Now()
	v.record.note(outcome{op: "logout", answer: got, right: got.status == http.StatusNoContent})
	if got.status != http.StatusNoContent {
		return
	}
	v.keep(func() { v.logout.add(ack.Sub(sent)) })
	v.watch(ack, ask)
}

// watch asks about a session whose end was acknowledged then, until it has been
// refused and confirmed to be, or given up.
func (v *revocation) watch(ack time.Time, ask func() (time.Time, answer)) {
	var refused, accepted bool
	var last time.Duration
	for more := v.confirm; more >= 0; {
		started, got := ask()
		came, after := time.Since(ack), started.Sub(ack)
		// Not to decide is no error here: without a quorum it is what is promised.
		wrong := got.status == http.StatusOK && (refused || after > v.tolerated)
		v.record.note(outcome{op: "after ack", answer: got, right: !wrong})
		v.keep(func() {
			switch {
			case got.status == http.StatusOK:
				accepted, last = true, after
				v.report.Accepts++
				if after > v.tolerated {
					v.report.LateAccepts++
				}
				if refused {
					v.report.CameBack++
				}
			case got == answer{http.StatusUnauthorized, noSession}:
				if !refused {
					v.refused.add(came)
				}
				refused = true
			default:
				v.report.Undecided++
			}
		})
		if refused {
			more--
		}
		if !refused && came > v.giveUp {
			v.keep(func() { v.report.NeverRefused++ })
			break
		}
		pause(started.Add(v.every))
	}
	if accepted {
		v.keep(func() { v.lastAccept.add(last) })
	}
}

func (v *revocation) keep(add func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	add()
}

// pause waits until then. A session that has begun to end is followed to its end
// even when the run is interrupted; --give-up bounds it.
func pause(then time.Time) { sleepUntil(context.Background(), then) }

func (v *revocation) result(arrivals tally, elapsed time.Duration) *revokeReport {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.report
	r.EndedAt, r.AskedAt, r.Seconds, r.Arrivals = v.at.base, v.other.base, elapsed.Seconds(), arrivals
	r.Refused, r.LastAccept, r.Seen, r.Logout = v.refused.percentiles(), v.lastAccept.percentiles(), v.seen.percentiles(), v.logout.percentiles()
	r.ToleratedMS, r.Answers = v.tolerated.Milliseconds(), v.record.counts()
	r.Wrong = r.NeverRefused
	for _, a := range r.Answers {
		if !a.Right {
			r.Wrong += a.N
		}
	}
	return &r
}

func (r *revokeReport) print(w io.Writer) {
	fmt.Fprintf(w, "ended at  %s\nasked at  %s\n", r.EndedAt, r.AskedAt)
	fmt.Fprintf(w, "  arrivals\t%d due, %d begun, %d of them late (> %s), %d dropped\n", r.Arrivals.Due, r.Arrivals.Sent, r.Arrivals.Late, lateAfter, r.Arrivals.Dropped)
	fmt.Fprintf(w, "  login → seen\t%s\tuntil the first 200 had come\n", r.Seen)
	fmt.Fprintf(w, "  logout\t%s\thow long the ack took\n", r.Logout)
	fmt.Fprintf(w, "  ack → refused\t%s\tuntil the first 401 had come, %d sessions\n", r.Refused, r.Refused.N)
	if r.LastAccept.N > 0 {
		fmt.Fprintf(w, "  ack → last 200\t%s\twhen it was asked for, %d sessions\n", r.LastAccept, r.LastAccept.N)
	}
	fmt.Fprintf(w, "  after the ack\t%d accepts asked for, %d of them more than %s after; %d after a 401; %d never refused; %d undecided\n",
		r.Accepts, r.LateAccepts, time.Duration(r.ToleratedMS)*time.Millisecond, r.CameBack, r.NeverRefused, r.Undecided)
	printAnswers(w, r.Answers)
}
