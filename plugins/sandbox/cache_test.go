package sandbox

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// codeName is a name that wazero could give to code.
var codeName = strings.Repeat("0123456789abcdef", 4)

// leave writes a file as a compile child would leave it.
func leave(t *testing.T, room, dir, name string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(room, dir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(room, dir, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func newCache(t *testing.T, most int64) *cache {
	t.Helper()
	c, err := openCache(t.TempDir(), most, 0, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// put installs an entry of some 1,000 bytes, last used so many minutes ago.
func put(t *testing.T, c *cache, digest string, minutes time.Duration) {
	t.Helper()
	room, err := c.room()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(room)
	leave(t, room, "wazero-v1", codeName, make([]byte, 1000))
	if err := c.install(digest, []byte("module"), room); err != nil {
		t.Fatal(err)
	}
	then := time.Now().Add(-minutes * time.Minute)
	if err := os.Chtimes(filepath.Join(c.dir, entry(digest)), then, then); err != nil {
		t.Fatal(err)
	}
}

func TestACacheOfAnotherRewriterIsEmptied(t *testing.T) {
	c := newCache(t, 1<<20)
	put(t, c, "sha256:1", 0)
	for _, name := range []string{"sha256-1.wazero-v0-amd64.0", installing + "1", compiling + "2", removing + "3", "wazero-v0-amd64-linux"} {
		leave(t, c.dir, name, "x", []byte("x"))
	}
	leave(t, c.dir, ".", "sha256-1.wazero-v0-amd64.0.wasm", []byte("x"))
	if _, err := openCache(c.dir, 1<<20, 0, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(c.dir)
	if err != nil || len(left) != 1 || left[0].Name() != entry("sha256:1") {
		t.Fatalf("left: %v, %v; want its own entry alone", left, err)
	}
	if module, err := c.read("sha256:1"); err != nil || string(module) != "module" {
		t.Fatalf("read = %q, %v", module, err)
	}
}

// Beyond the bound the least lately used go, but none that a worker has.
func TestACacheKeepsItsBoundAndWhatIsLoaded(t *testing.T) {
	c := newCache(t, 3500)
	for i, digest := range []string{"sha256:1", "sha256:2", "sha256:3"} {
		put(t, c, digest, time.Duration(30-10*i))
	}
	worker := &process{gone: make(chan struct{})}
	c.holds(worker, []string{"sha256:1"})
	if _, err := c.read("sha256:2"); err != nil { // which makes 3 the least lately used
		t.Fatal(err)
	}
	put(t, c, "sha256:4", 0)
	has := func() (list []string) {
		for _, digest := range []string{"sha256:1", "sha256:2", "sha256:3", "sha256:4", "sha256:5"} {
			if c.has(digest) {
				list = append(list, digest)
			}
		}
		return list
	}
	if got, want := has(), []string{"sha256:1", "sha256:2", "sha256:4"}; !slices.Equal(got, want) {
		t.Fatalf("there are %v, want %v", got, want)
	}
	close(worker.gone)
	c.gone(worker)
	put(t, c, "sha256:5", 0)
	if got, want := has(), []string{"sha256:2", "sha256:4", "sha256:5"}; !slices.Equal(got, want) {
		t.Fatalf("once the worker is gone there are %v, want %v", got, want)
	}
}

// What a compile child leaves is not trusted.
func TestOnlyOneRegularFileOfCodeIsInstalled(t *testing.T) {
	for name, make := range map[string]func(t *testing.T, room string){
		"nothing":       func(*testing.T, string) {},
		"another name":  func(t *testing.T, room string) { leave(t, room, "wazero-v1", "code", []byte("x")) },
		"another place": func(t *testing.T, room string) { leave(t, room, "wazero..v1/..", codeName, []byte("x")) },
		"an empty file": func(t *testing.T, room string) { leave(t, room, "wazero-v1", codeName, nil) },
		"two files": func(t *testing.T, room string) {
			leave(t, room, "wazero-v1", codeName, []byte("x"))
			leave(t, room, "wazero-v2", codeName, []byte("x"))
		},
		"a link to what is not its own": func(t *testing.T, room string) {
			leave(t, room, "wazero-v1", "x", nil)
			if err := os.Symlink("/etc/passwd", filepath.Join(room, "wazero-v1", codeName)); err != nil {
				t.Fatal(err)
			}
		},
		"a directory that is a link": func(t *testing.T, room string) {
			other := t.TempDir()
			leave(t, other, ".", codeName, []byte("x"))
			if err := os.Symlink(other, filepath.Join(room, "wazero-v1")); err != nil {
				t.Fatal(err)
			}
		},
		"a pipe that nobody writes to": func(t *testing.T, room string) {
			leave(t, room, "wazero-v1", "x", nil)
			if err := syscall.Mkfifo(filepath.Join(room, "wazero-v1", codeName), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"more than it may write": func(t *testing.T, room string) {
			leave(t, room, "wazero-v1", codeName, nil)
			if err := os.Truncate(filepath.Join(room, "wazero-v1", codeName), maxCompiled+1); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache(t, 1<<30)
			room, err := c.room()
			if err != nil {
				t.Fatal(err)
			}
			make(t, room)
			if err := c.install("sha256:1", []byte("module"), room); err == nil || c.has("sha256:1") {
				t.Fatalf("install = %v, and there is an entry: %v", err, c.has("sha256:1"))
			}
		})
	}
}

// Code that was compiled once more, for another tenant, was removed before it came
// back under its name, and whose worker was just loading it had it compiled again.
func TestWhoReadsWhileCodeIsReplacedFindsIt(t *testing.T) {
	c := newCache(t, 1<<20)
	put(t, c, "sha256:1", 0)
	code, err := findCode(filepath.Join(c.dir, entry("sha256:1")))
	if err != nil {
		t.Fatal(err)
	}
	turns := make(chan struct{}) // one replacement beside one or two of these
	var reading sync.WaitGroup
	reading.Go(func() {
		for range turns {
			if _, err := c.read("sha256:1"); err != nil {
				t.Error("read: ", err)
			}
			if f, err := os.Open(filepath.Join(c.dir, entry("sha256:1"), code)); err != nil { // as workers do
				t.Error(err)
			} else {
				f.Close()
			}
		}
	})
	for range 200 {
		turns <- struct{}{}
		put(t, c, "sha256:1", 0)
	}
	close(turns)
	reading.Wait()
	if left, err := os.ReadDir(c.dir); err != nil || len(left) > 2 { // it, and what it replaced
		t.Errorf("left are %v, %v", left, err)
	}
}

// Between its being read and its being loaded, code was once removed for the
// cache's bound.
func TestCodeIsHeldBeforeItIsRead(t *testing.T) {
	c := newCache(t, 1500)
	put(t, c, "sha256:1", 10)
	worker := &process{gone: make(chan struct{}), cache: c}
	if module, err := worker.missing(Call{Digest: "sha256:1"}); err != nil || len(module) == 0 {
		t.Fatalf("%q, %v", module, err)
	}
	put(t, c, "sha256:2", 0)
	if !c.has("sha256:1") {
		t.Fatal("it went before it was loaded")
	}
	if _, err := worker.missing(Call{Digest: "sha256:3"}); !errors.Is(err, errStale) {
		t.Fatalf("of what is not there: %v", err)
	}
	put(t, c, "sha256:4", 0)
	if c.has("sha256:1") || c.isLoaded(entry("sha256:3")) {
		t.Fatal("it is held for nobody")
	}
}

// A server that ran as root once, and is not root any more, finds rooms of its
// children that it may not remove. It did not start then.
func TestAServerStartsBesideWhatItCannotRemove(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can leave what others cannot remove")
	}
	dir, err := os.MkdirTemp("", "modules-") // of TempDir, parts belong to root alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	leave(t, dir, compiling+"1/wazero-v1", codeName, []byte("a child's"))
	leave(t, dir, entry("sha256:1")+"/wazero-v1", codeName, []byte("of root's"))
	leave(t, dir, entry("sha256:1"), rewrittenName, []byte("of root's"))
	const user = 61234
	if err := os.Chown(dir, user, user); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(dir, compiling+"1"), nobody, nobody); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestStartBesideWhatItCannotRemove$", "-test.v")
	cmd.Env = []string{"DOORWARD_TEST_MODULES=" + dir}
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: TestStartBesideWhatItCannotRemove") {
		t.Fatal(err)
	}
}

// The part of the test above that another user runs.
func TestStartBesideWhatItCannotRemove(t *testing.T) {
	dir := os.Getenv("DOORWARD_TEST_MODULES")
	if dir == "" {
		t.Skip("TestAServerStartsBesideWhatItCannotRemove runs it")
	}
	var log bytes.Buffer
	for range 2 { // what was moved aside at the first start is there at the second
		log.Reset()
		c, err := openCache(dir, 1<<20, 0, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(log.String(), "cannot be removed"); got != 2 {
			t.Errorf("%d warnings, not 2:\n%s", got, log.String())
		}
		put(t, c, "sha256:1", 0)
		if module, err := c.read("sha256:1"); err != nil || string(module) != "module" {
			t.Errorf("%q, %v", module, err)
		}
	}
}
