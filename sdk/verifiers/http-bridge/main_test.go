package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/doorward/doorward/sdk/abi"
	doorward "github.com/doorward/doorward/sdk/guest/go"
)

// upstream is what was asked, and what is answered.
type upstream struct {
	asked  []doorward.HTTPRequest
	answer doorward.HTTPResponse
	err    error
}

// ask puts a request to the verifier with a configuration; failed is the reason
// when it gave no verdict.
func (u *upstream) ask(t *testing.T, config string, r doorward.Request) (v doorward.Verdict, failed string) {
	t.Helper()
	doorward.Fake.Config = map[string]string{"http_bridge": config}
	doorward.Fake.Secrets = map[string]string{"TOKEN": "t0ken", "LINES": "a\nb"}
	doorward.Fake.HTTP = func(r doorward.HTTPRequest) (doorward.HTTPResponse, error) {
		u.asked = append(u.asked, r)
		return u.answer, u.err
	}
	defer func() {
		if why := recover(); why != nil {
			failed = fmt.Sprint(why)
		}
	}()
	return verify(&r), ""
}

func (u *upstream) login(t *testing.T, config, username, password string) (doorward.Verdict, string) {
	t.Helper()
	return u.ask(t, config, doorward.Request{Tenant: "acme", Credential: doorward.Credential{"username": username, "password": password}})
}

// said is an answer of the old system.
func said(status int, body string) doorward.HTTPResponse {
	return doorward.HTTPResponse{Status: status, Body: body}
}

func TestWhatIsYesNoAndNeither(t *testing.T) {
	const plain, pointed = `{"url":"https://old.test/"}`, `{"url":"https://old.test/","yes":{"status":[200],"pointer":"/ok"}}`
	const location = `{"url":"https://old.test/","yes":{"status":[302],"header":"Location","equals":"/home"},"no":[{"status":[302],"header":"location","contains":"error="}]}`
	const page = `{"url":"https://old.test/","no":[{"status":[200],"contains":"Wrong password"}],"yes":{"status":[200],"contains":"Welcome"}}`
	const coded = `{"url":"https://old.test/","no":[{"status":[403],"pointer":"/why","equals":"locked","code":"locked"},{"status":[403],"pointer":"/n","equals":7,"code":"expired"},{"status":[400,403]}]}`
	to := func(location string) doorward.HTTPResponse {
		return doorward.HTTPResponse{Status: 302, Headers: map[string][]string{"location": {location}}}
	}
	const yes, neither = "accept", "neither"
	for name, c := range map[string]struct {
		config string
		answer doorward.HTTPResponse
		want   string // a decision, a reject's code, or neither
	}{
		"200":                           {plain, said(200, "whatever"), yes},
		"401":                           {plain, said(401, ""), abi.BadCredentials},
		"403":                           {plain, said(403, ""), abi.BadCredentials},
		"404 is a wrong configuration":  {plain, said(404, ""), neither},
		"429":                           {plain, said(429, ""), neither},
		"a redirect":                    {plain, to("/"), neither},
		"500":                           {plain, said(500, ""), neither},
		"503":                           {plain, said(503, ""), neither},
		"true":                          {pointed, said(200, `{"ok":true}`), yes},
		"false":                         {pointed, said(200, `{"ok":false}`), abi.BadCredentials},
		"another type":                  {pointed, said(200, `{"ok":"true"}`), abi.BadCredentials},
		"a list":                        {pointed, said(200, `{"ok":[true]}`), abi.BadCredentials},
		"not there":                     {pointed, said(200, `{"fine":true}`), neither},
		"a page of a proxy":             {pointed, said(200, `<html>`), neither},
		"JSON twice":                    {pointed, said(200, `{"ok":true}{"ok":false}`), neither},
		"true with another status":      {pointed, said(201, `{"ok":true}`), neither},
		"broken, and true":              {pointed, said(500, `{"ok":true}`), neither},
		"the way home":                  {location, to("/home"), yes},
		"back to the form":              {location, to("/login?error=1"), abi.BadCredentials},
		"elsewhere":                     {location, to("/maintenance"), neither},
		"no header":                     {location, said(302, ""), neither},
		"a page":                        {page, said(200, "<p>Welcome, Alice"), yes},
		"a page that says no":           {page, said(200, "<p>Wrong password"), abi.BadCredentials},
		"a page in Latin-1":             {page, doorward.HTTPResponse{Status: 200, BodyBase64: []byte("Zur\xfcck: Wrong password")}, abi.BadCredentials},
		"another page":                  {page, said(200, "<p>Down for repairs"), neither},
		"locked":                        {coded, said(403, `{"why":"locked"}`), abi.Locked},
		"a number":                      {coded, said(403, `{"n":7}`), abi.Expired},
		"another number":                {coded, said(403, `{"n":8}`), abi.BadCredentials},
		"what is not among its own no":  {coded, said(401, ""), neither},
		"a body that is a plain number": {pointed, said(200, "7"), neither},
	} {
		t.Run(name, func(t *testing.T) {
			v, failed := (&upstream{answer: c.answer}).login(t, c.config, "alice", "secret")
			got := string(v.Decision)
			if v.Decision == abi.Reject {
				got = v.Code
			}
			if failed != "" {
				got = neither
			}
			if got != c.want || strings.Contains(failed+v.Detail, "secret") {
				t.Errorf("%s: %+v %s", got, v, failed)
			}
		})
	}
	for _, err := range []error{doorward.ErrUpstream, doorward.ErrTimeout, doorward.ErrTooLarge, doorward.ErrBusy, doorward.ErrNotGranted} {
		if v, failed := (&upstream{err: err}).login(t, plain, "alice", "secret"); !strings.Contains(failed, err.Error()) {
			t.Errorf("%v: %+v %q", err, v, failed)
		}
	}
}

