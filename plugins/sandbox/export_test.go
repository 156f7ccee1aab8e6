package sandbox

import (
	"context"
	"os"

	"github.com/doorward/doorward/plugins/wasm"
	"github.com/doorward/doorward/sdk/abi"
)

// CheckImages has this worker compare each instance that it set back with its
// image, and end where they differ.
func CheckImages() { checking = true }

// NoImages has this worker make a fresh instance for each call.
func NoImages() { imaging = false }

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
	m, err := w.open(ctx, abi.DefaultMemoryMiB, wasm.Rewrite(read))
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
	m, err := w.open(ctx, abi.DefaultMemoryMiB, wasm.Rewrite(read))
	if err != nil {
		return 0, 0, err
	}
	defer m.runtime.Close(ctx)
	if m.image == nil {
		return -1, 0, nil
	}
	return m.image.steps, len(m.image.memory), nil
}
