package wasm_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/doorward/doorward/plugins/wasm"
)

// generator writes random functions that are well typed and come to an end:
// loops count down at their head, and calls go to later functions only.
type generator struct {
	r        *rand.Rand
	depth    int   // labels that are open
	loops    []int // labels of loops, as depths
	counters int   // loop counters that are in use
	callable []int // functions that may be called
	calls    int   // that may still be written
	out      []byte
}

// Every function has (i32) -> i32, these locals, and two globals to play with.
const (
	plainLocals   = 6 // the parameter too
	counterLocals = 4
)

func (g *generator) emit(b ...byte) { g.out = append(g.out, b...) }

func (g *generator) expression(depth int) {
	switch n := g.r.IntN(12); {
	case depth <= 0 || n < 2:
		g.emit(0x20, byte(g.r.IntN(plainLocals)))
	case n < 3:
		g.emit(0x41)
		g.emit(sleb(int64(int32(g.r.Uint32())))...)
	case n < 4:
		g.emit(0x23, byte(g.r.IntN(2)))
	case n < 5: // a load, in the first page
		g.expression(depth - 1)
		g.emit(0x41)
		g.emit(sleb(0xfff0)...)
		g.emit(0x71, 0x28, 2, 0)
	case n < 6 && len(g.callable) > 0 && g.calls > 0:
		g.calls--
		g.expression(depth - 1)
		g.emit(0x10, byte(g.callable[g.r.IntN(len(g.callable))]))
	case n < 7: // an if with a value
		g.expression(depth - 1)
		g.emit(0x04, i32)
		g.depth++
		g.expression(depth - 1)
		g.emit(0x05)
		g.expression(depth - 1)
		g.depth--
		g.emit(end)
	case n < 8: // a division, which may trap
		g.expression(depth - 1)
		g.expression(depth - 1)
		g.emit(0x41, 1, 0x72) // seldom: mostly not by 0
		g.emit(byte(0x6d + g.r.IntN(4)))
	default:
		g.expression(depth - 1)
		g.expression(depth - 1)
		g.emit([]byte{0x6a, 0x6b, 0x6c, 0x71, 0x72, 0x73, 0x74, 0x76, 0x46, 0x48, 0x4b}[g.r.IntN(11)])
	}
}

func (g *generator) statements(budget int) {
	for range 1 + g.r.IntN(4) {
		g.statement(budget)
	}
}

func (g *generator) statement(budget int) {
	n := g.r.IntN(14)
	if budget <= 0 {
		n %= 5
	}
	switch {
	case n < 3:
		g.expression(3)
		g.emit(0x21, byte(g.r.IntN(plainLocals)))
	case n < 4:
		g.expression(2)
		g.emit(0x24, byte(g.r.IntN(2)))
	case n < 5: // a store
		g.expression(1)
		g.emit(0x41)
		g.emit(sleb(0xfff0)...)
		g.emit(0x71)
		g.expression(2)
		g.emit(0x36, 2, 0)
	case n < 6:
		g.emit(0x02, 0x40)
		g.depth++
		g.statements(budget - 1)
		g.depth--
		g.emit(end)
	case n < 8:
		g.expression(2)
		g.emit(0x04, 0x40)
		g.depth++
		g.statements(budget - 1)
		if g.r.IntN(2) == 0 {
			g.emit(0x05)
			g.statements(budget - 1)
		}
		g.depth--
		g.emit(end)
	case n < 10 && g.counters < counterLocals:
		counter := byte(plainLocals + g.counters)
		g.counters++
		g.emit(0x41, byte(1+g.r.IntN(5)), 0x21, counter, 0x02, 0x40, 0x03, 0x40)
		g.depth += 2
		g.loops = append(g.loops, g.depth)
		g.emit(0x20, counter, 0x41, 1, 0x6b, 0x22, counter, 0x45, 0x0d, 1)
		g.statements(budget - 1)
		if g.r.IntN(3) > 0 {
			g.emit(0x0c, 0)
		}
		g.loops = g.loops[:len(g.loops)-1]
		g.depth -= 2
		g.emit(end, end)
		g.counters--
	case n < 11 && g.depth > 0: // a branch out of, or back to, something
		g.expression(2)
		g.emit(0x0d, byte(g.r.IntN(g.depth)))
	case n < 12 && g.depth > 0:
		g.emit(0x02, 0x40)
		g.depth++
		g.expression(2)
		g.emit(0x0e)
		targets := 1 + g.r.IntN(4)
		g.emit(byte(targets))
		for range targets + 1 {
			g.emit(byte(g.r.IntN(g.depth)))
		}
		g.depth--
		g.emit(end)
	case n < 13: // an early way out, in an if
		g.expression(2)
		g.emit(0x41, 7, 0x71, 0x45, 0x04, 0x40)
		g.depth++
		g.expression(2)
		g.emit(0x0f)
		g.depth--
		g.emit(end)
	default: // a bulk instruction, mostly in bounds
		g.expression(1)
		g.emit(0x41)
		g.emit(sleb(0x7fff)...)
		g.emit(0x71)
		g.expression(1)
		g.expression(1)
		g.emit(0x41)
		g.emit(sleb(0xfff)...)
		g.emit(0x71, 0xfc, 11, 0)
	}
}

