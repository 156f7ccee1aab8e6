package sandbox

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Main is the child half: what "doorward sandbox worker CACHE" and "doorward
// sandbox compile CACHE" run. It speaks frames on descriptor 3 until that
// closes, and returns the exit code. Nothing but a Pool starts it.
func Main(ctx context.Context, args []string) int {
	if len(args) != 2 {
		fmt.Fprintln(os.Stderr, "sandbox: this is started by doorward itself")
		return 2
	}
	socket := os.NewFile(3, "parent")
	if _, err := socket.Stat(); err != nil {
		fmt.Fprintln(os.Stderr, "sandbox: this is started by doorward itself, with a socket")
		return 2
	}
	var err error
	switch args[0] {
	case "worker":
		if err = confine(workerMemory, 0, false); err == nil {
			err = newWorker(args[1], socket).serve(ctx)
		}
	case "compile":
		if err = confine(compileMemory, compileCPU, true); err == nil {
			err = compile(ctx, args[1], socket)
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
	niceness      = 5 // the server's own work goes first
)

// confine takes from this process what it does not need. It cannot be undone.
// Where the kernel has no filters the child starts all the same: a probe tells.
func confine(memory, cpu uint64, writes bool) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up privileges: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil { // no core, no ptrace: it holds passwords
		return fmt.Errorf("forbid dumps: %w", err)
	}
	size, err := addressSpace()
	if err != nil {
		return err
	}
	limits := []struct {
		of    int
		value uint64
	}{
		{unix.RLIMIT_AS, size + memory},
		{unix.RLIMIT_CORE, 0},
		{unix.RLIMIT_NOFILE, childFiles},
	}
	if cpu > 0 {
		limits = append(limits, struct {
			of    int
			value uint64
		}{unix.RLIMIT_CPU, cpu})
	}
	for _, l := range limits {
		if err := unix.Setrlimit(l.of, &unix.Rlimit{Cur: l.value, Max: l.value}); err != nil {
			return fmt.Errorf("set limit %d: %w", l.of, err)
		}
	}
	syscall.Setpriority(syscall.PRIO_PROCESS, 0, niceness) // only politeness: refusal is no danger
	debug.SetMemoryLimit(int64(memory) * 3 / 4)
	filterCalls(writes) //nolint:errcheck // see above
	return nil
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
