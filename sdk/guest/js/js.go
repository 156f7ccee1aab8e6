// Package js makes verifiers of scripts. The author writes JavaScript and nothing is
// compiled: the engine, QuickJS as a module, was built once, and Bundle puts a script
// into it.
//
// The one idea: what a bundle may do is what its manifest asks for. The engine knows
// every function of the host; those that are not granted are taken out of the
// bundle's imports, and are answered as not granted from within.
package js

import (
	"bytes"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"github.com/doorward/doorward/sdk/abi"
)

// built holds what make build put there: engine.wasm, beside its source.
//
//go:embed engine
var built embed.FS

// ErrNoEngine is for a program that was built without the engine.
var ErrNoEngine = errors.New("the JavaScript engine is not built into this program")

// Engine returns the engine that make build built, or ErrNoEngine.
func Engine() ([]byte, error) {
	engine, err := built.ReadFile("engine/engine.wasm")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w; in a checkout of doorward, run: make toolchains build", ErrNoEngine)
	}
	return engine, err
}

// MaxScript bounds a script, in bytes: with what is made of it it has to fit into
// the memory that a verifier has.
const MaxScript = 2 << 20

// What the engine exports for Bundle: where it looks for the script, as two numbers
// of 32 bits, address and length.
const scriptExport = "dw_script"

const pageSize = 64 << 10

// Bundle returns the engine with a script in it, a verifier that imports the
// functions which grants cover and no others. The script is JavaScript as QuickJS
// 2021-03-27 reads it (ES2020), no module: it defines a function verify, which gets
// the request as an object and returns the verdict as one, or a promise of it. A
// bundle (iife) with the global name verifier that exports verify, or has it as its
// default, is as good.
func Bundle(engine, script []byte, grants abi.Grants) ([]byte, error) {
	if len(script) > MaxScript {
		return nil, fmt.Errorf("the script has %d bytes; %d are the limit", len(script), MaxScript)
	}
	m, err := read(engine)
	if err != nil {
		return nil, fmt.Errorf("read the engine: %w", err)
	}
	if err := m.refuse(notGranted(grants)); err != nil {
		return nil, fmt.Errorf("take imports out of the engine: %w", err)
	}
	if err := m.insert(script); err != nil {
		return nil, fmt.Errorf("put the script into the engine: %w", err)
	}
	return m.encode(), nil
}

// notGranted are the host's functions that grants do not cover.
func notGranted(g abi.Grants) map[string]bool {
	none := map[string]bool{}
	for _, kind := range []struct {
		granted   bool
		functions []string
	}{
		{g.Config, []string{abi.FuncConfigGet}},
		{g.Hash, []string{abi.FuncHash}},
		{g.HMAC, []string{abi.FuncHMAC}},
		{g.SigVerify, []string{abi.FuncSigVerify}},
		{g.TOTP, []string{abi.FuncTOTPVerify}},
		{len(g.Secrets) > 0, []string{abi.FuncSecretGet, abi.FuncSecretHMAC}},
		{len(g.Password) > 0, []string{abi.FuncPasswordHash, abi.FuncPasswordVerify}},
		{g.KV != nil && len(g.KV.Namespaces) > 0, []string{abi.FuncKVGet, abi.FuncKVPut, abi.FuncKVIncr, abi.FuncKVCAS}},
		{g.HTTP != nil && len(g.HTTP.Hosts) > 0, []string{abi.FuncHTTPFetch}},
	} {
		for _, f := range kind.functions {
			none[f] = !kind.granted
		}
	}
	return none
}

// insert puts the script at the end of a memory that is made large enough for the
// engine to copy it from there: its heap begins where its memory ended. The last
// bytes are the heap's own.
func (m *module) insert(script []byte) error {
	const foot = 128
	pages, err := m.memory()
	if err != nil {
		return err
	}
	where, err := m.address(scriptExport)
	if err != nil {
		return err
	}
	pages += uint32(2*len(script)+foot)/pageSize + 2
	at := pages*pageSize - foot - uint32(len(script))
	m.setMemory(pages)
	pointer := binary.LittleEndian.AppendUint32(nil, at)
	m.addData(where, binary.LittleEndian.AppendUint32(pointer, uint32(len(script))))
	m.addData(at, script)
	return nil
}

