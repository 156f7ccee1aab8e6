package wasm_test

import (
	"encoding/binary"
	"slices"
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
	verifyType   = []byte{0x60, 1, i32, 1, i32}
	memoryExport = export("memory", 2, 0)
)

// module puts sections in their order. A section that is empty and not nil is
// left out.
func (p parts) module() []byte {
	set := func(s *[]byte, otherwise []byte) []byte {
		if *s == nil {
			return otherwise
		}
		return *s
	}
	out := []byte{0, 'a', 's', 'm', 1, 0, 0, 0}
	for _, s := range []struct {
		id      byte
		content []byte
	}{
		{1, set(&p.types, vector(verifyType))},
		{2, p.imports},
		{3, set(&p.functions, []byte{1, 0})},
		{4, p.tables},
		{5, set(&p.memories, []byte{1, 0, 1})},
		{6, p.globals},
		{7, set(&p.exports, vector(memoryExport, export("doorward_v1_verify", 0, 0)))},
		{8, p.start},
		{9, p.elements},
		{12, p.dataCount},
		{10, set(&p.codes, vector(code(nil, 0x41, 0)))},
		{11, p.data},
	} {
		if len(s.content) > 0 {
			out = append(out, section(s.id, s.content)...)
		}
	}
	return append(out, p.tail...)
}

func uleb(n uint64) []byte { return binary.AppendUvarint(nil, n) }

func str(s string) []byte { return append(uleb(uint64(len(s))), s...) }

func section(id byte, content []byte) []byte {
	return slices.Concat([]byte{id}, uleb(uint64(len(content))), content)
}

func vector(items ...[]byte) []byte {
	return append(uleb(uint64(len(items))), slices.Concat(items...)...)
}

func export(name string, kind byte, index uint64) []byte {
	return slices.Concat(str(name), []byte{kind}, uleb(index))
}

func imported(module, name string, index uint64) []byte {
	return slices.Concat(str(module), str(name), []byte{0}, uleb(index))
}

// code is a function body: declarations of locals (nil: none), instructions,
// and the end.
func code(locals []byte, instructions ...byte) []byte {
	if locals == nil {
		locals = []byte{0}
	}
	b := slices.Concat(locals, instructions, []byte{end})
	return append(uleb(uint64(len(b))), b...)
}

// locals declares n i32.
func locals(n uint64) []byte { return slices.Concat([]byte{1}, uleb(n), []byte{i32}) }

func repeat(n int, b ...byte) []byte { return slices.Repeat(b, n) }

func cat(b ...[]byte) []byte { return slices.Concat(b...) }
