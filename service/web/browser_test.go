package web_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func form(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Add(pairs[i], pairs[i+1])
	}
	return v
}

// page wants what every page carries.
func (a answer) page(status int, says string) answer {
	a.test.Helper()
	h := a.Result().Header
	if a.Code != status || !strings.Contains(a.Body.String(), says) {
		a.test.Fatalf("%d %s, want %d with %q", a.Code, a.Body, status, says)
	}
	policy := h.Get("Content-Security-Policy")
	for _, part := range []string{"default-src 'none'", "style-src 'self'", "base-uri 'none'", "frame-ancestors 'none'", "form-action 'self'"} {
		if !strings.Contains(policy, part) {
			a.test.Errorf("policy %q lacks %q", policy, part)
		}
	}
	if strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") || h.Get("Cache-Control") != "no-store" || h.Get("X-Frame-Options") != "DENY" || h.Get("Strict-Transport-Security") == "" || !strings.HasPrefix(h.Get("Content-Type"), "text/html") {
		a.test.Errorf("headers %v", h)
	}
	if strings.Contains(a.Body.String(), "<script") || strings.Contains(a.Body.String(), "style=") {
		a.test.Error("the page needs what its policy forbids")
	}
	return a
}

// leads wants a redirect.
func (a answer) leads(status int, to string) answer {
	a.test.Helper()
	if a.Code != status || a.Result().Header.Get("Location") != to {
		a.test.Fatalf("%d to %q, want %d to %q: %s", a.Code, a.Result().Header.Get("Location"), status, to, a.Body)
	}
	return a
}

func TestABrowserSignsInAndOut(t *testing.T) {
	s := newSite(t)
	for base, suffix := range map[string]string{"/t/acme": "-acme", "https://acme.test": ""} {
		v := s.visitor(base)
		own := strings.TrimPrefix(base, "https://acme.test")
		first := v.open("GET /login", nil).page(200, `autocomplete="current-password"`)
		flow := first.cookie("__Host-doorward-flow" + suffix)
		if flow == nil || !flow.Secure || !flow.HttpOnly || flow.Path != "/" || flow.Domain != "" || flow.SameSite != http.SameSiteLaxMode || flow.MaxAge != 0 {
			t.Fatalf("flow cookie %+v", flow)
		}
		wrong := v.open("POST /login", form("username", "<alice>", "password", "hunter2")).page(422, "The user name or password is not right.")
		if !strings.Contains(wrong.Body.String(), "&lt;alice&gt;") || strings.Contains(wrong.Body.String(), "hunter2") || len(v.cookies) != 1 {
			t.Errorf("after a wrong password: %s %v", wrong.Body, v.cookies)
		}
		in := v.open("POST /login", form("username", "alice", "password", "right"), "Sec-Fetch-Site", "same-origin").leads(303, own+"/account")
		if c := in.cookie("__Host-doorward" + suffix); c == nil || c.MaxAge != 0 || !c.Secure || !c.HttpOnly {
			t.Errorf("session cookie %+v", c)
		}
		if v.cookies["__Host-doorward-flow"+suffix] != "" {
			t.Error("the journey goes on after its end")
		}
		v.open("GET /account", nil).page(200, "alice")
		v.open("GET /.well-known/change-password", nil).leads(302, own+"/account")
		v.open("GET /logout", nil).page(200, "Sign out?")
		v.open("GET /account", nil).page(200, "alice") // looking signs nobody out
		v.open("GET /logout", nil).page(200, "Sign out?")
		out := v.open("POST /logout", form()).leads(303, own+"/logout")
		if c := out.cookie("__Host-doorward" + suffix); c == nil || c.MaxAge >= 0 || out.Result().Header.Get("Clear-Site-Data") != "" {
			t.Errorf("after the sign-out: %+v", c)
		}
		v.open("GET /logout", nil).page(200, "signed out")
		v.open("GET /account", nil).leads(303, own+"/login?return_to="+url.QueryEscape(own+"/account"))
	}
}