// refuse replaces imports of the host's module by functions that return
// ErrNotGranted, and numbers every function anew.
func (m *module) refuse(names map[string]bool) error {
	var kept []importEntry
	var stubs []uint32 // types
	number := make([]uint32, m.imported)
	next := uint32(0)
	for _, i := range m.imports {
		switch {
		case i.kind != kindFunction:
			kept = append(kept, i)
			continue
		case i.module == abi.Module && names[i.name]:
			number[next] = uint32(len(stubs)) | 1<<31 // known once all are counted
			stubs = append(stubs, i.typeIndex)
		default:
			number[next] = next - uint32(len(stubs))
			kept = append(kept, i)
		}
		next++
	}
	gone, defined := uint32(len(stubs)), uint32(len(m.bodies))
	renumber := func(f uint32) uint32 {
		switch {
		case f >= m.imported:
			return f - gone
		case number[f]>>31 == 1:
			return m.imported - gone + defined + number[f]&^(1<<31)
		}
		return number[f]
	}
	for i, body := range m.bodies {
		rewritten, err := renumberCalls(body, renumber)
		if err != nil {
			return fmt.Errorf("function %d: %w", i, err)
		}
		m.bodies[i] = rewritten
	}
	if err := m.renumberTables(renumber); err != nil {
		return err
	}
	for _, t := range stubs {
		m.types = append(m.types, t)
		m.bodies = append(m.bodies, []byte{0, 0x41, byte(abi.ErrNotGranted & 0x7f), 0x0b}) // no locals; i32.const −3; end
	}
	m.imports, m.imported = kept, m.imported-gone
	return nil
}

// renumberCalls gives a function's body the new numbers of the functions that it
// names.
func renumberCalls(body []byte, renumber func(uint32) uint32) ([]byte, error) {
	r := &cursor{b: body}
	for range r.count() {
		r.u32() // how many
		r.byte()
	}
	out := append(make([]byte, 0, len(body)), body[:r.at]...)
	for r.at < len(body) && r.err == nil {
		from := r.at
		op := r.byte()
		if op == 0x10 || op == 0xd2 { // call, ref.func
			out = binary.AppendUvarint(append(out, op), uint64(renumber(r.u32())))
			continue
		}
		r.immediates(op)
		if r.err == nil {
			out = append(out, body[from:r.at]...)
		}
	}
	return out, r.err
}

// immediates passes over what stands behind an instruction.
func (r *cursor) immediates(op byte) {
	many := func(n int) {
		for range n {
			r.leb()
		}
	}
	switch {
	case op == 0x02 || op == 0x03 || op == 0x04, op == 0x0c || op == 0x0d, op >= 0x20 && op <= 0x26, op == 0x3f || op == 0x40, op == 0x41 || op == 0x42, op == 0xd0:
		many(1) // blocks, branches, variables, memory.size, constants
	case op == 0x0e: // br_table
		many(int(r.count()) + 1)
	case op == 0x1c: // select of a type
		many(int(r.count()))
	case op == 0x11, op >= 0x28 && op <= 0x3e: // call_indirect, loads and stores
		many(2)
	case op == 0x43:
		r.skip(4)
	case op == 0x44:
		r.skip(8)
	case op == 0xfc:
		switch sub := r.u32(); {
		case sub <= 7: // saturating conversions
		case sub == 8 || sub == 10 || sub == 12 || sub == 14:
			many(2)
		case sub == 9 || sub == 11 || sub == 13 || sub >= 15 && sub <= 17:
			many(1)
		default:
			r.fail("instruction 0xfc %d is not known", sub)
		}
	case op <= 0x01, op == 0x05, op == 0x0b, op == 0x0f, op == 0x1a, op == 0x1b, op >= 0x45 && op <= 0xc4, op == 0xd1:
	default:
		r.fail("instruction %#x is not known", op)
	}
}

