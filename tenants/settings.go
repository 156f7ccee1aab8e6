package tenants

import (
	"regexp"
	"slices"
)

// Bounds of a tenant's configuration and secrets, in bytes and pieces.
const (
	MaxConfig  = 512 << 10
	MaxSecret  = 8 << 10
	MaxSecrets = 64
)

var secretForm = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// CheckConfig refuses, as *Invalid, a configuration that is too large. That it
// is one JSON object without duplicates, its reader has seen to.
func CheckConfig(object []byte) error {
	bad := &Invalid{}
	if len(object) > MaxConfig {
		bad.add("config", "must be at most 512 KiB of JSON")
	}
	return bad.or()
}

// CheckSecret refuses, as *Invalid, a secret whose name or size cannot be.
func CheckSecret(name string, value Secret) error {
	bad := &Invalid{}
	if !secretForm.MatchString(name) {
		bad.add("name", "must be 1 to 64 of letters, digits, _, . and -")
	}
	if len(value) == 0 || len(value) > MaxSecret {
		bad.add("value", "must be 1 to 8192 bytes")
	}
	return bad.or()
}

// CheckSecretCount refuses, as *Invalid, one more name than a tenant may have.
func CheckSecretCount(names []string, name string) error {
	bad := &Invalid{}
	if len(names) >= MaxSecrets && !slices.Contains(names, name) {
		bad.add("name", "would be the 65th secret; a tenant may have 64")
	}
	return bad.or()
}
