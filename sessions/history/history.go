// Package history says whether what clients saw of sessions, all at once and
// with some answers missing, can have happened one after another.
//
// The one idea: a session is absent, then live under a version of its token
// until a deadline, then over for good. A history is right when every answer
// can be given a moment, between its question and itself, such that each is
// what such a session would have said. An answer from a copy may be as much
// older as copies may be.
//
// It knows neither Manager nor HTTP: tests of both record here. Idle time is
// not in the model, so the sessions of a history must not be idle that long.
package history

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// Kind is what was asked for.
type Kind string

// The kinds of questions. A create that was not answered is no part of a
// history: nobody knows its token.
const (
	Create Kind = "create"
	Find   Kind = "find"
	Rotate Kind = "rotate"
	Revoke Kind = "revoke"
)

// Outcome is what was answered.
type Outcome string

// The outcomes. Unknown is an error, or no answer at all: a write may have been
// made, also later.
const (
	Yes     Outcome = "yes"
	No      Outcome = "no"
	Unknown Outcome = "unknown"
)

// Op is one question and its answer.
type Op struct {
	Session  string // any name that tells sessions apart
	Kind     Kind
	Token    int // version of the token it was asked with, as Version tells; unused for Revoke
	Got      int // of Rotate: version of the token it was answered with
	Outcome  Outcome
	Deadline time.Time     // of Create: when the session ends by itself
	Stale    time.Duration // of Find: how old what was answered from may have been when it was asked
	Start    time.Time
	End      time.Time
}

func (o Op) String() string {
	return fmt.Sprintf("%s..%s %s token %d: %s, token %d", o.Start.Format("05.000000"), o.End.Format("05.000000"), o.Kind, o.Token, o.Outcome, o.Got)
}

// History is what clients saw. The zero value is ready; it may be written by
// many at once.
type History struct {
	Grace time.Duration // how long a token that was rotated away is good

	mu     sync.Mutex
	ops    map[string][]Op
	tokens map[string][]string
}

// Version numbers the tokens of a session from 0 on, in the order in which
// they become known. That is the order of their making: who rotates a token
// knows it.
func (h *History) Version(session, token string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tokens == nil {
		h.tokens = map[string][]string{}
	}
	known := h.tokens[session]
	if i := slices.Index(known, token); i >= 0 {
		return i
	}
	h.tokens[session] = append(known, token)
	return len(known)
}

// Add records one question and its answer.
func (h *History) Add(op Op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ops == nil {
		h.ops = map[string][]Op{}
	}
	h.ops[op.Session] = append(h.ops[op.Session], op)
}

// Count tells how many answers of that kind there are.
func (h *History) Count(kind Kind, outcome Outcome) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, ops := range h.ops {
		for _, op := range ops {
			if op.Kind == kind && op.Outcome == outcome {
				n++
			}
		}
	}
	return n
}

// Check returns nil when every session's history can have happened, and
// otherwise the first that cannot, or one that took longer than limit to
// decide.
func (h *History) Check(limit time.Duration) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	model := h.model()
	for session, ops := range h.ops {
		result := porcupine.CheckOperationsTimeout(model, h.operations(ops), limit)
		if result == porcupine.Ok {
			continue
		}
		slices.SortFunc(ops, func(a, b Op) int { return a.Start.Compare(b.Start) })
		var text strings.Builder
		for _, op := range ops {
			fmt.Fprintf(&text, "\n  %v", op)
		}
		return fmt.Errorf("session %s: the history is %s:%s", session, strings.ToLower(string(result)), text.String())
	}
	return nil
}

// operations puts ops on one time line. What was not answered may happen until
// the end, and what a copy answered may have been so before it was asked.
func (h *History) operations(ops []Op) []porcupine.Operation {
	zero, end := ops[0].Start, ops[0].End
	for _, op := range ops {
		if op.Start.Before(zero) {
			zero = op.Start
		}
		if op.End.After(end) {
			end = op.End
		}
	}
	var list []porcupine.Operation
	for i, op := range ops {
		call, back := op.Start, op.End
		switch {
		case op.Outcome == Unknown && op.Kind == Find && end.Sub(zero) < h.Grace:
			continue // it says nothing, and no token is old enough for it to end the session
		case op.Outcome == Unknown:
			back = end.Add(time.Hour)
		case op.Kind == Find && op.Outcome == Yes:
			call = call.Add(-op.Stale)
		}
		list = append(list, porcupine.Operation{ClientId: i, Input: op, Call: call.Sub(zero).Nanoseconds(), Return: back.Sub(zero).Nanoseconds()})
	}
	return list
}

// state is a session at one moment.
type state struct {
	phase    string   // absent, live or revoked
	version  int      // of its current token
	deadline int64    // Unix nanoseconds
	rotated  [2]int64 // when the last rotation began and ended, likewise
}

const (
	absent  = "absent"
	alive   = "live"
	revoked = "revoked"
)

func (h *History) model() porcupine.Model {
	nondeterministic := porcupine.NondeterministicModel{
		Init: func() []any { return []any{state{phase: absent}} },
		Step: func(s, input, _ any) []any {
			var next []any
			for _, n := range h.step(s.(state), input.(Op)) {
				next = append(next, n)
			}
			return next
		},
	}
	return nondeterministic.ToModel()
}

// step is every state that s may be in after op, none when op cannot have been
// answered so.
func (h *History) step(s state, op Op) []state {
	over := s
	over.phase = revoked
	switch op.Kind {
	case Create:
		if s.phase != absent {
			return nil
		}
		return []state{{phase: alive, deadline: op.Deadline.UnixNano()}}
	case Revoke:
		if op.Outcome == Unknown {
			return []state{s, over}
		}
		return []state{over} // whether there was something to end is not told
	}
	if op.Token > s.version {
		return nil // a token that is yet to be made
	}
	began, ended, grace := op.Start.UnixNano(), op.End.UnixNano(), h.Grace.Nanoseconds()
	old := op.Token < s.version
	older := op.Token < s.version-1 // when that was rotated is no longer known
	mayLive := s.phase == alive && began < s.deadline && (!old || began < s.rotated[1]+grace)
	spent := older || old && ended >= s.rotated[0]+grace
	mayNot := s.phase != alive || ended >= s.deadline || spent
	rotated := state{phase: alive, version: s.version + 1, deadline: s.deadline, rotated: [2]int64{began, ended}}
	switch op.Outcome {
	case Unknown:
		next := []state{s}
		if spent {
			next = append(next, over) // the use of an old token ends its session
		}
		if op.Kind == Rotate && mayLive && !old {
			rotated.rotated[1] = math.MaxInt64 / 2 // whenever
			next = append(next, rotated)
		}
		return next
	case No:
		switch {
		case !mayNot:
			return nil
		case spent && (older || ended >= s.deadline):
			return []state{s, over}
		case spent:
			return []state{over}
		}
		return []state{s}
	}
	switch {
	case !mayLive:
		return nil
	case op.Kind == Find:
		return []state{s}
	case old && op.Got == s.version:
		return []state{s}
	case !old && op.Got == s.version+1:
		return []state{rotated}
	}
	return nil
}
