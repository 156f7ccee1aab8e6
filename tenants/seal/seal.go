package seal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrSealed: the ciphertext does not open. Made by another key, moved from
// another place, or damaged; which of them is not told.
var ErrSealed = errors.New("sealed value does not open")

// ErrNoKey is an ErrSealed of which that much can be told: the value names a key
// that is not among these. It may have come to be since they were read, or have
// been dropped, or never have been.
var ErrNoKey = fmt.Errorf("%w: no such key here", ErrSealed)

// A sealed value is
//
//	version (1) | key id (4, big endian) | nonce (24) | XAES-256-GCM ciphertext and tag
//
// with a random nonce, of which there are so many that they cannot run out however
// long a key lives.
const (
	version   = 2 // 1 had its keys from HKDF, and was never released
	nonceSize = 24
	headSize  = 1 + 4 + nonceSize
	keySize   = 32
	overhead  = headSize + 16
)

// Overhead is how many bytes a sealed value is longer than what it holds.
const Overhead = overhead

// key is one symmetric key with the id that ciphertexts name it by.
type key struct {
	ID     uint32
	Secret [keySize]byte
}

// name is the id as people read it.
func (k key) name() string { return fmt.Sprintf("%08x", k.ID) }

// String shows the id alone.
func (k key) String() string { return fmt.Sprintf("key %s (redacted)", k.name()) }

// GoString shows the id alone.
func (k key) GoString() string { return k.String() }

// newKey returns a random key with a random id.
func newKey() key {
	var k key
	rand.Read(k.Secret[:]) // never fails (crypto/rand since Go 1.24)
	var id [4]byte
	rand.Read(id[:])
	k.ID = binary.BigEndian.Uint32(id[:])
	return k
}

func (k key) seal(aad, plain []byte) []byte {
	out := make([]byte, headSize, headSize+len(plain)+16)
	out[0] = version
	binary.BigEndian.PutUint32(out[1:5], k.ID)
	rand.Read(out[5:headSize])
	gcm, nonce := xaes(k.Secret, out[5:headSize])
	return gcm.Seal(out, nonce, plain, bind(out[:headSize], aad))
}

func (k key) open(aad, sealed []byte) ([]byte, error) {
	gcm, nonce := xaes(k.Secret, sealed[5:headSize])
	plain, err := gcm.Open(nil, nonce, sealed[headSize:], bind(sealed[:headSize], aad))
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}

// bind puts the header under the tag too.
func bind(head, aad []byte) []byte {
	return append(append(make([]byte, 0, len(head)+len(aad)), head...), aad...)
}

// keyID reads which key sealed a value, or refuses it as none of ours.
func keyID(sealed []byte) (uint32, error) {
	if len(sealed) < overhead || sealed[0] != version {
		return 0, ErrSealed
	}
	return binary.BigEndian.Uint32(sealed[1:5]), nil
}

// keys seals with the first and opens with any.
type keys []key

func (ks keys) Seal(aad, plain []byte) []byte { return ks[0].seal(aad, plain) }

func (ks keys) Open(aad, sealed []byte) ([]byte, error) {
	id, err := keyID(sealed)
	if err != nil {
		return nil, err
	}
	for _, k := range ks {
		if k.ID == id {
			return k.open(aad, sealed)
		}
	}
	return nil, ErrNoKey
}
