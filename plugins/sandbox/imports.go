package sandbox

import "github.com/doorward/doorward/sdk/abi"

// granted are the functions of module doorward_v1 that are answered by the
// parent, and what they take, in order: b is a byte string, as pointer and
// length; n is a number. What may be imported at all, and as what type, package
// wasm has found out before a module gets here.
var granted = map[string]string{
	abi.FuncConfigGet:      "b",
	abi.FuncSecretGet:      "b",
	abi.FuncSecretHMAC:     "bnb",
	abi.FuncHash:           "nb",
	abi.FuncHMAC:           "nbb",
	abi.FuncSigVerify:      "nbbb",
	abi.FuncPasswordHash:   "b",
	abi.FuncPasswordVerify: "bb",
	abi.FuncTOTPVerify:     "bb",
	abi.FuncKVGet:          "bb",
	abi.FuncKVPut:          "bbbn",
	abi.FuncKVIncr:         "bbnn",
	abi.FuncKVCAS:          "bbbbn",
	abi.FuncHTTPFetch:      "b",
}
