package web_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/doorward/doorward/service"
	"github.com/doorward/doorward/service/web"
	"github.com/doorward/doorward/sessions"
)

// Whatever the Cookie and Authorization headers hold, a token that is believed
// stands there to the letter, and a cookie that is believed is the only one of
// its name.
func FuzzCookie(f *testing.F) {
	token := sessions.NewToken().Reveal()
	for _, seed := range [][2]string{
		{"__Host-doorward=" + token, ""}, {"__Host-doorward-acme=" + token, ""}, {"__Host-doorward=" + token + "; __Host-doorward=" + token, ""},
		{"__Host-doorward=\"" + token + "\"", ""}, {"__Host-doorward=a\"b; __Host-doorward=" + token, "Basic x"}, {"", "Bearer " + token},
		{"__Host-doorward =x; __Host-doorward=" + token, "bearer " + token}, {"__Host-doorward;__Host-doorward=" + token, "Bearer"}, {";;=", " "}, {"__Host-doorward=" + token, "BeArer"},
		{"__Host-doorward=" + token + " \t; a=b", ""}, {"\t__Host-doorward\t=\"\"", ""}, {"__Host-doorward= \"" + token + "\"", ""}, {"__Host-doorward", ""},
		{"\v__Host-doorward=" + token, ""}, {"__Host-doorward=\"", ""}, {"__Host-doorward=a\\b", ""}, {"__Host-doorward=\x7f", ""}, {"__Host-doorward=" + token + "\r\n", ""},
	} {
		f.Add(seed[0], "", seed[1], false)
		f.Add(seed[0], seed[0], seed[1], true)
	}
	f.Fuzz(func(t *testing.T, first, second, authorization string, shared bool) {
		d, name := service.Door{Host: "acme.test"}, "__Host-doorward"
		if shared {
			d, name = service.Door{ID: "acme"}, "__Host-doorward-acme"
		}
		r := &http.Request{Method: "GET", URL: &url.URL{Path: "/"}, Header: http.Header{}}
		for _, line := range []string{first, second} {
			if line != "" {
				r.Header.Add("Cookie", line)
			}
		}
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		names := 0 // two of the name are none; of one, the value is as net/http reads it
		for _, part := range strings.Split(first+";"+second, ";") {
			if named, _, _ := strings.Cut(part, "="); strings.TrimSpace(named) == name {
				names++
			}
		}
		found := r.CookiesNamed(name)
		if value, ok := web.OneCookie(r, name); ok != (names == 1 && len(found) == 1) || ok && value != found[0].Value {
			t.Fatalf("the cookie is %q, %v; net/http reads %v: %q %q", value, ok, found, first, second)
		}
		app, page := web.Presented(r, d)
		if !page.IsZero() {
			n := 0
			for _, part := range strings.Split(first+";"+second, ";") {
				named, value, _ := strings.Cut(part, "=")
				if strings.Trim(named, " \t") != name {
					continue
				}
				if n++; !strings.Contains(value, page.Reveal()) {
					t.Fatalf("believed a token that is not there: %q %q", first, second)
				}
			}
			if n != 1 {
				t.Fatalf("believed one of %d: %q %q", n, first, second)
			}
		}
		if app.IsZero() {
			return
		}
		if scheme, text, ok := strings.Cut(authorization, " "); ok && strings.EqualFold(scheme, "Bearer") {
			if text != app.Reveal() {
				t.Fatalf("%q is read as another token", authorization)
			}
		} else if app != page {
			t.Fatal("an app's token comes from nowhere")
		}
	})
}

// What is taken is one JSON object by everybody's reading, with the members of
// the call and no others.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{
		`{"username":"a","remember":true,"credential":{"x":[1,{"y":null}]}}`, `{"username":"a","username":"b"}`, `{"Username":"a"}`, `{"username":null}`,
		`{"username":"a"} {}`, "\ufeff{}", `{"credential":{"a":1,"a":2}}`, `{"username":"\ud800"}`, "{\"username\":\"\xff\"}", `[]`, `null`, `{"n":1e999}`, `{"unknown":1}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var v struct {
			Username   *string        `json:"username"`
			Remember   bool           `json:"remember"`
			Credential map[string]any `json:"credential"`
		}
		if err := web.ParseJSON(body, &v); err != nil {
			return
		}
		var members map[string]json.RawMessage // by another reader
		if err := json.Unmarshal(body, &members); err != nil || members == nil {
			t.Fatalf("taken, and yet: %v", err)
		}
		for name, value := range members {
			if name != "username" && name != "remember" && name != "credential" {
				t.Fatalf("took the member %q", name)
			}
			if string(value) == "null" {
				t.Fatalf("took null for %q", name)
			}
		}
		var username string
		if raw, ok := members["username"]; ok != (v.Username != nil) || ok && (json.Unmarshal(raw, &username) != nil || username != *v.Username) {
			t.Fatalf("two readers differ about the username of %q", body)
		}
	})
}

// A path that is taken means the same to everybody on the way.
func FuzzPath(f *testing.F) {
	for _, seed := range []string{
		"/", "/t/acme/v1/session", "/t/acme/../other", "/t/acme/%2e%2e/x", "/t//x", "/a;b", `/a\b`, "/a%2fb", "*", "", "//host/x", "/a/.", "/a?b#c", "/ü", "/a%00", "http://h/x",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || !web.PlainPath(&http.Request{URL: u}) {
			return
		}
		if u.Path != u.EscapedPath() || u.RawPath != "" && u.RawPath != u.Path {
			t.Fatalf("%q has two forms: %q and %q", target, u.Path, u.EscapedPath())
		}
		for _, bad := range []string{"//", "/./", "/../", "%", `\`, ";", "\x00", "\n", " "} {
			if strings.Contains(u.Path+"/", bad) && !(bad == "//" && strings.HasSuffix(u.Path, "/") && !strings.Contains(u.Path, "//")) {
				t.Fatalf("%q holds %q", target, bad)
			}
		}
		if joined := (&url.URL{Path: "/"}).JoinPath(u.Path).Path; strings.TrimSuffix(joined, "/") != strings.TrimSuffix(u.Path, "/") {
			t.Fatalf("%q is cleaned to %q", u.Path, joined)
		}
	})
}
