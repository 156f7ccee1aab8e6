package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/plugins/sandbox"
)

// Further things that this test binary can be: a child that tries all it can
// to get out, one that fills its room, a process that is under the filter
// alone, and a child on a kernel that knows neither filters nor Landlock.
func init() {
	switch {
	case len(os.Args) > 2 && os.Args[1] == "sandbox-hostile":
		os.Exit(sandbox.Hostile(os.Args[2:], getOut))
	case len(os.Args) > 2 && fills[os.Args[1]] != nil:
		os.Exit(sandbox.Fills(os.Args[2:], fills[os.Args[1]]))
	case len(os.Args) > 2 && os.Args[1] == "sandbox-filter":
		os.Exit(tryCalls(os.Args[2] == "compile"))
	case len(os.Args) > 2 && os.Args[1] == "sandbox-imageless":
		if err := asOldKernel(unix.SYS_MEMFD_CREATE); err != nil {
			panic(err)
		}
		os.Exit(sandbox.Main(context.Background(), os.Args[2:]))
	case len(os.Args) > 2 && os.Args[1] == "sandbox-bare":
		if err := asOldKernel(unix.SYS_SECCOMP, unix.SYS_LANDLOCK_CREATE_RULESET); err != nil {
			panic(err)
		}
		os.Exit(sandbox.Main(context.Background(), os.Args[2:]))
	}
}

// kernel says what measures this kernel has, as it says itself.
type kernel struct{ filters, landlock bool }

func askKernel(t *testing.T) kernel {
	t.Helper()
	_, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	k := kernel{err == nil, errno == 0}
	t.Logf("the kernel has filters: %v (%v); Landlock: %v (version %d, %v); root: %v", k.filters, err, k.landlock, int(abi), errno, os.Geteuid() == 0)
	return k
}

// Each attempt of getOut, in its order.
var attempts = []string{"read key ring", "read server's memory", "write cache", "overwrite code", "remove code", "connect", "exec", "fork", "kill", "ptrace", "peek", "share memory", "share semaphores", "send messages", "open a queue", "slow the server"}

// getOut runs in a child. Its arguments are the cache, the key ring, code in the
// cache and the port of a listener.
func getOut(args [][]byte, own string) []byte {
	cacheDir, ring, code, port := string(args[0]), string(args[1]), string(args[2]), string(args[3])
	parent := os.Getppid()
	var lines []string
	tried := func(err error) {
		word := "no "
		if err == nil {
			word = "can "
		}
		lines = append(lines, word+attempts[len(lines)])
	}
	_, err := os.ReadFile(ring)
	tried(err)
	_, err = os.ReadFile(fmt.Sprintf("/proc/%d/environ", parent))
	tried(err)
	err = os.WriteFile(filepath.Join(cacheDir, "planted"), nil, 0o644)
	if own != "" && err != nil {
		err = os.WriteFile(filepath.Join(own, "planted"), nil, 0o644)
	}
	tried(err)
	// By its name at the parent and, where the cache is the root, by its name there.
	inside := filepath.Join(own, strings.TrimPrefix(code, cacheDir))
	_, err = os.OpenFile(code, os.O_RDWR, 0)
	if err != nil {
		_, err = os.OpenFile(inside, os.O_RDWR, 0)
	}
	tried(err)
	if err = os.Remove(code); err != nil {
		err = os.Remove(inside)
	}
	tried(err)
	number, _ := strconv.Atoi(port)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: number, Addr: [4]byte{127, 0, 0, 1}})
	}
	tried(err)
	tried(unix.Exec("/proc/self/exe", []string{"x", "-test.run=^$"}, nil))
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno == 0 && pid == 0 {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	tried(asError(errno))
	tried(unix.Kill(parent, unix.SIGKILL))
	_, _, errno = unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(parent), 0, 0, 0, 0)
	tried(asError(errno))
	here := make([]byte, 8)
	address := uintptr(unsafe.Pointer(&parent))
	_, err = unix.ProcessVMReadv(parent, []unix.Iovec{{Base: &here[0], Len: 8}}, []unix.RemoteIovec{{Base: address, Len: 8}}, 0)
	if errors.Is(err, unix.EFAULT) { // it was let in, and nothing was there
		err = nil
	}
	tried(err)
	for _, call := range [][4]uintptr{
		{unix.SYS_SHMGET, 4711, 4096, unix.IPC_CREAT | 0o600}, {unix.SYS_SEMGET, 4711, 1, unix.IPC_CREAT | 0o600}, {unix.SYS_MSGGET, 4711, unix.IPC_CREAT | 0o600, 0},
		{unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(queueName)), unix.O_CREAT | unix.O_RDWR, 0o600}, {unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, uintptr(parent), 19},
	} {
		_, _, errno := unix.Syscall6(call[0], call[1], call[2], call[3], 0, 0, 0)
		tried(asError(errno))
	}
	return []byte(strings.Join(lines, "\n"))
}

