package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/sessions/cluster"
	"github.com/doorward/doorward/tenants/seal"
)

// sharedEtcd runs a member that several nodes of one test reach through its
// socket, and returns what their environment needs for that: where it is, and
// one key ring for all.
func sharedEtcd(t testing.TB) (member *cluster.Member, env []string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "dw") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ctx, cancel := context.WithTimeout(t.Context(), startTime)
	defer cancel()
	if member, err = cluster.Start(ctx, cluster.Config{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { member.Close() })
	ring := filepath.Join(dir, "keyring")
	if _, err := seal.LoadOrCreateRing(ring); err != nil {
		t.Fatal(err)
	}
	return member, []string{
		"DOORWARD_ETCD_ENDPOINTS=unix://" + filepath.Join(dir, "run", "client"),
		"DOORWARD_KEYRING_FILE=" + ring,
	}
}

// admits reports whether the node takes that operator key.
func (s *site) admits(key string) bool {
	s.Helper()
	r, err := http.NewRequestWithContext(s.Context(), http.MethodGet, s.admin+"/admin/v1/tenants", nil)
	if err != nil {
		s.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	got, err := s.client.Do(r)
	if err != nil {
		s.Fatal(err)
	}
	defer got.Body.Close()
	io.Copy(io.Discard, got.Body)
	if got.StatusCode != http.StatusOK && got.StatusCode != http.StatusUnauthorized {
		s.Fatalf("status %d", got.StatusCode)
	}
	return got.StatusCode == http.StatusOK
}

func (s *site) operatorKey() string {
	s.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "data", "operator.key"))
	if err != nil {
		s.Fatal(err)
	}
	return firstLine(text)
}

func TestTwoNodesShareOneEtcd(t *testing.T) {
	_, env := sharedEtcd(t)
	var a, b *site
	var starting sync.WaitGroup
	for _, s := range []**site{&a, &b} {
		starting.Go(func() { *s = newSite(t, env...) }) // nil where it failed
	}
	starting.Wait()
	if t.Failed() || a == nil || b == nil {
		t.FailNow()
	}

	// One of them has made the demo user, and its password is good at both.
	password := a.password + b.password
	if a.password != "" && b.password != "" || password == "" {
		t.Fatalf("passwords were printed by both or by none: %q, %q", a.password, b.password)
	}
	login := map[string]string{"username": "demo", "password": password, "transport": "token"}
	in := a.enter(login)
	b.enter(login)
	bearer := "Bearer " + in.field("token")
	if got, err := b.send("GET "+b.public+"/t/demo/v1/session", nil, "Authorization", bearer); err != nil || got.status != http.StatusOK {
		t.Fatalf("validate at B: %v, %v", got, err)
	}
	got, err := a.send("DELETE "+a.public+"/t/demo/v1/session", nil, "Authorization", bearer)
	if err != nil || got.status != http.StatusNoContent {
		t.Fatalf("sign out at A: %v, %v", got, err)
	}
	// B hears of it within milliseconds; who cannot wait says which write it means.
	if got, err := b.send("GET "+b.public+"/t/demo/v1/session", nil, "Authorization", bearer, "Doorward-Min-Revision", got.header.Get("Doorward-Revision")); err != nil || got.status != http.StatusUnauthorized {
		t.Fatalf("validate at B after the end: %v, %v", got, err)
	}

	// Each has an operator key of its own, good at both, and a restart of one
	// ends neither. (Both keys were once one record, and each start ended the
	// other node's.)
	keyA, keyB := a.operatorKey(), b.operatorKey()
	a.restart()
	for _, s := range []*site{a, b} {
		if !s.admits(keyA) || !s.admits(keyB) {
			t.Fatal("an operator key is refused")
		}
	}

	// Removing the file ends this node's key and no other.
	if err := os.Remove(filepath.Join(a.dir, "data", "operator.key")); err != nil {
		t.Fatal(err)
	}
	a.restart()
	if a.operatorKey() == keyA || !a.admits(a.operatorKey()) {
		t.Fatal("there is no new operator key")
	}
	for _, s := range []*site{a, b} {
		if s.admits(keyA) {
			t.Error("the removed key is still good")
		}
		if !s.admits(keyB) {
			t.Error("the other node's key is none any more")
		}
	}
	if a.out.Len() == 0 || strings.Contains(a.out.String(), "shown this once") {
		t.Errorf("a later start says: %s", a.out)
	}
}

