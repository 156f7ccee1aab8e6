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
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Ring holds the root keys. The first seals, every one opens. Safe for use by
// many goroutines.
type Ring struct {
	root keys
	new  bool // the last key has not been promoted yet
}

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
	if err := write(path, r.encode(), os.Link); err != nil { // which fails if path has appeared meanwhile
		return nil, fmt.Errorf("write key ring: %w", err)
	}
	return r, nil
}

// LoadRing reads the key ring at path. Each line after the first is a root
// key, "id hex"; the topmost seals. The last one may be followed by "new": it
// has been added and not yet promoted.
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

// IDs are the names of the root keys in the file's order, in hexadecimal: the
// first seals, every one opens. They are no secrets.
func (r *Ring) IDs() []string {
	ids := make([]string, len(r.root))
	for i, k := range r.root {
		ids[i] = k.name()
	}
	return ids
}

// Added is the name of the key that waits to be promoted, "" when there is none.
func (r *Ring) Added() string {
	if !r.new {
		return ""
	}
	return r.root[len(r.root)-1].name()
}

// Add returns a ring with one more key at the end, which only opens until it is
// promoted. An error when one is waiting for that already: which of them would
// be the newest, a file could not say.
func (r *Ring) Add() (*Ring, error) {
	if r.new {
		return nil, fmt.Errorf("key %s was added and not yet promoted; promote or drop it first", r.Added())
	}
	return &Ring{root: append(slices.Clone(r.root), newKey()), new: true}, nil
}

// Promote returns a ring in which the key that was added seals. An error when
// there is none: a second promote must not bring an old key back.
func (r *Ring) Promote() (*Ring, error) {
	if !r.new {
		return nil, errors.New("no key waits to be promoted; add one first")
	}
	last := len(r.root) - 1
	return &Ring{root: append(keys{r.root[last]}, r.root[:last]...)}, nil
}

// Drop returns a ring without that key: what it wraps does not open any more.
// An error when the key seals, or is not there.
func (r *Ring) Drop(id string) (*Ring, error) {
	i := slices.Index(r.IDs(), id)
	if i < 0 {
		return nil, fmt.Errorf("there is no key %q", id)
	}
	if i == 0 {
		return nil, fmt.Errorf("key %s is the topmost, which seals; promote another one first", id)
	}
	return &Ring{root: slices.Delete(slices.Clone(r.root), i, i+1), new: r.new && id != r.Added()}, nil
}

// Replace writes the ring over the file at path, whole or not at all. The file
// keeps its owner: who changes it may be another user than who serves by it.
func (r *Ring) Replace(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("read key ring: %w", err)
	}
	err = write(path, r.encode(), func(tmp, path string) error {
		if was, ok := info.Sys().(*syscall.Stat_t); ok && int(was.Uid) != os.Geteuid() {
			if err := os.Chown(tmp, int(was.Uid), int(was.Gid)); err != nil {
				return err
			}
		}
		return os.Rename(tmp, path)
	})
	if err != nil {
		return fmt.Errorf("write key ring: %w", err)
	}
	return nil
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

// Wraps reports whether the topmost root key wrapped that.
func (r *Ring) Wraps(wrapped []byte) bool {
	id, err := keyID(wrapped)
	return err == nil && id == r.root[0].ID
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
		fmt.Fprintf(&out, "%s %x", k.name(), k.Secret)
		if k.name() == r.Added() {
			out.WriteString(" new")
		}
		out.WriteByte('\n')
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
		line, r.new = strings.CutSuffix(strings.TrimSpace(line), " new")
		idText, secretText, _ := strings.Cut(line, " ")
		id, err := strconv.ParseUint(idText, 16, 32)
		secret, err2 := hex.DecodeString(secretText)
		if err != nil || err2 != nil || len(secret) != keySize {
			return nil, fmt.Errorf("line %d is not a key", i+2) // the line itself is a secret
		}
		if r.new && (i == 0 || i < len(lines)-2) {
			return nil, fmt.Errorf("line %d: only the last of several keys may be new", i+2)
		}
		r.root = append(r.root, key{ID: uint32(id), Secret: [keySize]byte(secret)})
	}
	if len(r.root) == 0 {
		return nil, errors.New("holds no key")
	}
	return r, nil
}

// write writes a file, whole or not at all: under another name first, which place
// then puts at path.
func write(path string, content []byte, place func(tmp, path string) error) error {
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
	if err := place(tmp.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync() // or the name may be lost with the power
}
