// Package guesttest makes small verifiers by program: good ones, and one for
// each way to be bad. Tests use them instead of binaries in the repository, so
// that every byte of a hostile module has a reason that can be read here.
//
// It is an assembler of a dozen lines and no toolchain: what a guest does is
// written in instructions. Nothing but tests imports it.
package guesttest

import (
	"encoding/binary"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/doorward/doorward/sdk/abi"
)

// Instructions that the guests below are made of.
const (
	opUnreachable = 0x00
	opBlock       = 0x02
	opLoop        = 0x03
	opIf          = 0x04
	opEnd         = 0x0b
	opBr          = 0x0c
	opBrIf        = 0x0d
	opCall        = 0x10
	opDrop        = 0x1a
	opLocalGet    = 0x20
	opLocalSet    = 0x21
	opGlobalGet   = 0x23
	opGlobalSet   = 0x24
	opI32Load     = 0x28
	opI32Store    = 0x36
	opMemorySize  = 0x3f
	opMemoryGrow  = 0x40
	opI32Const    = 0x41
	opI32Add      = 0x6a
	opI32Sub      = 0x6b
	void          = 0x40
	typeI32       = 0x7f
	typeI64       = 0x7e
	typeFuncRef   = 0x70
	opRefNull     = 0xd0
)

// Import is a function that a guest imports: so many i32 parameters, and one
// i32 result or none; now_ms has its i64.
type Import struct {
	Module, Name string
	Params       int
	Result       bool
}

// Guest is a module to be assembled. Function i of Imports is called by index
// i; the verify function comes after them.
type Guest struct {
	Imports  []Import
	Locals   int    // i32 locals of verify, after its parameter
	Code     []byte // of verify, without the final end
	Data     []byte // at address 0
	Pages    int    // of memory; 0: 1
	Globals  int    // mutable i32, all 0
	Shown    int    // export so many of them, as "global0", …
	Holds    bool   // has a mutable global of a reference after them
	Manifest []byte // of section doorward.manifest
	Start    bool   // verify's code runs as the start function too
	Stdio    bool   // export _start instead of verify
	NoMemory bool   // leave out the export of the memory
	Init     bool   // export verify as doorward_v1_init too
	Before   []Func // exports that the host calls before verify
}

// Func is an exported function besides verify.
type Func struct {
	Name string
	Type string // as Signature has it
	Code []byte // without the final end
}

// Module assembles g.
func (g Guest) Module() []byte {
	verify := uint64(len(g.Imports))
	name, own := abi.ExportVerify, VerifyType()
	if g.Stdio || g.Start {
		name, own = abi.ExportStart, Signature(":")
	}
	types := [][]byte{own}
	var imports, globals [][]byte
	for n, i := range g.Imports {
		types = append(types, i.signature())
		imports = append(imports, Imported(i.Module, i.Name, uint64(n+1)))
	}
	for range g.Globals {
		globals = append(globals, []byte{typeI32, 1, opI32Const, 0, opEnd})
	}
	if g.Holds {
		globals = append(globals, []byte{typeFuncRef, 1, opRefNull, typeFuncRef, opEnd})
	}
	exports := [][]byte{Export(name, 0, verify)}
	if g.Init {
		exports = append(exports, Export(abi.ExportInit, 0, verify))
	}
	codes, functions := [][]byte{}, Uleb(uint64(1+len(g.Before)))
	functions = append(functions, 0) // verify's type is the first
	for i, f := range g.Before {
		functions = append(functions, Uleb(uint64(len(types)))...)
		types = append(types, Signature(f.Type))
		exports = append(exports, Export(f.Name, 0, verify+1+uint64(i)))
		codes = append(codes, Code(nil, f.Code...))
	}
	for i := range g.Shown {
		exports = append(exports, Export("global"+strconv.Itoa(i), 3, uint64(i)))
	}
	if !g.NoMemory {
		exports = append(exports, MemoryExport())
	}
	s := Sections{
		Types:     Vector(types...),
		Functions: functions,
		Memories:  append([]byte{1, 0}, leb(uint32(max(1, g.Pages)))...),
		Exports:   Vector(exports...),
	}
	if len(imports) > 0 {
		s.Imports = Vector(imports...)
	}
	if len(globals) > 0 {
		s.Globals = Vector(globals...)
	}
	if g.Start {
		s.Start = Uleb(verify)
	}
	var locals []byte
	if g.Locals > 0 {
		locals = Locals(uint64(g.Locals))
	}
	s.Codes = Vector(append([][]byte{Code(locals, g.Code...)}, codes...)...)
	if len(g.Data) > 0 {
		s.Data = Vector(join([]byte{0, opI32Const, 0, opEnd}, Str(string(g.Data))))
	}
	if g.Manifest == nil {
		return s.Module()
	}
	return abi.AppendManifest(s.Module(), g.Manifest)
}

