package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"
)

// Main is the child half: what "doorward sandbox worker CACHE UID" and "doorward
// sandbox compile ROOM UID" run. It reads frames on descriptor 3 until that
// closes, answers on 4, and returns the exit code. Nothing but a Pool starts it.
func Main(ctx context.Context, args []string) int {
	if len(args) != 3 {
		fmt.Fprintln(os.Stderr, "sandbox: this is started by doorward itself")
		return 2
	}
	parent, err := wireToParent()
	if err != nil {
		fmt.Fprintln(os.Stderr, "sandbox: this is started by doorward itself, with two sockets:", err)
		return 2
	}
	uid, err := strconv.Atoi(args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, "sandbox: this is started by doorward itself, with a user's number")
		return 2
	}
	b := bindings{dir: args[1], uid: uid}
	switch args[0] {
	case "worker":
		b.memory = workerMemory
		if err = b.confine(); err == nil {
			w := newWorker(b.dir, parent)
			w.unbound = b.unbound
			err = w.serve(ctx)
		}
	case "compile":
		b.memory, b.cpu, b.file = compileMemory, compileCPU, maxCompiled
		if err = b.confine(); err == nil {
			err = compile(ctx, b, parent)
		}
	default:
		err = fmt.Errorf("no such part: %s", args[0])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		return 1
	}
	return 0
}

// What a child may have beyond what this program takes at its start: a Go
// process reserves over a gigabyte of addresses that it never uses.
const (
	workerMemory  = 512 << 20
	compileMemory = 2 << 30
	compileCPU    = 60 // seconds
	childFiles    = 64
	childThreads  = 4096 // of all children together, where their user is their own
	niceness      = 5    // the server's own work goes first
)

// bindings are what binds a child.
type bindings struct {
	dir     string // the one directory that it knows; "/" once that is its root
	uid     int    // of the user and the group that it becomes; 0: it stays who it is
	memory  uint64 // bytes
	cpu     uint64 // seconds; 0: no limit
	file    uint64 // bytes that a file may be written to; 0: it writes none
	unbound []string
}

// confine takes from this process what it does not need. It cannot be undone.
// Where the kernel lacks a measure the child starts all the same, and keeps why
// in unbound: Confinement tells, and who must have it does not serve.
func (b *bindings) confine() error {
	size, err := addressSpace()
	if err != nil {
		return err
	}
	if err := b.limit(size); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up privileges: %w", err)
	}
	if err := b.closeFiles(); err != nil {
		b.unbound = append(b.unbound, "files: "+err.Error())
	}
	if b.uid != 0 { // after the files: /proc is still to be seen there
		parent := os.Getppid()
		if err := b.dropUser(); err != nil {
			return err
		}
		if err := endWith(parent); err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil { // no core, no ptrace: it holds passwords
		return fmt.Errorf("forbid dumps: %w", err)
	}
	debug.SetMemoryLimit(int64(b.memory) * 3 / 4)
	if err := filterCalls(b.file > 0, unix.EPERM); err != nil {
		b.unbound = append(b.unbound, "calls: "+err.Error())
	}
	return nil
}

func (b *bindings) limit(size uint64) error {
	type limit struct {
		of    int
		value uint64
	}
	limits := []limit{
		{unix.RLIMIT_AS, size + b.memory},
		{unix.RLIMIT_CORE, 0},
		{unix.RLIMIT_NOFILE, childFiles},
		{unix.RLIMIT_FSIZE, max(b.file, maxImage)}, // an image counts as a file, though it is on no disk
	}
	if b.cpu > 0 {
		limits = append(limits, limit{unix.RLIMIT_CPU, b.cpu})
	}
	if b.uid != 0 {
		// It counts a user's threads. Of a user with other processes, as the
		// server's own, it would count those too, and children would fail for them.
		limits = append(limits, limit{unix.RLIMIT_NPROC, childThreads})
	}
	for _, l := range limits {
		if err := unix.Setrlimit(l.of, &unix.Rlimit{Cur: l.value, Max: l.value}); err != nil {
			return fmt.Errorf("set limit %d: %w", l.of, err)
		}
	}
	syscall.Setpriority(syscall.PRIO_PROCESS, 0, niceness) // only politeness: refusal is no danger
	return nil
}

// endWith has the kernel end this child with its parent: it forgets that when a
// child changes its user.
func endWith(parent int) error {
	set := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: it holds as long as this thread is there
		set <- unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
		select {}
	}()
	if err := <-set; err != nil {
		return fmt.Errorf("end with the server: %w", err)
	}
	if os.Getppid() != parent {
		return errors.New("the server has ended")
	}
	return nil
}

// dropUser makes the child's directory its root, and the child a user that owns
// nothing. The parent has checked that it may.
func (b *bindings) dropUser() error {
	if err := unix.Chroot(b.dir); err != nil {
		return fmt.Errorf("shut itself into its directory: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("shut itself into its directory: %w", err)
	}
	b.dir = "/"
	// Of package syscall, which does it for all threads.
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("leave its groups: %w", err)
	}
	if err := syscall.Setresgid(b.uid, b.uid, b.uid); err != nil {
		return fmt.Errorf("become group %d: %w", b.uid, err)
	}
	if err := syscall.Setresuid(b.uid, b.uid, b.uid); err != nil {
		return fmt.Errorf("become user %d: %w", b.uid, err)
	}
	return nil
}

// closeFiles closes all files to the child but those below its directory, which
// a worker reads and a compile child writes. It binds whoever the child is.
func (b *bindings) closeFiles() error {
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION); errno != 0 {
		return fmt.Errorf("this kernel has no Landlock (Linux 5.13 has): %w", errno)
	}
	may := landlock.AccessFSSet(unix.LANDLOCK_ACCESS_FS_READ_FILE)
	if b.file > 0 {
		may |= unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
			unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE
	}
	// Best effort is about the last two rights that a kernel may not know yet.
	return landlock.V3.BestEffort().RestrictPaths(landlock.PathAccess(may, b.dir))
}

// addressSpace is the size of this process now, in bytes.
func addressSpace() (uint64, error) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, fmt.Errorf("read own size: %w", err)
	}
	first, _, _ := strings.Cut(string(text), " ")
	pages, err := strconv.ParseUint(first, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read own size: %w", err)
	}
	return pages * uint64(os.Getpagesize()), nil
}
