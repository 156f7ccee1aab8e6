//go:build wasip1

package doorward

import (
	"encoding/json"
	"runtime"
	"unsafe"
)

// The contract's functions, as package abi describes them. Pointers are only
// looked at during the call.

//go:wasmimport doorward_v1 input_read
func inputRead(dst unsafe.Pointer, off, n uint32) int32

//go:wasmimport doorward_v1 output_write
func outputWrite(src unsafe.Pointer, n uint32) int32

//go:wasmimport doorward_v1 result_read
func resultRead(dst unsafe.Pointer, off, n uint32) int32

//go:wasmimport doorward_v1 fail
func fail(code int32, src unsafe.Pointer, n uint32)

//go:wasmimport doorward_v1 log
func log(level int32, src unsafe.Pointer, n uint32)

//go:wasmimport doorward_v1 config_get
func configGet(key unsafe.Pointer, n uint32) int32

//go:wasmimport doorward_v1 secret_get
func secretGet(name unsafe.Pointer, n uint32) int32

//go:wasmimport doorward_v1 password_hash
func passwordHash(p unsafe.Pointer, n uint32) int32

//go:wasmimport doorward_v1 password_verify
func passwordVerify(hash unsafe.Pointer, n uint32, password unsafe.Pointer, m uint32) int32

//go:wasmimport doorward_v1 totp_verify
func totpVerify(secret unsafe.Pointer, n uint32, code unsafe.Pointer, m uint32) int32

//go:wasmimport doorward_v1 hash
func hash(alg int32, data unsafe.Pointer, n uint32) int32

//go:wasmimport doorward_v1 hmac
func hmac(alg int32, key unsafe.Pointer, n uint32, data unsafe.Pointer, m uint32) int32

//go:wasmimport doorward_v1 secret_hmac
func secretHMAC(name unsafe.Pointer, n uint32, alg int32, data unsafe.Pointer, m uint32) int32

//go:wasmimport doorward_v1 sig_verify
func sigVerify(alg int32, key unsafe.Pointer, n uint32, message unsafe.Pointer, m uint32, signature unsafe.Pointer, o uint32) int32

//go:wasmimport doorward_v1 kv_get
func kvGet(ns unsafe.Pointer, n uint32, key unsafe.Pointer, m uint32) int32

//go:wasmimport doorward_v1 kv_put
func kvPut(ns unsafe.Pointer, n uint32, key unsafe.Pointer, m uint32, value unsafe.Pointer, o uint32, ttl int32) int32

//go:wasmimport doorward_v1 kv_incr
func kvIncr(ns unsafe.Pointer, n uint32, key unsafe.Pointer, m uint32, by, ttl int32) int32

//go:wasmimport doorward_v1 kv_cas
func kvCAS(ns unsafe.Pointer, n uint32, key unsafe.Pointer, m uint32, old unsafe.Pointer, o uint32, value unsafe.Pointer, p uint32, ttl int32) int32

//go:wasmimport doorward_v1 http_fetch
func httpFetch(request unsafe.Pointer, n uint32) int32

//go:wasmexport doorward_v1_verify
func verify(length uint32) int32 {
	input := make([]byte, length)
	if got := inputRead(at(input), 0, length); got != int32(length) {
		stop("the request cannot be read")
	}
	output, err := decide(input)
	if err != nil {
		stop(err.Error())
	}
	outputWrite(at(output), uint32(len(output)))
	runtime.KeepAlive(output)
	return 0
}

// warm reads and writes what no login says, so that what encoding/json makes at
// first use is in the image that logins begin from: one takes a third of the time then.
//
//go:wasmexport doorward_v1_warm
func warm() int32 {
	var r Request
	if json.Unmarshal([]byte(`{"abi":1,"method":"password","credential":{"username":"u","password":"p"},"client":{"ip":"192.0.2.1"},"state":{}}`), &r) != nil {
		return 1
	}
	if _, err := json.Marshal(Challenge("otp", r.Credential, r.Client)); err != nil {
		return 1
	}
	return 0
}

// stop ends this login; the text is in the tenant's log.
func stop(why string) {
	b := []byte(why)
	fail(1, at(b), uint32(len(b)))
}

func at(b []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(b)) }

func hostConfigGet(key []byte) ([]byte, int32)  { return read(configGet(at(key), uint32(len(key)))) }
func hostSecretGet(name []byte) ([]byte, int32) { return read(secretGet(at(name), uint32(len(name)))) }
func hostPasswordHash(p []byte) ([]byte, int32) { return read(passwordHash(at(p), uint32(len(p)))) }
func hostPasswordVerify(hash, password []byte) int32 {
	return passwordVerify(at(hash), uint32(len(hash)), at(password), uint32(len(password)))
}
func hostTOTPVerify(secret, code []byte) int32 {
	return totpVerify(at(secret), size(secret), at(code), size(code))
}
func hostHash(alg int32, data []byte) ([]byte, int32) { return read(hash(alg, at(data), size(data))) }
func hostHMAC(alg int32, key, data []byte) ([]byte, int32) {
	return read(hmac(alg, at(key), size(key), at(data), size(data)))
}
func hostSecretHMAC(name []byte, alg int32, data []byte) ([]byte, int32) {
	return read(secretHMAC(at(name), size(name), alg, at(data), size(data)))
}
func hostSigVerify(alg int32, key, message, signature []byte) int32 {
	return sigVerify(alg, at(key), size(key), at(message), size(message), at(signature), size(signature))
}
func hostKVGet(ns, key []byte) ([]byte, int32) {
	return read(kvGet(at(ns), size(ns), at(key), size(key)))
}
func hostKVPut(ns, key, value []byte, ttl int32) int32 {
	return kvPut(at(ns), size(ns), at(key), size(key), at(value), size(value), ttl)
}
func hostKVIncr(ns, key []byte, by, ttl int32) int32 {
	return kvIncr(at(ns), size(ns), at(key), size(key), by, ttl)
}
func hostKVCAS(ns, key, old, value []byte, ttl int32) int32 {
	return kvCAS(at(ns), size(ns), at(key), size(key), at(old), size(old), at(value), size(value), ttl)
}
func hostHTTPFetch(request []byte) ([]byte, int32) {
	return read(httpFetch(at(request), size(request)))
}
func hostFail(why string) { stop(why) }

func size(b []byte) uint32 { return uint32(len(b)) }

func hostLog(level int32, text []byte) { log(level, at(text), uint32(len(text))) }

// read fetches the bytes that the last function left, or passes its error on.
func read(n int32) ([]byte, int32) {
	if n <= 0 {
		return nil, n
	}
	value := make([]byte, n)
	return value, resultRead(at(value), 0, uint32(n))
}
