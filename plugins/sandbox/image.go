package sandbox

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"unsafe"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/plugins/wasm"
	"github.com/doorward/doorward/sdk/abi"
)

// instance is a module that is being run.
type instance struct {
	api.Module
	memory  *reserved
	fuel    api.MutableGlobal
	stack   api.MutableGlobal
	globals []api.MutableGlobal // the author's mutable ones
}

func (m *module) instantiate(ctx context.Context) (*instance, error) {
	i := &instance{}
	ctx = experimental.WithMemoryAllocator(ctx, experimental.MemoryAllocatorFunc(func(_, most uint64) experimental.LinearMemory {
		first := most
		if m.image != nil {
			first = uint64(len(m.image.memory))
		}
		i.memory = reserve(first, most)
		return i.memory
	}))
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions().
		WithRandSource(rand.Reader).WithSysWalltime().WithSysNanotime()
	var err error
	if i.Module, err = m.runtime.InstantiateModule(ctx, m.compiled, config); err != nil {
		return nil, fmt.Errorf("instantiate: %w", err)
	}
	i.fuel = i.ExportedGlobal(wasm.FuelExport).(api.MutableGlobal)
	i.stack = i.ExportedGlobal(wasm.StackExport).(api.MutableGlobal)
	for n := 0; ; n++ {
		g, ok := i.ExportedGlobal(wasm.GlobalExport(n)).(api.MutableGlobal)
		if !ok {
			return i, nil
		}
		i.globals = append(i.globals, g)
	}
}

// take gives a call its instance: the one that is kept, or a new one.
func (m *module) take(ctx context.Context) (*instance, error) {
	if i := m.kept; i != nil {
		m.kept = nil
		return i, nil
	}
	i, err := m.instantiate(ctx)
	if err != nil || m.image == nil {
		return i, err
	}
	if err := m.image.become(i); err != nil {
		i.Close(ctx)
		return nil, err
	}
	return i, nil
}

// image is what every instance of a module is when a call gets it: its memory,
// its mutable globals, and what the host has noted of it. A table is not in it,
// nor is a segment: Rewrite marks only modules that change none.
type image struct {
	file    *os.File // the memory, sealed: what instances have private mappings of
	memory  []byte   // the same, to be compared with
	globals []uint64
	steps   int  // of the preparation that it has behind it
	ran     *run // what these left: log, clock, fuel
}

// Bounds of what is kept as an image.
const (
	maxImage  = 8 << 20 // bytes of memory; looking through so many takes a millisecond
	imageFuel = abi.DefaultCPUMS * wasm.FuelPerMillisecond
)

// picture makes the image of a module, if it can have one, and keeps the first
// instance of it. An image may have behind it only what comes out the same for
// every login of every tenant. So it ends before the first step of the
// preparation that asks for more (the request, configuration, the time, a random
// number from the contract's function), that fails, or that takes long; each
// login then runs the rest by itself.
func (m *module) picture(ctx context.Context) {
	exports := m.compiled.ExportedFunctions()
	_, marked := m.compiled.ExportedMemories()[wasm.ImageExport]
	if !marked || exports[abi.ExportVerify] == nil || !imaging {
		return
	}
	steps := len(preparation)
	for range 2 {
		i, r, done := m.prepare(ctx, steps)
		if i == nil {
			return // each login will be told why
		}
		if done == steps {
			m.image = imageOf(i, r, steps)
		}
		if m.image != nil && m.image.become(i) == nil {
			m.kept = i
			return
		}
		m.image.close()
		m.image = nil
		i.Close(ctx)
		if done == steps {
			return // it is too large, or there is no room for it
		}
		steps = done
	}
}

// prepare instantiates a module and takes steps of its preparation. It tells how
// many were done.
func (m *module) prepare(ctx context.Context, steps int) (*instance, *run, int) {
	i, err := m.instantiate(ctx)
	if err != nil {
		return nil, nil, 0
	}
	r := &run{imaging: true, fuel: imageFuel, meter: i.fuel}
	r.meter.Set(uint64(r.fuel))
	i.stack.Set(wasm.Stack)
	for n, s := range preparation[:steps] {
		of := r
		if n == warmUp { // leaves its memory warm, and no trace
			of = &run{imaging: true, meter: i.fuel, ticks: r.ticks}
		}
		if err := r.ask(context.WithValue(ctx, running{}, of), i, s); err != nil {
			return i, r, n
		}
		if r.ticks = of.ticks; n < warmUp {
			r.used = r.fuel - int64(r.meter.Get())
		}
	}
	return i, r, steps
}

