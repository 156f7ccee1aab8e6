package wasm

import (
	"bytes"
	"math"
	"slices"
)

// Sections, in the order they must stand in.
const (
	customSection    = 0
	typeSection      = 1
	importSection    = 2
	functionSection  = 3
	tableSection     = 4
	memorySection    = 5
	globalSection    = 6
	exportSection    = 7
	startSection     = 8
	elementSection   = 9
	codeSection      = 10
	dataSection      = 11
	dataCountSection = 12
)

var sectionNames = [...]string{"custom", "type", "import", "function", "table", "memory", "global", "export", "start", "element", "code", "data", "data count"}

// order ranks the sections: the data count stands before the code.
var order = [...]int{typeSection: 1, importSection: 2, functionSection: 3, tableSection: 4, memorySection: 5, globalSection: 6, exportSection: 7, startSection: 8, elementSection: 9, dataCountSection: 10, codeSection: 11, dataSection: 12}

// manifestSection is the custom section that holds the manifest.
const manifestSection = "doorward.manifest"

const maxPages = 1 << 16 // of a 32-bit memory

// Read reads a module and holds it to the limits and to the contract
// doorward_v1: what may be imported, and what must be exported. Every error is
// an *Error. The Module refers to b.
//
// It takes memory and time in proportion to len(b) at the most, whatever b
// says, and never panics.
func Read(b []byte, limits Limits) (*Module, error) {
	r := reader{limits: limits.orDefaults()}
	r.module(b)
	if r.err == nil {
		r.contract()
	}
	if r.err != nil {
		return nil, r.err
	}
	return r.m, nil
}

// reader is a cursor with what it has read so far.
type reader struct {
	cursor
	limits  Limits
	m       *Module
	spots   spots
	nesting []frame  // of the body being read; kept from one to the next
	targets []uint32 // of the br_table that was read last
}

// spots are where things were found that are judged only when all is known.
type spots struct {
	imports, exports []int
	start            int
}

func (r *reader) module(b []byte) {
	r.m = &Module{b: b, dataCount: -1, start: -1}
	r.cursor = cursor{b: b, end: len(b), section: "module"}
	if len(b) > r.limits.ModuleBytes {
		r.over(0, "module bytes", r.limits.ModuleBytes, uint64(len(b)))
		return
	}
	if header := []byte{0, 'a', 's', 'm', 1, 0, 0, 0}; !bytes.HasPrefix(b, header) {
		if bytes.HasPrefix(b, header[:4]) && len(b) >= 8 {
			r.fail(4, "this is not a core module of version 1 (a component? a verifier is the core module)")
			return
		}
		r.fail(0, "this is not a WebAssembly module: it does not begin with \\0asm and version 1")
		return
	}
	last := byte(customSection)
	for r.at = 8; r.at < r.end && r.err == nil; {
		last = r.nextSection(last)
	}
	if r.err != nil {
		return
	}
	if own := len(r.m.functions) - r.m.imported; own != len(r.m.bodies) {
		r.fail(r.at, "%d functions are declared and %d have code", own, len(r.m.bodies))
	}
	if r.m.dataCount >= 0 && r.m.dataCount != r.m.data {
		r.fail(r.at, "%d data segments are announced and there are %d", r.m.dataCount, r.m.data)
	}
}

// nextSection reads one section and returns its id, or last for a custom one.
func (r *reader) nextSection(last byte) byte {
	start := r.at
	id := r.byte()
	size := r.u32()
	if r.err != nil {
		return last
	}
	if int(id) >= len(sectionNames) {
		r.fail(start, "there is no section %d", id)
		return last
	}
	if uint64(size) > uint64(r.end-r.at) {
		r.fail(start, "the %s section announces %d bytes and %d are left", sectionNames[id], size, r.end-r.at)
		return last
	}
	if id != customSection && order[id] <= order[last] {
		r.fail(start, "a %s section after the %s section: it is out of order or there twice", sectionNames[id], sectionNames[last])
		return last
	}
	all := r.end
	r.end, r.section = r.at+int(size), sectionNames[id]
	content := section{id, r.at, r.end}
	r.content(id)
	if r.err != nil {
		return last
	}
	if r.at != r.end {
		r.fail(r.at, "%d bytes are left over in the section", r.end-r.at)
		return last
	}
	r.end, r.section = all, "module"
	if id == customSection {
		return last
	}
	r.m.sections = append(r.m.sections, content)
	return id
}

func (r *reader) content(id byte) {
	switch id {
	case customSection:
		r.custom()
	case typeSection:
		r.typeSection()
	case importSection:
		r.importSection()
	case functionSection:
		r.functionSection()
	case tableSection:
		r.tableSection()
	case memorySection:
		r.memorySection()
	case globalSection:
		r.globalSection()
	case exportSection:
		r.exportSection()
	case startSection:
		r.spots.start = r.at
		r.m.start = int(r.functionIndex())
	case elementSection:
		for range r.segments() {
			r.elementSegment()
		}
	case dataCountSection:
		at, n := r.at, r.u32() // of what comes later: the data section is held against it
		if uint64(n) > uint64(r.limits.Segments) {
			r.over(at, "segments", r.limits.Segments, uint64(n))
		}
		r.m.dataCount = int(n)
	case codeSection:
		r.codeSection()
	case dataSection:
		r.m.data = r.segments()
		for range r.m.data {
			r.dataSegment()
		}
	}
}

