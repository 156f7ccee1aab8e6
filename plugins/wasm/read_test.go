package wasm_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/plugins/wasm"
	"github.com/doorward/doorward/sdk/abi"
)

// body is a module whose verify has these instructions.
func body(instructions ...byte) []byte {
	return parts{codes: vector(code(nil, instructions...))}.module()
}

// hostile are modules that are refused, each whole but for its one fault, and
// what the error must say of it. Where a case stands in the plan of attacks, it
// has its number.
func hostile() map[string]struct {
	module  []byte
	section string
	limit   string
	text    string
} {
	i32Const0 := []byte{0x41, 0}
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0x0f}
	many := func(n int, item ...byte) []byte { return append(uleb(uint64(n)), repeat(n, item...)...) }
	blocks := func(n int, op byte) []byte {
		if op == 0x04 { // if takes a condition
			return cat(repeat(n, 0x41, 0, op, 0x40), repeat(n, end), i32Const0)
		}
		return cat(repeat(n, op, 0x40), repeat(n, end), i32Const0)
	}
	withImport := func(module, name string, types ...byte) []byte {
		return parts{
			types:     vector(verifyType, types),
			imports:   vector(imported(module, name, 1)),
			exports:   vector(memoryExport, export("doorward_v1_verify", 0, 1)),
			functions: []byte{1, 0},
		}.module()
	}
	type c = struct {
		module  []byte
		section string
		limit   string
		text    string
	}
	return map[string]c{
		"P-01 import count of 14 bytes": {guesttest.Bomb(), "import", "imports", "268435455; the limit is 256"},
		"P-01 table count":              {parts{tables: huge}.module(), "table", "tables", "4294967295; the limit is 1"},
		"P-01 global count":             {parts{globals: huge}.module(), "global", "globals", "4294967295; the limit is 1000"},
		"P-01 element count":            {parts{elements: huge}.module(), "element", "segments", "4294967295; the limit is 100000"},
		"P-01 code count":               {parts{codes: huge}.module(), "code", "functions", "4294967295; the limit is 30000"},
		"P-01 data count":               {parts{data: huge}.module(), "data", "segments", "the limit is 100000"},
		"P-01 function count":           {parts{functions: huge}.module(), "function", "functions", "the limit is 30000"},
		"P-01 type count":               {parts{types: huge}.module(), "type", "types", "the limit is 2000"},
		"P-01 export count":             {parts{exports: huge}.module(), "export", "exports", "the limit is 256"},
		"P-01 count above the bytes":    {parts{globals: []byte{100}}.module(), "global", "", "globals: 100 are announced and 0 bytes are left"},
		"P-02 4.29e9 locals":            {parts{codes: vector(code(cat([]byte{1}, huge, []byte{i32}), 0x41, 0))}.module(), "code", "locals of one function", "4294967295; the limit is 1000"},
		"P-02 locals in many runs":      {parts{codes: vector(code(many(1001, 1, i32), 0x41, 0))}.module(), "code", "locals of one function", "1001; the limit is 1000"},
		"P-03 1e8 locals":               {guesttest.LocalsBomb(), "code", "locals of one function", "100000000; the limit is 1000"},
		"P-04 locals in many functions": {parts{functions: many(201, 0), codes: many(201, code(locals(1000), 0x41, 0)...)}.module(), "code", "locals of all functions", "201000; the limit is 200000"},
		"P-05 nested blocks":            {body(blocks(1001, 0x02)...), "code", "nesting of blocks", "1001; the limit is 1000"},
		"P-05 nested ifs":               {body(blocks(20_000, 0x04)...), "code", "nesting of blocks", "1001; the limit is 1000"},
		"P-05 nested loops":             {body(blocks(65, 0x03)...), "code", "nesting of loops", "65; the limit is 64"},
		"P-06 ifs times locals": {parts{codes: vector(code(locals(999), cat(repeat(3000, 0x41, 0, 0x04, 0x40, end), i32Const0)...))}.module(),
			"code", "blocks × locals of one function", "201000; the limit is 200000"},
		"P-06 branch tables times locals": {body(cat(repeat(60, cat([]byte{0x02, 0x40, 0x41, 0, 0x0e}, many(4000, 0), []byte{0, end})...), i32Const0)...),
			"code", "blocks × locals of one function", "the limit is 200000"},
		"P-07 params":          {parts{types: vector(verifyType, cat([]byte{0x60}, many(1_000_000, i32), []byte{0}))}.module(), "type", "params", "1000000; the limit is 64"},
		"P-07 results":         {parts{types: vector(verifyType, cat([]byte{0x60, 0}, many(65, i32)))}.module(), "type", "params", "65; the limit is 64"},
		"P-08 types":           {parts{types: many(2001, verifyType...)}.module(), "type", "types", "2001; the limit is 2000"},
		"P-08 empty functions": {parts{functions: many(200_000, 0), codes: many(200_000, code(nil, 0x41, 0)...)}.module(), "function", "functions", "200000; the limit is 30000"},
		"P-09 branch table":    {body(cat([]byte{0x41, 0, 0x0e}, many(4097, 0), []byte{0})...), "code", "branch table entries", "4097; the limit is 4096"},
		"P-10 table":           {parts{tables: cat([]byte{1, 0x70, 0}, uleb(134_217_728))}.module(), "table", "table elements", "134217728; the limit is 65536"},
		"P-10 200 tables":      {parts{tables: many(200, 0x70, 0, 1)}.module(), "table", "tables", "200; the limit is 1"},
		"P-10 table.grow":      {parts{tables: []byte{1, 0x70, 0, 1}, codes: vector(code(nil, 0xd0, 0x70, 0x41, 1, 0xfc, 15, 0))}.module(), "code", "", "table.grow is not accepted"},
		"P-13 memory":          {parts{memories: cat([]byte{1, 0}, uleb(65536))}.module(), "memory", "memory pages", "65536; the limit is 1024"},
		"P-13 two memories":    {parts{memories: []byte{2, 0, 1, 0, 1}}.module(), "memory", "memories", "2; the limit is 1"},
		"P-13 shared memory":   {parts{memories: []byte{1, 3, 1, 1}}.module(), "memory", "", "not accepted"},
		"P-13 most below least": {parts{memories: []byte{1, 1, 2, 1}}.module(),
			"memory", "", "at least 2 and at most 1"},
		"P-15 data segments":   {parts{data: many(100_001, 0, 0x41, 0, end, 0)}.module(), "data", "segments", "100001; the limit is 100000"},
		"P-15 element entries": {parts{tables: []byte{1, 0x70, 0, 1}, elements: cat([]byte{1, 0, 0x41, 0, end}, many(3_000_000, 0))}.module(), "element", "segments", "3000001; the limit is 100000"},
		"P-21 another module":  {withImport("env", "system", 0x60, 1, i32, 1, i32), "import", "", `"env"."system" is not offered`},
		"P-21 unknown WASI":    {withImport(abi.WASI, "path_exec", 0x60, 1, i32, 1, i32), "import", "", "is not offered"},
		"P-21 unknown host":    {withImport(abi.Module, "kv_destroy", 0x60, 1, i32, 1, i32), "import", "", "is not offered"},
		"P-21 WASI signature":  {withImport(abi.WASI, "fd_write", 0x60, 1, i32, 1, i32), "import", "", "has type (i32) -> i32; the contract gives it (i32 i32 i32 i32) -> i32"},
		"P-21 host signature":  {withImport(abi.Module, "log", 0x60, 3, i32, i32, i64, 0), "import", "", "the contract gives it (i32 i32 i32)"},
		"P-21 imported memory": {parts{imports: vector(cat(str("env"), str("memory"), []byte{2, 0, 1}))}.module(), "import", "", "is a memory; only functions"},
		"P-21 imported global": {parts{imports: vector(cat(str("env"), str("g"), []byte{3, i32, 0}))}.module(), "import", "", "is a global; only functions"},
		"P-21 imported table":  {parts{imports: vector(cat(str("env"), str("t"), []byte{1, 0x70, 0, 1}))}.module(), "import", "", "is a table; only functions"},
		"P-22 no memory export": {parts{exports: vector(export("doorward_v1_verify", 0, 0))}.module(),
			"export", "", `does not export its memory as "memory"`},
		"P-22 no memory": {parts{memories: []byte{}, exports: vector(export("doorward_v1_verify", 0, 0))}.module(), "export", "", "does not export its memory"},
		"P-22 memory is a function": {parts{exports: vector(export("memory", 0, 0), export("doorward_v1_verify", 0, 0))}.module(),
			"export", "", "does not export its memory"},
		"P-22 no verify":            {parts{exports: vector(memoryExport)}.module(), "export", "", "exports neither doorward_v1_verify nor _start"},
		"P-22 verify of wrong type": {parts{types: vector([]byte{0x60, 0, 1, i32})}.module(), "export", "", "export doorward_v1_verify has type () -> i32; the contract gives it (i32) -> i32"},
		"P-22 verify is a memory":   {parts{exports: vector(memoryExport, export("doorward_v1_verify", 2, 0))}.module(), "export", "", "is not a function"},
		"P-22 300k exports":         {parts{exports: many(300_000, 1, 'x', 0, 0)}.module(), "export", "exports", "300000; the limit is 256"},
		"P-22 export twice":         {parts{exports: vector(memoryExport, memoryExport)}.module(), "export", "", `two exports "memory"`},
		"P-22 export of an import": {parts{types: vector(verifyType), imports: vector(imported(abi.WASI, "fd_close", 0)),
			exports: vector(memoryExport, export("doorward_v1_verify", 0, 0))}.module(), "export", "", "is an import; it must be the module's own"},
		"P-22 any export of an import": {parts{types: vector(verifyType), imports: vector(imported(abi.WASI, "fd_close", 0)),
			exports: vector(memoryExport, export("doorward_v1_verify", 0, 1), export("x", 0, 0))}.module(), "export", "", `"x" is an import`},
		"export of nothing":     {parts{exports: vector(memoryExport, export("doorward_v1_verify", 0, 7))}.module(), "export", "", "is number 7 of its kind; there are 1"},
		"export of a host name": {parts{exports: vector(memoryExport, export("doorward_v1_verify", 0, 0), export("doorward.fuel", 0, 0))}.module(), "export", "", "are the host's"},
		"start is an import": {parts{types: vector(verifyType, []byte{0x60, 1, i32, 0}), imports: vector(imported(abi.WASI, "proc_exit", 1)), start: []byte{0},
			exports: vector(memoryExport, export("doorward_v1_verify", 0, 1))}.module(), "start", "", "the start function is an import"},
		"start of wrong type": {parts{start: []byte{0}}.module(), "start", "", "the start function has type (i32) -> i32"},
		"start of nothing":    {parts{start: []byte{9}}.module(), "start", "", "there is no function 9"},

		"P-39 nothing":           {nil, "module", "", "not a WebAssembly module"},
		"P-39 gzip":              {[]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0}, "module", "", "not a WebAssembly module"},
		"P-39 component":         {[]byte{0, 'a', 's', 'm', 0x0d, 0, 1, 0}, "module", "", "a component?"},
		"P-39 too large":         {append([]byte{0, 'a', 's', 'm', 1, 0, 0, 0}, make([]byte, 8<<20)...), "module", "module bytes", "8388616; the limit is 8388608"},
		"P-39 cut short":         {parts{}.module()[:40], "module", "", "announces"},
		"section out of order":   {parts{tail: section(1, vector(verifyType))}.module(), "module", "", "a type section after the code section"},
		"section twice":          {parts{tail: section(10, vector(code(nil, 0x41, 0)))}.module(), "module", "", "out of order or there twice"},
		"unknown section":        {parts{tail: []byte{13, 0}}.module(), "module", "", "no section 13"},
		"section too long":       {parts{types: cat(vector(verifyType), []byte{0})}.module(), "type", "", "1 bytes are left over"},
		"custom without a name":  {parts{tail: section(0, []byte{9, 'x'})}.module(), "custom", "", "9 bytes are announced and 1 are left"},
		"two manifests":          {abi.AppendManifest(abi.AppendManifest(parts{}.module(), []byte("{}")), []byte("{}")), "custom", "", "two sections doorward.manifest"},
		"LEB128 of six bytes":    {parts{functions: []byte{1, 0x80, 0x80, 0x80, 0x80, 0x80, 0}}.module(), "function", "", "longer than 32 bits"},
		"LEB128 of 33 bits":      {parts{functions: []byte{1, 0x80, 0x80, 0x80, 0x80, 0x10}}.module(), "function", "", "longer than 32 bits"},
		"i32.const of 33 bits":   {body(0x41, 0xff, 0xff, 0xff, 0xff, 0x0f), "code", "", "longer than 32 bits"},
		"i64.const of 11 bytes":  {body(cat([]byte{0x42}, repeat(10, 0x80), []byte{0, 0x1a, 0x41, 0})...), "code", "", "longer than 64 bits"},
		"name that is not UTF-8": {parts{exports: vector(memoryExport, export("a\xffb", 0, 0))}.module(), "export", "", "not valid UTF-8"},
		"functions without code": {parts{codes: []byte{}}.module(), "module", "", "1 functions are declared and 0 have code"},
		"more code":              {parts{codes: vector(code(nil, 0x41, 0), code(nil, 0x41, 0))}.module(), "code", "", "1 functions are declared and 2 have code"},
		"body cut short":         {parts{codes: []byte{1, 9, 0, 0x41, 0, end}}.module(), "code", "", "announces 9 bytes and 4 are left"},
		"body without end":       {parts{codes: []byte{1, 3, 0, 0x41, 0}}.module(), "code", "", "ends with 1 blocks open"},
		"body after its end":     {body(0x41, 0, end, 0x41, 0), "code", "", "goes on after its end"},
		"body too long": {body(cat(repeat(512<<10, 1), i32Const0)...),
			"code", "function body bytes", "524292; the limit is 524288"},
		"no such local":           {body(0x20, 1), "code", "", "no local 1; there are 1"},
		"no such global":          {body(0x23, 0), "code", "", "no global 0; there are 0"},
		"constant global":         {parts{globals: cat([]byte{1, i32, 0, 0x41, 0, end}), codes: vector(code(nil, 0x41, 0, 0x24, 0, 0x41, 0))}.module(), "code", "", "global 0 is constant"},
		"no such function":        {body(0x41, 0, 0x10, 1), "code", "", "no function 1; there are 1"},
		"no such label":           {body(0x41, 0, 0x0c, 1), "code", "", "a branch out of 2 blocks; 1 are open"},
		"no table":                {body(0x41, 0, 0x41, 0, 0x11, 0, 0), "code", "", "no table 0"},
		"no such type":            {body(0x02, 7, end, 0x41, 0), "code", "", "a block's type is 7; there are 1"},
		"no such data":            {parts{dataCount: []byte{0}, codes: vector(code(nil, 0x41, 0, 0x41, 0, 0x41, 0, 0xfc, 8, 0, 0, 0x41, 0))}.module(), "code", "", "no data segment 0"},
		"data without its count":  {body(0xfc, 9, 0, 0x41, 0), "code", "", "without a data count section"},
		"data count that differs": {parts{dataCount: []byte{1}}.module(), "module", "", "1 data segments are announced and there are 0"},
		"no such elements":        {parts{tables: []byte{1, 0x70, 0, 1}, codes: vector(code(nil, 0xfc, 13, 0, 0x41, 0))}.module(), "code", "", "no element segment 0"},
		"alignment":               {body(0x41, 0, 0x28, 3, 0), "code", "", "an alignment of 2^3 for an access of 2^2 bytes"},
		"code without memory":     {parts{memories: []byte{}, exports: vector(export("doorward_v1_verify", 0, 0)), codes: vector(code(nil, 0x41, 0, 0x28, 2, 0))}.module(), "code", "", "there is none"},
		"else without if":         {body(0x02, 0x40, 0x05, end, 0x41, 0), "code", "", "an else without its if"},
		"two elses":               {body(0x41, 0, 0x04, 0x40, 0x05, 0x05, end, 0x41, 0), "code", "", "an else without its if"},
		"padded second opcode":    {body(0xfc, 0x8b, 0, 0), "code", "", "no instruction 0xfc 0x8b"},
		"vector instruction":      {body(0xfd, 12), "code", "", "compile without SIMD"},
		"vector local":            {parts{codes: vector(code([]byte{1, 1, 0x7b}, 0x41, 0))}.module(), "code", "", "compile without SIMD"},
		"atomic":                  {body(0xfe, 3, 0, 0x41, 0), "code", "", "compile without threads"},
		"tail call":               {body(0x41, 0, 0x12, 0), "code", "", "tail calls"},
		"exceptions":              {body(0x06, 0x40, end, 0x41, 0), "code", "", "exceptions"},
		"unknown instruction":     {body(0xc5), "code", "", "no instruction 0xc5"},
		"global from a global":    {parts{globals: []byte{2, i32, 0, 0x41, 0, end, i32, 0, 0x23, 0, end}}.module(), "global", "", "cannot be made with instruction 0x23"},
		"global by arithmetic":    {parts{globals: []byte{1, i32, 0, 0x41, 0, 0x41, 0, 0x6a, end}}.module(), "global", "", "more than one instruction"},
		"global of another type":  {parts{globals: []byte{1, i64, 0, 0x41, 0, end}}.module(), "global", "", "another type"},
		"reference of nothing":    {parts{globals: []byte{1, 0x70, 0, 0xd2, 5, end}}.module(), "global", "", "no function 5"},
		"GC types":                {parts{types: []byte{1, 0x4e, 1, 0x60, 0, 0}}.module(), "type", "", "not that of a function"},
		"data for no memory":      {parts{memories: []byte{}, exports: vector(export("doorward_v1_verify", 0, 0)), data: []byte{1, 0, 0x41, 0, end, 0}}.module(), "data", "", "there is none"},
		"data longer than it is":  {parts{data: []byte{1, 0, 0x41, 0, end, 9}}.module(), "data", "", "9 bytes are announced"},
		"elements for no table":   {parts{elements: []byte{1, 0, 0x41, 0, end, 0}}.module(), "element", "", "there is none"},
	}
}

