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
	// HTTPRequest is what Fetch sends.
	HTTPRequest = abi.HTTPRequest
	// HTTPResponse is what Fetch returns.
	HTTPResponse = abi.HTTPResponse
)

// Why a host function gave nothing.
var (
	ErrInvalid    = errors.New("not valid")
	ErrNotFound   = errors.New("not found")
	ErrNotGranted = errors.New("not granted; ask for it in the manifest")
	ErrBusy       = errors.New("busy; worth another try later")
	ErrTooLarge   = errors.New("too large")
	ErrTimeout    = errors.New("out of time")
	ErrQuota      = errors.New("over the limit for one login, or for the tenant")
	ErrUpstream   = errors.New("no answer from there; the tenant's log says why")
	ErrHost       = errors.New("host error")
)

// byNumber are the contract's numbers with an error of their own.
var byNumber = map[int32]error{
	abi.ErrInvalid: ErrInvalid, abi.ErrNotFound: ErrNotFound, abi.ErrNotGranted: ErrNotGranted, abi.ErrBusy: ErrBusy,
	abi.ErrTooLarge: ErrTooLarge, abi.ErrTimeout: ErrTimeout, abi.ErrQuota: ErrQuota, abi.ErrUpstream: ErrUpstream,
}

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
// as long. Where the host could not check, it ends the login as Fail does: the
// password was not wrong.
func VerifyPassword(hash, password string) bool {
	switch n := hostPasswordVerify([]byte(hash), []byte(password)); n {
	case 0, 1:
		return n == 1
	case abi.ErrInvalid, abi.ErrTooLarge, abi.ErrUnsupported: // nobody has such a password, or hash
		return false
	default:
		_, err := result(nil, n)
		Fail("the password was not checked: %v", err)
		return false
	}
}

// CheckPassword is VerifyPassword that tells "no" from "not checked": with an error
// (a hash of a kind that is not read, dearer than is allowed, or no turn in time)
// nothing is known of the password. End the login with Fail then.
func CheckPassword(hash, password string) (bool, error) {
	return yes(hostPasswordVerify([]byte(hash), []byte(password)))
}

// HashPassword returns a new hash of a password, argon2id in PHC form.
func HashPassword(password string) (string, error) {
	value, err := result(hostPasswordHash([]byte(password)))
	return string(value), err
}

// VerifyTOTP checks a one-time code from an authenticator app (six digits, a new
// one every 30 seconds) against the app's secret in base32. A code that was right
// once is not right again, whoever brings it. An error is no answer: end the login
// with Fail, so that the user is asked to try again and not told "wrong".
func VerifyTOTP(secret, code string) (bool, error) {
	return yes(hostTOTPVerify([]byte(secret), []byte(code)))
}

// Hash returns the digest of data by one of abi's Alg numbers, computed by the
// host: many times faster than here.
func Hash(alg int, data []byte) ([]byte, error) { return result(hostHash(int32(alg), data)) }

// HMAC returns the authentication code of data under a key, by one of abi's Alg
// numbers.
func HMAC(alg int, key, data []byte) ([]byte, error) {
	return result(hostHMAC(int32(alg), key, data))
}

// SecretHMAC is HMAC under one of the secrets that the manifest names, which
// never gets here.
func SecretHMAC(name string, alg int, data []byte) ([]byte, error) {
	return result(hostSecretHMAC([]byte(name), int32(alg), data))
}

// VerifySignature checks a signature by one of abi's Sig numbers. key is a public
// key in PEM or DER.
func VerifySignature(alg int, key, message, signature []byte) (bool, error) {
	return yes(hostSigVerify(int32(alg), key, message, signature))
}

// KVGet returns what is kept under a key, or ErrNotFound. Other verifiers, and
// other tenants', have keys of their own.
func KVGet(namespace, key string) (string, error) {
	value, err := result(hostKVGet([]byte(namespace), []byte(key)))
	return string(value), err
}

// KVPut keeps a value for so many seconds; 0 is as long as there is. An empty
// value removes what was kept.
func KVPut(namespace, key, value string, seconds int) error {
	_, err := result(nil, hostKVPut([]byte(namespace), []byte(key), []byte(value), int32(seconds)))
	return err
}

// KVIncr adds to a count and returns the sum. Seconds count from when there was
// none: "five tries in 15 minutes" is KVIncr("tries", user, 1, 900) > 5.
func KVIncr(namespace, key string, by, seconds int) (int, error) {
	n := hostKVIncr([]byte(namespace), []byte(key), int32(by), int32(seconds))
	_, err := result(nil, n)
	return max(0, int(n)), err
}

// KVSwap keeps value if old is what is kept, and reports whether it was. An empty
// old is for nothing kept: of many logins that try, one gets true.
func KVSwap(namespace, key, old, value string, seconds int) (bool, error) {
	return yes(hostKVCAS([]byte(namespace), []byte(key), []byte(old), []byte(value), int32(seconds)))
}

// Fetch makes a request to one of the hosts that the manifest names, by https. A
// redirect is an answer like any other.
func Fetch(r HTTPRequest) (HTTPResponse, error) {
	var answer HTTPResponse
	text, err := result(hostHTTPFetch(encode(r)))
	if err == nil {
		err = json.Unmarshal(text, &answer)
	}
	return answer, err
}

// Fail ends this login without a verdict: the user is asked to try again later,
// and the tenant's log says why. It does not return.
func Fail(format string, args ...any) { hostFail(fmt.Sprintf(format, args...)) }

// Logf writes a line to the tenant's log.
func Logf(format string, args ...any) { hostLog(1, []byte(fmt.Sprintf(format, args...))) }

// result makes Go's errors of the contract's numbers.
func result(value []byte, code int32) ([]byte, error) {
	if code >= 0 {
		return value, nil
	}
	if err, ok := byNumber[code]; ok {
		return nil, err
	}
	return nil, fmt.Errorf("%w %d", ErrHost, code)
}

// yes is result for functions that answer 1 or 0.
func yes(code int32) (bool, error) {
	_, err := result(nil, code)
	return code == 1, err
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
