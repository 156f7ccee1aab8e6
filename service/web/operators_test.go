package web_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/doorward/doorward/tenants"
)

func TestOnlyAnOperatorsKeyOpensTheAdminListener(t *testing.T) {
	s := newSite(t)
	ask := func(what string, headers ...string) answer {
		return s.at(s.admin, "http://127.0.0.1:8481", what, "", headers...)
	}
	bearer := func(text string) []string { return []string{"Authorization", "Bearer " + text} }
	for name, headers := range map[string][]string{
		"no key":                {},
		"nonsense":              bearer("x"),
		"a key nobody made":     bearer(tenants.NewKeySecret().Reveal()),
		"a key of another kind": bearer(appKey.Reveal()),
		"a session's token":     bearer(s.token("alice")),
		"another scheme":        {"Authorization", "Basic " + s.key},
		"the key alone":         {"Authorization", s.key},
		"the key and a blank":   bearer(s.key + " "),
		"the key as a cookie":   {"Cookie", "__Host-doorward=" + s.key},
	} {
		for _, what := range []string{"GET /admin/v1/tenants", "DELETE /admin/v1/tenants/acme", "GET /admin/v1/tenants/acme/secrets"} {
			if got := ask(what, headers...); got.Code != 401 || got.field("code") != "unauthorized" || got.Header().Get("WWW-Authenticate") == "" {
				t.Errorf("%s, %s: %d %s", what, name, got.Code, got.Body)
			}
		}
	}
	ask("GET /admin/v1/tenants", bearer(s.key)...).is(200, "")
	// A page on the web can make its own name resolve to this listener.
	ask("GET http://evil.test:8481/admin/v1/tenants", bearer(s.key)...).is(403, "forbidden")
	ask("GET http://evil.test:8481/livez").is(403, "forbidden")
	for _, host := range []string{"localhost:8481", "[::1]:8481", "127.0.0.2"} {
		ask("GET http://"+host+"/admin/v1/tenants", bearer(s.key)...).is(200, "")
	}
	for _, path := range []string{"/livez", "/readyz"} {
		if got := ask("GET " + path); got.Code != 200 || got.Body.String() != "ok\n" {
			t.Errorf("%s: %d %s", path, got.Code, got.Body)
		}
	}
	ask("GET /metrics").is(404, "not_found")
	// Neither listener serves what is the other's.
	s.ask("GET https://login.example/admin/v1/tenants", "", bearer(s.key)...).is(404, "not_found")
	ask("GET /t/acme/login", bearer(s.key)...).is(404, "not_found")
}

