package wasm_test

import (
	"maps"
	"testing"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/plugins/wasm"
)

// named is a module with a section "name" of that content.
func named(content string) []byte {
	return append(guesttest.Accepts("alice").Module(), guesttest.Section(0, append(guesttest.Str("name"), content...))...)
}

func TestFunctionsHaveTheNamesThatToolchainsGaveThem(t *testing.T) {
	const (
		module    = "\x00\x03\x02me" // subsection 0
		functions = "\x01\x0d\x02" + "\x00\x05first" + "\x81\x01\x02at"
	)
	for name, c := range map[string]struct {
		section string
		want    map[int]string
	}{
		"both":                       {module + functions, map[int]string{0: "first", 129: "at"}},
		"only the module's":          {module, nil},
		"nothing":                    {"", nil},
		"cut short in the list":      {"\x01\x09\x02\x00\x05first\x81", map[int]string{0: "first"}},
		"a name longer than all":     {"\x01\x04\x01\x00\x7fx", map[int]string{}},
		"a subsection that is not":   {"\x01\x7f\x01", nil},
		"a count of four thousand m": {"\x01\x05\xff\xff\xff\xff\x0f", map[int]string{}},
	} {
		if got := wasm.FunctionNames(named(c.section)); !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if got := wasm.FunctionNames([]byte("hello, this is no module")); got != nil {
		t.Errorf("no module: %v", got)
	}
}

func TestACustomSectionIsFoundByItsName(t *testing.T) {
	module := append(named("x"), guesttest.Section(0, append(guesttest.Str("doorward.manifest"), "{}"...))...)
	if got := wasm.Custom(module, "doorward.manifest"); string(got) != "{}" {
		t.Errorf("%q", got)
	}
	if got := wasm.Custom(module, "manifest"); got != nil {
		t.Errorf("another name: %q", got)
	}
}

// Names come from strangers' bytes before Read has seen them.
func FuzzFunctionNames(f *testing.F) {
	f.Add(named("\x01\x08\x01\x00\x05first"))
	f.Add(guesttest.Bomb())
	f.Fuzz(func(t *testing.T, module []byte) {
		bytes := 0
		for index, name := range wasm.FunctionNames(module) {
			if index < 0 {
				t.Errorf("function %d", index)
			}
			bytes += len(name)
		}
		if bytes > len(module) {
			t.Errorf("names of %d bytes from %d", bytes, len(module))
		}
	})
}

func TestFiguresAreWhatLimitsBound(t *testing.T) {
	m, err := wasm.Read(guesttest.Accepts("alice").Module(), wasm.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range m.Figures() {
		if f.Limit <= 0 || f.Found < 0 || f.Found > f.Limit {
			t.Errorf("%+v", f)
		}
		if f.Name == "functions" && f.Found != 1 || f.Name == "imports" && f.Found != 1 {
			t.Errorf("%+v, want 1", f)
		}
	}
}
