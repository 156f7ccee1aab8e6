package sandbox_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/sdk/abi"
)

// A sandbox child is this test binary again.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "sandbox") {
		switch os.Args[1] {
		case "sandbox-checked":
			sandbox.CheckImages()
		case "sandbox-fresh":
			sandbox.NoImages()
		}
		os.Exit(sandbox.Main(context.Background(), os.Args[2:]))
	}
	os.Exit(m.Run())
}

// Workers that make a fresh instance for each call, and such that set one back
// and compare it with its image after each call.
var (
	fresh   = []string{"/proc/self/exe", "sandbox-fresh"}
	checked = []string{"/proc/self/exe", "sandbox-checked"}
)

// newPool runs a pool for the length of a test.
func newPool(t testing.TB, cfg sandbox.Config) *sandbox.Pool {
	t.Helper()
	if cfg.CacheDir == "" {
		cfg.CacheDir = filepath.Join(t.TempDir(), "modules")
	}
	p, err := sandbox.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
	return p
}

func digestOf(module []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(module)) }

// callFor is a call of a module, compiled before.
func callFor(t testing.TB, p *sandbox.Pool, tenant string, module []byte) sandbox.Call {
	t.Helper()
	report, err := p.Compile(t.Context(), "a", digestOf(module), module)
	if err != nil {
		t.Fatal(err)
	}
	return sandbox.Call{
		Tenant: tenant, Digest: digestOf(module), Profile: report.Profile, Input: []byte(`{"abi":1}`),
		Wall: 500 * time.Millisecond, CPU: abi.DefaultCPUMS * time.Millisecond, MemoryMiB: abi.DefaultMemoryMiB,
		Module: func(context.Context) ([]byte, error) { return module, nil },
		Host:   func(context.Context, string, [][]byte) (int32, []byte) { return abi.ErrNotGranted, nil },
	}
}

func TestAGuestAnswers(t *testing.T) {
	p := newPool(t, sandbox.Config{Workers: 1})
	r, err := p.Call(t.Context(), callFor(t, p, "a", guesttest.Accepts("alice").Module()))
	if err != nil || !strings.Contains(string(r.Output), `"alice"`) || r.MemoryKiB != 64 {
		t.Fatalf("Call = %+v, %v", r, err)
	}
}

func TestNoByteOfOneCallIsThereAtTheNext(t *testing.T) {
	p := newPool(t, sandbox.Config{Workers: 1})
	c := callFor(t, p, "a", guesttest.Remembers().Module())
	for range 20 {
		r, err := p.Call(t.Context(), c)
		if err != nil || !strings.Contains(string(r.Output), "first") {
			t.Fatalf("Call = %s, %v", r.Output, err)
		}
	}
}

func TestAKilledWorkerCostsItsCallAndIsReplaced(t *testing.T) {
	p := newPool(t, sandbox.Config{Workers: 1, MaxWorkers: 1})
	c := callFor(t, p, "a", guesttest.Loops().Module())
	c.Wall, c.CPU = 20*time.Second, 20*time.Second
	ended := make(chan error, 1)
	go func() {
		_, err := p.Call(context.Background(), c)
		ended <- err
	}()
	for {
		if _, idle := p.Stats(); idle == 0 {
			break
		}
		runtime.Gosched()
	}
	killWorkers(t)
	if err := <-ended; !errors.Is(err, sandbox.ErrGuest) {
		t.Fatalf("the call whose worker was killed: %v", err)
	}
	if _, err := p.Call(t.Context(), callFor(t, p, "a", guesttest.Accepts("x").Module())); err != nil {
		t.Fatalf("the next call: %v", err)
	}
}