func TestASignInLeadsWhereTheLinkSaidIfItMay(t *testing.T) {
	s := newSite(t)
	for query, want := range map[string]string{ // "" is refused
		"?return_to=/t/acme/account":                "/t/acme/account",
		"?return_to=https://shop.test/cart%3Fx%3D1": "https://shop.test/cart?x=1",
		"?app=shop":                    "https://shop.test/",
		"?return_to=https://evil.test": "",
		"?return_to=//evil.test":       "",
		"?return_to=/t/other/account":  "",
		"?app=nobody":                  "",
	} {
		v := s.visitor("/t/acme")
		got := v.open("GET /login"+query, nil)
		if want == "" {
			got.page(422, "not registered")
			if strings.Contains(got.Body.String(), "evil") {
				t.Errorf("%s: echoed", query)
			}
			continue
		}
		got.page(200, "password")
		policy := got.Result().Header.Get("Content-Security-Policy")
		if toShop := strings.HasPrefix(want, "https://shop.test"); strings.Contains(policy, "https://shop.test") != toShop {
			t.Errorf("%s: policy %q", query, policy)
		}
		v.open("POST /login", form("username", "alice", "password", "right")).leads(303, want)
	}
	v := s.visitor("/t/acme")
	v.open("GET /login", nil).page(200, "password")
	v.open("POST /login", form("username", "alice", "password", "right", "return_to", "https://evil.test/")).page(422, "not registered")
	v.open("GET /login?return_to=/t/acme/account&return_to=/t/acme", nil).page(400, "")
	v.open("GET /login?next=/", nil).page(400, "")
}

// A form counts only with a flow value that was sealed here, for this form, this
// tenant and this browser.
func TestAFormOfAnotherBrowserIsRefused(t *testing.T) {
	s := newSite(t)
	good := func() url.Values { return form("username", "alice", "password", "right") }
	v, w := s.visitor("/t/acme"), s.visitor("/t/acme")
	v.open("GET /login", nil)
	w.open("GET /login", nil)
	mine, theirs := v.flow, w.flow
	other := s.visitor("/t/other")
	other.open("GET /login", nil)
	refused := func(what string, v *visitor, values url.Values) {
		t.Helper()
		if got := v.open("POST /login", values); got.Code != 403 || got.cookie("__Host-doorward-acme") != nil {
			t.Errorf("%s: %d", what, got.Code)
		}
	}
	with := func(flow string) url.Values { f := good(); f.Set("flow", flow); return f }
	refused("no flow value", v, with(""))
	refused("nonsense", v, with("AAAA"))
	refused("a changed one", v, with(mine[:len(mine)-2]+"AA"))
	refused("another browser's", v, with(theirs))
	refused("another tenant's", v, with(other.flow))
	refused("without the cookie", s.visitor("/t/acme"), with(mine))
	two := s.visitor("/t/acme")
	two.cookies = map[string]string{"__Host-doorward-flow-acme": v.cookies["__Host-doorward-flow-acme"] + "; __Host-doorward-flow-acme=x"}
	refused("two cookies", two, with(mine))

	// Nor does the value of one form count for another.
	v.open("POST /login", with(mine)).leads(303, "/t/acme/account")
	v.open("GET /login", nil)
	if got := v.open("POST /logout", form()); got.Code != 403 {
		t.Errorf("a login's value signs out: %d", got.Code)
	}
	v.open("GET /account", nil).page(200, "alice")
	if got := v.open("POST /login", good(), "Sec-Fetch-Site", "cross-site"); got.Code != 403 {
		t.Errorf("from another site: %d", got.Code)
	}
}

