package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// shot is what one arrival does: one request, with whatever it draws from
// random, which depends on the seed and the arrival alone.
type shot func(ctx context.Context, random *rand.Rand) outcome

// side is one of those that take turns: the target, the baseline, and the
// baseline once more to be compared with itself.
type side struct {
	door     *door
	shoot    shot
	plan     *schedule
	seed     uint64
	pid      int // whose processor time to count; 0: nobody's
	record   *recorder
	tally    tally
	planned  time.Duration // how far the schedule's time has run
	elapsed  time.Duration // the clock's, with the waiting for the last answer
	used     time.Duration // of the process's, in this side's slices
	opened   int           // connections, likewise
	perRound []float64     // processor µs for each request sent, by round; 0 where none was
}

// turns is how the sides take them.
type turns struct {
	rounds   int
	slice    time.Duration
	inFlight int
}

// turnsOf divides duration among the sides in slices of about slice, in whole
// rounds, so that each gets the same.
func turnsOf(duration, slice time.Duration, sides, inFlight int) turns {
	if sides == 1 {
		return turns{rounds: 1, slice: duration, inFlight: inFlight}
	}
	rounds := max(1, int(duration/(slice*time.Duration(sides))))
	return turns{rounds: rounds, slice: duration / time.Duration(rounds*sides), inFlight: inFlight}
}

// take lets the sides take their turns until the rounds are over or ctx ends. A
// slice ends when its last request has been answered, so that no side works in
// another's time.
func (t turns) take(ctx context.Context, sides []*side) error {
	for range t.rounds {
		for _, s := range sides {
			if ctx.Err() != nil {
				return nil
			}
			if err := s.turn(ctx, t.slice, t.inFlight); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *side) turn(ctx context.Context, slice time.Duration, inFlight int) error {
	before, err := s.processTime()
	if err != nil {
		return err
	}
	opened, start := s.door.connections(), time.Now()
	got := fire(ctx, s.plan, s.planned, slice, inFlight, func(n int, due time.Time) {
		random := rand.New(rand.NewPCG(s.seed, uint64(n)+2)) // 1 is the schedule's
		sent := time.Now()
		o := s.shoot(ctx, random)
		s.record.add(o, due, sent, time.Now())
	})
	after, err := s.processTime()
	if err != nil {
		return fmt.Errorf("%w (did it end under the load?)", err)
	}
	s.planned += slice
	s.elapsed += time.Since(start)
	s.tally.add(got)
	s.opened += s.door.connections() - opened
	s.used += after - before
	s.perRound = append(s.perRound, over(float64((after-before).Microseconds()), float64(got.Sent)))
	return nil
}

func (s *side) processTime() (time.Duration, error) {
	if s.pid == 0 {
		return 0, nil
	}
	return processTime(s.pid)
}

// warm sends what the side's plan would send in that time, and forgets it.
func (s *side) warm(ctx context.Context, plan *schedule, d time.Duration, inFlight int) {
	fire(ctx, plan, 0, d, inFlight, func(n int, _ time.Time) {
		s.shoot(ctx, rand.New(rand.NewPCG(^s.seed, uint64(n))))
	})
}

// with is what s and t did together. Both have the same door and process.
func (s *side) with(t *side) *side {
	both := *s
	both.tally.add(t.tally)
	both.elapsed += t.elapsed
	both.used += t.used
	both.opened += t.opened
	both.record = newRecorder()
	both.record.merge(s.record)
	both.record.merge(t.record)
	both.perRound = nil
	for i := range min(len(s.perRound), len(t.perRound)) {
		both.perRound = append(both.perRound, (s.perRound[i]+t.perRound[i])/2)
	}
	return &both
}
