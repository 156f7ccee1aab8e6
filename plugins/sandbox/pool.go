package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/doorward/doorward/plugins/wasm"
	"github.com/doorward/doorward/sdk/abi"
)

// ErrPending: the module is not compiled on this node, or the code of it is spoilt.
// Nothing was run. That it be compiled has been asked for, unless that failed a
// moment ago, so that another call may find it done.
var ErrPending = errors.New("module not compiled on this node yet")

// Config tunes a Pool. Only CacheDir is required.
type Config struct {
	CacheDir   string       // private directory for compiled modules; made, and emptied of what is not of this engine
	CacheBytes int64        // what it may hold beside what is loaded now; 0: 1 GiB
	User       int          // number of the user and of the group that children run as where this process is root; 0: 65534
	Secrets    []string     // files that no child may read: Confinement has them try
	Command    []string     // what a child is; nil: this program with "sandbox"
	Workers    int          // kept warm; 0: two for each core
	MaxWorkers int          // at the most; 0: 32, and never fewer than Workers
	PerTenant  int          // workers of one tenant at once; 0: half of MaxWorkers
	Inside     int          // calls of one tenant that have a worker or are next to get one; 0: 32
	Isolate    bool         // a worker that one tenant has had is no other's
	Log        *slog.Logger // nil discards
}

// Waits of a Pool.
const (
	slotWait    = 250 * time.Millisecond // for a place and a worker, before a call is refused
	killAfter   = 50 * time.Millisecond  // past the wall limit
	compileTime = 90 * time.Second       // to compile one
	compiles    = 2                      // at once
	maxModule   = abi.MaxModule          // bytes; the catalog has its own limit below
)

// loadTime is for a worker to load a compiled module; tests shorten it.
var loadTime = 10 * time.Second

// Pool keeps workers and hands them calls. Safe for use by many goroutines.
// Nothing happens before Run.
type Pool struct {
	cfg      Config
	cache    *cache
	uid      int   // of children; 0: this process's own
	noUser   error // why it is that
	spawns   chan spawn
	stopped  chan struct{} // closed when Run ends
	compiles *queue
	cores    *Tokens // guests that run, not wait
	breakers *breakers
	respawn  respawn

	mu      sync.Mutex
	idle    []*process     // the least lately used first
	workers int            // idle, busy and being started
	calls   map[string]int // that have a worker, by tenant
	doors   map[string]*door
	freed   chan struct{} // closed, and replaced, when a worker or a share comes free
	flights map[string]*flight
	fails   failures
	cutoff  uintptr // clone flags that leave a child no network and no IPC with others
	noNet   error   // why there are none
	bounds  []Bound // as Confinement found last
}

// New returns a Pool. It makes the cache directory and starts nothing.
func New(cfg Config) (*Pool, error) {
	if cfg.CacheDir == "" {
		return nil, errors.New("sandbox: CacheDir is required")
	}
	if cfg.Command == nil {
		cfg.Command = []string{"/proc/self/exe", "sandbox"}
	}
	if cfg.Workers == 0 {
		cfg.Workers = 2 * runtime.NumCPU()
	}
	if cfg.MaxWorkers == 0 {
		cfg.MaxWorkers = 32
	}
	cfg.MaxWorkers = max(cfg.MaxWorkers, cfg.Workers)
	if cfg.PerTenant == 0 {
		cfg.PerTenant = max(1, cfg.MaxWorkers/2)
	}
	if cfg.Inside == 0 {
		cfg.Inside = 32
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = 1 << 30
	}
	if cfg.User == 0 {
		cfg.User = nobody
	}
	uid, noUser := childUser(cfg.User)
	cache, err := openCache(cfg.CacheDir, cfg.CacheBytes, uid, cfg.Log)
	if err != nil {
		return nil, err
	}
	return &Pool{
		cfg: cfg, cache: cache, uid: uid, noUser: noUser, cutoff: cutoffFlags(),
		spawns: make(chan spawn), stopped: make(chan struct{}),
		compiles: newQueue(compiles),
		breakers: newBreakers(),
		cores:    NewTokens(runtime.NumCPU()+1, runtime.NumCPU()),
		calls:    map[string]int{}, doors: map[string]*door{}, freed: make(chan struct{}),
		flights: map[string]*flight{}, fails: failures{},
	}, nil
}

