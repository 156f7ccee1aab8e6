package web_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/sessions"
)

const goodLogin = `{"username":"alice","password":"right"}`

// Each row is one refusal of the published contract.
func TestWhatIsRefusedAndHow(t *testing.T) {
	s := newSite(t)
	token := s.token("alice")
	wide := strings.Repeat("x", 16<<10)
	for _, c := range []struct {
		name, what, body string
		headers          []string
		status           int
		code             string
	}{
		{"a wrong password", "POST /t/acme/v1/login", `{"username":"alice","password":"wrong"}`, nil, 401, "login_failed"},
		{"an unknown user", "POST /t/acme/v1/login", `{"username":"nobody","password":"wrong"}`, nil, 401, "login_failed"},
		{"an empty password", "POST /t/acme/v1/login", `{"username":"alice","password":""}`, nil, 401, "login_failed"},
		{"an empty user", "POST /t/acme/v1/login", `{"username":"","password":"right"}`, nil, 401, "login_failed"},
		{"a broken verifier", "POST /t/acme/v1/login", `{"username":"broken","password":"right"}`, nil, 503, "verifier_unavailable"},
		{"what is too large for a verifier", "POST /t/acme/v1/login", `{"username":"huge","password":"right"}`, nil, 422, "invalid"},
		{"a verifier that says maybe", "POST /t/acme/v1/login", `{"username":"odd","password":"x"}`, nil, 503, "verifier_unavailable"},
		{"a panic", "POST /t/acme/v1/login", `{"username":"panic","password":"x"}`, nil, 500, "internal"},
		{"a suspended tenant", "POST /t/closed/v1/login", goodLogin, nil, 403, "forbidden"},
		{"an unknown tenant", "POST /t/nobody/v1/login", goodLogin, nil, 404, "not_found"},
		{"an unknown host", "POST https://nobody.test/v1/login", goodLogin, nil, 404, "not_found"},
		{"the shared host without a tenant", "POST /v1/login", goodLogin, nil, 404, "not_found"},
		{"a tenant's host and a tenant's path", "POST https://acme.test/t/other/v1/login", goodLogin, nil, 404, "not_found"},
		{"the same tenant by host and path", "POST https://acme.test/t/acme/v1/login", goodLogin, nil, 404, "not_found"},
		{"the tenant in the body too", "POST /t/acme/v1/login", `{"tenant":"other","username":"alice","password":"right"}`, nil, 400, "invalid"},
		{"the tenant in the query too", "POST /t/acme/v1/login?tenant=other", goodLogin, nil, 400, "invalid"},
		{"the tenant in the query of a validate", "GET /t/acme/v1/session?tenant=acme", "", []string{"Authorization", "Bearer " + token}, 400, "invalid"},
		{"the tenant in the query of a sign-out", "DELETE /t/acme/v1/session?tenant=other", "", nil, 400, "invalid"},

		{"no body", "POST /t/acme/v1/login", "", []string{"Content-Type", "application/json"}, 400, "invalid"},
		{"no type", "POST /t/acme/v1/login", "x", nil, 415, "unsupported_media_type"},
		{"a form", "POST /t/acme/v1/login", "username=alice&password=right", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"},
		{"plain text", "POST /t/acme/v1/login", goodLogin, []string{"Content-Type", "text/plain"}, 415, "unsupported_media_type"},
		{"another charset", "POST /t/acme/v1/login", goodLogin, []string{"Content-Type", "application/json; charset=utf-16"}, 415, "unsupported_media_type"},
		{"compressed", "POST /t/acme/v1/login", goodLogin, []string{"Content-Encoding", "gzip"}, 415, "unsupported_media_type"},
		{"no JSON", "POST /t/acme/v1/login", `{"username":`, nil, 400, "invalid"},
		{"a list", "POST /t/acme/v1/login", `[]`, nil, 400, "invalid"},
		{"null", "POST /t/acme/v1/login", `null`, []string{"Content-Type", "application/json"}, 400, "invalid"},
		{"a byte order mark", "POST /t/acme/v1/login", "\ufeff" + goodLogin, []string{"Content-Type", "application/json"}, 400, "invalid"},
		{"no UTF-8", "POST /t/acme/v1/login", `{"username":"a` + "\xff" + `","password":"right"}`, nil, 400, "invalid"},
		{"something after it", "POST /t/acme/v1/login", goodLogin + "{}", nil, 400, "invalid"},
		{"a member twice", "POST /t/acme/v1/login", `{"username":"alice","username":"bob","password":"right"}`, nil, 400, "invalid"},
		{"a member twice, deeper", "POST /t/acme/v1/login", `{"credential":{"username":"alice","username":"bob","password":"right"}}`, nil, 400, "invalid"},
		{"an unknown member", "POST /t/acme/v1/login", `{"username":"alice","password":"right","admin":true}`, nil, 400, "invalid"},
		{"a member in another case", "POST /t/acme/v1/login", `{"Username":"alice","password":"right"}`, nil, 400, "invalid"},
		{"a wrong type", "POST /t/acme/v1/login", `{"username":7,"password":"right"}`, nil, 400, "invalid"},
		{"a member that is null", "POST /t/acme/v1/login", `{"username":null,"password":"right"}`, nil, 400, "invalid"},
		{"a password that is a list", "POST /t/acme/v1/login", `{"credential":{"username":"alice","password":["right"]}}`, nil, 400, "invalid"},
		{"too deep", "POST /t/acme/v1/login", `{"credential":` + strings.Repeat("[", 8000) + strings.Repeat("]", 8000) + `}`, nil, 400, "invalid"},
		{"no password", "POST /t/acme/v1/login", `{"username":"alice"}`, nil, 422, "invalid"},
		{"a field twice over", "POST /t/acme/v1/login", `{"username":"alice","password":"right","credential":{"username":"bob"}}`, nil, 422, "invalid"},
		{"another transport", "POST /t/acme/v1/login", `{"username":"alice","password":"right","transport":"pigeon"}`, nil, 422, "invalid"},
		{"too long a name", "POST /t/acme/v1/login", `{"username":"` + wide[:257] + `","password":"right"}`, nil, 422, "invalid"},
		{"a name that turns the line", "POST /t/acme/v1/login", `{"username":"a\u202eb","password":"right"}`, nil, 422, "invalid"},
		{"too long a password", "POST /t/acme/v1/login", `{"username":"alice","password":"` + wide[:1025] + `"}`, nil, 422, "invalid"},
		{"too large a body", "POST /t/acme/v1/login", `{"username":"alice","password":"` + wide + `"}`, nil, 413, "too_large"},

		{"an answer to nothing", "POST /t/acme/v1/login/answer", `{"challenge":"` + sessions.NewChallengeID().Reveal() + `","answer":{"code":"123456"}}`, nil, 401, "challenge_failed"},
		{"an answer to nonsense", "POST /t/acme/v1/login/answer", `{"challenge":"x","answer":{"code":"123456"}}`, nil, 401, "challenge_failed"},
		{"an answer without one", "POST /t/acme/v1/login/answer", `{"challenge":"x"}`, nil, 422, "invalid"},

		{"no session", "GET /t/acme/v1/session", "", nil, 401, "no_session"},
		{"a token of another tenant", "GET /t/other/v1/session", "", []string{"Authorization", "Bearer " + token}, 401, "no_session"},
		{"a token nobody made", "GET /t/acme/v1/session", "", []string{"Authorization", "Bearer " + sessions.NewToken().Reveal()}, 401, "no_session"},
		{"a changed token", "GET /t/acme/v1/session", "", []string{"Authorization", "Bearer " + token[:20] + "A" + token[21:len(token)-1] + "!"}, 401, "no_session"},
		{"a token and something", "GET /t/acme/v1/session", "", []string{"Authorization", "Bearer " + token + " x"}, 401, "no_session"},
		{"another scheme", "GET /t/acme/v1/session", "", []string{"Authorization", "Basic " + token}, 401, "no_session"},
		{"two Authorization headers", "GET /t/acme/v1/session", "", []string{"Authorization", "Bearer " + token, "Authorization", "Bearer " + token}, 400, "invalid"},
		{"a suspended tenant's session", "GET /t/closed/v1/session", "", []string{"Authorization", "Bearer " + token}, 401, "no_session"},
		{"a revision ahead of the store", "GET /t/acme/v1/session", "", []string{"Authorization", "Bearer " + token, "Doorward-Min-Revision", "999999"}, 400, "invalid"},
		{"a list that is ahead of the store", "GET /t/acme/v1/sessions", "", []string{"Authorization", "Bearer " + token, "Doorward-Min-Revision", "999999"}, 400, "invalid"},
		{"a revision that is none", "GET /t/acme/v1/session", "", []string{"Doorward-Min-Revision", "new"}, 400, "invalid"},
		{"two revisions", "GET /t/acme/v1/session", "", []string{"Doorward-Min-Revision", "1", "Doorward-Min-Revision", "1"}, 400, "invalid"},
		{"sessions of nobody", "GET /t/acme/v1/sessions", "", nil, 401, "no_session"},
		{"the end of nobody's session", "DELETE /t/acme/v1/sessions/" + string(sessions.NewToken().Digest("nobody").ID()), "", nil, 401, "no_session"},
		{"the end of a session that is not there", "DELETE /t/acme/v1/sessions/" + string(sessions.NewToken().Digest("nobody").ID()), "", []string{"Authorization", "Bearer " + token}, 404, "not_found"},
		{"the end of nonsense", "DELETE /t/acme/v1/sessions/x", "", []string{"Authorization", "Bearer " + token}, 404, "not_found"},
		{"the end of all sessions", "DELETE /t/acme/v1/sessions", "", []string{"Authorization", "Bearer " + token}, 422, "invalid"},

		{"a path that is not there", "GET /t/acme/v1/nothing", "", nil, 404, "not_found"},
		{"a method that is not taken", "PUT /t/acme/v1/session", `{}`, nil, 405, "method_not_allowed"},
		{"an encoded slash", "GET /t/acme%2fv1/session", "", nil, 400, "invalid"},
		{"an encoded letter", "GET /t/acme/v1/sessio%6e", "", nil, 400, "invalid"},
		{"a dot segment", "GET /t/other/../acme/v1/session", "", nil, 400, "invalid"},
		{"an empty segment", "GET /t/acme//v1/session", "", nil, 400, "invalid"},
		{"a semicolon", "GET /t/acme;x/v1/session", "", nil, 400, "invalid"},
		{"a backslash", `GET /t/acme\v1\session`, "", nil, 400, "invalid"},
		{"from another site", "POST /t/acme/v1/login", goodLogin, []string{"Sec-Fetch-Site", "cross-site"}, 403, "forbidden"},
		{"from a sibling site", "POST /t/acme/v1/login", goodLogin, []string{"Sec-Fetch-Site", "same-site"}, 403, "forbidden"},
		{"from another origin", "POST /t/acme/v1/login", goodLogin, []string{"Origin", "https://evil.test"}, 403, "forbidden"},
		{"a sign-out from another site", "DELETE /t/acme/v1/session", "", []string{"Sec-Fetch-Site", "cross-site", "Cookie", "__Host-doorward-acme=" + token}, 403, "forbidden"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := *s
			s.TB = t
			got := s.ask(c.what, c.body, c.headers...).is(c.status, c.code)
			h := got.Result().Header
			if h.Get("Content-Type") != "application/problem+json" || h.Get("Cache-Control") != "no-store" || h.Get("X-Content-Type-Options") != "nosniff" || len(h["Set-Cookie"]) > 0 {
				t.Errorf("headers %v", h)
			}
			if got.field("status") != strconv.Itoa(c.status) || got.field("type") != "about:blank" || got.field("title") != http.StatusText(c.status) || got.field("detail") == "" || got.field("request_id") != h.Get("X-Request-Id") || h.Get("X-Request-Id") == "" {
				t.Errorf("problem %s", got.Body)
			}
			if (h.Get("Retry-After") != "") != (c.status == 503) || (h.Get("WWW-Authenticate") != "") != (c.status == 401) {
				t.Errorf("headers %v of a %d", h, c.status)
			}
			if c.status == 405 && !strings.Contains(h.Get("Allow"), "GET") {
				t.Errorf("Allow: %q", h.Get("Allow"))
			}
			if (c.code == "invalid" && c.status == 422) != strings.Contains(got.Body.String(), `"errors":[{"field":`) && c.status != 400 {
				t.Errorf("no fields: %s", got.Body)
			}
			for _, insides := range []string{"insides", ".go:", "alice", token} {
				if strings.Contains(got.Body.String(), insides) {
					t.Errorf("it shows %q: %s", insides, got.Body)
				}
			}
		})
	}
}