func TestAFormIsReadStrictly(t *testing.T) {
	s := newSite(t)
	v := s.visitor("/t/acme")
	v.open("GET /login", nil)
	for what, c := range map[string]struct {
		values url.Values
		status int
	}{
		"a field twice":       {form("username", "alice", "username", "bob", "password", "right"), 400},
		"an unknown field":    {form("username", "alice", "password", "right", "tenant", "other"), 400},
		"too long a name":     {form("username", strings.Repeat("a", 257), "password", "right"), 422},
		"too long a password": {form("username", "alice", "password", strings.Repeat("a", 1025)), 422},
		"an empty password":   {form("username", "alice", "password", ""), 422},
		"a broken verifier":   {form("username", "broken", "password", "x"), 503},
		"too large":           {form("username", "alice", "password", strings.Repeat("a", 17<<10)), 413},
	} {
		got := v.open("POST /login", c.values).page(c.status, "")
		if got.cookie("__Host-doorward-acme") != nil {
			t.Errorf("%s: signed in", what)
		}
	}
	if got := v.open("POST /login?flow=x", form("username", "alice", "password", "right")); got.Code != 400 {
		t.Errorf("a query: %d", got.Code)
	}
	closed := s.visitor("/t/closed")
	closed.open("GET /login", nil)
	closed.open("POST /login", form("username", "alice", "password", "right")).page(403, "suspended")
	s.visitor("/t/nobody").open("GET /login", nil).page(404, "Not found")
}

func TestAFormThatStoodOpenTooLongIsShownAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newSite(t).visitor("/t/acme")
		v.open("GET /login?return_to=https://shop.test/cart", nil)
		time.Sleep(10*time.Minute + time.Second)
		v.open("POST /login", form("username", "alice", "password", "right")).page(422, "open for too long")
		if v.cookies["__Host-doorward-acme"] != "" {
			t.Fatal("signed in by a stale form")
		}
		v.open("POST /login", form("username", "alice", "password", "right")).leads(303, "https://shop.test/cart")
		v.open("GET /logout", nil)
		time.Sleep(10*time.Minute + time.Second)
		v.open("POST /logout", form()).leads(303, "/t/acme/logout")
		v.open("GET /account", nil).page(200, "alice")
	})
}

func TestASecondStepInABrowser(t *testing.T) {
	v := newSite(t).visitor("/t/acme")
	v.open("GET /login/challenge", nil).leads(303, "/t/acme/login")
	v.open("GET /login?return_to=https://shop.test/cart", nil)
	v.open("POST /login", form("username", "twostep", "password", "right")).leads(303, "/t/acme/login/challenge")
	if v.cookies["__Host-doorward-acme"] != "" {
		t.Fatal("signed in after one step")
	}
	shown := v.open("GET /login/challenge", nil).page(200, `autocomplete="one-time-code"`)
	if !strings.Contains(shown.Result().Header.Get("Content-Security-Policy"), "form-action 'self' https://shop.test") {
		t.Error("the form may not lead on to the app")
	}
	v.open("POST /login/challenge", form("code", "000000")).page(422, "not right")
	if got := v.open("POST /login/challenge", form("code", "123456", "flow", "x")); got.Code != 403 {
		t.Errorf("a foreign form: %d", got.Code)
	}
	v.open("POST /login/challenge", form("code", " 123456 ")).leads(303, "https://shop.test/cart")
	v.open("GET /account", nil).page(200, "twostep")
}

func TestTheStylesheetIsServedForEverAndNothingElseIs(t *testing.T) {
	s := newSite(t)
	page := s.visitor("/t/acme").open("GET /login", nil).Body.String()
	_, rest, _ := strings.Cut(page, `href="/t/acme/assets/`)
	name, _, _ := strings.Cut(rest, `"`)
	css := s.ask("GET /t/acme/assets/"+name, "")
	if h := css.Result().Header; css.Code != 200 || !strings.HasPrefix(h.Get("Content-Type"), "text/css") || !strings.Contains(h.Get("Cache-Control"), "immutable") {
		t.Errorf("%q: %d %v", name, css.Code, h)
	}
	s.ask("GET /t/acme/assets/style.css", "").page(404, "Not found")
}
