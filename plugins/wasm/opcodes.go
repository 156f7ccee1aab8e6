package wasm

// ValueType is the type of a value, as the format writes it.
type ValueType byte

// The value types that are accepted.
const (
	I32       ValueType = 0x7f
	I64       ValueType = 0x7e
	F32       ValueType = 0x7d
	F64       ValueType = 0x7c
	FuncRef   ValueType = 0x70
	ExternRef ValueType = 0x6f
)

func (t ValueType) known() bool {
	return t >= F64 && t <= I32 || t.reference()
}

func (t ValueType) reference() bool { return t == FuncRef || t == ExternRef }

// Instructions that need more than their row of the table below.
const (
	opUnreachable  = 0x00
	opBlock        = 0x02
	opLoop         = 0x03
	opIf           = 0x04
	opElse         = 0x05
	opEnd          = 0x0b
	opBr           = 0x0c
	opBrIf         = 0x0d
	opBrTable      = 0x0e
	opReturn       = 0x0f
	opCall         = 0x10
	opCallIndirect = 0x11
	opSelect       = 0x1b
	opLocalGet     = 0x20
	opLocalSet     = 0x21
	opLocalTee     = 0x22
	opGlobalGet    = 0x23
	opGlobalSet    = 0x24
	opTableSet     = 0x26
	opMemoryGrow   = 0x40
	opI32Const     = 0x41
	opI64Const     = 0x42
	opF32Const     = 0x43
	opF64Const     = 0x44
	opI64LtS       = 0x53
	opI32And       = 0x71
	opI64Add       = 0x7c
	opI64Sub       = 0x7d
	opI64Mul       = 0x7e
	opI64Or        = 0x84
	opI64ShrU      = 0x88
	opI64ExtendU   = 0xad
	opRefNull      = 0xd0
	opRefFunc      = 0xd2
	opPrefix       = 0xfc
	blockVoid      = 0x40

	// After the prefix, with misc added.
	misc       = 0x100
	memoryInit = misc + 8
	dataDrop   = misc + 9
	memoryCopy = misc + 10
	memoryFill = misc + 11
	tableInit  = misc + 12
	elemDrop   = misc + 13
	tableCopy  = misc + 14
	tableGrow  = misc + 15
	tableSize  = misc + 16
	tableFill  = misc + 17
)

// immediate is what follows an opcode.
type immediate byte

const (
	refused immediate = iota // no such instruction here
	none
	blockType
	label
	labels // a vector and a default
	function
	typeAndTable
	valueTypes // a vector of one
	local
	global
	table
	memoryArg // alignment and offset
	memory    // a zero byte
	number32
	number64
	bytes4
	bytes8
	refType
	dataAndMemory
	data
	memories // two zero bytes
	elementAndTable
	element
	tables // two
)

// operation is one instruction: what follows it, the largest alignment of its
// memory access as a power of two, and what it costs.
type operation struct {
	follows immediate
	align   byte
	cost    byte
}

// operations has every instruction that is accepted; all else is refused.
// Costs are in fuel: 1 is about what an addition takes. They are part of
// RewriterVersion.
var operations = func() (t [misc + 18]operation) {
	set := func(from, to int, follows immediate, cost byte) {
		for op := from; op <= to; op++ {
			t[op] = operation{follows: follows, cost: cost}
		}
	}
	set(opUnreachable, 0x01, none, 0) // unreachable, nop
	set(opBlock, opBlock, blockType, 0)
	set(opLoop, opLoop, blockType, 2)
	set(opIf, opIf, blockType, 1)
	set(opElse, opElse, none, 0)
	set(opEnd, opEnd, none, 0)
	set(opBr, opBrIf, label, 1)
	set(opBrTable, opBrTable, labels, 3)
	set(opReturn, opReturn, none, 1)
	set(opCall, opCall, function, 4)
	set(opCallIndirect, opCallIndirect, typeAndTable, 8)
	set(0x1a, 0x1a, none, 0) // drop
	set(0x1b, 0x1b, none, 1) // select
	set(0x1c, 0x1c, valueTypes, 1)
	set(opLocalGet, opLocalTee, local, 0)
	set(opGlobalGet, opGlobalSet, global, 1)
	set(0x25, opTableSet, table, 2)
	set(0x28, 0x3e, memoryArg, 1)
	for op, align := range map[int]byte{
		0x28: 2, 0x29: 3, 0x2a: 2, 0x2b: 3, 0x2e: 1, 0x2f: 1, 0x32: 1, 0x33: 1, 0x34: 2, 0x35: 2,
		0x36: 2, 0x37: 3, 0x38: 2, 0x39: 3, 0x3b: 1, 0x3d: 1, 0x3e: 2,
	} {
		t[op].align = align
	}
	set(0x3f, 0x3f, memory, 1)
	set(opMemoryGrow, opMemoryGrow, memory, 200)
	set(opI32Const, opI32Const, number32, 0)
	set(opI64Const, opI64Const, number64, 0)
	set(opF32Const, opF32Const, bytes4, 0)
	set(opF64Const, opF64Const, bytes8, 0)
	set(0x45, 0xc4, none, 1)                // comparisons, arithmetic, conversions, sign extension
	set(0x6d, 0x70, none, 12)               // i32 division
	set(0x7f, 0x82, none, 20)               // i64 division
	set(0x8d, 0x91, none, 4)                // f32 rounding and root
	set(0x95, 0x97, none, 5)                // f32 division, least, greatest
	set(0x9b, 0x9f, none, 5)                // f64
	set(0xa3, 0xa5, none, 6)                //
	set(0xa8, 0xab, none, 4)                // truncation, which may trap
	set(0xae, 0xb1, none, 4)                //
	set(opRefNull, opRefNull, refType, 1)   //
	set(0xd1, 0xd1, none, 1)                // ref.is_null
	set(opRefFunc, opRefFunc, function, 10) // calls out of compiled code
	set(misc, misc+7, none, 4)              // saturating truncation
	set(memoryInit, memoryInit, dataAndMemory, 20)
	set(dataDrop, dataDrop, data, 4)
	set(memoryCopy, memoryCopy, memories, 20)
	set(memoryFill, memoryFill, memory, 20)
	set(tableInit, tableInit, elementAndTable, 20)
	set(elemDrop, elemDrop, element, 4)
	set(tableCopy, tableCopy, tables, 20)
	set(tableSize, tableSize, table, 1)
	set(tableFill, tableFill, table, 20)
	return t
}()

// mutators are the instructions after which a table or a segment is not what
// it was: an instance that may run one cannot be set back by its memory and
// globals alone.
var mutators = map[int]string{
	opTableSet: "table.set", tableInit: "table.init", elemDrop: "elem.drop",
	tableCopy: "table.copy", tableFill: "table.fill", dataDrop: "data.drop",
}
