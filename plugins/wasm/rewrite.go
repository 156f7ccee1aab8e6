package wasm

import (
	"encoding/binary"
	"slices"
)

// RewriterVersion names what Rewrite does to a module, costs included. It
// changes whenever that does, and belongs into the key of everything that is
// made from a rewritten module: code that was compiled under other prices must
// not be found again.
const RewriterVersion = "fuel-2"

// What a rewritten module exports besides the author's own exports. No author
// can have these names: Read refuses them.
const (
	// FuelExport is a mutable i64: what is left to be used. It begins at 0, so
	// the host sets it before each call. Once it is below 0 the module traps.
	FuelExport = reserved + "fuel"

	// StackExport is a mutable i64: what is left of the stack, in bytes as Rewrite
	// counts them. It begins at 0 as well; Stack is what to set it to. Below 0 the
	// module traps.
	StackExport = reserved + "stack"

	// StartExport is the module's start function, () -> (), if it had one. It does
	// not run by itself any more: the host calls it first, with fuel.
	StartExport = reserved + "start"
)

// Stack is what a guest may use of it, in bytes as Rewrite counts them. What an
// engine uses for it in truth may be up to sixteen times that, for functions
// made to that end, and is about that for others.
const Stack = 1 << 20

// FuelPerMillisecond is about what compiled code uses in a millisecond of one
// core's time.
const FuelPerMillisecond = 2_000_000

// Prices of work that takes as long as a number on the stack says.
const (
	bytesPerFuelBits = 3       // 2^3 bytes of memory filled or copied for 1
	pageFuel         = 1 << 16 // for a page of memory more
	elementFuelBits  = 0       // 2^0 elements of a table for 1
	importFuel       = 200     // to get to the host and back
)

// tinyLeaf is up to what cost a function that calls nothing and has no loop
// goes without a guard: its caller has one, and can call it only as often as
// its own code is long.
const tinyLeaf = 40

// slack is how much a charge may take in advance for code that may not be
// reached, so that the code has no charge of its own.
const slack = 8

// Rewrite makes of a module one that does the same and counts it:
//
//   - at the beginning of each straight piece of code it takes that piece's cost
//     from the fuel;
//   - at the entry of each function, at the head of each loop and with each
//     instruction that takes as long as it is told to, it traps if fuel or stack
//     is below 0. No code runs for ever without passing one of these;
//   - around each function that calls others it takes from the stack what the
//     function's frame is taken to be.
//
// The trap is an unreachable, or an access out of bounds: what was used up can
// be told from another trap by the two exports, of which one is below 0 then.
//
// Custom sections are left out. All else keeps its place and its index.
func Rewrite(m *Module) []byte { return rewrite(m, false) }

func rewrite(m *Module, exact bool) []byte {
	read := *m // reading code again notes again what was noted
	w := writer{
		reader: reader{cursor: cursor{b: m.b}, limits: unlimited, m: &read},
		fuel:   uleb(uint32(len(m.globals))),
		stack:  uleb(uint32(len(m.globals) + 1)),
		types:  map[string]uint32{},
		exact:  exact,
	}
	code := w.code() // first: it finds out which types are needed
	out := make([]byte, 0, len(m.b)+len(code))
	out = append(out, 0, 'a', 's', 'm', 1, 0, 0, 0)
	for _, id := range []byte{typeSection, importSection, functionSection, tableSection, memorySection, globalSection, exportSection, elementSection, dataCountSection, codeSection, dataSection} {
		var content []byte
		switch id {
		case typeSection:
			content = w.extended(id, w.newTypes...)
		case globalSection:
			zero := []byte{byte(I64), 1, opI64Const, 0, opEnd}
			content = w.extended(id, zero, zero)
		case exportSection:
			content = w.exports()
		case codeSection:
			content = code
		default:
			content = w.content(id)
		}
		if len(content) > 0 {
			out = append(append(append(out, id), uleb(uint32(len(content)))...), content...)
		}
	}
	return out
}

// unlimited is for code that has been held to its limits before.
var unlimited = Limits{Nesting: 1 << 30, LoopNesting: 1 << 30, BranchTable: 1 << 30}

