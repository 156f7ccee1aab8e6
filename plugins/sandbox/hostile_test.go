package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/sdk/abi"
)

// Each module of the corpus that the reader lets through is stopped where it is
// to be, by its limit and not by the clock, and the next call of somebody else is
// fine. The whole corpus is for the soak; here are those that a call ends.
func TestAHostileModuleCostsOneCall(t *testing.T) {
	contain(t, slices.DeleteFunc(guesttest.Briefly(), func(c guesttest.Case) bool { return c.Stopped != guesttest.Calling }))
}

func TestAModuleThatCannotBeInstantiatedEndsNoWorker(t *testing.T) {
	contain(t, slices.DeleteFunc(guesttest.Hostile(), func(c guesttest.Case) bool { return !strings.HasSuffix(c.String(), "data outside memory") }))
}

func TestSoakEveryHostileModuleCostsOneCall(t *testing.T) {
	if os.Getenv("DOORWARD_SOAK") == "" {
		t.Skip("the short form is TestAHostileModuleCostsOneCall; this is for make soak")
	}
	contain(t, guesttest.Hostile())
}

func contain(t *testing.T, cases []guesttest.Case) {
	p := newPool(t, sandbox.Config{Workers: 2})
	honest := callFor(t, p, "honest", guesttest.Accepts("alice").Module())
	for _, c := range cases {
		if c.Stopped == guesttest.Reading || c.Stopped == guesttest.Granting {
			continue
		}
		t.Run(c.String(), func(t *testing.T) {
			began := time.Now()
			report, err := p.Compile(t.Context(), "a", digestOf(c.Module), c.Module)
			compiled := time.Since(began)
			if c.Stopped == guesttest.Compiling {
				wants(t, err, sandbox.ErrModule, c.Says)
				t.Logf("compiled for %v: %v", compiled.Round(time.Millisecond), err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			r, err := p.Call(t.Context(), sandbox.Call{
				Tenant: "hostile", Digest: digestOf(c.Module), Profile: report.Profile, Input: guesttest.Input(),
				Wall: abi.MaxWallMS * time.Millisecond, CPU: abi.DefaultCPUMS * time.Millisecond, MemoryMiB: abi.MaxMemoryMiB,
				Host: generous,
			})
			t.Logf("compiled in %v, ran %v: %v", compiled.Round(time.Millisecond), r.Duration.Round(time.Millisecond), err)
			if c.Stopped == guesttest.Calling {
				wants(t, err, sandbox.ErrGuest, c.Says)
			} else if err != nil {
				t.Errorf("the call: %v", err)
			}
			checkLogs(t, r.Logs)
			if r, err := p.Call(t.Context(), honest); err != nil || !strings.Contains(string(r.Output), "alice") {
				t.Fatalf("the next call: %s, %v", r.Output, err)
			}
		})
	}
	for pid := range strings.FieldsSeq(children(t)) {
		t.Logf("a worker's peak: %d MiB", peak(t, pid)>>20)
	}
}

// generous is a host that answers at length.
func generous(_ context.Context, name string, _ [][]byte) (int32, []byte) {
	switch name {
	case abi.FuncConfigGet:
		return 0, make([]byte, abi.MaxHTTPBody)
	case abi.FuncHMAC:
		return 0, make([]byte, 64)
	case abi.FuncSecretGet:
		return 0, []byte(guesttest.Canary)
	}
	return abi.ErrNotGranted, nil
}

func wants(t *testing.T, err, kind error, says string) {
	t.Helper()
	if !errors.Is(err, kind) || !strings.Contains(err.Error(), says) {
		t.Errorf("err = %v, want %v with %q", err, kind, says)
		return
	}
	if strings.Contains(err.Error(), ".go:") || strings.Contains(err.Error(), "goroutine") {
		t.Errorf("the error shows our insides: %v", err)
	}
}

// checkLogs holds a guest's log to its bounds, and to what a terminal may show.
func checkLogs(t *testing.T, logs []sandbox.Log) {
	t.Helper()
	total := 0
	for _, line := range logs {
		total += len(line.Text)
		if at := strings.IndexFunc(line.Text, func(r rune) bool { return !unicode.IsPrint(r) }); at >= 0 {
			t.Errorf("a line holds what is not printable: %q", line.Text[at:min(len(line.Text), at+20)])
		}
	}
	if len(logs) > abi.MaxLogLines+1 || total > 4*abi.MaxLogBytes+100 { // escaping makes \x00 four characters
		t.Errorf("%d lines, %d bytes", len(logs), total)
	}
}

// Twenty recursions of the widest frames at once took 6.5 s and 2.4 GB in one
// process once. Now each ends by the stack's limit, and an honest tenant's calls
// are answered meanwhile. It takes twenty workers, and so a machine of its own.
func TestSoakTwentyDeepRecursionsAtOnce(t *testing.T) {
	if os.Getenv("DOORWARD_SOAK") == "" {
		t.Skip("this is for make soak")
	}
	p := newPool(t, sandbox.Config{Workers: 4, MaxWorkers: 32, PerTenant: 32})
	honest := callFor(t, p, "honest", guesttest.Accepts("alice").Module())
	honest.Wall = abi.MaxWallMS * time.Millisecond // waiting for a core counts
	var deep []sandbox.Call
	for _, c := range guesttest.Hostile() {
		if c.Number == "P-12" {
			call := callFor(t, p, "hostile", c.Module)
			call.Wall = abi.MaxWallMS * time.Millisecond
			deep = append(deep, call)
		}
	}
	began := time.Now()
	var all sync.WaitGroup
	for i := range 20 {
		call := deep[i%len(deep)]
		call.Tenant = fmt.Sprint("hostile ", i)
		all.Go(func() {
			_, err := p.Call(context.Background(), call)
			if errors.Is(err, sandbox.ErrBusy) {
				return // no worker came free in time: that is an end too
			}
			wants(t, err, sandbox.ErrGuest, "its calls are nested too deep")
		})
	}
	ended := make(chan struct{})
	go func() { all.Wait(); close(ended) }()
	for busy, n := true, 0; busy; n++ {
		select {
		case <-ended:
			busy = false
			t.Logf("20 ended after %v, %d honest calls meanwhile", time.Since(began).Round(time.Millisecond), n)
		default:
		}
		if _, err := p.Call(t.Context(), honest); err != nil && !errors.Is(err, sandbox.ErrBusy) {
			t.Errorf("honest call %d: %v", n, err)
		}
	}
	sum := 0
	for pid := range strings.FieldsSeq(children(t)) {
		sum += peak(t, pid)
	}
	t.Logf("the workers' peaks together: %d MiB", sum>>20)
}

// What ended or stopped a server when it ran verifiers itself, and what each does
// to the process that serves now, which this one stands for: the most memory that
// it ever had at once, beyond what it had before.
func TestSoakWhatBombsDoToTheProcessThatServes(t *testing.T) {
	if os.Getenv("DOORWARD_SOAK") == "" {
		t.Skip("this is for make soak")
	}
	p := newPool(t, sandbox.Config{Workers: 4, MaxWorkers: 32, PerTenant: 32})
	honest := callFor(t, p, "honest", guesttest.Accepts("alice").Module())
	honest.Wall = abi.MaxWallMS * time.Millisecond // waiting for a core counts
	// end is how a module ends that is uploaded and, if that is not its end, called.
	end := func(tenant string, c guesttest.Case) error {
		report, err := p.Compile(t.Context(), tenant, digestOf(c.Module), c.Module)
		if err != nil {
			return err
		}
		_, err = p.Call(t.Context(), sandbox.Call{
			Tenant: tenant, Digest: digestOf(c.Module), Profile: report.Profile, Input: guesttest.Input(),
			Wall: abi.MaxWallMS * time.Millisecond, CPU: abi.DefaultCPUMS * time.Millisecond, MemoryMiB: abi.MaxMemoryMiB,
			Module: func(context.Context) ([]byte, error) { return c.Module, nil }, Host: generous,
		})
		return err
	}
	type attack struct {
		name  string
		times int // at once, each another tenant's
		of    []guesttest.Case
	}
	deep := attack{"20 recursions without end, at once", 20, nil}
	var attacks []attack
	for _, c := range guesttest.Hostile() {
		if c.Number == "P-12" {
			deep.of = append(deep.of, c)
		}
		if strings.Contains(c.Name, " bytes:") || strings.HasPrefix(c.Name, "35 KB") || strings.Contains(c.Name, "9,990") || strings.HasPrefix(c.Name, "memory.fill") ||
			strings.HasPrefix(c.Name, "memory.copy") || strings.HasPrefix(c.Name, "two calls of itself") || strings.HasPrefix(c.Name, "a tree of calls") {
			attacks = append(attacks, attack{fmt.Sprintf("%s (%d bytes)", c.Name, len(c.Module)), 1, []guesttest.Case{c}})
		}
	}
	attacks = append(attacks, deep, attack{"20 of all of these that are soon at their end, at once", 20, nil})
	for _, a := range attacks[:len(attacks)-1] {
		if a.of[0].Stopped != guesttest.Compiling { // that takes its minute and a half once
			attacks[len(attacks)-1].of = append(attacks[len(attacks)-1].of, a.of...)
		}
	}
	table := []string{"| what | ended | after ms | server's peak, MiB more |", "|---|---|---|---|"}
	for _, a := range attacks {
		debug.FreeOSMemory()
		if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
			t.Fatalf("forget the peak of this process: %v", err)
		}
		before, began := peak(t, "self"), time.Now()
		ends := make(chan error, a.times)
		for n := range a.times {
			go func() { ends <- end(fmt.Sprint("hostile ", n), a.of[n%len(a.of)]) }()
		}
		how := map[string]int{}
		for range a.times {
			switch err := <-ends; {
			case err == nil:
				how["answered"]++
			case errors.Is(err, sandbox.ErrModule):
				how["refused"]++
			case errors.Is(err, sandbox.ErrGuest):
				how["stopped"]++
			case errors.Is(err, sandbox.ErrBusy):
				how["turned away"]++
			default:
				t.Errorf("%s: %v", a.name, err)
			}
		}
		took, grew := time.Since(began), peak(t, "self")-before
		table = append(table, fmt.Sprintf("| %s | %s | %d | %d |", a.name, strings.TrimSuffix(strings.TrimPrefix(fmt.Sprint(how), "map["), "]"), took.Milliseconds(), grew>>20))
		if grew > 50<<20 {
			t.Errorf("%s: the process that serves grew by %d MiB", a.name, grew>>20)
		}
		if r, err := p.Call(t.Context(), honest); err != nil || !strings.Contains(string(r.Output), "alice") {
			t.Errorf("%s: the next call: %s, %v", a.name, r.Output, err)
		}
	}
	t.Log("\n" + strings.Join(table, "\n"))
}

// children are the pids of this process's workers.
func children(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("pgrep", "-P", strconv.Itoa(os.Getpid()), "-f", "sandbox worker").Output()
	if err != nil {
		t.Fatalf("find workers: %v", err)
	}
	return string(out)
}

// peak is the most memory that a process had, in bytes; 0 when it has ended.
func peak(t *testing.T, pid string) int {
	t.Helper()
	text, _ := os.ReadFile("/proc/" + pid + "/status")
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	return 0
}
