package plugins

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/doorward/doorward/plugins/egress"
	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/sdk/abi"
)

// Settings is what there is for verifiers outside of them.
type Settings struct {
	// Config and Secret give a verifier its tenant's configuration and secrets, as
	// they are at this moment. The second result is false when there is no such
	// key.
	Config func(ctx context.Context, tenant, key string) (json.RawMessage, bool, error)
	Secret func(ctx context.Context, tenant, name string) ([]byte, bool, error)

	KV     KV             // nil: in this process's memory
	Egress *egress.Client // nil: http_fetch is not supported
}

// Host runs verifiers: it puts a request to a module in the sandbox, answers
// what the module asks for within its grants, and checks its answer.
type Host struct {
	pool     *sandbox.Pool
	settings Settings
	log      *slog.Logger
	logs     *logRings
	costs    costliest

	writesMu sync.Mutex
	writes   map[string]*rate.Limiter // to KV, by tenant
}

// NewHost returns a Host over a running pool. A nil log discards.
func NewHost(pool *sandbox.Pool, settings Settings, log *slog.Logger) *Host {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if settings.KV == nil {
		settings.KV = NewMemoryKV(0)
	}
	return &Host{pool: pool, settings: settings, log: log, logs: newLogRings(keepBytes)}
}

// module gives a module's bytes, when a worker lacks them.
type module = func(context.Context) ([]byte, error)

// verify gets a checked verdict from a version, or an error that wraps
// ErrVerifier and whose reason only the tenant's log has in full. ErrMethod when
// the version takes no logins of that kind.
func (h *Host) verify(ctx context.Context, tenant string, v Version, request abi.Request, code module) (abi.Verdict, error) {
	if !v.takes(request.Method) {
		return abi.Verdict{}, ErrMethod
	}
	trace := h.run(ctx, &hostCalls{host: h, tenant: tenant, version: v, kv: h.settings.KV}, request, code)
	for _, line := range trace.Logs {
		h.logs.add(tenant, LogEntry{Version: v.Number, Level: line.Level, Text: line.Text, RequestID: request.RequestID})
	}
	if trace.failure != nil {
		return abi.Verdict{}, h.broken(tenant, v, request.RequestID, trace.failure)
	}
	if d := trace.Verdict.Detail; trace.Verdict.Decision == abi.Reject && d != "" {
		h.logs.add(tenant, LogEntry{Version: v.Number, Level: "info", Text: "reject: " + clean(d), RequestID: request.RequestID})
	}
	return *trace.Verdict, nil
}

// broken notes for the tenant why there is no verdict. The error goes to the
// server's log, so it has no word that a guest chose: that could be a password.
func (h *Host) broken(tenant string, v Version, requestID string, why error) error {
	h.logs.add(tenant, LogEntry{Version: v.Number, Level: "error", Text: why.Error(), RequestID: requestID})
	switch {
	case errors.Is(why, sandbox.ErrBusy):
		return fmt.Errorf("%w: %w", ErrBusy, why)
	case errors.Is(why, ErrTooLarge):
		return why
	case errors.Is(why, ErrUnavailable), errors.Is(why, ErrNotFound):
		return fmt.Errorf("%w: version %d: %w", ErrVerifier, v.Number, why)
	}
	return fmt.Errorf("%w: version %d, tenant %s; the tenant's log says why", ErrVerifier, v.Number, tenant)
}

// trace runs a version and shows all it did. What it remembers is forgotten.
func (h *Host) trace(ctx context.Context, tenant string, v Version, request abi.Request, code module) (Trace, error) {
	if !v.takes(request.Method) { // as a login does
		return Trace{Error: fmt.Sprintf("%v: %q is none of %q", ErrMethod, request.Method, v.Methods), HostCalls: []HostCall{}, Logs: []LogLine{}}, nil
	}
	t := h.run(ctx, &hostCalls{host: h, tenant: tenant, version: v, kv: NewMemoryKV(0)}, request, code)
	if errors.Is(t.failure, sandbox.ErrBusy) {
		return Trace{}, fmt.Errorf("%w: %w", ErrBusy, t.failure)
	}
	return t.Trace, nil
}

// outcome is a Trace with its error as an error.
type outcome struct {
	Trace
	failure error
}

