package main

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"strings"
)

// Time-based one-time passwords as authenticator apps make them: RFC 6238 with
// SHA-1, six digits, a step of 30 seconds. A clock may be one step off.
const (
	totpDigits = 6
	totpStep   = 30
	totpSkew   = 1
)

// totpOK reports whether code is right for the secret (base32, blanks and case
// as people copy them) at Unix time now.
func totpOK(secret, code string, now int64) bool {
	secret = strings.TrimRight(strings.ToUpper(strings.ReplaceAll(secret, " ", "")), "=")
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret)
	if err != nil || len(key) == 0 || len(code) != totpDigits {
		return false
	}
	ok := 0
	for skew := int64(-totpSkew); skew <= totpSkew; skew++ { // all of them, however early one fits
		ok |= subtle.ConstantTimeCompare([]byte(hotp(key, uint64(now/totpStep+skew))), []byte(code))
	}
	return ok == 1
}

// hotp is RFC 4226 §5.3.
func hotp(key []byte, counter uint64) string {
	mac := hmac.New(sha1.New, key)
	binary.Write(mac, binary.BigEndian, counter) // a hash takes every write
	sum := mac.Sum(nil)
	at := sum[len(sum)-1] & 0xf
	n := binary.BigEndian.Uint32(sum[at:]) & 0x7fffffff
	return fmt.Sprintf("%06d", n%1_000_000)
}