// renumberTables does the same for exports, the start function, and the segments of
// tables.
func (m *module) renumberTables(renumber func(uint32) uint32) error {
	for i, e := range m.exports {
		if e.kind == kindFunction {
			m.exports[i].index = renumber(e.index)
		}
	}
	for i, s := range m.sections {
		r := &cursor{b: s.content}
		switch s.id {
		case sectionStart:
			m.sections[i].content = binary.AppendUvarint(nil, uint64(renumber(r.u32())))
		case sectionElements:
			n := r.count()
			out := binary.AppendUvarint(nil, uint64(n))
			for range n {
				if kind := r.u32(); kind != 0 {
					r.fail("an element segment of kind %d", kind)
				}
				from := r.at
				for r.err == nil && r.byte() != 0x0b { // the place in the table: i32.const, end
					r.leb()
				}
				count := r.count()
				if r.err != nil {
					return r.err
				}
				out = append(append(out, 0), s.content[from:r.at]...)
				for range count {
					out = binary.AppendUvarint(out, uint64(renumber(r.u32())))
				}
			}
			m.sections[i].content = out
		}
		if r.err != nil {
			return r.err
		}
	}
	return nil
}

// memory is how many pages the memory begins with.
func (m *module) memory() (pages uint32, err error) {
	for _, s := range m.sections {
		if s.id == sectionMemory {
			r := &cursor{b: s.content}
			if n, flags := r.u32(), r.u32(); n != 1 || flags != 0 {
				return 0, errors.New("it has not one memory without a limit")
			}
			return r.u32(), r.err
		}
	}
	return 0, errors.New("it has no memory")
}

func (m *module) setMemory(pages uint32) {
	for i, s := range m.sections {
		if s.id == sectionMemory {
			m.sections[i].content = binary.AppendUvarint([]byte{1, 0}, uint64(pages))
		}
	}
}

// address is where in memory something is that the linker exported.
func (m *module) address(name string) (uint32, error) {
	for _, e := range m.exports {
		if e.name != name || e.kind != kindGlobal {
			continue
		}
		for _, s := range m.sections {
			if s.id != sectionGlobals {
				continue
			}
			r := &cursor{b: s.content}
			for i := range r.count() {
				r.skip(2) // type, mutability
				op, value := r.byte(), r.leb()
				if r.byte() != 0x0b || r.err != nil {
					return 0, errors.New("a global of it is no constant")
				}
				if i == e.index && op == 0x41 {
					return uint32(value), nil
				}
			}
		}
	}
	return 0, fmt.Errorf("it exports no %s: it is no engine, or one of another version", name)
}

func (m *module) addData(at uint32, content []byte) {
	for i, s := range m.sections {
		if s.id != sectionData {
			continue
		}
		r := &cursor{b: s.content}
		n := r.u32()
		out := append(binary.AppendUvarint(nil, uint64(n)+1), s.content[r.at:]...)
		out = append(out, 0, 0x41) // of memory 0, at a constant
		out = append(appendSigned(out, int32(at)), 0x0b)
		out = append(binary.AppendUvarint(out, uint64(len(content))), content...)
		m.sections[i].content = out
	}
}

func appendSigned(out []byte, v int32) []byte {
	for {
		low := byte(v) & 0x7f
		v >>= 7
		if v == 0 && low&0x40 == 0 || v == -1 && low&0x40 != 0 {
			return append(out, low)
		}
		out = append(out, low|0x80)
	}
}

// The sections that are looked into.
const (
	sectionImports   = 2
	sectionFunctions = 3
	sectionMemory    = 5
	sectionGlobals   = 6
	sectionExports   = 7
	sectionStart     = 8
	sectionElements  = 9
	sectionCode      = 10
	sectionData      = 11
	sectionDataCount = 12
)

const (
	kindFunction = 0
	kindGlobal   = 3
)

type section struct {
	id      byte
	content []byte
}

type importEntry struct {
	module, name string
	kind         byte
	typeIndex    uint32
}

type exportEntry struct {
	name  string
	kind  byte
	index uint32
}

// module is an engine in its parts. The parts of functions are decoded, other
// sections are as they were.
type module struct {
	sections []section
	imports  []importEntry
	imported uint32   // functions
	types    []uint32 // of the functions that are defined
	exports  []exportEntry
	bodies   [][]byte
}

