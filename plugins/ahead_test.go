package plugins_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/sdk/abi"
)

// joined is a node that took none of the uploads: a catalog with a sandbox of its
// own over artifacts that another filled.
type joined struct {
	shop
	pool *sandbox.Pool
}

// join joins a node, whose children are these; nil: this program.
func join(t *testing.T, artifacts plugins.Artifacts, child []string, nodes plugins.Nodes) joined {
	t.Helper()
	pool, err := sandbox.New(sandbox.Config{CacheDir: filepath.Join(t.TempDir(), "modules"), Workers: 1, Command: child})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, pool.Run)
	host := plugins.NewHost(pool, plugins.Settings{}, nil)
	return joined{shop{t, plugins.NewCatalog(artifacts, host, plugins.CatalogConfig{Nodes: nodes}), artifacts, host}, pool}
}

// runs has something run as long as the test.
func runs(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
	})
}

// elsewhere is what another node's upload leaves in the store.
func (j joined) elsewhere(tenant, subject string) plugins.Version {
	j.Helper()
	module := guesttest.Accepts(subject).Module()
	v := plugins.Version{
		Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(module)), State: plugins.Staged, Size: len(module), Profile: "core",
		Limits: abi.Limits{WallMS: abi.DefaultWallMS, MemoryMiB: abi.DefaultMemoryMiB}, CreatedAt: time.Now().UTC(),
	}
	n, err := j.store.Add(j.Context(), tenant, v, module)
	if err != nil {
		j.Fatal(err)
	}
	v.Number = n
	return v
}

// points is what another node's activation leaves there.
func (j joined) points(tenant string, active, previous plugins.Version) {
	j.Helper()
	from, err := j.store.Active(j.Context(), tenant)
	if err != nil {
		j.Fatal(err)
	}
	active.State, active.ActivatedAt = plugins.Active, time.Now().UTC()
	changed := []plugins.Version{active}
	if previous.Number > 0 {
		previous.State = plugins.Retired // long ago, as far as it is known
		changed = append(changed, previous)
	}
	if err := j.store.SetActive(j.Context(), tenant, from, plugins.Pointer{Active: active.Number, Previous: previous.Number}, changed); err != nil {
		j.Fatal(err)
	}
}

// becomesReady waits until the node has compiled a version.
func (j joined) becomesReady(v plugins.Version) {
	j.Helper()
	for began := time.Now(); !j.pool.Ready(v.Digest); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			j.Fatalf("version %d is not compiled", v.Number)
		}
	}
}

// stands wants each version of a tenant to stand so on this node.
func (j joined) stands(tenant string, want ...plugins.Standing) []plugins.Version {
	j.Helper()
	list, err := j.List(j.Context(), tenant)
	if err != nil || len(list) != len(want) {
		j.Fatalf("%d versions, %v", len(list), err)
	}
	for i, v := range list {
		if v.Node != want[i] || v.NodeUntil.IsZero() != (want[i] == plugins.NodeReady || want[i] == plugins.NodePending) {
			j.Fatalf("version %d is %q here until %v, not %q", v.Number, v.Node, v.NodeUntil, want[i])
		}
	}
	return list
}

func TestALoginDoesNotCompileButAsksForIt(t *testing.T) {
	j := join(t, newDir(t), nil, nil)
	one := j.elsewhere("a", "one")
	j.points("a", one, plugins.Version{})
	j.stands("a", plugins.NodePending)
	_, err := j.Verify(t.Context(), plugins.Call{Tenant: "a"})
	j.wants(plugins.ErrPending, err, "not compiled on this node")
	j.wants(plugins.ErrVerifier, err, "")
	if logs := j.Logs("a"); len(logs) != 1 || logs[0].Level != "warn" || !strings.Contains(logs[0].Text, "nobody signs in") {
		t.Errorf("the tenant is told %+v", logs)
	}
	j.becomesReady(one)
	if got := j.subject(plugins.Call{}); got != "one" {
		t.Errorf("signed in %q", got)
	}
	j.stands("a", plugins.NodeReady)
}

