package plugins_test

import (
	"context"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/sdk/abi"
)

func bcryptOf(t testing.TB, password string, cost int) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), cost)
	if err != nil {
		t.Fatal(err)
	}
	return string(hash)
}

var every = []string{"*"}

// The hashes were made by other programs: openssl passwd, sha1sum and Python's
// hashlib.
func TestAPasswordIsHeldAgainstAHash(t *testing.T) {
	var p plugins.Passwords
	for name, c := range map[string]struct{ hash, password string }{
		"bcrypt":       {bcryptOf(t, "secret", 4), "secret"},
		"apr1":         {"$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/", "secret"},
		"sha1":         {"{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "secret"},
		"sha512-crypt": {"$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1", "Hello world!"},
		"sha256-crypt": {"$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5", "Hello world!"},
		"pbkdf2":       {"$pbkdf2-sha256$1000$c29tZXNhbHRzb21lc2FsdA$01iFt8dG8h9zRVyl.QZRZPdMIYH3LMEZL7wWXRnZLBY", "secret"},
		"scrypt":       {"$scrypt$ln=4,r=8,p=1$c29tZXNhbHRzb21lc2FsdA$DXH5cKwEiXm8cy91zYpxQL3VwTIoUCyZ1sE7XS0hGyM", "secret"},
		"argon2id":     {plugins.HashPassword(t.Context(), "secret"), "secret"},
	} {
		if got := p.Verify(t.Context(), every, "d", c.hash, c.password); got != 1 {
			t.Errorf("%s: %d for the right password", name, got)
		}
		for _, wrong := range []string{"", c.password + "x", strings.ToUpper(c.password)} {
			if got := p.Verify(t.Context(), every, "d", c.hash, wrong); got != 0 {
				t.Errorf("%s: %d for %q", name, got, wrong)
			}
		}
		if got := p.Verify(t.Context(), every, "d", "?"+c.hash, c.password); got != 0 {
			t.Errorf("%s: %d behind a question mark", name, got)
		}
	}
}

// Parameters above the caps are refused before any work is done: each of these
// would take from seconds to years.
func TestADearHashIsRefusedUnseen(t *testing.T) {
	var p plugins.Passwords
	salt, sum := "c29tZXNhbHRzb21lc2FsdA", strings.Repeat("A", 43)
	body := strings.Repeat("a", 53)
	for hash, want := range map[string]int32{
		"$2b$14$" + body: abi.ErrTooLarge,
		"$2b$31$" + body: abi.ErrTooLarge,
		"$2b$03$" + body: abi.ErrTooLarge,
		"$argon2id$v=19$m=65537,t=1,p=1$" + salt + "$" + sum:                abi.ErrTooLarge,
		"$argon2id$v=19$m=1024,t=5,p=1$" + salt + "$" + sum:                 abi.ErrTooLarge,
		"$argon2id$v=19$m=1024,t=1,p=5$" + salt + "$" + sum:                 abi.ErrTooLarge,
		"$argon2id$v=19$m=1024,t=0,p=1$" + salt + "$" + sum:                 abi.ErrTooLarge,
		"$argon2id$v=19$m=99999999999999999999,t=1,p=1$" + salt + "$" + sum: abi.ErrTooLarge,
		"$scrypt$ln=17,r=8,p=1$" + salt + "$" + sum:                         abi.ErrTooLarge,
		"$scrypt$ln=99,r=8,p=1$" + salt + "$" + sum:                         abi.ErrTooLarge,
		"$scrypt$ln=1,r=65,p=1$" + salt + "$" + sum:                         abi.ErrTooLarge,
		"$pbkdf2-sha256$1500001$" + salt + "$" + sum:                        abi.ErrTooLarge,
		"$pbkdf2-sha256$0$" + salt + "$" + sum:                              abi.ErrTooLarge,
		"$6$rounds=500001$salt$" + body:                                     abi.ErrTooLarge,
		"$5$rounds=99999999999999999999$salt$" + body:                       abi.ErrTooLarge,
		"plain text":                       abi.ErrUnsupported,
		"$plaintext$secret":                abi.ErrUnsupported,
		"$1$salt$qJH7.N4xYta3aEG/dfqo/0":   abi.ErrUnsupported, // MD5-crypt
		"$2b$10$" + body[1:]:               abi.ErrUnsupported,
		"5ebe2294ecd0e0f08eab7690d2a6ee69": abi.ErrUnsupported,
		" " + "$2b$14$" + body:             abi.ErrUnsupported,
		"??" + "{SHA}" + sum[:27] + "=":    abi.ErrUnsupported,
	} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // so that one that is not refused would say that it timed out
		if got := p.Verify(ctx, every, "d", hash, "secret"); got != want {
			t.Errorf("%s: %d, want %d", hash, got, want)
		}
		if got := p.Verify(ctx, every, "d", "?"+hash, "secret"); got != want && hash[0] != '?' {
			t.Errorf("?%s: %d, want %d", hash, got, want)
		}
	}
}

func TestASchemeThatIsNotGrantedIsNotChecked(t *testing.T) {
	var p plugins.Passwords
	hash := bcryptOf(t, "secret", 4)
	if got := p.Verify(t.Context(), []string{"argon2id"}, "d", hash, "secret"); got != abi.ErrNotGranted {
		t.Errorf("bcrypt under a grant of argon2id: %d", got)
	}
	if got := p.Verify(t.Context(), []string{"argon2id", "bcrypt"}, "d", hash, "secret"); got != 1 {
		t.Errorf("bcrypt under its grant: %d", got)
	}
}

// Without a hash, the dearest that the version has had checked is worked
// through, so that a user who is not there takes as long as one who is.
func TestAnEmptyHashCostsWhatTheDearestDid(t *testing.T) {
	var p plugins.Passwords
	first := p.Dummy("d")
	if cost, err := bcrypt.Cost([]byte(first)); err != nil || cost != 10 {
		t.Fatalf("at first: %s, %v", first, err)
	}
	cheap, dear, middle := bcryptOf(t, "secret", 4), bcryptOf(t, "secret", 6), bcryptOf(t, "secret", 5)
	for _, step := range []struct{ hash, want string }{{cheap, cheap}, {dear, dear}, {middle, dear}, {"?" + bcryptOf(t, "x", 7), dear}} {
		p.Verify(t.Context(), every, "d", step.hash, "secret")
		if got := p.Dummy("d"); got != step.want {
			t.Fatalf("after %s it is %s, want %s", step.hash, got, step.want)
		}
	}
	for _, password := range []string{"secret", ""} { // never right, though the hash behind it is
		if got := p.Verify(t.Context(), every, "d", "", password); got != 0 {
			t.Errorf("an empty hash and %q: %d", password, got)
		}
	}
	if got := p.Dummy("another module"); got != first {
		t.Errorf("another module's is %s", got)
	}
}
