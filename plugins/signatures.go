package plugins

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"hash"
	"math/big"

	"github.com/doorward/doorward/sdk/abi"
)

// digests makes the hash of an abi number, nil for a number that is none.
func digests(alg int64) func() hash.Hash {
	switch alg {
	case abi.AlgSHA256:
		return sha256.New
	case abi.AlgSHA384:
		return sha512.New384
	case abi.AlgSHA512:
		return sha512.New
	}
	return nil
}

func digest(alg int64, data []byte) (int32, []byte) {
	make := digests(alg)
	if make == nil {
		return abi.ErrUnsupported, nil
	}
	h := make()
	h.Write(data)
	return 0, h.Sum(nil)
}

func mac(alg int64, key, data []byte) (int32, []byte) {
	make := digests(alg)
	if make == nil {
		return abi.ErrUnsupported, nil
	}
	h := hmac.New(make, key)
	h.Write(data)
	return 0, h.Sum(nil)
}

// verifySignature is sig_verify: 1 yes, 0 no, or an abi number.
func verifySignature(alg int64, key, message, signature []byte) int32 {
	if alg < abi.SigEd25519 || alg > abi.SigPS256 {
		return abi.ErrUnsupported
	}
	if len(key) > abi.MaxPublicKey {
		return abi.ErrTooLarge
	}
	if block, rest := pem.Decode(key); block != nil {
		if block.Type != "PUBLIC KEY" || len(rest) > 0 {
			return abi.ErrInvalid
		}
		key = block.Bytes
	}
	parsed, err := x509.ParsePKIXPublicKey(key)
	if err != nil {
		return abi.ErrInvalid
	}
	sum := sha256.Sum256(message)
	good := false
	switch public := parsed.(type) {
	case ed25519.PublicKey:
		if alg != abi.SigEd25519 {
			return abi.ErrInvalid
		}
		good = ed25519.Verify(public, message, signature)
	case *ecdsa.PublicKey:
		if alg != abi.SigES256 && alg != abi.SigES256DER || public.Curve != elliptic.P256() {
			return abi.ErrInvalid
		}
		if alg == abi.SigES256DER {
			good = ecdsa.VerifyASN1(public, sum[:], signature)
		} else if len(signature) == 64 {
			good = ecdsa.Verify(public, sum[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
		}
	case *rsa.PublicKey:
		if alg != abi.SigRS256 && alg != abi.SigPS256 || public.N.BitLen() < 2048 || public.N.BitLen() > 4096 {
			return abi.ErrInvalid // below is no proof any more, above is too much work
		}
		if alg == abi.SigRS256 {
			good = rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], signature) == nil
		} else {
			good = rsa.VerifyPSS(public, crypto.SHA256, sum[:], signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
	default:
		return abi.ErrInvalid
	}
	if good {
		return 1
	}
	return 0
}
