package plugins

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/doorward/doorward/plugins/wasm"
	"github.com/doorward/doorward/sdk/abi"
)

// refusals are what to do about a module that is refused, by what its error says.
// The first that fits is told.
var refusals = []struct{ says, hint string }{
	{"not a WebAssembly module", "build it first: doorward verifier build; a text file (.wat) has to be assembled, and a .js or .ts file is bundled by verifier build"},
	{"a component?", "compile for wasm32-wasi (preview 1) or wasm32-unknown-unknown, not for wasip2; or take the core module out: wasm-tools component unbundle"},
	{`"env"."abort"`, "AssemblyScript's abort must be the SDK's: asc --use abort=doorward/abort, as verifier build does"},
	{`"wasi_unstable"`, "the toolchain is from before WASI preview 1; take a newer one"},
	{`"env"."emscripten`, "Emscripten's own host functions are not offered; compile with clang --target=wasm32-wasi and wasi-libc instead"},
	{`import "env"`, "a function was declared and never defined, so that the linker took it for an import; define it, or import it from module doorward_v1 (C: __attribute__((import_module(\"doorward_v1\"))))"},
	{`import "doorward_v1"`, "the name is misspelt, or the SDK is newer than this doorward; godoc of sdk/abi lists what is offered"},
	{"; the contract gives it", "the SDK's glue and this doorward differ; take the glue of this doorward (doorward verifier new writes it)"},
	{"does not export its memory", "Go, C and AssemblyScript export it by themselves; with wasm-ld add --export-memory, and do not pass --import-memory"},
	{"exports neither", `the function is missing or the linker dropped it; Go: build with -buildmode=c-shared; C: __attribute__((export_name("doorward_v1_verify"))); Rust: #[no_mangle] pub extern "C" in a cdylib`},
	{"vectors (v128)", "compile without SIMD: leave out -msimd128, or RUSTFLAGS=-Ctarget-feature=-simd128"},
	{"SIMD", "compile without SIMD: leave out -msimd128, or RUSTFLAGS=-Ctarget-feature=-simd128"},
	{"shared, or 64 bits wide", "compile without threads (-pthread, --shared-memory) and for wasm32, not wasm64"},
	{"table.grow", "leave out what loads code while it runs (reference types' table.grow); no SDK needs it"},
	{"only functions are offered", "do not pass --import-memory or --import-table to the linker"},
	{"two sections doorward.manifest", "the manifest was put in twice; build the module anew"},
	{"differ; send one of them", "build the module anew after a change of the manifest, and leave --manifest out"},
	{"imports what its manifest does not ask for", "put these lines into doorward.manifest.json and build anew, or take out the call that needs them"},
	{"granted by name only", "write a doorward.manifest.json with the names, and build anew"},
	{"grants.http", "write exact names with their port, such as idp.acme.test:443; there are no wildcards"},
	{"the manifest cannot be read", "mend doorward.manifest.json at that place; godoc of sdk/abi, type Manifest, has its members"},
	{`the manifest has "abi"`, `the manifest begins with "abi": 1`},
	{"limits.", "change \"limits\" in doorward.manifest.json and build anew"},
	{"the module starts with", "change \"limits\" in doorward.manifest.json and build anew"},
	{"it takes too long to compile", "a generated or inlined function is very large; compile with -Os, or split it"},
	{"it takes more to compile", "a generated or inlined function is very large; compile with -Os, or split it"},
	{"module bytes", "leave out debugging information (-ldflags=-w, -g0), or use a smaller toolchain"},
}

// Hint says what an author can do about an error of Examine, Rehearse, ReadSuite
// or Catalog.Upload; "" when its text says it all.
func Hint(err error) string {
	if !errors.Is(err, ErrInvalid) {
		return ""
	}
	text := err.Error()
	for _, r := range refusals {
		if strings.Contains(text, r.says) {
			return r.hint
		}
	}
	var refused *wasm.Error
	if errors.As(err, &refused) {
		if refused.Limit != "" {
			return "compile for size (-Os, -Oz), leave out what is not used, or split what is generated"
		}
		return "the file is damaged, or made by a toolchain with extensions that are not accepted; build it anew, with the target's plain features"
	}
	if strings.Contains(text, "module refused") {
		return "the compiler found code that is not valid; build it anew, and report it to the toolchain if it stays"
	}
	return ""
}

// failures are what to do about a run that failed, by what its error says.
var failures = []struct{ says, hint string }{
	{"the guest failed with code", "the verifier gave up by itself (fail, or an exception in JavaScript): its text says why"},
	{"CPU limit", "look for a loop; hash passwords by the host (VerifyPassword), which costs no fuel; or raise limits.cpu_ms"},
	{"wall limit", "it waited for somebody: see the calls' times, and raise limits.wall_ms only when that is right"},
	{"nested too deep", "a function calls itself without end, or keeps large arrays on the stack"},
	{"returned without an answer", "every way through verify must answer: a host function that fails is an error to handle, or call fail"},
	{"out of bounds memory access", "it read or wrote outside its memory: look at the innermost function of the stack"},
	{"unreachable", "it panicked or aborted: the log above says why, if the language prints it"},
	{"integer divide by zero", "it divided by zero in the innermost function of the stack"},
	{"indirect call", "it called a function pointer that is none"},
	{"more memory", "raise limits.memory_mib, or keep less"},
	{"its worker ended", "it took more memory or stack than a worker has"},
	{"its claims name", "the host sets that claim; take another name"},
	{"not one valid JSON value", "write the answer by a JSON library, or the SDK"},
	{"no answer to that is recorded", "run once with --record, or write the answer into the vector's \"http\""},
}

// Advice is Hint for a run that failed, or was not what was expected, by what a try
// tells of it.
func Advice(t Trace) string { return hintOf(t, t.Error) }

// hintOf says what an author can do about a step that did not do what was expected;
// "" when nothing is known.
func hintOf(t Trace, why string) string {
	for _, f := range failures {
		if strings.Contains(why, f.says) {
			return f.hint
		}
	}
	called := func(outcome string, names ...string) bool {
		return slices.ContainsFunc(t.HostCalls, func(c HostCall) bool {
			return c.Outcome == outcome && (len(names) == 0 || slices.Contains(names, c.Name))
		})
	}
	switch {
	case called(outcomes[abi.ErrNotGranted]):
		i := slices.IndexFunc(t.HostCalls, func(c HostCall) bool { return c.Outcome == outcomes[abi.ErrNotGranted] })
		return fmt.Sprintf("%s was not granted: name what it asked for under \"grants\" in doorward.manifest.json", t.HostCalls[i].Name)
	case called(outcomes[abi.ErrNotFound], abi.FuncConfigGet) && strings.Contains(why, "decision is"):
		return `config_get found nothing by that key: give the vector a "config", or look at the key's spelling`
	case called(outcomes[abi.ErrNotFound], abi.FuncSecretGet, abi.FuncSecretHMAC):
		return `a secret was asked for that is not there: give the vector "secrets"`
	case called(outcomes[abi.ErrQuota]):
		return "a host function answered quota: a login may make so many calls; see the limits in godoc of sdk/abi"
	case called("ok", abi.FuncTOTPVerify) && strings.Contains(why, "decision is"):
		return `a one-time code is right at one time only: give the vector a "now_ms"`
	}
	return ""
}
