package wasm_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/plugins/wasm"
	"github.com/doorward/doorward/sdk/abi"
)

// endless are modules that run for ever, or as good as, each past another way
// to be stopped.
func endless() map[string][]byte {
	i32Const0 := []byte{0x41, 0}
	table := []byte{1, 0x70, 0, 1}
	fill := []byte{0x41, 0, 0x41, 0, 0x41, 0x80, 0x80, 0x80, 0x1f, 0xfc, 11, 0} // memory.fill(0, 0, 62 MiB)
	double := func(callee byte) []byte { return code(nil, 0x41, 0, 0x10, callee, 0x1a, 0x41, 0, 0x10, callee) }
	// Thirty functions, each of which calls the next one twice: no loop and no
	// recursion, and a thousand million calls.
	var tree [][]byte
	for n := range 30 {
		tree = append(tree, double(byte(n+1)))
	}
	tree = append(tree, code(nil, 0x41, 0))
	noops := cat(repeat(100_000, 1), []byte{0x41, 0})
	return map[string][]byte{
		"loop":                     guesttest.Loops().Module(),
		"recursion":                guesttest.Recurses().Module(),
		"growing":                  guesttest.Grows().Module(),
		"call tree":                parts{functions: cat([]byte{31}, repeat(31, 0)), codes: vector(tree...)}.module(),
		"branch table":             body(cat([]byte{0x03, 0x40, 0x41, 0, 0x0e, 0, 0, end}, i32Const0)...),
		"br_if":                    body(cat([]byte{0x03, 0x40, 0x41, 1, 0x0d, 0, end}, i32Const0)...),
		"loop in an if in a block": body(cat([]byte{0x02, 0x40, 0x41, 1, 0x04, 0x40, 0x03, 0x40, 0x0c, 0, end, end, end}, i32Const0)...),
		"loop with a result":       body(0x03, i32, 0x0c, 0, end),
		"fill in a loop": parts{memories: []byte{1, 0, 0x80, 0x08},
			codes: vector(code(nil, cat([]byte{0x03, 0x40}, fill, []byte{0x0c, 0, end}, i32Const0)...))}.module(),
		"fills without a loop": parts{memories: []byte{1, 0, 0x80, 0x08},
			codes: vector(code(nil, cat(repeat(2_400, fill...), i32Const0)...))}.module(),
		"table fills": parts{tables: cat([]byte{1, 0x70, 0}, uleb(65536)),
			codes: vector(code(nil, cat(repeat(2_400, 0x41, 0, 0xd0, 0x70, 0x41, 0x80, 0x80, 4, 0xfc, 17, 0), i32Const0)...))}.module(),
		"indirect recursion": parts{tables: table, elements: []byte{1, 0, 0x41, 0, end, 1, 0},
			codes: vector(code(nil, 0x41, 0, 0x41, 0, 0x11, 0, 0, 0x1a, 0x41, 0, 0x41, 0, 0x11, 0, 0))}.module(),
		"long bodies called in turn": parts{functions: []byte{2, 0, 0}, codes: vector(
			code(nil, cat([]byte{0x03, 0x40, 0x41, 0, 0x10, 1, 0x1a, 0x0c, 0, end}, i32Const0)...), code(nil, noops...))}.module(),
	}
}

// A module that runs for ever is stopped by its fuel, soon after it is used up:
// what it still uses then is no more than one function's code.
func TestWhatRunsForEverIsStopped(t *testing.T) {
	const fuel = 2 * wasm.FuelPerMillisecond
	for engine, config := range engines {
		for name, module := range endless() {
			t.Run(engine+"/"+name, func(t *testing.T) {
				g, err := start(t.Context(), config(), module, wasm.Rewrite, fuel)
				if err != nil {
					t.Fatal(err)
				}
				defer g.runtime.Close(t.Context())
				began := time.Now()
				_, err = g.ask(t.Context(), nil)
				f, s := left(g.instance)
				itsOwn := engine == "interpreter" && reason(err) == "wasm error: stack overflow" // at 2,000 calls
				if err == nil || f >= 0 && s >= 0 && !itsOwn {
					t.Fatalf("%v, with %d of fuel and %d of stack left", reason(err), f, s)
				}
				if f < -wasm.FuelPerMillisecond*10 {
					t.Errorf("it used %d more than it had", -f)
				}
				t.Logf("%v after %v, fuel %d, stack %d", reason(err), time.Since(began), f, s)
			})
		}
	}
}

