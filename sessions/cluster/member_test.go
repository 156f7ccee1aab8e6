package cluster_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/sessions/cluster"
)

// The test binary run with a directory is a process that starts a member,
// writes, and waits to be killed.
func TestMain(m *testing.M) {
	dir := os.Getenv("MEMBER_DIR")
	if dir == "" {
		os.Exit(m.Run())
	}
	member, err := cluster.Start(context.Background(), cluster.Config{Dir: dir})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	if _, err := member.Client().Put(context.Background(), "written", "before the kill"); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("written")
	select {}
}

func start(t *testing.T, dir string) *cluster.Member {
	t.Helper()
	m, err := cluster.Start(t.Context(), cluster.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAMemberKeepsItsDataOverARestart(t *testing.T) {
	dir := t.TempDir()
	m := start(t, dir)
	if _, err := m.Client().Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	m = start(t, dir)
	defer m.Close()
	t.Logf("ready again after %v", time.Since(began))
	got, err := m.Client().Get(t.Context(), "k")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "v" {
		t.Fatalf("Get = %v, %v", got, err)
	}
}

func TestAMemberOpensNoPort(t *testing.T) {
	before := tcpListeners(t)
	m := start(t, t.TempDir())
	defer m.Close()
	if after := tcpListeners(t); after != before {
		t.Fatalf("TCP listeners before:\n%s\nafter:\n%s", before, after)
	}
}

// The peer listener once was an abstract socket: no file, so no permissions, and
// anybody on the machine could talk Raft to it.
func TestEverySocketOfAMemberIsAFileInItsPrivateDirectory(t *testing.T) {
	dir := t.TempDir()
	m := start(t, dir)
	defer m.Close()
	text, err := os.ReadFile("/proc/self/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	var ours []string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 7 || f[3] != "00010000" || !ownsSocket(f[6]) { // __SO_ACCEPTCON: it listens
			continue
		}
		path := ""
		if len(f) > 7 {
			path = f[7]
		}
		ours = append(ours, path)
		if !strings.HasPrefix(path, filepath.Join(dir, "run")+"/") {
			t.Errorf("a socket at %q", path)
		}
	}
	if len(ours) != 2 {
		t.Errorf("the member listens at %q, want a client's and a peer's socket", ours)
	}
	if info, err := os.Stat(filepath.Join(dir, "run")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
}

// tcpListeners lists this process's listening TCP sockets, by inode.
func tcpListeners(t *testing.T) string {
	t.Helper()
	var list []string
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 9 && f[3] == "0A" && ownsSocket(f[9]) {
				list = append(list, f[1])
			}
		}
	}
	return strings.Join(list, "\n")
}

func ownsSocket(inode string) bool {
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && to == "socket:["+inode+"]" {
			return true
		}
	}
	return false
}

func TestASecondMemberOnOneDirectoryIsRefusedAtOnce(t *testing.T) {
	dir := t.TempDir()
	m := start(t, dir)
	defer m.Close()
	began := time.Now()
	_, err := cluster.Start(t.Context(), cluster.Config{Dir: dir})
	if !errors.Is(err, cluster.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Fatalf("err = %v, want ErrLocked naming process %d", err, os.Getpid())
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Fatalf("it took %v to say so", took)
	}
}

func TestADirectoryTooDeepForASocketWorks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep-directory/", 10))
	m := start(t, dir)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestWhatWasAcknowledgedSurvivesAKill(t *testing.T) {
	dir := t.TempDir()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), "MEMBER_DIR="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "written\n" {
		t.Fatalf("the child said %q", line)
	}
	child.Process.Kill()
	child.Wait()
	m := start(t, dir)
	defer m.Close()
	got, err := m.Client().Get(t.Context(), "written")
	if err != nil || len(got.Kvs) != 1 {
		t.Fatalf("Get = %v, %v", got, err)
	}
}

func TestTheDataDirectoryIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	m := start(t, dir)
	defer m.Close()
	for _, d := range []string{dir, filepath.Join(dir, "etcd"), filepath.Join(dir, "run")} {
		info, err := os.Stat(d)
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", d, info.Mode(), err)
		}
	}
}