// Under load a worker that was killed could be handed out before its death was
// seen, and the next login paid for it.
func TestAWorkerThatDiesBeforeTheGuestBeginsCostsNobody(t *testing.T) {
	p := newPool(t, sandbox.Config{Workers: 1})
	c := callFor(t, p, "a", guesttest.Accepts("alice").Module())
	signalWorkers(t, syscall.SIGSTOP) // the one it gets takes the module and says nothing
	type end struct {
		sandbox.Result
		error
	}
	ended := make(chan end, 1)
	go func() {
		r, err := p.Call(t.Context(), c)
		ended <- end{r, err}
	}()
	for {
		if _, idle := p.Stats(); idle == 0 {
			break
		}
		runtime.Gosched()
	}
	killWorkers(t)
	if r := <-ended; r.error != nil || !strings.Contains(string(r.Output), `"alice"`) {
		t.Fatalf("Call = %+v, %v", r.Result, r.error)
	}
}

// A worker that a tenant has had is no other's, though there are more tenants than
// workers. Without Isolate the same calls share workers, so this can fail.
func TestWorkersThatAreIsolatedServeOneTenant(t *testing.T) {
	for _, isolate := range []bool{true, false} {
		p := newPool(t, sandbox.Config{Workers: 1, MaxWorkers: 2, PerTenant: 2, Isolate: isolate})
		c := callFor(t, p, "a", guesttest.Accepts("alice").Module())
		owners, shared := map[int]string{}, 0
		for n := range 12 {
			c.Tenant = []string{"a", "b", "c", "a"}[n%4]
			if r, err := p.Call(t.Context(), c); err != nil || !strings.Contains(string(r.Output), "alice") {
				t.Fatalf("isolate %v, call %d of %s: %s, %v", isolate, n, c.Tenant, r.Output, err)
			}
			for pid, owner := range p.Owners() {
				if owners[pid] != "" && owners[pid] != owner {
					shared++
				}
				owners[pid] = owner
			}
		}
		if (shared > 0) == isolate {
			t.Errorf("isolate %v: %d times a worker was another tenant's before: %v", isolate, shared, owners)
		}
		if workers, _ := p.Stats(); workers > 2 {
			t.Errorf("isolate %v: %d workers", isolate, workers)
		}
	}
}

// killWorkers kills this process's children, as an operator's mistake or the
// kernel's memory killer would.
func killWorkers(t *testing.T) { signalWorkers(t, syscall.SIGKILL) }

func signalWorkers(t *testing.T, signal syscall.Signal) {
	t.Helper()
	for _, pid := range workers(t) {
		child, err := os.FindProcess(pid)
		if err == nil {
			child.Signal(signal)
		}
	}
}

// workers are the worker processes of this one.
func workers(t testing.TB) (pids []int) {
	t.Helper()
	out, err := exec.Command("pgrep", "-P", strconv.Itoa(os.Getpid()), "-f", "sandbox[a-z-]* worker").Output()
	if err != nil {
		t.Fatalf("find workers: %v", err)
	}
	for pid := range strings.FieldsSeq(string(out)) {
		n, err := strconv.Atoi(pid)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, n)
	}
	return pids
}

func TestOneTenantLeavesRoomForOthers(t *testing.T) {
	p := newPool(t, sandbox.Config{Workers: 4, MaxWorkers: 4, PerTenant: 2})
	hostile := callFor(t, p, "hostile", guesttest.Loops().Module())
	honest := callFor(t, p, "honest", guesttest.Accepts("alice").Module())
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					p.Call(context.Background(), hostile) // every one fails, by its limit or for want of a share
				}
			}
		})
	}
	for range 50 {
		if _, err := p.Call(t.Context(), honest); err != nil {
			t.Errorf("an honest call beside hostile ones: %v", err)
		}
	}
	close(stop)
	wg.Wait()
}

