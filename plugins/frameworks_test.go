package plugins_test

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/sdk/abi"
)

// Django's were made by Django 3.2, but for scrypt, which came with 4.0 and was
// made as it does with Python's hashlib; phpass's by passlib, which tests itself
// against PHP's; WordPress's with Python's hmac and bcrypt as wp_hash_password
// does. The passwords have letters that are not ASCII.
var frameworkHashes = map[string]string{
	"Django, PBKDF2":                  "pbkdf2_sha256$2000$kGsSswsKVHe6rgc9rzzPzx$xbAHFmv6aO3AUbCnFyLw8e6ynE4v31uuAvsromdhwYY=",
	"Django, PBKDF2 and a short salt": "pbkdf2_sha256$260000$abc$2RpxQUuuQgLXAVdwztbWDgY2LxEfDJzL6c53VzKeZXc=",
	"Django, PBKDF2 with SHA-1":       "pbkdf2_sha1$2000$NBdm6jOYbknOQseI3SC7kr$MvPdOLvkMoVbx0gHRSAg5p0XdNA=",
	"Django, bcrypt of SHA-256":       "bcrypt_sha256$$2b$04$uMqq5UzFKqQ9KMBiqKUElOIQyCQqHlBdPBe8wdgn7xalAfLNFt.Am",
	"Django, bcrypt":                  "bcrypt$$2b$04$itq9c/NRZRAMZQZaJDp4XeAq9NJO9xON4lE6iBRaeDoSyLzrWdqfe",
	"Django, argon2":                  "argon2$argon2id$v=19$m=1024,t=1,p=2$bnlRc3pWbmNnNmtORWFlelFDbE1xcg$cyJZHmxT9mQsq89UaGg8qA",
	"Django, scrypt":                  "scrypt$64$aZ3.salt$8$5$e6gVxsVH8VEPN9cd+czcvYKfCkmr8i2F/QdJwVspdMP079LdHdBd+e8vrK0HNnX6E87Ih8x3VSViz6PoWA+yVA==",
	"WordPress before 6.8":            "$P$BNGCqrfD6E9cJOR7145ipFFqhGeHdc/",
	"WordPress from 6.8":              "$wp$2y$04$kIM6OERyluSiwa3toO6Pu.s/7Go0nAbZiV6l.6a6xDlmwuO2yQz.W",
	"phpBB":                           "$H$55bmIBbESRt4xGNQ54qK6Hvh8MZEU21",
}

func TestAHashIsReadInTheFormOfItsFramework(t *testing.T) {
	var p plugins.Passwords
	const right = "pässword one"
	for name, hash := range frameworkHashes {
		if got := p.Verify(t.Context(), every, "d", hash, right); got != 1 {
			t.Errorf("%s: %d for the right password", name, got)
		}
		for _, wrong := range []string{"", right + " ", "password one", right[:len(right)-1]} {
			if got := p.Verify(t.Context(), every, "d", hash, wrong); got != 0 {
				t.Errorf("%s: %d for %q", name, got, wrong)
			}
		}
		if got := p.Verify(t.Context(), every, "d", "?"+hash, right); got != 0 {
			t.Errorf("%s: %d behind a question mark", name, got)
		}
		// Each is of a scheme that a manifest can name.
		if got := p.Verify(t.Context(), []string{"apr1"}, "d", hash, right); got != abi.ErrNotGranted {
			t.Errorf("%s under a grant of apr1: %d", name, got)
		}
	}
	for scheme, name := range map[string]string{"pbkdf2": "Django, PBKDF2", "bcrypt": "WordPress from 6.8", "argon2id": "Django, argon2", "scrypt": "Django, scrypt", "phpass": "phpBB"} {
		if got := p.Verify(t.Context(), []string{scheme}, "d", frameworkHashes[name], right); got != 1 {
			t.Errorf("%s under a grant of %s: %d", name, scheme, got)
		}
	}
}