// What a user types stays in its place, whatever it is.
func TestValuesAreEscapedForTheirPlace(t *testing.T) {
	const nasty = "a\"b\\c&d=e/../{password}é<\u2028"
	credential := doorward.Credential{"username": nasty, "password": nasty, "company": "x&y=z"}
	ask := func(config string) doorward.HTTPRequest {
		t.Helper()
		u := upstream{answer: said(200, "")}
		if _, failed := u.ask(t, config, doorward.Request{Tenant: "acme", Credential: credential}); failed != "" || len(u.asked) != 1 {
			t.Fatalf("%s: %d requests, %s", config, len(u.asked), failed)
		}
		return u.asked[0]
	}
	r := ask(`{"url":"https://old.test/","json":{"user":"{username}","pass":"x{password}x","deep":[{"in":"{tenant}"},7,{"no":"{ a}","open":"{"}]}}`)
	var got map[string]any
	if err := json.Unmarshal([]byte(r.Body), &got); err != nil || got["user"] != nasty || got["pass"] != "x"+nasty+"x" || fmt.Sprint(got["deep"]) != `[map[in:acme] 7 map[no:{ a} open:{]]` {
		t.Errorf("json: %v %s", err, r.Body)
	}
	if r.Method != "POST" || r.Headers["content-type"] != "application/json" {
		t.Errorf("%+v", r)
	}
	r = ask(`{"url":"https://old.test/","form":{"user":"{username}","pass":"{password}","c":"{credential:company}"}}`)
	form, err := url.ParseQuery(r.Body)
	if err != nil || len(form) != 3 || form.Get("user") != nasty || form.Get("pass") != nasty || form.Get("c") != "x&y=z" {
		t.Errorf("form: %v %s", err, r.Body)
	}
	r = ask(`{"method":"get","url":"https://old.test/users/{username}/check?for={username}&by={tenant}"}`)
	u, err := url.Parse(r.URL)
	if err != nil || u.Host != "old.test" || u.Path != "/users/"+nasty+"/check" || strings.Count(u.EscapedPath(), "/") != 3 || u.Query().Get("for") != nasty || u.Query().Get("by") != "acme" || r.Method != "GET" {
		t.Errorf("url: %v %s", err, r.URL)
	}
	r = ask(`{"url":"https://old.test/","headers":{"X-User":"{username}","Authorization":"Bearer {secret:TOKEN}"}}`)
	if r.Headers["x-user"] != nasty || r.Headers["authorization"] != "Bearer t0ken" {
		t.Errorf("headers: %v", r.Headers)
	}
	r = ask(`{"url":"https://old.test/","basic":{"username":"{username}","password":"{password}"}}`)
	if r.Headers["authorization"] != "Basic YSJiXGMmZD1lLy4uL3twYXNzd29yZH3DqTzigKg6YSJiXGMmZD1lLy4uL3twYXNzd29yZH3DqTzigKg=" {
		t.Errorf("basic: %v", r.Headers)
	}
}

// Names that nobody has where they would stand are refused without a question.
func TestANameThatWouldBeSomethingElseIsNobodys(t *testing.T) {
	for config, names := range map[string][]string{
		`{"url":"https://old.test/u/{username}"}`:                                          {"..", "."},
		`{"url":"https://old.test/","headers":{"x":"{username}"}}`:                         {"a\r\nb: c", "a\x00", "a\n"},
		`{"url":"https://old.test/","basic":{"username":"{username}","password":"const"}}`: {"a:b"},
		`{"url":"https://old.test/"}`:                                                      {"", strings.Repeat("x", maxName+1)},
	} {
		for _, name := range names {
			u := upstream{answer: said(200, "")}
			if v, failed := u.login(t, config, name, "x"); v.Code != abi.BadCredentials || len(u.asked) > 0 {
				t.Errorf("%q in %s: %+v %s, %d requests", name, config, v, failed, len(u.asked))
			}
		}
	}
	u := upstream{answer: said(200, "")}
	if v, _ := u.login(t, `{"url":"https://old.test/"}`, "alice", ""); v.Code != abi.BadCredentials || len(u.asked) > 0 {
		t.Errorf("no password: %+v, %d requests", v, len(u.asked))
	}
}

