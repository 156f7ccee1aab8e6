package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// nobody is the user that children run as where this process may choose. It is
// the usual number of one that owns nothing.
const nobody = 65534

// childUser says which user children can be made to run as, 0 and why for this
// process's own.
func childUser(uid int) (int, error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("the server is not root, who alone can choose another user")
	}
	var data [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("read own capabilities: %w", err)
	}
	var missing []string
	for _, c := range []struct {
		bit  int
		name string
	}{
		{unix.CAP_CHOWN, "CAP_CHOWN"}, {unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"}, {unix.CAP_FOWNER, "CAP_FOWNER"}, {unix.CAP_KILL, "CAP_KILL"},
		{unix.CAP_SETGID, "CAP_SETGID"}, {unix.CAP_SETUID, "CAP_SETUID"}, {unix.CAP_SYS_CHROOT, "CAP_SYS_CHROOT"},
	} {
		if data[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			missing = append(missing, c.name)
		}
	}
	if len(missing) > 0 {
		return 0, fmt.Errorf("the server is root without %s", strings.Join(missing, ", "))
	}
	return uid, nil
}

// cutoffFlags are those for which a child has a network of its own, with nothing
// in it, and shared memory, semaphores and messages of its own. Who is not root may
// ask for that in a user namespace of its own, where that is allowed.
func cutoffFlags() uintptr {
	if os.Geteuid() == 0 {
		return unix.CLONE_NEWNET | unix.CLONE_NEWIPC
	}
	return unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWIPC
}

// isRefusal reports whether a start failed for what was asked of the kernel.
func isRefusal(err error) bool {
	for _, errno := range []syscall.Errno{unix.EPERM, unix.EACCES, unix.EINVAL, unix.ENOSYS, unix.ENOSPC, unix.EUSERS} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// probeTime bounds how long a child may take to say what binds it.
const probeTime = 10 * time.Second

// Tried are what children are bound not to do, by the names that Bound uses: open
// for reading what is not theirs, write what others read, make sockets, run
// programs, signal and look into the server, start processes, and share memory,
// semaphores or messages with others of their user.
var Tried = []string{"read", "write", "socket", "exec", "signal", "ptrace", "fork", "ipc"}

// probing is what a child does when it is asked what binds it; tests have it try harder.
var probing = probe

// probe has this process try what it must not be able to do, and returns a line
// for each: "no NAME" when it was refused, "can NAME" when not; and "off TEXT"
// for each measure that is not in force; and "slow TEXT" where it can keep no
// images. What it asks for is harmless where it is
// granted. f names a directory that nothing may be written in, besides own ("" for
// none), and files that are there and may not be opened.
func probe(f frame, own string, unbound []string) []byte {
	var lines []string
	tried := func(name string, errs ...error) {
		word := "no "
		for _, err := range errs {
			if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
				word = "can "
			}
		}
		lines = append(lines, word+name)
	}
	// What is there for the parent, and not for this process, is closed to it.
	closed := func(err error) error {
		if errors.Is(err, unix.ENOENT) {
			return unix.EACCES
		}
		return err
	}
	dirs := []string{own}
	var reads []error
	for i, arg := range f.args {
		if i == 0 {
			dirs = append(dirs, string(arg))
			continue
		}
		file, err := os.Open(string(arg))
		if err == nil {
			file.Close()
		}
		reads = append(reads, closed(err))
	}
	tried("read", reads...)
	var writes []error
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		path := filepath.Join(dir, fmt.Sprintf("probe-%d", os.Getpid()))
		file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			file.Close()
			os.Remove(path)
		}
		if dir != own {
			err = closed(err)
		}
		writes = append(writes, err)
	}
	tried("write", writes...)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	tried("socket", err)
	tried("exec", unix.Exec("/nonexistent", []string{"x"}, nil))
	tried("signal", unix.Kill(os.Getppid(), 0))
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(os.Getppid()), 0, 0, 0, 0) // of what is not traced: ESRCH
	tried("ptrace", errno)
	_, _, errno = unix.Syscall6(unix.SYS_CLONE, unix.CLONE_SIGHAND, 0, 0, 0, 0, 0) // never valid without CLONE_VM: EINVAL
	tried("fork", errno)
	tried("ipc", ipc()...)
	for _, text := range unbound {
		lines = append(lines, "off "+text)
	}
	if own != "" {
		if err := tryImage(); err != nil {
			lines = append(lines, "slow "+err.Error())
		}
	}
	return []byte(strings.Join(lines, "\n"))
}

