//go:build !wasip1

package doorward

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"math"
	"os"
	"strconv"

	"github.com/doorward/doorward/sdk/abi"
)

// Fake answers for the host where there is none: in go test. Set what the
// verifier under test asks for.
var Fake struct {
	Config  map[string]string
	Secrets map[string]string

	// Password answers VerifyPassword for a hash that is not empty; nil compares
	// the two as they are.
	Password func(hash, password string) bool

	// TOTP answers VerifyTOTP; nil compares secret and code as they are, and
	// remembers no used codes.
	TOTP func(secret, code string) bool

	// Signature answers VerifySignature; nil compares message and signature as
	// they are.
	Signature func(alg int, key, message, signature []byte) bool

	// KV is what is kept, by namespace and key. A namespace that is not there is
	// not granted. Nothing ends.
	KV map[string]map[string]string

	// HTTP answers Fetch; nil grants no host. ErrUpstream and its like are handed
	// to the verifier.
	HTTP func(HTTPRequest) (HTTPResponse, error)
}

// Verify asks the handler as the host would, through JSON both ways, so that
// what a test sees is what a server would.
func Verify(request []byte) ([]byte, error) { return decide(request) }

func hostConfigGet(key []byte) ([]byte, int32)  { return lookUp(Fake.Config, string(key)) }
func hostSecretGet(name []byte) ([]byte, int32) { return lookUp(Fake.Secrets, string(name)) }

func lookUp(values map[string]string, key string) ([]byte, int32) {
	value, ok := values[key]
	if !ok {
		return nil, abi.ErrNotFound
	}
	return []byte(value), int32(len(value))
}

func hostPasswordHash(p []byte) ([]byte, int32) { return p, int32(len(p)) }

func hostPasswordVerify(hash, password []byte) int32 {
	match := Fake.Password
	if match == nil {
		match = func(hash, password string) bool { return hash == password }
	}
	if len(hash) > 0 && match(string(hash), string(password)) {
		return 1
	}
	return 0
}

func hostTOTPVerify(secret, code []byte) int32 {
	match := Fake.TOTP
	if match == nil {
		match = func(secret, code string) bool { return secret == code }
	}
	return number(match(string(secret), string(code)))
}

func hostSigVerify(alg int32, key, message, signature []byte) int32 {
	match := Fake.Signature
	if match == nil {
		match = func(_ int, _, message, signature []byte) bool { return bytes.Equal(message, signature) }
	}
	return number(match(int(alg), key, message, signature))
}

// digests are the contract's algorithms. Hashes are the real ones: there is one
// right answer.
var digests = map[int32]func() hash.Hash{abi.AlgSHA256: sha256.New, abi.AlgSHA384: sha512.New384, abi.AlgSHA512: sha512.New}

func hostHash(alg int32, data []byte) ([]byte, int32) {
	if digests[alg] == nil {
		return nil, abi.ErrUnsupported
	}
	h := digests[alg]()
	h.Write(data)
	return h.Sum(nil), int32(h.Size())
}

func hostHMAC(alg int32, key, data []byte) ([]byte, int32) {
	if digests[alg] == nil {
		return nil, abi.ErrUnsupported
	}
	h := hmac.New(digests[alg], key)
	h.Write(data)
	return h.Sum(nil), int32(h.Size())
}

func hostSecretHMAC(name []byte, alg int32, data []byte) ([]byte, int32) {
	key, ok := Fake.Secrets[string(name)]
	if !ok {
		return nil, abi.ErrNotFound
	}
	return hostHMAC(alg, []byte(key), data)
}

func hostKVGet(ns, key []byte) ([]byte, int32) {
	if Fake.KV[string(ns)] == nil {
		return nil, abi.ErrNotGranted
	}
	return lookUp(Fake.KV[string(ns)], string(key))
}

func hostKVPut(ns, key, value []byte, ttl int32) int32 {
	space := Fake.KV[string(ns)]
	switch {
	case space == nil:
		return abi.ErrNotGranted
	case ttl < 0 || ttl > abi.MaxKVTTL:
		return abi.ErrInvalid
	case len(key) > abi.MaxKVKey || len(value) > abi.MaxKVValue:
		return abi.ErrTooLarge
	}
	if len(value) == 0 {
		delete(space, string(key))
		return 0
	}
	space[string(key)] = string(value)
	return 0
}

func hostKVIncr(ns, key []byte, by, ttl int32) int32 {
	var n int64
	if text := Fake.KV[string(ns)][string(key)]; text != "" {
		var err error
		if n, err = strconv.ParseInt(text, 10, 32); err != nil {
			return abi.ErrInvalid
		}
	}
	if n += int64(by); n < 0 || n > math.MaxInt32 {
		return abi.ErrInvalid
	}
	if code := hostKVPut(ns, key, strconv.AppendInt(nil, n, 10), ttl); code != 0 {
		return code
	}
	return int32(n)
}

func hostKVCAS(ns, key, old, value []byte, ttl int32) int32 {
	if Fake.KV[string(ns)] != nil && Fake.KV[string(ns)][string(key)] != string(old) {
		return 0
	}
	if code := hostKVPut(ns, key, value, ttl); code != 0 {
		return code
	}
	return 1
}

func hostHTTPFetch(request []byte) ([]byte, int32) {
	var r HTTPRequest
	if Fake.HTTP == nil {
		return nil, abi.ErrNotGranted
	}
	if err := json.Unmarshal(request, &r); err != nil {
		return nil, abi.ErrInvalid
	}
	answer, err := Fake.HTTP(r)
	for code, known := range byNumber {
		if errors.Is(err, known) {
			return nil, code
		}
	}
	if err != nil {
		return nil, abi.ErrInternal
	}
	text := encode(answer)
	return text, int32(len(text))
}

func hostFail(why string) { panic("the verifier failed: " + why) }

func number(yes bool) int32 {
	if yes {
		return 1
	}
	return 0
}

func hostLog(level int32, text []byte) {
	fmt.Fprintf(os.Stderr, "verifier log %d: %s\n", level, text)
}
