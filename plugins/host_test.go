package plugins

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/sdk/abi"
)

// A sandbox child is this test binary again, or one whose compiles all fail.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "sandbox-no-compiler" {
		if os.Args[2] == "compile" {
			os.Exit(1)
		}
		os.Args[1] = "sandbox"
	}
	if len(os.Args) > 1 && os.Args[1] == "sandbox" {
		os.Exit(sandbox.Main(context.Background(), os.Args[2:]))
	}
	os.Exit(m.Run())
}

// newPool runs a sandbox with one worker for the length of a test.
func newPool(t *testing.T) *sandbox.Pool {
	t.Helper()
	pool, err := sandbox.New(sandbox.Config{CacheDir: filepath.Join(t.TempDir(), "modules"), Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- pool.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the pool ended with %v", err)
		}
	})
	return pool
}

// newCatalog is a catalog in a directory, with a sandbox of its own.
func newCatalog(t *testing.T) *Catalog {
	t.Helper()
	artifacts, err := NewDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	nothing := func(context.Context, string, string) (json.RawMessage, bool, error) { return nil, false, nil }
	settings := Settings{Config: nothing, Secret: func(context.Context, string, string) ([]byte, bool, error) { return nil, false, nil }}
	return NewCatalog(artifacts, NewHost(newPool(t), settings, nil), CatalogConfig{})
}

// activate uploads a module and lets it decide.
func activate(t *testing.T, c *Catalog, tenant string, module []byte) {
	t.Helper()
	v, err := c.Upload(t.Context(), tenant, module, nil)
	if err == nil {
		_, err = c.Activate(t.Context(), tenant, v.Number, false)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What a guest fails with was once in the server's log: a verifier that failed
// with its request wrote passwords there.
func TestAGuestsWordsDoNotReachTheServersLog(t *testing.T) {
	c := newCatalog(t)
	activate(t, c, "a", guesttest.Tells().Module())
	_, err := c.Verify(t.Context(), Call{Tenant: "a", Request: abi.Request{
		ABI: abi.Version, Method: "password", Credential: abi.Credential{"username": "alice", "password": "s3cret-password"},
	}})
	if !errors.Is(err, ErrVerifier) {
		t.Fatalf("err = %v, want ErrVerifier", err)
	}
	if strings.Contains(err.Error(), "alice") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("the error says what the guest said: %v", err)
	}
	told := 0
	for _, line := range c.Logs("a") {
		if strings.Contains(line.Text, "s3cret") {
			t.Errorf("the tenant's log holds a password: %s", line.Text)
		}
		if strings.Contains(line.Text, "alice") {
			told++
		}
	}
	if told != 2 {
		t.Errorf("%d lines of the tenant's log say what the guest said, want its own and why it failed: %+v", told, c.Logs("a"))
	}
}

func TestALogEntryIsBounded(t *testing.T) {
	rings := newLogRings(keepBytes)
	rings.add("a", LogEntry{Text: strings.Repeat("€", 16<<10)})
	if got := rings.of("a")[0].Text; len(got) > keepText+len(" …") || !strings.HasPrefix(got, "€") {
		t.Errorf("an entry of %d bytes was kept", len(got))
	}
}