// Run starts children and reaps them until ctx ends; then it kills those that
// are left and returns ctx's error.
func (p *Pool) Run(ctx context.Context) error {
	defer close(p.stopped)
	var reaping sync.WaitGroup
	children, kill := context.WithCancel(context.Background())
	defer reaping.Wait()
	defer kill()
	// A child dies with the thread that started it (Pdeathsig), so one thread
	// starts them all, and lives as long as Run does.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for range p.cfg.Workers {
		if err := p.first(children, &reaping); err != nil {
			return fmt.Errorf("start sandbox worker: %w", err)
		}
	}
	for {
		select {
		case s := <-p.spawns:
			child, err := p.start(children, &reaping, s.part, s.dir)
			s.done <- started{child, err}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// first starts one worker and puts it with the idle ones.
func (p *Pool) first(children context.Context, reaping *sync.WaitGroup) error {
	child, err := p.start(children, reaping, "worker", p.cache.dir)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.workers++
	p.idle = append(p.idle, child)
	return nil
}

// Compile reads a module, has it count what it does, and compiles that for the
// workers of this node, in a child of its own, if that has not been done. ErrModule when the fault is the
// module's; it wraps a *wasm.Error when the reader found it. At most two run at
// once, one of a tenant's; others wait their turn, as long as ctx lets them.
// ErrQueueFull when too many wait, ErrBusy when no child could be had or ctx ended
// while it worked. Reading and rewriting wait too: they take the server's own time.
func (p *Pool) Compile(ctx context.Context, tenant, digest string, module []byte) (Report, error) {
	if err := p.compiles.enter(ctx, tenant); err != nil {
		return Report{}, err
	}
	defer p.compiles.leave(tenant)
	report, err := p.examine(ctx, digest, module)
	if err == nil {
		p.forgive(Call{Tenant: tenant, Digest: digest})
	}
	return report, err
}

// examine is Compile for who has a slot.
func (p *Pool) examine(ctx context.Context, digest string, module []byte) (Report, error) {
	m, err := wasm.Read(module, wasm.Limits{ModuleBytes: maxModule})
	if err != nil {
		return Report{}, fmt.Errorf("%w: %w", ErrModule, err)
	}
	if _, err := p.cache.read(digest); err == nil {
		return reportOf(m), nil // it has been compiled for another version, or another tenant
	}
	if err := p.compile(ctx, digest, wasm.Rewrite(m)); err != nil {
		return Report{}, err
	}
	return reportOf(m), nil
}

// compile has a child compile a rewritten module, and installs what it made.
func (p *Pool) compile(ctx context.Context, digest string, rewritten []byte) error {
	room, err := p.cache.room()
	if err != nil {
		return err
	}
	defer p.cache.remove(room)
	child, err := p.spawn(ctx, "compile", room)
	if err != nil {
		return err
	}
	err = child.compile(ctx, rewritten)
	child.kill()
	<-child.gone // it writes no more
	if err != nil {
		return err
	}
	if err := p.cache.install(digest, rewritten, room); err != nil {
		return fmt.Errorf("install compiled module: %w", err)
	}
	return nil
}

// engineName is the version of wazero that is linked, and the architecture.
var engineName = sync.OnceValue(func() string {
	name := "wazero"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/tetratelabs/wazero" {
				name += "-" + m.Version
			}
		}
	}
	return name + "-" + runtime.GOARCH
})

// Call runs a module once. ErrPending, at once, when it is not compiled on this
// node: nothing is compiled while a login waits. ErrBusy when the tenant has no
// place, or no worker comes free, in 250 ms. ErrGuest when the guest gave no
// answer; then Result still has its log. The caller has its answer by the wall
// limit and a quarter of a second, not counting what it takes to load a module that
// this worker has not run yet.
func (p *Pool) Call(ctx context.Context, c Call) (Result, error) {
	began := time.Now()
	probe, err := p.breakers.allow(c)
	if err != nil {
		return Result{}, err
	}
	result, err := p.ready(ctx, c)
	result.Duration = time.Since(began)
	quarantined, opened := p.breakers.note(c, probe, endingOf(err))
	if quarantined {
		p.cfg.Log.Warn("verifier quarantined: it ended worker after worker", "tenant", c.Tenant, "digest", c.Digest, "for", quarantineTime)
	}
	if opened {
		p.cfg.Log.Warn("verifier not run for a while: it overran its wall limit again and again", "tenant", c.Tenant, "digest", c.Digest, "for", openTime)
	}
	return result, err
}

// ready runs a call whose module is compiled.
func (p *Pool) ready(ctx context.Context, c Call) (Result, error) {
	if !p.cache.has(c.Digest) {
		p.ask(ctx, c)
		return Result{}, ErrPending
	}
	result, err := p.once(ctx, c)
	if errors.Is(err, errUnbegun) {
		// It was dying already when this call got it. Nothing has been done for
		// the call yet, so another worker may do it; a module that kills its
		// worker even by being loaded gets no third.
		result, err = p.once(ctx, c)
	}
	if errors.Is(err, errStale) {
		p.compileAgain(ctx, c)
		return Result{}, ErrPending
	}
	return result, err
}

