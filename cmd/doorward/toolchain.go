package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/doorward/doorward/sdk/abi"
	"github.com/doorward/doorward/sdk/guest/js"
)

// toolchain is how a language becomes a module.
type toolchain struct {
	sdk   string // the language's directory below guest in package sdk
	needs string // what an author must have installed, for people
	build func(ctx context.Context, dir, out string) error
}

var toolchains = map[string]toolchain{
	"go":   {"go", "Go 1.26 or later", buildGo},
	"js":   {"js", "nothing", buildJS},
	"ts":   {"js", "esbuild, from npm", buildTS},
	"as":   {"assemblyscript", "Node.js and assemblyscript, from npm", buildAssemblyScript},
	"rust": {"rust", "rustc with the target wasm32-unknown-unknown, and lld", buildRust},
	"c":    {"c", "clang, lld and wasi-libc", buildC},
}

func languageNames() []string { return slices.Sorted(maps.Keys(toolchains)) }

// tool runs a compiler in a project's directory. What it printed is the error.
func tool(ctx context.Context, dir string, env []string, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	text, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(argv[0]), err, bytes.TrimRight(text, "\n"))
	}
	return nil
}

// find is the first of some programs that is installed, or an error that says how
// to get one.
func find(how string, names ...string) (string, error) {
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return filepath.Abs(path)
		}
	}
	return "", fmt.Errorf("%s is not installed; %s", names[0], how)
}

// sourcesIn are a project's files of a kind, by name.
func sourcesIn(dir, pattern string) ([]string, error) {
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("%s holds no %s", dir, pattern)
	}
	for i, path := range found {
		found[i] = filepath.Base(path)
	}
	return found, err
}

func buildGo(ctx context.Context, dir, out string) error {
	program, err := find("get Go 1.26 or later: https://go.dev/dl", "go")
	if err != nil {
		return err
	}
	// -w leaves out what debuggers read; -s would take the names from stacks too.
	return tool(ctx, dir, []string{"GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0", "GOWORK=off"},
		program, "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-w", "-o", out, ".")
}

func buildC(ctx context.Context, dir, out string) error {
	program, err := find("on Debian: apt-get install clang-14 lld-14 wasi-libc libclang-rt-14-dev-wasm32", "clang-14", "clang")
	if err != nil {
		return err
	}
	sources, err := sourcesIn(dir, "*.c")
	if err != nil {
		return err
	}
	argv := append([]string{program, "--target=wasm32-wasi", "-O2", "-Wall", "-mexec-model=reactor", "-Wl,--strip-debug", "-Wl,--stack-first", "-I.", "-o", out}, sources...)
	err = tool(ctx, dir, nil, argv...)
	if err != nil && lacksWASI.MatchString(err.Error()) {
		return fmt.Errorf("%w\n  hint: the compiler is there and what it needs for wasm32-wasi is not; on Debian: apt-get install lld-14 wasi-libc libclang-rt-14-dev-wasm32", err)
	}
	return err
}

// lacksWASI is what clang says without its linker, wasi-libc or its own runtime.
var lacksWASI = regexp.MustCompile(`'(string|std[a-z]+)\.h' file not found|wasm-ld|libclang_rt|crt1[a-z-]*\.o|unable to execute command`)

// rustTarget is the one that Rust verifiers are compiled for.
const rustTarget = "wasm32-unknown-unknown"

func buildRust(ctx context.Context, dir, out string) error {
	program, err := rustc(ctx)
	if err != nil {
		return err
	}
	source := "verifier.rs"
	if _, err := os.Stat(filepath.Join(dir, source)); err != nil {
		return fmt.Errorf("%s holds no %s, which is where a verifier in Rust begins", dir, source)
	}
	argv := []string{program, "--edition", "2021", "--target", rustTarget, "--crate-type", "cdylib", "-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=debuginfo",
		"-C", "link-arg=-zstack-size=262144", "-o", out} // a login begins from an image of the memory: the smaller the quicker
	if linker, err := find("", "wasm-ld-14", "wasm-ld"); err == nil { // rustup's brings its own
		argv = append(argv, "-C", "linker="+linker)
	}
	err = tool(ctx, dir, nil, append(argv, source)...)
	if err != nil && strings.Contains(err.Error(), "linker `") {
		return fmt.Errorf("%w\n  hint: the linker of LLVM is missing; on Debian: apt-get install lld-14", err)
	}
	return err
}