func (i Import) signature() []byte {
	s := strings.Repeat("i", i.Params) + ":"
	switch {
	case i.Name == abi.FuncNowMS:
		s += "I"
	case i.Name == "clock_time_get":
		s = "iIi:i"
	case i.Name == "fd_seek":
		s = "iIii:i"
	case i.Result:
		s += "i"
	}
	return Signature(s)
}

// Answers is a guest that gives the same answer to everybody.
func Answers(answer string) Guest {
	return Guest{
		Imports: []Import{{abi.Module, abi.FuncOutputWrite, 2, true}},
		Data:    []byte(answer),
		Pages:   1 + len(answer)>>16,
		Code:    join(i32(0), i32(int32(len(answer))), call(0), drop, i32(0)),
	}
}

// Accepts is a guest that signs everybody in as subject.
func Accepts(subject string) Guest {
	text, err := json.Marshal(abi.Verdict{Decision: abi.Accept, Subject: subject, AMR: []string{"pwd"}})
	if err != nil {
		panic(err)
	}
	return Answers(string(text))
}

// Rejects is a guest that signs nobody in.
func Rejects() Guest { return Answers(`{"decision":"reject","code":"bad_credentials"}`) }

// Asks is a guest that asks everybody for a code, for ever.
func Asks() Guest {
	return Answers(`{"decision":"challenge","type":"otp","public":{"digits":6},"private":{"n":1},"ttl":60,"max_attempts":3}`)
}

// Loops is a guest that never answers.
func Loops() Guest { return Guest{Code: join(loop(br(0)), i32(0))} }

// Recurses is a guest without a loop that takes as good as for ever: it calls
// itself twice, to a depth of 60.
func Recurses() Guest {
	self := call(0)
	return Guest{
		Globals: 1,
		// depth++; if depth < 60 { self; self }; depth--
		Code: join(
			get(0), i32(1), add, set(0),
			get(0), i32(60), []byte{0x48}, []byte{opIf, void}, i32(0), self, drop, i32(0), self, drop, []byte{opEnd},
			get(0), i32(1), []byte{opI32Sub}, set(0), i32(0)),
	}
}

// Deepens is a guest that calls itself without end.
func Deepens() Guest { return Guest{Code: join([]byte{opLocalGet, 0}, call(0))} }

// Grows is a guest that takes all the memory it can get, writes into it, and
// goes on asking.
func Grows() Guest {
	return Guest{Code: join(
		loop(i32(1), []byte{opMemoryGrow, 0}, drop,
			[]byte{opMemorySize, 0}, i32(16), []byte{0x74}, i32(8), []byte{opI32Sub}, i32(1), []byte{opI32Store, 2, 0}, br(0)),
		i32(0))}
}

// Floods is a guest that writes its answer without end.
func Floods() Guest {
	return Guest{
		Imports: []Import{{abi.Module, abi.FuncOutputWrite, 2, true}},
		Code:    join(loop(i32(0), i32(65536), call(0), drop, br(0)), i32(0)),
	}
}

// Streams is a guest of the stdio profile that writes to its output without end,
// whatever that answers.
func Streams() Guest {
	return Guest{
		Stdio:   true,
		Imports: []Import{{"wasi_snapshot_preview1", "fd_write", 4, true}},
		Data:    []byte{0, 0, 0, 0, 0, 0, 1, 0}, // one vector: 64 KiB from 0
		Code:    loop(i32(1), i32(0), i32(1), i32(16), call(0), drop, br(0)),
	}
}