// A try can wait, and so can the vectors of an upload.
func TestATryCompilesWhatThisNodeHasNot(t *testing.T) {
	j := join(t, newDir(t), nil, nil)
	v := j.elsewhere("a", "one")
	trace, err := j.Try(t.Context(), "a", v.Number, abi.Request{ABI: abi.Version, Method: "password"})
	if err != nil || trace.Verdict == nil || trace.Verdict.Subject != "one" {
		t.Fatalf("tried as %+v, %v", trace, err)
	}
}

func TestTheVersionBeforeDecidesWhereTheNewOneIsNotCompiled(t *testing.T) {
	j := join(t, newDir(t), nil, nil)
	one, two := j.elsewhere("a", "one"), j.elsewhere("a", "two")
	if err := j.Prepare(t.Context(), "a", one.Number); err != nil {
		t.Fatal(err)
	}
	j.points("a", one, plugins.Version{})
	j.points("a", two, one)
	answer, err := j.Verify(t.Context(), plugins.Call{Tenant: "a", Request: abi.Request{Method: "password"}})
	if err != nil || answer.Verdict.Subject != "one" || answer.Version != 1 || answer.Digest != one.Digest {
		t.Fatalf("before the new version is compiled: %+v, %v", answer, err)
	}
	if logs := j.Logs("a"); len(logs) != 1 || !strings.Contains(logs[0].Text, "version 1 decides here until it is") {
		t.Errorf("the tenant is told %+v", logs)
	}
	j.becomesReady(two)
	if got := j.subject(plugins.Call{}); got != "two" {
		t.Errorf("signed in %q afterwards", got)
	}
}

// Who goes back wants the newer version gone, on nodes too that lack the older.
func TestAfterARollbackTheNewerVersionDecidesNowhere(t *testing.T) {
	j := join(t, newDir(t), nil, nil)
	one, two := j.elsewhere("a", "one"), j.elsewhere("a", "two")
	if err := j.Prepare(t.Context(), "a", two.Number); err != nil {
		t.Fatal(err)
	}
	j.points("a", one, two)
	_, err := j.Verify(t.Context(), plugins.Call{Tenant: "a"})
	j.wants(plugins.ErrPending, err, "")
	j.becomesReady(one)
	if got := j.subject(plugins.Call{}); got != "one" {
		t.Errorf("signed in %q", got)
	}
}

func TestANodeThatJoinsCompilesWhatMayDecide(t *testing.T) {
	j := join(t, newDir(t), nil, nil)
	one, two, staged := j.elsewhere("a", "one"), j.elsewhere("a", "two"), j.elsewhere("a", "three")
	gone := j.elsewhere("a", "gone")
	j.points("a", gone, plugins.Version{})
	j.points("a", one, gone)
	j.points("a", two, one)
	runs(t, j.Catalog.Run)
	for _, v := range []plugins.Version{two, one, staged} { // active, before it, staged
		j.becomesReady(v)
	}
	j.becomesReady(j.elsewhere("b", "later")) // and what another node stages then
	if j.pool.Ready(gone.Digest) {
		t.Error("a version that decides nothing any more was compiled")
	}
	j.stands("a", plugins.NodeReady, plugins.NodeReady, plugins.NodeReady, plugins.NodePending)
}

// all are the nodes of a test: an ask asks each in turn.
type all map[string]*plugins.Catalog

func (a all) Ask(ctx context.Context, tenant string, v plugins.Version, _ time.Duration) (pending []string, err error) {
	for id, node := range a {
		if node.Prepare(ctx, tenant, v.Number) != nil {
			pending = append(pending, id)
		}
	}
	return pending, nil
}

