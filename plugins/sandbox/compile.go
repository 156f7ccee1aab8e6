package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/doorward/doorward/sdk/abi"
)

// engine is the configuration that compile children and workers share: only
// then does one find in the cache what the other put there.
func engine(cache wazero.CompilationCache, memoryMiB int) wazero.RuntimeConfig {
	return wazero.NewRuntimeConfigCompiler().
		WithCoreFeatures(api.CoreFeaturesV2).
		WithCompilationCache(cache).
		WithCustomSections(true).
		WithDebugInfoEnabled(false).
		WithMemoryLimitPages(uint32(memoryMiB) * pagesPerMiB)
}

const pagesPerMiB = 16

// compile is the compile child: it takes one module, compiles it into the
// cache and reports, or says why not.
func compile(ctx context.Context, cacheDir string, parent io.ReadWriter) error {
	f, err := readFrame(parent)
	if err != nil {
		return err
	}
	if f.kind != kindCompile || len(f.args) != 1 {
		return errFrame
	}
	report, err := examine(ctx, cacheDir, f.args[0])
	if err != nil {
		return frame{kindFailed, [][]byte{[]byte(tidy(err))}}.write(parent)
	}
	text, err := json.Marshal(report)
	if err != nil {
		return err
	}
	return frame{kindOK, [][]byte{text}}.write(parent)
}

func examine(ctx context.Context, cacheDir string, module []byte) (Report, error) {
	cache, err := wazero.NewCompilationCacheWithDir(cacheDir)
	if err != nil {
		return Report{}, fmt.Errorf("open module cache: %w", err)
	}
	defer cache.Close(ctx)
	r := wazero.NewRuntimeWithConfig(ctx, engine(cache, abi.MaxMemoryMiB))
	defer r.Close(ctx)
	m, err := r.CompileModule(ctx, module)
	if err != nil {
		return Report{}, fmt.Errorf("%w: %w", ErrModule, err)
	}
	imports, err := checkImports(m)
	if err != nil {
		return Report{}, err
	}
	if n, ok := importCount(module); !ok || n != len(m.ImportedFunctions()) {
		return Report{}, fmt.Errorf("%w: it imports a table or a global; only functions are offered", ErrModule)
	}
	report := Report{Imports: imports, Exports: []string{}}
	if report.Profile, err = profileOf(m); err != nil {
		return Report{}, err
	}
	for name := range m.ExportedFunctions() {
		report.Exports = append(report.Exports, name)
	}
	sort.Strings(report.Exports)
	memory := m.ExportedMemories()[abi.ExportMemory]
	report.MemoryMiB = int(memory.Min()+pagesPerMiB-1) / pagesPerMiB
	for _, section := range m.CustomSections() {
		if section.Name() != abi.ManifestSection {
			continue
		}
		if report.Manifest != nil {
			return Report{}, fmt.Errorf("%w: there are two sections %s", ErrModule, abi.ManifestSection)
		}
		report.Manifest = append([]byte{}, section.Data()...)
	}
	return report, nil
}

// profileOf tells how a module is run, or what it lacks.
func profileOf(m wazero.CompiledModule) (string, error) {
	if m.ExportedMemories()[abi.ExportMemory] == nil {
		return "", fmt.Errorf("%w: it does not export its memory as %q", ErrModule, abi.ExportMemory)
	}
	exports := m.ExportedFunctions()
	imported := 0
	for _, f := range m.ImportedFunctions() {
		imported = max(imported, int(f.Index())+1)
	}
	for _, e := range []struct {
		name string
		want signature
	}{
		{abi.ExportVerify, sig(1, i32)}, {abi.ExportInit, sig(1, i32)}, {abi.ExportWarm, sig(0, i32)},
		{abi.ExportInitialize, sig(0)}, {abi.ExportStart, sig(0)},
	} {
		f := exports[e.name]
		switch {
		case f == nil:
		case int(f.Index()) < imported:
			return "", fmt.Errorf("%w: export %s is an import; it must be the module's own function", ErrModule, e.name)
		case !slices.Equal(f.ParamTypes(), e.want.params) || !slices.Equal(f.ResultTypes(), e.want.results):
			return "", fmt.Errorf("%w: export %s has another signature than the contract gives it", ErrModule, e.name)
		}
	}
	if exports[abi.ExportVerify] != nil {
		return "core", nil
	}
	if exports[abi.ExportStart] != nil {
		return "stdio", nil
	}
	return "", fmt.Errorf("%w: it exports neither %s nor %s", ErrModule, abi.ExportVerify, abi.ExportStart)
}

// tidy makes an error's text fit for a tenant: one paragraph, no Go stack, not
// without end.
func tidy(err error) string {
	text := strings.ReplaceAll(err.Error(), "\x00", "")
	text, _, _ = strings.Cut(text, "Go runtime stack trace")
	text, stack, _ := strings.Cut(text, "wasm stack trace:")
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