func (r *reader) custom() {
	at := r.at
	name := r.name()
	content := r.bytes(uint32(r.end - r.at))
	if r.err != nil {
		return
	}
	r.m.Counts.Customs++
	if name != manifestSection {
		return
	}
	if r.m.Manifest != nil {
		r.fail(at, "there are two sections %s", manifestSection)
		return
	}
	r.m.Manifest = content
}

func (r *reader) typeSection() {
	n := r.count("types", r.limits.Types)
	r.m.types = make([]Type, 0, n)
	for range n {
		at := r.at
		if b := r.byte(); b != 0x60 {
			r.fail(at, "type %d is not that of a function (0x%02x)", len(r.m.types), b)
			return
		}
		params := r.valueTypes()
		results := r.valueTypes()
		r.m.types = append(r.m.types, Type{params, results})
	}
	r.m.Counts.Types = n
}

func (r *reader) valueTypes() []ValueType {
	n := r.count("params", r.limits.Params)
	types := make([]ValueType, 0, n)
	for range n {
		types = append(types, r.valueType())
	}
	return types
}

func (r *reader) valueType() ValueType {
	at := r.at
	t := ValueType(r.byte())
	if !t.known() {
		if t == 0x7b {
			r.fail(at, "vectors (v128) are not accepted; compile without SIMD")
			return 0
		}
		r.fail(at, "0x%02x is not a value type that is accepted", byte(t))
	}
	return t
}

func (r *reader) typeIndex() uint32 {
	at := r.at
	i := r.u32()
	if uint64(i) >= uint64(len(r.m.types)) {
		r.fail(at, "there is no type %d; there are %d", i, len(r.m.types))
		return 0
	}
	return i
}

func (r *reader) functionIndex() uint32 {
	at := r.at
	i := r.u32()
	if uint64(i) >= uint64(len(r.m.functions)) {
		r.fail(at, "there is no function %d; there are %d", i, len(r.m.functions))
		return 0
	}
	return i
}

// reference reads the index of a function that may come to be in the table. An
// instruction can refer only to one that is in an element segment or a global.
func (r *reader) reference() {
	i := r.functionIndex()
	r.m.referred = r.m.referred || int(i) < r.m.imported
}

func (r *reader) importSection() {
	n := r.count("imports", r.limits.Imports)
	r.m.Imports = make([]Import, 0, n)
	for range n {
		at := r.at
		module, name := r.name(), r.name()
		kind := r.byte()
		if r.err != nil {
			return
		}
		if kind != 0 {
			what := "something unknown"
			if names := [...]string{"a function", "a table", "a memory", "a global"}; int(kind) < len(names) {
				what = names[kind]
			}
			r.fail(at, "import %.64q.%.64q is %s; only functions are offered", module, name, what)
			return
		}
		t := r.typeIndex()
		if r.err != nil {
			return
		}
		r.m.Imports = append(r.m.Imports, Import{module, name, r.m.types[t]})
		r.m.functions = append(r.m.functions, t)
		r.spots.imports = append(r.spots.imports, at)
	}
	r.m.imported = n
}

func (r *reader) functionSection() {
	n := r.count("functions", r.limits.Functions)
	r.m.functions = slices.Grow(r.m.functions, n)
	for range n {
		r.m.functions = append(r.m.functions, r.typeIndex())
	}
	r.m.Counts.Functions = n
}

// span reads the least and the most of a table or memory.
func (r *reader) span(most uint64) (least uint32) {
	at := r.at
	flag := r.byte()
	if flag > 1 {
		r.fail(at, "limits of form 0x%02x are not accepted (shared, or 64 bits wide)", flag)
		return 0
	}
	least = r.u32()
	highest := uint64(least)
	if flag == 1 {
		if highest = uint64(r.u32()); highest < uint64(least) {
			r.fail(at, "at least %d and at most %d", least, highest)
			return 0
		}
	}
	if highest > most {
		r.fail(at, "%d is more than there can be", highest)
	}
	return least
}

func (r *reader) tableSection() {
	n := r.count("tables", 1)
	for range n {
		at := r.at
		r.m.hasTable, r.m.tableType = true, r.refType()
		r.m.table = r.span(math.MaxUint32)
		if uint64(r.m.table) > uint64(r.limits.Table) {
			r.over(at, "table elements", r.limits.Table, uint64(r.m.table))
		}
	}
}

func (r *reader) refType() ValueType {
	at := r.at
	t := ValueType(r.byte())
	if !t.reference() {
		r.fail(at, "0x%02x is not a reference type", byte(t))
	}
	return t
}

func (r *reader) memorySection() {
	n := r.count("memories", 1)
	for range n {
		at := r.at
		pages := r.span(maxPages)
		if uint64(pages) > uint64(r.limits.MemoryPages) {
			r.over(at, "memory pages", r.limits.MemoryPages, uint64(pages))
		}
		r.m.hasMemory, r.m.MemoryPages = true, int(pages)
	}
}

