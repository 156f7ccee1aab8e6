package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Pauses after a compile failed, twice as long each time. A module is the same
// after its failure; what there was too little of may be there again.
const (
	refusedFirst = time.Minute
	refusedMost  = time.Hour
	missedFirst  = time.Second
	missedMost   = 30 * time.Second

	// usedLately is how long ago a module was of use at the longest that is not to
	// go for one that nobody asked for.
	usedLately = 24 * time.Hour

	// asked is how many modules are compiled or wait for it because a call found
	// them missing. Others are asked for by their next call: on a node with an empty
	// cache logins must not fill the queue that uploads wait in.
	asked = 4
)

// flight is a compile that several wait for.
type flight struct {
	tenant string // whose turn in the queue it takes
	done   chan struct{}
	err    error // of a flight that is done
}

// failures are what compiles on this node ended with, by whom it concerns: a module
// that is refused, everybody who has it; other trouble, the tenant whose turn it
// was. A restart forgets them, and so there are none of another engine.
type failures map[string]failure

// spoiltPrefix is before the digest of a module that was compiled again because its
// code was spoilt.
const spoiltPrefix = "spoilt/"

type failure struct {
	err   error
	times int // in a row
	until time.Time
}

// Ready reports whether a module is compiled on this node.
func (p *Pool) Ready(digest string) bool { return p.cache.has(digest) }

// Room reports whether one more module can be compiled that nobody waits for: that
// must not push out of the cache what is of use.
func (p *Pool) Room() bool {
	used, err := p.cache.used(time.Now().Add(-usedLately))
	return err == nil && used < p.cfg.CacheBytes/4*3
}

// used adds up what the entries take that were made, prepared or loaded since.
func (c *cache) used(since time.Time) (total int64, err error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), entrySuffix()) {
			continue // a compile's room
		}
		info, err := e.Info()
		if err != nil || info.ModTime().Before(since) {
			continue // gone, or soon the first to go
		}
		if size, err := sizeOf(filepath.Join(c.dir, e.Name())); err == nil {
			total += size
		}
	}
	return total, nil
}

// touch notes that an entry is of use.
func (c *cache) touch(digest string) {
	now := time.Now()
	os.Chtimes(filepath.Join(c.dir, entry(digest)), now, now) // it is only the order in which entries go
}

// Prepare sees to it that a module is compiled on this node. Where it is not, that
// takes a compile, once, whoever else asks meanwhile; a caller whose ctx ends does
// not wait for it (ErrBusy), and finds it done later. Of c it takes the tenant, the
// digest and Module. ErrModule and ErrQueueFull as for Compile, and Module's own
// errors; for a while after one of them the answer is the same without another
// try. ErrQuarantined when the tenant's module is not run here: it is not compiled
// for that either.
func (p *Pool) Prepare(ctx context.Context, c Call) error {
	for {
		if !p.flies(c.Digest) && p.cache.has(c.Digest) { // what is compiled again is of no use
			p.cache.touch(c.Digest)
			return nil
		}
		if quarantined, _ := p.breakers.until(c); !quarantined.IsZero() {
			return fmt.Errorf("%w, and not compiled on this node meanwhile", ErrQuarantined)
		}
		f, err := p.flight(ctx, c, false)
		if err != nil {
			return err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return fmt.Errorf("%w: the module is still being compiled on this node: %w", ErrBusy, ctx.Err())
		}
		// Another tenant's turn may have failed for reasons that are not this one's.
		if f.err == nil || f.tenant == c.Tenant || errors.Is(f.err, ErrModule) {
			return f.err
		}
	}
}

// flies reports whether a module is being compiled.
func (p *Pool) flies(digest string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.flights[digest] != nil
}

// ask has a module compiled that a call has found missing, unless many are already.
func (p *Pool) ask(ctx context.Context, c Call) {
	p.mu.Lock()
	many := len(p.flights) >= asked
	p.mu.Unlock()
	if !many {
		p.flight(ctx, c, false) // who fails is remembered, and who waits hears of it
	}
}

// compileAgain is for code that is not in the cache as it was: somebody removed or
// spoilt it, or the processor is another. A worker must not compile, and could
// not keep what it made.
func (p *Pool) compileAgain(ctx context.Context, c Call) { p.flight(ctx, c, true) }

// flight is the compile of a module that goes on, or one that begins now; or the
// error of one that failed a while ago. A spoilt module is dropped first.
func (p *Pool) flight(ctx context.Context, c Call, spoilt bool) (*flight, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.flights[c.Digest]; f != nil {
		return f, nil
	}
	now, keys := time.Now(), []string{c.Digest, recordOf(c)}
	if spoilt {
		keys = append(keys, spoiltPrefix+c.Digest)
	}
	for _, key := range keys {
		if f := p.fails[key]; f.until.After(now) {
			return nil, f.err
		}
	}
	f := &flight{tenant: c.Tenant, done: make(chan struct{})}
	p.flights[c.Digest] = f
	go p.fly(context.WithoutCancel(ctx), f, c, spoilt) // ends by its own deadline
	return f, nil
}

// fly compiles for those who wait.
func (p *Pool) fly(ctx context.Context, f *flight, c Call, spoilt bool) {
	ctx, cancel := context.WithTimeout(ctx, compileTime+loadTime)
	defer cancel()
	f.err = p.fetch(ctx, c, spoilt)
	p.mu.Lock()
	delete(p.flights, c.Digest)
	switch {
	case f.err == nil:
		delete(p.fails, c.Digest)
		delete(p.fails, recordOf(c))
	case errors.Is(f.err, ErrModule):
		p.fails.add(c.Digest, f.err, refusedFirst, refusedMost)
	default:
		p.fails.add(recordOf(c), f.err, missedFirst, missedMost)
	}
	if spoilt { // what is spoilt as soon as it is made is not made by each call
		p.fails.add(spoiltPrefix+c.Digest, errStale, missedFirst, missedMost)
	}
	p.mu.Unlock()
	close(f.done)
}

// fetch waits for a slot before it gets the module: those that wait hold nothing.
func (p *Pool) fetch(ctx context.Context, c Call, spoilt bool) error {
	if spoilt {
		p.cfg.Log.Info("compiling a verifier again: its code is not in the cache as it was", "tenant", c.Tenant, "digest", c.Digest)
		if err := p.cache.drop(c.Digest); err != nil {
			return fmt.Errorf("%w: remove spoilt code: %w", ErrBusy, err)
		}
	}
	if err := p.compiles.enter(ctx, c.Tenant); err != nil {
		return err
	}
	defer p.compiles.leave(c.Tenant)
	module, err := c.Module(ctx)
	if err != nil {
		return err
	}
	_, err = p.examine(ctx, c.Digest, module)
	return err
}

// add notes a failure, and how long nobody is to try again: first after one, twice
// as long after each more. The caller holds the pool's mu.
func (f failures) add(key string, err error, first, most time.Duration) {
	old, known := f[key]
	if !known && len(f) >= maxRecords {
		for other := range f { // any: forgotten, it costs one more try
			delete(f, other)
			break
		}
	}
	f[key] = failure{err, old.times + 1, time.Now().Add(min(first<<min(old.times, 10), most))}
}

// forgive forgets that a module could not be compiled for a tenant.
func (p *Pool) forgive(c Call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.fails, c.Digest)
	delete(p.fails, recordOf(c))
}

// refusedUntil is when a module that could not be compiled here is tried again; zero
// when it is not waited for.
func (p *Pool) refusedUntil(digest string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.fails[digest]; f.until.After(time.Now()) {
		return f.until
	}
	return time.Time{}
}