// needsCall is for what differs from one call to the next: no image is made of
// what was made of that.
func (r *run) needsCall(name string) {
	if r.imaging {
		trapf("%s: only during a call", name)
	}
}

// resume has a run go on where the making of an image ended.
func (r *run) resume(from *run) {
	r.ticks, r.hostCalls = from.ticks, from.hostCalls
	r.output = slices.Clone(from.output)
	r.log = from.log
	r.log.lines = slices.Clone(from.log.lines)
	for fd, text := range from.log.partial {
		r.log.partial[fd] = slices.Clone(text)
	}
}

// imageOf is the image of an instance as it is, nil when it is too large to be
// kept, or the system gives no room for it.
func imageOf(i *instance, r *run, steps int) *image {
	memory, _ := i.Memory().Read(0, i.Memory().Size())
	if len(memory) > maxImage {
		return nil
	}
	m := &image{steps: steps, ran: r}
	for _, g := range i.globals {
		m.globals = append(m.globals, g.Get())
	}
	if len(memory) == 0 {
		return m
	}
	if err := m.seal(memory); err != nil {
		m.close()
		return nil
	}
	return m
}

// seal keeps memory in a file that nobody can change any more.
func (m *image) seal(memory []byte) error {
	fd, err := unix.MemfdCreate("image", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("make a file in memory: %w", err)
	}
	m.file = os.NewFile(uintptr(fd), "image")
	_, err = m.file.Write(memory)
	if err == nil {
		_, err = unix.FcntlInt(m.file.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err == nil {
		m.memory, err = unix.Mmap(fd, 0, len(memory), unix.PROT_READ, unix.MAP_PRIVATE) // many kernels share no sealed file; the pages are the same
	}
	if err != nil {
		return fmt.Errorf("keep an image in a file in memory: %w", err)
	}
	return nil
}

// close gives back what an image takes. No instance of it may be there.
func (m *image) close() {
	if m == nil || m.file == nil {
		return
	}
	m.file.Close()
	if m.memory != nil {
		unix.Munmap(m.memory)
	}
}

// become makes of an instance one of this image, for good: its memory is the
// image's, and a page of its own from the first byte it writes there.
func (m *image) become(i *instance) error {
	if more := len(m.memory) - int(i.Memory().Size()); more > 0 {
		if _, ok := i.Memory().Grow(uint32(more >> 16)); !ok {
			return errors.New("give an instance the memory of its image: it has no room")
		}
	}
	if int(i.Memory().Size()) != len(m.memory) {
		return errors.New("give an instance the memory of its image: it is larger")
	}
	if len(m.memory) > 0 {
		i.memory.shrink(len(m.memory))
		head := i.memory.b
		_, err := unix.MmapPtr(int(m.file.Fd()), 0, unsafe.Pointer(&head[0]), uintptr(len(head)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_FIXED|unix.MAP_NORESERVE)
		if err != nil {
			return fmt.Errorf("give an instance the memory of its image: %w", err)
		}
	}
	m.restore(i)
	return nil
}

// page is what is compared, and copied where it differs.
const page = 4 << 10

// restore sets an instance of this image back to it. It reports whether that can
// be: memory that has grown cannot shrink.
//
// Every page is compared, and not only those that a kernel says were written:
// nothing has to be believed then, and where a page was not written both are the
// same page of the same machine.
func (m *image) restore(i *instance) bool {
	if int(i.Memory().Size()) != len(m.memory) {
		return false
	}
	memory := i.memory.b[:len(m.memory)]
	for at := 0; at < len(memory); at += page {
		is, was := memory[at:at+page], m.memory[at:at+page]
		if !bytes.Equal(is, was) {
			copy(is, was)
		}
	}
	for n, g := range i.globals {
		g.Set(m.globals[n])
	}
	return true
}

// NoImages has this worker make a fresh instance for each call: what a bench holds
// the other way against. Call it before Main.
func NoImages() { imaging = false }

// What a bench and tests switch.
var (
	imaging  = true  // false: a fresh instance for each call
	checking = false // true: compare each instance that was set back, whole
)

// check compares an instance that was set back with one that has never run, if
// that is wanted.
func (m *image) check(i *instance) error {
	if !checking {
		return nil
	}
	memory, _ := i.Memory().Read(0, i.Memory().Size())
	if !bytes.Equal(memory, m.memory) {
		return errors.New("an instance was set back, and its memory is not its image's")
	}
	for n, g := range i.globals {
		if g.Get() != m.globals[n] {
			return fmt.Errorf("an instance was set back, and its global %d is not its image's", n)
		}
	}
	return nil
}
