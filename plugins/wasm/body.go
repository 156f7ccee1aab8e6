package wasm

// frame is a block that is open while a body is read.
type frame struct {
	op    byte
	loops int // open, this one counted
}

func (r *reader) codeSection() {
	at := r.at
	n := r.count("functions", r.limits.Functions)
	if own := len(r.m.functions) - r.m.imported; r.err == nil && n != own {
		r.fail(at, "%d functions are declared and %d have code", own, n)
	}
	if r.err != nil {
		return
	}
	r.m.bodies = make([]body, 0, n)
	for i := range n {
		at := r.at
		size := r.u32()
		if size := uint64(size); size > uint64(r.limits.BodyBytes) {
			r.over(at, "function body bytes", r.limits.BodyBytes, size)
		}
		if uint64(size) > uint64(r.end-r.at) {
			r.fail(at, "a function body announces %d bytes and %d are left", size, r.end-r.at)
		}
		if r.err != nil {
			return
		}
		section := r.end
		r.end = r.at + int(size)
		r.body(r.m.types[r.m.functions[r.m.imported+i]])
		if r.err != nil {
			return
		}
		r.end = section
	}
}

// fewLocals are as many as a function is taken to have at least where its
// blocks are counted: an engine's work grows faster than their number with no
// local at all.
const fewLocals = 20

// body reads one function, to r.end.
func (r *reader) body(t Type) {
	b := body{start: r.at, end: r.end}
	own := r.locals()
	b.code, b.locals = r.at, uint32(len(t.Params))+own
	r.nesting = append(r.nesting[:0], frame{op: opBlock})
	blocks := uint64(1)
	for len(r.nesting) > 0 {
		if r.at == r.end {
			r.fail(r.at, "a function ends with %d blocks open", len(r.nesting))
			return
		}
		i := r.instruction(&b)
		if r.err != nil {
			return
		}
		b.instructions++
		blocks += i.blocks
		if product := blocks * uint64(max(fewLocals, b.locals)); product > uint64(r.limits.BlocksLocals) {
			r.over(i.at, "blocks × locals of one function", r.limits.BlocksLocals, product)
			return
		}
	}
	if r.at != r.end {
		r.fail(r.at, "a function goes on after its end")
		return
	}
	c := &r.m.Counts
	c.BodyBytes = max(c.BodyBytes, b.end-b.start)
	c.FunctionLocals = max(c.FunctionLocals, int(own))
	c.BlocksLocals = max(c.BlocksLocals, int(blocks)*int(max(fewLocals, b.locals)))
	c.Instructions += int(b.instructions)
	r.m.bodies = append(r.m.bodies, b)
}

// locals reads a function's declarations. They are counted and not made: a
// hundred million take six bytes.
func (r *reader) locals() uint32 {
	sum := uint64(0)
	for range r.count("declarations of locals", -1) {
		at := r.at
		sum += uint64(r.u32())
		r.valueType()
		if sum > uint64(r.limits.FunctionLocals) {
			r.over(at, "locals of one function", r.limits.FunctionLocals, sum)
			return 0
		}
		if total := uint64(r.m.Counts.Locals) + sum; total > uint64(r.limits.Locals) {
			r.over(at, "locals of all functions", r.limits.Locals, total)
			return 0
		}
	}
	r.m.Counts.Locals += int(sum)
	return uint32(sum)
}

// instruction is one, as far as anybody asks.
type instruction struct {
	op     int    // with misc added after the prefix
	at     int    // where it begins
	x      uint32 // its index, or label; br_table's labels are in reader.targets
	blocks uint64 // of code without a branch that an engine makes of it
}

// instruction reads one instruction of b and checks all that follows its
// opcode. It keeps r.nesting.
func (r *reader) instruction(b *body) (i instruction) {
	i.at = r.at
	i.op = int(r.byte())
	if i.op == opPrefix {
		at := r.at
		sub := r.byte() // one byte, though the format would let it be padded: no two readers shall differ about it
		if sub >= byte(len(operations)-misc) {
			r.fail(at, "there is no instruction 0xfc 0x%02x here", sub)
			return i
		}
		i.op = misc + int(sub)
	}
	switch operations[i.op].follows {
	case refused:
		r.refuse(i)
	case none:
		switch i.op {
		case opElse:
			if top := &r.nesting[len(r.nesting)-1]; top.op == opIf {
				top.op = opElse
				i.blocks = 1
			} else {
				r.fail(i.at, "an else without its if")
			}
		case opEnd:
			r.nesting = r.nesting[:len(r.nesting)-1]
		}
	case blockType:
		r.blockType()
		i.blocks = 1
		if i.op == opLoop {
			i.blocks = 8 // 10,000 loops in a row take an engine two minutes once each has a guard
		}
		r.open(i)
	case label:
		i.x = r.label()
		if i.op == opBrIf {
			i.blocks = 1
		}
	case labels:
		n := r.count("branch table entries", r.limits.BranchTable)
		i.blocks = uint64(n)
		r.targets = r.targets[:0]
		for range n + 1 {
			l := r.label()
			if r.err != nil {
				return i
			}
			r.targets = append(r.targets, l)
		}
		r.m.Counts.BranchTable = max(r.m.Counts.BranchTable, n)
	case function:
		i.x = r.functionIndex()
		// A host function calls nothing of the guest's, so calling one is no way
		// to get deeper.
		b.calls = b.calls || i.op == opCall && int(i.x) >= r.m.imported
	case typeAndTable:
		i.x = r.typeIndex()
		r.tableIndex()
		b.calls = true
	case valueTypes:
		at := r.at
		if n := r.u32(); n != 1 {
			r.fail(at, "a select of %d types", n)
		}
		r.valueType()
	case local:
		at := r.at
		if i.x = r.u32(); i.x >= b.locals {
			r.fail(at, "there is no local %d; there are %d", i.x, b.locals)
		}
	case global:
		r.global(&i)
	case table:
		r.tableIndex()
	case memoryArg:
		at := r.at
		if align := r.u32(); align > uint32(operations[i.op].align) {
			r.fail(at, "an alignment of 2^%d for an access of 2^%d bytes", align, operations[i.op].align)
		}
		r.u32()
		r.needMemory(i.at)
	case memory:
		r.zero()
		r.needMemory(i.at)
	case memories:
		r.zero()
		r.zero()
		r.needMemory(i.at)
	case number32:
		r.signed(32)
	case number64:
		r.signed(64)
	case bytes4:
		r.bytes(4)
	case bytes8:
		r.bytes(8)
	case refType:
		r.refType()
	case dataAndMemory:
		r.dataIndex()
		r.zero()
		r.needMemory(i.at)
	case data:
		r.dataIndex()
	case elementAndTable:
		r.elementIndex()
		r.tableIndex()
	case element:
		r.elementIndex()
	case tables:
		r.tableIndex()
		r.tableIndex()
	}
	switch i.op {
	case opMemoryGrow, memoryInit, memoryCopy, memoryFill, tableInit, tableCopy, tableFill:
		b.bulk = true
		i.blocks = 4 // an engine makes a loop of it
	}
	if name := mutators[i.op]; name != "" && r.m.Unresettable == "" {
		r.m.Unresettable = sprintAt(name, i.at)
	}
	return i
}

