package wasm_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"github.com/tetratelabs/wazero"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/plugins/wasm"
)

const repository = "../.."

// ways are how a module may be run: what each says, another says too.
var ways = []struct {
	name    string
	config  func() wazero.RuntimeConfig
	rewrite func(*wasm.Module) []byte
	fuel    int64
}{
	{"interpreted", wazero.NewRuntimeConfigInterpreter, nil, 0},
	{"interpreted, rewritten", wazero.NewRuntimeConfigInterpreter, wasm.Rewrite, aLogin},
	{"compiled", wazero.NewRuntimeConfigCompiler, nil, 0},
	{"compiled, rewritten", wazero.NewRuntimeConfigCompiler, wasm.Rewrite, aLogin},
}

// aLogin is the fuel that a login has, unless its verifier asks for more.
const aLogin = 50 * wasm.FuelPerMillisecond

// One verifier in five languages gives the same verdicts, as it is and
// rewritten, interpreted and compiled.
func TestFiveLanguagesGiveTheSameVerdicts(t *testing.T) {
	users := guesttest.Users(func(password string) string { return "hash of " + password }, "code is 123456")
	for _, language := range guesttest.Languages {
		module := guesttest.In(t, repository, language)
		for _, way := range ways {
			t.Run(language+"/"+way.name, func(t *testing.T) {
				g, err := start(t.Context(), way.config(), module, way.rewrite, way.fuel)
				if err != nil {
					t.Fatal(err)
				}
				defer g.runtime.Close(t.Context())
				for _, s := range guesttest.Logins("123456") {
					g.host.config = users
					agree(t, g, s)
				}
				g.host.config = nil
				agree(t, g, guesttest.Sign{Name: "no configuration", Request: login("alice", "wonderland"), Want: `{"decision":"reject","code":"bad_credentials"}`})
			})
		}
	}
}

// agree asks a guest and holds its verdict against what all say.
func agree(t *testing.T, g *guest, s guesttest.Sign) {
	t.Helper()
	answer, err := g.ask(t.Context(), s.Request)
	if err != nil {
		t.Errorf("%s: %.2000s", s.Name, reason(err))
		return
	}
	var got, want any
	if err := json.Unmarshal(answer, &got); err != nil {
		t.Errorf("%s: %q: %v", s.Name, answer, err)
	}
	if err := json.Unmarshal([]byte(s.Want), &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %s, want %s", s.Name, answer, s.Want)
	}
}

// What calls itself without end traps in every language and answers nothing. In C
// and what is written in C the stack in memory comes first: what runs over it
// writes over nothing.
func TestRecursionWithoutEndTrapsInEveryLanguage(t *testing.T) {
	text := []byte("the request cannot be read") // of the glue in C, which the engine has too
	for _, language := range guesttest.Languages {
		requests := []string{"333"}
		if language == "js" {
			requests = append(requests, "4444", "55555", "666666", "7777777", "88888888", "999999999")
		}
		cache := wazero.NewCompilationCache()
		defer cache.Close(t.Context())
		for _, request := range requests {
			t.Run(language+"/"+request, func(t *testing.T) {
				g, err := start(t.Context(), wazero.NewRuntimeConfigCompiler().WithCompilationCache(cache), guesttest.WorkIn(t, repository, language), wasm.Rewrite, aLogin)
				if err != nil {
					t.Fatal(err)
				}
				defer g.runtime.Close(t.Context())
				at := bytes.Index(memoryOf(g), text)
				before := bytes.Clone(memoryOf(g))
				answer, err := g.ask(t.Context(), []byte(request))
				fuel, stack := left(g.instance)
				t.Logf("%v, fuel %d, stack %d", reason(err), fuel, stack)
				if request == "4444" { // a script may recurse: trees have some depth
					if err != nil || string(answer) != `{"result":300}` {
						t.Errorf("%s %v", answer, reason(err))
					}
					return
				}
				if err == nil || len(answer) > 0 {
					t.Fatalf("it came to an end: %q %v", answer, err)
				}
				if language == "js" {
					const stack = 256 << 10 // as the Makefile links the engine
					if at < stack {
						t.Fatalf("the engine's texts are at %d, below the stack", at)
					}
					if kept := memoryOf(g)[at : at+1000]; !bytes.Equal(kept, before[at:at+1000]) {
						t.Errorf("the engine's texts were written over: %q", kept)
					}
				}
			})
		}
	}
}

func memoryOf(g *guest) []byte {
	memory := g.instance.Memory()
	b, _ := memory.Read(0, memory.Size())
	return b
}

// BenchmarkLanguages is what metering costs in each language: of a login, of what
// computes, and of what hardly does anything but call functions.
func BenchmarkLanguages(b *testing.B) {
	for _, language := range guesttest.Languages {
		b.Run(language+"/login", func(b *testing.B) {
			compare(b, guesttest.In(b, repository, language), func(g *guest) error {
				g.host.config = map[string]string{"alice": "wonderland", "role:alice": "chief"}
				_, err := g.ask(b.Context(), login("alice", "wonderland"))
				return err
			})
		})
		for name, request := range map[string]string{"computing": "1", "calling": "22"} {
			b.Run(language+"/"+name, func(b *testing.B) {
				compare(b, guesttest.WorkIn(b, repository, language), func(g *guest) error {
					_, err := g.ask(b.Context(), []byte(request))
					return err
				})
			})
		}
	}
}
