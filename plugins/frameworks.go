package plugins

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/bits"
	"regexp"
	"strings"
)

// Forms in which frameworks keep the hashes that others keep as PHC strings, and
// phpass, which nobody else has. None of the libraries here reads them: a system
// that is left for this one has its users' hashes in them.
var (
	djangoPBKDF2 = regexp.MustCompile(`^pbkdf2_(sha1|sha256)\$(\d+)\$([^$]{1,128})\$([A-Za-z0-9+/]{2,86}={0,2})$`)
	djangoScrypt = regexp.MustCompile(`^scrypt\$(\d+)\$([^$]{1,128})\$(\d+)\$(\d+)\$([A-Za-z0-9+/]{2,86}={0,2})$`)
	phpassForm   = regexp.MustCompile(`^\$[PH]\$([./0-9A-Za-z])([./0-9A-Za-z]{8})([./0-9A-Za-z]{22})$`)
)

// maxPHPass is the largest exponent of two of phpass's rounds: WordPress and
// phpBB write 13 and 11.
const maxPHPass = 17

// known is a hash in the form that examine and the decoder know, and what of the
// password goes into it. A hash that is in no framework's form is returned as it
// is.
func known(hash string) (form string, of func(password []byte) []byte) {
	as := func(password []byte) []byte { return password }
	raw, adapted := base64.RawStdEncoding.EncodeToString, func(b string) string { return strings.ReplaceAll(b, "+", ".") }
	if m := djangoPBKDF2.FindStringSubmatch(hash); m != nil {
		return fmt.Sprintf("$pbkdf2-%s$%s$%s$%s", m[1], m[2], adapted(raw([]byte(m[3]))), adapted(strings.TrimRight(m[4], "="))), as
	}
	if m := djangoScrypt.FindStringSubmatch(hash); m != nil {
		n := atoi(m[1])
		if n < 2 || n&(n-1) != 0 {
			return hash, as
		}
		return fmt.Sprintf("$scrypt$ln=%d,r=%s,p=%s$%s$%s", bits.TrailingZeros(uint(n)), m[3], m[4], raw([]byte(m[2])), strings.TrimRight(m[5], "=")), as
	}
	if rest, ok := strings.CutPrefix(hash, "argon2$argon2"); ok { // Django
		return "$argon2" + rest, as
	}
	if rest, ok := strings.CutPrefix(hash, "bcrypt$$2"); ok { // Django
		return "$2" + rest, as
	}
	if rest, ok := strings.CutPrefix(hash, "bcrypt_sha256$$2"); ok { // Django: bcrypt reads 72 bytes
		return "$2" + rest, func(password []byte) []byte {
			sum := sha256.Sum256(password)
			return hex.AppendEncode(nil, sum[:])
		}
	}
	if rest, ok := strings.CutPrefix(hash, "$wp$2"); ok { // WordPress from 6.8
		return "$2" + rest, func(password []byte) []byte {
			mac := hmac.New(sha512.New384, []byte("wp-sha384"))
			mac.Write(password)
			return base64.StdEncoding.AppendEncode(nil, mac.Sum(nil))
		}
	}
	return hash, as
}

// phpassRounds is the exponent of a hash of phpass.
func phpassRounds(m []string) int { return strings.Index(itoa64, m[1]) }

// phpass is the portable hash of the library of that name, which WordPress wrote
// until 6.8 and phpBB 3 did: MD5 of the salt and the password, and then so many
// times of the last and the password.
func phpass(hash string, password []byte) bool {
	m := phpassForm.FindStringSubmatch(hash)
	sum := md5.Sum(append([]byte(m[2]), password...))
	in := make([]byte, md5.Size+len(password))
	copy(in[md5.Size:], password)
	for range 1 << phpassRounds(m) {
		copy(in, sum[:])
		sum = md5.Sum(in)
	}
	var out []byte
	for i := 0; i < md5.Size; i += 3 { // of the last byte alone come two digits
		three := append(sum[i:min(i+3, md5.Size):min(i+3, md5.Size)], 0, 0)
		out = appendItoa64(out, three[2], three[1], three[0], min(4, 2*(md5.Size-i)))
	}
	return subtle.ConstantTimeCompare(out, []byte(m[3])) == 1
}
