package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/sdk/abi"
)

// Names of files in a verifier's project.
const (
	moduleFile   = "verifier.wasm"
	manifestFile = "doorward.manifest.json"
	vectorsFile  = "vectors.json"
)

// project is a directory with the source of one verifier.
type project struct {
	dir      string
	language string
}

// languageMarks tell a project's language: the first of which a file is there.
var languageMarks = []struct{ pattern, language string }{
	{"go.mod", "go"}, {"doorward.d.ts", "js"}, {"doorward.ts", "as"}, {"doorward.rs", "rust"}, {"doorward.h", "c"},
	{"*.go", "go"}, {"*.js", "js"}, {"*.rs", "rust"}, {"*.c", "c"},
}

// openProject finds out which language a directory's verifier is in.
func openProject(dir, language string) (project, error) {
	if language != "" {
		if _, ok := toolchains[language]; !ok {
			return project{}, usage(fmt.Errorf("--lang is %q; it may be %s", language, strings.Join(languageNames(), ", ")))
		}
		return project{dir, language}, nil
	}
	for _, mark := range languageMarks {
		found, err := filepath.Glob(filepath.Join(dir, mark.pattern))
		if err != nil {
			return project{}, fmt.Errorf("look into %s: %w", dir, err)
		}
		if len(found) == 0 {
			continue
		}
		if mark.language == "js" {
			if _, err := os.Stat(filepath.Join(dir, "verifier.ts")); err == nil {
				return project{dir, "ts"}, nil
			}
		}
		return project{dir, mark.language}, nil
	}
	return project{}, fmt.Errorf("%s holds no verifier's source that is known by its files (go.mod, or doorward.d.ts, doorward.ts, doorward.rs or doorward.h); make a project with doorward verifier new, or say --lang", dir)
}

// build makes the project's module, with its manifest inside, and returns its path.
func (p project) build(ctx context.Context) (string, error) {
	room, err := os.MkdirTemp("", "doorward-build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(room)
	built := filepath.Join(room, moduleFile)
	if err := toolchains[p.language].build(ctx, p.dir, built); err != nil {
		return "", err
	}
	module, err := os.ReadFile(built)
	if err != nil {
		return "", fmt.Errorf("read what was built: %w", err)
	}
	manifest, err := readManifest(p.dir)
	if err != nil {
		return "", err
	}
	if manifest != nil && plugins.ManifestOf(module) == nil {
		module = abi.AppendManifest(module, manifest)
	}
	file := filepath.Join(p.dir, moduleFile)
	// By another name first: who watches the file never finds half of it.
	if err := os.WriteFile(file+".new", module, 0o644); err != nil {
		return "", err
	}
	return file, os.Rename(file+".new", file)
}

// readManifest is the manifest in a directory, in one line; nil when there is none.
func readManifest(dir string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var whole json.RawMessage
	if err := json.Unmarshal(text, &whole); err != nil {
		return nil, fmt.Errorf("%s: %w%s", filepath.Join(dir, manifestFile), err, lineOf(text, err))
	}
	var short bytes.Buffer
	if err := json.Compact(&short, whole); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, manifestFile), err)
	}
	return short.Bytes(), nil
}

// lineOf says on which line of a text JSON ended to be some.
func lineOf(text []byte, err error) string {
	var wrong *json.SyntaxError
	if !errors.As(err, &wrong) {
		return ""
	}
	return fmt.Sprintf(" (line %d)", 1+bytes.Count(text[:min(int(wrong.Offset), len(text))], []byte("\n")))
}

// sources are the project's files that a build depends on, with when they were
// changed.
func (p project) sources() (map[string]time.Time, error) {
	files := map[string]time.Time{}
	err := filepath.WalkDir(p.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if path != p.dir && (strings.HasPrefix(name, ".") || name == "node_modules" || name == "target") {
				return filepath.SkipDir
			}
			return nil
		}
		if strings.HasPrefix(name, ".") || strings.HasPrefix(name, moduleFile) || isVectors(name) || strings.HasSuffix(name, ".md") {
			return nil
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // an editor's, gone again
		}
		if err != nil {
			return err
		}
		files[path] = info.ModTime()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look into %s: %w", p.dir, err)
	}
	return files, nil
}

func isVectors(name string) bool {
	return name == vectorsFile || strings.HasSuffix(name, "."+vectorsFile)
}

// stale reports whether a source is newer than the module, or there is no module.
func (p project) stale() (bool, error) {
	info, err := os.Stat(filepath.Join(p.dir, moduleFile))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	files, err := p.sources()
	for _, changed := range files {
		if changed.After(info.ModTime()) {
			return true, nil
		}
	}
	return false, err
}

// subject is what a command about a module works on.
type subject struct {
	name     string // as people know it: the module's file
	dir      string // where its vectors are
	module   []byte
	manifest []byte // beside the module; nil when it has one inside, or there is none
}

// subjectOf reads FILE.wasm, or a project's module, which it builds first when that
// is older than its source. With no argument it is the project in this directory.
func subjectOf(cmd *cobra.Command, args []string) (subject, error) {
	path := "."
	if len(args) > 0 {
		path = args[0]
	}
	info, err := os.Stat(path)
	if err != nil {
		return subject{}, err
	}
	if info.IsDir() {
		if path, err = builtModule(cmd, path); err != nil {
			return subject{}, err
		}
	}
	return readSubject(path)
}

func readSubject(file string) (subject, error) {
	module, err := os.ReadFile(file)
	if err != nil {
		return subject{}, err
	}
	s := subject{name: file, dir: filepath.Dir(file), module: module}
	if plugins.ManifestOf(module) == nil {
		s.manifest, err = readManifest(s.dir)
	}
	return s, err
}

// builtModule is the path of a directory's module, which is built if need be.
func builtModule(cmd *cobra.Command, dir string) (string, error) {
	file := filepath.Join(dir, moduleFile)
	p, err := openProject(dir, "")
	if err != nil {
		if _, missing := os.Stat(file); missing == nil {
			return file, nil // somebody else builds it
		}
		return "", err
	}
	stale, err := p.stale()
	if err != nil || !stale {
		return file, err
	}
	done := during(cmd, "building "+file)
	defer done()
	return p.build(cmd.Context())
}

// examine is what an upload would find in the module.
func (s subject) examine() (plugins.Examination, error) {
	e, err := plugins.Examine(s.module, s.manifest)
	if err != nil {
		return e, withHint(fmt.Errorf("%s: %w", s.name, err))
	}
	return e, nil
}

// vectorFiles are the files of vectors beside the module, in order.
func (s subject) vectorFiles() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if isVectors(e.Name()) {
			files = append(files, filepath.Join(s.dir, e.Name()))
		}
	}
	slices.Sort(files)
	return files, nil
}

// atMostOne wants FILE.wasm or a directory, or nothing for this one.
func atMostOne(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usage(fmt.Errorf("%s takes one FILE.wasm or DIR; see: %s --help", cmd.CommandPath(), cmd.CommandPath()))
	}
	return nil
}
