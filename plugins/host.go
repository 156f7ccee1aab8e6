package plugins

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/sdk/abi"
)

// Settings gives a verifier its tenant's configuration and secrets, as they are
// at this moment. The second result is false when there is no such key.
type Settings struct {
	Config func(ctx context.Context, tenant, key string) (json.RawMessage, bool, error)
	Secret func(ctx context.Context, tenant, name string) ([]byte, bool, error)
}

// Host runs verifiers: it puts a request to a module in the sandbox, answers
// what the module asks for within its grants, and checks its answer.
type Host struct {
	pool     *sandbox.Pool
	settings Settings
	log      *slog.Logger
	logs     *logRings
	costs    costliest
}

// NewHost returns a Host over a running pool. A nil log discards.
func NewHost(pool *sandbox.Pool, settings Settings, log *slog.Logger) *Host {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Host{pool: pool, settings: settings, log: log, logs: newLogRings()}
}

// module gives a module's bytes, when a worker lacks them.
type module = func(context.Context) ([]byte, error)

// verify gets a checked verdict from a version, or an error that wraps
// ErrVerifier and whose reason only the tenant's log has in full.
func (h *Host) verify(ctx context.Context, tenant string, v Version, request abi.Request, bytes module) (abi.Verdict, error) {
	if len(v.Methods) > 0 && !slices.Contains(v.Methods, request.Method) {
		return abi.Verdict{}, h.broken(tenant, v, errors.New("its manifest does not list the login's method"))
	}
	trace := h.run(ctx, tenant, v, request, bytes)
	for _, line := range trace.Logs {
		h.logs.add(tenant, LogEntry{Time: time.Now().UTC(), Version: v.Number, Level: line.Level, Text: line.Text, RequestID: request.RequestID})
	}
	if trace.failure != nil {
		return abi.Verdict{}, h.broken(tenant, v, trace.failure)
	}
	if d := trace.Verdict.Detail; trace.Verdict.Decision == abi.Reject && d != "" {
		h.logs.add(tenant, LogEntry{Time: time.Now().UTC(), Version: v.Number, Level: "info", Text: "reject: " + clean(d), RequestID: request.RequestID})
	}
	return *trace.Verdict, nil
}

// broken notes for the tenant why there is no verdict.
func (h *Host) broken(tenant string, v Version, why error) error {
	h.logs.add(tenant, LogEntry{Time: time.Now().UTC(), Version: v.Number, Level: "error", Text: why.Error()})
	if errors.Is(why, sandbox.ErrBusy) {
		return fmt.Errorf("%w: %w", ErrBusy, why)
	}
	return fmt.Errorf("%w: version %d: %w", ErrVerifier, v.Number, why)
}

