package seal

// SealXAES is bare XAES-256-GCM, for the vectors of its specification.
func SealXAES(secret [keySize]byte, nonce, plain, aad []byte) []byte {
	gcm, inner := xaes(secret, nonce)
	return gcm.Seal(nil, inner, plain, aad)
}