// endingOf tells how a call ended from its error.
func endingOf(err error) ending {
	switch {
	case errors.Is(err, errOverran):
		return overran
	case errors.Is(err, errDied), errors.Is(err, errUnbegun):
		return died
	case err == nil, errors.Is(err, ErrGuest):
		return endedWell
	}
	return endedNot
}

// Until tells how long a tenant's module is not run on this node: because it is
// quarantined, which it is too where it could not be compiled, or because its
// breaker is open. Zero times when it is run.
func (p *Pool) Until(tenant, digest string) (quarantined, open time.Time) {
	c := Call{Tenant: tenant, Digest: digest}
	quarantined, open = p.breakers.until(c)
	if failed := p.refusedUntil(digest); failed.After(quarantined) {
		quarantined = failed
	}
	return quarantined, open
}

// Lift lets a tenant's module that is quarantined on this node, or whose breaker
// is open, run again at once, and be compiled again where that failed.
func (p *Pool) Lift(tenant, digest string) {
	c := Call{Tenant: tenant, Digest: digest}
	p.breakers.lift(c)
	p.forgive(c)
}

// once runs a call in one worker.
func (p *Pool) once(ctx context.Context, c Call) (Result, error) {
	over := time.Now().Add(slotWait)
	leave, err := p.enter(ctx, c.Tenant, over)
	if err != nil {
		return Result{}, err
	}
	defer leave()
	child, err := p.take(ctx, c, over)
	if err != nil {
		return Result{}, err
	}
	defer p.give(c.Tenant, child)
	return child.call(ctx, p.cores, c)
}

// Warm has an idle worker load a module before the first login needs it, and the
// module compiled before that. It is only a kindness: what it cannot do, the first
// call does.
func (p *Pool) Warm(ctx context.Context, c Call) error {
	if err := p.Prepare(ctx, c); err != nil {
		return err
	}
	err := p.warm(ctx, c)
	if !errors.Is(err, errStale) {
		return err
	}
	p.compileAgain(ctx, c)
	if err := p.Prepare(ctx, c); err != nil {
		return err
	}
	return p.warm(ctx, c)
}

func (p *Pool) warm(ctx context.Context, c Call) error {
	child, err := p.take(ctx, c, time.Now().Add(slotWait))
	if err != nil {
		return err
	}
	defer p.give(c.Tenant, child)
	return child.warm(ctx, p.cores, c)
}

// door lets a tenant's calls in, in the order of their coming.
type door struct {
	places *semaphore.Weighted
	users  int // who are inside or wait
}

// enter waits until over for one of the tenant's places. Only who has one is
// woken when a worker comes free: without doors a flood of one tenant's calls
// woke all of it each time.
func (p *Pool) enter(ctx context.Context, tenant string, over time.Time) (leave func(), err error) {
	p.mu.Lock()
	d := p.doors[tenant]
	if d == nil {
		d = &door{places: semaphore.NewWeighted(int64(p.cfg.Inside))}
		p.doors[tenant] = d
	}
	d.users++
	p.mu.Unlock()
	gone := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if d.users--; d.users == 0 {
			delete(p.doors, tenant)
		}
	}
	waiting, cancel := context.WithDeadline(ctx, over)
	defer cancel()
	if err := d.places.Acquire(waiting, 1); err != nil {
		gone()
		return nil, fmt.Errorf("%w within %v: the tenant has %d logins at once already: %w", ErrBusy, slotWait, p.cfg.Inside, err)
	}
	return func() { d.places.Release(1); gone() }, nil
}

// take waits until over for a share of the tenant and a worker, one that has the
// module if there is one.
func (p *Pool) take(ctx context.Context, c Call, over time.Time) (*process, error) {
	deadline := time.NewTimer(time.Until(over))
	defer deadline.Stop()
	for {
		p.mu.Lock()
		freed := p.freed
		p.bury()
		if p.calls[c.Tenant] < p.cfg.PerTenant {
			if i := p.pick(c); i >= 0 {
				child := p.idle[i]
				p.idle = slices.Delete(p.idle, i, i+1)
				p.calls[c.Tenant]++
				p.mu.Unlock()
				return child, nil
			}
			if p.workers < p.cfg.MaxWorkers && p.respawn.left() <= 0 {
				p.workers++
				p.calls[c.Tenant]++
				p.mu.Unlock()
				return p.another(ctx, c.Tenant)
			}
			if len(p.idle) > 0 && p.respawn.left() <= 0 { // Isolate: all that are idle are others'
				foreign := p.idle[0]
				p.idle = p.idle[1:]
				p.calls[c.Tenant]++
				p.mu.Unlock()
				foreign.kill() // and in its place
				return p.another(ctx, c.Tenant)
			}
		}
		p.mu.Unlock()
		select {
		case <-freed:
		case <-deadline.C:
			if p.respawn.left() > 0 {
				return nil, errStillborn
			}
			return nil, fmt.Errorf("%w within %v", ErrBusy, slotWait)
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
		case <-p.stopped:
			return nil, fmt.Errorf("%w: shutting down", ErrBusy)
		}
	}
}

