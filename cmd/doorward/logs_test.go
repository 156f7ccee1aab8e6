package main

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/doorward/doorward/plugins/guesttest"
)

// follower is a "doorward verifier logs --follow" of tenant acme.
type follower struct {
	*exec.Cmd
	lines *bufio.Scanner
	test  testing.TB
}

func tail(s *site, args ...string) *follower {
	s.Helper()
	self, err := os.Executable()
	if err != nil {
		s.Fatal(err)
	}
	cmd := exec.CommandContext(s.Context(), self, append([]string{"verifier", "logs", "--tenant", "acme", "--follow"}, args...)...)
	cmd.Args[0] = "doorward"
	cmd.Dir, cmd.Env = s.dir, append(s.env, "DOORWARD_ADMIN_URL="+s.admin)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		s.Fatal(err)
	}
	return &follower{cmd, bufio.NewScanner(out), s.TB}
}

// says waits for the next line and wants that in it.
func (f *follower) says(want string) {
	f.test.Helper()
	if !f.lines.Scan() || !strings.Contains(f.lines.Text(), want) {
		f.test.Fatalf("%q, %v; want %q", f.lines.Text(), f.lines.Err(), want)
	}
}

// ends wants that exit code.
func (f *follower) ends(code int) {
	f.test.Helper()
	for f.lines.Scan() {
		f.test.Errorf("it says: %s", f.lines.Text())
	}
	f.Wait() // its error is the code
	if got := f.ProcessState.ExitCode(); got != code {
		f.test.Errorf("ended with %d, want %d", got, code)
	}
}

// A log is followed in a terminal, from what is there already to an interrupt;
// and who follows does not hold up the end of the server.
func TestALogIsFollowedInATerminal(t *testing.T) {
	if raceEnabled {
		t.Skip("a compile takes half a minute; run it without -race, as make test does")
	}
	s := newSite(t)
	s.tenant("acme", guesttest.Traps().Module())
	login := func() {
		t.Helper()
		if got, err := s.login("acme", "alice", "s3cret"); err != nil || got.status != 503 {
			t.Fatalf("%d %s %v", got.status, got.body, err)
		}
	}
	login()
	table, json := tail(s), tail(s, "-o", "json")
	for range 2 {
		table.says("  1  error  guest failed: ")
		json.says(`"level":"error","text":"guest failed: `)
		login()
	}
	table.says("unreachable")
	json.says("unreachable")
	if err := table.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	table.ends(0)

	began := time.Now()
	if err := s.drain(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > drainTime/2 {
		t.Errorf("the server ended after %v: a follower held it up", took)
	}
	json.ends(6) // asks again, and nobody is there
}
