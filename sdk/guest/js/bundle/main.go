// Command bundle puts a script into the engine, for the grants of a manifest:
//
//	go run github.com/doorward/doorward/sdk/guest/js/bundle ENGINE.wasm SCRIPT.js MANIFEST.json FILE.wasm
//
// doorward verifier build does that for authors; this is for make.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/doorward/doorward/sdk/abi"
	"github.com/doorward/doorward/sdk/guest/js"
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: bundle ENGINE.wasm SCRIPT.js MANIFEST.json FILE.wasm")
		os.Exit(2)
	}
	if err := bundle(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func bundle(engine, script, manifest, file string) error {
	var content [3][]byte
	for i, name := range []string{engine, script, manifest} {
		var err error
		if content[i], err = os.ReadFile(name); err != nil {
			return err
		}
	}
	var m abi.Manifest
	if err := json.Unmarshal(content[2], &m); err != nil {
		return fmt.Errorf("read %s: %w", manifest, err)
	}
	module, err := js.Bundle(content[0], content[1], m.Grants)
	if err != nil {
		return err
	}
	return os.WriteFile(file, module, 0o644)
}