// Node's PBKDF2 and scrypt, with what no library's default has: salts of every
// length, and passwords longer than a block.
func TestNodeAndTheHostAgreeOnDjangosForms(t *testing.T) {
	const script = `const c = require("crypto")
for (const salt of ["a", "ab", "abc", "+/=.:", "x".repeat(128)]) for (const password of ["", "short", "\u00e9\ud83d\ude00".repeat(40)]) {
	const p = Buffer.from(password)
	console.log(["pbkdf2_sha256$77$" + salt + "$" + c.pbkdf2Sync(p, salt, 77, 32, "sha256").toString("base64"), password].join("\t"))
	console.log(["scrypt$16$" + salt + "$1$1$" + c.scryptSync(p, salt, 64, {N: 16, r: 1, p: 1}).toString("base64"), password].join("\t"))
}`
	out, err := exec.CommandContext(t.Context(), "node", "-e", script).Output()
	if err != nil {
		t.Fatalf("node is one of the tests' tools, see CONTRIBUTING.md: %v", err)
	}
	var p plugins.Passwords
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(lines) != 30 {
		t.Fatalf("node made %d hashes", len(lines))
	}
	for _, line := range lines {
		hash, password, _ := strings.Cut(line, "\t")
		if got := p.Verify(t.Context(), every, "d", hash, password); got != 1 {
			t.Errorf("%s: %d for %q", hash, got, password)
		}
		if got := p.Verify(t.Context(), every, "d", hash, password+"x"); got != 0 {
			t.Errorf("%s: %d for another", hash, got)
		}
	}
}

// The caps are held against what is in a framework's form as against what is not.
func TestADearHashOfAFrameworkIsRefusedUnseen(t *testing.T) {
	var p plugins.Passwords
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // so that one that is not refused would say that it timed out
	key := strings.Repeat("A", 43) + "="
	body := strings.Repeat("a", 53)
	for hash, want := range map[string]int32{
		"pbkdf2_sha256$1500001$salt$" + key:                            abi.ErrTooLarge,
		"pbkdf2_sha256$99999999999999999999$salt$" + key:               abi.ErrTooLarge,
		"pbkdf2_sha256$0$salt$" + key:                                  abi.ErrTooLarge,
		"pbkdf2_sha256$1000$salt$" + strings.Repeat("A", 87):           abi.ErrUnsupported,
		"pbkdf2_sha256$1000$" + strings.Repeat("s", 500) + "$" + key:   abi.ErrTooLarge,
		"pbkdf2_sha256$1000$" + strings.Repeat("s", 129) + "$" + key:   abi.ErrUnsupported,
		"pbkdf2_md5$1000$salt$" + key:                                  abi.ErrUnsupported,
		"scrypt$131072$salt$8$1$" + key:                                abi.ErrTooLarge,
		"scrypt$16385$salt$8$1$" + key:                                 abi.ErrUnsupported,
		"scrypt$99999999999999999999$salt$8$1$" + key:                  abi.ErrUnsupported,
		"argon2$argon2id$v=19$m=65537,t=1,p=1$c29tZXNhbHQ$" + key[:43]: abi.ErrTooLarge,
		"bcrypt_sha256$$2b$14$" + body:                                 abi.ErrTooLarge,
		"$wp$2y$31$" + body:                                            abi.ErrTooLarge,
		"$P$" + "G" + "saltsalt" + strings.Repeat("a", 22):             abi.ErrTooLarge,
		"$P$" + "z" + "saltsalt" + strings.Repeat("a", 22):             abi.ErrTooLarge,
		"$P$" + "B" + "saltsalt" + strings.Repeat("a", 23):             abi.ErrUnsupported,
		"md5$salt$5f4dcc3b5aa765d61d8327deb882cf99":                    abi.ErrUnsupported,
		"$wp$wp$2y$04$" + body:                                         abi.ErrUnsupported,
		"$y$j9T$abcdefgh$7dwrBvjfMfXxpkZQaYSWodecyRVr3D7JegNPAVOZ3..":  abi.ErrUnsupported, // yescrypt
	} {
		for _, form := range []string{hash, "?" + hash} {
			if got := p.Verify(ctx, every, "d", form, "secret"); got != want && !(len(form) > 512 && got == abi.ErrTooLarge) {
				t.Errorf("%s: %d, want %d", form, got, want)
			}
		}
	}
	if got := p.Verify(t.Context(), every, "d", "$P$F"+"saltsalt"+strings.Repeat("a", 22), "secret"); got != 0 {
		t.Errorf("the dearest of phpass that is taken: %d", got)
	}
}
