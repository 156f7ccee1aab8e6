package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/plugins/sandbox"
)

// freshSandbox is what a child is called that makes an instance anew for each call.
const freshSandbox = "sandbox-fresh"

// inSandbox has do use a sandbox of this command's own, which is a server's: the
// same pool, the same children. What it compiles is kept for the next command in the
// user's cache directory; while another command has that, in a directory that goes.
func inSandbox(ctx context.Context, part string, do func(*sandbox.Pool) error) error {
	dir, free, err := compiledDir()
	if err != nil {
		return err
	}
	defer free()
	pool, err := sandbox.New(sandbox.Config{
		CacheDir: dir, CacheBytes: 256 << 20, Workers: 1, MaxWorkers: 2, PerTenant: 2,
		Command: []string{"/proc/self/exe", part},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- pool.Run(ctx) }()
	err = do(pool)
	cancel()
	if ended := <-ran; err == nil && !errors.Is(ended, context.Canceled) {
		return ended
	}
	return err
}

// compiledDir is where compiled modules are kept, and what to call when it is not
// used any more. Only one process may write it.
func compiledDir() (dir string, free func(), err error) {
	home, err := os.UserCacheDir()
	if err == nil {
		home = filepath.Join(home, "doorward")
		err = os.MkdirAll(home, 0o700)
	}
	if err == nil {
		lock, err := os.OpenFile(filepath.Join(home, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
		if err == nil && unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			return filepath.Join(home, "modules"), func() { lock.Close() }, nil
		}
		if err == nil {
			lock.Close()
		}
	}
	// No home, or somebody else is in it: it is a cache.
	dir, err = os.MkdirTemp("", "doorward-modules-")
	if err != nil {
		return "", nil, fmt.Errorf("make room for compiled modules: %w", err)
	}
	return dir, func() { os.RemoveAll(dir) }, nil
}

// withHint adds to an error what an author can do about it.
func withHint(err error) error {
	if hint := plugins.Hint(err); hint != "" {
		return fmt.Errorf("%w\n  hint: %s", err, hint)
	}
	return err
}