// run puts one request to the version of calls, which answers what it asks for.
func (h *Host) run(ctx context.Context, calls *hostCalls, request abi.Request, code module) outcome {
	out := outcome{Trace: Trace{HostCalls: []HostCall{}, Logs: []LogLine{}}}
	input, err := encodeRequest(request)
	if err != nil {
		out.failure, out.Error = err, err.Error()
		return out
	}
	calls.secrets = typed(request.Credential)
	if calls.now = time.Now(); request.NowMS != 0 {
		calls.now = time.UnixMilli(request.NowMS)
	}
	v := calls.version
	result, err := h.pool.Call(ctx, sandbox.Call{
		Tenant: calls.tenant, Digest: v.Digest, Profile: v.Profile, Input: input,
		Wall: time.Duration(v.Limits.WallMS) * time.Millisecond, MemoryMiB: v.Limits.MemoryMiB,
		CPU: time.Duration(cmp.Or(v.Limits.CPUMS, abi.DefaultCPUMS)) * time.Millisecond, // 0: from before it was counted
		Now: calls.now, Module: code, Host: calls.answer,
	})
	out.DurationMS = float64(result.Duration.Microseconds()) / 1000
	out.MemoryKiB = result.MemoryKiB
	out.Fuel = result.Fuel
	out.HostCalls = append(out.HostCalls, calls.made...)
	for _, line := range result.Logs[:min(len(result.Logs), abi.MaxLogLines+1)] { // the last says how many more there were
		text := sandbox.Escape(line.Text) // again: a worker that was taken over sends what it likes
		out.Logs = append(out.Logs, LogLine{Level: levelName(line.Level), Text: calls.redact(text)})
	}
	for _, note := range calls.notes {
		out.Logs = append(out.Logs, LogLine{Level: note.Level, Text: calls.redact(note.Text)})
	}
	if err == nil {
		var verdict abi.Verdict
		var unknown []string
		verdict, unknown, err = readAnswer(result.Output)
		if len(unknown) > 0 {
			out.Logs = append(out.Logs, LogLine{Level: "warn", Text: fmt.Sprintf("members of the answer that are not known here: %q", unknown)})
		}
		if err == nil {
			verdict.Detail = calls.redact(verdict.Detail)
			out.Decision, out.Verdict = verdict.Decision, &verdict
		}
	}
	if err != nil {
		out.Error = calls.redact(sandbox.Escape(err.Error()))
		out.failure = &told{out.Error, err}
	}
	return out
}

// told is an error in the words that may be told of it.
type told struct {
	text string
	is   error
}

func (t *told) Error() string { return t.text }
func (t *told) Unwrap() error { return t.is }

// encodeRequest is the request as a guest reads it, or ErrTooLarge. Nothing is
// escaped but what JSON wants escaped: six bytes for each '<' would make a
// password that the login took too large here.
func encodeRequest(request abi.Request) ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(request); err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	input := bytes.TrimSuffix(out.Bytes(), []byte("\n"))
	if len(input) > abi.MaxInput {
		return nil, fmt.Errorf("%w: the request has %d bytes; %d are the limit", ErrTooLarge, len(input), abi.MaxInput)
	}
	return input, nil
}

func levelName(level int) string {
	return []string{"debug", "info", "warn", "error"}[min(max(level, 0), 3)]
}

// warm has a worker load a version before its first login.
func (h *Host) warm(ctx context.Context, tenant string, v Version, artifacts Artifacts) error {
	return h.pool.Warm(ctx, sandbox.Call{
		Tenant: tenant, Digest: v.Digest, Profile: v.Profile, MemoryMiB: v.Limits.MemoryMiB,
		Module: func(ctx context.Context) ([]byte, error) { return artifacts.Module(ctx, v.Digest) },
	})
}

// forget drops what is remembered of a tenant.
func (h *Host) forget(tenant string) { h.logs.forget(tenant) }

// vectors runs a version's examples in the real sandbox and tallies them.
// ErrBusy when one found no worker: that says nothing about the version, unless
// others failed before it, whose fault it may be then.
func (h *Host) vectors(ctx context.Context, tenant string, v *Version, code []byte, vectors []abi.Vector) error {
	v.Engine = sandbox.Engine()
	for i, vector := range vectors {
		if vector.Request.ABI == 0 {
			vector.Request.ABI = abi.Version
		}
		calls := &hostCalls{host: h, tenant: tenant, version: *v, kv: NewMemoryKV(0), offline: true}
		out := h.run(ctx, calls, vector.Request, func(context.Context) ([]byte, error) { return code, nil })
		if errors.Is(out.failure, sandbox.ErrBusy) && v.Vectors.Failed == 0 {
			return fmt.Errorf("%w: run vector %d: %w", ErrBusy, i+1, out.failure)
		}
		if why := mismatch(vector.Expect, out); why != "" {
			v.Vectors.Failed++
			v.Vectors.Failures = append(v.Vectors.Failures, VectorFailure{Vector: i + 1, Name: clean(vector.Name), Why: clean(why)})
			v.Warnings = append(v.Warnings, clean(fmt.Sprintf("vector %d %q failed: %s", i+1, vector.Name, why)))
			continue
		}
		v.Vectors.Passed++
	}
	return nil
}

// mismatch says how an outcome is not what a vector expects, "" when it is.
// Members that the vector leaves out may be anything.
func mismatch(want abi.Verdict, out outcome) string {
	if out.failure != nil {
		return out.Error
	}
	got := *out.Verdict
	switch {
	case want.Decision != "" && got.Decision != want.Decision:
		return fmt.Sprintf("decision is %q, not %q", got.Decision, want.Decision)
	case want.Subject != "" && got.Subject != want.Subject:
		return fmt.Sprintf("subject is %q, not %q", got.Subject, want.Subject)
	case want.Code != "" && got.Code != want.Code:
		return fmt.Sprintf("code is %q, not %q", got.Code, want.Code)
	case want.Type != "" && got.Type != want.Type:
		return fmt.Sprintf("type is %q, not %q", got.Type, want.Type)
	}
	return ""
}

// clean makes a guest's text one printable line of bounded length.
func clean(text string) string {
	out := []rune{}
	for _, r := range text {
		if len(out) == 500 {
			break
		}
		if !printable(string(r)) {
			r = '·'
		}
		out = append(out, r)
	}
	return string(out)
}
