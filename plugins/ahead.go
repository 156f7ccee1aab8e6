package plugins

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Waits of compiling ahead.
const (
	activationWait = 30 * time.Second       // of an activation, for every node to have compiled the version
	rollbackWait   = 500 * time.Millisecond // of a rollback, which has taken effect, to tell which nodes lack it
	watchAgain     = time.Second            // after the watch on the artifacts failed
	compileAgain   = 5 * time.Second        // after a compile failed that may work later; twice as long each time
	compileAtMost  = 5 * time.Minute
)

// Run has this node compile what may decide a login, before one comes: first
// what is active, the latest activation first, then what is staged, was active
// before or may have to answer a challenge; at the start and whenever another node
// stages or activates something. One compile runs at a time, so that an upload
// finds a free slot, and none for which others that are in use had to go from the
// cache. It ends with ctx, whose error it returns.
func (c *Catalog) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.follow(ctx) })
	group.Go(func() error { return c.compileAhead(ctx) })
	return group.Wait()
}

// Prepare returns when a version is compiled on this node: for a node that was
// asked by Nodes. ErrNotFound; ErrInvalid when this node cannot compile it, and
// will not do better soon; other errors may be gone a second later.
func (c *Catalog) Prepare(ctx context.Context, tenant string, number int) error {
	v, err := c.version(ctx, tenant, number)
	if err != nil {
		return err
	}
	if err := c.host.prepare(ctx, tenant, v, c.moduleOf(v)); err != nil {
		return fmt.Errorf("compile version %d on this node: %w", number, err)
	}
	return nil
}