func TestManyCallsAtOnceEachGetTheirOwnAnswer(t *testing.T) {
	p := newPool(t, sandbox.Config{Workers: 2, PerTenant: 200})
	calls := []sandbox.Call{}
	for i := range 5 {
		c := callFor(t, p, strconv.Itoa(i), guesttest.Accepts("user"+strconv.Itoa(i)).Module())
		c.Wall = 5 * time.Second // waiting for a core counts
		calls = append(calls, c)
	}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			for try := 0; ; try++ {
				r, err := p.Call(t.Context(), calls[i%5])
				if errors.Is(err, sandbox.ErrBusy) && try < 200 {
					continue
				}
				if err != nil || !strings.Contains(string(r.Output), "user"+strconv.Itoa(i%5)) {
					t.Errorf("call %d: %s, %v", i, r.Output, err)
				}
				return
			}
		})
	}
	wg.Wait()
}

func TestACallDoesNotCompileButHasItDone(t *testing.T) {
	p := newPool(t, sandbox.Config{Workers: 1})
	c := callFor(t, newPool(t, sandbox.Config{Workers: 1}), "a", guesttest.Accepts("alice").Module())
	if r, err := p.Call(t.Context(), c); !errors.Is(err, sandbox.ErrPending) || p.Ready(c.Digest) {
		t.Fatalf("Call = %s, %v", r.Output, err)
	}
	if err := p.Prepare(t.Context(), c); err != nil || !p.Ready(c.Digest) {
		t.Fatalf("Prepare: %v", err)
	}
	if r, err := p.Call(t.Context(), c); err != nil || !strings.Contains(string(r.Output), "alice") {
		t.Fatalf("Call = %s, %v", r.Output, err)
	}
}

// The largest that an operator may let in, which comes to more once it counts.
func TestSoakAModuleOfSixteenMiBIsCompiledAndRuns(t *testing.T) {
	needSoak(t)
	g := guesttest.Accepts("alice")
	g.Pages = 500
	g.Data = append(g.Data, make([]byte, abi.MaxModule-1024)...)
	module := g.Module()
	if len(module) > abi.MaxModule || len(module) < abi.MaxModule-1024 {
		t.Fatalf("it has %d bytes", len(module))
	}
	p := newPool(t, sandbox.Config{Workers: 1})
	c := callFor(t, p, "a", module)
	c.MemoryMiB, c.Wall = abi.MaxMemoryMiB, abi.MaxWallMS*time.Millisecond
	if r, err := p.Call(t.Context(), c); err != nil || !strings.Contains(string(r.Output), "alice") {
		t.Fatalf("Call = %s, %v", r.Output, err)
	}
	if _, err := p.Compile(t.Context(), "a", "sha256:1", append(module, make([]byte, 1024)...)); !errors.Is(err, sandbox.ErrModule) {
		t.Fatalf("one that is larger: %v", err)
	}
}

// What a child can see of its parent: nothing but its sockets.
func TestAWorkerIsConfined(t *testing.T) {
	t.Setenv("DOORWARD_CANARY", "secret-of-the-parent")
	p := newPool(t, sandbox.Config{Workers: 1})
	if _, err := p.Call(t.Context(), callFor(t, p, "a", guesttest.Accepts("x").Module())); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("pgrep", "-P", strconv.Itoa(os.Getpid()), "-f", "sandbox worker").Output()
	if err != nil {
		t.Fatal(err)
	}
	proc := "/proc/" + strings.Fields(string(out))[0]
	status, err := os.ReadFile(proc + "/status")
	if err != nil || !strings.Contains(string(status), "NoNewPrivs:\t1") {
		t.Errorf("status: %v\n%s", err, status)
	}
	env, err := os.ReadFile(proc + "/environ")
	if err == nil && strings.Contains(string(env), "canary") {
		t.Errorf("the environment reached it: %s", env)
	}
	limits, err := os.ReadFile(proc + "/limits")
	if err != nil || !strings.Contains(string(limits), "Max file size             8388608 ") {
		t.Errorf("limits: %v\n%s", err, limits)
	}
	if err != nil || !strings.Contains(string(limits), "Max core file size        0 ") {
		t.Errorf("limits: %v\n%s", err, limits)
	}
}

