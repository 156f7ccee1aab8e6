package plugins

import (
	"context"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"math"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/go-crypt/crypt"
	"github.com/go-crypt/crypt/algorithm/argon2"
	"github.com/go-crypt/crypt/algorithm/bcrypt"
	"github.com/go-crypt/crypt/algorithm/pbkdf2"
	"github.com/go-crypt/crypt/algorithm/scrypt"
	"github.com/go-crypt/crypt/algorithm/shacrypt"
	xargon2 "golang.org/x/crypto/argon2"

	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/sdk/abi"
)

// hashing bounds how much of this process goes into passwords: one check a
// core for each tenant, and one more in all, so that a tenant whose hashes are
// dear, or many, does not keep the others' logins waiting. Waiting counts into
// the guest's wall limit.
var hashing = sandbox.NewTokens(runtime.NumCPU()+1, runtime.NumCPU())

// Caps on a hash and its parameters, held before any work: a hash is the
// tenant's word, could ask for hours, and cannot be stopped once begun. The
// forms below are whole, so that the decoder reads no parameter that was not
// looked at here.
const (
	maxHash      = 512
	maxBcrypt    = 13
	maxArgonMiB  = 64
	maxArgonTime = 4
	maxArgonPar  = 4
	maxScryptMiB = 64
	maxPBKDF2    = 1_500_000
	maxSHACrypt  = 500_000
)

// decoder knows the formats that are verified. Plain text is not among them.
var decoder = sync.OnceValue(func() *crypt.Decoder {
	d := crypt.NewDecoder()
	for _, err := range []error{
		argon2.RegisterDecoder(d), bcrypt.RegisterDecoderStandard(d), scrypt.RegisterDecoder(d),
		pbkdf2.RegisterDecoder(d), shacrypt.RegisterDecoder(d),
	} {
		if err != nil {
			panic("plugins: register password format: " + err.Error()) // names are constants
		}
	}
	return d
})

// scheme is what kind of hash it is, and how dear: cost is roughly the
// milliseconds of one core, and is for comparing only.
type scheme struct {
	name string
	cost float64
}

var (
	bcryptForm   = regexp.MustCompile(`^\$2[abxy]?\$(\d\d)\$[./A-Za-z0-9]{53}$`)
	argonForm    = regexp.MustCompile(`^\$(argon2(?:id|i|d))\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+$`)
	scryptForm   = regexp.MustCompile(`^\$scrypt\$ln=(\d+),r=(\d+),p=(\d+)\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+$`)
	pbkdf2Form   = regexp.MustCompile(`^\$pbkdf2(?:-sha(?:1|224|256|384|512))?\$(\d+)\$[./A-Za-z0-9]+\$[./A-Za-z0-9]{1,86}$`) // the work grows with the key, here 64 bytes
	shaCryptForm = regexp.MustCompile(`^\$([56])\$(?:rounds=(\d+)\$)?[./A-Za-z0-9]{0,16}\$[./A-Za-z0-9]{43,86}$`)
	apr1Form     = regexp.MustCompile(`^\$apr1\$([^$]{1,8})\$([./A-Za-z0-9]{22})$`)
	sha1Form     = regexp.MustCompile(`^\{SHA\}([A-Za-z0-9+/]{27}=)$`)
)

