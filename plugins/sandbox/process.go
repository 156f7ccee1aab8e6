package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/sdk/abi"
)

// process is a child as its parent sees it. One goroutine uses it at a time.
type process struct {
	cmd    *exec.Cmd
	conn   net.Conn
	said   *head // what it printed before it died
	gone   chan struct{}
	loaded []string // keys of the modules that it has, the least lately called first, as it keeps them
	dead   bool
	cache  *cache
}

// spawn asks Run's thread for a child.
type spawn struct {
	part string
	dir  string // the only one that it is to know
	done chan started
}

type started struct {
	child *process
	err   error
}

func (p *Pool) spawn(ctx context.Context, part, dir string) (*process, error) {
	s := spawn{part, dir, make(chan started, 1)}
	select {
	case p.spawns <- s:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
	case <-p.stopped:
		return nil, fmt.Errorf("%w: shutting down", ErrBusy)
	}
	out := <-s.done
	if out.err != nil {
		return nil, fmt.Errorf("%w: start sandbox: %w", ErrBusy, out.err)
	}
	return out.child, nil
}

// start starts a child that dies with this process, and reaps it. Only Run's
// thread calls it.
func (p *Pool) start(children context.Context, reaping *sync.WaitGroup, part, dir string) (*process, error) {
	p.mu.Lock()
	cutoff := p.cutoff
	p.mu.Unlock()
	child, err := p.launch(children, part, dir, cutoff)
	if err != nil && cutoff != 0 && isRefusal(err) {
		// This kernel, or who runs us, lets us make no network without a way out.
		// A filter still keeps children from making sockets.
		p.mu.Lock()
		p.cutoff, p.noNet = 0, err
		p.mu.Unlock()
		child, err = p.launch(children, part, dir, 0)
	}
	if err != nil {
		return nil, err
	}
	reaping.Add(1)
	go func() {
		defer reaping.Done()
		child.cmd.Wait() // how it ended is told by who was using it, who may still read its last frame
		close(child.gone)
		p.cache.gone(child)
	}()
	return child, nil
}

func (p *Pool) launch(children context.Context, part, dir string, cutoff uintptr) (*process, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	child := &process{conn: ours, said: &head{}, gone: make(chan struct{}), cache: p.cache}
	argv := append(slices.Clone(p.cfg.Command), part, dir, strconv.Itoa(p.uid))
	child.cmd = exec.CommandContext(children, argv[0], argv[1:]...)
	child.cmd.Env = []string{"GOMAXPROCS=2", "GOTRACEBACK=none"} // and nothing of ours
	child.cmd.ExtraFiles = []*os.File{theirs}
	child.cmd.Stderr = child.said
	child.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true, Cloneflags: cutoff}
	if err := child.cmd.Start(); err != nil {
		ours.Close()
		return nil, err
	}
	return child, nil
}

func socketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket: %w", err)
	}
	own := os.NewFile(uintptr(fds[0]), "sandbox")
	defer own.Close()
	theirs = os.NewFile(uintptr(fds[1]), "parent")
	if ours, err = net.FileConn(own); err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("make socket: %w", err)
	}
	return ours, theirs, nil
}

// kill ends the child now. It is reaped by who started it.
func (c *process) kill() {
	c.dead = true
	c.cmd.Process.Kill()
	c.conn.Close()
}

// compile has a compile child do its work.
func (c *process) compile(ctx context.Context, module []byte) error {
	until := time.Now().Add(compileTime)
	if d, ok := ctx.Deadline(); ok && d.Before(until) {
		until = d
	}
	c.conn.SetDeadline(until)
	err := frame{kindCompile, [][]byte{module}}.write(c.conn)
	var f frame
	if err == nil {
		f, err = readFrame(c.conn)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: it takes too long to compile", ErrModule)
	case err != nil:
		c.kill()
		return fmt.Errorf("%w: it takes more to compile than %d s of processor time and %d MiB of memory%s",
			ErrModule, compileCPU, compileMemory>>20, c.lastWords())
	case f.kind == kindFailed && len(f.args) == 1:
		return fmt.Errorf("%w: %s", ErrModule, f.args[0])
	case f.kind != kindOK:
		return fmt.Errorf("%w: the compiler spoke nonsense", ErrModule)
	}
	return nil
}

// lastWords is the reason that a dying Go process gives, "" when none.
func (c *process) lastWords() string {
	select {
	case <-c.gone:
	case <-time.After(time.Second):
	}
	for line := range strings.Lines(c.said.String()) {
		if reason, ok := strings.CutPrefix(line, "fatal error: "); ok {
			return " (" + strings.TrimSpace(reason) + ")"
		}
		if reason, ok := strings.CutPrefix(line, "runtime: out of memory"); ok {
			return " (out of memory" + strings.TrimSpace(reason) + ")"
		}
	}
	return ""
}

// errUnbegun: the worker died before the guest began, so that nothing was done.
var errUnbegun = fmt.Errorf("%w: its worker ended before it began", ErrGuest)

// errStale: a module's code is not in the cache as it should be.
var errStale = fmt.Errorf("%w: its compiled code cannot be read on this node", ErrBusy)

// How a guest took its worker with it.
var (
	errOverran = fmt.Errorf("%w: it ran longer than its wall limit", ErrGuest)
	errDied    = fmt.Errorf("%w: its worker ended", ErrGuest)
)

// missing is the rewritten module of a call when the child does not have it, and
// nil when it does.
func (c *process) missing(call Call) ([]byte, error) {
	if slices.Contains(c.loaded, call.key()) {
		return nil, nil
	}
	return c.cache.read(call.Digest)
}

