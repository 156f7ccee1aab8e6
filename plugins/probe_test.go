package plugins

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/plugins/egress"
	"github.com/doorward/doorward/sdk/abi"
)

// builtGuest is a verifier in Go, built now.
func builtGuest(t *testing.T, folder string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "guest.wasm")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildmode=c-shared", "-ldflags=-s -w", "-o", file, folder)
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	module, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return module
}

// The SDK's functions and the host's are written apart, in Go of two kinds.
func TestTheSDKAndTheHostAgree(t *testing.T) {
	module := builtGuest(t, "./testdata/probe")
	client, err := egress.New(egress.Config{})
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, Settings{Egress: client})
	grants := everything
	grants.HTTP = &abi.HTTPGrant{Hosts: []string{"127.0.0.1:443"}}
	grants.Secrets = []string{"PEPPER"}
	out := b.run(grants, module, 59_000)
	if out.failure != nil {
		t.Fatal(out.Error)
	}
	var got map[string]string
	if err := json.Unmarshal(out.Verdict.Claims, &got); err != nil {
		t.Fatal(err)
	}
	const nothing = " <nil>"
	want := map[string]string{
		"config": "red" + nothing, "secret": "10" + nothing, "secret not granted": " not granted; ask for it in the manifest",
		"hash":        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" + nothing,
		"hmac":        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843" + nothing,
		"secret_hmac": got["secret_hmac"], "hash 99": " host error -9", "signature": "false not valid", "password": "true" + nothing,
		"totp": "true" + nothing, "totp again": "false" + nothing,
		"get nothing": " not found", "put": nothing, "incr": "42" + nothing, "swap other": "false" + nothing, "swap": "true" + nothing, "get": "y" + nothing,
		"put elsewhere": " not granted; ask for it in the manifest",
		"fetch":         " no answer from there; the tenant's log says why",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if !strings.HasSuffix(got["secret_hmac"], nothing) || len(got["secret_hmac"]) != 8+len(nothing) {
		t.Errorf("secret_hmac: %q", got["secret_hmac"])
	}
	request := abi.Request{ABI: abi.Version, Method: "fails"}
	calls := &hostCalls{host: b.host, tenant: "a", kv: b.host.settings.KV, version: Version{
		Number: 1, Digest: digestOf(module), Profile: "core", Grants: grants, Limits: abi.Limits{WallMS: 5000, MemoryMiB: 32},
	}}
	if out := b.host.run(t.Context(), calls, request, nil); !strings.Contains(out.Error, "as it was told to") || out.Verdict != nil {
		t.Errorf("Fail: %q", out.Error)
	}
}
