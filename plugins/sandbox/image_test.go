package sandbox_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/sdk/abi"
)

// The guest that leaks finds what it left when it is not set back, and the check
// sees it: so the tests below can fail.
func TestAnInstanceThatIsNotSetBackLeaks(t *testing.T) {
	module, first, second := guesttest.Leaks().Module(), []byte("the password of alice"), []byte("another")
	for _, back := range []bool{false, true} {
		answer, differs, err := sandbox.Twice(t.Context(), t.TempDir(), module, first, second, back)
		if err != nil || len(answer) != guesttest.LeakBytes {
			t.Fatalf("%x, %v", answer, err)
		}
		if clean := bytes.Equal(answer, make([]byte, len(answer))); clean != back || (differs == nil) != back {
			t.Errorf("set back %v: the second login found %q; the check says %v", back, answer, differs)
		}
	}
}

// P-24: no login finds a byte of another, in whatever way instances are made.
func TestNoLoginFindsAByteOfAnother(t *testing.T) { leak(t, 500) }

func TestSoakNoLoginFindsAByteOfAnother(t *testing.T) {
	needSoak(t)
	leak(t, 10_000)
}

func needSoak(t *testing.T) {
	if os.Getenv("DOORWARD_SOAK") == "" {
		t.Skip("takes too long for every change; make soak")
	}
}