// examine tells the scheme of a hash, or the abi number of why it will not be
// checked.
func examine(hash string) (scheme, int32) {
	if len(hash) > maxHash {
		return scheme{}, abi.ErrTooLarge
	}
	if m := bcryptForm.FindStringSubmatch(hash); m != nil {
		cost := atoi(m[1])
		return within(scheme{"bcrypt", 70 * math.Exp2(float64(cost-10))}, cost >= 4 && cost <= maxBcrypt)
	}
	if m := argonForm.FindStringSubmatch(hash); m != nil {
		memory, time, par := atoi(m[2]), atoi(m[3]), atoi(m[4])
		ok := memory <= maxArgonMiB<<10 && time >= 1 && time <= maxArgonTime && par >= 1 && par <= maxArgonPar
		return within(scheme{m[1], float64(memory) * float64(time) / 1000}, ok)
	}
	if m := scryptForm.FindStringSubmatch(hash); m != nil {
		ln, r, p := atoi(m[1]), atoi(m[2]), atoi(m[3])
		ok := ln >= 1 && ln <= 20 && r >= 1 && r <= 64 && p >= 1 && p <= 8 && (128*r)<<ln <= maxScryptMiB<<20
		return within(scheme{"scrypt", math.Exp2(float64(ln)) * float64(r*p) / 2500}, ok)
	}
	if m := pbkdf2Form.FindStringSubmatch(hash); m != nil {
		rounds := atoi(m[1])
		return within(scheme{"pbkdf2", float64(rounds) / 4000}, rounds >= 1 && rounds <= maxPBKDF2)
	}
	if m := shaCryptForm.FindStringSubmatch(hash); m != nil {
		rounds := 5000
		if m[2] != "" {
			rounds = atoi(m[2])
		}
		return within(scheme{map[string]string{"5": "sha256-crypt", "6": "sha512-crypt"}[m[1]], float64(rounds) / 1500}, rounds <= maxSHACrypt)
	}
	if m := phpassForm.FindStringSubmatch(hash); m != nil {
		rounds := phpassRounds(m)
		return within(scheme{"phpass", math.Exp2(float64(rounds)) / 6000}, rounds <= maxPHPass)
	}
	if apr1Form.MatchString(hash) {
		return scheme{"apr1", 1}, 0
	}
	if sha1Form.MatchString(hash) {
		return scheme{"sha1", 0.01}, 0
	}
	return scheme{}, abi.ErrUnsupported
}

func within(s scheme, ok bool) (scheme, int32) {
	if !ok {
		return scheme{}, abi.ErrTooLarge
	}
	return s, 0
}

func atoi(digits string) int {
	n, err := strconv.Atoi(digits)
	if err != nil {
		return math.MaxInt32 // longer than an int: over every cap
	}
	return min(n, math.MaxInt32)
}

// firstDummy is what an empty hash costs before a version has checked any:
// bcrypt at 10, the hash of nothing anybody knows.
const firstDummy = "$2b$10$9f4OgbPDbdXu.Vy7BR0taOjmnlwKkdCmZdYWd7K0jzUadHSOwTgZG"

// costliest remembers, for each module of each tenant, the dearest hash that it
// has had checked, so that a login for a user who is not there costs the same.
// What another tenant's users cost must not show here, even where both have the
// same module.
type costliest struct {
	mu   sync.Mutex
	hash map[string]string
	cost map[string]float64
}

// maxRemembered bounds costliest; beyond it all begin anew.
const maxRemembered = 10_000

func (c *costliest) note(whose, hash string, cost float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cost <= c.cost[whose] {
		return
	}
	if c.hash == nil || len(c.hash) >= maxRemembered {
		c.hash, c.cost = map[string]string{}, map[string]float64{}
	}
	c.hash[whose], c.cost[whose] = hash, cost
}

func (c *costliest) of(whose string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if hash, ok := c.hash[whose]; ok {
		return hash
	}
	return firstDummy
}

// verifyPassword is password_verify: 1 yes, 0 no, or an abi number. "?" before
// a hash, or no hash at all, does the work and says no.
func (c *costliest) verifyPassword(ctx context.Context, granted []string, tenant, digest, hash string, password []byte) int32 {
	if len(password) > abi.MaxPassword {
		return abi.ErrTooLarge // SHA-crypt and apr1 read it again in each of their rounds
	}
	whose, real := tenant+"/"+digest, true
	if rest, dummy := strings.CutPrefix(hash, "?"); dummy {
		hash, real = rest, false
	}
	if hash == "" {
		hash, real = c.of(whose), false
	}
	if len(hash) > maxHash {
		return abi.ErrTooLarge
	}
	hash, of := known(hash)
	s, trouble := examine(hash)
	if trouble != 0 {
		return trouble
	}
	if real {
		if !slices.Contains(granted, "*") && !slices.Contains(granted, s.name) {
			return abi.ErrNotGranted
		}
		c.note(whose, hash, s.cost)
	}
	if err := hashing.Take(ctx, tenant); err != nil {
		return abi.ErrTimeout
	}
	defer hashing.Give(tenant)
	if matches(s.name, hash, of(password)) && real {
		return 1
	}
	return 0
}

