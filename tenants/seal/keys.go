package seal

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
)

// MaxDataKeys is how many data keys a tenant has at the most: the one that seals
// and those before it. What was sealed by an older one does not open again.
const MaxDataKeys = 8

// Keys are one tenant's: data keys that seal its records (the newest seals,
// every one opens) and an index key that never rotates, so that an index entry
// is found again after a rotation. Safe for use by many goroutines.
type Keys struct {
	data  keys
	index [keySize]byte
}

// NewKeys makes random keys for a new tenant.
func NewKeys() *Keys {
	k := &Keys{data: keys{newKey()}}
	rand.Read(k.index[:])
	return k
}

// String shows nothing.
func (*Keys) String() string { return "redacted" }

// GoString shows nothing.
func (*Keys) GoString() string { return "redacted" }

// Seal encrypts plain and binds it to aad, normally the full etcd key.
func (k *Keys) Seal(aad, plain []byte) []byte { return k.data.Seal(aad, plain) }

// Open undoes Seal for the same aad, or returns ErrSealed: as ErrNoKey when
// other keys might open it.
func (k *Keys) Open(aad, sealed []byte) ([]byte, error) { return k.data.Open(aad, sealed) }

// Index returns 32 bytes that stand for value in an index key: equal values
// give equal bytes, and nothing else can be told from them.
func (k *Keys) Index(value string) []byte {
	mac := hmac.New(sha256.New, k.index[:])
	mac.Write([]byte(value))
	return mac.Sum(nil)
}

// Rotate returns Keys that seal with a new data key and still open what the
// last MaxDataKeys-1 sealed.
func (k *Keys) Rotate() *Keys {
	kept := k.data[:min(len(k.data), MaxDataKeys-1)]
	return &Keys{data: append(keys{newKey()}, kept...), index: k.index}
}

// encode lays k out for wrapping: index key, then each data key with its id.
func (k *Keys) encode() []byte {
	out := append([]byte(nil), k.index[:]...)
	for _, d := range k.data {
		out = binary.BigEndian.AppendUint32(out, d.ID)
		out = append(out, d.Secret[:]...)
	}
	return out
}

func decodeKeys(b []byte) (*Keys, error) {
	const each = 4 + keySize
	if len(b) < keySize+each || (len(b)-keySize)%each != 0 {
		return nil, ErrSealed
	}
	k := &Keys{index: [keySize]byte(b[:keySize])}
	for b = b[keySize:]; len(b) > 0; b = b[each:] {
		k.data = append(k.data, key{ID: binary.BigEndian.Uint32(b), Secret: [keySize]byte(b[4:each])})
	}
	return k, nil
}
