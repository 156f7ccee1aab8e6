package wasm_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/doorward/doorward/plugins/wasm"
	"github.com/doorward/doorward/sdk/abi"
)

// host is the half of the contract that a guest needs in order to be asked:
// what it reads is request, what it writes is answer.
type host struct {
	request, answer, result []byte
	config                  map[string]string
	calls                   []string
}

func (h *host) bind(ctx context.Context, r wazero.Runtime, m *wasm.Module) error {
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, r); err != nil {
		return err
	}
	b := r.NewHostModuleBuilder(abi.Module)
	offered := map[string]bool{}
	for _, i := range m.Imports {
		if i.Module != abi.Module || offered[i.Name] {
			continue
		}
		offered[i.Name] = true
		name := i.Name
		b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(_ context.Context, guest api.Module, stack []uint64) {
			h.call(guest, name, stack)
		}), valueTypes(i.Type.Params), valueTypes(i.Type.Results)).Export(name)
	}
	_, err := b.Instantiate(ctx)
	return err
}

func (h *host) call(guest api.Module, name string, stack []uint64) {
	view := func(at, n uint64) []byte {
		b, ok := guest.Memory().Read(uint32(at), uint32(n))
		if !ok {
			panic(fmt.Sprintf("%s(%d, %d): outside", name, uint32(at), uint32(n)))
		}
		return b
	}
	for i := range stack {
		stack[i] = uint64(uint32(stack[i])) // the engine leaves the upper half of an i32 as it was
	}
	if h.calls != nil {
		h.calls = append(h.calls, fmt.Sprint(name, stack))
	}
	switch name {
	case abi.FuncInputRead:
		stack[0] = uint64(copy(view(stack[0], stack[2]), h.request[stack[1]:]))
	case abi.FuncResultRead:
		stack[0] = uint64(copy(view(stack[0], stack[2]), h.result[stack[1]:]))
	case abi.FuncOutputWrite:
		h.answer = append(h.answer, view(stack[0], stack[1])...)
		if len(h.answer) > abi.MaxOutput {
			panic("the answer is too long")
		}
		stack[0] = uint64(len(h.answer))
	case abi.FuncConfigGet:
		value, there := h.config[string(view(stack[0], stack[1]))]
		h.result, stack[0] = []byte(value), uint64(len(value))
		if !there {
			stack[0] = api.EncodeI32(abi.ErrNotFound)
		}
	case abi.FuncPasswordVerify:
		hash, password := string(view(stack[0], stack[1])), string(view(stack[2], stack[3]))
		same := password != "" && strings.HasSuffix(hash, password)
		stack[0] = 0
		if same {
			stack[0] = 1
		}
	case abi.FuncTOTPVerify:
		secret, code := string(view(stack[0], stack[1])), string(view(stack[2], stack[3]))
		stack[0] = 0
		if code != "" && secret == "code is "+code {
			stack[0] = 1
		}
	case abi.FuncFail:
		panic(fmt.Sprintf("fail: %s", view(stack[1], stack[2])))
	case abi.FuncLog:
	default:
		stack[0] = api.EncodeI32(abi.ErrUnsupported)
	}
}

func valueTypes(types []wasm.ValueType) []api.ValueType {
	var out []api.ValueType
	for _, t := range types {
		out = append(out, api.ValueType(t))
	}
	return out
}

// guest is a verifier that can be asked over and over.
type guest struct {
	host     host
	runtime  wazero.Runtime
	instance api.Module
	fuel     int64 // given for each call; 0: the module is not a rewritten one
}

// start instantiates a verifier, as it is (rewrite nil, fuel 0) or rewritten.
func start(ctx context.Context, config wazero.RuntimeConfig, b []byte, rewrite func(*wasm.Module) []byte, fuel int64) (*guest, error) {
	m, err := wasm.Read(b, wasm.Limits{})
	if err != nil {
		return nil, err
	}
	if rewrite != nil {
		b = rewrite(m)
	}
	g := &guest{runtime: wazero.NewRuntimeWithConfig(ctx, config.WithMemoryLimitPages(1024)), fuel: fuel}
	if err := g.host.bind(ctx, g.runtime, m); err != nil {
		return nil, err
	}
	c := wazero.NewModuleConfig().WithName("").WithStartFunctions().WithStderr(io.Discard)
	if g.instance, err = g.runtime.InstantiateWithConfig(ctx, b, c); err != nil {
		return nil, err
	}
	for _, name := range []string{wasm.StartExport, abi.ExportInitialize} {
		if f := g.instance.ExportedFunction(name); f != nil {
			g.set()
			if _, err := f.Call(ctx); err != nil {
				return nil, err
			}
		}
	}
	return g, nil
}

func (g *guest) set() {
	if g.fuel > 0 {
		set(g.instance, g.fuel)
	}
}

// ask puts a request to the guest.
func (g *guest) ask(ctx context.Context, request []byte) (answer []byte, err error) {
	g.host.request, g.host.answer = request, g.host.answer[:0]
	g.set()
	results, err := g.instance.ExportedFunction(abi.ExportVerify).Call(ctx, uint64(len(request)))
	if err == nil && results[0] != 0 {
		err = fmt.Errorf("returned %d", results[0])
	}
	return g.host.answer, err
}

