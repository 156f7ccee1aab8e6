package plugins

import (
	"cmp"
	"context"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/doorward/doorward/plugins/egress"
	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/plugins/wasm"
	"github.com/doorward/doorward/sdk/abi"
)

// Rehearsal runs a module for its author: in the sandbox, under the limits and by
// the host functions that logins have, with what a scene says in the place of a
// tenant's settings. One goroutine uses it at a time.
type Rehearsal struct {
	// Record is what http_fetch reaches the network by, for scenes that are
	// recorded; nil: each is answered by what was recorded before.
	Record *egress.Client

	pool     *sandbox.Pool
	of       Examination
	names    map[int]string
	compiled time.Duration
}

// rehearsing is the tenant of a rehearsal, whose name requests have when they name
// none.
const rehearsing = "test"

// Rehearse compiles a module as an upload does, if pool has not done so before.
// ErrInvalid when the compiler refuses it, which then is the module's fault.
func Rehearse(ctx context.Context, pool *sandbox.Pool, e Examination) (*Rehearsal, error) {
	began := time.Now()
	if _, err := pool.Compile(ctx, rehearsing, e.Version.Digest, e.module); errors.Is(err, sandbox.ErrModule) {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	} else if err != nil {
		return nil, fmt.Errorf("compile module: %w", err)
	}
	return &Rehearsal{pool: pool, of: e, names: wasm.FunctionNames(e.module), compiled: time.Since(began)}, nil
}

// Compiled is how long it took to compile the module; next to nothing when the pool
// had done it before.
func (r *Rehearsal) Compiled() time.Duration { return r.compiled }

// Played is what came of a scene.
type Played struct {
	Name  string       `json:"name"`
	Steps []PlayedStep `json:"steps"`         // up to the first that failed
	Why   string       `json:"why,omitempty"` // it failed; "" when all was as expected
	Hint  string       `json:"hint,omitempty"`
	HTTP  []Exchange   `json:"-"` // what was recorded, if it was
}

// PlayedStep is what one step did.
type PlayedStep struct {
	Trace
	Stack []string `json:"stack,omitempty"` // functions, by name where the module has names; the innermost first
}

// Play runs a scene. An error is the machine's trouble, or that of ctx; what the
// guest did wrong is in Played.
func (r *Rehearsal) Play(ctx context.Context, suite Suite, scene Scene) (Played, error) {
	if scene.Config == nil {
		scene.Config = suite.Config
	}
	if scene.Secrets == nil {
		scene.Secrets = suite.Secrets
	}
	scene.NowMS = cmp.Or(scene.NowMS, suite.NowMS)
	host := NewHost(r.pool, scene.settings(), nil)
	calls := tape{exchanges: scene.HTTP, played: make([]bool, len(scene.HTTP)), network: r.Record}
	if r.Record != nil {
		calls.exchanges = nil
	}
	played := Played{Name: clean(scene.Name), Steps: []PlayedStep{}}
	var before abi.Request
	var state stdjson.RawMessage
	kv := NewMemoryKV(0)
	for i, step := range scene.steps() {
		request, expect, err := step.read()
		if err != nil {
			return played, fmt.Errorf("%w: vector %q: %w", ErrInvalid, scene.Name, err)
		}
		before = r.fill(request, before, state, scene.NowMS)
		out := host.run(ctx, &hostCalls{host: host, tenant: rehearsing, version: r.of.Version, kv: kv, tape: &calls, offline: scene.offline}, before, r.module)
		if errors.Is(out.failure, sandbox.ErrBusy) {
			return played, fmt.Errorf("%w: run vector %q: %w", ErrBusy, scene.Name, out.failure)
		}
		did := PlayedStep{Trace: out.Trace}
		did.Error, did.Stack = r.named(out.Error)
		played.Steps = append(played.Steps, did)
		if why := r.judge(step, expect, out, &calls); why != "" {
			if did.Error != "" && why == out.Error {
				why = did.Error
			}
			if len(scene.Steps) > 0 {
				why = fmt.Sprintf("step %d: %s", i+1, why)
			}
			played.Why, played.Hint = why, hintOf(did.Trace, why)
			break
		}
		if state = nil; out.Verdict != nil && out.Verdict.Decision == abi.Challenge {
			state = out.Verdict.Private
		}
	}
	if r.Record != nil {
		played.HTTP = calls.exchanges
	}
	return played, nil
}