// tryImage makes an image of a page, and memory that an instance could have of it.
func tryImage() error {
	m := &image{}
	defer m.close()
	if err := m.seal(make([]byte, page)); err != nil {
		return err
	}
	memory, err := unix.Mmap(int(m.file.Fd()), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("give an instance the memory of an image: %w", err)
	}
	return unix.Munmap(memory)
}

// ipc asks for memory, semaphores and messages that are shared, such as there
// cannot be: without a size, by a name that nothing has, and without a name.
func ipc() []error {
	var errs []error
	for _, call := range [][4]uintptr{
		{unix.SYS_SHMGET, unix.IPC_PRIVATE, 0, 0}, {unix.SYS_SEMGET, unix.IPC_PRIVATE, 0, 0}, {unix.SYS_MSGGET, 1, 0, 0}, {unix.SYS_MQ_OPEN, 0, 0, 0},
	} {
		_, _, errno := unix.Syscall6(call[0], call[1], call[2], call[3], 0, 0, 0)
		errs = append(errs, errno)
	}
	return errs
}

// Bound is what binds the children of one kind, as one of them found.
type Bound struct {
	Part    string   // "worker" or "compile"
	User    int      // number of the user that it runs as; 0: the server's own, root or not
	Refused []string // of Tried
	Open    []string // of Tried: what it could have done
	Off     []string // measures that are not in force, and why
	Slow    string   // of workers: why each login gets an instance made anew, which costs more; "" where one can be set back
}

// Confinement starts a child of each kind, has it try what it must not be able to
// do, and returns what came of it. It needs Run. An error means that one did not
// answer.
func (p *Pool) Confinement(ctx context.Context) ([]Bound, error) {
	// Of a file that is not there nothing could be said.
	args := [][]byte{[]byte(p.cache.dir)}
	for _, path := range append(slices.Clone(p.cfg.Secrets), "/proc/self/exe") {
		path, err := filepath.EvalSymlinks(path)
		if err == nil {
			args = append(args, []byte(path))
		}
	}
	var bounds []Bound
	for _, part := range []string{"worker", "compile"} {
		b, err := p.confinementOf(ctx, part, args)
		if err != nil {
			return nil, err
		}
		bounds = append(bounds, b)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bounds = bounds
	return bounds, nil
}

func (p *Pool) confinementOf(ctx context.Context, part string, args [][]byte) (Bound, error) {
	dir := p.cache.dir
	if part == "compile" {
		room, err := p.cache.room()
		if err != nil {
			return Bound{}, err
		}
		defer p.cache.remove(room)
		dir = room
	}
	child, err := p.spawn(ctx, part, dir)
	if err != nil {
		return Bound{}, err
	}
	defer child.kill()
	child.conn.SetDeadline(time.Now().Add(probeTime))
	var f frame
	if err = (frame{kindProbe, args}).write(child.conn); err == nil {
		f, err = readFrame(child.conn)
	}
	if err != nil {
		return Bound{}, fmt.Errorf("ask a sandbox's %s child what binds it: %w%s", part, err, child.lastWords())
	}
	b := Bound{Part: part, User: p.uid}
	for line := range strings.FieldsFuncSeq(text(f), func(r rune) bool { return r == '\n' }) {
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "no":
			b.Refused = append(b.Refused, rest)
		case "can":
			b.Open = append(b.Open, rest)
		case "off":
			b.Off = append(b.Off, rest)
		case "slow":
			b.Slow = rest
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.noUser != nil {
		b.Off = append(b.Off, "user: "+p.noUser.Error())
	}
	if p.noNet != nil {
		b.Off = append(b.Off, "network, ipc: "+p.noNet.Error())
	}
	return b, nil
}

// Bounds is what Confinement found last, nil before.
func (p *Pool) Bounds() []Bound {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bounds
}
