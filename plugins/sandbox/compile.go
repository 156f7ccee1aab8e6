package sandbox

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/doorward/doorward/plugins/wasm"
	"github.com/doorward/doorward/sdk/abi"
)

// engine is the configuration that compile children and workers share: only
// then does one find in the cache what the other put there.
func engine(cache wazero.CompilationCache, memoryMiB int) wazero.RuntimeConfig {
	return wazero.NewRuntimeConfigCompiler().
		WithCoreFeatures(api.CoreFeaturesV2).
		WithCompilationCache(cache).
		WithDebugInfoEnabled(false).
		WithMemoryLimitPages(uint32(memoryMiB) * pagesPerMiB)
}

const pagesPerMiB = 16

// compile is the compile child: it takes one module, compiles it into a cache of
// its own and says that it did, or why not. Before that it may be asked what
// binds it.
func compile(ctx context.Context, b bindings, parent io.ReadWriter) error {
	f, err := readFrame(parent)
	if err != nil {
		return err
	}
	if f.kind == kindProbe {
		return frame{kindOK, [][]byte{probing(f, "", b.unbound)}}.write(parent)
	}
	if f.kind != kindCompile || len(f.args) != 1 {
		return errFrame
	}
	if err := compiler(ctx, b.dir, f.args[0]); err != nil {
		return frame{kindFailed, [][]byte{[]byte(tidy(err))}}.write(parent)
	}
	return frame{kind: kindOK}.write(parent)
}

// compiler is what a compile child does; tests have it do worse.
var compiler = compileInto

func compileInto(ctx context.Context, cacheDir string, module []byte) error {
	cache, err := wazero.NewCompilationCacheWithDir(cacheDir)
	if err != nil {
		return fmt.Errorf("make room for its code: %w", err)
	}
	defer cache.Close(ctx)
	r := wazero.NewRuntimeWithConfig(ctx, engine(cache, abi.MaxMemoryMiB))
	defer r.Close(ctx)
	if _, err := r.CompileModule(ctx, module); err != nil {
		return fmt.Errorf("%w: %w", ErrModule, err)
	}
	return nil
}

// Engine names what runs modules on this node: the engine, and the rewriter that
// has them count what they do. What passed its vectors on one may fail on another.
func Engine() string { return engineName() + "/" + wasm.RewriterVersion }

// Read holds a module to what Compile holds it to before it is compiled. It is
// for who has no server: nothing is made of the module. ErrModule as Compile.
func Read(module []byte) (*wasm.Module, Report, error) {
	m, err := wasm.Read(module, wasm.Limits{ModuleBytes: maxModule})
	if err != nil {
		return nil, Report{}, fmt.Errorf("%w: %w", ErrModule, err)
	}
	return m, reportOf(m), nil
}

// reportOf tells what the reader found in a module.
func reportOf(m *wasm.Module) Report {
	report := Report{
		Profile: string(m.Profile), Exports: []string{}, Manifest: m.Manifest,
		MemoryMiB: (m.MemoryPages + pagesPerMiB - 1) / pagesPerMiB,
	}
	switch {
	case m.Profile == wasm.Stdio:
		report.Fresh = "it is a program that runs from its beginning to its end (stdio profile)"
	case m.Unresettable != "":
		report.Fresh = "it has " + m.Unresettable
	}
	for _, i := range m.Imports {
		report.Imports = append(report.Imports, i.Module+"."+i.Name)
	}
	sort.Strings(report.Imports)
	report.Imports = slices.Compact(report.Imports)
	for _, e := range m.Exports {
		if e.Kind == wasm.Function {
			report.Exports = append(report.Exports, e.Name)
		}
	}
	sort.Strings(report.Exports)
	return report
}

// stackTrace is how the engine begins the stack of a trap.
const stackTrace = "wasm stack trace:"

// tidy makes an error's text fit for a tenant: one paragraph, no Go stack, not
// without end.
func tidy(err error) string {
	text := strings.ReplaceAll(err.Error(), "\x00", "")
	text, _, _ = strings.Cut(text, "Go runtime stack trace")
	text, stack, _ := strings.Cut(text, stackTrace)
	text = strings.ReplaceAll(text, "(recovered by wazero)", "")
	text = strings.Join(strings.Fields(text), " ")
	var calls []string
	for line := range strings.Lines(stack) {
		if line = strings.TrimSpace(line); line != "" && len(calls) < 8 {
			name, _, _ := strings.Cut(line, "(")
			calls = append(calls, name)
		}
	}
	if len(calls) > 0 {
		text += "; stack: " + strings.Join(calls, " < ")
	}
	text = strings.TrimPrefix(text, ErrModule.Error()+": ")
	if len(text) > 1000 {
		text = text[:1000] + " …"
	}
	return text
}