// As root a worker is a user that owns nothing, with a directory for its root and,
// where the kernel gives them, a network and IPC of its own.
func TestAWorkerOfRootIsSomebodyElseSomewhereElse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this is not root; TestConfinementSaysWhatIsInForce tells what is then")
	}
	p := newPool(t, sandbox.Config{Workers: 1, User: 61000})
	callFor(t, p, "a", guesttest.Accepts("x").Module())
	bounds, err := p.Confinement(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("pgrep", "-P", strconv.Itoa(os.Getpid()), "-f", "sandbox worker").Output()
	if err != nil {
		t.Fatal(err)
	}
	proc := "/proc/" + strings.Fields(string(out))[0]
	status, err := os.ReadFile(proc + "/status")
	for _, want := range []string{"Uid:\t61000\t61000\t61000\t61000\n", "Gid:\t61000\t61000\t61000\t61000\n", "Groups:\t \n", "CapEff:\t0000000000000000\n", "CapPrm:\t0000000000000000\n"} {
		if err != nil || !strings.Contains(string(status), want) {
			t.Errorf("status: %v; want %q in\n%s", err, want, status)
		}
	}
	if root, err := os.Readlink(proc + "/root"); err != nil || root != p.CacheDir() {
		t.Errorf("its root is %s, %v; want %s", root, err, p.CacheDir())
	}
	for _, of := range []string{"net", "ipc"} {
		theirs, err1 := os.Readlink(proc + "/ns/" + of)
		ours, err2 := os.Readlink("/proc/self/ns/" + of)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if told := strings.Contains(strings.Join(bounds[0].Off, "\n"), "network, ipc:"); (theirs == ours) != told {
			t.Errorf("its %s is %s, ours %s; off are %q", of, theirs, ours, bounds[0].Off)
		}
	}
}

// A compile child that had answered and ended before its answer was read was
// once taken for one that died.
func TestAnAnswerOutlivesTheChildThatGaveIt(t *testing.T) {
	p := newPool(t, sandbox.Config{Workers: 1})
	module := guesttest.Accepts("x").Module()
	for range 100 {
		if _, err := p.Compile(t.Context(), "a", digestOf(module), module); err != nil {
			t.Fatal(err)
		}
	}
}

// A caller that hung up while the host worked for its guest once took the
// worker with it.
func TestACallerThatHangsUpLeavesTheWorker(t *testing.T) {
	p := newPool(t, sandbox.Config{Workers: 1, MaxWorkers: 1})
	c := callFor(t, p, "a", guesttest.Looks().Module())
	ctx, hangUp := context.WithCancel(t.Context())
	c.Host = func(ctx context.Context, _ string, _ [][]byte) (int32, []byte) {
		hangUp()
		if ctx.Err() != nil {
			t.Error("what the host does for the guest has ended with the caller")
		}
		return abi.ErrNotFound, nil
	}
	if _, err := p.Call(ctx, c); err != nil {
		t.Fatalf("Call: %v", err)
	}
	if workers, idle := p.Stats(); workers != 1 || idle != 1 {
		t.Errorf("%d workers, %d idle; want the one that there was", workers, idle)
	}
}

// The parent notes which modules a worker has, and each let the least lately
// used go; but the two did not mean the same by "used", and a login met "module
// is not loaded".
func TestParentAndWorkerAgreeOnWhatIsLoaded(t *testing.T) {
	p := newPool(t, sandbox.Config{Workers: 1, MaxWorkers: 1})
	var calls []sandbox.Call
	for i := range 9 { // one more than a worker keeps
		calls = append(calls, callFor(t, p, "a", guesttest.Accepts("user"+strconv.Itoa(i)).Module()))
	}
	for _, c := range calls[:8] {
		if _, err := p.Call(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Warm(t.Context(), calls[0]); err != nil {
		t.Fatal(err)
	}
	for _, c := range []sandbox.Call{calls[8], calls[0], calls[1]} {
		if _, err := p.Call(t.Context(), c); err != nil {
			t.Errorf("Call: %v", err)
		}
	}
}
