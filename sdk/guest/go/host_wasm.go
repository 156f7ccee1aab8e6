//go:build wasip1

package doorward

import (
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
func hostLog(level int32, text []byte) { log(level, at(text), uint32(len(text))) }

// read fetches the bytes that the last function left, or passes its error on.
func read(n int32) ([]byte, int32) {
	if n <= 0 {
		return nil, n
	}
	value := make([]byte, n)
	return value, resultRead(at(value), 0, uint32(n))
}