func TestATenantIsMadeReadChangedAndDeleted(t *testing.T) {
	s := newSite(t)
	made := s.operate("POST /tenants", `{"id":"new","name":"New","hosts":["New.test"],"apps":[{"id":"shop","origin":"https://Shop.test","return_urls":[]}],"session":{"idle":"45s"},"without_quorum":"bounded:30"}`).is(201, "")
	tag := made.Header().Get("ETag")
	if made.Header().Get("Location") != "/admin/v1/tenants/new" || tag == "" || made.field("state") != "active" || made.field("hosts") != `["new.test"]` || made.field("session.idle") != "45s" || made.field("session.absolute") != "12h" || made.field("session.max_per_subject") != "10" || made.field("warnings") == "" || strings.Contains(made.Body.String(), "uuid") {
		t.Errorf("made %s %v", made.Body, made.Header())
	}
	s.ask("POST https://new.test/v1/login", goodLogin).is(201, "")
	if got := s.operate("GET /tenants/new", "").is(200, ""); got.Header().Get("ETag") != tag {
		t.Errorf("ETag %q, want %q", got.Header().Get("ETag"), tag)
	}
	changed := s.operate("PATCH /tenants/new", `{"name":"Newer","session":{"idle":"1h"}}`, "If-Match", tag).is(200, "")
	if changed.field("name") != "Newer" || changed.field("hosts") != `["new.test"]` || changed.field("session.idle") != "1h" || changed.field("session.absolute") != "12h" || changed.Header().Get("ETag") == tag || changed.Header().Get("Doorward-Revision") == "" {
		t.Errorf("changed %s", changed.Body)
	}
	for _, stale := range []string{tag, `"999"`, `W/` + tag, "nonsense", `"0"`} {
		s.operate("PATCH /tenants/new", `{"name":"no"}`, "If-Match", stale).is(409, "conflict")
		s.operate("DELETE /tenants/new", "", "If-Match", stale).is(409, "conflict")
	}
	s.operate("PATCH /tenants/new", `{"name":"Newest"}`, "If-Match", "*").is(200, "")
	if got := s.operate("GET /tenants/new", "").is(200, ""); got.field("name") != "Newest" {
		t.Errorf("read %s", got.Body)
	}

	for what, c := range map[string]struct {
		ask, body string
		status    int
		code      string
	}{
		"an id that is taken":         {"POST /tenants", `{"id":"new"}`, 409, "conflict"},
		"a host that is taken":        {"POST /tenants", `{"id":"x","hosts":["acme.test"]}`, 409, "conflict"},
		"a host that is taken, later": {"PATCH /tenants/new", `{"hosts":["acme.test"]}`, 409, "conflict"},
		"the shared host":             {"POST /tenants", `{"id":"x","hosts":["login.example"]}`, 422, "invalid"},
		"no id":                       {"POST /tenants", `{"name":"x"}`, 422, "invalid"},
		"a bad id":                    {"POST /tenants", `{"id":"X"}`, 422, "invalid"},
		"another id":                  {"PATCH /tenants/new", `{"id":"newer"}`, 422, "invalid"},
		"a duration that is none":     {"POST /tenants", `{"id":"x","session":{"idle":"soon"}}`, 422, "invalid"},
		"a duration of nothing":       {"POST /tenants", `{"id":"x","session":{"idle":"0s"}}`, 422, "invalid"},
		"a duration that is a number": {"POST /tenants", `{"id":"x","session":{"idle":30}}`, 400, "invalid"},
		"no sessions at all":          {"POST /tenants", `{"id":"x","session":{"max_per_subject":0}}`, 422, "invalid"},
		"a state":                     {"PATCH /tenants/new", `{"state":"active"}`, 400, "invalid"},
		"a uuid":                      {"POST /tenants", `{"id":"x","uuid":"y"}`, 400, "invalid"},
		"null":                        {"PATCH /tenants/new", `{"hosts":null}`, 400, "invalid"},
		"another tenant in the query": {"PATCH /tenants/new?tenant=acme", `{}`, 400, "invalid"},
		"a query where none is":       {"GET /tenants/new?tenant=acme", ``, 400, "invalid"},
		"a delete with a query":       {"DELETE /tenants/new?tenant=acme", ``, 400, "invalid"},
		"config with a query":         {"GET /tenants/new/config?tenant=acme", ``, 400, "invalid"},
		"nobody":                      {"GET /tenants/nobody", ``, 404, "not_found"},
		"nobody, changed":             {"PATCH /tenants/nobody", `{}`, 404, "not_found"},
		"nobody, suspended":           {"POST /tenants/nobody/suspend", ``, 404, "not_found"},
		"a method that is not taken":  {"PUT /tenants/new", `{}`, 405, "method_not_allowed"},
		"too large":                   {"POST /tenants", `{"id":"` + strings.Repeat("x", 1<<20) + `"}`, 413, "too_large"},
	} {
		if got := s.operate(c.ask, c.body); got.Code != c.status || got.field("code") != c.code {
			t.Errorf("%s: %d %s, want %d %s", what, got.Code, got.Body, c.status, c.code)
		}
	}

	token := s.ask("POST /t/new/v1/login", `{"username":"alice","password":"right","transport":"token"}`).is(201, "").field("token")
	if got := s.operate("POST /tenants/new/suspend", "").is(200, ""); got.field("state") != "suspended" {
		t.Errorf("suspended %s", got.Body)
	}
	s.ask("POST /t/new/v1/login", goodLogin).is(403, "forbidden")
	s.ask("GET /t/new/v1/session", "", "Authorization", "Bearer "+token).is(401, "no_session")
	s.operate("POST /tenants/new/resume", "").is(200, "")
	if got := s.operate("POST /tenants/new/rotate-keys", "").is(200, ""); got.field("id") != "new" || got.Header().Get("ETag") == "" {
		t.Errorf("rotated %s", got.Body)
	}
	s.operate("POST /tenants/nobody/rotate-keys", "").is(404, "not_found")
	s.ask("GET /t/new/v1/session", "", "Authorization", "Bearer "+token).is(401, "no_session") // it has ended, not slept
	s.operate("DELETE /tenants/new", "", "If-Match", s.operate("GET /tenants/new", "").Header().Get("ETag")).is(204, "")
	s.operate("GET /tenants/new", "").is(404, "not_found")
	s.ask("POST /t/new/v1/login", goodLogin).is(404, "not_found")
	s.ask("POST https://new.test/v1/login", goodLogin).is(404, "not_found")
	s.operate("POST /tenants", `{"id":"new","hosts":["new.test"]}`).is(201, "")
}