// login is a request as a guest gets it.
func login(user, password string) []byte {
	return fmt.Appendf(nil, `{"abi":1,"tenant":"acme","method":"password","request_id":"r1","attempt":1,"credential":{"username":%q,"password":%q},"client":{"ip":"192.0.2.7","user_agent":"test","app":"web"},"now_ms":1700000000000}`, user, password)
}

// A verifier written in Go answers as it did, with the same host calls. What it
// uses is a fraction of what a login may use, and what it is charged for is
// little more than it ran.
func TestAVerifierWrittenInGoAnswersAsBefore(t *testing.T) {
	guests, err := goGuests()
	if err != nil {
		t.Fatal(err)
	}
	requests := [][]byte{login("alice", "wonderland"), login("alice", "wrong"), login("nobody", "x"), []byte("{}"), login("bob", "x")}
	const fuel = 50 * wasm.FuelPerMillisecond
	for _, name := range []string{"hello", "users"} { // each takes seconds to compile
		b := guests[name]
		var answers, calls [3]string
		var used [3]int64
		for i, rewrite := range []func(*wasm.Module) []byte{nil, wasm.Rewrite, wasm.RewriteExactly} {
			given := int64(fuel)
			if rewrite == nil {
				given = 0
			}
			g, err := start(t.Context(), wazero.NewRuntimeConfigCompiler(), b, rewrite, given)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if rewrite != nil {
				f, _ := left(g.instance)
				t.Logf("%s: %d of fuel to initialise", name, fuel-f)
			}
			g.host.config = configuration
			g.host.calls = []string{}
			for _, request := range requests {
				answer, err := g.ask(t.Context(), request)
				answers[i] += fmt.Sprintf("%s %v\n", answer, reason(err))
				if rewrite != nil {
					f, s := left(g.instance)
					used[i] += fuel - f
					if s != wasm.Stack {
						t.Errorf("%s: %d of the stack are left", name, s)
					}
				}
			}
			calls[i] = fmt.Sprint(g.host.calls)
			g.runtime.Close(t.Context())
		}
		if answers[0] != answers[1] || answers[0] != answers[2] || calls[0] != calls[1] || !strings.Contains(answers[0], `"alice"`) || !strings.Contains(answers[0], "bad_credentials") {
			t.Errorf("%s:\n%s\nrewritten:\n%s", name, answers[0], answers[1])
		}
		ratio := float64(used[1]) / float64(used[2])
		t.Logf("%s: charged %d for %d: %.3f", name, used[1], used[2], ratio)
		if ratio < 1 || ratio > 1.35 {
			t.Errorf("%s: charged %d for %d", name, used[1], used[2])
		}
	}
}

var configuration = map[string]string{
	"alice":    "wonderland",
	"htpasswd": "alice:$2y$wonderland\nbob:$2y$builder\n",
	"users":    `[{"username":"alice","password_hash":"wonderland"},{"username":"bob","password_hash":"builder"}]`,
}

// BenchmarkVerify is one login in an instance that stays, as it is and
// rewritten in turn: what metering costs. The quickest of many short runs is
// taken of each, so that what else the machine does is left out.
func BenchmarkVerify(b *testing.B) {
	guests, err := goGuests()
	if err != nil {
		b.Fatal(err)
	}
	request := login("alice", "wonderland")
	for _, name := range []string{"hello", "users"} {
		b.Run(name, func(b *testing.B) {
			compare(b, guests[name], func(g *guest) error {
				g.host.config = configuration
				_, err := g.ask(b.Context(), request)
				return err
			})
		})
	}
}

// compare runs something in a guest as it is and rewritten.
func compare(b *testing.B, module []byte, run func(*guest) error) {
	const fuel = 1 << 50
	plain, err := start(b.Context(), wazero.NewRuntimeConfigCompiler(), module, nil, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer plain.runtime.Close(b.Context())
	rewritten, err := start(b.Context(), wazero.NewRuntimeConfigCompiler(), module, wasm.Rewrite, fuel)
	if err != nil {
		b.Fatal(err)
	}
	defer rewritten.runtime.Close(b.Context())
	best := [2]time.Duration{time.Hour, time.Hour}
	for b.Loop() {
		for range 10 {
			for i, g := range []*guest{plain, rewritten} {
				began := time.Now()
				if err := run(g); err != nil {
					b.Fatal(err)
				}
				best[i] = min(best[i], time.Since(began))
			}
		}
	}
	f, _ := left(rewritten.instance)
	b.ReportMetric(float64(best[0].Nanoseconds())/1e3, "plain-us")
	b.ReportMetric(float64(best[1].Nanoseconds())/1e3, "rewritten-us")
	b.ReportMetric(float64(best[1])/float64(best[0]), "ratio")
	b.ReportMetric(float64(fuel-f)/(float64(best[1].Nanoseconds())/1e6)/1e6, "Mfuel/ms")
}

func BenchmarkRewrite(b *testing.B) {
	guests, err := goGuests()
	if err != nil {
		b.Fatal(err)
	}
	m, err := wasm.Read(guests["hello"], wasm.Limits{})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(guests["hello"])))
	for b.Loop() {
		out := wasm.Rewrite(m)
		b.ReportMetric(float64(len(out))/float64(len(guests["hello"])), "size-ratio")
	}
}
