package sandbox_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/sdk/abi"
)

// modes are the ways in which a pool gives a call its instance.
var modes = []struct {
	name   string
	config sandbox.Config
}{
	{"fresh", sandbox.Config{Workers: 1, MaxWorkers: 1, Command: fresh}},
	{"reset", sandbox.Config{Workers: 1, MaxWorkers: 1}},
}

// aSignIn is a request, and its verdict in each language when the host says that
// the password is right.
var (
	aSignIn = []byte(`{"abi":1,"tenant":"acme","method":"password","request_id":"r1","attempt":1,"credential":{"password":"wonderland","username":"alice"},"client":{"ip":"192.0.2.7","user_agent":"test","app":"web"},"now_ms":1700000000000}`)
	verdict = `"alice"`
)

// takesAll is a host without any hashing: it knows alice, and takes every password.
func takesAll(_ context.Context, name string, args [][]byte) (int32, []byte) {
	switch {
	case name == abi.FuncPasswordVerify:
		return 1, nil
	case name == abi.FuncConfigGet && string(args[0]) == "alice":
		return 0, []byte("$2y$05$a-hash")
	case name == abi.FuncConfigGet && string(args[0]) == "role:alice":
		return 0, []byte("worker")
	}
	return abi.ErrNotFound, nil
}

// BenchmarkLogins is what a login costs at the sandbox's boundary, with the pipe
// and the guest's four questions to the host, without hashing: what one caller
// waits for, and the processor time of the server's side and the worker's
// together. The webhook is the other way to have strangers' code decide: it
// decodes the same request and encodes the same verdict, natively, behind
// net/http on loopback, and there, too, both sides count. All take turns of a
// twentieth of a second, for what else the machine does to hit them alike.
func BenchmarkLogins(b *testing.B) {
	type side struct {
		name  string
		login func() error
		spent func() time.Duration
		took  []time.Duration
		used  time.Duration
		fuel  int64
	}
	var sides []*side
	modules := map[string][]byte{"asks nothing": guesttest.Accepts("alice").Module()} // what is left without questions
	for _, language := range guesttest.Languages {
		modules[language] = guesttest.In(b, "../..", language)
	}
	for _, language := range append(guesttest.Languages, "asks nothing") {
		module := modules[language]
		for _, mode := range modes {
			before := workersOf(b)
			p := newPool(b, mode.config)
			c := callFor(b, p, "a", module)
			c.Input, c.Host, c.Wall = aSignIn, takesAll, 5*time.Second
			s := &side{name: language + "/" + mode.name}
			s.login = func() error {
				r, err := p.Call(b.Context(), c)
				if err == nil && !strings.Contains(string(r.Output), verdict) {
					err = fmt.Errorf("%s", r.Output)
				}
				s.fuel = r.Fuel
				return err
			}
			if err := s.login(); err != nil { // loads it, in the worker that is this pool's
				b.Fatalf("%s: %v", s.name, err)
			}
			worker := slices.DeleteFunc(workersOf(b), func(pid int) bool { return slices.Contains(before, pid) })
			s.spent = func() time.Duration { return spent(b, append(worker, os.Getpid())...) }
			sides = append(sides, s)
		}
	}
	url, hook := startWebhook(b)
	sides = append(sides, &side{name: "webhook/loopback", spent: func() time.Duration { return spent(b, hook, os.Getpid()) }, login: func() error {
		return post(http.DefaultClient, url)
	}})
	turn := func(s *side) {
		before := s.spent()
		for began := time.Now(); time.Since(began) < 50*time.Millisecond; {
			sent := time.Now()
			if err := s.login(); err != nil {
				b.Fatalf("%s: %v", s.name, err)
			}
			s.took = append(s.took, time.Since(sent))
		}
		s.used += s.spent() - before
	}
	for _, s := range sides {
		turn(s) // connections, caches
		s.took, s.used = nil, 0
	}
	for b.Loop() {
		for _, s := range sides {
			turn(s)
		}
	}
	b.ReportMetric(0, "ns/op") // a round is as long as it is set to be
	for _, s := range sides {
		b.Run(s.name, func(b *testing.B) {
			for range b.N { // it has been measured
			}
			slices.Sort(s.took)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(len(s.took)), "logins")
			b.ReportMetric(micros(s.took[len(s.took)/2]), "p50-µs")
			b.ReportMetric(micros(s.took[len(s.took)*99/100]), "p99-µs")
			b.ReportMetric(micros(s.used)/float64(len(s.took)), "cpu-µs")
			b.ReportMetric(float64(s.fuel)/1e3, "kfuel")
		})
	}
}

// The webhook is this test binary again, and ends with its standard input.
func init() {
	if len(os.Args) < 2 || os.Args[1] != "webhook" {
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	go http.Serve(l, http.HandlerFunc(webhook))
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// startWebhook starts it in a process of its own.
func startWebhook(b *testing.B) (url string, pid int) {
	b.Helper()
	hook := exec.Command("/proc/self/exe", "webhook")
	hold, err := hook.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := hook.StdoutPipe()
	if err == nil {
		err = hook.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		hold.Close()
		hook.Wait()
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return "http://" + strings.TrimSpace(address), hook.Process.Pid
}

// webhook decides as the guests do.
func webhook(w http.ResponseWriter, r *http.Request) {
	var request abi.Request
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	v := abi.Verdict{Decision: abi.Reject, Code: abi.BadCredentials}
	if request.Credential.Text("username") == "alice" && request.Credential.Text("password") == "wonderland" {
		v = abi.Verdict{Decision: abi.Accept, Subject: "alice", Claims: json.RawMessage(`{"role":"worker"}`), AMR: []string{"pwd"}}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) // to a caller that may have gone
}

// post asks the webhook over a connection that is kept.
func post(client *http.Client, url string) error {
	got, err := client.Post(url, "application/json", bytes.NewReader(aSignIn))
	if err != nil {
		return err
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	if err == nil && !strings.Contains(string(text), verdict) {
		err = fmt.Errorf("%d %s", got.StatusCode, text)
	}
	return err
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// workersOf are the workers of all pools of this process.
func workersOf(t testing.TB) (pids []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // that thread has ended
		}
		for field := range strings.FieldsSeq(string(text)) {
			var pid int
			if _, err := fmt.Sscan(field, &pid); err != nil {
				t.Fatal(err)
			}
			line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if err == nil && bytes.Contains(line, []byte("\x00worker\x00")) { // and no compile child, which ends
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// spent is the processor time of whole processes, in nanoseconds where /proc
// counts hundredths of a second.
func spent(t testing.TB, pids ...int) (total time.Duration) {
	t.Helper()
	for _, pid := range pids {
		const schedClock = 2 // CPUCLOCK_SCHED in the kernel's posix-timers.h
		var used unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|schedClock), &used); err != nil {
			t.Fatal(err)
		}
		total += time.Duration(used.Nano())
	}
	return total
}
