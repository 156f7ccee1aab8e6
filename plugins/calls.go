package plugins

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/time/rate"

	"github.com/doorward/doorward/plugins/egress"
	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/sdk/abi"
)

// hostCalls answers the granted functions of one call, within its grants and
// budgets.
type hostCalls struct {
	host    *Host
	tenant  string
	version Version
	kv      KV
	offline bool  // http_fetch reaches nothing
	tape    *tape // nil: http_fetch is the host's
	now     time.Time

	made      []HostCall
	notes     []LogLine // what the tenant should know of them
	passwords int
	kvs       int
	fetches   int
	secrets   [][]byte // handed out or handed in: they must not come back in a log
}

// typed are the credential's texts and numbers, at any depth, but for the user's
// name.
func typed(c abi.Credential) (secrets [][]byte) {
	for field, value := range c {
		if field != "username" {
			secrets = append(secrets, textsOf(value)...)
		}
	}
	return secrets
}

func textsOf(value any) (texts [][]byte) {
	switch v := value.(type) {
	case string:
		return [][]byte{[]byte(v)}
	case float64:
		return [][]byte{strconv.AppendFloat(nil, v, 'f', -1, 64)}
	case map[string]any:
		for _, member := range v {
			texts = append(texts, textsOf(member)...)
		}
	case []any:
		for _, item := range v {
			texts = append(texts, textsOf(item)...)
		}
	}
	return texts
}

// arity is how many arguments each function has. A worker that was taken over
// may send any number.
var arity = map[string]int{
	abi.FuncConfigGet: 1, abi.FuncSecretGet: 1, abi.FuncSecretHMAC: 3, abi.FuncHash: 2, abi.FuncHMAC: 3, abi.FuncSigVerify: 4,
	abi.FuncPasswordHash: 1, abi.FuncPasswordVerify: 2, abi.FuncTOTPVerify: 2,
	abi.FuncKVGet: 2, abi.FuncKVPut: 4, abi.FuncKVIncr: 4, abi.FuncKVCAS: 5, abi.FuncHTTPFetch: 1,
}

// outcomes are the names of the abi's errors.
var outcomes = map[int32]string{
	abi.ErrInvalid: "invalid", abi.ErrNotFound: "not_found", abi.ErrNotGranted: "not_granted", abi.ErrBusy: "busy",
	abi.ErrTooLarge: "too_large", abi.ErrTimeout: "timeout", abi.ErrQuota: "quota", abi.ErrUpstream: "upstream",
	abi.ErrUnsupported: "unsupported", abi.ErrInternal: "internal", abi.ErrNotDuringInit: "not_during_init",
}

// answer checks what is common to all functions, and charges the call, before
// anything is done for it.
func (c *hostCalls) answer(ctx context.Context, name string, args [][]byte) (int32, []byte) {
	if len(c.made) >= abi.MaxHostCalls {
		return abi.ErrQuota, nil
	}
	began := time.Now()
	code, result := int32(abi.ErrUnsupported), []byte(nil)
	tooLarge := slices.ContainsFunc(args, func(a []byte) bool { return len(a) > abi.MaxArgument })
	switch want, known := arity[name]; {
	case !known || len(args) != want:
		name = "unknown" // a name of a worker's own making has no place in a trace
	case tooLarge:
		code = abi.ErrTooLarge
	default:
		code, result = c.do(ctx, name, args)
	}
	made := HostCall{Name: name, Result: int(code), Outcome: outcomes[code], DurationMS: float64(time.Since(began).Microseconds()) / 1000}
	if code >= 0 {
		made.Outcome = "ok"
	}
	if code >= 0 && result != nil {
		made.Result = len(result)
	}
	c.made = append(c.made, made)
	return code, result
}

func (c *hostCalls) do(ctx context.Context, name string, args [][]byte) (int32, []byte) {
	grants := c.version.Grants
	switch name {
	case abi.FuncConfigGet:
		if !grants.Config {
			return abi.ErrNotGranted, nil
		}
		value, ok, err := c.host.settings.Config(ctx, c.tenant, string(args[0]))
		return c.found(plainText(value), ok, err)

	case abi.FuncSecretGet:
		value, ok, code := c.secret(ctx, args[0])
		if code != 0 {
			return code, nil
		}
		return c.found(value, ok, nil)

	case abi.FuncSecretHMAC:
		value, ok, code := c.secret(ctx, args[0])
		switch {
		case code != 0:
			return code, nil
		case !ok:
			return abi.ErrNotFound, nil
		}
		return mac(sandbox.Number(args[1]), value, args[2])

	case abi.FuncHash:
		if !grants.Hash {
			return abi.ErrNotGranted, nil
		}
		return digest(sandbox.Number(args[0]), args[1])

	case abi.FuncHMAC:
		if !grants.HMAC {
			return abi.ErrNotGranted, nil
		}
		c.hide(args[1])
		return mac(sandbox.Number(args[0]), args[1], args[2])

	case abi.FuncSigVerify:
		if !grants.SigVerify {
			return abi.ErrNotGranted, nil
		}
		return verifySignature(sandbox.Number(args[0]), args[1], args[2], args[3]), nil

	case abi.FuncPasswordHash, abi.FuncPasswordVerify:
		return c.password(ctx, name, args)

	case abi.FuncTOTPVerify:
		if !grants.TOTP {
			return abi.ErrNotGranted, nil
		}
		c.hide(args[0])
		return c.totpVerify(ctx, string(args[0]), string(args[1])), nil

	case abi.FuncHTTPFetch:
		return c.fetch(ctx, args[0])
	}
	return c.keyValue(ctx, name, args)
}

