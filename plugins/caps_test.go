package plugins

import (
	"context"
	"runtime"
	"strings"
	"testing"

	"github.com/doorward/doorward/sdk/abi"
)

// A hash that the decoder reads otherwise than the caps did once asked for
// four billion rounds, or for a key of a thousand blocks: hours that nothing
// ends, on a core of the server.
func TestAHashIsRefusedBeforeItsWorkBegins(t *testing.T) {
	key86 := strings.Repeat("x", 86)
	for name, c := range map[string]struct {
		hash string
		want int32
	}{
		"two rounds":        {"$6$rounds=5000,rounds=4294967295$salt$" + key86, abi.ErrUnsupported},
		"signed rounds":     {"$6$rounds=+500001$salt$" + key86, abi.ErrUnsupported},
		"too many rounds":   {"$6$rounds=500001$salt$" + key86, abi.ErrTooLarge},
		"long salt":         {"$6$" + strings.Repeat("s", 17) + "$" + key86, abi.ErrUnsupported},
		"long pbkdf2 key":   {"$pbkdf2-sha1$1500000$c2FsdA$" + strings.Repeat("A", 87), abi.ErrUnsupported},
		"a long text":       {"$pbkdf2-sha1$1500000$" + strings.Repeat("A", 60<<10) + "$AAAA", abi.ErrTooLarge},
		"argon2 and more":   {"$argon2id$v=19$m=8,t=1,p=1$c2FsdA$AAAA$m=999999999", abi.ErrUnsupported},
		"bcrypt over 13":    {"$2b$14$9f4OgbPDbdXu.Vy7BR0taOjmnlwKkdCmZdYWd7K0jzUadHSOwTgZG", abi.ErrTooLarge},
		"an honest one":     {"$6$rounds=500000$salt$" + key86, 0},
		"an honest default": {"$5$saltsalt$" + strings.Repeat("x", 43), 0},
	} {
		if _, got := examine(c.hash); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	var costs costliest
	if got := costs.verifyPassword(t.Context(), []string{"*"}, "a", "sha256:1", "$5$saltsalt$"+strings.Repeat("x", 43), make([]byte, abi.MaxPassword+1)); got != abi.ErrTooLarge {
		t.Errorf("a long password: %d, want %d", got, abi.ErrTooLarge)
	}
}

// Ready-made verifiers are one module for many tenants. What an unknown user
// costs was once the dearest hash of all of them, which told one tenant's
// users from nobody.
func TestWhatAnUnknownUserCostsIsTheTenantsOwn(t *testing.T) {
	const cheap, dear = "$2b$04$9f4OgbPDbdXu.Vy7BR0taOjmnlwKkdCmZdYWd7K0jzUadHSOwTgZG", "$2b$05$9f4OgbPDbdXu.Vy7BR0taOjmnlwKkdCmZdYWd7K0jzUadHSOwTgZG"
	var costs costliest
	for tenant, hash := range map[string]string{"a": cheap, "b": dear} {
		if got := costs.verifyPassword(t.Context(), []string{"*"}, tenant, "sha256:1", hash, []byte("x")); got != 0 {
			t.Fatalf("%s: %d", tenant, got)
		}
	}
	if got := costs.of("a/sha256:1"); got != cheap {
		t.Errorf("tenant a's unknown users cost %s, want its own %s", got, cheap)
	}
}

// One tenant's checks once took every turn there was, and the others' waited
// behind all of them until their wall limit.
func TestOneTenantsChecksLeaveATurnToOthers(t *testing.T) {
	const hash = "$2b$04$9f4OgbPDbdXu.Vy7BR0taOjmnlwKkdCmZdYWd7K0jzUadHSOwTgZG"
	for range runtime.NumCPU() {
		if err := hashing.Take(t.Context(), "busy"); err != nil {
			t.Fatal(err)
		}
		defer hashing.Give("busy")
	}
	var costs costliest
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if got := costs.verifyPassword(ended, []string{"*"}, "busy", "sha256:1", hash, []byte("x")); got != abi.ErrTimeout {
		t.Errorf("one more of the busy tenant: %d, want %d", got, abi.ErrTimeout)
	}
	if got := costs.verifyPassword(t.Context(), []string{"*"}, "other", "sha256:1", hash, []byte("x")); got != 0 {
		t.Errorf("another tenant: %d, want 0", got)
	}
}
