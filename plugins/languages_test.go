//go:build !race

package plugins

// Without the race detector: these too are compiled for half a minute under it.

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/plugins/egress"
	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/sdk/abi"
)

// The verifier in five languages decides in the sandbox, where the host checks
// hashes and codes, what it decides in plugins/wasm, where a test's host does.
func TestFiveLanguagesDecideTheSameInTheSandbox(t *testing.T) {
	for _, language := range guesttest.Languages {
		t.Run(language, func(t *testing.T) {
			module := guesttest.In(t, repository, language)
			host := NewHost(newPool(t), usersOf(t), nil)
			whole := func(context.Context) ([]byte, error) { return module, nil }
			v := Version{
				Number: 1, Name: "users", Digest: digestOf(module), Profile: "core",
				Grants: abi.Grants{Config: true, TOTP: true, Password: []string{"bcrypt"}},
				Limits: abi.Limits{WallMS: 60_000, CPUMS: abi.DefaultCPUMS, MemoryMiB: abi.DefaultMemoryMiB}, // a busy machine is no failure
			}
			ask := func(s guesttest.Sign) {
				t.Helper()
				var request abi.Request
				if err := json.Unmarshal(s.Request, &request); err != nil {
					t.Fatal(err)
				}
				request.NowMS = 59_000 // when rfcCode is right
				out, err := host.try(t.Context(), &hostCalls{host: host, tenant: "a", version: v, kv: host.settings.KV}, request, whole)
				if err != nil {
					t.Fatal(err)
				}
				if out.failure != nil {
					t.Errorf("%s: %s", s.Name, out.Error)
					return
				}
				answer, err := json.Marshal(out.Verdict)
				if err != nil {
					t.Fatal(err)
				}
				var got, want map[string]any
				if err := json.Unmarshal(answer, &got); err != nil {
					t.Fatal(err)
				}
				if claims, _ := got["claims"].(map[string]any); len(claims) == 0 {
					delete(got, "claims") // the host gives those who have none an empty object
				}
				if err := json.Unmarshal([]byte(s.Want), &want); err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("%s: %s, want %s", s.Name, answer, s.Want)
				}
			}
			logins := guesttest.Logins(rfcCode)
			for _, s := range logins {
				ask(s)
			}
			for _, s := range logins {
				if strings.Contains(s.Want, `"otp"]`) { // a code is good once, whoever brings it
					s.Want = `{"decision":"reject","code":"bad_credentials"}`
					ask(s)
				}
			}
			host.settings.Config = func(context.Context, string, string) (json.RawMessage, bool, error) { return nil, false, nil }
			ask(guesttest.Sign{Name: "no configuration", Request: logins[0].Request, Want: `{"decision":"reject","code":"bad_credentials"}`})
			passesItsVectors(t, host, v, language, module)
		})
	}
}