// follow puts down what is to be compiled.
func (c *Catalog) follow(ctx context.Context) error {
	for {
		err := c.artifacts.Watch(ctx, func(tenant string, v Version) {
			if v.State != Active && (c.host.pool.Ready(v.Digest) || v.State == Retired && time.Since(v.RetiredAt) > keepRetired) {
				return
			}
			v.Manifest = nil // many wait, each with its own
			c.ahead.add(job{tenant: tenant, version: v})
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.cfg.Log.Warn("verifiers of other nodes are not seen for a moment; watching again", "err", err)
		if err := pause(ctx, watchAgain); err != nil {
			return err
		}
	}
}

// compileAhead compiles what was put down.
func (c *Catalog) compileAhead(ctx context.Context) error {
	full := false
	for {
		j, err := c.ahead.take(ctx)
		if err != nil {
			return err
		}
		lacked := !c.host.pool.Ready(j.version.Digest)
		if had := full; lacked {
			if full = !c.host.pool.Room(); full && !had {
				c.cfg.Log.Warn("the module cache is full of verifiers that are in use: others are compiled when they are activated or asked for, and until they are, the version before decides or nobody signs in; raise plugins.cache_bytes", "tenant", j.tenant, "version", j.version.Number)
			}
			if full {
				continue
			}
		}
		err = c.host.prepare(ctx, j.tenant, j.version, c.moduleOf(j.version))
		if err == nil && lacked {
			c.cfg.Log.Info("compiled a verifier ahead of its logins", "tenant", j.tenant, "version", j.version.Number, "digest", j.version.Digest)
		}
		if err == nil && j.version.State == Active {
			err = c.previous(ctx, j)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil, errors.Is(err, ErrNotFound): // deleted meanwhile
			continue
		case errors.Is(err, ErrInvalid), errors.Is(err, ErrVerifier):
			// A login, an ask or a restart tries again, when its time has come.
			c.cfg.Log.Error("a verifier cannot be compiled on this node, and decides nothing here: the version before it does, or nobody signs in", "tenant", j.tenant, "version", j.version.Number, "err", err)
			continue
		}
		wait := min(compileAgain<<min(j.failed, 10), compileAtMost)
		j.failed++
		c.cfg.Log.Warn("a verifier was not compiled ahead; trying again", "tenant", j.tenant, "version", j.version.Number, "err", err, "in", wait)
		time.AfterFunc(wait, func() { c.ahead.add(j) }) // others are not held up
	}
}

// previous puts down the version that a rollback would go back to.
func (c *Catalog) previous(ctx context.Context, j job) error {
	pointer, err := c.artifacts.Active(ctx, j.tenant)
	if err != nil || pointer.Previous == 0 {
		return err
	}
	v, err := c.artifacts.Version(ctx, j.tenant, pointer.Previous)
	if err != nil || c.host.pool.Ready(v.Digest) {
		return err
	}
	c.ahead.add(job{tenant: j.tenant, version: v})
	return nil
}

// before is the version that decides where active is not compiled yet: the one
// that was active before. Not where active is the older of the two: who goes
// back wants the newer one gone.
func (c *Catalog) before(ctx context.Context, tenant string, active Version) (Version, bool) {
	pointer, err := c.artifacts.Active(ctx, tenant)
	if err != nil || pointer.Active != active.Number || pointer.Previous == 0 || pointer.Previous > active.Number {
		return Version{}, false
	}
	v, err := c.artifacts.Version(ctx, tenant, pointer.Previous)
	return v, err == nil && c.host.pool.Ready(v.Digest)
}

// everywhere has every node compile a version, and tells which have not within
// wait.
func (c *Catalog) everywhere(ctx context.Context, tenant string, v Version, wait time.Duration) ([]string, error) {
	if c.cfg.Nodes == nil {
		return nil, nil
	}
	return c.cfg.Nodes.Ask(ctx, tenant, v, wait)
}

// job is a version to compile.
type job struct {
	tenant  string
	version Version
	failed  int // times
}

// place is what a job is for: one tenant's version, as active or not.
type place struct {
	tenant string
	number int
	active bool
}

func (j job) place() place { return place{j.tenant, j.version.Number, j.version.State == Active} }

// sooner orders jobs: active versions first, of them the latest activation, and
// otherwise the latest upload.
func (j job) sooner(k job) bool {
	if a, b := j.version.State == Active, k.version.State == Active; a != b {
		return a
	}
	if c := j.version.ActivatedAt.Compare(k.version.ActivatedAt); c != 0 && j.version.State == Active {
		return c > 0
	}
	return cmp.Or(j.version.CreatedAt.Compare(k.version.CreatedAt), cmp.Compare(j.version.Number, k.version.Number)) > 0
}

// jobs is a heap, the soonest on top.
type jobs []job

func (j jobs) Len() int           { return len(j) }
func (j jobs) Less(a, b int) bool { return j[a].sooner(j[b]) }
func (j jobs) Swap(a, b int)      { j[a], j[b] = j[b], j[a] }
func (j *jobs) Push(x any)        { *j = append(*j, x.(job)) }
func (j *jobs) Pop() any {
	last := len(*j) - 1
	out := (*j)[last]
	(*j)[last], *j = job{}, (*j)[:last]
	return out
}

// backlog is what is to be compiled. Safe for use by many goroutines.
type backlog struct {
	mu     sync.Mutex
	jobs   jobs
	queued map[place]bool
	more   chan struct{} // has room for one: there may be something to take
}

func newBacklog() *backlog {
	return &backlog{queued: map[place]bool{}, more: make(chan struct{}, 1)}
}

// add puts a version down, unless it stands there.
func (b *backlog) add(j job) {
	b.mu.Lock()
	if !b.queued[j.place()] {
		b.queued[j.place()] = true
		heap.Push(&b.jobs, j)
	}
	b.mu.Unlock()
	select {
	case b.more <- struct{}{}:
	default:
	}
}

// take waits for the next version to compile.
func (b *backlog) take(ctx context.Context) (job, error) {
	for {
		b.mu.Lock()
		if len(b.jobs) > 0 {
			j := heap.Pop(&b.jobs).(job)
			delete(b.queued, j.place())
			b.mu.Unlock()
			return j, nil
		}
		b.mu.Unlock()
		select {
		case <-b.more:
		case <-ctx.Done():
			return job{}, ctx.Err()
		}
	}
}

// pause waits, or returns ctx's error.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