func matches(name, hash string, password []byte) bool {
	switch name {
	case "phpass":
		return phpass(hash, password)
	case "apr1":
		m := apr1Form.FindStringSubmatch(hash)
		return subtle.ConstantTimeCompare([]byte(apr1(password, []byte(m[1]))), []byte(m[2])) == 1
	case "sha1":
		sum := sha1.Sum(password)
		want := sha1Form.FindStringSubmatch(hash)[1]
		return subtle.ConstantTimeCompare([]byte(base64.StdEncoding.EncodeToString(sum[:])), []byte(want)) == 1
	}
	digest, err := decoder().Decode(hash)
	if err != nil {
		return false
	}
	ok, err := digest.MatchBytesAdvanced(password)
	return err == nil && ok
}

// hashPassword is password_hash: argon2id with OWASP's parameters, as a PHC
// string. nil when no turn came before ctx ended.
func hashPassword(ctx context.Context, tenant string, password []byte) []byte {
	const memory, time, threads = 19 << 10, 2, 1
	if err := hashing.Take(ctx, tenant); err != nil {
		return nil
	}
	defer hashing.Give(tenant)
	salt := make([]byte, 16)
	rand.Read(salt)
	key := xargon2.IDKey(password, salt, time, memory, threads, 32)
	enc := base64.RawStdEncoding
	return fmt.Appendf(nil, "$argon2id$v=19$m=%d,t=%d,p=%d$%s$%s", memory, time, threads, enc.EncodeToString(salt), enc.EncodeToString(key))
}

// apr1 is Apache's variant of MD5-crypt: a thousand rounds of MD5 that take
// password, salt and round number in turns, and an alphabet of its own. It is
// here because old .htpasswd files are full of it, not because it is good.
func apr1(password, salt []byte) string {
	alternate := md5.Sum(slices.Concat(password, salt, password))
	first := slices.Concat(password, []byte("$apr1$"), salt)
	for left := len(password); left > 0; left -= md5.Size {
		first = append(first, alternate[:min(left, md5.Size)]...)
	}
	for n := len(password); n > 0; n >>= 1 {
		if n&1 == 1 {
			first = append(first, 0)
		} else {
			first = append(first, password[:1]...)
		}
	}
	sum := md5.Sum(first)
	for round := range 1000 {
		var in []byte
		if round&1 == 1 {
			in = append(in, password...)
		} else {
			in = append(in, sum[:]...)
		}
		if round%3 != 0 {
			in = append(in, salt...)
		}
		if round%7 != 0 {
			in = append(in, password...)
		}
		if round&1 == 1 {
			in = append(in, sum[:]...)
		} else {
			in = append(in, password...)
		}
		sum = md5.Sum(in)
	}
	var out []byte
	for i := range 5 {
		last := i + 12
		if i == 4 {
			last = 5
		}
		out = appendItoa64(out, sum[i], sum[i+6], sum[last], 4)
	}
	return string(appendItoa64(out, 0, 0, sum[11], 2))
}

// itoa64 are the digits of crypt, which are not those of base64.
const itoa64 = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// appendItoa64 writes three bytes, the last of them first, in so many digits.
func appendItoa64(out []byte, a, b, c byte, digits int) []byte {
	for n := uint(a)<<16 | uint(b)<<8 | uint(c); digits > 0; digits-- {
		out = append(out, itoa64[n&0x3f])
		n >>= 6
	}
	return out
}
