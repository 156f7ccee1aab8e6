package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/plugins/artifacttest"
	pluginsetcd "github.com/doorward/doorward/plugins/etcd"
)

// The exam of artifacts, on a real member that each part finds empty.
func TestArtifactsInEtcdSitTheExam(t *testing.T) {
	client := startMember(t)
	artifacttest.Run(t, func(t *testing.T) plugins.Artifacts {
		if _, err := client.Delete(t.Context(), "", clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
		return pluginsetcd.New(client, 0)
	})
}

// shelf is artifacts in etcd with what a test needs to look behind them.
type shelf struct {
	testing.TB
	*pluginsetcd.Artifacts
	client *clientv3.Client
}

// pack is a module of three pieces in etcd, and its digest.
func pack(seed byte) (module []byte, digest string) {
	module = make([]byte, 2<<20+100)
	rand.NewChaCha8([32]byte{seed}).Read(module)
	return module, fmt.Sprintf("sha256:%x", sha256.Sum256(module))
}

func (s shelf) add(ctx context.Context, tenant string, module []byte, digest string) error {
	_, err := s.Add(ctx, tenant, plugins.Version{Digest: digest, Size: len(module)}, module)
	return err
}

// keys lists what lies under a prefix of the store.
func (s shelf) keys(prefix string) []string {
	s.Helper()
	got, err := s.client.Get(s.Context(), prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		s.Fatal(err)
	}
	var list []string
	for _, kv := range got.Kvs {
		list = append(list, string(kv.Key))
	}
	return list
}

func (s shelf) drop(key string, options ...clientv3.OpOption) {
	s.Helper()
	if _, err := s.client.Delete(s.Context(), key, options...); err != nil {
		s.Fatal(err)
	}
}

// Each login reads the active version: what only an activation needs is not in
// it. Of two versions with the largest manifests one takes over from the other in
// one transaction, of which etcd takes 1.5 MiB.
func TestALoginDoesNotReadAManifest(t *testing.T) {
	client := startMember(t)
	s := shelf{t, pluginsetcd.New(client, 0), client}
	module, digest := pack(1)
	manifest := fmt.Appendf(nil, `{"abi":1,"name":%q}`, strings.Repeat("x", 128<<10))
	at := plugins.Pointer{}
	for n := 1; n <= 2; n++ {
		v := plugins.Version{Digest: digest, Size: len(module), Manifest: manifest}
		var err error
		if v.Number, err = s.Add(t.Context(), "a", v, module); err != nil {
			t.Fatal(err)
		}
		list, err := s.Versions(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SetActive(t.Context(), "a", at, plugins.Pointer{Active: n, Previous: n - 1}, list); err != nil {
			t.Fatal(err)
		}
		if at, err = s.Active(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		got, err := client.Get(t.Context(), "/dw/p/active/a")
		if err != nil || len(got.Kvs) != 1 || len(got.Kvs[0].Value) > 1<<10 {
			t.Fatalf("a login reads %d bytes, %v", len(got.Kvs[0].Value), err)
		}
		if v, err := s.Version(t.Context(), "a", n); err != nil || !bytes.Equal(v.Manifest, manifest) {
			t.Errorf("the version lost its manifest: %d bytes, %v", len(v.Manifest), err)
		}
	}
}

func TestWhatACrashLeftOfArtifactsIsSwept(t *testing.T) {
	client := startMember(t)
	s := shelf{t, pluginsetcd.New(client, 0), client}
	whole, wholeDigest := pack(1)
	cut, cutDigest := pack(2)
	blob := func(digest string) string { return "/dw/p/blob/" + digest + "/" }

	if err := s.add(t.Context(), "a", whole, wholeDigest); err != nil {
		t.Fatal(err)
	}
	if pieces := s.keys(blob(wholeDigest)); len(pieces) != 4 {
		t.Fatalf("a module of three pieces lies in %q", pieces)
	}
	if err := s.add(t.Context(), "b", whole, wholeDigest); err != nil {
		t.Fatal(err)
	}
	if pieces := s.keys("/dw/p/blob/"); len(pieces) != 4 {
		t.Fatalf("made by two tenants it lies in %q", pieces)
	}

	// An upload that a crash cut: its mark and a piece or two, no version.
	mark := "/dw/p/ref/" + cutDigest + "/adding/crashed"
	for key, value := range map[string]string{mark: "", blob(cutDigest) + "0000": "x", blob(cutDigest) + "0001": "y"} {
		if _, err := client.Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Module(t.Context(), cutDigest); !errors.Is(err, plugins.ErrNotFound) {
		t.Errorf("half a module is given out: %v", err)
	}
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(s.keys(blob(cutDigest))) != 2 {
		t.Error("an upload whose mark stands may still be going on: its pieces were swept")
	}
	s.drop(mark) // its lease ends
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := s.keys(blob(cutDigest)); len(left) > 0 {
		t.Errorf("left of the cut upload: %q", left)
	}

	// Uploaded again over what a crash left, it is whole.
	if _, err := client.Put(t.Context(), blob(cutDigest)+"0000", "x"); err != nil {
		t.Fatal(err)
	}
	if err := s.add(t.Context(), "a", cut, cutDigest); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Module(t.Context(), cutDigest); err != nil || !bytes.Equal(got, cut) {
		t.Errorf("after a second try: %d bytes, %v", len(got), err)
	}

	// A remove that a crash cut: the version is gone, its module is not.
	s.drop("/dw/p/ver/a/00000002")
	s.drop("/dw/p/ref/"+cutDigest+"/", clientv3.WithPrefix())
	// A tenant's remove that a crash cut after its first version.
	s.drop("/dw/p/ref/" + wholeDigest + "/b/00000001")
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := s.keys(blob(cutDigest)); len(left) > 0 {
		t.Errorf("left of the cut remove: %q", left)
	}
	if got, err := s.Module(t.Context(), wholeDigest); err != nil || !bytes.Equal(got, whole) {
		t.Errorf("a module in use was swept: %d bytes, %v", len(got), err)
	}
	for _, tenant := range []string{"b", "a"} { // again, to the end
		if err := s.RemoveTenant(t.Context(), tenant); err != nil {
			t.Fatal(err)
		}
	}
	if left := s.keys("/dw/p/"); len(left) > 0 {
		t.Errorf("left of all: %q", left)
	}
}

// An upload whose context ends half-way has stored no version, and leaves
// nothing that a sweep does not take once its mark has gone.
func TestAnUploadThatIsGivenUpLeavesNothing(t *testing.T) {
	client := startMember(t)
	s := shelf{t, pluginsetcd.New(client, 0), client}
	module, digest := pack(3)
	ctx, cancel := context.WithCancel(t.Context())
	watch := client.Watch(t.Context(), "/dw/p/blob/"+digest+"/0000")
	done := make(chan error, 1)
	go func() { done <- s.add(ctx, "a", module, digest) }()
	<-watch // its first piece is there
	cancel()
	err := <-done
	versions, listing := s.Versions(t.Context(), "a")
	if listing != nil {
		t.Fatal(listing)
	}
	if err == nil { // it was quicker than we
		if len(versions) != 1 {
			t.Fatalf("stored, and yet: %v", versions)
		}
		return
	}
	if !errors.Is(err, plugins.ErrUnavailable) || len(versions) != 0 {
		t.Fatalf("err = %v, versions %v", err, versions)
	}
	s.drop("/dw/p/ref/"+digest+"/adding/", clientv3.WithPrefix())
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := s.keys("/dw/p/"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

func TestADamagedModuleIsNotGivenOut(t *testing.T) {
	client := startMember(t)
	s := shelf{t, pluginsetcd.New(client, 0), client}
	module, digest := pack(4)
	if err := s.add(t.Context(), "a", module, digest); err != nil {
		t.Fatal(err)
	}
	piece := "/dw/p/blob/" + digest + "/0001"
	got, err := client.Get(t.Context(), piece)
	if err != nil || len(got.Kvs) != 1 {
		t.Fatalf("no %s: %v", piece, err)
	}
	damaged := bytes.Clone(got.Kvs[0].Value)
	damaged[len(damaged)/2] ^= 1
	for name, harm := range map[string]func() error{
		"a bit turned":    func() error { _, err := client.Put(t.Context(), piece, string(damaged)); return err },
		"a piece missing": func() error { _, err := client.Delete(t.Context(), piece); return err },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		code, err := s.Module(t.Context(), digest)
		if !errors.Is(err, plugins.ErrUnavailable) || code != nil {
			t.Errorf("%s: %d bytes, %v", name, len(code), err)
		}
		if err != nil && !strings.Contains(err.Error(), digest) {
			t.Errorf("%s: the error does not say which: %v", name, err)
		}
	}
}

// Pointers of before had no copy of their version.
func TestAnActiveVersionWithoutACopyIsRead(t *testing.T) {
	client := startMember(t)
	s := shelf{t, pluginsetcd.New(client, 0), client}
	module, digest := pack(1)
	if err := s.add(t.Context(), "a", module, digest); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(t.Context(), "/dw/p/active/a", `{"active":1,"previous":0}`); err != nil {
		t.Fatal(err)
	}
	if v, err := s.ActiveVersion(t.Context(), "a"); err != nil || v.Number != 1 || v.Digest != digest {
		t.Errorf("active is %+v, %v", v, err)
	}
}