func TestListsComeInPages(t *testing.T) {
	s := newSite(t)
	for i := range 4 {
		s.operate("POST /tenants", fmt.Sprintf(`{"id":"t%d"}`, i)).is(201, "")
	}
	var ids []string
	for token := ""; ; {
		got := s.operate("GET /tenants?limit=3&page_token="+token, "").is(200, "")
		for part := range strings.SplitSeq(got.field("tenants"), `"id":"`) {
			if id, _, ok := strings.Cut(part, `","name"`); ok {
				ids = append(ids, id)
			}
		}
		if token = got.field("next_page_token"); token == "" {
			break
		}
	}
	if fmt.Sprint(ids) != "[acme closed other t0 t1 t2 t3]" {
		t.Errorf("listed %v", ids)
	}
	for range 5 {
		s.token("alice")
	}
	s.token("bob")
	seen, pages := 0, 0
	for token := ""; ; pages++ {
		got := s.operate("GET /tenants/acme/sessions?subject=alice&limit=2&page_token="+token, "").is(200, "")
		seen += strings.Count(got.field("sessions"), `"subject":"alice"`)
		if token = got.field("next_page_token"); token == "" {
			break
		}
	}
	if seen != 5 || pages != 2 {
		t.Errorf("%d sessions of alice on %d pages", seen, pages+1)
	}
	for _, query := range []string{"limit=0", "limit=-1", "limit=x", "limit=1&limit=2", "page_token=!", "page_token=" + strings.Repeat("A", 100), "tenant=x"} {
		s.operate("GET /tenants?"+query, "").is(400, "invalid")
	}
	s.operate("GET /tenants/acme/sessions?page_token=YWJj", "").is(400, "invalid") // it was page one
}

func TestConfigAndSecrets(t *testing.T) {
	s := newSite(t)
	if got := s.operate("GET /tenants/acme/config", "").is(200, ""); got.Body.String() != "{}" {
		t.Errorf("before any: %s", got.Body)
	}
	s.operate("PUT /tenants/acme/config", `{"users":[1]}`).is(200, "")
	if got := s.operate("GET /tenants/acme/config", "").is(200, ""); got.field("users") != "[1]" {
		t.Errorf("config %s", got.Body)
	}
	s.operate("PUT /tenants/acme/config", `{"a":{"k":1,"k":2}}`).is(400, "invalid")
	s.operate("PUT /tenants/acme/config", `[1]`).is(400, "invalid")
	s.operate("PUT /tenants/acme/config", `{"k":"`+strings.Repeat("x", 512<<10)+`"}`).is(413, "too_large")
	s.operate("PUT /tenants/acme/config", `{"k":"`+strings.Repeat("x", 512<<10-8)+`"}`).is(200, "")

	const secret = "hunter2-hunter2"
	if got := s.operate("PUT /tenants/acme/secrets/PW", `{"value":"`+secret+`"}`).is(200, ""); strings.Contains(got.Body.String(), secret) {
		t.Error("echoed")
	}
	if got := s.operate("GET /tenants/acme/secrets", "").is(200, ""); got.field("secrets") != `["PW"]` || strings.Contains(got.Body.String(), secret) {
		t.Errorf("secrets %s", got.Body)
	}
	s.operate("GET /tenants/acme/secrets/PW", "").is(405, "method_not_allowed")
	for _, body := range []string{`{}`, `{"value":""}`, `{"value":"` + strings.Repeat("x", 8193) + `"}`} {
		s.operate("PUT /tenants/acme/secrets/PW", body).is(422, "invalid")
	}
	if got := s.operate("PUT /tenants/acme/secrets/PW", `{"value":7,"of":"`+secret+`"}`).is(400, "invalid"); strings.Contains(got.Body.String(), secret) {
		t.Error("a refused secret is echoed")
	}
	s.operate("DELETE /tenants/acme/secrets/PW", "").is(204, "")
	s.operate("DELETE /tenants/acme/secrets/PW", "").is(204, "")
}

