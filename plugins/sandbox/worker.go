package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/doorward/doorward/plugins/wasm"
	"github.com/doorward/doorward/sdk/abi"
)

// maxLoaded is how many modules a worker, and its parent's note of it, keeps.
const maxLoaded = 8

// worker is the worker child: it runs one call at a time, each in an instance
// that is fresh, or that cannot be told from one.
type worker struct {
	cacheDir string
	unbound  []string // why measures are not in force
	parent   io.ReadWriter
	loaded   map[string]*module
	order    []string // keys of loaded, the least lately used first
}

// module is one that is ready to be instantiated.
type module struct {
	runtime  wazero.Runtime
	cache    wazero.CompilationCache
	compiled wazero.CompiledModule
	image    *image    // nil: each call gets a fresh instance
	kept     *instance // of the image, when no call has it and there is one
	grown    int       // logins in a row that took more memory than the image has
}

func newWorker(cacheDir string, parent io.ReadWriter) *worker {
	return &worker{cacheDir: cacheDir, parent: parent, loaded: map[string]*module{}}
}

func (w *worker) serve(ctx context.Context) error {
	for {
		f, err := readFrame(w.parent)
		if errors.Is(err, io.EOF) {
			return nil // the parent has closed: time to go
		}
		if err != nil {
			return err
		}
		answer := frame{kind: kindFailed, args: [][]byte{[]byte("unknown request")}}
		var settle func() error
		switch f.kind {
		case kindLoad:
			answer, err = w.load(ctx, f)
		case kindProbe:
			answer = frame{kindOK, [][]byte{probing(f, w.cacheDir, w.unbound)}}
		case kindCall:
			answer, settle, err = w.call(ctx, f)
		}
		if err != nil {
			return err
		}
		if err := answer.write(w.parent); err != nil {
			return err
		}
		if settle == nil {
			continue
		}
		if err := settle(); err != nil { // nobody waits for it
			return err
		}
	}
}

func (w *worker) load(ctx context.Context, f frame) (frame, error) {
	if err := f.need(4); err != nil {
		return frame{}, err
	}
	key := string(f.args[0])
	m, err := w.open(ctx, int(parseNumber(f.args[1])), f.args[2], string(f.args[3]))
	if errors.Is(err, errStale) {
		return frame{kind: kindStale}, nil
	}
	if err != nil {
		return frame{kindFailed, [][]byte{[]byte(tidy(err))}}, nil
	}
	for len(w.order) >= maxLoaded {
		w.unload(ctx, w.order[0])
	}
	w.loaded[key] = m
	w.order = append(w.order, key)
	w.trim(ctx)
	return frame{kind: kindOK}, nil
}

func (w *worker) unload(ctx context.Context, key string) {
	m := w.loaded[key]
	delete(w.loaded, key)
	w.order = slices.DeleteFunc(w.order, func(k string) bool { return k == key })
	if m.kept != nil {
		m.kept.Close(ctx)
	}
	m.runtime.Close(ctx)
	m.cache.Close(ctx)
	m.image.close()
}

// open makes a module ready. A runtime of its own keeps modules apart and
// gives their types back when it goes.
func (w *worker) open(ctx context.Context, memoryMiB int, code []byte, entry string) (*module, error) {
	cache, err := wazero.NewCompilationCacheWithDir(filepath.Join(w.cacheDir, entry))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStale, err)
	}
	r := wazero.NewRuntimeWithConfig(ctx, engine(cache, memoryMiB))
	m := &module{runtime: r, cache: cache}
	if m.compiled, err = r.CompileModule(ctx, code); err != nil {
		err = fmt.Errorf("%w: %w", errStale, err) // it was compiled once
	} else {
		err = bindHost(ctx, r, m.compiled)
	}
	if err != nil {
		r.Close(ctx)
		cache.Close(ctx)
		return nil, err
	}
	m.picture(ctx)
	return m, nil
}

// call runs one call. Once its answer is on its way, settle is to be called if it
// is not nil: it makes the instance ready for the next.
func (w *worker) call(ctx context.Context, f frame) (answer frame, settle func() error, err error) {
	if err := f.need(5); err != nil {
		return frame{}, nil, err
	}
	key, profile := string(f.args[0]), string(f.args[1])
	m := w.loaded[key]
	if m == nil {
		return frame{kindFailed, [][]byte{[]byte("module is not loaded")}}, nil, nil
	}
	w.order = append(slices.DeleteFunc(w.order, func(k string) bool { return k == key }), key)
	r := &run{parent: w.parent, now: time.UnixMilli(parseNumber(f.args[2])), input: f.args[3], stdio: profile == "stdio", fuel: parseNumber(f.args[4])}
	i, err := m.take(ctx)
	if err == nil {
		err = r.run(ctx, i, m.image)
	}
	if r.broken != nil {
		return frame{}, nil, r.broken // the socket, not the guest
	}
	if ended := err == nil; i != nil {
		settle = func() error { return w.settle(ctx, m, i, ended) }
	}
	failure := ""
	if err != nil {
		failure = tidy(err)
	}
	logs, err := json.Marshal(r.logs())
	if err != nil {
		return frame{}, nil, err
	}
	return frame{kindDone, [][]byte{[]byte(failure), r.output, number(int64(r.memoryKiB)), logs, number(r.used)}}, settle, nil
}

// maxKept bounds the memories of the instances that a worker keeps, in bytes.
const maxKept = 32 << 20