// Unknown user, wrong password and locked are one answer, but for the id.
func TestFailedLoginsAreOneAnswer(t *testing.T) {
	s := newSite(t)
	one := func(body string) string {
		got := s.ask("POST /t/acme/v1/login", body).is(401, "login_failed")
		return strings.ReplaceAll(got.Body.String(), got.field("request_id"), "")
	}
	if a, b := one(`{"username":"alice","password":"wrong"}`), one(`{"username":"nobody","password":""}`); a != b {
		t.Errorf("%s\n%s", a, b)
	}
}

func TestAStoreThatCannotAnswerIsNotANo(t *testing.T) {
	s := newSite(t)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, method := range []string{"GET", "DELETE"} {
		r := httptest.NewRequestWithContext(over, method, "https://login.example/t/acme/v1/session", nil)
		r.Header.Set("Authorization", "Bearer "+sessions.NewToken().Reveal())
		w := httptest.NewRecorder()
		s.public.ServeHTTP(w, r)
		answer{w, t}.is(503, "unavailable")
		if w.Header().Get("Retry-After") == "" || len(w.Header()["Set-Cookie"]) > 0 {
			t.Errorf("headers %v", w.Header())
		}
	}
}

func TestChunkedBodiesAreNotTaken(t *testing.T) {
	s := newSite(t)
	r := httptest.NewRequest("POST", "https://login.example/t/acme/v1/login", strings.NewReader(goodLogin))
	r.Header.Set("Content-Type", "application/json")
	r.TransferEncoding, r.ContentLength = []string{"chunked"}, -1
	w := httptest.NewRecorder()
	s.public.ServeHTTP(w, r)
	answer{w, t}.is(400, "invalid")
}

