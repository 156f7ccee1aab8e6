package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/doorward/doorward/plugins/wasm"
	"github.com/doorward/doorward/sdk/abi"
)

// maxLoaded is how many modules a worker, and its parent's note of it, keeps.
const maxLoaded = 8

// worker is the worker child: it runs one call at a time, each in a fresh
// instance.
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
		switch f.kind {
		case kindLoad:
			answer, err = w.load(ctx, f)
		case kindProbe:
			answer = frame{kindOK, [][]byte{probing(f, w.cacheDir, w.unbound)}}
		case kindCall:
			answer, err = w.call(ctx, f)
		}
		if err != nil {
			return err
		}
		if err := answer.write(w.parent); err != nil {
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
	return frame{kind: kindOK}, nil
}

func (w *worker) unload(ctx context.Context, key string) {
	m := w.loaded[key]
	delete(w.loaded, key)
	w.order = slices.DeleteFunc(w.order, func(k string) bool { return k == key })
	m.runtime.Close(ctx)
	m.cache.Close(ctx)
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
	return m, nil
}

func (w *worker) call(ctx context.Context, f frame) (frame, error) {
	if err := f.need(5); err != nil {
		return frame{}, err
	}
	key, profile := string(f.args[0]), string(f.args[1])
	m := w.loaded[key]
	if m == nil {
		return frame{kindFailed, [][]byte{[]byte("module is not loaded")}}, nil
	}
	w.order = append(slices.DeleteFunc(w.order, func(k string) bool { return k == key }), key)
	r := &run{parent: w.parent, now: time.UnixMilli(parseNumber(f.args[2])), input: f.args[3], stdio: profile == "stdio", fuel: parseNumber(f.args[4])}
	err := r.run(ctx, m)
	if r.broken != nil {
		return frame{}, r.broken // the socket, not the guest
	}
	failure := ""
	if err != nil {
		failure = tidy(err)
	}
	logs, err := json.Marshal(r.logs())
	if err != nil {
		return frame{}, err
	}
	return frame{kindDone, [][]byte{[]byte(failure), r.output, number(int64(r.memoryKiB)), logs, number(r.used)}}, nil
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

// run instantiates the module, asks it, and throws the instance away, so that
// no byte of this call is there at the next.
func (r *run) run(ctx context.Context, m *module) error {
	ctx = context.WithValue(ctx, running{}, r)
	ctx = experimental.WithMemoryAllocator(ctx, experimental.MemoryAllocatorFunc(reserve))
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions().
		WithRandSource(rand.Reader).WithSysWalltime().WithSysNanotime()
	instance, err := m.runtime.InstantiateModule(ctx, m.compiled, config)
	if err != nil {
		return fmt.Errorf("instantiate: %w", err)
	}
	defer instance.Close(ctx)
	r.meter = instance.ExportedGlobal(wasm.FuelExport).(api.MutableGlobal)
	r.meter.Set(uint64(r.fuel))
	stack := instance.ExportedGlobal(wasm.StackExport).(api.MutableGlobal)
	stack.Set(wasm.Stack)
	err = r.converse(ctx, instance)
	r.memoryKiB = int(instance.Memory().Size() / 1024)
	r.used = r.fuel - int64(r.meter.Get())
	switch {
	case err == nil:
		return nil
	case int64(r.meter.Get()) < 0:
		return fmt.Errorf("it ran longer than its CPU limit of %v; raise limits.cpu_ms (at most %d)", time.Duration(r.fuel)*time.Millisecond/wasm.FuelPerMillisecond, abi.MaxCPUMS)
	case int64(stack.Get()) < 0:
		return fmt.Errorf("its calls are nested too deep: they take more than %d bytes of stack", wasm.Stack)
	}
	return err
}

// converse runs what is to be run of an instance, in its order.
func (r *run) converse(ctx context.Context, instance api.Module) error {
	if f := instance.ExportedFunction(wasm.StartExport); f != nil {
		if _, err := f.Call(ctx); err != nil {
			return err
		}
	}
	if r.stdio {
		r.asked = true
		_, err := instance.ExportedFunction(abi.ExportStart).Call(ctx)
		var left *exit
		if errors.As(err, &left) && left.code == 0 {
			return nil
		}
		return err
	}
	if f := instance.ExportedFunction(abi.ExportInitialize); f != nil {
		if _, err := f.Call(ctx); err != nil {
			return err
		}
	}
	if err := r.ask(ctx, instance, abi.ExportInit, 0); err != nil {
		return err
	}
	r.asked = true
	return r.ask(ctx, instance, abi.ExportVerify, uint64(len(r.input)))
}

// ask calls an export that returns 0 for "done"; one that is not there has
// nothing to do.
func (r *run) ask(ctx context.Context, instance api.Module, export string, argument uint64) error {
	f := instance.ExportedFunction(export)
	if f == nil {
		return nil
	}
	results, err := f.Call(ctx, argument)
	if err != nil {
		return err
	}
	if code := int32(results[0]); code != 0 {
		return fmt.Errorf("%s returned %d, not 0", export, code)
	}
	return nil
}
