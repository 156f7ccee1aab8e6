package wasm_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/plugins/wasm"
	"github.com/doorward/doorward/sdk/abi"
)

// body is a module whose verify has these instructions.
func body(instructions ...byte) []byte {
	return parts{codes: vector(code(nil, instructions...))}.module()
}

// malformed are modules that are refused besides those of the corpus, each whole
// but for its one fault, and what the error must say of it.
func malformed() map[string]struct {
	module  []byte
	section string
	limit   string
	text    string
} {
	i32Const0 := []byte{0x41, 0}
	type c = struct {
		module  []byte
		section string
		limit   string
		text    string
	}
	return map[string]c{
		"export of nothing": {parts{exports: vector(memoryExport, export("doorward_v1_verify", 0, 7))}.module(), "export", "", "is number 7 of its kind; there are 1"},
		"start of nothing":  {parts{start: []byte{9}}.module(), "start", "", "there is no function 9"},

		"section out of order":   {parts{tail: section(1, vector(verifyType))}.module(), "module", "", "a type section after the code section"},
		"section twice":          {parts{tail: section(10, vector(code(nil, 0x41, 0)))}.module(), "module", "", "out of order or there twice"},
		"unknown section":        {parts{tail: []byte{13, 0}}.module(), "module", "", "no section 13"},
		"section too long":       {parts{types: cat(vector(verifyType), []byte{0})}.module(), "type", "", "1 bytes are left over"},
		"custom without a name":  {parts{tail: section(0, []byte{9, 'x'})}.module(), "custom", "", "9 bytes are announced and 1 are left"},
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
		"else without if":         {body(0x02, 0x40, 0x05, end, 0x41, 0), "code", "", "an else without its if"},
		"two elses":               {body(0x41, 0, 0x04, 0x40, 0x05, 0x05, end, 0x41, 0), "code", "", "an else without its if"},
		"padded second opcode":    {body(0xfc, 0x8b, 0, 0), "code", "", "no instruction 0xfc 0x8b"},
		"vector local":            {parts{codes: vector(code([]byte{1, 1, 0x7b}, 0x41, 0))}.module(), "code", "", "compile without SIMD"},
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
	refused := func(name string, module []byte, section, limit, text string) {
		m, err := wasm.Read(module, wasm.Limits{})
		var refusal *wasm.Error
		if !errors.As(err, &refusal) || m != nil {
			t.Errorf("%s: got %v, %v", name, m, err)
			return
		}
		if refusal.Section != section || refusal.Limit != limit || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %+v\n%v\nwant section %q, limit %q, text %q", name, *refusal, err, section, limit, text)
		}
		if len(err.Error()) > 1000 { // once as long as the name of an import, four times over
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
		if refusal.Offset < 0 || refusal.Offset > len(module) {
			t.Errorf("%s: offset %d in a module of %d bytes", name, refusal.Offset, len(module))
		}
		if limit != "" && refusal.Found <= refusal.Max {
			t.Errorf("%s: found %d, and the limit is %d", name, refusal.Found, refusal.Max)
		}
	}
	for _, c := range guesttest.Hostile() {
		if c.Stopped == guesttest.Reading {
			refused(c.String(), c.Module, c.Section, c.Limit, c.Says)
		} else if _, err := wasm.Read(c.Module, wasm.Limits{}); err != nil {
			t.Errorf("%s is to be stopped later: %v", c, err)
		}
	}
	for name, c := range malformed() {
		refused(name, c.module, c.section, c.limit, c.text)
	}
}

// The bombs of a few bytes are as short as they were when they were found.
func TestTheBombsOfAFewBytesHaveThatManyBytes(t *testing.T) {
	found := 0
	for _, c := range guesttest.Hostile() {
		size, ok := strings.CutSuffix(strings.SplitAfter(c.Name, ":")[0], " bytes:")
		if !ok {
			continue
		}
		if found++; size != strconv.Itoa(len(c.Module)) {
			t.Errorf("%s: it has %d", c, len(c.Module))
		}
	}
	if found != 7 {
		t.Errorf("%d bombs", found)
	}
}

// 5 ms for 64 KiB and in proportion from there, for whatever there is in the
// corpus. The quickest of a few counts: the machine may be busy.
func TestReadingTakesTimeInProportion(t *testing.T) {
	for _, c := range guesttest.Hostile() {
		bound := 5 * time.Millisecond * time.Duration(1+len(c.Module)>>16)
		took := time.Hour
		for try := 0; try < 10 && took > bound; try++ {
			began := time.Now()
			wasm.Read(c.Module, wasm.Limits{})
			took = min(took, time.Since(began))
		}
		if took > bound {
			t.Errorf("%s: %v for %d bytes, want %v", c, took, len(c.Module), bound)
		}
	}
}

// At a limit a module is let through; the cases of the corpus are above it.
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

// Every guest that other tests run as a good one is read.
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
		"looks": guesttest.Looks(), "remembers": guesttest.Remembers(),
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
	for name, module := range refusable() {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		wasm.Read(module, wasm.Limits{})
		runtime.ReadMemStats(&after)
		if took, most := after.TotalAlloc-before.TotalAlloc, uint64(64*len(module)+(1<<20)); took > most {
			t.Errorf("%s: reading %d bytes took %d", name, len(module), took)
		}
	}
}

// refusable is the corpus and what is malformed.
func refusable() map[string][]byte {
	all := map[string][]byte{}
	for _, c := range guesttest.Hostile() {
		all[c.String()] = c.Module
	}
	for name, c := range malformed() {
		all[name] = c.module
	}
	return all
}

// FuzzRead: whatever the bytes, Read comes back with a module or with an *Error
// that is in the file, and what it lets through keeps to the limits it names.
func FuzzRead(f *testing.F) {
	for _, module := range refusable() {
		if len(module) < 4<<10 {
			f.Add(module)
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
