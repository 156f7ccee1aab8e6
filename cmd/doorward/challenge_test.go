package main

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/doorward/doorward/plugins/guesttest"
)

// totpSecret is bob's, as an authenticator app shows it.
const totpSecret = "JBSW Y3DP EHPK 3PXP"

// code is what the app shows now (RFC 6238), and nextCode what it shows next,
// which is right already: each is good once.
func code(t testing.TB) string     { return codeAt(t, 0) }
func nextCode(t testing.TB) string { return codeAt(t, 1) }

func codeAt(t testing.TB, steps int64) string {
	t.Helper()
	key, err := base32.StdEncoding.DecodeString(strings.ReplaceAll(totpSecret, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha1.New, key)
	binary.Write(mac, binary.BigEndian, uint64(time.Now().Unix()/30+steps))
	sum := mac.Sum(nil)
	return fmt.Sprintf("%06d", binary.BigEndian.Uint32(sum[sum[len(sum)-1]&15:])&0x7fffffff%1_000_000)
}

// wrong is a code that is not right now, nor a step off.
func wrong(t testing.TB) string {
	if strings.HasPrefix(code(t), "0") {
		return "1x1111"
	}
	return "0x0000"
}

// newTwoStepSite has a tenant acme with bob, who has a second step.
func newTwoStepSite(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	module, err := os.ReadFile("../../bin/verifiers/users.wasm")
	if err != nil {
		t.Fatalf("%v; run: make build", err)
	}
	s.tenant("acme", module)
	hash, err := bcrypt.GenerateFromPassword([]byte("builder"), bcrypt.MinCost+6)
	if err != nil {
		t.Fatal(err)
	}
	s.operate(200, "PUT /tenants/acme/config", map[string]any{"users": []any{
		map[string]any{"username": "bob", "password_hash": string(hash), "totp_secret": totpSecret, "claims": map[string]any{"role": "builder"}},
	}})
	return s
}

func TestASecondStepThroughTheAPI(t *testing.T) {
	s := newTwoStepSite(t)
	asked := func() string {
		t.Helper()
		got, err := s.login("acme", "bob", "builder")
		if err != nil || got.status != 200 || got.field("challenge.type") != "otp" || got.field("session") != "" || got.field("token") != "" {
			t.Fatalf("%d %s %v", got.status, got.body, err)
		}
		return got.field("challenge.id")
	}
	answer := func(status int, id, code string) answer {
		t.Helper()
		return s.must(status, "POST "+s.public+"/t/acme/v1/login/answer", map[string]any{"challenge": id, "answer": map[string]any{"code": code}})
	}

	id := asked()
	if got := answer(401, id, wrong(t)); got.field("code") != "challenge_failed" {
		t.Errorf("a wrong code: %s", got.body)
	}
	used := code(t)
	signedIn := answer(201, id, used)
	if signedIn.field("session.subject") != "bob" || signedIn.field("session.claims.role") != "builder" || signedIn.field("session.amr") != `["pwd","otp"]` {
		t.Errorf("signed in as %s", signedIn.body)
	}
	s.must(200, "GET "+s.public+"/t/acme/v1/session", nil, "Authorization", "Bearer "+signedIn.field("token"))
	if got := answer(401, id, code(t)); got.field("code") != "challenge_failed" {
		t.Errorf("a used challenge: %s", got.body)
	}

	// The attempts run out, and then the right code is no use either.
	id = asked()
	for range 20 {
		answer(401, id, wrong(t))
	}
	answer(401, id, code(t))

	// Nor does a challenge count at another tenant, or one that nobody made.
	id = asked()
	got := s.must(401, "POST "+s.public+"/t/demo/v1/login/answer", map[string]any{"challenge": id, "answer": map[string]any{"code": code(t)}})
	if got.field("code") != "challenge_failed" {
		t.Errorf("at another tenant: %s", got.body)
	}
	answer(401, "ch_AAAAAAAAAAAAAAAAAAAAAA", code(t))
	answer(401, "nonsense", code(t))
	if got, err := s.login("acme", "bob", "wrong"); err != nil || got.status != 401 {
		t.Errorf("a wrong password: %d %s %v", got.status, got.body, err)
	}

	// It outlives the server, and so does what is known of a code that was used: a
	// code was once good for as often as it came within its 90 seconds.
	s.crash()
	s.start()
	answer(401, id, used)
	answer(201, id, nextCode(t))

	// A version that is deleted decides nothing any more, and the user is told to
	// begin anew. (It was 503 until the challenge ended by itself.)
	id = asked()
	s.operate(201, "POST /tenants/acme/verifiers", guesttest.Accepts("anybody").Module())
	s.operate(200, "POST /tenants/acme/verifiers/2/activate", nil)
	s.operate(204, "DELETE /tenants/acme/verifiers/1", nil)
	if got := answer(401, id, code(t)); got.field("code") != "challenge_failed" {
		t.Errorf("a deleted version: %s", got.body)
	}
	if logs := s.operate(200, "GET /tenants/acme/verifiers/logs", nil); !strings.Contains(string(logs.body), "the version is deleted") {
		t.Errorf("the tenant is not told: %s", logs.body)
	}
}

// browser keeps cookies and the flow value of the page it saw last.
type browser struct {
	*site
	cookies map[string]string
	page    answer
}

var flowValue = regexp.MustCompile(`name="flow" value="([^"]+)"`)

// open gets a page; "METHOD PATH" and a form otherwise.
func (b *browser) open(status int, what string, form url.Values) {
	b.Helper()
	var cookies []string
	for name, value := range b.cookies {
		cookies = append(cookies, name+"="+value)
	}
	var body any
	if form != nil {
		if found := flowValue.FindSubmatch(b.page.body); found != nil {
			form.Set("flow", html.UnescapeString(string(found[1])))
		}
		body = form.Encode()
	}
	method, path, _ := strings.Cut(what, " ")
	b.page = b.must(status, method+" "+b.public+path, body, "Cookie", strings.Join(cookies, "; "), "Sec-Fetch-Site", "same-origin")
	for _, c := range (&http.Response{Header: b.page.header}).Cookies() {
		if b.cookies[c.Name] = c.Value; c.MaxAge < 0 {
			delete(b.cookies, c.Name)
		}
	}
}

// follow goes where the last answer sent the browser.
func (b *browser) follow() {
	b.Helper()
	b.open(200, "GET "+b.page.header.Get("Location"), nil)
}

func TestASecondStepInABrowser(t *testing.T) {
	s := newTwoStepSite(t)
	b := &browser{site: s, cookies: map[string]string{}}
	b.open(200, "GET /t/acme/login?return_to=/t/acme/account", nil)
	b.open(303, "POST /t/acme/login", url.Values{"username": {"bob"}, "password": {"builder"}})
	if len(b.cookies["__Host-doorward-acme"]) > 0 {
		t.Fatal("signed in after one step")
	}
	b.follow()
	if !strings.Contains(string(b.page.body), `autocomplete="one-time-code"`) {
		t.Fatalf("no field for a code: %s", b.page.body)
	}
	b.open(422, "POST /t/acme/login/challenge", url.Values{"code": {wrong(t)}})
	if !strings.Contains(string(b.page.body), `role="alert"`) {
		t.Fatalf("no message: %s", b.page.body)
	}
	b.open(303, "POST /t/acme/login/challenge", url.Values{"code": {" " + code(t) + " "}})
	if len(b.cookies["__Host-doorward-acme"]) == 0 {
		t.Fatalf("not signed in: %v", b.page.header)
	}
	b.follow()
	if !strings.Contains(string(b.page.body), "bob") {
		t.Fatalf("nobody on the page: %s", b.page.body)
	}
	// The page without a challenge leads to the beginning.
	b.open(303, "GET /t/acme/login/challenge", nil)
}
