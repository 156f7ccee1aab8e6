package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/plugins"
	pluginsetcd "github.com/doorward/doorward/plugins/etcd"
	"github.com/doorward/doorward/plugins/guesttest"
)

// readyAt waits until a node says that it has compiled a version of acme's, and
// wants it to have done so by itself.
func (s *site) readyAt(version string) {
	s.Helper()
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		got := s.operate(200, "GET /tenants/acme/verifiers/"+version, nil)
		compiled := s.compiles(got.field("digest")) // which is logged after it
		if got.field("node") == "ready" && compiled == 1 {
			return
		}
		if compiled > 1 || time.Since(began) > time.Minute {
			s.Fatalf("version %s was compiled ahead %d times: %s", version, compiled, got.body)
		}
	}
}

// compiles is how often its log says that the node compiled that by itself.
func (s *site) compiles(digest string) (n int) {
	s.Helper()
	text, err := os.ReadFile(s.log)
	if err != nil {
		s.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "compiled a verifier ahead of its logins") && strings.Contains(line, digest) {
			n++
		}
	}
	return n
}

// decidedBy wants the first login at the node decided, and by that version.
func (s *site) decidedBy(subject string) {
	s.Helper()
	if got, err := s.login("acme", "u", "p"); err != nil || got.status != http.StatusCreated || got.field("session.subject") != subject {
		s.Fatalf("the first login, which is %s's to decide: %d %s, %v", subject, got.status, got.body, err)
	}
}

// cli runs a command of doorward's against the node.
func (s *site) cli(args ...string) string {
	s.Helper()
	self, err := os.Executable()
	if err != nil {
		s.Fatal(err)
	}
	c := exec.CommandContext(s.Context(), self, args...)
	c.Args[0] = "doorward"
	c.Env = append(os.Environ(), "DOORWARD_ADMIN_URL="+s.admin, "DOORWARD_KEY_FILE="+filepath.Join(s.dir, "data", "operator.key"))
	out, err := c.CombinedOutput()
	if err != nil {
		s.Fatalf("doorward %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// A login once compiled what its node had not: for seconds, and another for each
// that came meanwhile.
func TestNodesCompileAheadOfTheLogins(t *testing.T) {
	_, env := sharedEtcd(t)
	var a, b *site
	var starting sync.WaitGroup
	for _, s := range []**site{&a, &b} {
		starting.Go(func() { *s = newSite(t, env...) }) // nil where it failed
	}
	starting.Wait()
	if a == nil || b == nil {
		t.FailNow()
	}
	subject := func(n int) string { return fmt.Sprint("ahead", n) } // what no other test has compiled
	upload := func(n int) {
		t.Helper()
		a.operate(201, "POST /tenants/acme/verifiers", guesttest.Accepts(subject(n)).Module())
	}
	// activated wants no node to be left, and tells how long that took.
	activated := func(n int) time.Duration {
		t.Helper()
		began := time.Now()
		got := a.operate(200, fmt.Sprintf("POST /tenants/acme/verifiers/%d/activate", n), map[string]any{})
		if strings.Contains(string(got.body), "nodes_pending") {
			t.Fatalf("activated: %s", got.body)
		}
		return time.Since(began)
	}
	a.operate(201, "POST /tenants", map[string]any{"id": "acme"})

	upload(1)
	b.readyAt("1")
	if list := b.cli("verifier", "list", "--tenant", "acme"); !regexp.MustCompile(`(?m)^1 +staged .* ready *$`).MatchString(list) {
		t.Errorf("B lists\n%s", list)
	}
	activated(1)
	b.decidedBy(subject(1))
	a.decidedBy(subject(1))

	upload(2)
	activated(2) // however far B was, it is ready now
	b.decidedBy(subject(2))

	upload(3)
	b.crash()
	if took := activated(3); took > 20*time.Second {
		t.Errorf("an activation waited %v for a node that has crashed", took)
	}
	a.decidedBy(subject(3))

	b.start()
	b.readyAt("3") // by itself: nobody has signed in there
	b.decidedBy(subject(3))
}

// attends has a node answer asks until the test or end ends it.
func attends(t *testing.T, client *clientv3.Client, id string, ready func(context.Context, string, int) error) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- pluginsetcd.NewNodes(client, id, nil).Run(ctx, ready) }()
	end = func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("node %s ended with %v", id, err)
		}
		done <- context.Canceled // for the next time
	}
	t.Cleanup(end)
	for began := time.Now(); ; {
		got, err := client.Get(t.Context(), "/dw/p/node/"+id)
		if err != nil {
			t.Fatal(err)
		}
		if got.Count == 1 {
			return end
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("node %s is not there", id)
		}
	}
}