// writer reads a module's code again and writes it anew.
type writer struct {
	reader
	fuel, stack []byte // indices of the globals

	types    map[string]uint32 // of blocks with several results, by these
	newTypes [][]byte

	regions []region
	scopes  []scope
	exact   bool // in tests: see each
}

// content is that of a section as it was, nil when there was none.
func (w *writer) content(id byte) []byte {
	for _, s := range w.m.sections {
		if s.id == id {
			return w.m.b[s.start:s.end]
		}
	}
	return nil
}

// extended is a section's vector with entries added.
func (w *writer) extended(id byte, more ...[]byte) []byte {
	old := w.content(id)
	if len(more) == 0 {
		return old
	}
	c := cursor{b: old, end: len(old)}
	n := uint32(0)
	if len(old) > 0 {
		n = c.u32()
	}
	out := append(uleb(n+uint32(len(more))), old[c.at:]...)
	return append(out, slices.Concat(more...)...)
}

func (w *writer) exports() []byte {
	export := func(name string, kind Kind, index []byte) []byte {
		return append(append(append(uleb(uint32(len(name))), name...), byte(kind)), index...)
	}
	more := [][]byte{export(FuelExport, Global, w.fuel), export(StackExport, Global, w.stack)}
	if w.m.start >= 0 {
		more = append(more, export(StartExport, Function, uleb(uint32(w.m.start))))
	}
	return w.extended(exportSection, more...)
}

func (w *writer) code() []byte {
	if len(w.m.bodies) == 0 {
		return w.content(codeSection)
	}
	out := make([]byte, 0, len(w.m.b)+len(w.m.b)/2)
	out = append(out, uleb(uint32(len(w.m.bodies)))...)
	var scratch []byte
	for i := range w.m.bodies {
		scratch = w.body(scratch[:0], w.m.bodies[i], w.typeOf(uint32(w.m.imported+i)))
		out = append(append(out, uleb(uint32(len(scratch)))...), scratch...)
	}
	return out
}

// body appends a function's rewritten body.
func (w *writer) body(out []byte, b body, t Type) []byte {
	w.measure(&b)
	temporary := uleb(b.locals) // an i32 for what bulk instructions are told
	if b.bulk {
		c := cursor{b: w.m.b, at: b.start, end: b.code}
		out = append(out, uleb(c.u32()+1)...)
		out = append(out, w.m.b[c.at:b.code]...)
		out = append(out, 1, byte(I32))
	} else {
		out = append(out, w.m.b[b.start:b.code]...)
	}
	if b.calls {
		out = w.move(out, opI64Sub, frameSize(&b, t))
	}
	out = w.charge(out, w.regions[0].cost)
	if b.calls {
		out = w.guard(out, true)
		out = w.wrapper(append(out, opBlock), t)
	} else if w.regions[0].cost > tinyLeaf || len(w.regions) > 1 {
		out = w.guard(out, false)
	}
	next, copied := 1, b.code // the region to come; what of the body is written
	w.rewind(&b)
	for w.at < b.end {
		i := w.instruction(&b)
		switch i.op {
		case opReturn:
			if b.calls { // to the end of the wrapper
				out = append(append(out, w.m.b[copied:i.at]...), opBr)
				out = append(out, uleb(uint32(len(w.nesting)-1))...)
				copied = w.at
			}
		case memoryInit, memoryCopy, memoryFill, tableInit, tableCopy, tableFill, opMemoryGrow:
			out = append(out, w.m.b[copied:i.at]...)
			out = w.bulk(out, i.op, temporary)
			copied = i.at
		}
		if next < len(w.regions) && w.regions[next].at == w.at {
			out = append(out, w.m.b[copied:w.at]...)
			copied = w.at
			out = w.charge(out, w.regions[next].cost)
			if w.regions[next].loop {
				out = w.guard(out, false)
			}
			next++
		}
	}
	out = append(out, w.m.b[copied:b.end]...) // with the final end, which is the wrapper's if there is one
	if b.calls {
		out = append(w.move(out, opI64Add, frameSize(&b, t)), opEnd)
	}
	return out
}

