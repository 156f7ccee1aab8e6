package plugins_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/sdk/abi"
)

// shop is a catalog over a directory with a running sandbox.
type shop struct {
	*testing.T
	*plugins.Catalog
	store plugins.Artifacts
	host  *plugins.Host
}

func newShop(t *testing.T, settings plugins.Settings) shop {
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
			t.Errorf("Run ended with %v", err)
		}
	})
	store, host := newDir(t), plugins.NewHost(pool, settings, nil)
	return shop{t, plugins.NewCatalog(store, host, plugins.CatalogConfig{}), store, host}
}

func (s shop) upload(g guesttest.Guest) plugins.Version {
	s.Helper()
	v, err := s.Upload(s.Context(), "a", g.Module(), nil)
	if err != nil {
		s.Fatal(err)
	}
	return v
}

func (s shop) activate(n int) {
	s.Helper()
	if v, err := s.Activate(s.Context(), "a", n, false); err != nil || v.State != plugins.Active || v.Number != n {
		s.Fatalf("activate %d: %+v, %v", n, v, err)
	}
}

// subject is who a login signs in.
func (s shop) subject(call plugins.Call) string {
	s.Helper()
	call.Tenant, call.Request.Method = "a", "password"
	got, err := s.Verify(s.Context(), call)
	if err != nil {
		s.Fatal(err)
	}
	return got.Verdict.Subject
}

func (s shop) states() []plugins.State {
	s.Helper()
	list, err := s.List(s.Context(), "a")
	if err != nil {
		s.Fatal(err)
	}
	var states []plugins.State
	for _, v := range list {
		states = append(states, v.State)
	}
	return states
}

func (s shop) wants(want, err error, text string) {
	s.Helper()
	if !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
		s.Fatalf("err = %v, want %v with %q", err, want, text)
	}
}