var queueName, _ = unix.BytePtrFromString("doorward-test")

func asError(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// Two real children, each of which tries what a guest that took it over would.
func TestAChildThatIsTakenOverGetsNowhere(t *testing.T) {
	k := askKernel(t)
	if !k.filters {
		t.Skip("without filters the kernel refuses none of it, and this test would be killed by its child")
	}
	if !k.landlock && os.Geteuid() != 0 {
		t.Skip("without Landlock a child of who is not root may read what its user may; the start line says so")
	}
	p := newPool(t, sandbox.Config{Workers: 1, Command: []string{"/proc/self/exe", "sandbox-hostile"}})
	callFor(t, p, "a", guesttest.Accepts("alice").Module())
	code, err := p.CodeOf(digestOf(guesttest.Accepts("alice").Module()))
	if err != nil {
		t.Fatal(err)
	}
	ring := filepath.Join(t.TempDir(), "keyring")
	if err := os.WriteFile(ring, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var connections atomic.Int32
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			c.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	for _, part := range []string{"worker", "compile"} {
		b, err := p.Ask(t.Context(), part, p.CacheDir(), ring, code, port)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(b.Refused, attempts) || len(b.Open) > 0 {
			t.Errorf("%s as user %d: refused %q, open %q; off: %q", part, b.User, b.Refused, b.Open, b.Off)
		}
		if wantUser := 0; os.Geteuid() == 0 && b.User == wantUser {
			t.Errorf("%s runs as root: %q", part, b.Off)
		}
	}
	listener.Close()
	if <-accepted; connections.Load() != 0 {
		t.Errorf("%d connections were made", connections.Load())
	}
	if _, err := os.Stat(code); err != nil {
		t.Errorf("the code is gone: %v", err)
	}
}

// The same by a user that owns the key ring, as servers that are not root do.
func TestAChildOfAnOrdinaryUserGetsNowhere(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this is an ordinary user: TestAChildThatIsTakenOverGetsNowhere has shown it")
	}
	const user = 61234
	dir, err := os.MkdirTemp("", "ordinary-") // of TempDir, parts belong to root alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, user, user); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^(TestAChildThatIsTakenOverGetsNowhere|TestAGuestAnswers|TestConfinementSaysWhatIsInForce|TestACompileChildCannotFillTheDisk|TestAKernelWithoutMeasuresIsTold)$", "-test.v")
	c.Env = []string{"TMPDIR=" + dir, "HOME=" + dir}
	c.Dir = dir
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}, Pdeathsig: syscall.SIGKILL}
	out, err := c.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestAGuestAnswers")) || !bytes.Contains(out, []byte("root: false")) {
		t.Fatalf("as user %d: %v", user, err)
	}
}

// What is refused is what real children tried and were refused.
func TestConfinementSaysWhatIsInForce(t *testing.T) {
	k := askKernel(t)
	ring := filepath.Join(t.TempDir(), "keyring")
	if err := os.WriteFile(ring, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newPool(t, sandbox.Config{Workers: 1, Secrets: []string{ring, ring + "-that-is-not-there"}})
	bounds, err := p.Confinement(t.Context())
	if err != nil || len(bounds) != 2 || len(p.Bounds()) != 2 {
		t.Fatalf("Confinement = %+v, %v; then %+v", bounds, err, p.Bounds())
	}
	for _, b := range bounds {
		t.Logf("%+v", b)
		if all := len(b.Refused) + len(b.Open); all != len(sandbox.Tried) {
			t.Errorf("%s tried %d things, not %d", b.Part, all, len(sandbox.Tried))
		}
		if k.filters && k.landlock && !slices.Equal(b.Refused, sandbox.Tried) {
			t.Errorf("%s: refused %q; open %q; off %q", b.Part, b.Refused, b.Open, b.Off)
		}
		off := strings.Join(b.Off, "\n")
		for measure, there := range map[string]bool{"calls:": k.filters, "files:": k.landlock, "user:": os.Geteuid() == 0} {
			if strings.Contains(off, measure) == there {
				t.Errorf("%s: off are %q, and %s there: %v", b.Part, b.Off, measure, there)
			}
		}
	}
}

// asOldKernel has this process's kernel not know some calls, once it has taken a
// filter for that.
func asOldKernel(calls ...uint32) error {
	statement := func(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }
	program := []unix.SockFilter{statement(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0)}
	for _, call := range calls {
		program = append(program,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
			statement(unix.BPF_RET, unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)))
	}
	program = append(program, statement(unix.BPF_RET, unix.SECCOMP_RET_ALLOW))
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	p := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&p))); errno != 0 {
		return errno
	}
	return nil
}