func TestALoginByTokenAndWhatItOpens(t *testing.T) {
	s := newSite(t)
	in := s.ask("POST /t/acme/v1/login", `{"username":"alice","password":"right","transport":"token"}`, "User-Agent", "test/1", "X-Forwarded-For", "203.0.113.9").is(201, "")
	if in.cookie("__Host-doorward-acme") != nil {
		t.Error("a token and a cookie")
	}
	if in.field("session.subject") != "alice" || in.field("session.tenant") != "acme" || in.field("session.claims.role") != "user" || in.field("session.amr") != `["pwd"]` || in.field("session.verifier.digest") != deciding || in.field("session.current") != "true" || in.field("session.degraded") != "false" {
		t.Errorf("session %s", in.Body)
	}
	if in.field("session.client.user_agent") != "test/1" || in.field("session.client.ip") != "192.0.2.1" {
		t.Errorf("client %s: a header from a stranger counts for nothing", in.Body)
	}
	revision := in.Result().Header.Get("Doorward-Revision")
	bearer := []string{"Authorization", "bearer " + in.field("token"), "Doorward-Min-Revision", revision}
	got := s.ask("GET /t/acme/v1/session", "", bearer...).is(200, "")
	if got.field("id") != in.field("session.id") || got.field("tenant") != "acme" || strings.Contains(got.Body.String(), in.field("token")) {
		t.Errorf("validated %s", got.Body)
	}
	if got.Result().Header.Get("Cache-Control") != "no-store" {
		t.Error("it may be stored")
	}
	if got := s.ask("GET https://acme.test/v1/session", "", bearer...).is(200, ""); got.field("tenant") != "acme" {
		t.Errorf("at the tenant's own host: %s", got.Body)
	}
	if got := s.ask("GET https://ACME.test.:443/v1/session", "", bearer...).is(200, ""); got.field("tenant") != "acme" {
		t.Errorf("at the tenant's own host, written differently: %s", got.Body)
	}
	s.ask("GET https://other.test/v1/session", "", bearer...).is(401, "no_session")
	for status, headers := range map[int][]string{200: bearer, 401: {"Authorization", "Bearer x"}} {
		if head := s.ask("HEAD /t/acme/v1/session", "", headers...); head.Code != status || head.Body.Len() > 0 {
			t.Errorf("HEAD: %d %s", head.Code, head.Body)
		}
	}
	out := s.ask("DELETE /t/acme/v1/session", "", bearer...).is(204, "")
	if r, _ := strconv.Atoi(out.Result().Header.Get("Doorward-Revision")); r == 0 {
		t.Errorf("headers %v", out.Result().Header)
	}
	s.ask("GET /t/acme/v1/session", "", bearer...).is(401, "no_session")
	s.ask("DELETE /t/acme/v1/session", "", bearer...).is(204, "")
}

