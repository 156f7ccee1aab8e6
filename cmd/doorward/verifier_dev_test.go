package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// While a verifier is written, what is saved decides the next login, and what does
// not compile or is wrong leaves the version before in place.
func TestWhatIsSavedDecidesTheNextLogin(t *testing.T) {
	s := newSite(t)
	t.Setenv("DOORWARD_ADMIN_URL", s.admin)
	t.Setenv("DOORWARD_KEY_FILE", filepath.Join(s.dir, "data", "operator.key"))
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	project := filepath.Join(t.TempDir(), "mine")
	if code := execute(t.Context(), []string{"verifier", "new", "--lang", "c", project}, nil, io.Discard, os.Stderr); code != 0 {
		t.Fatalf("verifier new: %d", code)
	}
	s.operate(201, "POST /tenants", map[string]any{"id": "mine"})

	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	said := make(chan string, 1000)
	go func() {
		defer close(said)
		for lines := bufio.NewScanner(reader); lines.Scan(); {
			said <- lines.Text()
		}
	}()
	ended := make(chan int, 1)
	go func() {
		ended <- execute(ctx, []string{"verifier", "dev", "--tenant", "mine", project}, nil, writer, writer)
		writer.Close()
	}()
	// waits until it has said all of these, in any order, and then watches again.
	waits := func(texts ...string) {
		t.Helper()
		late := time.After(2 * time.Minute)
		var lines []string
		for {
			select {
			case line := <-said:
				lines = append(lines, line)
				if !strings.HasPrefix(line, "watching ") {
					continue
				}
				all := strings.Join(lines, "\n")
				for _, text := range texts {
					if !strings.Contains(all, text) {
						t.Fatalf("no %q in:\n%s", text, all)
					}
				}
				return
			case <-late:
				t.Fatalf("it never watched again; it said:\n%s", strings.Join(lines, "\n"))
			}
		}
	}
	source := filepath.Join(project, "verifier.c")
	edit := func(old, now string) {
		t.Helper()
		text, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Replace(text, []byte(old), []byte(now), 1)
		if bytes.Equal(text, changed) {
			t.Fatalf("%s has no %q", source, old)
		}
		if err := os.WriteFile(source, changed, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	waits("ok    vectors.json: the right password: accept", "version 1 is active")

	edit("int32_t", "int33_t")
	waits("error: clang-14: exit status 1", "int33_t")
	edit("int33_t", "int32_t")
	waits("ok    vectors.json: the right password: accept")

	const rejects, locks = `"password"))) return dw_reject();`, `"password"))) return dw_reject_with("locked", "");`
	edit(rejects, locks)
	waits("FAIL  vectors.json: a wrong password", "version 2 is staged, but not active") // a vector of the manifest's fails
	if got := s.operate(200, "GET /tenants/mine/verifiers", nil); got.field("verifiers.0.state") != "active" || got.field("verifiers.1.state") != "staged" {
		t.Errorf("%s", got.body)
	}
	edit(locks, rejects)
	waits("ok    vectors.json: a wrong password")

	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("interrupted, it ended with %d", code)
	}
}
