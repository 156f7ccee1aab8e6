// Command work is what a verifier may spend time on, in Go: the length of the
// request says which.
package main

func main() {}

var (
	table  [1024]uint32
	result uint32
)

//go:wasmexport doorward_v1_verify
func verify(n int32) int32 {
	switch n {
	case 1:
		result = compute()
	case 2:
		result = fib(22)
	default:
		result = deep(1 << 31)
	}
	return 0
}

// compute is arithmetic and memory, in a loop.
func compute() uint32 {
	x := uint32(1)
	for range 200_000 {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		table[x&1023] += x
	}
	return table[7]
}

// fib is hardly anything but calls.
func fib(n uint32) uint32 {
	if n < 2 {
		return n
	}
	return fib(n-1) + fib(n-2)
}

// deep calls itself without end, each time with something on the stack.
func deep(n uint32) uint32 {
	var frame [256]byte
	frame[n&255] = byte(n)
	if n == 0 {
		return 0
	}
	return deep(n-1) + uint32(frame[n&255])
}
