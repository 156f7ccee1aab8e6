package plugins

import (
	"context"

	"github.com/doorward/doorward/sdk/abi"
)

// ReadAnswer is what stands between a guest's bytes and a verdict.
var ReadAnswer = readAnswer

// Passwords is the password checking of one host.
type Passwords struct{ costs costliest }

// Verify is the host function password_verify for a module.
func (p *Passwords) Verify(ctx context.Context, granted []string, digest, hash, password string) int32 {
	return p.costs.verifyPassword(ctx, granted, "tenant", digest, hash, []byte(password))
}

// Dummy is what an empty hash is checked against for a module.
func (p *Passwords) Dummy(digest string) string { return p.costs.of("tenant/" + digest) }

// HashPassword is the host function password_hash.
func HashPassword(ctx context.Context, password string) string {
	return string(hashPassword(ctx, "tenant", []byte(password)))
}

// AddedGrants lists what b is granted and a is not.
func AddedGrants(a, b abi.Grants) []string { return addedGrants(a, b) }
