package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// probeTime bounds how long a worker may take to say what binds it.
const probeTime = 10 * time.Second

// probe has this process try what it must not be able to do, and returns a line
// for each: "no NAME" when it was refused, "can NAME" when not. What it asks for
// is harmless where it is granted.
func probe(cacheDir string) []string {
	var lines []string
	tried := func(name string, err error) {
		word := "can "
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			word = "no "
		}
		lines = append(lines, word+name)
	}
	path := filepath.Join(cacheDir, fmt.Sprintf("probe-%d", os.Getpid()))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		f.Close()
		os.Remove(path)
	}
	tried("write", err)
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
	return lines
}

// Confinement starts a worker, has it try what it must not be able to do, and
// returns what was refused and what was not, by name: write, socket, exec,
// signal, ptrace, fork. It needs Run. An error means that no worker answered.
func (p *Pool) Confinement(ctx context.Context) (refused, open []string, err error) {
	child, err := p.spawn(ctx, "worker")
	if err != nil {
		return nil, nil, err
	}
	defer child.kill()
	child.conn.SetDeadline(time.Now().Add(probeTime))
	var f frame
	if err = (frame{kind: kindProbe}).write(child.conn); err == nil {
		f, err = readFrame(child.conn)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("ask a sandbox worker what binds it: %w%s", err, child.lastWords())
	}
	for line := range strings.FieldsFuncSeq(text(f), func(r rune) bool { return r == '\n' }) {
		if name, ok := strings.CutPrefix(line, "no "); ok {
			refused = append(refused, name)
		} else if name, ok := strings.CutPrefix(line, "can "); ok {
			open = append(open, name)
		}
	}
	return refused, open, nil
}
