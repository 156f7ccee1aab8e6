package wasm_test

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"testing"

	"github.com/tetratelabs/wazero"

	"github.com/doorward/doorward/plugins/wasm"
)

// languages are those that plugins/testdata/guests has one verifier in.
var languages = []string{"c", "rust", "assemblyscript", "js", "go"}

func guestIn(t testing.TB, language string) []byte {
	t.Helper()
	b, err := os.ReadFile("../../bin/guests/" + language + ".wasm")
	if err != nil {
		t.Fatalf("the guests are not built; run make guests: %v", err)
	}
	return b
}

// answering is a request as a guest gets it for a challenge's answer.
func answering(state, code string) []byte {
	return fmt.Appendf(nil, `{"abi":1,"tenant":"acme","method":"password","request_id":"r2","attempt":2,"credential":{"code":%q},"client":{},"state":%s,"now_ms":1700000000000}`, code, state)
}

// One verifier in five languages gives the same verdicts, as it is and
// rewritten, interpreted and compiled.
func TestFiveLanguagesGiveTheSameVerdicts(t *testing.T) {
	config := map[string]string{
		"alice": "hash of wonderland", "role:alice": `chief "of" staff \ é`,
		"bob": "hash of builder", "totp:bob": "code is 123456", "role:bob": "worker",
		`q"\é😀`: "hash of p\"\\\té😀",
	}
	const no = `{"decision":"reject","code":"bad_credentials"}`
	vectors := []struct {
		name    string
		request []byte
		empty   bool // no configuration
		want    string
	}{
		{"right", login("alice", "wonderland"), false, `{"decision":"accept","subject":"alice","claims":{"role":"chief \"of\" staff \\ é"},"amr":["pwd"]}`},
		{"wrong", login("alice", "x"), false, no},
		{"no password", login("alice", ""), false, no},
		{"nobody", login("nobody", "x"), false, no},
		{"no name", login("", "x"), false, no},
		{"no configuration", login("alice", "wonderland"), true, no},
		{"nothing", []byte("{}"), false, no},
		{"first step", login("bob", "builder"), false, `{"decision":"challenge","type":"otp","public":{"digits":6},"private":{"user":"bob"},"ttl":300,"max_attempts":5}`},
		{"second step", answering(`{"user":"bob"}`, "123456"), false, `{"decision":"accept","subject":"bob","claims":{"role":"worker"},"amr":["pwd","otp"]}`},
		{"wrong code", answering(`{"user":"bob"}`, "654321"), false, no},
		{"second step of one who has none", answering(`{"user":"alice"}`, "123456"), false, no},
		{"escapes", []byte(`{"credential":{"other":{"username":"x"},"username":"q\"\\\u00e9\ud83d\ude00","password":"p\"\\\té😀"}}`), false, `{"decision":"accept","subject":"q\"\\é😀","amr":["pwd"]}`},
	}
	const fuel = 50 * wasm.FuelPerMillisecond
	for _, language := range languages {
		module := guestIn(t, language)
		for _, engine := range []struct {
			name    string
			config  wazero.RuntimeConfig
			rewrite func(*wasm.Module) []byte
			fuel    int64
		}{
			{"interpreted", wazero.NewRuntimeConfigInterpreter(), nil, 0},
			{"interpreted, rewritten", wazero.NewRuntimeConfigInterpreter(), wasm.Rewrite, fuel},
			{"compiled", wazero.NewRuntimeConfigCompiler(), nil, 0},
			{"compiled, rewritten", wazero.NewRuntimeConfigCompiler(), wasm.Rewrite, fuel},
		} {
			t.Run(language+"/"+engine.name, func(t *testing.T) {
				g, err := start(t.Context(), engine.config, module, engine.rewrite, engine.fuel)
				if err != nil {
					t.Fatal(err)
				}
				defer g.runtime.Close(t.Context())
				for _, v := range vectors {
					g.host.config = config
					if v.empty {
						g.host.config = nil
					}
					answer, err := g.ask(t.Context(), v.request)
					if err != nil {
						t.Errorf("%s: %v", v.name, err)
						continue
					}
					var got, want any
					if err := json.Unmarshal(answer, &got); err != nil {
						t.Errorf("%s: %q: %v", v.name, answer, err)
					}
					if err := json.Unmarshal([]byte(v.want), &want); err != nil {
						t.Fatal(err)
					}
					if !reflect.DeepEqual(got, want) {
						t.Errorf("%s: %s, want %s", v.name, answer, v.want)
					}
				}
			})
		}
	}
}

// BenchmarkLanguages is a login as it is and rewritten, in each language.
func BenchmarkLanguages(b *testing.B) {
	request := login("alice", "wonderland")
	for _, language := range languages {
		b.Run(language, func(b *testing.B) {
			compare(b, guestIn(b, language), func(g *guest) error {
				g.host.config = map[string]string{"alice": "wonderland", "role:alice": "chief"}
				_, err := g.ask(b.Context(), request)
				return err
			})
		})
	}
}
