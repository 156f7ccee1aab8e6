// Package sdk holds what authors of verifiers begin with, as files: the projects
// that doorward verifier new writes, and the glue that stands beside them.
package sdk

import "embed"

// Files are the SDK's sources, by their paths below sdk:
//
//	guest/LANG/hello   a whole project: its source, doorward.manifest.json and
//	                   vectors.json; main_test.go in Go
//	guest/LANG/*       what goes beside it: the glue, and README.md
//	guest/js/typescript the project of guest/js/hello with its source in TypeScript
//	abi, guest/go      the packages that a project in Go imports, with their tests;
//	                   of a module of their own (github.com/doorward/doorward, in
//	                   sdk/abi and sdk/guest/go) they need nothing but Go
//
// LANG is go, js, assemblyscript, rust or c. Glue is doorward.d.ts for js (types,
// for editors), doorward.ts, doorward.rs and doorward.h; the other directories of
// guest/LANG are not part of a project.
//
//go:embed abi/*.go
//go:embed guest/go/*.go guest/go/README.md guest/go/hello
//go:embed guest/js/doorward.d.ts guest/js/README.md guest/js/hello guest/js/typescript
//go:embed guest/assemblyscript/doorward.ts guest/assemblyscript/README.md guest/assemblyscript/hello
//go:embed guest/rust/doorward.rs guest/rust/README.md guest/rust/hello
//go:embed guest/c/doorward.h guest/c/README.md guest/c/hello
var Files embed.FS