// secret looks up a secret that the version was granted. What is looked up is
// struck out of its logs, also where the guest does not get it.
func (c *hostCalls) secret(ctx context.Context, name []byte) (value []byte, ok bool, code int32) {
	if !slices.Contains(c.version.Grants.Secrets, string(name)) {
		return nil, false, abi.ErrNotGranted
	}
	value, ok, err := c.host.settings.Secret(ctx, c.tenant, string(name))
	if err != nil {
		code, _ = c.found(nil, false, err)
		return nil, false, code
	}
	if ok {
		c.hide(value)
	}
	return value, ok, 0
}

func (c *hostCalls) password(ctx context.Context, name string, args [][]byte) (int32, []byte) {
	if c.passwords++; c.passwords > abi.MaxPasswordCalls {
		return abi.ErrQuota, nil
	}
	granted := c.version.Grants.Password
	if len(granted) == 0 {
		return abi.ErrNotGranted, nil
	}
	if name == abi.FuncPasswordVerify {
		return c.host.costs.verifyPassword(ctx, granted, c.tenant, c.version.Digest, string(args[0]), args[1]), nil
	}
	if len(args[0]) > abi.MaxPassword {
		return abi.ErrTooLarge, nil
	}
	if hash := hashPassword(ctx, c.tenant, args[0]); hash != nil {
		return 0, hash
	}
	return abi.ErrTimeout, nil
}

// keyValue answers kv_get, kv_put, kv_incr and kv_cas.
func (c *hostCalls) keyValue(ctx context.Context, name string, args [][]byte) (int32, []byte) {
	if c.kvs++; c.kvs > abi.MaxKVCalls {
		return abi.ErrQuota, nil
	}
	grant := c.version.Grants.KV
	if grant == nil || !slices.Contains(grant.Namespaces, string(args[0])) {
		return abi.ErrNotGranted, nil
	}
	if len(args[1]) > abi.MaxKVKey {
		return abi.ErrTooLarge, nil
	}
	slot := Slot{Tenant: c.tenant, Verifier: c.version.Name, Namespace: string(args[0]), Key: string(args[1])}
	if name == abi.FuncKVGet {
		value, err := c.kv.Get(ctx, slot)
		if err != nil {
			return c.trouble(ctx, name, err), nil
		}
		return c.found(value, value != nil, nil)
	}
	seconds := sandbox.Number(args[len(args)-1])
	if seconds == 0 {
		seconds = abi.MaxKVTTL
	}
	value := args[len(args)-2]
	switch {
	case seconds < 0 || seconds > abi.MaxKVTTL:
		return abi.ErrInvalid, nil
	case name != abi.FuncKVIncr && len(value) > abi.MaxKVValue:
		return abi.ErrTooLarge, nil
	case !c.host.mayWrite(c.tenant):
		c.note("%s: more than %d writes a second", name, abi.MaxKVWrites)
		return abi.ErrBusy, nil
	}
	ttl := time.Duration(seconds) * time.Second
	var n int64
	var err error
	switch name {
	case abi.FuncKVPut:
		err = c.kv.Put(ctx, slot, value, ttl)
	case abi.FuncKVIncr:
		n, err = c.kv.Incr(ctx, slot, sandbox.Number(value), ttl)
	case abi.FuncKVCAS:
		var done bool
		if done, err = c.kv.Swap(ctx, slot, args[2], value, ttl); done {
			n = 1
		}
	}
	if err != nil {
		return c.trouble(ctx, name, err), nil
	}
	return int32(n), nil
}

// fetch answers http_fetch.
func (c *hostCalls) fetch(ctx context.Context, text []byte) (int32, []byte) {
	grant := c.version.Grants.HTTP
	if grant == nil {
		return abi.ErrNotGranted, nil
	}
	if c.fetches++; c.fetches > fetchBudget(grant) {
		return abi.ErrQuota, nil
	}
	var ask abi.HTTPRequest
	if err := json.Unmarshal(text, &ask); err != nil || ask.Body != "" && ask.BodyBase64 != nil {
		c.note("%s: the request is not an HTTPRequest as JSON", abi.FuncHTTPFetch)
		return abi.ErrInvalid, nil
	}
	body := ask.BodyBase64
	if ask.Body != "" {
		body = []byte(ask.Body)
	}
	switch {
	case c.offline:
		c.note("%s: vectors run without a network", abi.FuncHTTPFetch)
		return abi.ErrUpstream, nil
	case c.tape == nil && c.host.settings.Egress == nil:
		return abi.ErrUnsupported, nil
	}
	got, err := c.send(ctx, grant.Hosts, egress.Request{Method: ask.Method, URL: ask.URL, Headers: ask.Headers, Body: body})
	if err != nil {
		return c.trouble(ctx, abi.FuncHTTPFetch, err), nil
	}
	out, err := json.Marshal(published(got))
	if err != nil {
		return c.trouble(ctx, abi.FuncHTTPFetch, err), nil
	}
	return 0, out
}

