//go:build !wasip1

package doorward

import (
	"fmt"
	"os"

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

func hostLog(level int32, text []byte) {
	fmt.Fprintf(os.Stderr, "verifier log %d: %s\n", level, text)
}
