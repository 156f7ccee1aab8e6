//go:build !amd64

package sandbox

// Older calls that only this machine has: none.
var refusedHere, refusedWritingHere, undoneHere []uint32
