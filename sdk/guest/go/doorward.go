package doorward

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/doorward/doorward/sdk/abi"
)

// What a verifier meets, by short names.
type (
	// Request is what is asked: who wants to sign in, with what.
	Request = abi.Request
	// Verdict is the answer; Accept, Reject and Challenge make one.
	Verdict = abi.Verdict
	// Credential is what the user typed, by field.
	Credential = abi.Credential
)

// Why a host function gave nothing.
var (
	ErrNotFound   = errors.New("not found")
	ErrNotGranted = errors.New("not granted; ask for it in the manifest")
	ErrHost       = errors.New("host error")
)

// handler is what Handle was given.
var handler func(*Request) Verdict

// Handle names the function that decides. Call it once, in init.
func Handle(verify func(*Request) Verdict) { handler = verify }

// Accept signs subject in. methods are RFC 8176 names of how it was proven,
// such as "pwd" and "otp".
func Accept(subject string, methods ...string) Verdict {
	return Verdict{Decision: abi.Accept, Subject: subject, AMR: methods}
}

// AcceptWith is Accept with claims about the subject: anything that JSON makes
// an object of.
func AcceptWith(subject string, claims any, methods ...string) Verdict {
	v := Accept(subject, methods...)
	v.Claims = encode(claims)
	return v
}

// Reject refuses the credential. The user sees one neutral sentence whatever the
// reason.
func Reject() Verdict { return Verdict{Decision: abi.Reject, Code: abi.BadCredentials} }

// RejectWith is Reject with one of abi's codes and a reason for the tenant's
// log.
func RejectWith(code, detail string) Verdict {
	return Verdict{Decision: abi.Reject, Code: code, Detail: detail}
}

// Challenge asks for a second step, "otp" or "custom". The user's client sees
// public; private comes back in Request.State with the answer, and nobody else
// sees it.
func Challenge(kind string, public, private any) Verdict {
	return Verdict{Decision: abi.Challenge, Type: kind, Public: encode(public), Private: encode(private)}
}

// State reads what Challenge was given as private. It reports false when r is
// a first step.
func State(r *Request, private any) bool {
	return len(r.State) > 0 && json.Unmarshal(r.State, private) == nil
}

// encode makes JSON of what a verifier hands over; nothing of nil. What cannot
// be JSON is a mistake in the verifier, and ends it.
func encode(v any) json.RawMessage {
	if v == nil {
		return nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		panic("doorward: not JSON: " + err.Error())
	}
	return text
}

// Config returns a value of the tenant's configuration: a JSON string as its
// text, anything else as JSON. ErrNotFound when there is none by that key.
func Config(key string) (string, error) {
	value, err := result(hostConfigGet([]byte(key)))
	return string(value), err
}

// Secret returns one of the secrets that the manifest names. Do not log it: the
// host takes it out of what you do.
func Secret(name string) (string, error) {
	value, err := result(hostSecretGet([]byte(name)))
	return string(value), err
}

// VerifyPassword checks a password against a hash: argon2, bcrypt, scrypt,
// PBKDF2, SHA-crypt, apr1 and {SHA}. The host does the work. For a user who
// does not exist, call it with "" as the hash: it is always false, and takes
// as long.
func VerifyPassword(hash, password string) bool {
	return hostPasswordVerify([]byte(hash), []byte(password)) == 1
}

// HashPassword returns a new hash of a password, argon2id in PHC form.
func HashPassword(password string) (string, error) {
	value, err := result(hostPasswordHash([]byte(password)))
	return string(value), err
}

// Logf writes a line to the tenant's log.
func Logf(format string, args ...any) { hostLog(1, []byte(fmt.Sprintf(format, args...))) }

// result makes Go's errors of the contract's numbers.
func result(value []byte, code int32) ([]byte, error) {
	switch {
	case code >= 0:
		return value, nil
	case code == abi.ErrNotFound:
		return nil, ErrNotFound
	case code == abi.ErrNotGranted:
		return nil, ErrNotGranted
	}
	return nil, fmt.Errorf("%w %d", ErrHost, code)
}

// decide reads a request, asks the handler, and writes its verdict.
func decide(input []byte) ([]byte, error) {
	if handler == nil {
		return nil, errors.New("no handler: call doorward.Handle in init")
	}
	var r Request
	if err := json.Unmarshal(input, &r); err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	return json.Marshal(handler(&r))
}
