package wasm_test

import (
	"fmt"
	"testing"

	"github.com/doorward/doorward/plugins/wasm"
)

// dense are modules of about n bytes, each with as much to look at as n bytes
// can hold of one thing. The bound to keep is 5 ms for 64 KiB, and in
// proportion from there.
func dense(n int) map[string][]byte {
	ops := func(b ...byte) []byte { return parts{codes: vector(code(nil, cat(b, []byte{0x41, 0})...))}.module() }
	fill := func(item ...byte) []byte { return repeat(n/len(item), item...) }
	var bodies [][]byte // of as many functions as are allowed, so that they may be long
	for left := n; left > 0; left -= 500 << 10 {
		bodies = append(bodies, code(nil, cat(repeat(min(left, 500<<10), 1), []byte{0x41, 0})...))
	}
	return map[string][]byte{
		"nops":      parts{functions: cat([]byte{byte(len(bodies))}, repeat(len(bodies), 0)), codes: vector(bodies...)}.module(),
		"consts":    ops(fill(0x41, 0, 0x1a)[:min(n, 500<<10)/3*3]...),
		"blocks":    ops(fill(0x02, 0x40, end)[:min(n, 500<<10)/3*3]...),
		"functions": parts{functions: cat(uleb(uint64(min(n/5, 30_000))), repeat(min(n/5, 30_000), 0)), codes: cat(uleb(uint64(min(n/5, 30_000))), repeat(min(n/5, 30_000), code(nil, 0x41, 0)...))}.module(),
		"segments":  parts{data: cat(uleb(uint64(min(n/5, 100_000))), repeat(min(n/5, 100_000), 0, 0x41, 0, end, 0))}.module(),
		"customs":   parts{tail: fill(0, 1, 0)}.module(),
		"refused":   parts{data: cat(uleb(uint64(min(n/5, 100_000))), repeat(min(n/5, 100_000), 0, 0x41, 0, end, 0), []byte{0})}.module(),
	}
}

func BenchmarkRead(b *testing.B) {
	for _, n := range []int{64 << 10, 512 << 10, 4 << 20} {
		for name, module := range dense(n) {
			b.Run(fmt.Sprintf("%s/%dKiB", name, n>>10), func(b *testing.B) {
				b.SetBytes(int64(len(module)))
				b.ReportAllocs()
				for b.Loop() {
					wasm.Read(module, wasm.Limits{})
				}
			})
		}
	}
	guests, err := goGuests()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("go-hello", func(b *testing.B) {
		b.SetBytes(int64(len(guests["hello"])))
		b.ReportAllocs()
		for b.Loop() {
			wasm.Read(guests["hello"], wasm.Limits{})
		}
	})
}