func TestTheSessionCookie(t *testing.T) {
	s := newSite(t)
	for base, name := range map[string]string{"/t/acme": "__Host-doorward-acme", "https://acme.test": "__Host-doorward"} {
		got := s.ask("POST "+base+"/v1/login", goodLogin).is(201, "")
		c := got.cookie(name)
		if c == nil || got.field("token") != "" || !c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" || c.SameSite != http.SameSiteLaxMode || c.MaxAge != 0 || c.RawExpires != "" {
			t.Fatalf("cookie %+v, body %s", c, got.Body)
		}
		if strings.Contains(got.Body.String(), c.Value) {
			t.Error("the body shows the token")
		}
		cookie := name + "=" + c.Value
		s.ask("GET "+base+"/v1/session", "", "Cookie", "a=b; "+cookie+"; c=d").is(200, "")
		for what, cookies := range map[string][]string{
			"two in one header":              {"Cookie", cookie + "; " + cookie},
			"two in two headers":             {"Cookie", cookie, "Cookie", cookie},
			"another beside it":              {"Cookie", name + "=x; " + cookie},
			"an empty one beside it":         {"Cookie", name + "=; " + cookie},
			"one that cannot be read beside": {"Cookie", name + "=a\"b; " + cookie},
			"one without a value beside":     {"Cookie", name + "; " + cookie},
			"a blank in the name of another": {"Cookie", name + " =x; " + cookie},
			"another case":                   {"Cookie", strings.ToLower(cookie)},
			"without the prefix":             {"Cookie", strings.TrimPrefix(cookie, "__Host-")},
		} {
			if got := s.ask("GET "+base+"/v1/session", "", cookies...); got.Code != 401 {
				t.Errorf("%s: %d", what, got.Code)
			}
		}
		// A token in the header counts before the cookie, and is not mended by it.
		s.ask("GET "+base+"/v1/session", "", "Cookie", cookie, "Authorization", "Bearer x").is(401, "no_session")

		remembered := s.ask("POST "+base+"/v1/login", `{"username":"alice","password":"right","remember":true}`, "Cookie", cookie).is(201, "").cookie(name)
		if age := time.Duration(remembered.MaxAge) * time.Second; age < 719*time.Hour || age > 720*time.Hour {
			t.Errorf("remembered for %v", age)
		}
		s.ask("GET "+base+"/v1/session", "", "Cookie", cookie).is(401, "no_session") // the login took its place
		out := s.ask("DELETE "+base+"/v1/session", "", "Cookie", name+"="+remembered.Value).is(204, "").cookie(name)
		if out == nil || out.MaxAge >= 0 || out.Value != "" || !out.Secure || out.Path != "/" {
			t.Errorf("after the sign-out: %+v", out)
		}
		s.ask("GET "+base+"/v1/session", "", "Cookie", name+"="+remembered.Value).is(401, "no_session")
		if s.ask("DELETE "+base+"/v1/session", "").is(204, "").cookie(name).MaxAge >= 0 {
			t.Error("a sign-out without a session leaves the cookie")
		}
	}
	// The cookie of the one way is nothing on the other, and of one tenant at another.
	token := s.token("alice")
	s.ask("GET /t/acme/v1/session", "", "Cookie", "__Host-doorward="+token).is(401, "no_session")
	s.ask("GET https://acme.test/v1/session", "", "Cookie", "__Host-doorward-acme="+token).is(401, "no_session")
	s.ask("GET /t/other/v1/session", "", "Cookie", "__Host-doorward-acme="+token).is(401, "no_session")
}

