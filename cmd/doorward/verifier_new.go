package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/sdk"
)

func verifierNew() *cobra.Command {
	var language string
	cmd := &cobra.Command{
		Use: "new --lang LANG DIR", Short: "Begin a verifier: a directory with all that it takes", Args: exactly("DIR"),
		Long: "Write a verifier that works into a new directory: its source, the SDK beside it, a manifest, vectors,\n" +
			"and a README. It is built without a network, but for what the language itself needs:\n\n" + needs(),
		RunE: func(cmd *cobra.Command, args []string) error {
			tools, ok := toolchains[language]
			if !ok {
				return usage(fmt.Errorf("--lang is %q; it may be %s", language, languageList()))
			}
			dir := args[0]
			if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
				return fmt.Errorf("%s is there and not empty; choose a new directory", dir)
			}
			files, err := projectFiles(language, filepath.Base(dir))
			if err != nil {
				return err
			}
			for name, content := range files {
				file := filepath.Join(dir, filepath.FromSlash(name))
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(file, content, 0o644); err != nil {
					return err
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is a verifier in %s, which needs: %s. Next:\n\n"+
				"  doorward verifier test %s\n  doorward verifier push --tenant TENANT --activate %s\n\nIts README says more.\n", dir, language, tools.needs, dir, dir)
			return nil
		},
	}
	cmd.Flags().StringVar(&language, "lang", "", "the language (required): "+languageList())
	if err := cmd.RegisterFlagCompletionFunc("lang", cobra.FixedCompletions(languageNames(), cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is not there: a mistake of ours
	}
	return cmd
}

// needs lists what each language needs, for people.
func needs() string {
	var text strings.Builder
	for _, name := range languageNames() {
		fmt.Fprintf(&text, "  %-5s %s\n", name, toolchains[name].needs)
	}
	return strings.TrimRight(text.String(), "\n")
}

// goLine is the version of Go that the SDK's packages are written in.
const goLine = "1.26"

// sdkModule is the Go module of the SDK. It is not to be had from anywhere: a
// project in Go brings it.
const sdkModule = "github.com/doorward/doorward"

// sdkDir is where in a project that is. Go looks into no such directory by itself.
const sdkDir = ".doorward"

// projectFiles are those of a new project, by path. name is what its manifest calls
// the verifier.
func projectFiles(language, name string) (map[string][]byte, error) {
	files := map[string][]byte{".gitignore": []byte(moduleFile + "\nnode_modules/\n")}
	guest := path.Join("guest", toolchains[language].sdk)
	example := path.Join(guest, "hello")
	if language == "ts" {
		example = path.Join(guest, "typescript")
	}
	if err := addFiles(files, ".", example); err != nil {
		return nil, err
	}
	if language == "go" {
		if err := addGo(files, guest, name); err != nil {
			return nil, err
		}
	} else if err := addFiles(files, ".", guest); err != nil {
		return nil, err
	}
	readme, err := fs.ReadFile(sdk.Files, path.Join(guest, "README.md"))
	if err != nil {
		return nil, fmt.Errorf("read the SDK: %w", err)
	}
	files["README.md"] = readme
	files[manifestFile] = bytes.Replace(files[manifestFile], []byte(`"name": "hello"`), fmt.Appendf(nil, `"name": %q`, name), 1)
	return files, nil
}

// addFiles adds the files that are in a directory of the SDK, and not those below.
func addFiles(files map[string][]byte, to, from string) error {
	entries, err := fs.ReadDir(sdk.Files, from)
	if err != nil {
		return fmt.Errorf("read the SDK: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		content, err := fs.ReadFile(sdk.Files, path.Join(from, e.Name()))
		if err != nil {
			return fmt.Errorf("read the SDK: %w", err)
		}
		files[path.Join(to, e.Name())] = content
	}
	return nil
}

// addGo adds what a project in Go imports, as a module of its own beside it.
func addGo(files map[string][]byte, guest, name string) error {
	if err := errors.Join(addFiles(files, path.Join(sdkDir, "sdk/abi"), "abi"), addFiles(files, path.Join(sdkDir, "sdk/guest/go"), guest)); err != nil {
		return err
	}
	files[path.Join(sdkDir, "go.mod")] = fmt.Appendf(nil, "module %s\n\ngo %s\n", sdkModule, goLine)
	files["go.mod"] = fmt.Appendf(nil, "module %s\n\ngo %s\n\nrequire %s v0.0.0\n\nreplace %s => ./%s\n", moduleName(name), goLine, sdkModule, sdkModule, sdkDir)
	return nil
}

// moduleName makes of a directory's name one that Go takes.
func moduleName(name string) string {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, name)
	clean = strings.Trim(clean, "-")
	if clean == "" {
		return "verifier"
	}
	return clean
}
