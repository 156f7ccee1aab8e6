package wasm_test

import (
	"slices"

	"github.com/doorward/doorward/plugins/guesttest"
)

// parts are the sections of a module that a test writes. Those that are nil are
// those of the smallest whole verifier: it exports memory and
// doorward_v1_verify, so that a bad one is refused for its own fault.
type parts struct {
	types, imports, functions, tables, memories, globals, exports, start, elements, dataCount, codes, data []byte
	tail                                                                                                   []byte // after all sections
}

const (
	i32, i64, f32, f64 = 0x7f, 0x7e, 0x7d, 0x7c
	end                = 0x0b
)

var (
	verifyType   = guesttest.VerifyType()
	memoryExport = guesttest.MemoryExport()
)

// module puts sections in their order. A section that is empty and not nil is
// left out.
func (p parts) module() []byte {
	return guesttest.Sections{
		Types: p.types, Imports: p.imports, Functions: p.functions, Tables: p.tables, Memories: p.memories, Globals: p.globals,
		Exports: p.exports, Start: p.start, Elements: p.elements, DataCount: p.dataCount, Codes: p.codes, Data: p.data, Tail: p.tail,
	}.Module()
}

// What modules are made of, under short names.
var (
	uleb     = guesttest.Uleb
	section  = guesttest.Section
	vector   = guesttest.Vector
	export   = guesttest.Export
	imported = guesttest.Imported
	code     = guesttest.Code
	locals   = guesttest.Locals
)

func repeat(n int, b ...byte) []byte { return slices.Repeat(b, n) }

func cat(b ...[]byte) []byte { return slices.Concat(b...) }