// settle sets an instance back and keeps it for the next call of its module. One
// that cannot be set back goes: whose guest did not come to a good end, and whose
// memory has grown.
func (w *worker) settle(ctx context.Context, m *module, i *instance, ended bool) error {
	if m.image == nil || !ended || !m.image.restore(i) {
		i.Close(ctx)
		if m.image != nil && ended {
			m.outgrown()
		}
		return nil
	}
	m.grown = 0
	if err := m.image.check(i); err != nil {
		return err
	}
	m.kept = i
	w.trim(ctx)
	return nil
}

// outgrown notes a login that took more memory than the image has. One that every
// login outgrows costs more than it saves: after two in a row each gets a fresh
// instance.
func (m *module) outgrown() {
	if m.grown++; m.grown < 2 {
		return
	}
	m.image.close()
	m.image = nil
}

// trim lets the kept instances go that are beyond maxKept, the least lately used
// first. Their images stay, and they can be made again.
func (w *worker) trim(ctx context.Context) {
	kept := 0
	for _, key := range slices.Backward(w.order) {
		m := w.loaded[key]
		if m.kept == nil {
			continue
		}
		if kept += len(m.kept.memory.b); kept > maxKept {
			m.kept.Close(ctx)
			m.kept = nil
		}
	}
}

// run is one call of one guest: what the host functions work on. It is made
// for the call and goes with it.
type run struct {
	parent io.ReadWriter
	now    time.Time
	input  []byte
	stdio  bool
	fuel   int64             // for all of it
	meter  api.MutableGlobal // what is left of it

	output    []byte
	result    []byte // of the last granted function, for result_read
	read      int    // of input, by fd_read
	log       logBuffer
	ticks     time.Duration // how far the frozen clock was moved by being read or slept on
	hostCalls int
	asked     bool // it is being asked, and no longer made ready
	imaging   bool // it is made ready for many calls: see picture
	memoryKiB int
	used      int64 // of fuel
	broken    error // the parent cannot be spoken to
}

// running is the context key of the *run.
type running struct{}

func runOf(ctx context.Context) *run { return ctx.Value(running{}).(*run) }

// exit is a guest's proc_exit.
type exit struct{ code uint32 }

func (e *exit) Error() string { return fmt.Sprintf("the guest exited with status %d", e.code) }

// run asks an instance. What is left in it is the worker's business.
func (r *run) run(ctx context.Context, i *instance, before *image) error {
	if before != nil {
		r.resume(before.ran)
	}
	err := r.converse(context.WithValue(ctx, running{}, r), i, before)
	r.memoryKiB = int(i.Memory().Size() / 1024)
	r.used = r.fuel - int64(i.fuel.Get())
	switch {
	case err == nil:
		return nil
	case int64(i.fuel.Get()) < 0:
		return fmt.Errorf("it ran longer than its CPU limit of %v; raise limits.cpu_ms (at most %d)%s", time.Duration(r.fuel)*time.Millisecond/wasm.FuelPerMillisecond, abi.MaxCPUMS, stackOf(err))
	case int64(i.stack.Get()) < 0:
		return fmt.Errorf("its calls are nested too deep: they take more than %d bytes of stack%s", wasm.Stack, stackOf(err))
	}
	return err
}

// stackOf is the stack that a trap's error names, as tidy finds it in a text.
func stackOf(err error) string {
	if _, stack, ok := strings.Cut(err.Error(), stackTrace); ok {
		return "\n" + stackTrace + stack
	}
	return ""
}

// step is an export that is called before a guest is asked, if it is there.
type step struct {
	export string
	args   []uint64
}

// preparation is what makes an instance ready, in this order. The warm-up at its
// end is for images only: it changes how fast a guest answers, not what.
var preparation = []step{
	{wasm.StartExport, nil},
	{abi.ExportInitialize, nil},
	{abi.ExportInit, []uint64{0}},
	{abi.ExportWarm, nil},
}

const warmUp = 3 // its place

// converse runs what is to be run of an instance, in its order: what the image
// that it comes from has behind it is not run again.
func (r *run) converse(ctx context.Context, i *instance, before *image) error {
	done := 0
	r.meter = i.fuel
	r.meter.Set(uint64(r.fuel))
	i.stack.Set(wasm.Stack)
	if before != nil {
		done = min(before.steps, warmUp)
		r.meter.Set(uint64(r.fuel - before.ran.used)) // as though it had been run now: the limit is the same with an image and without
	}
	if r.stdio {
		if err := r.ask(ctx, i, preparation[0]); err != nil {
			return err
		}
		r.asked = true
		_, err := i.ExportedFunction(abi.ExportStart).Call(ctx)
		var left *exit
		if errors.As(err, &left) && left.code == 0 {
			return nil
		}
		return err
	}
	for _, s := range preparation[done:warmUp] {
		if err := r.ask(ctx, i, s); err != nil {
			return err
		}
	}
	r.asked = true
	return r.ask(ctx, i, step{abi.ExportVerify, []uint64{uint64(len(r.input))}})
}

// ask calls an export that returns 0 for "done", or nothing; one that is not
// there has nothing to do.
func (r *run) ask(ctx context.Context, i *instance, s step) error {
	f := i.ExportedFunction(s.export)
	if f == nil {
		return nil
	}
	results, err := f.Call(ctx, s.args...)
	if err != nil {
		return err
	}
	if len(results) > 0 && int32(results[0]) != 0 {
		return fmt.Errorf("%s returned %d, not 0", s.export, int32(results[0]))
	}
	return nil
}
