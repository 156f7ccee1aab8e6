package sessions

import (
	"crypto/rand"
	"encoding/base64"
	"strings"

	"github.com/oklog/ulid/v2"
)

// ID is a session's public handle: it is for lists, logs and revokes, and opens
// nothing. It is "ses_" and the digest of the session's first token, written as
// a ULID is, so that a store needs no index to come from it to the record. So
// IDs are in no order of time.
type ID string

const idPrefix = "ses_"

// First is the digest of the session's first token: what the session is under
// until it is rotated.
func (id ID) First() Digest {
	d, err := ulid.ParseStrict(strings.TrimPrefix(string(id), idPrefix))
	if err != nil {
		return Digest{} // nothing is under it
	}
	return Digest(d)
}

// ParseID takes exactly what Digest.ID gives for a token that a session begins
// with, or ErrToken.
func ParseID(text string) (ID, error) {
	rest, ok := strings.CutPrefix(text, idPrefix)
	d, err := ParseDigest(rest)
	if !ok || err != nil || d.Later() {
		return "", ErrToken
	}
	return ID(text), nil
}

// ChallengeID is what a client answers a challenge with: "ch_" and 16 random
// bytes in base64url. Whoever holds it may try an answer, so it is a secret
// and prints as "redacted". The zero ChallengeID is none.
type ChallengeID struct{ text string }

const challengePrefix = "ch_"

// NewChallengeID makes a random one.
func NewChallengeID() ChallengeID {
	var b [16]byte
	rand.Read(b[:])
	return ChallengeID{challengePrefix + base64.RawURLEncoding.EncodeToString(b[:])}
}

// ParseChallengeID takes exactly what NewChallengeID gives, or ErrToken.
func ParseChallengeID(text string) (ChallengeID, error) {
	rest, ok := strings.CutPrefix(text, challengePrefix)
	b, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if !ok || err != nil || len(b) != 16 || strings.ContainsAny(rest, "\r\n") {
		return ChallengeID{}, ErrToken
	}
	return ChallengeID{text}, nil
}

// IsZero reports whether c is none.
func (c ChallengeID) IsZero() bool { return c.text == "" }

// Reveal returns the text, for the client that shall answer.
func (c ChallengeID) Reveal() string { return c.text }

// Digest is what the challenge is stored under.
func (c ChallengeID) Digest(tenant string) Digest {
	return digest("doorward challenge v1", tenant, c.text)
}

// String shows nothing.
func (ChallengeID) String() string { return "redacted" }

// GoString shows nothing.
func (ChallengeID) GoString() string { return "redacted" }

// MarshalText shows nothing.
func (ChallengeID) MarshalText() ([]byte, error) { return []byte("redacted"), nil }