// refuse says why an instruction is not accepted.
func (r *reader) refuse(i instruction) {
	switch i.op {
	case tableGrow:
		r.fail(i.at, "table.grow is not accepted: the memory limit does not cover it")
	case 0xfd:
		r.fail(i.at, "vector instructions are not accepted; compile without SIMD")
	case 0xfe:
		r.fail(i.at, "atomic instructions are not accepted; compile without threads")
	case 0x12, 0x13:
		r.fail(i.at, "tail calls are not accepted")
	case 0x06, 0x07, 0x08, 0x09, 0x0a, 0x18, 0x19, 0x1f:
		r.fail(i.at, "exceptions are not accepted")
	default:
		r.fail(i.at, "there is no instruction 0x%02x here", i.op)
	}
}

func (r *reader) open(i instruction) {
	f := frame{op: byte(i.op), loops: r.nesting[len(r.nesting)-1].loops}
	if i.op == opLoop {
		f.loops++
	}
	r.nesting = append(r.nesting, f)
	if depth := len(r.nesting) - 1; depth > r.limits.Nesting {
		r.over(i.at, "nesting of blocks", r.limits.Nesting, uint64(depth))
		return
	}
	if f.loops > r.limits.LoopNesting {
		r.over(i.at, "nesting of loops", r.limits.LoopNesting, uint64(f.loops))
		return
	}
	c := &r.m.Counts
	c.Nesting = max(c.Nesting, len(r.nesting)-1)
	c.LoopNesting = max(c.LoopNesting, f.loops)
}

func (r *reader) blockType() {
	at := r.at
	if at < r.end && (r.b[at] == blockVoid || ValueType(r.b[at]).known()) {
		r.at++
		return
	}
	if index := r.signed(33); index < 0 || index >= int64(len(r.m.types)) {
		r.fail(at, "a block's type is %d; there are %d types", index, len(r.m.types))
	}
}

func (r *reader) label() uint32 {
	at := r.at
	l := r.u32()
	if uint64(l) >= uint64(len(r.nesting)) {
		r.fail(at, "a branch out of %d blocks; %d are open", uint64(l)+1, len(r.nesting))
		return 0
	}
	return l
}

func (r *reader) global(i *instruction) {
	at := r.at
	i.x = r.u32()
	if uint64(i.x) >= uint64(len(r.m.globals)) {
		r.fail(at, "there is no global %d; there are %d", i.x, len(r.m.globals))
		return
	}
	if i.op == opGlobalSet && !r.m.globals[i.x].mutable {
		r.fail(at, "global %d is constant", i.x)
	}
}

func (r *reader) tableIndex() {
	at := r.at
	if i := r.u32(); i != 0 || !r.m.hasTable {
		r.fail(at, "there is no table %d", i)
	}
}

func (r *reader) dataIndex() {
	at := r.at
	i := r.u32()
	if r.m.dataCount < 0 {
		r.fail(at, "a data segment is used without a data count section")
		return
	}
	if uint64(i) >= uint64(r.m.dataCount) {
		r.fail(at, "there is no data segment %d; there are %d", i, r.m.dataCount)
	}
}

func (r *reader) elementIndex() {
	at := r.at
	if i := r.u32(); uint64(i) >= uint64(r.m.elements) {
		r.fail(at, "there is no element segment %d; there are %d", i, r.m.elements)
	}
}

// zero reads the index of the one memory, which the format has as one byte.
func (r *reader) zero() {
	at := r.at
	if r.byte() != 0 {
		r.fail(at, "a byte that must be 0 is not")
	}
}

func (r *reader) needMemory(at int) {
	if !r.m.hasMemory {
		r.fail(at, "an access to memory, and there is none")
	}
}
