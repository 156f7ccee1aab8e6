//go:build !amd64

package sandbox_test

// forks are older calls, of this machine only, that return 0 in a new process.
var forks []uintptr
