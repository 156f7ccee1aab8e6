// Command build builds one of the ready-made verifiers with the local Go and
// puts its manifest into it, unless it has none of its own (http-bridge, whose
// tenants name the hosts):
//
//	go run github.com/doorward/doorward/sdk/verifiers/build NAME FILE.wasm
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/doorward/doorward/sdk/abi"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: build NAME FILE.wasm")
		os.Exit(2)
	}
	if err := build(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func build(name, file string) error {
	source := "github.com/doorward/doorward/sdk/verifiers/" + name
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", source).Output()
	if err != nil {
		return fmt.Errorf("there is no verifier %q: %w", name, err)
	}
	manifest, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "doorward.manifest.json"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read manifest: %w", err)
	}
	bare := err != nil
	var short bytes.Buffer
	if err := json.Compact(&short, manifest); err != nil && !bare {
		return fmt.Errorf("read manifest: %w", err)
	}
	// go build leaves a file alone that it made before, also one that has got a
	// manifest since: so it makes a new one.
	fresh, err := os.MkdirTemp("", "doorward-verifier-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(fresh)
	built := filepath.Join(fresh, name+".wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o", built, source)
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build %s: %w", name, err)
	}
	module, err := os.ReadFile(built)
	if err != nil {
		return err
	}
	if !bare {
		module = abi.AppendManifest(module, short.Bytes())
	}
	return os.WriteFile(file, module, 0o644)
}
