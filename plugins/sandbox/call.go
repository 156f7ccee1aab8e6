package sandbox

import (
	"context"
	"errors"
	"time"

	"github.com/doorward/doorward/plugins/wasm"
)

// How a compile or a call can fail. Each is wrapped with a text that a tenant
// may read: no Go stacks, no paths of this machine.
var (
	// ErrModule: the module cannot be accepted; the fault is in its bytes.
	ErrModule = errors.New("module refused")

	// ErrGuest: the guest gave no answer: a trap, a non-zero return, the wall
	// limit, or the death of its worker.
	ErrGuest = errors.New("guest failed")

	// ErrBusy: no worker came free in time.
	ErrBusy = errors.New("no worker free")

	// ErrQuarantined: the module is not run on this node for a while.
	ErrQuarantined = errors.New("verifier quarantined")
)

// Report is what a compile tells about a module.
type Report struct {
	Profile   string   // "core" or "stdio"
	Imports   []string // "module.name", sorted; every one is offered by the host
	Exports   []string // names, sorted
	Manifest  []byte   // content of the doorward.manifest section; nil when there is none
	MemoryMiB int      // what it declares at least, rounded up

	// Fresh is why each call gets an instance made anew, which is slower than one
	// that is set back; "" when it does not. It may still come to that for other
	// reasons, which show when it runs: a memory that grows, a bad end.
	Fresh string
}

// Call is one run of one module.
type Call struct {
	Tenant    string // uuid; for shares, and for nothing else
	Digest    string // of the module
	Profile   string // as Report told
	Input     []byte // the request
	Wall      time.Duration
	CPU       time.Duration // for the guest's own code, counted by what it runs and not by a clock; 0: as much as Wall
	MemoryMiB int
	Now       time.Time // what the guest's clocks show; zero: when it is run

	// Module gives the bytes when this node has not compiled them yet.
	Module func(ctx context.Context) ([]byte, error)

	// Host answers a granted function, in the parent. name is the function's
	// abi name, args are its arguments in order: byte strings copied out of the
	// guest, and numbers for Number. A worker that was taken over may send
	// anything. A result of 0 or more with bytes keeps the
	// bytes for result_read and hands the guest their length; without bytes (nil)
	// it hands the guest the number itself. ctx ends with the wall limit.
	Host func(ctx context.Context, name string, args [][]byte) (code int32, result []byte)
}

// Result is what a run left behind; after an error too, as far as it is known.
type Result struct {
	Output    []byte
	Logs      []Log
	Fuel      int64 // used; package wasm has its unit
	MemoryKiB int   // linear memory at the end
	Duration  time.Duration
}

// Log is one line that the guest wrote, control characters escaped.
type Log struct {
	Level int // 0 debug, 1 info, 2 warn, 3 error
	Text  string
}

// clock is what the guest's clocks begin at in a run that has begun then.
func (c Call) clock(began time.Time) time.Time {
	if c.Now.IsZero() {
		return began
	}
	return c.Now
}

// fuel is what the guest's own code may use.
func (c Call) fuel() int64 {
	cpu := c.CPU
	if cpu == 0 {
		cpu = c.Wall
	}
	return int64(cpu) * wasm.FuelPerMillisecond / int64(time.Millisecond)
}
