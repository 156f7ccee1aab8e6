package wasm

// Type is the type of a function.
type Type struct {
	Params, Results []ValueType
}

// Import is a function that a module asks for.
type Import struct {
	Module, Name string
	Type         Type
}

// Kind tells what an export is.
type Kind byte

// The kinds of exports.
const (
	Function Kind = iota
	Table
	Memory
	Global
)

// Export is what a module offers under a name.
type Export struct {
	Name  string
	Kind  Kind
	Index uint32
}

// Counts are what a module was measured to hold: the figures that Limits
// bounds. Those of one function are the largest of any.
type Counts struct {
	Types, Functions, Globals, Segments, Locals      int
	BodyBytes, FunctionLocals, Nesting, LoopNesting  int
	BlocksLocals, BranchTable, Instructions, Customs int
}

// Profile is how a module is run.
type Profile string

// The profiles.
const (
	Core  Profile = "core"  // exports doorward_v1_verify
	Stdio Profile = "stdio" // exports _start: the request on standard input, the answer on standard output
)

// Module is one that Read has let through. It refers to the bytes it was read
// from; nobody may change them while it is in use.
type Module struct {
	Profile     Profile
	Imports     []Import
	Exports     []Export
	MemoryPages int    // of 64 KiB, at least
	Manifest    []byte // content of the section doorward.manifest; nil when there is none
	Counts      Counts

	// Unresettable is what keeps an instance from being set back to an image of its
	// memory and globals: the first instruction that may change a table or a
	// segment, such as "table.set at offset 120", or a mutable global that holds a
	// reference, which means something in one instance only. "" when there is none.
	Unresettable string

	b         []byte
	sections  []section // but the custom ones
	types     []Type
	functions []uint32 // types, of imports and own functions
	imported  int      // functions
	referred  bool     // an import can be called by reference: it may be in the table
	globals   []globalType
	hasTable  bool
	table     uint32 // elements at least
	tableType ValueType
	hasMemory bool
	elements  int // segments
	dataCount int // -1: no such section
	data      int
	start     int // function; -1: none
	bodies    []body
}

// section is where the content of one stands.
type section struct {
	id         byte
	start, end int
}

type globalType struct {
	t       ValueType
	mutable bool
}

// body is one function's.
type body struct {
	start, code, end int    // of the locals' declarations, of the instructions, and after the final end
	locals           uint32 // and parameters
	instructions     uint32
	calls            bool // functions of the module, directly or not
	bulk             bool // has an instruction that takes as long as a number on the stack says
}