// frameSize is what a call of a function is taken to use of the stack: a slot
// for each parameter, local and result and some for the call, but no less than
// a sixteenth of what there is if the engine keeps the value of each single
// instruction in a slot of its own.
func frameSize(b *body, t Type) int64 {
	return max(64+8*(int64(b.locals)+int64(len(t.Results))), int64(b.instructions)/2)
}

// charge takes a cost from the fuel.
func (w *writer) charge(out []byte, cost int64) []byte {
	if cost == 0 {
		return out
	}
	out = append(append(out, opGlobalGet), w.fuel...)
	out = append(sleb(append(out, opI64Const), cost), opI64Sub, opGlobalSet)
	return append(out, w.fuel...)
}

// move takes from the stack's global, or gives back.
func (w *writer) move(out []byte, op byte, size int64) []byte {
	out = append(append(out, opGlobalGet), w.stack...)
	out = append(sleb(append(out, opI64Const), size), op, opGlobalSet)
	return append(out, w.stack...)
}

// guard traps when the fuel is below 0, or the stack.
func (w *writer) guard(out []byte, stack bool) []byte {
	out = append(append(out, opGlobalGet), w.fuel...)
	if stack {
		out = append(append(out, opGlobalGet), w.stack...)
		out = append(out, opI64Or)
	}
	return append(out, opI64Const, 0, opI64LtS, opIf, blockVoid, opUnreachable, opEnd)
}

// wrapper writes the type of the block around a function that gives its stack
// back when it ends.
func (w *writer) wrapper(out []byte, t Type) []byte {
	switch len(t.Results) {
	case 0:
		return append(out, blockVoid)
	case 1:
		return append(out, byte(t.Results[0]))
	}
	key := string(bytesOf(t.Results))
	index, there := w.types[key]
	if !there {
		index = uint32(len(w.m.types) + len(w.newTypes))
		w.types[key] = index
		w.newTypes = append(w.newTypes, append(append([]byte{0x60, 0}, uleb(uint32(len(key)))...), key...))
	}
	return sleb(out, int64(index))
}

// bulk charges for an instruction by the number on top of the stack, and leaves
// it there.
func (w *writer) bulk(out []byte, op int, temporary []byte) []byte {
	out = append(append(out, opLocalSet), temporary...)
	out = append(append(out, opGlobalGet), w.fuel...)
	out = append(append(out, opLocalGet), temporary...)
	switch op {
	case opMemoryGrow:
		// More than 65,535 pages there cannot be: such a call fails and costs nothing.
		out = append(sleb(append(out, opI32Const), 0xffff), opI32And, opI64ExtendU)
		out = append(sleb(append(out, opI64Const), pageFuel), opI64Mul)
	case tableInit, tableCopy, tableFill:
		out = append(out, opI64ExtendU, opI64Const, elementFuelBits, opI64ShrU)
	default:
		out = append(out, opI64ExtendU, opI64Const, bytesPerFuelBits, opI64ShrU)
	}
	out = append(append(out, opI64Sub, opGlobalSet), w.fuel...)
	// Where the fuel is used up the number becomes one that no memory or table
	// has room for: that traps, and is no branch, which a compiler would need two
	// more blocks for.
	out = append(out, opI32Const, 0x7f) // -1
	out = append(append(out, opLocalGet), temporary...)
	out = append(append(out, opGlobalGet), w.fuel...)
	return append(out, opI64Const, 0, opI64LtS, opSelect)
}

// rewind begins to read a body again.
func (w *writer) rewind(b *body) {
	w.at, w.end = b.code, b.end
	w.nesting = append(w.nesting[:0], frame{op: opBlock})
}

func bytesOf(types []ValueType) []byte {
	out := make([]byte, len(types))
	for i, t := range types {
		out[i] = byte(t)
	}
	return out
}

func uleb(n uint32) []byte { return binary.AppendUvarint(nil, uint64(n)) }

// sleb appends a signed LEB128.
func sleb(out []byte, n int64) []byte {
	for {
		b := byte(n & 0x7f)
		n >>= 7
		if n == 0 && b&0x40 == 0 || n == -1 && b&0x40 != 0 {
			return append(out, b)
		}
		out = append(out, b|0x80)
	}
}
