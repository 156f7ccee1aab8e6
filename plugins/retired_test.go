package plugins

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/sdk/abi"
)

// TestRetiredVersionsLeaveNothingInMemory uploads, activates and uses one version
// after another. DOORWARD_SOAK_CYCLES makes it longer.
func TestRetiredVersionsLeaveNothingInMemory(t *testing.T) {
	cycles := 60
	if text := os.Getenv("DOORWARD_SOAK_CYCLES"); text != "" {
		var err error
		if cycles, err = strconv.Atoi(text); err != nil || cycles < 20 {
			t.Fatalf("DOORWARD_SOAK_CYCLES is %q; 20 or more", text)
		}
	}
	c := newCatalog(t)
	cycle := func(i int) {
		activate(t, c, "acme", guesttest.Accepts(fmt.Sprintf("user%d", i)).Module())
		answer, err := c.Verify(t.Context(), Call{Tenant: "acme", Request: abi.Request{ABI: abi.Version, Method: "password"}})
		if err != nil || answer.Verdict.Subject != fmt.Sprintf("user%d", i) {
			t.Fatalf("cycle %d: %+v, %v", i, answer, err)
		}
	}
	warm := max(20, cycles/5) // caches are full, and the garbage collector has seen it all
	for i := range warm {
		cycle(i)
	}
	before := footprint(t)
	for i := range cycles - warm {
		cycle(warm + i)
	}
	after := footprint(t)
	t.Logf("after %d and %d cycles: %+v, %+v", warm, cycles, before, after)
	if after.server.mappings > before.server.mappings+64 || after.worker.mappings > before.worker.mappings+64 {
		t.Error("memory mappings grow with versions that are retired")
	}
	if after.server.rssMiB > before.server.rssMiB+50 || after.worker.rssMiB > before.worker.rssMiB+20 {
		t.Error("memory grows with versions that are retired")
	}
}

type size struct{ rssMiB, mappings int }

// footprint measures this process and its one worker.
func footprint(t *testing.T) (f struct{ server, worker size }) {
	t.Helper()
	f.server = sizeOf(t, "self")
	pids := workerPIDs(t)
	if len(pids) != 1 {
		t.Fatalf("%d workers, not 1", len(pids))
	}
	f.worker = sizeOf(t, pids[0])
	return f
}

// workerPIDs are this process's workers.
func workerPIDs(t *testing.T) (pids []string) {
	t.Helper()
	children, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range children {
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // no process, or gone
		}
		fields := strings.Fields(string(stat[strings.LastIndex(string(stat), ")")+1:]))
		line, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if fields[1] == strconv.Itoa(os.Getpid()) && strings.Contains(string(line), "sandbox\x00worker") {
			pids = append(pids, e.Name())
		}
	}
	return pids
}

func sizeOf(t *testing.T, pid string) size {
	t.Helper()
	statm, err := os.ReadFile("/proc/" + pid + "/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile("/proc/" + pid + "/maps")
	if os.IsPermission(err) {
		t.Skip("the worker forbids looking at its mappings: run as root")
	}
	if err != nil {
		t.Fatal(err)
	}
	return size{pages * os.Getpagesize() >> 20, strings.Count(string(maps), "\n")}
}