// A configuration that cannot be meant ends logins and refuses nobody; the log
// says what to mend.
func TestAConfigurationThatCannotBeMeantSaysSo(t *testing.T) {
	for config, says := range map[string]string{
		``:                                                                       "cannot be read",
		`{}`:                                                                     `"url" is missing`,
		`{"url":"https://o/","sujbect":"/x"}`:                                    "sujbect",
		`{"url":"https://o/?p={password}"}`:                                      "does not belong into a URL",
		`{"url":"https://o/{secret:TOKEN}"}`:                                     "does not belong into a URL",
		`{"url":"https://o/{credential:x}"}`:                                     "does not belong into a URL",
		`{"url":"https://{username}/"}`:                                          "in its host",
		`{"url":"https://{username}"}`:                                           "in its host",
		`{"url":"https://o:{username}?"}`:                                        "in its host",
		`{"url":"o.test"}`:                                                       "no https:// address",
		`{"url":"https://o/{usernam}"}`:                                          "{usernam} stands for nothing",
		`{"url":"https://o/","form":{},"json":{}}`:                               "one body",
		`{"url":"https://o/","json":{"a":"{kept:x}"}}`:                           "keeps nothing",
		`{"url":"https://o/","headers":{"a":"{secret:OTHER}"}}`:                  "not found",
		`{"url":"https://o/","headers":{"a":"{secret:LINES}"}}`:                  "control character",
		`{"url":"https://o/","yes":{"status":[500]}}`:                            "no password is wrong",
		`{"url":"https://o/","no":[{"status":[401,503]}]}`:                       "no password is wrong",
		`{"url":"https://o/","no":[{"pointer":"/x"}]}`:                           `no "status"`,
		`{"url":"https://o/","no":[{"status":[401],"code":"x"}]}`:                `"code" is "x"`,
		`{"url":"https://o/","yes":{"status":[200],"pointer":"ok"}}`:             "begins with /",
		`{"url":"https://o/","yes":{"status":[200],"equals":1}}`:                 `"equals" is for`,
		`{"url":"https://o/","yes":{"status":[200],"pointer":"/a","equals":[]}}`: `"equals" is a text`,
		`{"url":"https://o/","yes":{"status":[200],"header":"a"}}`:               `"header" has a text`,
		`{"url":"https://o/","subject":"id"}`:                                    "no JSON pointer",
		`{"url":"https://o/","claims":{"a":""}}`:                                 "no JSON pointer",
		`{"url":"https://o/","subject":"/id","second":{"url":"https://o/","when":{"status":[202]}}}`: "would be two",
		`{"url":"https://o/","second":{"url":"https://o/"}}`:                                         `no "status"`,
	} {
		u := upstream{answer: said(200, "{}")}
		if v, failed := u.login(t, config, "alice", "x"); !strings.Contains(failed, says) || len(u.asked) > 0 {
			t.Errorf("%s: %+v %q, want %q", config, v, failed, says)
		}
	}
	doorward.Fake.Config = nil
	defer func() {
		if why := fmt.Sprint(recover()); !strings.Contains(why, "http_bridge") {
			t.Errorf("without a configuration: %s", why)
		}
	}()
	t.Errorf("without a configuration: %+v", verify(&doorward.Request{}))
}