// rustc is a compiler that has the target's library: the one on PATH may not.
func rustc(ctx context.Context) (string, error) {
	for _, name := range []string{cmp.Or(os.Getenv("RUSTC"), "rustc"), "rustc", "/usr/bin/rustc"} {
		program, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		lib, err := exec.CommandContext(ctx, program, "--print", "target-libdir", "--target", rustTarget).Output()
		if err != nil {
			continue
		}
		if found, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(lib)), "libcore-*.rlib")); err == nil && len(found) > 0 {
			return program, nil
		}
	}
	return "", fmt.Errorf("no rustc here has the target %s; with rustup: rustup target add %s; on Debian: apt-get install rustc libstd-rust-dev-wasm32 lld-14", rustTarget, rustTarget)
}

func buildAssemblyScript(ctx context.Context, dir, out string) error {
	program, err := nodeProgram(dir, "asc")
	if err != nil {
		return fmt.Errorf("%w; in the project's directory: npm install", err)
	}
	// The project's asconfig.json has the rest; --debug keeps functions' names.
	return tool(ctx, dir, nil, program, "verifier.ts", "--target", "release", "--debug", "-o", out)
}

// nodeProgram finds a program of npm's: the project's own, or one that is
// installed.
func nodeProgram(dir, name string) (string, error) {
	at, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for {
		program := filepath.Join(at, "node_modules", ".bin", name)
		if _, err := os.Stat(program); err == nil {
			return program, nil
		}
		if filepath.Dir(at) == at {
			break
		}
		at = filepath.Dir(at)
	}
	program, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is not installed", name)
	}
	return program, nil
}

// modular tells a script that has to be bundled from one that is read as it is.
var modular = regexp.MustCompile(`(?m)^\s*(import|export)\b`)

func buildJS(ctx context.Context, dir, out string) error {
	return buildScript(ctx, dir, "verifier.js", out, false)
}

func buildTS(ctx context.Context, dir, out string) error {
	return buildScript(ctx, dir, "verifier.ts", out, true)
}

// buildScript puts a script into the JavaScript engine. One with types, or in
// parts, is made plain first, by a tool of the author's.
func buildScript(ctx context.Context, dir, source, out string, typed bool) error {
	engine, err := js.Engine()
	if err != nil {
		return err
	}
	script, err := os.ReadFile(filepath.Join(dir, source))
	if err != nil {
		return err
	}
	if bundled := modular.Match(script); typed || bundled {
		if script, err = plainScript(ctx, dir, source, out+".js", bundled); err != nil {
			return err
		}
	}
	text, err := readManifest(dir)
	if err != nil {
		return err
	}
	var manifest abi.Manifest
	if text != nil {
		if err := json.Unmarshal(text, &manifest); err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(dir, manifestFile), err)
		}
	}
	module, err := js.Bundle(engine, script, manifest.Grants)
	if err != nil {
		return fmt.Errorf("%s: %w", source, err)
	}
	return os.WriteFile(out, module, 0o644)
}

// plainScript has esbuild take the types out of a script, and put what it imports
// into it.
func plainScript(ctx context.Context, dir, source, out string, bundled bool) ([]byte, error) {
	program, err := nodeProgram(dir, "esbuild")
	if err != nil {
		return nil, fmt.Errorf("%s has types, or parts, which esbuild takes out and puts together, and %w; in the project's directory: npm install esbuild", source, err)
	}
	argv := []string{program, source, "--target=es2020", "--outfile=" + out, "--log-level=warning"}
	if bundled {
		argv = append(argv, "--bundle", "--format=iife", "--global-name=verifier", "--platform=neutral")
	}
	if err := tool(ctx, dir, nil, argv...); err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}

// languageList is the languages' names for a flag's usage.
func languageList() string { return strings.Join(languageNames(), ", ") }