// One node is broken; the tenant's logins are decided on the others, and there by
// what it had before.
func TestAModuleThatANodeCannotCompileIsQuarantinedThereAlone(t *testing.T) {
	nodes := all{}
	artifacts := newDir(t)
	well := join(t, artifacts, nil, nodes)
	broken := join(t, artifacts, []string{"/proc/self/exe", "sandbox-no-compiler"}, nodes)
	nodes["well"], nodes["broken"] = well.Catalog, broken.Catalog
	runs(t, broken.Catalog.Run)

	well.upload(guesttest.Accepts("one"))
	if v, err := well.Activate(t.Context(), "a", 1, false); err != nil || len(v.NodesPending) != 1 || v.NodesPending[0] != "broken" || v.Node != plugins.NodeReady {
		t.Fatalf("activated %+v, %v", v, err)
	}
	if got := well.subject(plugins.Call{}); got != "one" {
		t.Errorf("signed in %q", got)
	}
	well.stands("a", plugins.NodeReady)
	if list := broken.stands("a", plugins.NodeQuarantined); list[0].State != plugins.Quarantined {
		t.Errorf("shown there as %s", list[0].State)
	}
	_, err := broken.Verify(t.Context(), plugins.Call{Tenant: "a"})
	broken.wants(plugins.ErrPending, err, "")
	_, err = broken.Try(t.Context(), "a", 1, abi.Request{ABI: abi.Version, Method: "password"})
	broken.wants(plugins.ErrVerifier, err, "on this node")
	stored, err := artifacts.Version(t.Context(), "a", 1)
	if err != nil || stored.Node != "" || stored.NodesPending != nil || stored.State != plugins.Active {
		t.Errorf("stored %+v, %v", stored, err)
	}
}

func TestAnUploadThatFindsTheQueueFullIsToldToComeAgain(t *testing.T) {
	pool, err := sandbox.New(sandbox.Config{CacheDir: filepath.Join(t.TempDir(), "modules")}) // which is not run: nothing comes to an end
	if err != nil {
		t.Fatal(err)
	}
	s := shop{t, plugins.NewCatalog(newDir(t), plugins.NewHost(pool, plugins.Settings{}, nil), plugins.CatalogConfig{}), nil, nil}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	upload := func(n int) {
		_, err := s.Upload(ctx, "a", guesttest.Accepts(fmt.Sprint(n)).Module(), nil)
		ended <- err
	}
	for n := range 6 { // one is compiled, four wait
		go upload(n)
	}
	err = <-ended
	s.wants(plugins.ErrQueueFull, err, "upload again")
	if errors.Is(err, plugins.ErrUnavailable) || errors.Is(err, plugins.ErrInvalid) {
		t.Errorf("it says more: %v", err)
	}
	cancel()
	for range 5 {
		<-ended
	}
}

func TestWhatToDeleteIsNamedWhereThereIsNoRoom(t *testing.T) {
	s := newShop(t, plugins.Settings{})
	s.Catalog = plugins.NewCatalog(full{s.store}, s.host, plugins.CatalogConfig{})
	_, err := s.Upload(t.Context(), "a", guesttest.Accepts("first").Module(), nil)
	s.wants(plugins.ErrQuota, err, "no version that can be deleted")
	filling := plugins.NewCatalog(s.store, s.host, plugins.CatalogConfig{})
	for n := range 4 {
		if _, err := filling.Upload(t.Context(), "a", guesttest.Accepts(fmt.Sprint(n)).Module(), nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int{2, 3} {
		if _, err := filling.Activate(t.Context(), "a", n, false); err != nil {
			t.Fatal(err)
		}
	}
	_, err = s.Upload(t.Context(), "a", guesttest.Accepts("more").Module(), nil)
	s.wants(plugins.ErrQuota, err, "delete versions of this tenant that are not needed: 1 (1 KiB), 4 (1 KiB), or versions of other tenants")
}

// full is a store without room.
type full struct{ plugins.Artifacts }

func (full) Add(context.Context, string, plugins.Version, []byte) (int, error) {
	return 0, fmt.Errorf("%w: no room", plugins.ErrQuota)
}
