package tenants

import "time"

// Key is an administration key as it is stored: a digest, never the secret.
type Key struct {
	ID        string   // public handle, "key_" and a ulid, or "operator-" and a node name for the key file's
	Kind      string   // "operator"
	Digest    [32]byte // SHA-256 of the secret (256 random bits need no salt)
	CreatedAt time.Time
	ExpiresAt time.Time // zero: never
}