func TestAVersionIsStagedActivatedAndRolledBack(t *testing.T) {
	s := newShop(t, plugins.Settings{})
	_, err := s.Verify(t.Context(), plugins.Call{Tenant: "a"})
	s.wants(plugins.ErrVerifier, err, "no active verifier")
	_, err = s.Rollback(t.Context(), "a")
	s.wants(plugins.ErrConflict, err, "")

	one := s.upload(guesttest.Accepts("one"))
	if one.Number != 1 || one.State != plugins.Staged || !strings.HasPrefix(one.Digest, "sha256:") || one.Profile != "core" || one.Limits.WallMS != abi.DefaultWallMS || one.Limits.MemoryMiB != abi.DefaultMemoryMiB {
		t.Fatalf("uploaded %+v", one)
	}
	_, err = s.Verify(t.Context(), plugins.Call{Tenant: "a"})
	s.wants(plugins.ErrVerifier, err, "no active verifier")
	s.activate(1)
	s.upload(guesttest.Accepts("two"))
	if got := s.subject(plugins.Call{}); got != "one" {
		t.Errorf("a staged version decides: %s", got)
	}
	s.activate(2)
	if got := s.subject(plugins.Call{}); got != "two" {
		t.Errorf("after the activation %s", got)
	}
	if got := s.subject(plugins.Call{Version: 1}); got != "one" {
		t.Errorf("a challenge of version 1 is answered by %s", got)
	}
	if got := s.states(); !slices.Equal(got, []plugins.State{plugins.Retired, plugins.Active}) {
		t.Errorf("states %v", got)
	}
	s.wants(plugins.ErrConflict, s.Delete(t.Context(), "a", 2), "active")
	if v, err := s.Rollback(t.Context(), "a"); err != nil || v.Number != 1 {
		t.Fatalf("rolled back to %+v, %v", v, err)
	}
	if got := s.subject(plugins.Call{}); got != "one" {
		t.Errorf("after the way back %s", got)
	}
	if v, err := s.Rollback(t.Context(), "a"); err != nil || v.Number != 2 {
		t.Fatalf("and forth to %+v, %v", v, err)
	}
	if err := s.Delete(t.Context(), "a", 1); err != nil {
		t.Fatal(err)
	}
	_, err = s.Rollback(t.Context(), "a")
	s.wants(plugins.ErrConflict, err, "")
	_, err = s.Get(t.Context(), "a", 1)
	s.wants(plugins.ErrNotFound, err, "")
	s.wants(plugins.ErrNotFound, s.Delete(t.Context(), "a", 1), "")
	_, err = s.Activate(t.Context(), "a", 9, true)
	s.wants(plugins.ErrNotFound, err, "")
	_, err = s.Verify(t.Context(), plugins.Call{Tenant: "a", Version: 1})
	s.wants(plugins.ErrVerifier, err, "")
	_, err = s.Verify(t.Context(), plugins.Call{Tenant: "b"})
	s.wants(plugins.ErrVerifier, err, "no active verifier")

	if err := s.RemoveTenant(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if len(s.states()) > 0 || len(s.Logs("a")) > 0 {
		t.Error("a removed tenant has versions or logs")
	}
}

func TestANewGrantNeedsApproval(t *testing.T) {
	s := newShop(t, plugins.Settings{})
	plain := guesttest.Accepts("plain")
	asks := guesttest.Imports(guesttest.Import{Module: abi.Module, Name: abi.FuncConfigGet, Params: 2, Result: true})
	s.upload(plain)
	if v := s.upload(asks); !v.Grants.Config {
		t.Fatalf("granted %+v", v.Grants)
	}
	s.activate(1)
	_, err := s.Activate(t.Context(), "a", 2, false)
	s.wants(plugins.ErrConflict, err, `"config": true`)
	if got := s.states(); !slices.Equal(got, []plugins.State{plugins.Active, plugins.Staged}) {
		t.Errorf("states %v", got)
	}
	if _, err := s.Activate(t.Context(), "a", 2, true); err != nil {
		t.Fatal(err)
	}
	s.activate(1) // fewer grants need nobody
	// A tenant's first activation needs no approval.
	if _, err := s.Upload(t.Context(), "b", asks.Module(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Activate(t.Context(), "b", 1, false); err != nil {
		t.Errorf("a tenant's first: %v", err)
	}
}

func TestGrantsAreComparedOneByOne(t *testing.T) {
	a := abi.Grants{Config: true, Secrets: []string{"A"}, Password: []string{"bcrypt"}, HTTP: &abi.HTTPGrant{Hosts: []string{"a.test:443"}}, KV: &abi.KVGrant{Namespaces: []string{"otp"}}}
	b := abi.Grants{Config: true, Hash: true, HMAC: true, SigVerify: true, TOTP: true, Secrets: []string{"A", "B"}, Password: []string{"*"},
		HTTP: &abi.HTTPGrant{Hosts: []string{"a.test:443", "b.test:443"}}, KV: &abi.KVGrant{Namespaces: []string{"otp", "seen"}}}
	if got := plugins.AddedGrants(a, b); len(got) != 8 {
		t.Errorf("added: %q", got)
	}
	if got := plugins.AddedGrants(b, a); len(got) != 0 { // bcrypt is one of all schemes
		t.Errorf("the other way: %q", got)
	}
	calls := func(n int) abi.Grants {
		return abi.Grants{HTTP: &abi.HTTPGrant{Hosts: []string{"a.test:443"}, MaxCalls: n}}
	}
	for _, c := range []struct{ from, to, added int }{{0, 2, 0}, {2, 0, 0}, {0, 5, 1}, {5, 0, 0}, {5, 3, 0}, {3, 5, 1}} {
		if got := plugins.AddedGrants(calls(c.from), calls(c.to)); len(got) != c.added {
			t.Errorf("from %d calls to %d: %q", c.from, c.to, got)
		}
	}
}

// Who activates has seen what changes before being asked to approve it.
func TestAVersionShowsHowItsGrantsDifferFromTheActiveOnes(t *testing.T) {
	s := newShop(t, plugins.Settings{})
	needs := func(name string, params int) guesttest.Guest {
		return guesttest.Imports(guesttest.Import{Module: abi.Module, Name: name, Params: params, Result: true})
	}
	config, hash := needs(abi.FuncConfigGet, 2), needs(abi.FuncHash, 3)
	if v := s.upload(config); v.GrantsDiff != nil {
		t.Errorf("against nothing: %+v", v.GrantsDiff)
	}
	s.activate(1)
	want := &plugins.GrantsDiff{Against: 1, Added: []string{`"hash": true`}, Removed: []string{`"config": true`}}
	if v := s.upload(hash); !reflect.DeepEqual(v.GrantsDiff, want) {
		t.Errorf("uploaded %+v", v.GrantsDiff)
	}
	if v := s.upload(config); !reflect.DeepEqual(v.GrantsDiff, &plugins.GrantsDiff{Against: 1, Added: []string{}, Removed: []string{}}) {
		t.Errorf("the same grants: %+v", v.GrantsDiff)
	}
	list, err := s.List(t.Context(), "a")
	if err != nil || list[0].GrantsDiff != nil || !reflect.DeepEqual(list[1].GrantsDiff, want) {
		t.Errorf("listed %+v, %v", list, err)
	}
	if v, err := s.Activate(t.Context(), "a", 2, true); err != nil || v.GrantsDiff != nil {
		t.Errorf("activated %+v, %v", v, err)
	}
	want = &plugins.GrantsDiff{Against: 2, Added: want.Removed, Removed: want.Added}
	if v, err := s.Get(t.Context(), "a", 1); err != nil || !reflect.DeepEqual(v.GrantsDiff, want) {
		t.Errorf("the other way: %+v, %v", v.GrantsDiff, err)
	}
}

// before is a store in which another engine staged the versions, and passed them.
type before struct {
	plugins.Artifacts
	vectors int
}

func (b before) Add(ctx context.Context, tenant string, v plugins.Version, module []byte) (int, error) {
	v.Engine, v.Vectors, v.Warnings = "of before", plugins.Tally{Passed: b.vectors}, []string{}
	return b.Artifacts.Add(ctx, tenant, v, module)
}

func TestVectorsThatAnotherEnginePassedRunAgainBeforeAnActivation(t *testing.T) {
	s := newShop(t, plugins.Settings{})
	two := []byte(`{"abi":1,"vectors":[{"name":"in","request":{},"expect":{"decision":"accept"}},{"name":"who","request":{},"expect":{"subject":"alice"}}]}`)
	inside := guesttest.Accepts("alice")
	inside.Manifest = two
	old := plugins.NewCatalog(before{s.store, 2}, s.host, plugins.CatalogConfig{})
	upload := func(g guesttest.Guest, beside []byte) int {
		t.Helper()
		v, err := old.Upload(t.Context(), "a", g.Module(), beside)
		if err != nil || v.Manifest != nil {
			t.Fatalf("uploaded %+v, %v", v, err)
		}
		return v.Number
	}
	for what, n := range map[string]int{"inside": upload(inside, nil), "beside": upload(guesttest.Accepts("alice"), two)} {
		v, err := s.Activate(t.Context(), "a", n, false)
		if err != nil || !reflect.DeepEqual(v.Vectors, plugins.Tally{Passed: 2}) || v.Engine == "of before" || v.Manifest != nil {
			t.Errorf("vectors %s: %+v, %v", what, v, err)
		}
		if v, err := s.Get(t.Context(), "a", n); err != nil || v.Engine == "of before" || v.Manifest != nil {
			t.Errorf("vectors %s, read again: %+v, %v", what, v, err)
		}
	}
	n := upload(guesttest.Accepts("bob"), two)
	_, err := s.Activate(t.Context(), "a", n, false)
	s.wants(plugins.ErrConflict, err, `failed 1 of its 2 vectors`)
	s.wants(plugins.ErrConflict, err, `vector 2 "who" failed: subject is "bob", not "alice"`)
	if got := s.subject(plugins.Call{}); got != "alice" {
		t.Errorf("signed in as %s", got)
	}
	n = upload(guesttest.Accepts("carol"), nil) // from before manifests were kept
	_, err = s.Activate(t.Context(), "a", n, false)
	s.wants(plugins.ErrConflict, err, "upload it again")
}

func TestAManifestBesideAModuleIsBounded(t *testing.T) {
	s := newShop(t, plugins.Settings{})
	manifest := `{"abi":1,"vectors":[{"name":"` + strings.Repeat("x", 128<<10) + `"}]}`
	_, err := s.Upload(t.Context(), "a", guesttest.Accepts("alice").Module(), []byte(manifest))
	s.wants(plugins.ErrInvalid, err, "131072 are the limit")
}

// Nobody can decide the answer any more, and the error says so that the user may
// begin anew.
func TestAChallengeOfADeletedVersionIsToldFromABrokenVerifier(t *testing.T) {
	s := newShop(t, plugins.Settings{})
	for n := range 2 {
		s.upload(guesttest.Asks())
		s.activate(n + 1)
	}
	if err := s.Delete(t.Context(), "a", 1); err != nil {
		t.Fatal(err)
	}
	_, err := s.Verify(t.Context(), plugins.Call{Tenant: "a", Version: 1})
	s.wants(plugins.ErrVerifier, err, "")
	s.wants(plugins.ErrNotFound, err, "")
	if logs := s.Logs("a"); len(logs) != 1 || logs[0].Version != 1 || !strings.Contains(logs[0].Text, "deleted") {
		t.Errorf("logs %+v", logs)
	}
}

func TestTheLastTwentyVersionsAreKept(t *testing.T) {
	s := newShop(t, plugins.Settings{})
	one := guesttest.Accepts("one")
	s.upload(one)
	s.upload(one)
	s.activate(1)
	for range 22 {
		s.upload(one)
	}
	list, err := s.List(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int
	for _, v := range list {
		numbers = append(numbers, v.Number)
	}
	if len(numbers) < 20 || len(numbers) > 21 || numbers[0] != 1 || slices.Contains(numbers, 2) || numbers[len(numbers)-1] != 24 {
		t.Errorf("kept %v: the active one and the last twenty", numbers)
	}
	if got := s.subject(plugins.Call{}); got != "one" {
		t.Errorf("signed in as %s", got)
	}
}

// A user who was asked for a code while a tenant uploads and activates again and
// again gives it to the version that asked.
func TestAVersionThatWasActiveLatelyDecidesTheAnswersToItsChallenges(t *testing.T) {
	s := newShop(t, plugins.Settings{})
	for n := range 3 { // the third is active, the second is what was before
		s.upload(guesttest.Accepts(fmt.Sprint("v", n+1)))
		s.activate(n + 1)
	}
	for range 22 {
		s.upload(guesttest.Accepts("spare"))
	}
	if got := s.subject(plugins.Call{Version: 1}); got != "v1" {
		t.Errorf("version 1 signed in %s", got)
	}
	if _, err := s.Get(t.Context(), "a", 4); !errors.Is(err, plugins.ErrNotFound) {
		t.Errorf("a version that never was active: %v", err)
	}
}

// JSON escapes some bytes, which once made a credential that the login took
// larger than what a guest is sent: 503, as if the verifier were broken.
func TestACredentialIsTakenOrTooLargeNeverTheVerifiersFault(t *testing.T) {
	s := newShop(t, plugins.Settings{})
	s.upload(guesttest.Accepts("alice"))
	s.activate(1)
	for _, unit := range []string{"a", "<", "&", "\u2028", "\x01"} {
		password := strings.Repeat(unit, 16<<10/max(len(unit), len(strings.Trim(strconv.QuoteToASCII(unit), "\"")))/2*2)
		if got := s.subject(plugins.Call{Request: abi.Request{Credential: abi.Credential{"password": password}}}); got != "alice" {
			t.Errorf("%d of %q signed in %s", len(password), unit, got)
		}
	}
	_, err := s.Verify(t.Context(), plugins.Call{Tenant: "a", Request: abi.Request{Method: "password", Credential: abi.Credential{"password": strings.Repeat("a", abi.MaxInput)}}})
	s.wants(plugins.ErrTooLarge, err, "65536 are the limit")
	if errors.Is(err, plugins.ErrVerifier) {
		t.Errorf("the verifier has the fault: %v", err)
	}
}

func TestAModuleMustPassItsVectors(t *testing.T) {
	s := newShop(t, plugins.Settings{})
	guest := guesttest.Accepts("alice")
	vectors := func(expect ...string) []byte {
		return []byte(`{"abi":1,"name":"n","vectors":[{"name":"v","request":{},"expect":` + strings.Join(expect, `},{"name":"w","request":{},"expect":`) + `}]}`)
	}
	guest.Manifest = vectors(`{"decision":"accept"}`, `{"decision":"accept","subject":"alice"}`)
	if v := s.upload(guest); !reflect.DeepEqual(v.Vectors, plugins.Tally{Passed: 2}) || len(v.Warnings) > 0 || v.Name != "n" {
		t.Fatalf("uploaded %+v", v)
	}
	s.activate(1)
	for _, wrong := range []string{`{"decision":"reject"}`, `{"subject":"bob"}`} {
		guest.Manifest = vectors(`{"decision":"accept"}`, wrong)
		v := s.upload(guest)
		if f := v.Vectors.Failures; v.Vectors.Passed != 1 || v.Vectors.Failed != 1 || len(v.Warnings) != 1 || len(f) != 1 || f[0].Vector != 2 || f[0].Name != "w" || !strings.Contains(f[0].Why, "not") {
			t.Fatalf("uploaded %+v", v)
		}
		_, err := s.Activate(t.Context(), "a", v.Number, true)
		s.wants(plugins.ErrConflict, err, "failed 1 of its 2 vectors")
	}
	if got := s.subject(plugins.Call{}); got != "alice" {
		t.Errorf("signed in as %s", got)
	}
}

func TestAManifestIsReadStrictly(t *testing.T) {
	s := newShop(t, plugins.Settings{})
	secret := guesttest.Imports(guesttest.Import{Module: abi.Module, Name: abi.FuncSecretGet, Params: 2, Result: true})
	password := guesttest.Imports(guesttest.Import{Module: abi.Module, Name: abi.FuncPasswordVerify, Params: 4, Result: true})
	plain := guesttest.Accepts("a")
	big := plain
	big.Pages = 33 * 16
	long := func(n int) string { return `"` + strings.Repeat("x", n) + `"` }
	for name, c := range map[string]struct {
		guest    guesttest.Guest
		manifest string // "": none
		want     string // in the error; "": accepted
	}{
		"none":                         {plain, ``, ""},
		"the least":                    {plain, `{"abi":1}`, ""},
		"a secret without a manifest":  {secret, ``, `"secrets"`},
		"a secret that is not named":   {secret, `{"abi":1}`, `"secrets"`},
		"a secret that is named":       {secret, `{"abi":1,"grants":{"secrets":["PW"]}}`, ""},
		"passwords without a manifest": {password, ``, ""},
		"passwords that are not asked": {password, `{"abi":1}`, `"password"`},
		"no abi":                       {plain, `{}`, `"abi": 0`},
		"the next abi":                 {plain, `{"abi":2}`, `"abi": 2`},
		"no JSON":                      {plain, `abi: 1`, "cannot be read"},
		"null":                         {plain, `null`, `"abi"`},
		"an unknown member":            {plain, `{"abi":1,"grant":{}}`, "cannot be read"},
		"an unknown grant":             {plain, `{"abi":1,"grants":{"root":true}}`, "cannot be read"},
		"a member twice":               {plain, `{"abi":1,"abi":1}`, "cannot be read"},
		"a member in another case":     {plain, `{"abi":1,"Grants":{}}`, "cannot be read"},
		"something after it":           {plain, `{"abi":1} {}`, "cannot be read"},
		"a wrong type":                 {plain, `{"abi":1,"methods":"password"}`, "cannot be read"},
		"too long a name":              {plain, `{"abi":1,"name":` + long(101) + `}`, "too long"},
		"too long a version":           {plain, `{"abi":1,"version":` + long(41) + `}`, "too long"},
		"a wall below its floor":       {plain, `{"abi":1,"limits":{"wall_ms":9}}`, "wall_ms"},
		"a wall at its ceiling":        {plain, `{"abi":1,"limits":{"wall_ms":5000,"memory_mib":64}}`, ""},
		"a wall above its ceiling":     {plain, `{"abi":1,"limits":{"wall_ms":5001}}`, "wall_ms"},
		"a wall below zero":            {plain, `{"abi":1,"limits":{"wall_ms":-1}}`, "wall_ms"},
		"memory above its ceiling":     {plain, `{"abi":1,"limits":{"memory_mib":65}}`, "memory_mib"},
		"a module that starts too big": {big, ``, "memory"},
		"a module that says how big":   {big, `{"abi":1,"limits":{"memory_mib":33}}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var beside []byte
			if c.manifest != "" {
				beside = []byte(c.manifest)
			}
			before := len(s.states())
			_, err := s.Upload(t.Context(), "a", c.guest.Module(), beside)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, plugins.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("err = %v, want ErrInvalid with %q", err, c.want)
			}
			if len(s.states()) != before {
				t.Error("what was refused is stored")
			}
		})
	}
	within := plain
	within.Manifest = []byte(`{"abi":1,"name":"within"}`)
	_, err := s.Upload(t.Context(), "a", within.Module(), []byte(`{"abi":1,"name":"beside"}`))
	s.wants(plugins.ErrInvalid, err, "differ")
	if v, err := s.Upload(t.Context(), "a", within.Module(), []byte(" "+string(within.Manifest)+"\n")); err != nil || v.Name != "within" {
		t.Errorf("the same twice: %+v, %v", v, err)
	}
	for name, module := range map[string][]byte{"empty": {}, "too large": make([]byte, abi.DefaultModule+1), "no module": []byte("hello"), "a bomb": guesttest.Bomb()} {
		if _, err := s.Upload(t.Context(), "a", module, nil); !errors.Is(err, plugins.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestATryShowsAllAndSignsNobodyIn(t *testing.T) {
	asked := ""
	s := newShop(t, plugins.Settings{Config: func(_ context.Context, tenant, key string) (json.RawMessage, bool, error) {
		asked = tenant + "/" + key
		return json.RawMessage(`"v"`), true, nil
	}})
	s.upload(guesttest.Rejects())
	trace, err := s.Try(t.Context(), "a", 1, abi.Request{ABI: 1, Method: "password"})
	if err != nil || trace.Decision != abi.Reject || trace.Verdict == nil || trace.Error != "" || trace.MemoryKiB != 64 {
		t.Errorf("trace %+v, %v", trace, err)
	}
	s.upload(guesttest.Traps())
	trace, err = s.Try(t.Context(), "a", 2, abi.Request{ABI: 1, Method: "password"})
	if err != nil || trace.Verdict != nil || !strings.Contains(trace.Error, "unreachable") || strings.Contains(trace.Error, ".go") {
		t.Errorf("trace %+v, %v", trace, err)
	}
	_, err = s.Try(t.Context(), "a", 3, abi.Request{})
	s.wants(plugins.ErrNotFound, err, "")
	if asked != "" {
		t.Errorf("settings were read unasked: %s", asked)
	}

	s.upload(guesttest.Takes(16))
	trace, err = s.Try(t.Context(), "a", 3, abi.Request{ABI: 1, Method: "password"})
	if err != nil || trace.Decision != abi.Accept || trace.MemoryKiB != 17*64 || trace.Fuel <= 0 || trace.DurationMS <= 0 {
		t.Errorf("trace %+v, %v", trace, err)
	}

	// What it calls, in its order; not with what, nor what came of it.
	caller := guesttest.Accepts("caller")
	for i, name := range []string{abi.FuncSecretGet, abi.FuncConfigGet} { // each with the four bytes at 0
		caller.Imports = append(caller.Imports, guesttest.Import{Module: abi.Module, Name: name, Params: 2, Result: true})
		caller.Code = append([]byte{0x41, 0, 0x41, 4, 0x10, byte(i + 1), 0x1a}, caller.Code...)
	}
	caller.Manifest = []byte(`{"abi":1,"grants":{"config":true,"secrets":["PW"]}}`)
	s.upload(caller)
	trace, err = s.Try(t.Context(), "a", 4, abi.Request{ABI: 1, Method: "password"})
	if err != nil || trace.Decision != abi.Accept || len(trace.HostCalls) != 2 {
		t.Fatalf("trace %+v, %v", trace, err)
	}
	if first := trace.HostCalls[0]; first.Name != abi.FuncConfigGet || first.Outcome != "ok" || first.Result != 1 || asked != `a/{"de` {
		t.Errorf("first %+v, which asked for %s", first, asked)
	}
	if second := trace.HostCalls[1]; second.Name != abi.FuncSecretGet || second.Outcome != "not_granted" || second.Result != abi.ErrNotGranted {
		t.Errorf("second %+v", second)
	}
}

// A verdict that breaks the rules is no verdict, and the tenant's log says why.
func TestNonsenseIsNoVerdict(t *testing.T) {
	s := newShop(t, plugins.Settings{})
	for i, answer := range []string{`{"decision":"accept","subject":"a","claims":{"sub":"root"}}`, `{"decision":"accept"}`, `nonsense`} {
		v := s.upload(guesttest.Answers(answer))
		s.activate(v.Number)
		_, err := s.Verify(t.Context(), plugins.Call{Tenant: "a", Request: abi.Request{ABI: 1, Method: "password"}})
		s.wants(plugins.ErrVerifier, err, fmt.Sprintf("version %d", v.Number))
		if logs := s.Logs("a"); len(logs) != i+1 || logs[i].Level != "error" || logs[i].Version != v.Number {
			t.Errorf("logs %+v", logs)
		}
	}
	only := guesttest.Accepts("a")
	only.Manifest = []byte(`{"abi":1,"methods":["passkey"]}`)
	s.activate(s.upload(only).Number)
	_, err := s.Verify(t.Context(), plugins.Call{Tenant: "a", Request: abi.Request{ABI: 1, Method: "password"}})
	s.wants(plugins.ErrMethod, err, "method")
	if trace, err := s.Try(t.Context(), "a", 4, abi.Request{ABI: 1, Method: "password"}); err != nil || trace.Verdict != nil || !strings.Contains(trace.Error, `"password" is none of ["passkey"]`) {
		t.Errorf("tried as %+v, %v", trace, err)
	}
}
