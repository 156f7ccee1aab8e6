package sandbox

import (
	"context"
	"syscall"
)

// Hostile makes this process a child that does what is given instead of probing,
// and returns its exit code.
func Hostile(args []string, try func(args [][]byte, own string) []byte) int {
	probing = func(f frame, own string, _ []string) []byte { return try(f.args, own) }
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
func RefusedCalls(writes bool) []uint32 {
	if writes {
		return refused
	}
	return append(append([]uint32{}, refused...), refusedWriting...)
}

// FilterCalls puts this process under that filter.
func FilterCalls(writes bool, errno syscall.Errno) error { return filterCalls(writes, errno) }

// CacheDir is the directory of the pool's cache.
func (p *Pool) CacheDir() string { return p.cache.dir }

// CodeOf is the path of a module's code in the cache.
func (p *Pool) CodeOf(digest string) (string, error) {
	dir := p.cache.dir + "/" + entry(digest)
	code, err := findCode(dir)
	return dir + "/" + code, err
}
