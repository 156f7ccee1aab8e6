package plugins

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/doorward/doorward/sdk/abi"
)

// Time-based one-time passwords as authenticator apps make them: RFC 6238 with
// SHA-1, six digits, a step of 30 seconds. A clock may be one step off.
const (
	totpDigits = 6
	totpStep   = 30
	totpSkew   = 1

	// totpGuard is how long a used code is remembered: the 90 seconds in which it
	// could come again, and as much for nodes whose clocks differ.
	totpGuard = 180 * time.Second
)

// totpKey reads a secret in base32, blanks and case as people copy them.
func totpKey(secret string) ([]byte, bool) {
	secret = strings.TrimRight(strings.ToUpper(strings.ReplaceAll(secret, " ", "")), "=")
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret)
	return key, err == nil && len(key) > 0
}

// totpMatch tells for which step a code is right, around Unix time now.
func totpMatch(key []byte, code string, now int64) (step int64, ok bool) {
	for skew := int64(-totpSkew); skew <= totpSkew; skew++ { // all of them, however early one fits
		at := now/totpStep + skew
		if subtle.ConstantTimeCompare([]byte(hotp(key, uint64(at))), []byte(code)) == 1 {
			step, ok = at, true
		}
	}
	return step, ok
}

// hotp is RFC 4226 §5.3.
func hotp(key []byte, counter uint64) string {
	mac := hmac.New(sha1.New, key)
	binary.Write(mac, binary.BigEndian, counter) // a hash takes every write
	sum := mac.Sum(nil)
	at := sum[len(sum)-1] & 0xf
	n := binary.BigEndian.Uint32(sum[at:]) & 0x7fffffff
	return fmt.Sprintf("%0*d", totpDigits, n%1_000_000)
}

// totpVerify is totp_verify: 1 when the code is right and was not used before,
// on any node and by any verifier of the tenant (RFC 6238 §5.2). Only a right
// code costs a write, so nobody who guesses makes any.
func (c *hostCalls) totpVerify(ctx context.Context, secret, code string) int32 {
	if len(secret) > abi.MaxTOTPSecret {
		return abi.ErrTooLarge
	}
	key, ok := totpKey(secret)
	if !ok {
		return abi.ErrInvalid
	}
	step, ok := totpMatch(key, code, c.now.Unix())
	if !ok {
		return 0
	}
	if !c.host.mayWrite(c.tenant) {
		return abi.ErrBusy
	}
	used := Slot{Tenant: c.tenant, Key: fmt.Sprintf("totp/%x/%d", sha256.Sum256(key), step)}
	fresh, err := c.kv.Swap(ctx, used, nil, []byte("used"), totpGuard)
	switch {
	case err != nil:
		return c.trouble(ctx, abi.FuncTOTPVerify, err)
	case !fresh:
		c.note("%s: the code is right, and was used before", abi.FuncTOTPVerify)
		return 0
	}
	return 1
}