func TestAHostileModuleIsRefusedForItsFault(t *testing.T) {
	for name, c := range hostile() {
		t.Run(name, func(t *testing.T) {
			m, err := wasm.Read(c.module, wasm.Limits{})
			var refusal *wasm.Error
			if !errors.As(err, &refusal) || m != nil {
				t.Fatalf("got %v, %v", m, err)
			}
			if refusal.Section != c.section || refusal.Limit != c.limit || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%+v\n%v\nwant section %q, limit %q, text %q", *refusal, err, c.section, c.limit, c.text)
			}
			if refusal.Offset < 0 || refusal.Offset > len(c.module) {
				t.Errorf("offset %d in a module of %d bytes", refusal.Offset, len(c.module))
			}
			if c.limit != "" && refusal.Found <= refusal.Max {
				t.Errorf("found %d, and the limit is %d", refusal.Found, refusal.Max)
			}
		})
	}
}

// At a limit a module is let through; the cases above are one above it.
func TestAModuleAtALimitIsRead(t *testing.T) {
	for name, p := range map[string]parts{
		"locals":        {codes: vector(code(locals(999), 0x41, 0))},
		"params":        {types: vector(verifyType, cat([]byte{0x60, 64}, repeat(64, i64), []byte{64}, repeat(64, f64)))},
		"nesting":       {codes: vector(code(nil, cat(repeat(1000, 0x02, 0x40), repeat(1000, end), []byte{0x41, 0})...))},
		"loops":         {codes: vector(code(nil, cat(repeat(64, 0x03, 0x40), repeat(64, end), []byte{0x41, 0})...))},
		"branch table":  {codes: vector(code(nil, cat([]byte{0x41, 0, 0x41, 0, 0x0e}, uleb(4096), repeat(4097, 0))...))},
		"table":         {tables: cat([]byte{1, 0x70, 0}, uleb(65536))},
		"memory":        {memories: cat([]byte{1, 1}, uleb(1024), uleb(65536))},
		"data segments": {data: cat(uleb(100_000), repeat(100_000, 0, 0x41, 0, end, 0))},
		"padded LEB128": {functions: []byte{0x81, 0x80, 0x80, 0x80, 0, 0x80, 0x80, 0x80, 0x80, 0}},
		"reset":         {},
	} {
		if _, err := wasm.Read(p.module(), wasm.Limits{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnOperatorsLimitHolds(t *testing.T) {
	_, err := wasm.Read(parts{}.module(), wasm.Limits{ModuleBytes: 20})
	var refusal *wasm.Error
	if !errors.As(err, &refusal) || refusal.Max != 20 || refusal.Limit != "module bytes" {
		t.Fatal(err)
	}
}

func TestWhatKeepsAnInstanceFromBeingSetBackIsNoted(t *testing.T) {
	table := []byte{1, 0x70, 0, 1}
	for name, p := range map[string]parts{
		"table.set":                       {tables: table, codes: vector(code(nil, 0x41, 0, 0xd0, 0x70, 0x26, 0, 0x41, 0))},
		"table.fill":                      {tables: table, codes: vector(code(nil, 0x41, 0, 0xd0, 0x70, 0x41, 0, 0xfc, 17, 0, 0x41, 0))},
		"table.copy":                      {tables: table, codes: vector(code(nil, 0x41, 0, 0x41, 0, 0x41, 0, 0xfc, 14, 0, 0, 0x41, 0))},
		"table.init":                      {tables: table, elements: []byte{1, 1, 0, 0}, codes: vector(code(nil, 0x41, 0, 0x41, 0, 0x41, 0, 0xfc, 12, 0, 0, 0x41, 0))},
		"elem.drop":                       {tables: table, elements: []byte{1, 1, 0, 0}, codes: vector(code(nil, 0xfc, 13, 0, 0x41, 0))},
		"a mutable global of a reference": {globals: vector([]byte{0x7f, 1, 0x41, 0, end}, []byte{0x70, 1, 0xd0, 0x70, end})},
		"data.drop":                       {dataCount: []byte{1}, data: []byte{1, 1, 0}, codes: vector(code(nil, 0xfc, 9, 0, 0x41, 0))},
	} {
		m, err := wasm.Read(p.module(), wasm.Limits{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !strings.HasPrefix(m.Unresettable, name+" at offset ") {
			t.Errorf("%s: noted as %q", name, m.Unresettable)
		}
	}
	constant := parts{globals: vector([]byte{0x70, 0, 0xd0, 0x70, end}, []byte{0x7f, 1, 0x41, 0, end})}
	if m, err := wasm.Read(constant.module(), wasm.Limits{}); err != nil || m.Unresettable != "" {
		t.Errorf("a module that holds a reference for ever: %v, %q", err, m.Unresettable)
	}
	if m, err := wasm.Read(parts{}.module(), wasm.Limits{}); err != nil || m.Unresettable != "" {
		t.Errorf("a module that changes nothing: %v, %q", err, m.Unresettable)
	}
}

// Every guest that other tests run as a good one, or as one that is bad only
// when it runs, is read.
func TestGuestsOfTheOtherTestsAreRead(t *testing.T) {
	for name, g := range runnable() {
		m, err := wasm.Read(g.Module(), wasm.Limits{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m.Profile != wasm.Core || m.MemoryPages < 1 || len(m.Imports) != len(g.Imports) {
			t.Errorf("%s: %+v", name, m)
		}
	}
	stdio := guesttest.Guest{Stdio: true}
	if m, err := wasm.Read(stdio.Module(), wasm.Limits{}); err != nil || m.Profile != wasm.Stdio {
		t.Errorf("stdio: %v", err)
	}
	with := guesttest.Accepts("alice")
	with.Manifest = []byte(`{"abi":1}`)
	if m, err := wasm.Read(with.Module(), wasm.Limits{}); err != nil || string(m.Manifest) != `{"abi":1}` {
		t.Errorf("manifest: %v", err)
	}
	if m, err := wasm.Read(abi.AppendManifest(with.Module()[:8], nil), wasm.Limits{}); err == nil {
		t.Errorf("a module of nothing but a manifest: %+v", m)
	}
}

// The names that the reader knows are those of package abi: it imports nothing
// of ours, and has them anew.
func TestTheReaderKnowsTheContract(t *testing.T) {
	for _, name := range []string{
		abi.FuncInputRead, abi.FuncOutputWrite, abi.FuncResultRead, abi.FuncFail, abi.FuncLog, abi.FuncRandom, abi.FuncNowMS, abi.FuncCTEqual,
		abi.FuncConfigGet, abi.FuncSecretGet, abi.FuncPasswordHash, abi.FuncPasswordVerify,
	} {
		g := guesttest.Imports(guesttest.Import{Module: abi.Module, Name: name, Params: 9})
		if _, err := wasm.Read(g.Module(), wasm.Limits{}); err == nil || !strings.Contains(err.Error(), "the contract gives it") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{abi.ExportVerify, abi.ExportInit, abi.ExportWarm, abi.ExportInitialize, abi.ExportStart} {
		m := parts{types: vector(verifyType, []byte{0x60, 1, f32, 0}), functions: []byte{2, 0, 1}, codes: vector(code(nil, 0x41, 0), code(nil)),
			exports: vector(memoryExport, export("x", 0, 0), export(name, 0, 1))}
		if _, err := wasm.Read(m.module(), wasm.Limits{}); err == nil || !strings.Contains(err.Error(), "the contract gives it") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func runnable() map[string]guesttest.Guest {
	return map[string]guesttest.Guest{
		"accepts": guesttest.Accepts("alice"), "rejects": guesttest.Rejects(), "asks": guesttest.Asks(),
		"loops": guesttest.Loops(), "recurses": guesttest.Recurses(), "deepens": guesttest.Deepens(),
		"grows": guesttest.Grows(), "floods": guesttest.Floods(), "chatters": guesttest.Chatters(),
		"traps": guesttest.Traps(), "reaches": guesttest.Reaches(), "remembers": guesttest.Remembers(),
	}
}

// goGuests are the verifiers of this repository, as the local Go builds them.
var goGuests = sync.OnceValues(func() (map[string][]byte, error) {
	dir, err := os.MkdirTemp("", "doorward-wasm-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	guests := map[string][]byte{}
	for _, source := range []string{"guest/go/hello", "verifiers/htpasswd", "verifiers/users"} {
		name := filepath.Base(source)
		file := filepath.Join(dir, name+".wasm")
		cmd := exec.Command("go", "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o", file, "github.com/doorward/doorward/sdk/"+source)
		cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, errors.New(string(out))
		}
		if guests[name], err = os.ReadFile(file); err != nil {
			return nil, err
		}
	}
	return guests, nil
})

func TestVerifiersBuiltWithGoAreRead(t *testing.T) {
	guests, err := goGuests()
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range guests {
		m, err := wasm.Read(b, wasm.Limits{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m.Profile != wasm.Core || m.Unresettable != "" || m.Counts.Functions < 1000 {
			t.Errorf("%s: %+v", name, m)
		}
		t.Logf("%s: %d bytes, %+v", name, len(b), m.Counts)
	}
}

// What a refusal or a module takes of memory is in proportion to the bytes that
// are there. The bound is far below what any of the counts in the cases would
// take if it were believed.
func TestReadingTakesMemoryInProportion(t *testing.T) {
	for name, c := range hostile() {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		wasm.Read(c.module, wasm.Limits{})
		runtime.ReadMemStats(&after)
		if took, most := after.TotalAlloc-before.TotalAlloc, uint64(64*len(c.module)+(1<<20)); took > most {
			t.Errorf("%s: reading %d bytes took %d", name, len(c.module), took)
		}
	}
}

// FuzzRead: whatever the bytes, Read comes back with a module or with an *Error
// that is in the file, and what it lets through keeps to the limits it names.
func FuzzRead(f *testing.F) {
	for _, c := range hostile() {
		if len(c.module) < 4<<10 {
			f.Add(c.module)
		}
	}
	for _, g := range runnable() {
		f.Add(g.Module())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := wasm.Read(b, wasm.Limits{})
		var refusal *wasm.Error
		if err != nil {
			if !errors.As(err, &refusal) || refusal.Section == "" || refusal.Offset < 0 || refusal.Offset > len(b) || m != nil {
				t.Fatalf("%v, %+v", err, refusal)
			}
			return
		}
		if m.MemoryPages > 1024 || m.Counts.Locals > 200_000 || m.Counts.Nesting > 1000 || m.Profile == "" {
			t.Fatalf("let through: %+v", m)
		}
	})
}