func TestOperatorsEndSessions(t *testing.T) {
	s := newSite(t)
	in := func(token string) int {
		return s.ask("GET /t/acme/v1/session", "", "Authorization", "Bearer "+token).Code
	}
	alice, alice2, bob := s.token("alice"), s.token("alice"), s.token("bob")
	id := s.ask("GET /t/acme/v1/session", "", "Authorization", "Bearer "+alice).field("id")
	s.operate("DELETE /tenants/other/sessions/"+id, "").is(404, "not_found")
	s.operate("DELETE /tenants/acme/sessions/"+id, "").is(204, "")
	s.operate("DELETE /tenants/acme/sessions/"+id, "").is(404, "not_found")
	s.operate("DELETE /tenants/acme/sessions/x", "").is(404, "not_found")
	if in(alice) != 401 || in(alice2) != 200 || in(bob) != 200 {
		t.Error("one session was to end")
	}
	for _, body := range []string{`{}`, `{"all":false}`, `{"subject":""}`, `{"subject":"alice","all":true}`, `{"subject":"alice","verifier":"` + deciding + `"}`, `{"verifier":"sha256:abc"}`, `{"verifier":"x"}`} {
		s.operate("POST /tenants/acme/sessions/revoke", body).is(422, "invalid")
	}
	if got := s.operate("POST /tenants/acme/sessions/revoke", `{"subject":"alice"}`).is(200, ""); got.field("processed") != "1" || got.field("more") != "false" {
		t.Errorf("revoked %s", got.Body)
	}
	if in(alice2) != 401 || in(bob) != 200 {
		t.Error("alice's sessions were to end")
	}
	s.operate("POST /tenants/other/sessions/revoke", `{"all":true}`).is(200, "")
	s.operate("POST /tenants/acme/sessions/revoke", `{"verifier":"`+strings.Replace(deciding, "ab", "cd", 1)+`"}`).is(200, "")
	if in(bob) != 200 {
		t.Error("another's revoke ended bob's session")
	}
	s.operate("POST /tenants/acme/sessions/revoke", `{"verifier":"`+deciding+`"}`).is(200, "")
	if in(bob) != 401 {
		t.Error("bob's verifier was to be revoked")
	}
	last := s.token("bob")
	s.operate("POST /tenants/acme/sessions/revoke", `{"all":true}`).is(200, "")
	if in(last) != 401 {
		t.Error("all were to end")
	}
	s.operate("POST /tenants/nobody/sessions/revoke", `{"all":true}`).is(404, "not_found")
}

func TestVerifierCallsNameVersionsThatAreThere(t *testing.T) {
	s := newSite(t)
	if got := s.operate("GET /tenants/acme/verifiers", "").is(200, ""); got.field("verifiers") != "[]" {
		t.Errorf("verifiers %s", got.Body)
	}
	for _, n := range []string{"1", "0", "-1", "x", "99999999999999999999"} {
		s.operate("GET /tenants/acme/verifiers/"+n, "").is(404, "not_found")
		s.operate("DELETE /tenants/acme/verifiers/"+n, "").is(404, "not_found")
		s.operate("POST /tenants/acme/verifiers/"+n+"/activate", `{}`).is(404, "not_found")
	}
	s.operate("POST /tenants/acme/verifiers/rollback", "").is(409, "conflict")
	s.operate("POST /tenants/acme/verifiers", `{}`).is(415, "unsupported_media_type")
	s.operate("POST /tenants/acme/verifiers", "", "Content-Type", "application/wasm").is(422, "verifier_invalid")
	s.operate("POST /tenants/acme/verifiers", strings.Repeat("x", 16<<20+1), "Content-Type", "application/wasm").is(413, "too_large")
	s.operate("POST /tenants/nobody/verifiers", "x", "Content-Type", "application/wasm").is(404, "not_found")
	for body, status := range map[string]int{
		"--b\r\nContent-Disposition: form-data; name=\"other\"\r\n\r\nx\r\n--b--\r\n":                                                                     400,
		"--b\r\nContent-Disposition: form-data; name=\"manifest\"\r\n\r\nx\r\n--b--\r\n":                                                                  400,
		"--b\r\nContent-Disposition: form-data; name=\"module\"\r\n\r\nx\r\n--b\r\nContent-Disposition: form-data; name=\"module\"\r\n\r\nx\r\n--b--\r\n": 400,
		"--b\r\nbroken": 400,
	} {
		s.operate("POST /tenants/acme/verifiers", body, "Content-Type", "multipart/form-data; boundary=b").is(status, "invalid")
	}
}
