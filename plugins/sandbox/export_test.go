package sandbox

import (
	"context"
	"io"
	"os"
	"syscall"

	"github.com/doorward/doorward/plugins/wasm"
	"github.com/doorward/doorward/sdk/abi"
)

// CheckImages has this worker compare each instance that it set back with its
// image, and end where they differ.
func CheckImages() { checking = true }

// Twice has one instance of a module asked twice, in this process. In between it
// is set back or not. The error is what the check says before the second time.
func Twice(ctx context.Context, cacheDir string, module, first, second []byte, back bool) (answer []byte, differs, err error) {
	checking = true
	defer func() { checking = false }()
	read, err := wasm.Read(module, wasm.Limits{})
	if err != nil {
		return nil, nil, err
	}
	w := newWorker(cacheDir, nil)
	m, err := w.open(ctx, abi.DefaultMemoryMiB, wasm.Rewrite(read), "")
	if err != nil {
		return nil, nil, err
	}
	defer m.runtime.Close(ctx)
	if m.image == nil {
		return nil, nil, os.ErrNotExist
	}
	i, err := m.take(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := (&run{input: first, fuel: imageFuel}).run(ctx, i, m.image); err != nil {
		return nil, nil, err
	}
	if back {
		m.image.restore(i)
	}
	differs = m.image.check(i)
	r := &run{input: second, fuel: imageFuel}
	err = r.run(ctx, i, m.image)
	return r.output, differs, err
}

// Steps is how many steps of its preparation the image of a module has behind
// it, -1 when it has no image, and the size of the image.
func Steps(ctx context.Context, cacheDir string, module []byte) (steps, size int, err error) {
	read, err := wasm.Read(module, wasm.Limits{})
	if err != nil {
		return 0, 0, err
	}
	w := newWorker(cacheDir, nil)
	m, err := w.open(ctx, abi.DefaultMemoryMiB, wasm.Rewrite(read), "")
	if err != nil {
		return 0, 0, err
	}
	defer m.runtime.Close(ctx)
	if m.image == nil {
		return -1, 0, nil
	}
	return m.image.steps, len(m.image.memory), nil
}

// Hostile makes this process a child that does what is given instead of probing,
// and returns its exit code.
func Hostile(args []string, try func(args [][]byte, own string) []byte) int {
	probing = func(f frame, own string, _ []string) []byte { return try(f.args, own) }
	return Main(context.Background(), args)
}

// Fills makes this process a child that does what is given with its room instead
// of compiling, and returns its exit code.
func Fills(args []string, fill func(room string)) int {
	compiler = func(_ context.Context, room string, _ []byte) error {
		fill(room)
		return nil
	}
	return Main(context.Background(), args)
}

// Ask starts a child of a kind and returns what it answers to a probe.
func (p *Pool) Ask(ctx context.Context, part string, args ...string) (Bound, error) {
	var list [][]byte
	for _, a := range args {
		list = append(list, []byte(a))
	}
	return p.confinementOf(ctx, part, list)
}

// RefusedCalls are those that the filter of a child refuses, whatever their arguments.
func RefusedCalls(writes bool) []uint32 { return refusedOf(writes) }

// UndoneCalls are those of which a compile child is told that they were done.
func UndoneCalls() []uint32 { return undone }

// FilterCalls puts this process under that filter.
func FilterCalls(writes bool, errno syscall.Errno) error { return filterCalls(writes, errno) }

// Owners are the idle workers, by their pids, and whose call each had last.
func (p *Pool) Owners() map[int]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	owners := map[int]string{}
	for _, child := range p.idle {
		owners[child.cmd.Process.Pid] = child.tenant
	}
	return owners
}

// CacheDir is the directory of the pool's cache.
func (p *Pool) CacheDir() string { return p.cache.dir }

// CodeOf is the path of a module's code in the cache.
func (p *Pool) CodeOf(digest string) (string, error) {
	dir := p.cache.dir + "/" + entry(digest)
	code, err := findCode(dir)
	return dir + "/" + code, err
}

// Times of a wire.
const (
	Near     = near
	Patience = patience
)

// Wire returns both ends of a wire, with nobody behind the child's. They are
// closed when ctx ends.
func Wire(ctx context.Context) (parent *wire, child io.ReadWriter) {
	parent, theirs, err := newWire()
	if err != nil {
		panic(err)
	}
	if child, err = childEnd(int(theirs[0].Fd()), int(theirs[1].Fd())); err != nil {
		panic(err)
	}
	context.AfterFunc(ctx, func() {
		parent.Close()
		closeAll(theirs)
	})
	return parent, child
}