// Chatters is a guest that logs a gigabyte, then accepts.
func Chatters() Guest {
	answer := `{"decision":"accept","subject":"chatter"}`
	return Guest{
		Imports: []Import{{abi.Module, abi.FuncLog, 3, false}, {abi.Module, abi.FuncOutputWrite, 2, true}},
		Data:    []byte(answer),
		Locals:  1,
		Code: join(
			loop(i32(1), i32(0), i32(65536), call(0),
				[]byte{opLocalGet, 1}, i32(1), add, []byte{opLocalSet, 1},
				[]byte{opLocalGet, 1}, i32(16384), []byte{0x48, opBrIf, 0}),
			i32(0), i32(int32(len(answer))), call(1), drop, i32(0)),
	}
}

// Traps is a guest that executes unreachable.
func Traps() Guest { return Guest{Code: []byte{opUnreachable}} }

// Reaches is a guest that hands the host a pointer outside its memory.
func Reaches() Guest {
	return Guest{
		Imports: []Import{{abi.Module, abi.FuncOutputWrite, 2, true}},
		Code:    join(i32(-8), i32(-1), call(0)),
	}
}

// Takes is a guest that takes so many pages of memory more, and accepts.
func Takes(pages int) Guest {
	g := Accepts("taker")
	g.Code = join(i32(int32(pages)), []byte{opMemoryGrow, 0}, drop, g.Code)
	return g
}

// Looks is a guest that looks up a configuration key, whatever comes of it, and
// accepts.
func Looks() Guest {
	g := Accepts("looker")
	g.Imports = append(g.Imports, Import{abi.Module, abi.FuncConfigGet, 2, true})
	g.Code = join(i32(0), i32(4), call(1), drop, g.Code)
	return g
}

// Reads is a guest that answers with 16 bytes: those that random gave it, or the
// time of now_ms and zeros.
func Reads(name string) Guest {
	g := Guest{
		Imports: []Import{{abi.Module, abi.FuncOutputWrite, 2, true}, {abi.Module, name, 2, true}},
		Code:    join(i32(0), i32(16), call(1), drop, i32(0), i32(16), call(0), drop, i32(0)),
	}
	if name == abi.FuncNowMS {
		g.Imports[1].Params = 0
		g.Code = join(i32(0), call(1), []byte{0x37, 3, 0}, i32(0), i32(16), call(0), drop, i32(0))
	}
	return g
}

// Outside is an argument of Calls: a byte string that is not in the guest's
// memory.
type Outside struct{}

// Calls is a guest that calls one granted function so many times and fails with
// what it got at last: the result as the code, and what result_read has as the
// text. A string argument is handed as pointer and length, an int as a number.
func Calls(name string, times int, args ...any) Guest {
	var data, push []byte
	params := 0
	for _, a := range args {
		switch a := a.(type) {
		case string:
			push = join(push, i32(int32(len(data))), i32(int32(len(a))))
			data = append(data, a...)
			params += 2
		case Outside:
			push = join(push, i32(-8), i32(16))
			params += 2
		case int:
			push = join(push, i32(int32(a)))
			params++
		}
	}
	const got, at = 1, 512 // a local; how much of a result is shown
	to := i32(int32(len(data)))
	return Guest{
		Imports: []Import{{abi.Module, name, params, true}, {abi.Module, abi.FuncResultRead, 3, true}, {abi.Module, abi.FuncFail, 3, false}},
		Data:    data,
		Pages:   2 + len(data)>>16,
		Locals:  2,
		Code: join(
			loop(push, call(0), []byte{opLocalSet, got},
				[]byte{opLocalGet, got + 1}, i32(1), add, []byte{opLocalSet, got + 1},
				[]byte{opLocalGet, got + 1}, i32(int32(times)), []byte{0x48, opBrIf, 0}),
			[]byte{opLocalGet, got}, to, to, i32(0), i32(at), call(1), call(2), i32(0)),
	}
}

// Tells is a guest that logs what it was asked, password and all, and fails
// with it.
func Tells() Guest {
	const at = 1024
	length := []byte{opLocalGet, 0}
	return Guest{
		Imports: []Import{{abi.Module, abi.FuncInputRead, 3, true}, {abi.Module, abi.FuncLog, 3, false}, {abi.Module, abi.FuncFail, 3, false}},
		Code: join(
			i32(at), i32(0), length, call(0), drop,
			i32(3), i32(at), length, call(1),
			i32(1), i32(at), length, call(2), i32(0)),
	}
}