func read(b []byte) (*module, error) {
	if !bytes.HasPrefix(b, []byte("\x00asm\x01\x00\x00\x00")) {
		return nil, errors.New("it is no WebAssembly module")
	}
	m := &module{}
	for r := (&cursor{b: b, at: 8}); r.at < len(b); {
		s := section{id: r.byte(), content: r.take(r.u32())}
		in := &cursor{b: s.content}
		switch s.id {
		case sectionImports:
			for range in.count() {
				i := importEntry{module: in.text(), name: in.text(), kind: in.byte(), typeIndex: in.u32()}
				if i.kind != kindFunction {
					in.fail("it imports %s.%s, which is no function", i.module, i.name)
					break
				}
				m.imports = append(m.imports, i)
				m.imported++
			}
		case sectionFunctions:
			for range in.count() {
				m.types = append(m.types, in.u32())
			}
		case sectionExports:
			for range in.count() {
				m.exports = append(m.exports, exportEntry{in.text(), in.byte(), in.u32()})
			}
		case sectionCode:
			for range in.count() {
				m.bodies = append(m.bodies, in.take(in.u32()))
			}
		case sectionDataCount:
			in.fail("it counts its data, which nothing here does")
		}
		if err := errors.Join(r.err, in.err); err != nil {
			return nil, err
		}
		m.sections = append(m.sections, s)
	}
	return m, nil
}

func (m *module) encode() []byte {
	out := []byte("\x00asm\x01\x00\x00\x00")
	for _, s := range m.sections {
		content := s.content
		switch s.id {
		case sectionImports:
			content = binary.AppendUvarint(nil, uint64(len(m.imports)))
			for _, i := range m.imports {
				content = append(appendText(appendText(content, i.module), i.name), i.kind)
				content = binary.AppendUvarint(content, uint64(i.typeIndex))
			}
		case sectionFunctions:
			content = binary.AppendUvarint(nil, uint64(len(m.types)))
			for _, t := range m.types {
				content = binary.AppendUvarint(content, uint64(t))
			}
		case sectionExports:
			content = binary.AppendUvarint(nil, uint64(len(m.exports)))
			for _, e := range m.exports {
				content = append(appendText(content, e.name), e.kind)
				content = binary.AppendUvarint(content, uint64(e.index))
			}
		case sectionCode:
			content = binary.AppendUvarint(nil, uint64(len(m.bodies)))
			for _, b := range m.bodies {
				content = append(binary.AppendUvarint(content, uint64(len(b))), b...)
			}
		}
		out = binary.AppendUvarint(append(out, s.id), uint64(len(content)))
		out = append(out, content...)
	}
	return out
}

func appendText(out []byte, s string) []byte {
	return append(binary.AppendUvarint(out, uint64(len(s))), s...)
}

// cursor reads; its first error stays.
type cursor struct {
	b   []byte
	at  int
	err error
}

func (r *cursor) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("at byte %d: "+format, append([]any{r.at}, args...)...)
	}
}

func (r *cursor) take(n uint32) []byte {
	if r.err == nil && uint64(n) > uint64(len(r.b)-r.at) {
		r.fail("it ends")
	}
	if r.err != nil {
		return nil
	}
	r.at += int(n)
	return r.b[r.at-int(n) : r.at]
}

// count is u32 for how many follow, of a byte at least.
func (r *cursor) count() uint32 {
	n := r.u32()
	if uint64(n) > uint64(len(r.b)-r.at) {
		r.fail("%d things in fewer bytes", n)
		return 0
	}
	return n
}

func (r *cursor) skip(n uint32) { r.take(n) }

func (r *cursor) text() string { return string(r.take(r.u32())) }

func (r *cursor) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

// leb reads a number of LEB128, signed, which makes no difference to who passes it
// over.
func (r *cursor) leb() (v int64) {
	for shift := 0; shift < 70; shift += 7 {
		b := r.byte()
		v |= int64(b&0x7f) << shift
		if b < 0x80 {
			if shift < 57 && b&0x40 != 0 {
				v |= -1 << (shift + 7)
			}
			return v
		}
	}
	r.fail("a number does not end")
	return 0
}

func (r *cursor) u32() uint32 {
	var v uint64
	for shift := 0; shift < 35; shift += 7 {
		b := r.byte()
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			if v > 1<<32-1 {
				r.fail("a number of more than 32 bits")
				return 0
			}
			if r.err != nil {
				return 0
			}
			return uint32(v)
		}
	}
	r.fail("a number does not end")
	return 0
}
