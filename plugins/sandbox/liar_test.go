package sandbox_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/sdk/abi"
)

// lies are what a worker says to a call that was taken over. They are made when
// they are wanted: every worker of these tests is this program.
var lies = sync.OnceValue(func() map[string][]byte {
	return map[string][]byte{
		"a frame of 4 GiB":                         {0xff, 0xff, 0xff, 0xff, 'd', 1},
		"a frame of 17 MiB that does not come":     {0x01, 0x0f, 0xff, 0xff, 'd', 5, 0, 0},
		"a frame of one byte":                      {0, 0, 0, 1, 'd'},
		"an argument of 4 GiB":                     {0, 0, 0, 6, 'd', 5, 0xff, 0xff, 0xff, 0xff},
		"255 arguments that are not there":         {0, 0, 0, 2, 'd', 255},
		"bytes after its arguments":                {0, 0, 0, 3, 'd', 0, 0},
		"an end of one argument":                   sent('d', "x"),
		"an end whose log is no JSON":              sent('d', "", "out", "12345678", "[[[", "12345678"),
		"an end that says more than it may":        sent('d', "", strings.Repeat("x", 1<<20), "12345678", "[]", "12345678"),
		"an answer to what was not asked":          sent('o'),
		"what only the parent says":                sent('C', "key", "core", "12345678", "{}", "12345678"),
		"a kind that there is not":                 sent(0),
		"a call for a function without a name":     sent('h'),
		"nothing":                                  nil,
		"calls for a function, as many as it can":  slices.Repeat(sent('h', "hash", "12345678", "data"), 10_000),
		"a call whose argument is longer than one": sent('h', "hash", "12345678", strings.Repeat("x", 16<<20)),
	}
})

// sent is a frame as a child sends it.
func sent(kind byte, args ...string) []byte {
	body := []byte{kind, byte(len(args))}
	for _, a := range args {
		body = binary.BigEndian.AppendUint32(body, uint32(len(a)))
		body = append(body, a...)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// A child that lies is this test binary again, before any of its tests begins: it
// loads what it is told to, and answers a call with the lie that is its input.
func init() {
	if len(os.Args) < 3 || os.Args[1] != "lie" {
		return
	}
	if os.Args[2] != "worker" {
		os.Exit(sandbox.Main(context.Background(), os.Args[2:]))
	}
	lies() // before a call has to wait for them
	from, to := os.NewFile(3, "from the parent"), os.NewFile(4, "to the parent")
	for {
		head := make([]byte, 4)
		if _, err := io.ReadFull(from, head); err != nil {
			os.Exit(0)
		}
		asked := make([]byte, binary.BigEndian.Uint32(head))
		if _, err := io.ReadFull(from, asked); err != nil {
			os.Exit(0)
		}
		if asked[0] == 'L' {
			to.Write(sent('o'))
			continue
		}
		go io.Copy(io.Discard, from) // answers, so that nobody waits for us to read them
		for lie, bytes := range lies() {
			if strings.Contains(string(asked), "<"+lie+">") {
				to.Write(bytes)
			}
		}
		if strings.Contains(string(asked), "<nothing>") {
			os.Exit(0)
		}
		select {}
	}
}

// A worker that was taken over says what it likes. It costs its call, and
// memory in proportion to what it sent, whatever lengths it speaks of.
func TestAWorkerThatLiesCostsItsCall(t *testing.T) {
	p := newPool(t, sandbox.Config{Workers: 4, Command: []string{"/proc/self/exe", "lie"}})
	call := callFor(t, p, "a", guesttest.Accepts("alice").Module())
	call.Wall = 2 * time.Second // some lies are noticed by nothing else
	for lie, bytes := range lies() {
		t.Run(lie, func(t *testing.T) {
			call := call
			call.Input = []byte("<" + lie + ">")
			asked := 0
			call.Host = func(context.Context, string, [][]byte) (int32, []byte) { asked++; return abi.ErrQuota, nil }
			p.Lift(call.Tenant, call.Digest) // from the quarantine that the lies before it led to
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r, err := p.Call(t.Context(), call)
			for errors.Is(err, sandbox.ErrBusy) { // the worker before it is being replaced
				r, err = p.Call(t.Context(), call)
			}
			runtime.ReadMemStats(&after)
			if lie == "an end that says more than it may" { // that is for who reads answers
				if err != nil || len(r.Output) != 1<<20 {
					t.Fatalf("%d bytes, %v", len(r.Output), err)
				}
			} else if !errors.Is(err, sandbox.ErrGuest) {
				t.Fatalf("Call: %v", err)
			}
			if took, most := after.TotalAlloc-before.TotalAlloc, uint64(32*len(bytes)+(4<<20)); took > most {
				t.Errorf("what it sent, %d bytes, took %d of memory", len(bytes), took)
			}
			if asked > 10_000 {
				t.Errorf("asked %d times", asked)
			}
		})
	}
}
