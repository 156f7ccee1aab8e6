package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// built holds what make build put there: NAME.wasm for each ready-made
// verifier, and a README.
//
//go:embed verifiers
var built embed.FS

// readyMade returns a ready-made verifier: the one embedded, or else, inside a
// checkout with a Go toolchain, one built now.
func readyMade(ctx context.Context, name string, out io.Writer) ([]byte, error) {
	module, err := built.ReadFile("verifiers/" + name + ".wasm")
	if !errors.Is(err, fs.ErrNotExist) {
		return module, err
	}
	if !inCheckout(ctx) {
		return nil, fmt.Errorf("the verifier %q is not built into this program, and there is no Go toolchain in a doorward checkout here to build it; run: make build", name)
	}
	fmt.Fprintf(out, "Building the verifier %q with the local Go; make build does that once for all …\n", name)
	dir, err := os.MkdirTemp("", "doorward-build-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, name+".wasm")
	build := exec.CommandContext(ctx, "go", "run", "github.com/doorward/doorward/sdk/verifiers/build", name, file)
	if text, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build verifier %q: %w\n%s\nrun: make build", name, err, text)
	}
	return os.ReadFile(file)
}

// inCheckout reports whether the working directory is in this module and Go is
// there to build with.
func inCheckout(ctx context.Context) bool {
	module, err := exec.CommandContext(ctx, "go", "list", "-m").Output()
	return err == nil && strings.TrimSpace(string(module)) == "github.com/doorward/doorward"
}