func leak(t *testing.T, logins int64) {
	for name, command := range map[string][]string{"fresh": fresh, "set back": nil, "set back and checked": checked} {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, sandbox.Config{Workers: 4, PerTenant: 8, Command: command})
			c := callFor(t, p, "a", guesttest.Leaks().Module())
			c.Wall = 5 * time.Second // waiting for a core counts
			var done atomic.Int64
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for done.Add(1) <= logins {
						c := c
						c.Input = []byte("password " + rand.Text())
						r, err := p.Call(t.Context(), c)
						for errors.Is(err, sandbox.ErrBusy) {
							r, err = p.Call(t.Context(), c)
						}
						if err != nil || !bytes.Equal(r.Output, make([]byte, guesttest.LeakBytes)) {
							t.Errorf("%q, %v", r.Output, err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// inGo is the smallest verifier in Go, as the local Go builds it.
var inGo = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "doorward-sandbox-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "hello.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o", file, "github.com/doorward/doorward/sdk/guest/go/hello")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, errors.New(string(out))
	}
	return os.ReadFile(file)
})

// request is one that a verifier in Go understands.
func request(username, password string) []byte {
	b, err := json.Marshal(map[string]any{
		"abi": 1, "tenant": "acme", "method": "password", "request_id": "r", "attempt": 1, "now_ms": 1,
		"credential": map[string]string{"username": username, "password": password},
	})
	if err != nil {
		panic(err)
	}
	return b
}

// answers is a host that knows two users, and takes "right" for every password.
func answers(_ context.Context, name string, args [][]byte) (int32, []byte) {
	switch name {
	case abi.FuncConfigGet:
		if user := string(args[0]); user == "alice" || user == "bob" {
			return 0, []byte("$2y$05$hash-of-" + user)
		}
		return abi.ErrNotFound, nil
	case abi.FuncPasswordVerify:
		if len(args[0]) > 0 && string(args[1]) == "right" {
			return 1, nil
		}
		return 0, nil
	}
	return abi.ErrNotGranted, nil
}

// A guest that is set back is told from one that is made anew by nothing: not its
// answer, not its log, its memory or its error, and not the fuel it used.
func TestGuestsAnswerTheSameWhetherSetBackOrFresh(t *testing.T) { compare(t, guests(), 6) }

// make test runs it apart, without the race detector: that has a compile of Go
// take half a minute, and a worker has no races to be found.
func TestAGuestInGoAnswersTheSameWhetherSetBackOrFresh(t *testing.T) {
	if raceEnabled {
		t.Skip("a compile takes half a minute; run it without -race")
	}
	hello, err := inGo()
	if err != nil {
		t.Fatal(err)
	}
	// Go's runtime makes itself ready without asking for what only a login has.
	if steps, _, err := sandbox.Steps(t.Context(), t.TempDir(), hello); err != nil || steps != 4 {
		t.Errorf("the image of a guest in Go has %d steps behind it, not 4: %v", steps, err)
	}
	compare(t, map[string][]byte{"in Go": hello, "leaks": guesttest.Leaks().Module()}, 40)
}

func TestSoakGuestsAnswerTheSameWhetherSetBackOrFresh(t *testing.T) {
	needSoak(t)
	compare(t, guests(), 200)
}

// guests are modules that answer, and modules that come to a bad end.
func guests() map[string][]byte {
	twice := guesttest.Accepts("alice") // its preparation writes the answer too
	twice.Init = true
	looks := guesttest.Looks() // its preparation asks for configuration
	looks.Init = true
	tells := guesttest.Tells()
	logs := guesttest.Imports(guesttest.Import{Module: abi.Module, Name: abi.FuncLog, Params: 3})
	logs.Code = append([]byte{0x41, 1, 0x41, 0, 0x41, 16, 0x10, 1}, logs.Code...)
	logs.Init = true
	stretches := guesttest.Stretches() // its preparation takes memory, and so does its login
	stretches.Init = true
	holds := guesttest.Remembers()
	holds.Holds = true
	early := guesttest.Leaks() // its preparation reads the request
	early.Init = true
	modules := map[string][]byte{}
	for name, g := range map[string]guesttest.Guest{
		"accepts": guesttest.Accepts("alice"), "rejects": guesttest.Rejects(), "asks": guesttest.Asks(), "remembers": guesttest.Remembers(), "holds": holds, "init reads": early,
		"leaks": guesttest.Leaks(), "stretches": guesttest.Stretches(), "traps": guesttest.Traps(), "traps then": guesttest.TrapsThen(),
		"grows": guesttest.Grows(), "loops": guesttest.Loops(), "deepens": guesttest.Deepens(), "reaches": guesttest.Reaches(),
		"init writes": twice, "init asks": looks, "init logs": logs, "init stretches": stretches, "tells": tells, "calls": guesttest.Calls(abi.FuncConfigGet, 3, "alice"),
	} {
		modules[name] = g.Module()
	}
	return modules
}

// compare asks each module so many times on average, both ways.
func compare(t *testing.T, modules map[string][]byte, times int) {
	cache := t.TempDir()
	ways := map[string]*sandbox.Pool{}
	for way, command := range map[string][]string{"fresh": fresh, "set back": checked} {
		ways[way] = newPool(t, sandbox.Config{CacheDir: cache, Workers: 1, MaxWorkers: 1, Command: command})
	}
	calls := map[string]map[string]sandbox.Call{}
	for way, p := range ways {
		calls[way] = map[string]sandbox.Call{}
		for name, b := range modules {
			c := callFor(t, p, "a", b)
			c.Wall, c.Host = 5*time.Second, answers
			calls[way][name] = c
		}
	}
	inputs := [][]byte{request("alice", "right"), request("alice", "wrong"), request("bob", "right"), request("nobody", "right"), request(strings.Repeat("x", 3000), "y"), []byte(`{}`), []byte("nonsense")}
	names := make([]string, 0, len(modules))
	for name := range modules {
		names = append(names, name)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	slices.Sort(names)
	random.Shuffle(len(names), func(a, b int) { names[a], names[b] = names[b], names[a] })
	var order []string // a worker keeps eight modules: so many at a time
	for some := range slices.Chunk(names, 8) {
		for range times * len(some) {
			order = append(order, some[random.IntN(len(some))])
		}
	}
	for _, name := range order {
		input := inputs[random.IntN(len(inputs))]
		var got [2]string
		for n, way := range []string{"fresh", "set back"} {
			c := calls[way][name]
			c.Input = input
			r, err := ways[way].Call(t.Context(), c)
			if name == "in Go" {
				r.Fuel, r.MemoryKiB = 0, 0 // its maps are hashed at random
			}
			r.Duration = 0
			got[n] = fmt.Sprintf("%s %v %d %d %v", r.Output, r.Logs, r.Fuel, r.MemoryKiB, err)
		}
		if got[0] != got[1] {
			t.Errorf("%s, asked %.60s:\nfresh:    %s\nset back: %s", name, input, got[0], got[1])
		}
	}
}

// What an image has behind it is what comes out the same for every login.
func TestAnImageEndsBeforeWhatDiffersFromLoginToLogin(t *testing.T) {
	with := func(g guesttest.Guest) []byte {
		g.Init = true
		return g.Module()
	}
	stdio, holds := guesttest.Guest{Stdio: true}, guesttest.Remembers()
	holds.Holds = true
	got, want := map[string]int{}, map[string]int{}
	for name, c := range map[string]struct {
		module []byte
		steps  int
	}{
		"nothing to prepare":       {guesttest.Accepts("alice").Module(), 4},
		"one that is ready":        {with(guesttest.Accepts("alice")), 4},
		"one that reads requests":  {with(guesttest.Leaks()), 2},
		"one that asks":            {with(guesttest.Looks()), 2},
		"one that reads the clock": {with(guesttest.Reads(abi.FuncNowMS)), 2},
		"one that takes chances":   {with(guesttest.Reads(abi.FuncRandom)), 2},
		"one that traps":           {with(guesttest.Traps()), 2},
		"one that takes long":      {with(guesttest.Loops()), 2},
		"the stdio profile":        {stdio.Module(), -1},
		"one that cannot be":       {holds.Module(), -1},
	} {
		steps, size, err := sandbox.Steps(t.Context(), t.TempDir(), c.module)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s: %d KiB", name, size/1024)
		got[name], want[name] = steps, c.steps
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("steps: %v\nwant:  %v", got, want)
	}
}

// What cannot be set back is said at the upload, and is made anew each time.
func TestWhatCannotBeSetBackIsMadeAnew(t *testing.T) {
	p := newPool(t, sandbox.Config{Workers: 1, MaxWorkers: 1})
	holds := guesttest.Remembers()
	holds.Holds = true
	for _, c := range []struct {
		guest guesttest.Guest
		fresh string
	}{{guesttest.Remembers(), ""}, {holds, "it has a mutable global of a reference at offset"}, {guesttest.Guest{Stdio: true}, "stdio profile"}} {
		module := c.guest.Module()
		report, err := p.Compile(t.Context(), "a", digestOf(module), module)
		if err != nil || !strings.Contains(report.Fresh, c.fresh) || (report.Fresh == "") != (c.fresh == "") {
			t.Errorf("Fresh is %q, not %q; %v", report.Fresh, c.fresh, err)
		}
	}
	c := callFor(t, p, "a", holds.Module())
	for range 5 {
		if r, err := p.Call(t.Context(), c); err != nil || !strings.Contains(string(r.Output), "first") {
			t.Fatalf("%s, %v", r.Output, err)
		}
	}
}

// What the host's function for it gives is never the same twice.
func TestRandomBytesAreFreshAfterASetBack(t *testing.T) {
	p := newPool(t, sandbox.Config{Workers: 1, MaxWorkers: 1})
	c := callFor(t, p, "a", guesttest.Reads(abi.FuncRandom).Module())
	seen := map[string]bool{}
	for range 100 {
		r, err := p.Call(t.Context(), c)
		if err != nil || len(r.Output) != 16 || seen[string(r.Output)] {
			t.Fatalf("%x, %v; seen before: %v", r.Output, err, seen[string(r.Output)])
		}
		seen[string(r.Output)] = true
	}
}

// A worker once reserved for each instance that it kept all the memory that it
// might come to have, and had no addresses left after the fourth. Beyond what it
// keeps it lets instances go, and makes them again.
func TestAWorkerOutlivesAllTheInstancesItKeeps(t *testing.T) {
	p := newPool(t, sandbox.Config{Workers: 1, MaxWorkers: 1, Command: checked})
	var calls []sandbox.Call
	for i := range 10 {
		g := guesttest.Remembers()
		g.Pages = 100 // of which a worker keeps five
		g.Data = append(g.Data, byte(i))
		c := callFor(t, p, "a", g.Module())
		c.MemoryMiB = abi.MaxMemoryMiB
		calls = append(calls, c)
	}
	before := workers(t)
	for range 3 {
		for _, c := range calls {
			if r, err := p.Call(t.Context(), c); err != nil || !strings.Contains(string(r.Output), "first") {
				t.Fatalf("%s, %v", r.Output, err)
			}
		}
	}
	if after := workers(t); !slices.Equal(before, after) {
		t.Errorf("worker %v had to be replaced by %v", before, after)
	}
}

// BenchmarkLogin is a login through the pipe, one at a time: what a caller of
// Pool.Call waits, and the processor time of both processes.
func BenchmarkLogin(b *testing.B) {
	hello, err := inGo()
	if err != nil {
		b.Fatal(err)
	}
	megabyte := guesttest.Accepts("alice") // as Rust makes them
	megabyte.Pages = 17
	for _, guest := range []struct {
		name   string
		module []byte
	}{{"small", guesttest.Leaks().Module()}, {"1MiB", megabyte.Module()}, {"Go", hello}} {
		for _, way := range []struct {
			name    string
			command []string
		}{{"fresh", fresh}, {"reset", nil}} {
			b.Run(guest.name+"/"+way.name, func(b *testing.B) {
				p := newPool(b, sandbox.Config{Workers: 1, MaxWorkers: 1, Command: way.command})
				c := callFor(b, p, "a", guest.module)
				c.Host, c.Input = answers, request("alice", "right")
				if r, err := p.Call(b.Context(), c); err != nil { // loads it
					b.Fatalf("%s, %v", r.Output, err)
				}
				var took []time.Duration
				used := processorTime(b)
				for b.Loop() {
					began := time.Now()
					if _, err := p.Call(b.Context(), c); err != nil {
						b.Fatal(err)
					}
					took = append(took, time.Since(began))
				}
				used = processorTime(b) - used
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
				b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
				b.ReportMetric(float64(used.Nanoseconds())/1e3/float64(len(took)), "cpu-µs")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// processorTime is what this process and its workers have used.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	total := time.Duration(0)
	for _, pid := range append(workers(b), os.Getpid()) {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil {
			b.Fatal(err)
		}
		for _, thread := range threads {
			text, err := os.ReadFile(thread)
			if err != nil {
				continue // it has ended
			}
			var ns int64
			if _, err := fmt.Sscan(string(text), &ns); err != nil {
				b.Fatal(err)
			}
			total += time.Duration(ns)
		}
	}
	return total
}
