package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Each server of a test has a directory of its own, and would compile the same
// few modules again, for seconds each where the race detector compiles along.
// What one has compiled is laid into the next one's directory.

// moduleStore is where that is kept for the length of a run.
var moduleStore = sync.OnceValue(func() string {
	dir, err := os.MkdirTemp("", "doorward-modules-")
	if err != nil {
		panic(err)
	}
	return dir
})

// tests removes the store when all have run.
type tests struct{ *testing.M }

// Run runs them.
func (t tests) Run() int {
	defer os.RemoveAll(moduleStore())
	return t.M.Run()
}

// shareModules links the compiled modules below from into to, as far as they are
// not there. It is only a kindness: what it does not do, a compile does.
func shareModules(from, to string) {
	filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		rest, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, rest), 0o700)
		}
		name, ext := entry.Name(), filepath.Ext(rest)
		if whole := ext == ".wasm" || ext == "" && !strings.HasPrefix(name, "rewritten-"); whole { // not what is still being written
			os.Link(path, filepath.Join(to, rest))
		}
		return nil
	})
}
