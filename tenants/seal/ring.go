package seal

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Ring holds the root keys. The first seals, every one opens. Safe for use by
// many goroutines.
type Ring struct{ root keys }

// ringHead is the first line of a key ring file.
const ringHead = "doorward keyring v1"

// LoadOrCreateRing reads the key ring at path, or makes one with one random
// root key (mode 0600) when there is no file. It refuses a file that others
// may read: a key that was readable is a key that is known.
func LoadOrCreateRing(path string) (*Ring, error) {
	r, err := LoadRing(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	r = &Ring{root: keys{newKey()}}
	if err := writeNew(path, r.encode()); err != nil {
		return nil, fmt.Errorf("write key ring: %w", err)
	}
	return r, nil
}

// LoadRing reads the key ring at path. Each line after the first is a root
// key, "id hex"; the topmost seals.
func LoadRing(path string) (*Ring, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read key ring: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key ring %s has mode %04o and may be read by others; run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read key ring: %w", err)
	}
	r, err := decodeRing(text)
	if err != nil {
		return nil, fmt.Errorf("key ring %s: %w", path, err)
	}
	return r, nil
}

// String shows nothing.
func (*Ring) String() string { return "redacted" }

// GoString shows nothing.
func (*Ring) GoString() string { return "redacted" }

// Wrap seals a tenant's keys under the ring, bound to aad.
func (r *Ring) Wrap(aad []byte, k *Keys) []byte {
	return r.Box("tenant keys").Seal(aad, k.encode())
}

// Unwrap undoes Wrap, or returns ErrSealed.
func (r *Ring) Unwrap(aad, wrapped []byte) (*Keys, error) {
	plain, err := r.Box("tenant keys").Open(aad, wrapped)
	if err != nil {
		return nil, err
	}
	return decodeKeys(plain)
}

// Box returns the keys for one purpose of the whole service. Boxes of
// different purposes do not open each other's values; boxes of one purpose on
// nodes with the same ring do.
func (r *Ring) Box(purpose string) *Box {
	b := &Box{}
	for _, k := range r.root {
		derived, err := hkdf.Key(sha256.New, k.Secret[:], nil, "doorward box: "+purpose, keySize)
		if err != nil {
			panic("seal: derive box: " + err.Error()) // lengths are constants
		}
		b.keys = append(b.keys, key{ID: k.ID, Secret: [keySize]byte(derived)})
	}
	return b
}

// Box seals values of one purpose.
type Box struct{ keys keys }

// String shows nothing.
func (*Box) String() string { return "redacted" }

// GoString shows nothing.
func (*Box) GoString() string { return "redacted" }

// Seal encrypts plain and binds it to aad.
func (b *Box) Seal(aad, plain []byte) []byte { return b.keys.Seal(aad, plain) }

// Open undoes Seal for the same aad, or returns ErrSealed.
func (b *Box) Open(aad, sealed []byte) ([]byte, error) { return b.keys.Open(aad, sealed) }

func (r *Ring) encode() []byte {
	var out bytes.Buffer
	fmt.Fprintln(&out, ringHead)
	for _, k := range r.root {
		fmt.Fprintf(&out, "%08x %x\n", k.ID, k.Secret)
	}
	return out.Bytes()
}

func decodeRing(text []byte) (*Ring, error) {
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	if lines[0] != ringHead {
		return nil, fmt.Errorf("line 1 is not %q", ringHead)
	}
	r := &Ring{}
	for i, line := range lines[1:] {
		idText, secretText, _ := strings.Cut(strings.TrimSpace(line), " ")
		id, err := strconv.ParseUint(idText, 16, 32)
		secret, err2 := hex.DecodeString(secretText)
		if err != nil || err2 != nil || len(secret) != keySize {
			return nil, fmt.Errorf("line %d is not a key", i+2) // the line itself is a secret
		}
		r.root = append(r.root, key{ID: uint32(id), Secret: [keySize]byte(secret)})
	}
	if len(r.root) == 0 {
		return nil, errors.New("holds no key")
	}
	return r, nil
}

// writeNew writes a file that must not exist yet, whole or not at all.
func writeNew(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".keyring-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(content); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Link(tmp.Name(), path) // fails if path has appeared meanwhile
}
