package wasm_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/doorward/doorward/plugins/wasm"
)

// plenty is more fuel than any test uses.
const plenty = 1 << 40

// engines are the two that wazero has. A guest meets the compiler; the
// interpreter is a second opinion on what a rewritten module means.
var engines = map[string]func() wazero.RuntimeConfig{
	"compiler":    wazero.NewRuntimeConfigCompiler,
	"interpreter": wazero.NewRuntimeConfigInterpreter,
}

// set gives a rewritten instance fuel and stack, as a host does before a call.
func set(m api.Module, fuel int64) {
	m.ExportedGlobal(wasm.FuelExport).(api.MutableGlobal).Set(uint64(fuel))
	m.ExportedGlobal(wasm.StackExport).(api.MutableGlobal).Set(wasm.Stack)
}

func left(m api.Module) (fuel, stack int64) {
	return int64(m.ExportedGlobal(wasm.FuelExport).Get()), int64(m.ExportedGlobal(wasm.StackExport).Get())
}

// reason is the part of a trap's text that says why.
func reason(err error) string {
	if err == nil {
		return ""
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return first
}

// suite is the specification's own tests, which come with wazero.
func suite(t *testing.T) []string {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/tetratelabs/wazero").Output()
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, version := range []string{"v1", "v2"} {
		found, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "internal/integration_test/spectest", version, "testdata/*.json"))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < 100 {
		t.Fatalf("%d files of the specification's tests", len(files))
	}
	return files
}

type command struct {
	Type       string
	Filename   string
	ModuleType string `json:"module_type"`
	Name       string
	Line       int
	Action     struct {
		Type   string
		Field  string
		Module string
		Args   []struct {
			Type  string
			Value any
		}
	}
}

func commands(t *testing.T, file string) []command {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var s struct{ Commands []command }
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	return s.Commands
}

// arguments of a command, and whether they can be given to a function.
func (c command) arguments() ([]uint64, bool) {
	var args []uint64
	for _, a := range c.Action.Args {
		text, ok := a.Value.(string)
		if !ok {
			return nil, false
		}
		if text == "null" {
			args = append(args, 0)
			continue
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, false
		}
		if a.Type == "externref" {
			n++ // 0 is null
		}
		args = append(args, n)
	}
	return args, true
}

// pair is a module as it is and as it is rewritten, in the same state; exact is
// rewritten with a charge before each single instruction, and says what was
// really run.
type pair struct {
	plain, rewritten, exact api.Module
	memory                  bool
}

// The rewritten module gives the results and the traps that the unmodified one
// gives, command by command through the specification's tests, has the same
// memory after them, has given back all the stack it took, and has never been
// charged less than it ran.
func TestARewrittenModuleDoesTheSameBySpecification(t *testing.T) {
	for name, config := range engines {
		t.Run(name, func(t *testing.T) {
			modules, calls, traps := 0, 0, 0
			for _, file := range suite(t) {
				if strings.Contains(file, "/simd_") {
					continue
				}
				m, c, tr := compareFile(t, config(), file)
				modules, calls, traps = modules+m, calls+c, traps+tr
			}
			t.Logf("%d modules, %d calls of which %d trapped", modules, calls, traps)
			if modules < 400 || calls < 20_000 || traps < 500 {
				t.Error("most of the tests were not run")
			}
		})
	}
}

