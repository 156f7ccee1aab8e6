package wasm_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/plugins/wasm"
	"github.com/doorward/doorward/sdk/abi"
)

// endless are the modules of the corpus that run for ever, or as good as, or
// nest without end, and need no host for it.
func endless(t *testing.T) map[string][]byte {
	modules := map[string][]byte{}
	for _, c := range guesttest.Hostile() {
		if number := c.Number; c.Stopped != guesttest.Calling || number != "P-11" && number != "P-12" && number != "P-13" && number != "P-14" {
			continue
		}
		m, err := wasm.Read(c.Module, wasm.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if m.Profile == wasm.Core && !m.HasStart() && !strings.Contains(c.Name, "init") {
			modules[c.String()] = c.Module
		}
	}
	if len(modules) < 20 {
		t.Fatalf("%d modules that run for ever are left", len(modules))
	}
	return modules
}

// A module that runs for ever is stopped by its fuel, soon after it is used up:
// what it still uses then is no more than one function's code.
func TestWhatRunsForEverIsStopped(t *testing.T) {
	const fuel = 2 * wasm.FuelPerMillisecond
	for engine, config := range engines {
		for name, module := range endless(t) {
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
	for name, module := range endless(t) {
		if !strings.HasPrefix(name, "P-12 ") {
			continue
		}
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

// A call of the host costs what it costs, by whatever way it is made. Through a
// table it was once as cheap as a call of the module's own, and a guest's
// milliseconds of fuel were seconds of its worker's time.
func TestACallOfTheHostCostsTheSameThroughATable(t *testing.T) {
	const calls = 100
	used := map[string]int64{}
	for name, way := range map[string]struct {
		elements []byte
		call     []byte
	}{
		"by name":              {nil, []byte{0x10, 0}},
		"through a table":      {[]byte{1, 0, 0x41, 0, end, 1, 0}, []byte{0x41, 0, 0x11, 1, 0}},
		"through a table, set": {[]byte{1, 3, 0, 1, 0}, []byte{0x41, 0, 0xd2, 0, 0x26, 0, 0x41, 0, 0x11, 1, 0}},
	} {
		one := cat([]byte{0x41, 0, 0x41, 0}, way.call, []byte{0x1a})
		module := parts{
			types: vector(verifyType, guesttest.Signature("ii:i")), imports: vector(imported(abi.Module, abi.FuncOutputWrite, 1)),
			tables: []byte{1, 0x70, 0, 1}, elements: way.elements,
			exports: vector(memoryExport, export(abi.ExportVerify, 0, 1)), codes: vector(code(nil, cat(repeat(calls, one...), []byte{0x41, 0})...)),
		}.module()
		g, err := start(t.Context(), wazero.NewRuntimeConfigCompiler(), module, wasm.Rewrite, plenty)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := g.ask(t.Context(), nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		left, _ := left(g.instance)
		used[name] = plenty - left
		g.runtime.Close(t.Context())
	}
	for name, fuel := range used {
		if fuel < used["by name"] {
			t.Errorf("%d calls of the host cost %d by name and %d %s", calls, used["by name"], fuel, name)
		}
	}
}