func (r *reader) globalSection() {
	n := r.count("globals", r.limits.Globals)
	r.m.globals = make([]globalType, 0, n)
	for range n {
		t := r.valueType()
		at := r.at
		mutable := r.byte()
		if mutable > 1 {
			r.fail(at, "a global is constant (0) or mutable (1), not %d", mutable)
			return
		}
		if mutable == 1 && t.reference() && r.m.Unresettable == "" {
			r.m.Unresettable = sprintAt("a mutable global of a reference", at)
		}
		r.constant(t)
		r.m.globals = append(r.m.globals, globalType{t, mutable == 1})
	}
	r.m.Counts.Globals = n
}

// constant reads the value of a global, an offset or an element: one
// instruction and an end. It cannot be that of a global, because only imported
// ones may be used here, and none are offered.
func (r *reader) constant(want ValueType) {
	at := r.at
	op := r.byte()
	var is ValueType
	switch op {
	case opI32Const:
		is = I32
		r.signed(32)
	case opI64Const:
		is = I64
		r.signed(64)
	case opF32Const:
		is = F32
		r.bytes(4)
	case opF64Const:
		is = F64
		r.bytes(8)
	case opRefNull:
		is = r.refType()
	case opRefFunc:
		is = FuncRef
		r.reference()
	default:
		r.fail(at, "a constant cannot be made with instruction 0x%02x", op)
	}
	if is != want {
		r.fail(at, "a constant has another type than it is used for")
	}
	if end := r.byte(); end != opEnd {
		r.fail(r.at-1, "a constant takes more than one instruction")
	}
}

func (r *reader) exportSection() {
	n := r.count("exports", r.limits.Exports)
	r.m.Exports = make([]Export, 0, n)
	seen := make(map[string]bool, n)
	for range n {
		at := r.at
		e := Export{Name: r.name(), Kind: Kind(r.byte())}
		if r.err != nil {
			return
		}
		if seen[e.Name] {
			r.fail(at, "there are two exports %.64q", e.Name)
			return
		}
		seen[e.Name] = true
		index := r.at
		e.Index = r.u32()
		there := [...]int{Function: len(r.m.functions), Table: count(r.m.hasTable), Memory: count(r.m.hasMemory), Global: len(r.m.globals)}
		if int(e.Kind) >= len(there) {
			r.fail(at, "export %.64q is of a kind that is not accepted (%d)", e.Name, e.Kind)
			return
		}
		if uint64(e.Index) >= uint64(there[e.Kind]) {
			r.fail(index, "export %.64q is number %d of its kind; there are %d", e.Name, e.Index, there[e.Kind])
			return
		}
		r.m.Exports = append(r.m.Exports, e)
		r.spots.exports = append(r.spots.exports, at)
	}
}

func count(there bool) int {
	if there {
		return 1
	}
	return 0
}

// segments reads how many segments there are, or entries in one.
func (r *reader) segments() int {
	n := r.count("segments", max(0, r.limits.Segments-r.m.Counts.Segments))
	if r.err != nil && r.err.Limit == "segments" { // what counts is the sum
		r.err.Max, r.err.Found = int64(r.limits.Segments), r.err.Found+int64(r.m.Counts.Segments)
	}
	r.m.Counts.Segments += n
	return n
}

// Bits of an element segment's form.
const (
	notActive   = 1
	tableOrDecl = 2
	expressions = 4
)

func (r *reader) elementSegment() {
	at := r.at
	form := r.u32()
	if form > 7 {
		r.fail(at, "an element segment of form %d is not accepted", form)
		return
	}
	active := form&notActive == 0
	if active && form&tableOrDecl != 0 {
		if table := r.u32(); table != 0 {
			r.fail(at, "there is no table %d", table)
		}
	}
	if active {
		if !r.m.hasTable {
			r.fail(at, "elements for a table, and there is none")
		}
		r.constant(I32)
	}
	is := FuncRef
	if form&(notActive|tableOrDecl) != 0 {
		at := r.at
		if form&expressions != 0 {
			is = r.refType()
		} else if kind := r.byte(); kind != 0 {
			r.fail(at, "elements of kind %d are not accepted", kind)
		}
	}
	if active && is != r.m.tableType {
		r.fail(at, "elements of another type than the table's")
	}
	for range r.segments() {
		if form&expressions != 0 {
			r.constant(is)
		} else {
			r.reference()
		}
		if r.err != nil {
			return
		}
	}
	r.m.elements++
}

func (r *reader) dataSegment() {
	at := r.at
	form := r.u32()
	switch form {
	case 0, 2:
		if form == 2 {
			if memory := r.u32(); memory != 0 {
				r.fail(at, "there is no memory %d", memory)
			}
		}
		if !r.m.hasMemory {
			r.fail(at, "data for a memory, and there is none")
		}
		r.constant(I32)
	case 1:
	default:
		r.fail(at, "a data segment of form %d is not accepted", form)
	}
	r.bytes(r.u32())
}