// pick chooses an idle worker, -1 when there is none: one that has the module if
// there is one, and the least lately used otherwise. The caller holds mu.
func (p *Pool) pick(c Call) int {
	key, best := c.key(), -1
	for i, child := range p.idle {
		if p.cfg.Isolate && child.tenant != "" && child.tenant != c.Tenant {
			continue
		}
		if slices.Contains(child.loaded, key) {
			return i
		}
		if best < 0 {
			best = i
		}
	}
	return best
}

// bury forgets idle workers that died, so that nobody's call pays for it. The
// caller holds mu.
func (p *Pool) bury() {
	p.idle = slices.DeleteFunc(p.idle, func(child *process) bool {
		select {
		case <-child.gone:
			child.conn.Close()
			p.workers--
			if len(child.loaded) == 0 {
				p.stillborn()
			}
			return true
		default:
			return false
		}
	})
}

var errStillborn = fmt.Errorf("%w: workers die at their start on this node; its log says more", ErrBusy)

// another starts one worker more for a call that has its share already.
func (p *Pool) another(ctx context.Context, tenant string) (*process, error) {
	var child *process
	err := errStillborn
	if p.respawn.left() <= 0 {
		if child, err = p.spawn(ctx, "worker", p.cache.dir); err == nil {
			return child, nil
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.workers--
	p.free(tenant)
	return nil, err
}

// give puts a worker back, or sees a dead one replaced.
func (p *Pool) give(tenant string, child *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !child.dead {
		if len(child.loaded) > 0 {
			p.respawn.worked()
		}
		p.idle = append(p.idle, child)
		p.free(tenant)
		return
	}
	if len(child.loaded) == 0 {
		p.stillborn()
	}
	p.workers--
	p.free(tenant)
	if p.workers < p.cfg.Workers {
		p.workers++
		go p.replace() // ends when the worker is there or the pool is not
	}
}

// replace starts a worker in the place of one that died.
func (p *Pool) replace() {
	var child *process
	err := p.pause()
	if err == nil {
		child, err = p.spawn(context.Background(), "worker", p.cache.dir)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.workers-- // the next call tries again
		return
	}
	p.idle = append(p.idle, child)
	p.wake()
}

// stillborn notes a worker that died before it had loaded anything.
func (p *Pool) stillborn() {
	pause := p.respawn.failed()
	if pause == 0 {
		return
	}
	p.cfg.Log.Warn("sandbox worker died before it did anything; no other is started for a while", "pause", pause)
}

// pause waits until workers may be started again. ErrBusy when the pool ends.
func (p *Pool) pause() error {
	for left := p.respawn.left(); left > 0; left = p.respawn.left() {
		select {
		case <-time.After(left):
		case <-p.stopped:
			return fmt.Errorf("%w: shutting down", ErrBusy)
		}
	}
	return nil
}

// free gives a tenant's share back. The caller holds mu.
func (p *Pool) free(tenant string) {
	if p.calls[tenant]--; p.calls[tenant] == 0 {
		delete(p.calls, tenant)
	}
	p.wake()
}

func (p *Pool) wake() {
	close(p.freed)
	p.freed = make(chan struct{})
}

// Stats tells how many workers there are, and how many of them wait for work.
func (p *Pool) Stats() (workers, idle int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.workers, len(p.idle)
}

// Counters is what a Pool did since it was made, and who waits now.
type Counters struct {
	Compiling   int   // modules that wait for a compile
	Refused     int64 // compiles turned away because too many waited
	Quarantines int64 // versions
	Opened      int64 // breakers
	Broken      int64 // calls refused by a quarantine or an open breaker
	Stillborn   int64 // workers that died before they had loaded anything
}

// Counters returns them as they are now.
func (p *Pool) Counters() Counters {
	c := Counters{Stillborn: p.respawn.count()}
	c.Compiling, c.Refused = p.compiles.counts()
	p.breakers.mu.Lock()
	defer p.breakers.mu.Unlock()
	c.Quarantines, c.Opened, c.Broken = p.breakers.quarantines, p.breakers.opened, p.breakers.refused
	return c
}

// key names a module as a worker has it loaded: a memory limit belongs to it.
func (c Call) key() string { return c.Digest + "/" + strconv.Itoa(c.MemoryMiB) }
