package wasm

import "fmt"

// Limits bounds what a module may hold. A field that is 0 has its default. The
// defaults let through what Go 1.26, QuickJS, AssemblyScript, Rust and C emit,
// with room; each keeps out something that was measured to take an engine
// seconds or gigabytes.
type Limits struct {
	ModuleBytes    int // 0: 8 MiB
	Types          int // 0: 2,000
	Imports        int // 0: 256
	Functions      int // the module's own; 0: 30,000
	Globals        int // 0: 1,000
	Exports        int // 0: 256
	Segments       int // data segments, element segments and the entries of these, together; 0: 100,000
	Locals         int // of all functions, parameters not counted; 0: 200,000
	BodyBytes      int // of one function; 0: 512 KiB
	FunctionLocals int // of one function, parameters not counted; 0: 1,000
	Params         int // of one type, and as many results; 0: 64
	Nesting        int // of blocks; 0: 1,000
	LoopNesting    int // of loops in loops; 0: 64
	BlocksLocals   int // of one function, (blocks, branches and branch table entries) × (parameters and locals, or 20); 0: 200,000
	BranchTable    int // entries of one br_table; 0: 4,096
	Table          int // elements of the one table; 0: 65,536
	MemoryPages    int // of 64 KiB that the memory has at least; 0: 1,024
}

func (l Limits) orDefaults() Limits {
	for _, f := range []struct {
		field *int
		value int
	}{
		{&l.ModuleBytes, 8 << 20}, {&l.Types, 2000}, {&l.Imports, 256}, {&l.Functions, 30_000},
		{&l.Globals, 1000}, {&l.Exports, 256}, {&l.Segments, 100_000}, {&l.Locals, 200_000},
		{&l.BodyBytes, 512 << 10}, {&l.FunctionLocals, 1000}, {&l.Params, 64}, {&l.Nesting, 1000},
		{&l.LoopNesting, 64}, {&l.BlocksLocals, 200_000}, {&l.BranchTable, 4096}, {&l.Table, 65_536},
		{&l.MemoryPages, 1024},
	} {
		if *f.field == 0 {
			*f.field = f.value
		}
	}
	return l
}

// Error is why a module is refused. Its text is for the author: it names the
// place and, when a limit is at fault, the limit and by how much.
type Error struct {
	Section string // "code", "import", …; "module" for what is in none
	Offset  int    // of what is wrong, in bytes from the start of the module
	Problem string
	Limit   string // what is limited; "" when the format or the contract is at fault
	Max     int64  // the limit
	Found   int64  // what the module has, or claims to have
}

func (e *Error) Error() string {
	if e.Limit == "" {
		return fmt.Sprintf("%s section, offset %d: %s", e.Section, e.Offset, e.Problem)
	}
	return fmt.Sprintf("%s section, offset %d: %s: %d; the limit is %d", e.Section, e.Offset, e.Limit, e.Found, e.Max)
}

// Figure is something that a module was measured by, and what it may be.
type Figure struct {
	Name  string `json:"name"`
	Found int    `json:"found"`
	Limit int    `json:"limit"`
}

// Figures are those of a module beside the default limits.
func (m *Module) Figures() []Figure {
	l, c := Limits{}.orDefaults(), m.Counts
	return []Figure{
		{"module bytes", len(m.b), l.ModuleBytes},
		{"memory pages at the start", m.MemoryPages, l.MemoryPages},
		{"types", c.Types, l.Types},
		{"imports", len(m.Imports), l.Imports},
		{"exports", len(m.Exports), l.Exports},
		{"functions", c.Functions, l.Functions},
		{"globals", c.Globals, l.Globals},
		{"segments", c.Segments, l.Segments},
		{"table elements", int(m.table), l.Table},
		{"locals of all functions", c.Locals, l.Locals},
		{"locals of one function", c.FunctionLocals, l.FunctionLocals},
		{"function body bytes", c.BodyBytes, l.BodyBytes},
		{"nesting of blocks", c.Nesting, l.Nesting},
		{"nesting of loops", c.LoopNesting, l.LoopNesting},
		{"blocks × locals of one function", c.BlocksLocals, l.BlocksLocals},
		{"branch table entries", c.BranchTable, l.BranchTable},
	}
}
