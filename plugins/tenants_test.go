package plugins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/sdk/abi"
	"golang.org/x/crypto/bcrypt"
)

// town is many tenants who share verifiers, and how much they take.
type town struct {
	testing.TB
	host     *Host
	modules  [][]byte
	versions []Version
}

// newTown compiles modules for a pool of so many workers.
func newTown(t testing.TB, workers int, modules [][]byte) *town {
	t.Helper()
	pool, err := sandbox.New(sandbox.Config{CacheDir: filepath.Join(t.TempDir(), "modules"), Workers: workers, MaxWorkers: workers, PerTenant: workers})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- pool.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	town := &town{TB: t, host: NewHost(pool, usersOf(t), nil), modules: modules}
	for i, module := range modules {
		if _, err := pool.Compile(t.Context(), "town", digestOf(module), module); err != nil {
			t.Fatal(err)
		}
		town.versions = append(town.versions, Version{
			Number: 1, Name: fmt.Sprint("verifier", i), Digest: digestOf(module), Profile: "core",
			Grants: abi.Grants{Config: true, TOTP: true, Password: []string{"bcrypt"}},
			Limits: abi.Limits{WallMS: 60_000, CPUMS: abi.MaxCPUMS, MemoryMiB: abi.DefaultMemoryMiB},
		})
	}
	return town
}

// login has one user of a tenant sign in.
func (t *town) login(tenant int) error {
	i := tenant % len(t.versions)
	request := abi.Request{ABI: abi.Version, Method: "password", Credential: abi.Credential{"username": "alice", "password": "wonderland"}}
	for {
		verdict, err := t.host.verify(t.Context(), fmt.Sprint("tenant", tenant), t.versions[i], request, func(context.Context) ([]byte, error) { return t.modules[i], nil })
		if errors.Is(err, ErrBusy) { // more callers than workers, and a busy machine
			continue
		}
		if err == nil && verdict.Subject != "alice" {
			err = fmt.Errorf("%+v", verdict)
		}
		return err
	}
}

// round has one user of each tenant sign in, in no order, two at a time, and
// tells how long each waited.
func (t *town) round(tenants int) []time.Duration {
	t.Helper()
	order, took := rand.Perm(tenants), make([]time.Duration, tenants)
	var next atomic.Int64
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(tenants); i = next.Add(1) - 1 {
				began := time.Now()
				if err := t.login(order[i]); err != nil {
					t.Errorf("tenant %d: %v", order[i], err)
					return
				}
				took[i] = time.Since(began)
			}
		})
	}
	all.Wait()
	slices.Sort(took)
	return took
}

// weight is what the server has on its heap, and what its workers hold in memory,
// in bytes.
func (t *town) weight() (heap, workers int) {
	t.Helper()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	files, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, _ := os.ReadFile(file) // a thread that has ended has none
		for pid := range strings.FieldsSeq(string(text)) {
			var size, pages int
			statm, err := os.ReadFile("/proc/" + pid + "/statm")
			if err != nil {
				continue // a compile child that has ended
			}
			if _, err := fmt.Sscan(string(statm), &size, &pages); err != nil {
				t.Fatal(err)
			}
			workers += pages * os.Getpagesize()
		}
	}
	return int(stats.HeapAlloc), workers
}

const mib = 1 << 20

// talking is a verifier that asks its host for something, writes to its log, and
// accepts; each n is another module.
func talking(n int) []byte {
	g := guesttest.Accepts("alice")
	g.Imports = append(g.Imports, guesttest.Import{Module: abi.Module, Name: abi.FuncConfigGet, Params: 2, Result: true},
		guesttest.Import{Module: abi.Module, Name: abi.FuncLog, Params: 3})
	g.Data = fmt.Appendf(g.Data, "verifier %03d has decided", n)
	looks := []byte{0x41, 0, 0x41, 4, 0x10, 1, 0x1a}                           // config_get(0, 4)
	writes := []byte{0x41, 1, 0x41, byte(len(g.Data) - 24), 0x41, 24, 0x10, 2} // log(1, its place, 24)
	g.Code = slices.Concat(looks, writes, g.Code)
	return g.Module()
}

func TestTenThousandTenantsOnOneVerifierTakeLittleMoreThanOne(t *testing.T) {
	town := newTown(t, 1, [][]byte{talking(0)})
	for range 300 { // the garbage collector has seen it all
		if err := town.login(0); err != nil {
			t.Fatal(err)
		}
	}
	heap, worker := town.weight()
	town.round(10_000)
	heaps, workers := town.weight()
	more := heaps + workers - heap - worker
	t.Logf("one tenant: heap %d KiB, worker %d KiB; ten thousand: %d and %d; %.1f MiB more", heap>>10, worker>>10, heaps>>10, workers>>10, float64(more)/mib)
	if lines := town.host.logs.of("tenant9999"); len(lines) != 1 || lines[0].Text != "verifier 000 has decided" {
		t.Errorf("the last tenant's log: %+v", lines)
	}
	if more > 30*mib {
		t.Errorf("%d MiB more", more/mib)
	}
}

// More verifiers than two workers keep loaded are loaded again and again, and
// leave nothing behind.
func TestAThousandTenantsOnTwentyVerifiersReachASteadyState(t *testing.T) {
	var modules [][]byte
	for i := range 20 {
		modules = append(modules, talking(i))
	}
	town := newTown(t, 2, modules)
	town.round(1000)
	heap, workers := town.weight()
	took := town.round(1000)
	heaps, workerss := town.weight()
	more := heaps + workerss - heap - workers
	t.Logf("p50 %v, p99 %v; heap %d KiB, then %d; workers %d KiB, then %d", took[500], took[990], heap>>10, heaps>>10, workers>>10, workerss>>10)
	if more > 15*mib {
		t.Errorf("%d MiB more after the second thousand logins", more/mib)
	}
}

// BenchmarkTenants is a thousand tenants on twenty verifiers, four in each
// language, with two workers: of each round, what a login waits, and what server
// and workers hold. Password hashes are the cheapest that there are.
func BenchmarkTenants(b *testing.B) {
	var modules [][]byte
	for i := range 20 {
		module := guesttest.In(b, repository, guesttest.Languages[i%len(guesttest.Languages)])
		modules = append(modules, abi.AppendManifest(module, fmt.Appendf(nil, `{"abi":1,"name":"v%d"}`, i)))
	}
	town := newTown(b, 2, modules)
	town.round(1000)
	heap, workers := town.weight()
	var took []time.Duration
	for b.Loop() {
		took = append(took, town.round(1000)...)
	}
	heaps, workerss := town.weight()
	slices.Sort(took)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(len(took)), "logins")
	b.ReportMetric(took[len(took)/2].Seconds()*1e3, "p50-ms")
	b.ReportMetric(took[len(took)*99/100].Seconds()*1e3, "p99-ms")
	b.ReportMetric(float64(heaps)/mib, "heap-MiB")
	b.ReportMetric(float64(workerss)/mib, "workers-MiB")
	b.ReportMetric(float64(heaps+workerss-heap-workers)/mib, "grown-MiB")
}

const repository = ".."

// usersOf gives every tenant the users of guesttest, with real hashes and a real
// secret.
func usersOf(t testing.TB) Settings {
	t.Helper()
	values := guesttest.Users(func(password string) string {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		return string(hash)
	}, rfcSecret)
	return Settings{
		Config: func(_ context.Context, _, key string) (json.RawMessage, bool, error) {
			text, there := values[key]
			value, err := json.Marshal(text)
			return value, there, err
		},
		Secret: func(context.Context, string, string) ([]byte, bool, error) { return nil, false, nil },
	}
}
