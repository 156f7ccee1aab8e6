package plugins

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/sdk/abi"
)

const repository = ".."

// usersOf gives every tenant the users of guesttest, with real hashes and a real
// secret.
func usersOf(t testing.TB) Settings {
	t.Helper()
	values := guesttest.Users(func(password string) string {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		return string(hash)
	}, rfcSecret)
	return Settings{
		Config: func(_ context.Context, _, key string) (json.RawMessage, bool, error) {
			text, there := values[key]
			value, err := json.Marshal(text)
			return value, there, err
		},
		Secret: func(context.Context, string, string) ([]byte, bool, error) { return nil, false, nil },
	}
}

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
		})
	}
}