func TestASecondStep(t *testing.T) {
	s := newSite(t)
	asked := s.ask("POST /t/acme/v1/login", `{"username":"twostep","password":"right","transport":"token"}`).is(200, "")
	id := asked.field("challenge.id")
	if asked.field("challenge.type") != "otp" || asked.field("challenge.public.digits") != "6" || asked.field("challenge.expires_at") == "" || strings.Contains(asked.Body.String(), "state") || asked.field("session") != "" {
		t.Fatalf("asked %s", asked.Body)
	}
	reply := func(base, code string) answer {
		return s.ask("POST "+base+"/v1/login/answer", fmt.Sprintf(`{"challenge":%q,"answer":{"code":%q}}`, id, code))
	}
	reply("/t/acme", "000000").is(401, "challenge_failed")
	reply("/t/other", "123456").is(401, "challenge_failed")
	in := reply("/t/acme", "123456").is(201, "")
	if in.field("session.subject") != "twostep" || in.field("token") == "" {
		t.Errorf("signed in %s", in.Body)
	}
	reply("/t/acme", "123456").is(401, "challenge_failed")
}

func TestOnesOwnSessions(t *testing.T) {
	s := newSite(t)
	mine, second, third, bobs := s.token("alice"), s.token("alice"), s.token("alice"), s.token("bob")
	bearer := func(token string) []string { return []string{"Authorization", "Bearer " + token} }
	id := func(token string) string {
		return s.ask("GET /t/acme/v1/session", "", bearer(token)...).is(200, "").field("id")
	}
	list := s.ask("GET /t/acme/v1/sessions", "", bearer(mine)...).is(200, "")
	text := list.field("sessions")
	if strings.Count(text, `"id":"ses_`) != 3 || strings.Count(text, `"current":true`) != 1 || strings.Contains(text, id(bobs)) || list.field("next_page_token") != "" {
		t.Errorf("list %s", list.Body)
	}
	s.ask("DELETE /t/acme/v1/sessions/"+id(bobs), "", bearer(mine)...).is(404, "not_found")
	s.ask("DELETE /t/acme/v1/sessions/"+id(second), "", bearer(mine)...).is(204, "")
	s.ask("GET /t/acme/v1/session", "", bearer(second)...).is(401, "no_session")
	if got := s.ask("DELETE /t/acme/v1/sessions?except=current", "", bearer(mine)...).is(200, ""); got.field("processed") != "1" || got.field("more") != "false" {
		t.Errorf("ended %s", got.Body)
	}
	s.ask("GET /t/acme/v1/session", "", bearer(third)...).is(401, "no_session")
	s.ask("GET /t/acme/v1/session", "", bearer(bobs)...).is(200, "")
	own := s.ask("DELETE /t/acme/v1/sessions/"+id(mine), "", bearer(mine)...).is(204, "")
	if c := own.cookie("__Host-doorward-acme"); c == nil || c.MaxAge >= 0 {
		t.Error("one's own session ended and its cookie stays")
	}
}
