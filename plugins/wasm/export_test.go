package wasm

// Parse reads a module without holding it to the contract, so that the
// specification's own tests, which import from other modules and export other
// names, can be put to the reader and the rewriter.
func Parse(b []byte, limits Limits) (*Module, error) {
	r := reader{limits: limits.orDefaults()}
	r.module(b)
	if r.err != nil {
		return nil, r.err
	}
	return r.m, nil
}

// HasMemory tells whether a module has a memory, of 0 pages perhaps.
func (m *Module) HasMemory() bool { return m.hasMemory }

// HasStart tells whether a module has a start function.
func (m *Module) HasStart() bool { return m.start >= 0 }

// RewriteExactly is Rewrite with a charge before every single instruction.
func RewriteExactly(m *Module) []byte { return rewrite(m, true) }