// Remembers is a guest that accepts as "first" while a global is 0, sets it,
// and accepts as "again" ever after: with a fresh instance for each call nobody
// is ever "again".
func Remembers() Guest {
	first, again := `{"decision":"accept","subject":"first"}`, `{"decision":"accept","subject":"again"}`
	return Guest{
		Imports: []Import{{abi.Module, abi.FuncOutputWrite, 2, true}},
		Data:    []byte(first + again),
		Globals: 1,
		Code: join(
			get(0), []byte{opIf, typeI32}, i32(int32(len(first))), []byte{0x05}, i32(0), []byte{opEnd},
			i32(int32(len(again))), call(0), drop,
			i32(1), set(0), i32(0)),
	}
}

// Leaks is a guest that answers with what it finds of earlier logins, and leaves
// its own input for later ones: in two places of its memory and in two globals,
// one exported and one not. Its answer is LeakBytes zeros when it finds nothing.
func Leaks() Guest {
	const near, far = 1024, 5<<16 + 100
	length := []byte{opLocalGet, 0}
	load := []byte{opI32Load, 2, 0}
	store := []byte{opI32Store, 2, 0}
	return Guest{
		Imports: []Import{{abi.Module, abi.FuncInputRead, 3, true}, {abi.Module, abi.FuncOutputWrite, 2, true}},
		Pages:   8,
		Globals: 2,
		Shown:   1,
		Code: join(
			i32(0), get(0), store, i32(4), get(1), store,
			i32(0), i32(8), call(1), drop, i32(near), i32(64), call(1), drop, i32(far), i32(64), call(1), drop,
			i32(near), i32(0), length, call(0), drop, i32(far), i32(0), length, call(0), drop,
			i32(near), load, set(0), i32(near), load, set(1),
			i32(0)),
	}
}

// LeakBytes is how long the answer of Leaks is.
const LeakBytes = 8 + 64 + 64

// Stretches is a guest that takes a page of memory more, and accepts as "small"
// or as "large" by how much it had.
func Stretches() Guest {
	small, large := `{"decision":"accept","subject":"small"}`, `{"decision":"accept","subject":"large"}`
	return Guest{
		Imports: []Import{{abi.Module, abi.FuncOutputWrite, 2, true}},
		Data:    []byte(small + large),
		Code: join(
			i32(1), []byte{opMemoryGrow, 0}, i32(1), []byte{0x4a, opIf, typeI32}, i32(int32(len(small))), []byte{0x05}, i32(0), []byte{opEnd},
			i32(int32(len(large))), call(0), drop, i32(0)),
	}
}

// TrapsThen is a guest that is Remembers, and executes unreachable at its end if
// its input is longer than 16 bytes.
func TrapsThen() Guest {
	g := Remembers()
	g.Code = join(g.Code[:len(g.Code)-2], []byte{opLocalGet, 0}, i32(16), []byte{0x4a, opIf, void, opUnreachable, opEnd}, i32(0))
	return g
}

// Imports is a guest that imports one function more, and accepts.
func Imports(i Import) Guest {
	g := Accepts("importer")
	g.Imports = append(g.Imports, i)
	return g
}

var (
	drop = []byte{opDrop}
	add  = []byte{opI32Add}
)

func i32(n int32) []byte       { return append([]byte{opI32Const}, sleb(n)...) }
func call(f uint32) []byte     { return append([]byte{opCall}, leb(f)...) }
func get(global uint32) []byte { return append([]byte{opGlobalGet}, leb(global)...) }
func set(global uint32) []byte { return append([]byte{opGlobalSet}, leb(global)...) }
func br(depth uint32) []byte   { return append([]byte{opBr}, leb(depth)...) }
func loop(code ...[]byte) []byte {
	return append(append([]byte{opLoop, void}, join(code...)...), opEnd)
}

func join(parts ...[]byte) []byte { return slices.Concat(parts...) }

func leb(n uint32) []byte { return binary.AppendUvarint(nil, uint64(n)) }

// sleb is signed LEB128.
func sleb(n int32) []byte {
	var out []byte
	for {
		b := byte(n & 0x7f)
		n >>= 7
		if n == 0 && b&0x40 == 0 || n == -1 && b&0x40 != 0 {
			return append(out, b)
		}
		out = append(out, b|0x80)
	}
}