// judge says how a step is not what is expected of it, "" when it is.
func (r *Rehearsal) judge(step Step, expect abi.Verdict, out outcome, calls *tape) string {
	switch {
	case len(calls.missing) > 0:
		return fmt.Sprintf("http_fetch asked for %s, and no answer to that is recorded", calls.missing[0])
	case step.Fails == "":
		return mismatch(expect, out)
	case out.failure == nil:
		return fmt.Sprintf("decision is %q; it should fail with %q", out.Decision, step.Fails)
	case !strings.Contains(out.Error, step.Fails):
		return out.Error
	}
	return ""
}

// fill gives a request what it leaves out, as a server would.
func (r *Rehearsal) fill(request, before abi.Request, state stdjson.RawMessage, now int64) abi.Request {
	method := "password"
	if len(r.of.Version.Methods) > 0 {
		method = r.of.Version.Methods[0]
	}
	request.ABI = cmp.Or(request.ABI, abi.Version)
	request.Tenant = cmp.Or(request.Tenant, rehearsing)
	request.Method = cmp.Or(request.Method, before.Method, method)
	request.RequestID = cmp.Or(request.RequestID, rehearsing)
	request.NowMS = cmp.Or(request.NowMS, now, time.Now().UnixMilli())
	if request.State == nil {
		request.State = state
	}
	if request.Attempt == 0 {
		request.Attempt = 1
		if before.State != nil { // another answer to the challenge
			request.Attempt = before.Attempt + 1
		}
	}
	return request
}

func (r *Rehearsal) module(context.Context) ([]byte, error) { return r.of.module, nil }

// settings are what a tenant with a scene's configuration and secrets has.
func (s Scene) settings() Settings {
	return Settings{
		Config: func(_ context.Context, _, key string) (stdjson.RawMessage, bool, error) {
			value, ok := s.Config[key]
			return value, ok, nil
		},
		Secret: func(_ context.Context, _, name string) ([]byte, bool, error) {
			value, ok := s.Secrets[name]
			return []byte(value), ok, nil
		},
	}
}

// named takes the stack out of a failure's text and gives its functions the names
// that the module has for them. A stack in which none has one tells nobody anything,
// and is left out: that of a script's engine, for one.
func (r *Rehearsal) named(text string) (what string, stack []string) {
	what, calls, found := strings.Cut(text, atStack)
	what = strings.TrimSpace(strings.ReplaceAll(what, `\n`, " ")) // escaped once, for a log
	if !found || !strings.Contains(calls, ".$") || len(r.names) == 0 {
		return what, nil
	}
	return what, strings.Split(nameCalls(calls, r.names), " < ")
}

// atStack stands in a failure's text before its stack, as package sandbox writes it.
const atStack = "; stack: "

// nameCalls gives the functions of a stack, which are numbers, the names that a
// module has for them.
func nameCalls(calls string, names map[int]string) string {
	list := strings.Split(calls, " < ")
	for i, call := range list {
		if n, ok := strings.CutPrefix(call, ".$"); ok {
			if index, err := strconv.Atoi(n); err == nil && names[index] != "" {
				call = names[index]
			}
		}
		list[i] = clean(strings.TrimPrefix(call, "."))
	}
	return strings.Join(list, " < ")
}

// nameStack is a failure's text with the names that its module has for the functions
// of the stack.
func nameStack(text string, module []byte) string {
	what, calls, found := strings.Cut(text, atStack)
	if !found {
		return text
	}
	return what + atStack + nameCalls(calls, wasm.FunctionNames(module))
}

// FuelLimit is what a call may use under limits that have no zero.
func FuelLimit(l abi.Limits) int64 { return int64(l.CPUMS) * wasm.FuelPerMillisecond }