func generate(seed uint64) []byte {
	g := &generator{r: rand.New(rand.NewPCG(seed, 1))}
	count := 1 + g.r.IntN(5)
	var bodies [][]byte
	for f := range count {
		g.out, g.calls, g.callable = nil, 3, nil
		for later := f + 1; later < count; later++ {
			g.callable = append(g.callable, later)
		}
		g.statements(4)
		g.expression(2)
		bodies = append(bodies, code(locals(plainLocals-1+counterLocals), g.out...))
	}
	global := []byte{i32, 1, 0x41, 3, end}
	return parts{
		functions: cat([]byte{byte(count)}, repeat(count, 0)),
		globals:   vector(global, global),
		exports:   vector(memoryExport, export("doorward_v1_verify", 0, 0), export("a", 3, 0), export("b", 3, 1)),
		codes:     vector(bodies...),
	}.module()
}

// sleb is a signed LEB128.
func sleb(n int64) []byte {
	var out []byte
	for {
		b := byte(n & 0x7f)
		n >>= 7
		if n == 0 && b&0x40 == 0 || n == -1 && b&0x40 != 0 {
			return append(out, b)
		}
		out = append(out, b|0x80)
	}
}

// differ runs a generated module as it is, rewritten, and rewritten exactly, on
// one engine, and tells what differs; "" when nothing does.
func differ(t *testing.T, config wazero.RuntimeConfig, module []byte) string {
	m, err := wasm.Read(module, wasm.Limits{})
	if err != nil {
		return fmt.Sprintf("not read: %v", err)
	}
	var shown [3]string
	var used [3]int64
	for i, b := range [][]byte{module, wasm.Rewrite(m), wasm.RewriteExactly(m)} {
		r := wazero.NewRuntimeWithConfig(t.Context(), config)
		defer r.Close(t.Context())
		instance, err := r.Instantiate(t.Context(), b)
		if err != nil {
			return fmt.Sprintf("not instantiated: %v", err)
		}
		for _, argument := range []uint64{0, 1, 77, 0xffffffff} {
			if i > 0 {
				set(instance, plenty)
			}
			results, err := instance.ExportedFunction("doorward_v1_verify").Call(t.Context(), argument)
			if i > 0 {
				fuel, stack := left(instance)
				used[i] += plenty - fuel
				if err == nil && stack != wasm.Stack {
					return fmt.Sprintf("%d of the stack are left", stack)
				}
			}
			memory, _ := instance.Memory().Read(0, instance.Memory().Size())
			shown[i] += fmt.Sprint(results, reason(err), global(instance, "a"), global(instance, "b"), hash(memory), "\n")
		}
	}
	if shown[0] != shown[1] || shown[0] != shown[2] {
		return fmt.Sprintf("as it is:\n%srewritten:\n%s", shown[0], shown[1])
	}
	if used[1] < used[2] || used[1] > 3*used[2]+1000 {
		return fmt.Sprintf("charged %d for %d", used[1], used[2])
	}
	return ""
}

func global(m api.Module, name string) uint64 { return m.ExportedGlobal(name).Get() }

func hash(b []byte) (h uint64) {
	for _, c := range b {
		h = h*1_099_511_628_211 + uint64(c)
	}
	return h
}

// Modules with random control flow do the same once they are rewritten, on both
// engines, and pay for what they run.
func TestARewrittenModuleDoesTheSameWhateverItsControlFlow(t *testing.T) {
	for name, config := range engines {
		for seed := range uint64(150) {
			if d := differ(t, config(), generate(seed)); d != "" {
				t.Errorf("%s, seed %d: %s", name, seed, d)
			}
		}
	}
}

// FuzzRewrite looks for a seed that the test above has not.
func FuzzRewrite(f *testing.F) {
	f.Add(uint64(1 << 32))
	f.Fuzz(func(t *testing.T, seed uint64) {
		if d := differ(t, wazero.NewRuntimeConfigInterpreter(), generate(seed)); d != "" {
			t.Fatal(d)
		}
	})
}
