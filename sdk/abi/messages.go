package abi

import "encoding/json"

// Request is what a verifier is asked. Fields are only ever added.
type Request struct {
	ABI        int             `json:"abi"`             // Version
	Tenant     string          `json:"tenant"`          // the tenant's id, as in its URLs
	Method     string          `json:"method"`          // "password" unless the caller named another
	RequestID  string          `json:"request_id"`      // for the verifier's log
	Attempt    int             `json:"attempt"`         // 1, or which answer to a challenge this is
	Credential Credential      `json:"credential"`      // what the user typed; for a challenge, the answer
	Client     Client          `json:"client"`          //
	State      json.RawMessage `json:"state,omitempty"` // the private part of the challenge being answered
	NowMS      int64           `json:"now_ms"`          // Unix milliseconds
}

// Client says who is asking, as far as the host knows and trusts it.
type Client struct {
	IP        string `json:"ip,omitempty"`
	UserAgent string `json:"user_agent,omitempty"`
	App       string `json:"app,omitempty"`
}

// Credential holds the fields of one credential by name. It prints as
// "redacted": its values are secrets.
type Credential map[string]any

// String implements fmt.Stringer and shows nothing.
func (Credential) String() string { return "redacted" }

// GoString implements fmt.GoStringer and shows nothing.
func (Credential) GoString() string { return "redacted" }

// Text returns the field as a string, or "" when it is absent or not a string.
func (c Credential) Text(field string) string {
	s, _ := c[field].(string)
	return s
}

// Decision is what a verifier decided.
type Decision string

// The three decisions there are.
const (
	Accept    Decision = "accept"
	Reject    Decision = "reject"
	Challenge Decision = "challenge"
)

// Codes of a rejection. The end user always sees one neutral text; the code
// is for the tenant's log.
const (
	BadCredentials = "bad_credentials"
	Locked         = "locked"
	Expired        = "expired"
	Denied         = "denied"
)

// Verdict is a verifier's answer. Which fields count depends on Decision:
// Subject, Claims and AMR for accept; Code and Detail for reject; the rest for
// challenge.
type Verdict struct {
	Decision Decision `json:"decision"`

	Subject string          `json:"subject,omitempty"` // 1 to MaxSubject printable characters
	Claims  json.RawMessage `json:"claims,omitempty"`  // a JSON object of at most MaxClaims bytes
	AMR     []string        `json:"amr,omitempty"`     // RFC 8176 method names, e.g. "pwd", "otp"

	Code   string `json:"code,omitempty"`
	Detail string `json:"detail,omitempty"` // for the tenant's log only

	Type        string          `json:"type,omitempty"`         // "otp" or "custom"
	Public      json.RawMessage `json:"public,omitempty"`       // shown to the client
	Private     json.RawMessage `json:"private,omitempty"`      // sealed by the host, back in Request.State
	TTL         int             `json:"ttl,omitempty"`          // seconds; DefaultTTL when 0
	MaxAttempts int             `json:"max_attempts,omitempty"` // DefaultAttempts when 0
}

// Manifest describes a module: what it is, what it wants, and examples it must
// pass. It travels in the custom section ManifestSection or beside the upload.
type Manifest struct {
	ABI     int      `json:"abi"`
	Name    string   `json:"name,omitempty"`
	Version string   `json:"version,omitempty"`
	Methods []string `json:"methods,omitempty"` // empty means any
	Grants  Grants   `json:"grants,omitzero"`
	Limits  Limits   `json:"limits,omitzero"`
	Vectors []Vector `json:"vectors,omitempty"`
}

// ManifestSection is the name of the custom section that holds a Manifest.
const ManifestSection = "doorward.manifest"

// Grants are the abilities a module asks for. The zero value asks for none.
type Grants struct {
	Config    bool       `json:"config,omitempty"`
	Hash      bool       `json:"hash,omitempty"`
	HMAC      bool       `json:"hmac,omitempty"`
	SigVerify bool       `json:"sig_verify,omitempty"`
	TOTP      bool       `json:"totp,omitempty"`
	Secrets   []string   `json:"secrets,omitempty"`  // names, for secret_get and secret_hmac
	Password  []string   `json:"password,omitempty"` // schemes; "*" is every one
	HTTP      *HTTPGrant `json:"http,omitempty"`
	KV        *KVGrant   `json:"kv,omitempty"`
}

// HTTPGrant bounds outbound requests.
type HTTPGrant struct {
	Hosts    []string `json:"hosts"`               // exact host:port, in lower case; no wildcards
	MaxCalls int      `json:"max_calls,omitempty"` // a login; DefaultHTTPCalls when 0
}

// HTTPRequest is what http_fetch takes, as JSON. The host sets what concerns the
// connection (Host, Content-Length, Accept-Encoding and their like).
type HTTPRequest struct {
	Method     string            `json:"method,omitempty"` // GET, HEAD, POST, PUT, PATCH or DELETE; GET when left out
	URL        string            `json:"url"`              // https, to one of the granted hosts; port 443 when left out
	Headers    map[string]string `json:"headers,omitempty"`
	Body       string            `json:"body,omitempty"`
	BodyBase64 []byte            `json:"body_base64,omitempty"` // instead of Body, for what is not text
}

// HTTPResponse is what http_fetch gives, as JSON, whatever the status: a
// redirect is not followed.
type HTTPResponse struct {
	Status     int                 `json:"status"`
	Headers    map[string][]string `json:"headers"`               // names in lower case
	Body       string              `json:"body,omitempty"`        // when it is UTF-8
	BodyBase64 []byte              `json:"body_base64,omitempty"` // when it is not
}

// KVGrant names the key-value namespaces a module may use.
type KVGrant struct {
	Namespaces []string `json:"namespaces"`
}

// Limits lower or raise what one call may use, inside the operator's ceilings.
// Zero takes the default.
type Limits struct {
	WallMS    int `json:"wall_ms,omitempty"`
	CPUMS     int `json:"cpu_ms,omitempty"`
	MemoryMiB int `json:"memory_mib,omitempty"`
}

// Vector is an example that a module must pass before it may be activated.
// Members of Expect that are set must be equal in the answer.
type Vector struct {
	Name    string  `json:"name"`
	Request Request `json:"request"`
	Expect  Verdict `json:"expect"`
}