// On such a kernel verifiers run all the same, what is open is told, and why. As
// root the files are closed even there.
func TestAKernelWithoutMeasuresIsTold(t *testing.T) {
	if k := askKernel(t); !k.filters {
		t.Skip("this kernel has no filters: TestConfinementSaysWhatIsInForce has shown it")
	}
	ring := filepath.Join(t.TempDir(), "keyring")
	if err := os.WriteFile(ring, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newPool(t, sandbox.Config{Workers: 1, Secrets: []string{ring}, Command: []string{"/proc/self/exe", "sandbox-bare"}})
	bounds, err := p.Confinement(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := sandbox.Tried
	if os.Geteuid() == 0 {
		want = []string{"socket", "exec", "ptrace", "fork", "ipc"} // ptrace may be called, of other users' processes in vain
	}
	for _, b := range bounds {
		off := strings.Join(b.Off, "\n")
		if !slices.Equal(b.Open, want) || !strings.Contains(off, "calls: filter system calls: function not implemented") || !strings.Contains(off, "files: this kernel has no Landlock") {
			t.Errorf("%s: open %q, want %q; off %q", b.Part, b.Open, want, b.Off)
		}
	}
	if r, err := p.Call(t.Context(), callFor(t, p, "a", guesttest.Accepts("alice").Module())); err != nil || !strings.Contains(string(r.Output), "alice") {
		t.Fatalf("Call = %s, %v", r.Output, err)
	}
}

// Logins are only slower then, and nobody knew why.
func TestAKernelWithoutImagesIsTold(t *testing.T) {
	if k := askKernel(t); !k.filters {
		t.Skip("without filters this kernel cannot be made one that has no files in memory")
	}
	for command, want := range map[string]string{"sandbox": "", "sandbox-imageless": "make a file in memory: function not implemented"} {
		p := newPool(t, sandbox.Config{Workers: 1, Command: []string{"/proc/self/exe", command}})
		bounds, err := p.Confinement(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if bounds[0].Slow != want || bounds[1].Slow != "" || bounds[1].Part != "compile" {
			t.Errorf("%s: %+v", command, bounds)
		}
		for range 3 {
			if r, err := p.Call(t.Context(), callFor(t, p, "a", guesttest.Remembers().Module())); err != nil || !strings.Contains(string(r.Output), "first") {
				t.Fatalf("%s: %s, %v", command, r.Output, err)
			}
		}
	}
}

// refusedCall is the answer of the filter in tryCalls: none of the kernel's own.
const refusedCall = unix.EXFULL

// tryCalls runs under the filter, in a process of its own. It prints each call
// that should be refused and was not, and what should not be and was.
func tryCalls(writes bool) int {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		fmt.Println(err)
		return 2
	}
	if err := sandbox.FilterCalls(writes, refusedCall); err != nil {
		fmt.Println(err)
		return 2
	}
	const bad = ^uintptr(0) // of no call a valid argument, where it were let through
	tried := 0
	try := func(name string, want syscall.Errno, call uintptr, args ...uintptr) {
		var a [6]uintptr
		copy(a[:], args)
		result, _, errno := unix.RawSyscall6(call, a[0], a[1], a[2], a[3], a[4], a[5])
		if errno == 0 && result == 0 && want != 0 && (call == unix.SYS_CLONE || slices.Contains(forks, call)) {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		tried++
		if errno != want {
			fmt.Printf("%s: %v, want %v\n", name, errno, want)
		}
	}
	for _, call := range sandbox.RefusedCalls(writes) {
		try(fmt.Sprintf("call %d", call), refusedCall, uintptr(call), bad, bad, bad, bad, bad, bad)
	}
	try("clone of a process", refusedCall, unix.SYS_CLONE, uintptr(unix.SIGCHLD))
	try("clone3", unix.ENOSYS, unix.SYS_CLONE3, 0, 0)
	try("a signal to another process", refusedCall, unix.SYS_TGKILL, uintptr(os.Getppid()), uintptr(os.Getppid()), 0)
	try("a signal to itself", 0, unix.SYS_TGKILL, uintptr(os.Getpid()), uintptr(unix.Gettid()), 0)
	path, _ := unix.BytePtrFromString("/nonexistent/file")
	open := func(flags uintptr) []uintptr {
		at := unix.AT_FDCWD
		return []uintptr{uintptr(at), uintptr(unsafe.Pointer(path)), flags, 0o600}
	}
	writing := refusedCall
	if writes {
		writing = unix.ENOENT
	}
	for _, flags := range []uintptr{unix.O_WRONLY, unix.O_RDWR, unix.O_RDONLY | unix.O_CREAT, unix.O_RDONLY | unix.O_TRUNC} {
		try(fmt.Sprintf("open with flags %#x", flags), writing, unix.SYS_OPENAT, open(flags)...)
	}
	try("open of a file without a name", refusedCall, unix.SYS_OPENAT, open(unix.O_TMPFILE|unix.O_RDWR)...)
	if writes {
		for _, call := range sandbox.UndoneCalls() {
			try(fmt.Sprintf("call %d", call), 0, uintptr(call), bad, bad, bad, bad, bad)
		}
	}
	try("open for reading", unix.ENOENT, unix.SYS_OPENAT, open(unix.O_RDONLY)...)
	try("the x32 call of the same number", refusedCall, 0x40000000|unix.SYS_GETPID)
	fmt.Printf("tried %d\n", tried)
	return 0
}

func TestTheFilterRefusesEachCallOfItsList(t *testing.T) {
	if k := askKernel(t); !k.filters {
		t.Skip("this kernel has no filters")
	}
	for _, part := range []string{"worker", "compile"} {
		list := sandbox.RefusedCalls(part == "compile")
		for _, call := range []uint32{
			unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_SOCKET, unix.SYS_SOCKETPAIR, unix.SYS_CONNECT, unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV,
			unix.SYS_KILL, unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_GETFD, unix.SYS_IO_URING_SETUP, unix.SYS_BPF, unix.SYS_UNSHARE, unix.SYS_SETNS,
			unix.SYS_MOUNT, unix.SYS_CHROOT, unix.SYS_SETUID, unix.SYS_PRLIMIT64, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_KEYCTL, unix.SYS_USERFAULTFD,
			unix.SYS_SHMGET, unix.SYS_SHMAT, unix.SYS_SHMCTL, unix.SYS_SEMGET, unix.SYS_SEMOP, unix.SYS_SEMCTL, unix.SYS_SEMTIMEDOP, unix.SYS_MSGGET, unix.SYS_MSGSND, unix.SYS_MSGRCV,
			unix.SYS_MSGCTL, unix.SYS_MQ_OPEN, unix.SYS_MQ_UNLINK, unix.SYS_SENDMSG, unix.SYS_RECVMSG, unix.SYS_SETPRIORITY, unix.SYS_UNLINKAT, unix.SYS_FALLOCATE,
		} {
			if !slices.Contains(list, call) {
				t.Errorf("%s: call %d is not in the list", part, call)
			}
		}
		more := 11
		if part == "compile" {
			more += len(sandbox.UndoneCalls())
		}
		if slices.Contains(list, unix.SYS_MEMFD_CREATE) != (part == "compile") { // workers keep images in such files
			t.Errorf("%s: memfd_create", part)
		}
		out, err := exec.CommandContext(t.Context(), "/proc/self/exe", "sandbox-filter", part).CombinedOutput()
		if want := fmt.Sprintf("tried %d\n", len(list)+more); err != nil || string(out) != want {
			t.Errorf("%s: %v; want %q, got\n%s", part, err, want, out)
		}
	}
}

// How a compile child that was taken over could fill the disk, each to an end that
// is more than it may, for when nobody ends it.
var fills = map[string]func(room string){
	// Files that have lost their names would be there, and not be seen.
	"sandbox-fills-hidden": func(room string) {
		large := make([]byte, 64<<20)
		for n := range 16 { // 1 GiB
			name := filepath.Join(room, strconv.Itoa(n))
			if f, err := os.OpenFile(room, unix.O_TMPFILE|unix.O_RDWR, 0o600); err == nil {
				f.Write(large)
				keep(f)
			}
			f, err := os.Create(name)
			if err != nil {
				continue
			}
			f.Write(large)
			os.Rename(name, filepath.Join(room, "one"))
			os.Remove(name)
			os.Remove(filepath.Join(room, "one"))
			keep(f)
		}
	},
	"sandbox-fills-small": func(room string) {
		for n := range 100_000 {
			if f, err := os.Create(filepath.Join(room, strconv.Itoa(n))); err == nil {
				f.Close()
			}
		}
	},
	"sandbox-fills-deep": func(room string) {
		unix.Chdir(room)
		for range 100_000 {
			if unix.Mkdir("d", 0o700) != nil || unix.Chdir("d") != nil {
				unix.Chdir(room)
				return
			}
		}
	},
	"sandbox-fills-closed": func(room string) { // which would be left there by a server that is not root
		unix.Mkdir(filepath.Join(room, "d"), 0o700)
		unix.Mkdir(filepath.Join(room, "d", "d"), 0o700)
		unix.Umask(0o777)
		unix.Mkdir(filepath.Join(room, "d", "e"), 0o700)
		unix.Mkdir(filepath.Join(room, "e"), 0o700)
	},
}

var kept []*os.File // or they would be closed as garbage

func keep(f *os.File) { kept = append(kept, f) }

// A limit on the size of a file is none on files.
func TestACompileChildCannotFillTheDisk(t *testing.T) {
	if k := askKernel(t); !k.filters {
		t.Skip("without filters files may be there that have no name")
	}
	for way := range fills {
		t.Run(strings.TrimPrefix(way, "sandbox-fills-"), func(t *testing.T) {
			p := newPool(t, sandbox.Config{Workers: 1, Command: []string{"/proc/self/exe", way}})
			module := guesttest.Accepts("alice").Module()
			_, err := p.Compile(t.Context(), "a", digestOf(module), module)
			t.Log(err)
			if way == "sandbox-fills-closed" {
				if err == nil {
					t.Error("there is code of it")
				}
			} else if !errors.Is(err, sandbox.ErrModule) || !strings.Contains(err.Error(), "more than one file of at most 256 MiB") {
				t.Errorf("Compile: %v", err)
			} else {
				var sofar int
				_, text, _ := strings.Cut(err.Error(), "(")
				if _, err := fmt.Sscan(text, &sofar); err != nil || sofar > 512 {
					t.Errorf("it was ended at %d MiB, %v", sofar, err)
				}
			}
			if left, err := os.ReadDir(p.CacheDir()); err != nil || len(left) != 0 {
				t.Errorf("left are %v, %v", left, err)
			}
		})
	}
}

// A pool finds code that is gone, spoilt or unreadable when a worker is to load
// it, and compiles again.
func TestCodeThatIsGoneOrSpoiltIsCompiledAgain(t *testing.T) {
	for name, spoil := range map[string]func(code string) error{
		"removed":   os.Remove,
		"cut short": func(code string) error { return os.Truncate(code, 100) },
		"emptied":   func(code string) error { return os.Truncate(code, 0) },
		"of another engine": func(code string) error {
			text, err := os.ReadFile(code)
			if err != nil {
				return err
			}
			copy(text, "WAZEVX")
			return os.WriteFile(code, text, 0o600)
		},
		"unreadable":        func(code string) error { return errors.Join(os.Chown(code, 0, 0), os.Chmod(code, 0)) },
		"all of it removed": func(code string) error { return os.RemoveAll(filepath.Dir(filepath.Dir(code))) },
		"under another name": func(code string) error {
			return os.Rename(code, filepath.Join(filepath.Dir(code), strings.Repeat("0", 64)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			module := guesttest.Accepts("alice").Module()
			p := newPool(t, sandbox.Config{Workers: 1, MaxWorkers: 1})
			c := callFor(t, p, "a", module)
			code, err := p.CodeOf(c.Digest)
			if err != nil {
				t.Fatal(err)
			}
			if err := spoil(code); err != nil {
				if os.Geteuid() != 0 && errors.Is(err, os.ErrPermission) {
					t.Skipf("only root can have such a file: %v", err)
				}
				t.Fatal(err)
			}
			if r, err := p.Call(t.Context(), c); !errors.Is(err, sandbox.ErrPending) {
				t.Fatalf("Call = %s, %v", r.Output, err)
			}
			if err := p.Prepare(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if r, err := p.Call(t.Context(), c); err != nil || !strings.Contains(string(r.Output), "alice") {
				t.Fatalf("Call = %s, %v", r.Output, err)
			}
			if again, err := p.CodeOf(c.Digest); err != nil || again != code {
				t.Fatalf("its code is at %s, %v; want %s", again, err, code)
			}
		})
	}
}