func TestSubjectAndClaimsAreWhereThePointersPoint(t *testing.T) {
	const config = `{"url":"https://old.test/","subject":"/data/0/id","claims":{"role":"/data/0/ro~1le","all":"/data","none":"/nothing","null":"/null","tilde":"/~01"}}`
	for body, want := range map[string]string{
		`{"data":[{"id":9007199254740993,"ro/le":"x"}],"~1":true,"null":null}`: `9007199254740993 {"all":[{"id":9007199254740993,"ro/le":"x"}],"role":"x","tilde":true}`,
		`{"data":[{"id":"u-1"}]}`:   `u-1 {"all":[{"id":"u-1"}]}`,
		`{"data":[{"id":""}]}`:      "no text and no number at /data/0/id",
		`{"data":[{"id":{}}]}`:      "no text and no number",
		`{"data":{"00":{"id":1}}}`:  "no text and no number",
		`{"data":[]}`:               "no text and no number",
		`{"data":{"0":{"id":"m"}}}`: `m {"all":{"0":{"id":"m"}}}`,
		`not JSON`:                  "no text and no number",
	} {
		v, failed := (&upstream{answer: said(200, body)}).login(t, config, "alice", "x")
		got := failed
		if failed == "" {
			got = v.Subject + " " + string(v.Claims)
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
	for _, pointer := range []string{"/a/01", "/a/-1", "/a/-", "/a/2", "/a/+1", "/a/", "/a/9999999"} {
		if got, there := at(map[string]any{"a": []any{1, 2}}, pointer); there {
			t.Errorf("%s is %v", pointer, got)
		}
	}
}

func TestASecondStep(t *testing.T) {
	const config = `{"url":"https://old.test/login","form":{"u":"{username}","p":"{password}"},"subject":"/id",
		"second":{"when":{"status":[200],"pointer":"/mfa","equals":"required"},"keep":{"ticket":"/ticket"},"prompt":"The code","digits":6,
			"url":"https://old.test/code","json":{"ticket":"{kept:ticket}","code":"{code}","user":"{username}"},"subject":"/id"}}`
	u := upstream{answer: said(200, `{"mfa":"required","ticket":"tick\"et"}`)}
	v, failed := u.login(t, config, "alice", "pass-word")
	if v.Decision != abi.Challenge || v.Type != "otp" || string(v.Public) != `{"digits":6,"prompt":"The code"}` || strings.Contains(string(v.Private), "pass-word") {
		t.Fatalf("%+v %s", v, failed)
	}
	answer := func(body, code string) (doorward.Verdict, string) {
		u.answer = said(200, body)
		return u.ask(t, config, doorward.Request{Credential: doorward.Credential{"code": code}, State: v.Private})
	}
	got, failed := answer(`{"id":17}`, "123456")
	if got.Decision != abi.Accept || got.Subject != "17" || strings.Join(got.AMR, " ") != "pwd otp" {
		t.Errorf("%+v %s", got, failed)
	}
	if last := u.asked[len(u.asked)-1]; last.URL != "https://old.test/code" || last.Body != `{"code":"123456","ticket":"tick\"et","user":"alice"}` {
		t.Errorf("%+v", last)
	}
	asked := len(u.asked)
	if got, _ := answer(`{"id":17}`, ""); got.Decision != abi.Reject || len(u.asked) != asked {
		t.Errorf("without a code: %+v", got)
	}
	u.answer = said(401, "")
	if got, failed := u.ask(t, config, doorward.Request{Credential: doorward.Credential{"code": "1"}, State: v.Private}); got.Decision != abi.Reject {
		t.Errorf("a wrong code: %+v %s", got, failed)
	}
	// Whom the old system does not ask, nobody asks.
	u.answer = said(200, `{"mfa":"no","id":"u-2"}`)
	if got, failed := u.login(t, config, "bob", "x"); got.Decision != abi.Accept || got.Subject != "u-2" {
		t.Errorf("%+v %s", got, failed)
	}
	u.answer = said(200, `{"mfa":"required"}`)
	if got, failed := u.login(t, config, "alice", "x"); !strings.Contains(failed, "no text and no number at /ticket") {
		t.Errorf("%+v %s", got, failed)
	}
	// A challenge from before the step was taken out of the configuration.
	if got, _ := u.ask(t, `{"url":"https://old.test/"}`, doorward.Request{Credential: doorward.Credential{"code": "1"}, State: v.Private}); got.Decision != abi.Reject {
		t.Errorf("%+v", got)
	}
}

// What is filled into JSON is one text in it, for whatever is typed.
func FuzzAValueStaysInItsPlace(f *testing.F) {
	f.Add("{password}", `"}`)
	f.Add("..", "a&b=c")
	f.Fuzz(func(t *testing.T, username, password string) {
		v := values{r: &doorward.Request{Credential: doorward.Credential{"password": password}}, username: username}
		body, err := v.json(json.RawMessage(`{"u":"{username}","p":["{password}"]}`))
		var got struct {
			U string
			P []string
		}
		if err != nil || json.Unmarshal([]byte(body), &got) != nil || len(got.P) != 1 || got.U != strings.ToValidUTF8(username, "\ufffd") && strings.ToValidUTF8(username, "") == username {
			t.Fatalf("%q %v", body, err)
		}
		form, err := v.form(map[string]string{"u": "{username}", "p": "{password}"})
		if q, bad := url.ParseQuery(form); err != nil || bad != nil || len(q) != 2 || q.Get("u") != username || q.Get("p") != password {
			t.Fatalf("%q %v %v", form, err, bad)
		}
		address, err := v.address("https://old.test/a/{username}/b?c={username}")
		if err != nil {
			return
		}
		if u, bad := url.Parse(address); bad != nil || u.Host != "old.test" || strings.Count(u.EscapedPath(), "/") != 3 || u.Query().Get("c") != username || u.Fragment != "" {
			t.Fatalf("%q %v", address, bad)
		}
	})
}
