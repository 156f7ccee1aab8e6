package guesttest

import (
	"encoding/binary"
	"slices"

	"github.com/doorward/doorward/sdk/abi"
)

// Sections is a module by the contents of its sections. Those that are nil are
// those of the smallest whole verifier, which exports its memory and a verify
// that writes no answer; those that are empty and not nil are left out.
type Sections struct {
	Types, Imports, Functions, Tables, Memories, Globals, Exports, Start, Elements, DataCount, Codes, Data []byte
	Tail                                                                                                   []byte // after all sections
}

// Module puts the sections in their order.
func (s Sections) Module() []byte {
	or := func(content, otherwise []byte) []byte {
		if content == nil {
			return otherwise
		}
		return content
	}
	out := []byte{0, 'a', 's', 'm', 1, 0, 0, 0}
	for _, part := range []struct {
		id      byte
		content []byte
	}{
		{1, or(s.Types, Vector(VerifyType()))},
		{2, s.Imports},
		{3, or(s.Functions, []byte{1, 0})},
		{4, s.Tables},
		{5, or(s.Memories, []byte{1, 0, 1})},
		{6, s.Globals},
		{7, or(s.Exports, Vector(MemoryExport(), Export(abi.ExportVerify, 0, 0)))},
		{8, s.Start},
		{9, s.Elements},
		{12, s.DataCount},
		{10, or(s.Codes, Vector(Code(nil, opI32Const, 0)))},
		{11, s.Data},
	} {
		if len(part.content) > 0 {
			out = append(out, Section(part.id, part.content)...)
		}
	}
	return append(out, s.Tail...)
}

// Uleb is unsigned LEB128.
func Uleb(n uint64) []byte { return binary.AppendUvarint(nil, n) }

// Str is a name: its length and its bytes.
func Str(s string) []byte { return append(Uleb(uint64(len(s))), s...) }

// Section is one section, of whatever content.
func Section(id byte, content []byte) []byte {
	return slices.Concat([]byte{id}, Uleb(uint64(len(content))), content)
}

// Vector is a list: how many, and each.
func Vector(items ...[]byte) []byte {
	return append(Uleb(uint64(len(items))), slices.Concat(items...)...)
}

// Many is a Vector of the same item n times over.
func Many(n int, item ...byte) []byte { return append(Uleb(uint64(n)), slices.Repeat(item, n)...) }

// Export is an entry of the export section.
func Export(name string, kind byte, index uint64) []byte {
	return slices.Concat(Str(name), []byte{kind}, Uleb(index))
}

// MemoryExport is the export that every verifier must have.
func MemoryExport() []byte { return Export(abi.ExportMemory, 2, 0) }

// VerifyType is the type of doorward_v1_verify.
func VerifyType() []byte { return Signature("i:i") }

// Signature is a type, written as the reader's contract has it: a letter for
// each parameter, a colon, and the results; i for i32, I for i64.
func Signature(s string) []byte {
	var params, results []byte
	to := &params
	for _, letter := range s {
		switch letter {
		case 'i':
			*to = append(*to, typeI32)
		case 'I':
			*to = append(*to, typeI64)
		case ':':
			to = &results
		}
	}
	return slices.Concat([]byte{0x60}, Str(string(params)), Str(string(results)))
}

// Imported is an entry of the import section: a function of that type.
func Imported(module, name string, index uint64) []byte {
	return slices.Concat(Str(module), Str(name), []byte{0}, Uleb(index))
}

// Code is a function body: declarations of locals (nil: none), instructions,
// and the end.
func Code(locals []byte, instructions ...byte) []byte {
	if locals == nil {
		locals = []byte{0}
	}
	b := slices.Concat(locals, instructions, []byte{opEnd})
	return append(Uleb(uint64(len(b))), b...)
}

// Locals declares n i32.
func Locals(n uint64) []byte { return slices.Concat([]byte{1}, Uleb(n), []byte{typeI32}) }
