package sandbox

import "github.com/doorward/doorward/sdk/abi"

// granted are the functions of module doorward_v1 that are answered by the
// parent, and how many (pointer, length) pairs they take. What may be imported
// at all, and as what type, package wasm has found out before a module gets
// here.
var granted = map[string]int{
	abi.FuncConfigGet:      1,
	abi.FuncSecretGet:      1,
	abi.FuncPasswordHash:   1,
	abi.FuncPasswordVerify: 2,
}
