package tenants

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"hash/crc32"
	"strings"
	"time"
)

// Key is an administration key as it is stored: a digest, never the secret.
type Key struct {
	ID        string   // public handle
	Kind      string   // "operator"
	Digest    [32]byte // SHA-256 of the secret: 256 random bits need no salt
	CreatedAt time.Time
	ExpiresAt time.Time // zero: never
}

// KeySecret is the secret of an administration key: "dwk_", 32 random bytes in
// base64url, and a checksum of six letters and digits, so that a cut or
// mistyped key is refused without a look-up. It prints as "redacted".
type KeySecret struct{ text string }

const (
	keyPrefix   = "dwk_"
	keyBody     = 43 // base64url of 32 bytes
	keyChecksum = 6
)

// ErrKey: the text is not an administration key.
var ErrKey = errors.New("not an administration key")

// NewKeySecret makes a random one.
func NewKeySecret() KeySecret {
	var b [32]byte
	rand.Read(b[:])
	text := keyPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	return KeySecret{text + checksum(text)}
}

// ParseKeySecret takes exactly what NewKeySecret gives, or ErrKey.
func ParseKeySecret(text string) (KeySecret, error) {
	if len(text) != len(keyPrefix)+keyBody+keyChecksum || !strings.HasPrefix(text, keyPrefix) {
		return KeySecret{}, ErrKey
	}
	head := text[:len(text)-keyChecksum]
	if checksum(head) != text[len(head):] {
		return KeySecret{}, ErrKey
	}
	if _, err := base64.RawURLEncoding.Strict().DecodeString(head[len(keyPrefix):]); err != nil {
		return KeySecret{}, ErrKey
	}
	return KeySecret{text}, nil
}

// Reveal returns the text. It is for the file or the answer that hands the key
// to its owner, and for nothing else.
func (s KeySecret) Reveal() string { return s.text }

// Digest is what is stored and looked up.
func (s KeySecret) Digest() [32]byte { return sha256.Sum256([]byte(s.text)) }

// String shows nothing.
func (KeySecret) String() string { return "redacted" }

// GoString shows nothing.
func (KeySecret) GoString() string { return "redacted" }

// MarshalText shows nothing.
func (KeySecret) MarshalText() ([]byte, error) { return []byte("redacted"), nil }

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// checksum is the CRC-32 of text in six base62 digits, highest first.
func checksum(text string) string {
	n := crc32.ChecksumIEEE([]byte(text))
	var out [keyChecksum]byte
	for i := keyChecksum - 1; i >= 0; i-- {
		out[i] = base62[n%62]
		n /= 62
	}
	return string(out[:])
}