// send makes a request, or has a tape answer it.
func (c *hostCalls) send(ctx context.Context, hosts []string, r egress.Request) (egress.Response, error) {
	if c.tape != nil {
		return c.tape.answer(ctx, c.tenant, hosts, r)
	}
	return c.host.settings.Egress.Do(ctx, c.tenant, hosts, r)
}

// published is an answer as a guest gets it.
func published(r egress.Response) abi.HTTPResponse {
	answer := abi.HTTPResponse{Status: r.Status, Headers: r.Headers}
	if utf8.Valid(r.Body) {
		answer.Body = string(r.Body)
	} else {
		answer.BodyBase64 = r.Body
	}
	return answer
}

func fetchBudget(grant *abi.HTTPGrant) int {
	if grant.MaxCalls == 0 {
		return abi.DefaultHTTPCalls
	}
	return grant.MaxCalls
}

// trouble is the abi number of an error. The tenant's log has its reason where
// that is the tenant's to mend, the server's where it is the operator's.
func (c *hostCalls) trouble(ctx context.Context, name string, err error) int32 {
	var where *egress.AddressError
	if errors.As(err, &where) {
		c.host.log.Warn("verifier led to an address that is out of reach", "tenant", c.tenant, "version", c.version.Number, "host", where.Host, "address", where.Address.String())
	}
	for _, known := range []struct {
		err  error
		code int32
	}{
		{ErrInvalid, abi.ErrInvalid}, {ErrQuota, abi.ErrQuota},
		{egress.ErrRequest, abi.ErrInvalid}, {egress.ErrForbidden, abi.ErrNotGranted}, {egress.ErrBusy, abi.ErrBusy},
		{egress.ErrTooLarge, abi.ErrTooLarge}, {egress.ErrTimeout, abi.ErrTimeout}, {egress.ErrUpstream, abi.ErrUpstream},
	} {
		if errors.Is(err, known.err) {
			c.note("%s: %s", name, err)
			return known.code
		}
	}
	if ctx.Err() != nil {
		return abi.ErrTimeout
	}
	c.host.log.Warn("host function failed", "function", name, "tenant", c.tenant, "err", err)
	return abi.ErrInternal
}

// note has the tenant's log say what a number does not.
func (c *hostCalls) note(format string, args ...any) {
	c.notes = append(c.notes, LogLine{Level: "warn", Text: clean(fmt.Sprintf(format, args...))})
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

// hide has a secret struck out of the texts of this call, also line by line: a
// key of many lines is printed as so many.
func (c *hostCalls) hide(secret []byte) {
	c.secrets = append(c.secrets, secret)
	if lines := bytes.FieldsFunc(secret, func(r rune) bool { return r == '\n' || r == '\r' }); len(lines) > 1 {
		c.secrets = append(c.secrets, lines...)
	}
}

// redact takes what the user typed, and the secrets that this call had to do
// with, out of a text: as they are, as a log shows them, and as JSON has them,
// because guests print requests. It is there against mistakes. A guest that
// wants to can tell a secret in two lines or in base64.
func (c *hostCalls) redact(text string) string {
	longest := slices.SortedFunc(slices.Values(c.secrets), func(a, b []byte) int { return len(b) - len(a) })
	for _, secret := range longest { // one may begin another, whose rest would stay
		if len(secret) < 4 { // those would blot out everything
			break
		}
		for _, as := range []string{string(secret), sandbox.Escape(string(secret)), quoted(string(secret))} {
			text = strings.ReplaceAll(text, as, "redacted")
		}
	}
	return text
}

// quoted is how a text stands in JSON that a log shows.
func quoted(text string) string {
	out, err := jsontext.AppendQuote(nil, text)
	if err != nil { // no UTF-8
		return text
	}
	return sandbox.Escape(string(out[1 : len(out)-1]))
}

// mayWrite charges a tenant for one write to the key-value store. Its verifiers
// may write so often on each node: etcd is everybody's.
func (h *Host) mayWrite(tenant string) bool {
	h.writesMu.Lock()
	defer h.writesMu.Unlock()
	limit := h.writes[tenant]
	if limit == nil {
		if h.writes == nil || len(h.writes) >= maxRemembered {
			h.writes = map[string]*rate.Limiter{}
		}
		limit = rate.NewLimiter(abi.MaxKVWrites, abi.MaxKVWrites)
		h.writes[tenant] = limit
	}
	return limit.Allow()
}