// load gives the child a module that it does not have.
func (c *process) load(ctx context.Context, call Call, module []byte) error {
	key := call.key()
	until := time.Now().Add(loadTime)
	if d, ok := ctx.Deadline(); ok && d.Before(until) {
		until = d
	}
	c.conn.SetDeadline(until)
	c.cache.holds(c, append(c.digests(), call.Digest))
	err := frame{kindLoad, [][]byte{[]byte(key), number(int64(call.MemoryMiB)), module, []byte(entry(call.Digest))}}.write(c.conn)
	var f frame
	if err == nil {
		f, err = readFrame(c.conn)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.kill()
		return fmt.Errorf("%w: it takes too long to load", ErrGuest)
	}
	if err != nil {
		c.kill()
		return fmt.Errorf("%w%s", errUnbegun, c.lastWords())
	}
	switch f.kind {
	case kindOK:
	case kindStale:
		return errStale
	default:
		return fmt.Errorf("%w: %s", ErrGuest, text(f))
	}
	for len(c.loaded) >= maxLoaded {
		c.loaded = c.loaded[1:]
	}
	c.loaded = append(c.loaded, key)
	c.cache.holds(c, c.digests())
	return nil
}

// digests are those of the modules that the child has.
func (c *process) digests() []string {
	var list []string
	for _, key := range c.loaded {
		digest, _, _ := strings.Cut(key, "/")
		list = append(list, digest)
	}
	return list
}

func text(f frame) string {
	if len(f.args) == 0 {
		return ""
	}
	return string(f.args[0])
}

// call runs one call in the child. The child is dead afterwards when the guest
// overran its time or took its process with it.
func (c *process) call(ctx context.Context, cores *Tokens, call Call) (Result, error) {
	module, err := c.missing(call)
	if err != nil {
		return Result{}, err
	}
	// Loading takes a core as running does: where one tenant's guests kill their
	// workers, its loads must not crowd out the logins of others.
	waiting, enough := context.WithTimeout(ctx, call.Wall)
	defer enough()
	if err := cores.Take(waiting, call.Tenant); err != nil {
		return Result{}, fmt.Errorf("%w: no core came free in %v", ErrBusy, call.Wall)
	}
	held := true
	defer func() {
		if held {
			cores.Give(call.Tenant)
		}
	}()
	if module != nil {
		if err := c.load(ctx, call, module); err != nil {
			return Result{}, err
		}
	}
	began := time.Now()
	deadline := began.Add(call.Wall)
	// Once it runs, it runs to its end: a caller that hangs up must not cost a
	// worker, or anybody could have them all replaced by hanging up.
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	c.conn.SetDeadline(deadline.Add(killAfter))
	ask := frame{kindCall, [][]byte{[]byte(call.key()), []byte(call.Profile), number(call.clock(began).UnixMilli()), call.Input, number(call.fuel())}}
	if err := ask.write(c.conn); errors.Is(err, os.ErrDeadlineExceeded) {
		return Result{}, c.lost(err, call)
	} else if err != nil {
		c.kill()
		return Result{}, fmt.Errorf("%w%s", errUnbegun, c.lastWords())
	}
	c.loaded = append(slices.DeleteFunc(c.loaded, func(key string) bool { return key == call.key() }), call.key())
	for {
		f, err := readFrame(c.conn)
		if err != nil {
			return Result{}, c.lost(err, call)
		}
		switch {
		case f.kind == kindDone && len(f.args) == 5:
			return done(f)
		case f.kind == kindHost && len(f.args) >= 1:
			// While the host works for it, a guest holds no core.
			cores.Give(call.Tenant)
			held = false
			code, result := call.Host(ctx, string(f.args[0]), f.args[1:])
			if err := cores.Take(ctx, call.Tenant); err != nil {
				c.kill() // it would wait for an answer that comes too late
				return Result{}, fmt.Errorf("%w of %v", errOverran, call.Wall)
			}
			held = true
			answer := frame{kindReply, [][]byte{number(int64(code))}}
			if code >= 0 && result != nil {
				answer.args = append(answer.args, result)
			}
			if err := answer.write(c.conn); err != nil {
				return Result{}, c.lost(err, call)
			}
		default:
			c.kill()
			return Result{}, fmt.Errorf("%w: its worker spoke nonsense", ErrGuest)
		}
	}
}

// lost ends a child that does not answer any more, and says why it is lost.
func (c *process) lost(err error, call Call) error {
	c.kill()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w of %v", errOverran, call.Wall)
	}
	return fmt.Errorf("%w%s", errDied, c.lastWords())
}

// done reads what a run left.
func done(f frame) (Result, error) {
	if len(f.args[3]) > 8*abi.MaxLogBytes { // escaped, and escaped again as JSON, it is less
		return Result{}, fmt.Errorf("%w: its worker spoke nonsense", ErrGuest)
	}
	r := Result{Output: f.args[1], MemoryKiB: int(parseNumber(f.args[2])), Fuel: parseNumber(f.args[4])}
	if err := json.Unmarshal(f.args[3], &r.Logs); err != nil {
		return r, fmt.Errorf("%w: its worker spoke nonsense", ErrGuest)
	}
	if len(f.args[0]) > 0 {
		return r, fmt.Errorf("%w: %s", ErrGuest, f.args[0])
	}
	return r, nil
}

// head keeps the beginning of what is written to it.
type head struct {
	mu   sync.Mutex
	text []byte
}

func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text = append(h.text, p[:min(len(p), 4096-len(h.text))]...)
	return len(p), nil
}

func (h *head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return string(h.text)
}