// trace runs a version and shows all it did.
func (h *Host) trace(ctx context.Context, tenant string, v Version, request abi.Request, bytes module) (Trace, error) {
	t := h.run(ctx, tenant, v, request, bytes)
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

// run puts one request to one version.
func (h *Host) run(ctx context.Context, tenant string, v Version, request abi.Request, bytes module) outcome {
	out := outcome{Trace: Trace{HostCalls: []HostCall{}, Logs: []LogLine{}}}
	input, err := json.Marshal(request)
	if err == nil && len(input) > abi.MaxInput {
		err = fmt.Errorf("the request has %d bytes; %d are the limit", len(input), abi.MaxInput)
	}
	if err != nil {
		out.failure, out.Error = err, err.Error()
		return out
	}
	calls := &hostCalls{host: h, tenant: tenant, version: v}
	result, err := h.pool.Call(ctx, sandbox.Call{
		Tenant: tenant, Digest: v.Digest, Profile: v.Profile, Input: input,
		Wall: time.Duration(v.Limits.WallMS) * time.Millisecond, MemoryMiB: v.Limits.MemoryMiB,
		CPU:    time.Duration(cmp.Or(v.Limits.CPUMS, abi.DefaultCPUMS)) * time.Millisecond, // 0: from before it was counted
		Module: bytes, Host: calls.answer,
	})
	out.DurationMS = float64(result.Duration.Microseconds()) / 1000
	out.MemoryKiB = result.MemoryKiB
	out.Fuel = result.Fuel
	out.HostCalls = append(out.HostCalls, calls.made...)
	for _, line := range result.Logs {
		out.Logs = append(out.Logs, LogLine{Level: levelName(line.Level), Text: calls.redact(line.Text)})
	}
	if err == nil {
		var verdict abi.Verdict
		var unknown []string
		verdict, unknown, err = readAnswer(result.Output)
		if len(unknown) > 0 {
			out.Logs = append(out.Logs, LogLine{Level: "warn", Text: fmt.Sprintf("members of the answer that are not known here: %q", unknown)})
		}
		if err == nil {
			out.Decision, out.Verdict = verdict.Decision, &verdict
		}
	}
	if err != nil {
		out.failure, out.Error = err, calls.redact(err.Error())
		if calls.redact(err.Error()) != err.Error() {
			out.failure = errors.New(out.Error)
		}
	}
	return out
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

// hostCalls answers the granted functions of one call, within its grants and
// budgets.
type hostCalls struct {
	host      *Host
	tenant    string
	version   Version
	made      []HostCall
	passwords int
	secrets   [][]byte // handed out: they must not come back in a log
}

func (c *hostCalls) answer(ctx context.Context, name string, args [][]byte) (int32, []byte) {
	began := time.Now()
	code, result := c.do(ctx, name, args)
	made := HostCall{Name: name, Result: int(code), DurationMS: float64(time.Since(began).Microseconds()) / 1000}
	if code >= 0 && result != nil {
		made.Result = len(result)
	}
	c.made = append(c.made, made)
	return code, result
}

func (c *hostCalls) do(ctx context.Context, name string, args [][]byte) (int32, []byte) {
	grants := c.version.Grants
	switch {
	case name == abi.FuncConfigGet && len(args) == 1:
		if !grants.Config {
			return abi.ErrNotGranted, nil
		}
		value, ok, err := c.host.settings.Config(ctx, c.tenant, string(args[0]))
		return c.found(plainText(value), ok, err)

	case name == abi.FuncSecretGet && len(args) == 1:
		if !slices.Contains(grants.Secrets, string(args[0])) {
			return abi.ErrNotGranted, nil
		}
		value, ok, err := c.host.settings.Secret(ctx, c.tenant, string(args[0]))
		if ok {
			c.secrets = append(c.secrets, value)
		}
		return c.found(value, ok, err)

	case name == abi.FuncPasswordVerify && len(args) == 2:
		if c.passwords++; c.passwords > abi.MaxPasswordCalls {
			return abi.ErrQuota, nil
		}
		if len(grants.Password) == 0 {
			return abi.ErrNotGranted, nil
		}
		return c.host.costs.verifyPassword(ctx, grants.Password, c.version.Digest, string(args[0]), args[1]), nil

	case name == abi.FuncPasswordHash && len(args) == 1:
		if c.passwords++; c.passwords > abi.MaxPasswordCalls {
			return abi.ErrQuota, nil
		}
		if len(grants.Password) == 0 {
			return abi.ErrNotGranted, nil
		}
		if hash := hashPassword(ctx, args[0]); hash != nil {
			return 0, hash
		}
		return abi.ErrTimeout, nil
	}
	return abi.ErrUnsupported, nil
}

// found is what the guest gets of a value that was looked up.
func (c *hostCalls) found(value []byte, ok bool, err error) (int32, []byte) {
	switch {
	case err != nil:
		c.host.log.Warn("verifier's settings not read", "tenant", c.tenant, "err", err)
		return abi.ErrInternal, nil
	case !ok:
		return abi.ErrNotFound, nil
	}
	return 0, append([]byte{}, value...) // never nil: an empty value is one
}

// plainText is a configuration value as a guest gets it: a JSON string as its
// text, anything else as JSON.
func plainText(value json.RawMessage) []byte {
	var text string
	if bytes.HasPrefix(bytes.TrimSpace(value), []byte(`"`)) && json.Unmarshal(value, &text) == nil {
		return []byte(text)
	}
	return value
}

// redact takes the secrets that this call was given out of a text.
func (c *hostCalls) redact(text string) string {
	for _, secret := range c.secrets {
		if len(secret) >= 4 { // shorter ones would blot out everything
			text = string(bytes.ReplaceAll([]byte(text), secret, []byte("redacted")))
		}
	}
	return text
}

// vectors runs a version's examples in the real sandbox and tallies them.
func (h *Host) vectors(ctx context.Context, tenant string, v *Version, code []byte, vectors []abi.Vector) {
	for i, vector := range vectors {
		if vector.Request.ABI == 0 {
			vector.Request.ABI = abi.Version
		}
		out := h.run(ctx, tenant, *v, vector.Request, func(context.Context) ([]byte, error) { return code, nil })
		if why := mismatch(vector.Expect, out); why != "" {
			v.Vectors.Failed++
			v.Warnings = append(v.Warnings, fmt.Sprintf("vector %d %q failed: %s", i+1, vector.Name, why))
			continue
		}
		v.Vectors.Passed++
	}
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

// LogEntry is one line of a tenant's log.
type LogEntry struct {
	Time      time.Time `json:"time"`
	Version   int       `json:"version"`
	Level     string    `json:"level"`
	Text      string    `json:"text"`
	RequestID string    `json:"request_id,omitempty"`
}

// Bounds of the tenants' logs on one node.
const (
	keepEntries = 200
	keepTenants = 10_000
)

// logRings keep the last lines of each tenant.
type logRings struct {
	mu    sync.Mutex
	rings map[string][]LogEntry
}

func newLogRings() *logRings { return &logRings{rings: map[string][]LogEntry{}} }

func (l *logRings) add(tenant string, e LogEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ring, ok := l.rings[tenant]
	if !ok && len(l.rings) >= keepTenants {
		return
	}
	if len(ring) >= keepEntries {
		ring = slices.Delete(ring, 0, len(ring)-keepEntries+1)
	}
	l.rings[tenant] = append(ring, e)
}

func (l *logRings) of(tenant string) []LogEntry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]LogEntry{}, l.rings[tenant]...)
}

func (l *logRings) forget(tenant string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.rings, tenant)
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