// passesItsVectors holds a project of the SDK against its own vectors: those in its
// manifest, which a server runs at the upload, and those in its file, with the
// configuration that stands there.
func passesItsVectors(t *testing.T, host *Host, v Version, language string, module []byte) {
	t.Helper()
	project := repository + "/sdk/guest/" + language + "/hello/"
	manifest, err := os.ReadFile(project + "doorward.manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	report, err := host.pool.Compile(t.Context(), "a", v.Digest, module)
	if err != nil {
		t.Fatal(err)
	}
	received, vectors, err := describe(report, manifest)
	if err != nil || len(vectors) == 0 || len(received.Warnings) > 0 {
		t.Errorf("its manifest has %d vectors, and is received with %q, %v", len(vectors), received.Warnings, err)
	}
	if err := host.vectors(t.Context(), "a", &received, module, vectors); err != nil || received.Vectors.Failed > 0 {
		t.Errorf("the vectors of its manifest: %+v, %v", received.Vectors, err)
	}

	type step struct {
		Request abi.Request
		Expect  abi.Verdict
	}
	var file struct {
		NowMS   int64 `json:"now_ms"`
		Config  map[string]json.RawMessage
		Vectors []struct {
			Name string
			step
			Steps []step
		}
	}
	text, err := os.ReadFile(project + "vectors.json")
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	if err != nil || len(file.Vectors) < 5 {
		t.Fatalf("its vectors.json has %d vectors, %v", len(file.Vectors), err)
	}
	host.settings.Config = func(_ context.Context, _, key string) (json.RawMessage, bool, error) {
		value, there := file.Config[key]
		return value, there, nil
	}
	for _, vector := range file.Vectors {
		if vector.Steps == nil {
			vector.Steps = []step{vector.step}
		}
		var state json.RawMessage
		for i, s := range vector.Steps {
			s.Request.ABI, s.Request.NowMS, s.Request.Attempt, s.Request.State = abi.Version, file.NowMS, max(1, i), state
			calls := &hostCalls{host: host, tenant: "a", version: v, kv: NewMemoryKV(0)}
			out, err := host.try(t.Context(), calls, s.Request, func(context.Context) ([]byte, error) { return module, nil })
			if err != nil {
				t.Fatal(err)
			}
			if why := mismatch(s.Expect, out); why != "" {
				t.Errorf("%q, step %d: %s", vector.Name, i+1, why)
				break
			}
			state = out.Verdict.Private
		}
	}
}

// Every function of every SDK does what the host does: it was written for each of
// them apart. What Go's says is in TestTheSDKAndTheHostAgree.
func TestEverySDKCallsTheHostAlike(t *testing.T) {
	client, err := egress.New(egress.Config{})
	if err != nil {
		t.Fatal(err)
	}
	grants := everything
	grants.HTTP = &abi.HTTPGrant{Hosts: []string{"127.0.0.1:443"}}
	for _, language := range []string{"c", "rust", "assemblyscript", "js"} {
		t.Run(language, func(t *testing.T) {
			b := newBench(t, Settings{Egress: client})
			module := guesttest.ProbeIn(t, repository, language)
			v := Version{
				Number: 1, Name: "probe", Digest: digestOf(module), Profile: "core", Grants: grants,
				Limits: abi.Limits{WallMS: 60_000, CPUMS: abi.DefaultCPUMS, MemoryMiB: abi.DefaultMemoryMiB},
			}
			calls := &hostCalls{host: b.host, tenant: "a", version: v, kv: b.host.settings.KV}
			request := abi.Request{ABI: abi.Version, Method: "password", Attempt: 1, NowMS: 59_000}
			out, err := b.host.try(t.Context(), calls, request, func(context.Context) ([]byte, error) { return module, nil })
			if err = errors.Join(err, out.failure); err != nil {
				t.Fatal(err)
			}
			var got map[string]string
			if err := json.Unmarshal(out.Verdict.Claims, &got); err != nil {
				t.Fatal(err)
			}
			want := map[string]string{
				"config": "red", "no config": "none", "secret": "10", "secret not granted": "-3",
				"hash":        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
				"hmac":        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
				"secret_hmac": "48", "signature": "-1", "password": "1", "password_hash": "1", "totp": "1", "totp again": "0",
				"get nothing": "none", "put": "none", "incr": "42", "swap other": "0", "swap": "1", "get": "y", "put elsewhere": "-3", "fetch": "-8",
				"equal": "1", "not equal": "0", "random": "8", "now": "59000", // the request's
			}
			switch language {
			case "assemblyscript": // trouble ends the login there
				for _, trouble := range []string{"secret not granted", "signature", "put elsewhere"} {
					delete(want, trouble)
				}
			case "js":
				want["neither text nor bytes"] = "TypeError: config: argument 1 is neither text nor bytes"
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if len(out.Logs) == 0 || out.Logs[0].Text != `a line {"of":["three"]} 3` {
				t.Errorf("its log is %v", out.Logs)
			}
		})
	}
}