// A start function runs when it is called, with fuel, and not by itself.
func TestAStartFunctionRunsOnFuel(t *testing.T) {
	spin := parts{types: vector(verifyType, []byte{0x60, 0, 0}), functions: []byte{2, 0, 1}, start: []byte{1},
		codes: vector(code(nil, 0x41, 0), code(nil, 0x03, 0x40, 0x0c, 0, end))}.module()
	m, err := wasm.Read(spin, wasm.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	r := wazero.NewRuntime(t.Context())
	defer r.Close(t.Context())
	instance, err := r.Instantiate(t.Context(), wasm.Rewrite(m)) // comes back
	if err != nil {
		t.Fatal(err)
	}
	set(instance, wasm.FuelPerMillisecond)
	if _, err := instance.ExportedFunction(wasm.StartExport).Call(t.Context()); err == nil {
		t.Error("an endless loop came to its end")
	}
	if f, _ := left(instance); f >= 0 {
		t.Errorf("%d of fuel are left", f)
	}
}

// Nothing runs without fuel: a host that forgets to give some finds out.
func TestWithoutFuelNothingRuns(t *testing.T) {
	g, err := start(t.Context(), wazero.NewRuntimeConfigCompiler(), guesttest.Accepts("alice").Module(), wasm.Rewrite, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer g.runtime.Close(t.Context())
	if _, err := g.ask(t.Context(), nil); err == nil {
		t.Error("it answered")
	}
}

// Recursion ends at the stack's limit, long before the engine's own at 400 MB,
// also when each frame is as large as an engine can be made to make it: here
// thousands of values are kept over each call.
func TestRecursionEndsAtTheStacksLimit(t *testing.T) {
	const values = 20_000
	self := []byte{0x20, 0, 0x10, 0}
	wide := cat(repeat(values, self...), repeat(values-1, 0x6a))
	for name, module := range map[string][]byte{
		"plain":       guesttest.Deepens().Module(),
		"wide frames": body(wide...),
		"many locals": parts{codes: vector(code(locals(900), cat(self, repeat(10, 0x21, 1, 0x20, 1))...))}.module(),
	} {
		t.Run(name, func(t *testing.T) {
			g, err := start(t.Context(), wazero.NewRuntimeConfigCompiler(), module, wasm.Rewrite, plenty)
			if err != nil {
				t.Fatal(err)
			}
			defer g.runtime.Close(t.Context())
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err = g.ask(t.Context(), nil)
			runtime.ReadMemStats(&after)
			_, s := left(g.instance)
			if err == nil || s >= 0 {
				t.Fatalf("%v, with a stack of %d left", err, s)
			}
			// The engine doubles a stack and copies it: all of them together are
			// less than twice the last.
			if took := after.TotalAlloc - before.TotalAlloc; took > 64*wasm.Stack {
				t.Errorf("it took %d bytes of stack", took)
			} else {
				t.Logf("it took %d bytes of stack", took)
			}
		})
	}
}

// What an author's own code does with a global or a local that is not his is
// not read at all; what it does with its own changes neither fuel nor stack.
func TestAnAuthorCannotNameWhatIsAdded(t *testing.T) {
	for name, p := range map[string]parts{
		"the fuel":  {globals: cat([]byte{1, i64, 1, 0x42, 0, end}), codes: vector(code(nil, 0x42, 0, 0x24, 1, 0x41, 0))},
		"the stack": {globals: cat([]byte{1, i64, 1, 0x42, 0, end}), codes: vector(code(nil, 0x42, 0, 0x24, 2, 0x41, 0))},
		"the local": {codes: vector(code(nil, 0x41, 0, 0x21, 1, 0x41, 0, 0x41, 0, 0x41, 0, 0xfc, 11, 0, 0x41, 0))},
		"the type":  {types: vector(verifyType, []byte{0x60, 0, 2, i32, i32}), codes: vector(code(nil, 0x02, 2, end, 0x41, 0))},
	} {
		if _, err := wasm.Read(p.module(), wasm.Limits{}); err == nil {
			t.Errorf("%s can be named", name)
		}
	}
	own := parts{globals: cat([]byte{1, i64, 1, 0x42, 0, end}), codes: vector(code(nil, 0x42, 0x7f, 0x24, 0, 0x41, 0))}
	g, err := start(t.Context(), wazero.NewRuntimeConfigCompiler(), own.module(), wasm.Rewrite, 1000)
	if err != nil {
		t.Fatal(err)
	}
	defer g.runtime.Close(t.Context())
	if _, err := g.ask(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if f, s := left(g.instance); f < 900 || s != wasm.Stack {
		t.Errorf("fuel %d, stack %d", f, s)
	}
}

// A host function may take fuel too: the guest finds it gone.
func TestAHostFunctionMayTakeFuel(t *testing.T) {
	r := wazero.NewRuntime(t.Context())
	defer r.Close(t.Context())
	b := r.NewHostModuleBuilder(abi.Module)
	b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(_ context.Context, m api.Module, stack []uint64) {
		set(m, -1)
		stack[0] = 0
	}), []api.ValueType{i32, i32}, []api.ValueType{i32}).Export(abi.FuncRandom)
	if _, err := b.Instantiate(t.Context()); err != nil {
		t.Fatal(err)
	}
	g := guesttest.Guest{
		Imports: []guesttest.Import{{Module: abi.Module, Name: abi.FuncRandom, Params: 2, Result: true}},
		Code:    []byte{0x41, 0, 0x41, 0, 0x10, 0, 0x1a, 0x03, 0x40, end, 0x41, 0},
	}
	m, err := wasm.Read(g.Module(), wasm.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	instance, err := r.Instantiate(t.Context(), wasm.Rewrite(m))
	if err != nil {
		t.Fatal(err)
	}
	set(instance, plenty)
	if _, err := instance.ExportedFunction(abi.ExportVerify).Call(t.Context(), 0); err == nil {
		t.Error("the guest went on without fuel")
	}
}