// Both nodes follow an activation and the way back within a second of the request.
func TestARollbackDecidesOnEveryNodeWithinASecond(t *testing.T) {
	_, env := sharedEtcd(t)
	a := newSite(t, env...)
	b := newSite(t, env...)
	a.tenant("acme", guesttest.Accepts("one").Module())
	a.operate(201, "POST /tenants/acme/verifiers", guesttest.Accepts("two").Module())
	decides := func(s *site, subject string, since time.Time) time.Duration {
		t.Helper()
		for {
			got, err := s.login("acme", "u", "p")
			took := time.Since(since)
			if err != nil {
				t.Fatal(err)
			}
			if got.status == http.StatusCreated && strings.Contains(string(got.body), `"subject":"`+subject+`"`) {
				return took
			}
			if took > 30*time.Second {
				t.Fatalf("%s does not decide: %d %s", subject, got.status, got.body)
			}
		}
	}
	for _, s := range []*site{a, b} { // both have compiled version 1 then
		decides(s, "one", time.Now())
	}
	a.operate(200, "POST /tenants/acme/verifiers/2/activate", map[string]any{})
	for _, s := range []*site{a, b} {
		decides(s, "two", time.Now())
	}
	began := time.Now()
	a.operate(200, "POST /tenants/acme/verifiers/rollback", nil)
	for name, s := range map[string]*site{"A": a, "B": b} {
		took := decides(s, "one", began)
		t.Logf("node %s after %v", name, took)
		if took > time.Second {
			t.Errorf("node %s went back after %v", name, took)
		}
	}
}

// enter waits out that the node, which did not make the demo's verifier, still
// compiles it.
func (s *site) enter(body map[string]string) answer {
	s.Helper()
	for began := time.Now(); ; {
		got, err := s.send("POST "+s.public+"/t/demo/v1/login", body)
		if err == nil && got.status == http.StatusCreated {
			return got
		}
		if err != nil || got.field("code") != "verifier_unavailable" || time.Since(began) > time.Minute {
			s.Fatalf("sign in: %d %s, %v", got.status, got.body, err)
		}
	}
}

// restart drains the node and starts it again.
func (s *site) restart() {
	s.Helper()
	if err := s.drain(); err != nil {
		s.Fatal(err)
	}
	s.start()
}

func TestASecondNodeWithAnotherKeyRingDoesNotStart(t *testing.T) {
	_, env := sharedEtcd(t)
	a := newSite(t, env...)
	b := t.TempDir()
	_, err := launch(b, filepath.Join(b, "log"), append(os.Environ(), env[0]), "dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	if err == nil || !strings.Contains(err.Error(), "every node of one etcd has the same file") {
		t.Fatalf("err = %v", err)
	}
	if at, err := a.send("POST "+a.public+"/t/demo/v1/login", map[string]string{"username": "demo", "password": a.password}); err != nil || at.status != http.StatusCreated {
		t.Fatalf("sign in at the first node after that: %v, %v", at, err)
	}
}

func TestAnExternalEtcdStillLeavesTheDirectoryToOneProcess(t *testing.T) {
	_, env := sharedEtcd(t)
	a := newSite(t, env...)
	_, err := launch(a.dir, filepath.Join(t.TempDir(), "log"), a.env, "dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	if err == nil || !strings.Contains(err.Error(), "data directory is in use") {
		t.Fatalf("err = %v", err)
	}
	if _, err := os.Stat(filepath.Join(a.dir, "data", "etcd")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a member was started beside the external etcd: %v", err)
	}
}