func compareFile(t *testing.T, config wazero.RuntimeConfig, file string) (modules, calls, traps int) {
	ctx := t.Context()
	var runtimes []wazero.Runtime
	defer func() {
		for _, r := range runtimes {
			r.Close(ctx)
		}
	}()
	name := filepath.Base(filepath.Dir(filepath.Dir(file))) + "/" + filepath.Base(file)
	var now *pair
	named := map[string]*pair{}
	for _, c := range commands(t, file) {
		switch c.Type {
		case "module":
			compareState(t, name, now)
			b, err := os.ReadFile(filepath.Join(filepath.Dir(file), c.Filename))
			if err != nil {
				t.Fatal(err)
			}
			if now = instantiate(t, ctx, &runtimes, config, fmt.Sprintf("%s:%d", name, c.Line), b); now != nil {
				modules++
			}
			if c.Name != "" {
				named[c.Name] = now
			}
		case "assert_return", "assert_trap", "action", "assert_exhaustion":
			p := now
			if c.Action.Module != "" {
				p = named[c.Action.Module]
			}
			args, ok := c.arguments()
			if p == nil || !ok || c.Action.Type != "invoke" {
				continue
			}
			set(p.rewritten, plenty)
			got, err := p.rewritten.ExportedFunction(c.Action.Field).Call(ctx, args...)
			fuel, stack := left(p.rewritten)
			if c.Type == "assert_exhaustion" {
				// The interpreter has a limit of its own, of 2,000 calls.
				if err == nil || stack >= 0 && !strings.Contains(reason(err), "stack overflow") {
					t.Errorf("%s:%d: %v with a stack of %d left", name, c.Line, err, stack)
				}
				continue // the unmodified one takes hundreds of megabytes to find out
			}
			set(p.exact, plenty)
			p.exact.ExportedFunction(c.Action.Field).Call(ctx, args...)
			exact, _ := left(p.exact)
			want, wantErr := p.plain.ExportedFunction(c.Action.Field).Call(ctx, args...)
			calls++
			if wantErr != nil {
				traps++
			}
			if reason(err) != reason(wantErr) || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s:%d: %s%v: %v, %q; unmodified: %v, %q", name, c.Line, c.Action.Field, args, got, reason(err), want, reason(wantErr))
			}
			if fuel < 0 || fuel > exact || err == nil && stack != wasm.Stack {
				t.Errorf("%s:%d: %s: stack %d left, charged %d for %d", name, c.Line, c.Action.Field, stack, plenty-fuel, plenty-exact)
			}
		}
	}
	compareState(t, name, now)
	return modules, calls, traps
}

// instantiate makes both of a module; nil when it is not one that is read, or
// needs another module.
func instantiate(t *testing.T, ctx context.Context, runtimes *[]wazero.Runtime, config wazero.RuntimeConfig, name string, b []byte) *pair {
	m, err := wasm.Parse(b, wasm.Limits{})
	if err != nil {
		return nil
	}
	var all [3]api.Module
	var errs [3]error
	for i, b := range [][]byte{b, wasm.Rewrite(m), wasm.RewriteExactly(m)} {
		r := wazero.NewRuntimeWithConfig(ctx, config.WithMemoryLimitPages(1024))
		*runtimes = append(*runtimes, r)
		spectest(t, ctx, r)
		all[i], errs[i] = r.InstantiateWithConfig(ctx, b, wazero.NewModuleConfig().WithName("").WithStartFunctions())
		if i > 0 && errs[i] == nil {
			set(all[i], plenty)
			if start := all[i].ExportedFunction(wasm.StartExport); start != nil {
				_, errs[i] = start.Call(ctx)
			}
		}
	}
	if (errs[0] == nil) != (errs[1] == nil) || (errs[0] == nil) != (errs[2] == nil) {
		t.Errorf("%s: unmodified: %v; rewritten: %v; exactly: %v", name, errs[0], errs[1], errs[2])
		return nil
	}
	if errs[0] != nil {
		return nil
	}
	return &pair{all[0], all[1], all[2], m.HasMemory()}
}

// spectest is the module that the specification's tests print with.
func spectest(t *testing.T, ctx context.Context, r wazero.Runtime) {
	t.Helper()
	b := r.NewHostModuleBuilder("spectest")
	for name, params := range map[string][]api.ValueType{
		"print": {}, "print_i32": {i32}, "print_i64": {i64}, "print_f32": {f32}, "print_f64": {f64}, "print_i32_f32": {i32, f32}, "print_f64_f64": {f64, f64},
	} {
		b.NewFunctionBuilder().WithGoFunction(api.GoFunc(func(context.Context, []uint64) {}), params, nil).Export(name)
	}
	if _, err := b.Instantiate(ctx); err != nil {
		t.Fatal(err)
	}
}

