package seal_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/doorward/doorward/tenants/seal"
)

func TestKeys(t *testing.T) {
	k := seal.NewKeys()
	sealed := k.Seal([]byte("here"), []byte("secret"))

	t.Run("opens where it was put", func(t *testing.T) {
		got, err := k.Open([]byte("here"), sealed)
		if err != nil || string(got) != "secret" {
			t.Fatalf("Open = %q, %v", got, err)
		}
	})
	t.Run("does not open elsewhere", func(t *testing.T) {
		if _, err := k.Open([]byte("there"), sealed); !errors.Is(err, seal.ErrSealed) {
			t.Fatalf("err = %v", err)
		}
	})
	t.Run("does not open for another tenant", func(t *testing.T) {
		if _, err := seal.NewKeys().Open([]byte("here"), sealed); !errors.Is(err, seal.ErrSealed) {
			t.Fatalf("err = %v", err)
		}
	})
	t.Run("any changed or missing byte is refused", func(t *testing.T) {
		for i := range sealed {
			bad := bytes.Clone(sealed)
			bad[i] ^= 1
			if _, err := k.Open([]byte("here"), bad); !errors.Is(err, seal.ErrSealed) {
				t.Fatalf("byte %d changed: err = %v", i, err)
			}
			if _, err := k.Open([]byte("here"), sealed[:i]); !errors.Is(err, seal.ErrSealed) {
				t.Fatalf("cut at %d: err = %v", i, err)
			}
		}
	})
	t.Run("the same value twice looks different", func(t *testing.T) {
		if bytes.Equal(sealed, k.Seal([]byte("here"), []byte("secret"))) {
			t.Fatal("equal ciphertexts")
		}
	})
	t.Run("a rotation keeps what was sealed and the index", func(t *testing.T) {
		r := k.Rotate()
		if got, err := r.Open([]byte("here"), sealed); err != nil || string(got) != "secret" {
			t.Fatalf("Open = %q, %v", got, err)
		}
		if !bytes.Equal(r.Index("alice"), k.Index("alice")) {
			t.Fatal("index changed")
		}
		if _, err := k.Open([]byte("here"), r.Seal([]byte("here"), nil)); !errors.Is(err, seal.ErrSealed) {
			t.Fatal("the old keys open what the new one sealed")
		}
	})
	t.Run("prints nothing", func(t *testing.T) {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			if got := fmt.Sprintf(verb, k); got != "redacted" {
				t.Fatalf("%s prints %q", verb, got)
			}
		}
	})
}

func TestRing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyring")
	ring, err := seal.LoadOrCreateRing(path)
	if err != nil {
		t.Fatal(err)
	}
	k := seal.NewKeys()
	wrapped := ring.Wrap([]byte("t1"), k)
	sealed := k.Seal(nil, []byte("x"))

	t.Run("a second start unwraps", func(t *testing.T) {
		again, err := seal.LoadOrCreateRing(path)
		if err != nil {
			t.Fatal(err)
		}
		same, err := again.Unwrap([]byte("t1"), wrapped)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := same.Open(nil, sealed); err != nil || string(got) != "x" {
			t.Fatalf("Open = %q, %v", got, err)
		}
	})
	t.Run("keys of one tenant do not unwrap for another", func(t *testing.T) {
		if _, err := ring.Unwrap([]byte("t2"), wrapped); !errors.Is(err, seal.ErrSealed) {
			t.Fatalf("err = %v", err)
		}
	})
	t.Run("boxes of two purposes do not open each other's values", func(t *testing.T) {
		v := ring.Box("flow").Seal(nil, []byte("x"))
		if _, err := ring.Box("page").Open(nil, v); !errors.Is(err, seal.ErrSealed) {
			t.Fatalf("err = %v", err)
		}
	})
	t.Run("a file others may read is refused with the remedy", func(t *testing.T) {
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := seal.LoadRing(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Fatalf("err = %v", err)
		}
	})
	t.Run("a damaged line is named but not shown", func(t *testing.T) {
		bad := filepath.Join(t.TempDir(), "keyring")
		if err := os.WriteFile(bad, []byte("doorward keyring v1\n0badkey deadbeef\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := seal.LoadRing(bad); err == nil || !strings.Contains(err.Error(), "line 2") || strings.Contains(err.Error(), "deadbeef") {
			t.Fatalf("err = %v", err)
		}
	})
}
