package sessions

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"

	"github.com/oklog/ulid/v2"
)

// strictBase64 takes each value in one spelling only.
var strictBase64 = base64.RawURLEncoding.Strict()

// ErrToken: the text is not a session token, a session id or a challenge id.
// Nothing was looked up.
var ErrToken = errors.New("malformed token")

// Token is what its holder proves a session with: "dw1_", 32 random bytes in
// base64url, and a checksum of six letters and digits, so that a cut or
// mistyped token costs no look-up and scanners can find leaked ones. The first of
// the 256 bits is 0 in the token that a session begins with and 1 in those that
// rotations make. The zero Token is none. It prints as "redacted".
type Token struct{ text string }

const (
	tokenPrefix   = "dw1_"
	tokenBody     = 43 // base64url of 32 bytes, unpadded
	tokenChecksum = 6
	tokenLength   = len(tokenPrefix) + tokenBody + tokenChecksum
)

// later is the bit, in the first byte of a token and of its digest, that tells
// what a rotation made.
const later = 0x80

// NewToken makes a random one, for a session to begin with.
func NewToken() Token {
	var b [32]byte
	rand.Read(b[:]) // never fails (crypto/rand since Go 1.24)
	b[0] &^= later
	return tokenOf(b[:])
}

// tokenOf writes 32 bytes as a token.
func tokenOf(b []byte) Token {
	text := tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
	sum := checksum(text)
	return Token{text + string(sum[:])}
}

// Salt is 32 random bytes, made for one rotation.
type Salt [32]byte

// NewSalt makes a random one.
func NewSalt() Salt {
	var s Salt
	rand.Read(s[:])
	return s
}

// Successor is the token that takes t's place in the rotation that made salt:
// HMAC-SHA256 of the salt under the token. Two callers who rotate the same
// token at the same moment so come to the same successor, though it is stored
// nowhere: the store has the salt, only the holder has the token, and neither
// opens anything without the other.
func (t Token) Successor(salt Salt) Token {
	mac := hmac.New(sha256.New, []byte(t.text))
	mac.Write([]byte("doorward successor v1"))
	mac.Write(salt[:])
	b := mac.Sum(nil)
	b[0] |= later
	return tokenOf(b)
}

// ParseToken takes exactly what NewToken gives, to the letter, or ErrToken.
func ParseToken(text string) (Token, error) {
	if len(text) != tokenLength || !strings.HasPrefix(text, tokenPrefix) {
		return Token{}, ErrToken
	}
	head := text[:tokenLength-tokenChecksum]
	if sum := checksum(head); string(sum[:]) != text[len(head):] {
		return Token{}, ErrToken
	}
	var body [tokenBody]byte
	copy(body[:], head[len(tokenPrefix):])
	var b [32]byte
	if _, err := strictBase64.Decode(b[:], body[:]); err != nil {
		return Token{}, ErrToken
	}
	return Token{text}, nil
}

// IsZero reports whether t is no token.
func (t Token) IsZero() bool { return t.text == "" }

// Reveal returns the text. It is for the answer that hands a token to its
// holder, and for nothing else.
func (t Token) Reveal() string { return t.text }

// Digest is what the token is stored and found under, at one tenant. The
// tenant's uuid is in it, with its length, so that a token means nothing at
// another tenant even where keys are mixed up. 255 random bits need no salt.
func (t Token) Digest(tenant string) Digest {
	d := digest("doorward session v2", tenant, t.text)
	var head [3]byte // of the body; the text was parsed or made here
	base64.RawURLEncoding.Decode(head[:], []byte(t.text[len(tokenPrefix):][:4]))
	d[0] = d[0]&^later | head[0]&later
	return d
}

// String shows nothing.
func (Token) String() string { return "redacted" }

// GoString shows nothing.
func (Token) GoString() string { return "redacted" }

// MarshalText shows nothing, so that neither JSON nor a log can.
func (Token) MarshalText() ([]byte, error) { return []byte("redacted"), nil }

// Digest stands for a token in a store: the first 128 bits of a SHA-256. That is
// enough: nobody can choose a token for its digest but by trying (2^107 times
// for any of a million sessions), and what a token opens is random to begin
// with. The first bit is the token's own.
type Digest [16]byte

// Key is the digest as it stands in a store's key: 26 letters and digits, which
// sort as the digests do.
func (d Digest) Key() string { return ulid.ULID(d).String() }

// ID is the handle of the session that begins with d's token.
func (d Digest) ID() ID { return ID(idPrefix + d.Key()) }

// Later reports whether d is of a token that a rotation made.
func (d Digest) Later() bool { return d[0]&later != 0 }

// ParseDigest undoes Key, or returns ErrToken.
func ParseDigest(key string) (Digest, error) {
	d, err := ulid.ParseStrict(key)
	if err != nil || d.String() != key {
		return Digest{}, ErrToken
	}
	return Digest(d), nil
}

// digest is SHA-256 over domain, tenant and secret, the first two with their
// lengths, cut. It is on the path of every validate and allocates nothing for a
// tenant's uuid.
func digest(domain, tenant, secret string) Digest {
	var room [192]byte
	b := room[:0]
	for _, part := range [...]string{domain, tenant} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	sum := sha256.Sum256(append(b, secret...))
	return Digest(sum[:len(Digest{})])
}

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// checksum is the CRC-32 of text in six base62 digits, highest first.
func checksum(text string) (out [tokenChecksum]byte) {
	n := crc32.ChecksumIEEE([]byte(text))
	for i := tokenChecksum - 1; i >= 0; i-- {
		out[i] = base62[n%62]
		n /= 62
	}
	return out
}
