package plugins

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/plugins/egress"
	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/sdk/abi"
)

// rehearse examines a module and makes it ready.
func rehearse(t *testing.T, module []byte, manifest string) *Rehearsal {
	t.Helper()
	var beside []byte
	if manifest != "" {
		beside = []byte(manifest)
	}
	e, err := Examine(module, beside)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Rehearse(t.Context(), newPool(t), e)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// suite reads vectors.
func suite(t *testing.T, text string) Suite {
	t.Helper()
	s, err := ReadSuite([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// play runs the first vector.
func (r *Rehearsal) play(t *testing.T, s Suite) Played {
	t.Helper()
	p, err := r.Play(t.Context(), s, s.Vectors[0])
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const oneLogin = `[{"name": "a login", "request": {"credential": {"username": "alice"}}, "expect": {"decision": "accept"}}]`

func TestWhatASuiteSaysTakesTheTenantsPlace(t *testing.T) {
	text, err := os.ReadFile("../sdk/guest/c/hello/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	manifest := `{"abi":1,"grants":{"config":true,"totp":true,"password":["*"]},"limits":{"wall_ms":5000}}`
	r := rehearse(t, guesttest.In(t, repository, "c"), manifest)
	s := suite(t, string(text))
	for _, scene := range s.Vectors {
		p, err := r.Play(t.Context(), s, scene)
		if err != nil {
			t.Fatal(err)
		}
		if p.Why != "" || len(p.Steps) != max(1, len(scene.Steps)) {
			t.Errorf("%s: %d steps, %q", scene.Name, len(p.Steps), p.Why)
		}
	}
	// A scene's own settings are all that it has; the step that fails is the last.
	s.Vectors[0].Config = map[string]json.RawMessage{"alice": json.RawMessage(`"x"`)}
	p := r.play(t, s)
	if p.Why != `decision is "reject", not "accept"` || len(p.Steps) != 1 {
		t.Errorf("another configuration: %+v", p)
	}
	second := slices.IndexFunc(s.Vectors, func(scene Scene) bool { return len(scene.Steps) == 2 && scene.Name == "a password and a code" })
	s.Vectors[second].NowMS = 600_000
	p, err = r.Play(t.Context(), s, s.Vectors[second])
	if err != nil || p.Why != `step 2: decision is "reject", not "accept"` || len(p.Steps) != 2 || !strings.Contains(p.Hint, "now_ms") {
		t.Errorf("at another time: %+v, %v", p, err)
	}
}

// The second step has the first one's state and counts as the first answer.
func TestARequestIsFilledInAsAServerWould(t *testing.T) {
	r := &Rehearsal{of: Examination{Version: Version{Methods: []string{"pin"}}}}
	first := r.fill(abi.Request{}, abi.Request{}, nil, 59_000)
	second := r.fill(abi.Request{}, first, json.RawMessage(`{"user":"bob"}`), 59_000)
	third := r.fill(abi.Request{Method: "password"}, second, json.RawMessage(`{"user":"eve"}`), 59_000)
	want := []abi.Request{
		{ABI: 1, Tenant: "test", Method: "pin", RequestID: "test", Attempt: 1, NowMS: 59_000},
		{ABI: 1, Tenant: "test", Method: "pin", RequestID: "test", Attempt: 1, NowMS: 59_000, State: json.RawMessage(`{"user":"bob"}`)},
		{ABI: 1, Tenant: "test", Method: "password", RequestID: "test", Attempt: 2, NowMS: 59_000, State: json.RawMessage(`{"user":"eve"}`)},
	}
	if diff := cmp.Diff(want, []abi.Request{first, second, third}); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestAGuestsClockIsTheScenes(t *testing.T) {
	tells := guesttest.Guest{
		Imports: []guesttest.Import{{Module: abi.Module, Name: abi.FuncNowMS, Result: true}, {Module: abi.Module, Name: abi.FuncFail, Params: 3}},
		Code:    []byte{0x10, 0, 0xa7, 0x41, 0, 0x41, 0, 0x10, 1, 0x41, 0}, // fail(i32.wrap_i64(now_ms()), 0, 0)
	}
	p := rehearse(t, tells.Module(), "").play(t, suite(t, `{"now_ms": 59000, "vectors": `+oneLogin+`}`))
	if !strings.Contains(p.Why, "the guest failed with code 59000") {
		t.Errorf("%+v", p)
	}
}

// A trap's stack names functions as the module's section "name" does, though what
// runs is another module: the rewriter keeps every index.
func TestATrapsStackHasTheModulesNames(t *testing.T) {
	name := append([]byte{1}, guesttest.Str("\x01\x00"+"\x06verify")...)
	module := append(guesttest.Traps().Module(), guesttest.Section(0, append(guesttest.Str("name"), name...))...)
	p := rehearse(t, module, "").play(t, suite(t, oneLogin))
	if len(p.Steps) != 1 || !cmp.Equal(p.Steps[0].Stack, []string{"verify"}) || !strings.Contains(p.Why, "unreachable") || p.Hint == "" {
		t.Errorf("%+v", p)
	}
	p = rehearse(t, guesttest.Traps().Module(), "").play(t, suite(t, oneLogin))
	if len(p.Steps) != 1 || p.Steps[0].Stack != nil || strings.Contains(p.Why, "stack") {
		t.Errorf("without names: %+v", p)
	}
	// Where it looped is told too, and was not.
	module = append(guesttest.Loops().Module(), guesttest.Section(0, append(guesttest.Str("name"), name...))...)
	p = rehearse(t, module, "").play(t, suite(t, oneLogin))
	if len(p.Steps) != 1 || !cmp.Equal(p.Steps[0].Stack, []string{"verify"}) || !strings.Contains(p.Why, "CPU limit of 50ms") || strings.Contains(p.Why, "stack") {
		t.Errorf("a loop: %+v", p)
	}
}

// A try tells them too, and so does an upload of a vector that traps.
func TestATryHasTheModulesNames(t *testing.T) {
	c := newCatalog(t)
	g := guesttest.Traps()
	g.Manifest = []byte(`{"abi":1,"vectors":[{"name":"x","request":{},"expect":{"decision":"accept"}}]}`)
	name := append([]byte{1}, guesttest.Str("\x01\x00"+"\x06verify")...)
	module := append(g.Module(), guesttest.Section(0, append(guesttest.Str("name"), name...))...)
	v, err := c.Upload(t.Context(), "a", module, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Vectors.Failures) != 1 || !strings.HasSuffix(v.Vectors.Failures[0].Why, "; stack: verify") {
		t.Errorf("%+v", v.Vectors)
	}
	trace, err := c.Try(t.Context(), "a", v.Number, abi.Request{Method: "password"})
	if err != nil || !strings.HasSuffix(trace.Error, "; stack: verify") {
		t.Errorf("%+v, %v", trace, err)
	}
}

func TestAnExpectedFailureIsNone(t *testing.T) {
	r := rehearse(t, guesttest.Traps().Module(), "")
	if p := r.play(t, suite(t, `[{"name": "x", "request": {}, "fails": "unreachable"}]`)); p.Why != "" {
		t.Errorf("%+v", p)
	}
	if p := r.play(t, suite(t, `[{"name": "x", "request": {}, "fails": "divide"}]`)); !strings.Contains(p.Why, "unreachable") {
		t.Errorf("another failure: %+v", p)
	}
	r = rehearse(t, guesttest.Accepts("alice").Module(), "")
	if p := r.play(t, suite(t, `[{"name": "x", "request": {}, "fails": "unreachable"}]`)); p.Why != `decision is "accept"; it should fail with "unreachable"` {
		t.Errorf("no failure: %+v", p)
	}
}

// What http_fetch was answered once is what it is answered ever after, without the
// server that was asked.
func TestAnswersAreRecordedAndReplayed(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "you sent %s", r.Header.Get("X-Key"))
	}))
	at := server.Listener.Addr().String()
	network, err := egress.New(egress.Config{Allow: []string{at}})
	if err != nil {
		t.Fatal(err)
	}
	ask := fmt.Sprintf(`{"url":"http://%s/who","headers":{"x-key":"s3cret"}}`, at)
	manifest := fmt.Sprintf(`{"abi":1,"grants":{"http":{"hosts":[%q]}},"limits":{"wall_ms":5000}}`, at)
	r := rehearse(t, guesttest.Calls(abi.FuncHTTPFetch, 1, ask).Module(), manifest)
	s := suite(t, `[{"name": "asks", "request": {}, "fails": "you sent s3cret"}]`)

	r.Record = network
	recorded := r.play(t, s)
	if recorded.Why != "" || len(recorded.HTTP) != 1 {
		t.Fatalf("recorded %+v", recorded)
	}
	server.Close()
	s.Vectors[0].HTTP = recorded.HTTP
	text, err := s.Format()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "x-key") {
		t.Errorf("a request's headers are in the file:\n%s", text)
	}
	r.Record = nil
	if p := r.play(t, suite(t, string(text))); p.Why != "" || p.HTTP != nil {
		t.Errorf("replayed %+v", p)
	}

	p := r.play(t, suite(t, `[{"name": "asks", "request": {}, "fails": "you sent"}]`))
	if want := "http_fetch asked for GET http://" + at + "/who, and no answer to that is recorded"; p.Why != want || !strings.Contains(p.Hint, "--record") {
		t.Errorf("nothing recorded: %+v", p)
	}
	twice := rehearse(t, guesttest.Calls(abi.FuncHTTPFetch, 2, ask).Module(), manifest)
	if p := twice.play(t, suite(t, string(text))); !strings.Contains(p.Why, "no answer to that is recorded") {
		t.Errorf("an answer was given twice: %+v", p)
	}
	// What is not granted is not granted here either, whatever is recorded.
	elsewhere := rehearse(t, guesttest.Calls(abi.FuncHTTPFetch, 1, ask).Module(), `{"abi":1,"grants":{"http":{"hosts":["idp.acme.test:443"]}}}`)
	if p := elsewhere.play(t, suite(t, string(text))); p.Steps[0].HostCalls[0].Outcome != "not_granted" {
		t.Errorf("not granted: %+v", p)
	}
}

// A manifest's vectors have no network at an upload, and so none before it.
func TestAManifestsVectorIsRehearsedAsAtAnUpload(t *testing.T) {
	r := rehearse(t, guesttest.Calls(abi.FuncHTTPFetch, 1, `{"url":"https://idp.acme.test/"}`).Module(), `{"abi":1,"grants":{"http":{"hosts":["idp.acme.test:443"]}}}`)
	scene, err := SceneOf(abi.Vector{Name: "x", Expect: abi.Verdict{Decision: abi.Reject}})
	if err != nil {
		t.Fatal(err)
	}
	p := r.play(t, Suite{Vectors: []Scene{scene}})
	if len(p.Steps) != 1 || p.Steps[0].HostCalls[0].Outcome != "upstream" || !strings.Contains(p.Why, "failed with code -8") {
		t.Errorf("%+v", p)
	}
}

// Each error of http_fetch is recorded by name and comes back as the same.
func TestErrorsAreReplayedAsTheyWere(t *testing.T) {
	const ask = `{"url":"https://idp.acme.test/"}`
	r := rehearse(t, guesttest.Calls(abi.FuncHTTPFetch, 1, ask).Module(), `{"abi":1,"grants":{"http":{"hosts":["idp.acme.test:443"]}}}`)
	for _, known := range tapeErrors {
		p := r.play(t, suite(t, fmt.Sprintf(`[{"name": "x", "request": {}, "fails": "code -", "http": [{"request": {"url": "https://idp.acme.test/"}, "error": %q}]}]`, known.name)))
		if p.Why != "" || p.Steps[0].HostCalls[0].Outcome != known.name {
			t.Errorf("%s: %+v", known.name, p)
		}
	}
}

// A vector's members are all compared: claims and what stands beside them were not,
// and a vector that named them passed whatever the verifier answered.
func TestEveryMemberOfAnExpectationCounts(t *testing.T) {
	accepts := rehearse(t, guesttest.Answers(`{"decision":"accept","subject":"alice","claims":{"role":"admin","n":[1,2]},"amr":["pwd"]}`).Module(), "")
	asks := rehearse(t, guesttest.Answers(`{"decision":"challenge","type":"otp","public":{"digits":6},"private":{"u":1},"ttl":60,"max_attempts":3}`).Module(), "")
	rejects := rehearse(t, guesttest.Answers(`{"decision":"reject","code":"locked","detail":"too often"}`).Module(), "")
	for _, c := range []struct {
		r            *Rehearsal
		expect, says string
	}{
		{accepts, `{"decision":"accept","claims":{"n":[1,2],"role":"admin"},"amr":["pwd"]}`, ""},
		{accepts, `{"decision":"reject"}`, `decision is "accept", not "reject"`},
		{accepts, `{"subject":"bob"}`, `subject is "alice", not "bob"`},
		{accepts, `{"claims":{"role":"admin"}}`, `claims is {"role":"admin","n":[1,2]}, not {"role":"admin"}`},
		{accepts, `{"amr":["pwd","otp"]}`, `amr is ["pwd"], not ["pwd" "otp"]`},
		{asks, `{"type":"otp","public":{"digits":6},"private":{"u":1},"ttl":60,"max_attempts":3}`, ""},
		{asks, `{"type":"custom"}`, `type is "otp", not "custom"`},
		{asks, `{"public":{"digits":8}}`, `public is {"digits":6}, not {"digits":8}`},
		{asks, `{"private":{"u":2}}`, `private is {"u":1}, not {"u":2}`},
		{asks, `{"ttl":300}`, `ttl is 60, not 300`},
		{asks, `{"max_attempts":5}`, `max_attempts is 3, not 5`},
		{rejects, `{"code":"locked","detail":"too often"}`, ""},
		{rejects, `{"code":"denied"}`, `code is "locked", not "denied"`},
		{rejects, `{"detail":"never"}`, `detail is "too often", not "never"`},
		{rejects, `{"claims":{}}`, `claims is not there, not {}`},
	} {
		if p := c.r.play(t, suite(t, `[{"name": "x", "request": {}, "expect": `+c.expect+`}]`)); p.Why != c.says {
			t.Errorf("%s: %q, want %q", c.expect, p.Why, c.says)
		}
	}
}

func TestAFileOfVectorsIsReadStrictly(t *testing.T) {
	for text, says := range map[string]string{
		`{"vectors": [{"name": "x", "request": {}, "expct": {}}]}`:                                        `unknown object member name "expct"`,
		`[{"name": "x", "request": {"credentials": {}}, "expect": {}}]`:                                   `vector 1 "x": step 1: request: `,
		`[{"name": "x", "request": {}, "expect": {"decision": "acept"}}]`:                                 `the decision "acept" is none of accept, reject and challenge`,
		`[{"name": "x", "request": {}}]`:                                                                  `an "expect" (or "fails"`,
		`[{"name": "x", "expect": {}}]`:                                                                   `it takes a "request"`,
		`[{"name": "x", "request": {}, "steps": [{"request": {}, "expect": {}}]}]`:                        `it has "steps", and a request`,
		`[{"name": "x", "request": {}, "expect": {}, "http": [{"request": {"url": "https://a.test/"}}]}]`: `neither a "response" nor an "error"`,
		`{`: "the vectors cannot be read",
	} {
		if _, err := ReadSuite([]byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", text, err, says)
		}
	}
}

// What --record writes is what it read, but for what was recorded.
func FuzzSuite(f *testing.F) {
	text, err := os.ReadFile("../sdk/guest/c/hello/vectors.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(oneLogin))
	f.Add([]byte(`[{"name":"<&>","request":{},"expect":{},"http":[{"request":{"url":"u"},"response":{"status":200,"headers":{},"body_base64":"/w=="}}]}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := ReadSuite(text)
		if err != nil {
			return
		}
		first, err := s.Format()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ReadSuite(first)
		if err != nil {
			t.Fatalf("%v in:\n%s", err, first)
		}
		second, err := again.Format()
		if err != nil || string(second) != string(first) {
			t.Fatalf("%v\n%s\nbecame\n%s", err, first, second)
		}
	})
}
