package seal_test

import (
	"bytes"
	"encoding/hex"
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
		if _, err := k.Open([]byte("here"), r.Seal([]byte("here"), nil)); !errors.Is(err, seal.ErrNoKey) || !errors.Is(err, seal.ErrSealed) {
			t.Fatalf("what the new key sealed, by the old keys: %v", err)
		}
	})
	t.Run("what has a known key and does not open needs no other keys", func(t *testing.T) {
		if _, err := k.Open([]byte("there"), sealed); errors.Is(err, seal.ErrNoKey) {
			t.Fatalf("err = %v", err)
		}
	})
	t.Run("the last eight keys open, no older one", func(t *testing.T) {
		r := k
		for range seal.MaxDataKeys - 1 {
			r = r.Rotate()
		}
		if _, err := r.Open([]byte("here"), sealed); err != nil {
			t.Fatalf("after seven rotations: %v", err)
		}
		if _, err := r.Rotate().Open([]byte("here"), sealed); !errors.Is(err, seal.ErrNoKey) {
			t.Fatalf("after eight rotations: %v", err)
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

func TestARingChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyring")
	first, err := seal.LoadOrCreateRing(path)
	if err != nil {
		t.Fatal(err)
	}
	// written is a ring as the next server finds it.
	written := func(r *seal.Ring, err error) *seal.Ring {
		t.Helper()
		if err == nil {
			err = r.Replace(path)
		}
		if err == nil {
			r, err = seal.LoadRing(path)
		}
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("the file has %v, %v", info.Mode(), err)
		}
		return r
	}
	old := first.IDs()[0]
	refuse := func(r *seal.Ring, err error) {
		t.Helper()
		if err == nil {
			t.Fatalf("not refused: %v", r.IDs())
		}
	}
	refuse(first.Promote())

	added := written(first.Add())
	if ids := added.IDs(); len(ids) != 2 || ids[0] != old || added.Added() != ids[1] {
		t.Fatalf("added: %v, new is %q", ids, added.Added())
	}
	refuse(added.Add())
	undone, err := added.Drop(added.Added())
	if err != nil {
		t.Fatal(err)
	}
	refuse(undone.Promote())

	promoted := written(added.Promote())
	if ids := promoted.IDs(); len(ids) != 2 || ids[0] != added.Added() || ids[1] != old || promoted.Added() != "" {
		t.Fatalf("promoted: %v", ids)
	}
	refuse(promoted.Promote()) // a second time would bring the old key back
	refuse(promoted.Drop(promoted.IDs()[0]))
	refuse(promoted.Drop("nothere"))

	// While the nodes are changed one after another, each opens what any of them
	// wraps.
	k := seal.NewKeys()
	for name, pair := range map[string][2]*seal.Ring{
		"before and during": {first, added}, "during": {added, first},
		"after the add": {added, promoted}, "the reverse": {promoted, added},
	} {
		if _, err := pair[1].Unwrap(nil, pair[0].Wrap(nil, k)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !promoted.Wraps(promoted.Wrap(nil, k)) || promoted.Wraps(added.Wrap(nil, k)) {
		t.Error("Wraps does not tell which root key wrapped")
	}
	dropped := written(promoted.Drop(old))
	if _, err := dropped.Unwrap(nil, promoted.Wrap(nil, k)); err != nil {
		t.Error(err)
	}
	if _, err := dropped.Unwrap(nil, first.Wrap(nil, k)); !errors.Is(err, seal.ErrNoKey) {
		t.Errorf("what the dropped key wrapped: %v", err)
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) != 1 {
		t.Errorf("files left behind: %v, %v", files, err)
	}
}

// The vectors of c2sp.org/XAES-256-GCM: one for each value of the bit that CMAC's
// subkey turns on.
func TestXAESIsThatOfItsSpecification(t *testing.T) {
	for _, v := range []struct {
		secret     byte
		aad, wants string
	}{
		{1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{3, "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	} {
		secret := [32]byte(bytes.Repeat([]byte{v.secret}, 32))
		got := seal.SealXAES(secret, []byte("ABCDEFGHIJKLMNOPQRSTUVWX"), []byte("XAES-256-GCM"), []byte(v.aad))
		if hex.EncodeToString(got) != v.wants {
			t.Errorf("of key %d: %x, not %s", v.secret, got, v.wants)
		}
	}
}

// BenchmarkOpen is what each read of a session from the store pays.
func BenchmarkOpen(b *testing.B) {
	k, aad := seal.NewKeys(), bytes.Repeat([]byte("k"), 90)
	sealed := k.Seal(aad, bytes.Repeat([]byte("x"), 500))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Open(aad, sealed); err != nil {
			b.Fatal(err)
		}
	}
}
