package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
)

// xaes is XAES-256-GCM (c2sp.org/XAES-256-GCM): AES-256-GCM under a key that is
// derived, by the KDF of NIST SP 800-108 with CMAC, from the secret and the first
// half of a nonce of 192 bits; the second half is GCM's. So nonces may be random,
// and there may be 2⁸⁰ of them under one secret.
func xaes(secret [keySize]byte, nonce []byte) (cipher.AEAD, []byte) {
	const half = nonceSize / 2
	prf := mustAES(secret[:])
	var derived [keySize]byte
	var mask [aes.BlockSize]byte // CMAC's subkey K1: both blocks below are whole
	prf.Encrypt(mask[:], mask[:])
	top := mask[0] >> 7
	for i := range len(mask) - 1 {
		mask[i] = mask[i]<<1 | mask[i+1]>>7
	}
	mask[len(mask)-1] = mask[len(mask)-1]<<1 ^ top*0b10000111
	for i := range 2 {
		block := derived[i*aes.BlockSize:][:aes.BlockSize]
		block[1], block[2] = byte(i+1), 'X'
		copy(block[4:], nonce[:half])
		subtle.XORBytes(block, block, mask[:])
		prf.Encrypt(block, block)
	}
	gcm, err := cipher.NewGCM(mustAES(derived[:]))
	if err != nil {
		panic("seal: gcm: " + err.Error())
	}
	return gcm, nonce[half:]
}

func mustAES(key []byte) cipher.Block {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("seal: cipher: " + err.Error()) // lengths are constants
	}
	return block
}