func compareState(t *testing.T, name string, p *pair) {
	t.Helper()
	if p == nil || !p.memory {
		return
	}
	a, _ := p.plain.Memory().Read(0, p.plain.Memory().Size())
	b, _ := p.rewritten.Memory().Read(0, p.rewritten.Memory().Size())
	if string(a) != string(b) {
		t.Errorf("%s: the memories differ", name)
	}
}

// A module that is malformed in its binary form is refused by the reader, and
// one whose types do not fit is refused by the engine after the rewriter as it
// is before it.
func TestWhatTheSpecificationCallsWrongIsRefused(t *testing.T) {
	malformed, invalid := 0, 0
	for _, file := range suite(t) {
		for _, c := range commands(t, file) {
			if c.ModuleType != "binary" || c.Type != "assert_malformed" && c.Type != "assert_invalid" {
				continue
			}
			b, err := os.ReadFile(filepath.Join(filepath.Dir(file), c.Filename))
			if err != nil {
				t.Fatal(err)
			}
			m, err := wasm.Parse(b, wasm.Limits{})
			if c.Type == "assert_malformed" {
				malformed++
				if err == nil {
					t.Errorf("%s:%d: %s is read", filepath.Base(file), c.Line, c.Filename)
				}
				continue
			}
			invalid++
			if err != nil || m.HasStart() { // the type of a start function is the contract's business
				continue
			}
			r := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfigInterpreter())
			_, plain := r.CompileModule(t.Context(), b) // what was wrong in version 1 may be right in 2
			_, rewritten := r.CompileModule(t.Context(), wasm.Rewrite(m))
			if (plain == nil) != (rewritten == nil) {
				t.Errorf("%s:%d: %s: %v; rewritten: %v", filepath.Base(file), c.Line, c.Filename, plain, rewritten)
			}
			r.Close(t.Context())
		}
	}
	t.Logf("%d malformed, %d invalid", malformed, invalid)
	if malformed < 100 || invalid < 1000 {
		t.Error("most of the tests were not run")
	}
}

// What a host sets back must all be there to be set, and nothing of it may be
// offered where setting it back is not enough.
func TestWhatAnImageIsMadeOfIsExported(t *testing.T) {
	hidden := parts{globals: vector([]byte{i32, 1, 0x41, 1, end}, []byte{i32, 0, 0x41, 2, end}, []byte{i64, 1, 0x42, 3, end}, []byte{f64, 1, 0x44, 0, 0, 0, 0, 0, 0, 0, 0x40, end})}
	dropping := hidden
	dropping.dataCount, dropping.data, dropping.codes = []byte{1}, []byte{1, 1, 0}, vector(code(nil, 0xfc, 9, 0, 0x41, 0))
	for _, c := range []struct {
		parts
		values []uint64
	}{{hidden, []uint64{1, 3, 0x4000000000000000}}, {dropping, nil}} {
		m, err := wasm.Read(c.module(), wasm.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		r := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfigInterpreter())
		defer r.Close(t.Context())
		instance, err := r.Instantiate(t.Context(), wasm.Rewrite(m))
		if err != nil {
			t.Fatal(err)
		}
		if is := instance.ExportedMemory(wasm.ImageExport) != nil; is != (c.values != nil) {
			t.Errorf("%q: image export %v", m.Unresettable, is)
		}
		for n, value := range c.values {
			if g, ok := instance.ExportedGlobal(wasm.GlobalExport(n)).(api.MutableGlobal); !ok || g.Get() != value {
				t.Errorf("global %d is not there to be set, or is not %x", n, value)
			}
		}
		if instance.ExportedGlobal(wasm.GlobalExport(len(c.values))) != nil {
			t.Errorf("%d globals and one more", len(c.values))
		}
	}
}
