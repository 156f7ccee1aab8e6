// Package wasm reads and rewrites the modules that tenants upload. It is the
// only code in the server's own process that looks at a tenant's bytes, and it
// neither compiles nor runs them.
//
// The one idea: nothing is believed. Read holds every count in a module against
// the bytes that are there before anything is made of it, and against a limit;
// so what it uses, in memory and in time, is in proportion to the file. What it
// lets through is small enough, in every dimension that an engine is known to
// choke on, to be given to a compiler in a child process.
//
// Rewrite makes of a module that was read one that counts what it does: it
// traps when its fuel or its stack is used up, whatever it tries. Compiled
// WebAssembly cannot be stopped from outside; this is how it stops itself.
//
// # What Read checks, and what it leaves to the engine
//
// Read checks the whole binary format: sections and their order, LEB128,
// names, types, every index, every instruction and its immediates, and how
// blocks nest. It does not check the types on the operand stack. The engine
// does that when the child compiles the rewritten module, and no type error can
// undo a guard: a guard is whole in itself, and no index of the author's can
// name what Rewrite added.
//
// The instructions are those of WebAssembly 1.0 with sign extension,
// saturating conversion, multi-value, bulk memory and reference types, as the
// engine has them. Not accepted are:
//
//   - table.grow, which no memory limit covers;
//   - vector instructions (SIMD): none of the toolchains emits them unless
//     asked to, and they are a third of a compiler's instruction selection,
//     where compilers have had their escapes;
//   - threads, tail calls, exceptions, typed references, memory64, several
//     memories, extended constants: the engine has them off.
//
// It imports nothing of ours and no engine.
package wasm