func TestAnAskWaitsForEveryLiveNodeAndLeavesNothing(t *testing.T) {
	client := startMember(t)
	asker := pluginsetcd.NewNodes(client, "asker", nil)
	v := plugins.Version{Number: 7}
	asks := func(wait time.Duration, want ...string) {
		t.Helper()
		began := time.Now()
		pending, err := asker.Ask(t.Context(), "acme", v, wait)
		if err != nil || !slices.Equal(pending, want) {
			t.Errorf("pending: %q, %v; want %q", pending, err, want)
		}
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("it took %v", took)
		}
	}
	asks(time.Minute) // nobody is there

	compiled := make(chan struct{})
	attends(t, client, "quick", func(_ context.Context, tenant string, version int) error {
		if tenant != "acme" || version != 7 {
			t.Errorf("asked for %s %d", tenant, version)
		}
		return nil
	})
	end := attends(t, client, "slow", func(ctx context.Context, _ string, _ int) error {
		select {
		case <-compiled:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	asks(300*time.Millisecond, "slow")
	broken := attends(t, client, "broken", func(context.Context, string, int) error { return plugins.ErrInvalid })
	asks(300*time.Millisecond, "broken", "slow")

	answered := make(chan struct{})
	go func() {
		defer close(answered)
		asks(time.Minute, "broken") // which has said so, and is not waited for
	}()
	close(compiled)
	<-answered
	broken()

	tries := 0
	hesitant := attends(t, client, "hesitant", func(context.Context, string, int) error {
		if tries++; tries == 1 {
			return plugins.ErrUnavailable
		}
		return nil
	})
	asks(time.Minute) // the second time it works
	hesitant()
	end() // and a node that has ended keeps nobody waiting
	asks(time.Minute)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := asker.Ask(ctx, "acme", v, time.Minute); !errors.Is(err, plugins.ErrUnavailable) {
		t.Errorf("an ask that is over: %v", err)
	}
	left, err := client.Get(t.Context(), "/dw/p/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range left.Kvs {
		if string(kv.Key) != "/dw/p/node/quick" {
			t.Errorf("%s is left", kv.Key)
		}
	}
}

func TestModulesOfAllTenantsHaveALimit(t *testing.T) {
	client := startMember(t)
	s := shelf{t, pluginsetcd.New(client, 5<<20), client}
	one, oneDigest := pack(1)
	two, twoDigest := pack(2)
	three, threeDigest := pack(3)
	add := func(tenant string, module []byte, digest string) error {
		return s.add(t.Context(), tenant, module, digest)
	}
	if err := errors.Join(add("a", one, oneDigest), add("b", two, twoDigest)); err != nil {
		t.Fatal(err)
	}
	if err := add("c", one, oneDigest); err != nil {
		t.Errorf("a module that is there takes no room: %v", err)
	}
	err := add("c", three, threeDigest)
	if !errors.Is(err, plugins.ErrQuota) || !strings.Contains(err.Error(), "of 5120 in the store") {
		t.Errorf("a third of 2 MiB in 5: %v", err)
	}
	if got, err := s.Versions(t.Context(), "c"); err != nil || len(got) != 1 {
		t.Errorf("versions of c: %v, %v", got, err)
	}
	if err := s.Remove(t.Context(), "b", 1); err != nil {
		t.Fatal(err)
	}
	if err := add("c", three, threeDigest); err != nil {
		t.Errorf("where another was deleted: %v", err)
	}
}
