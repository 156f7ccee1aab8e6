package web_test

import (
	"context"
	"encoding/json"
	"errors"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/sdk/abi"
	"github.com/doorward/doorward/service"
	"github.com/doorward/doorward/service/web"
	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/tenants"
	"github.com/doorward/doorward/tenants/seal"
)

// deciding is the digest of the verifier that decides here.
var deciding = "sha256:" + strings.Repeat("ab", 32)

// site is both listeners over Memory, with a func that decides logins.
type site struct {
	testing.TB
	svc           *service.Service
	public, admin http.Handler
	endStreams    func()
	key           string // of an operator
}

// newSite has tenants acme (at acme.test too), other and closed, which is
// suspended.
func newSite(t testing.TB) *site {
	t.Helper()
	ring, err := seal.LoadOrCreateRing(filepath.Join(t.TempDir(), "keyring"))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := plugins.NewDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	source, store := tenants.NewMemory(), sessions.NewMemory()
	svc := &service.Service{
		Tenants:  tenants.NewRegistry(source, tenants.RegistryConfig{PublicHost: "login.example"}),
		Source:   source,
		Sessions: sessions.New(store, store, sessions.Config{}),
		Verifier: service.VerifierFunc(decide),
		Catalog:  plugins.NewCatalog(dir, plugins.NewHost(nil, plugins.Settings{}, nil), plugins.CatalogConfig{}),
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- svc.Tenants.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
	w := web.New(svc, ring.Box("flow"), web.Config{PublicURL: &url.URL{Scheme: "https", Host: "login.example"}})
	s := &site{TB: t, svc: svc, public: w.Public(), admin: w.Admin(), endStreams: w.EndStreams}
	secret := tenants.NewKeySecret()
	s.key = secret.Reveal()
	for _, k := range []tenants.Key{{ID: "op", Kind: "operator", Digest: secret.Digest()}, {ID: "app", Kind: "app", Digest: appKey.Digest()}} {
		if err := source.PutKey(ctx, k); err != nil {
			t.Fatal(err)
		}
	}
	for _, wanted := range []tenants.Tenant{
		{ID: "acme", Name: "Acme", Hosts: []string{"acme.test"}, Apps: []tenants.App{{ID: "shop", Origin: "https://shop.test"}}},
		{ID: "other", Hosts: []string{"other.test"}},
		{ID: "closed"},
	} {
		made, err := svc.Tenants.New(wanted)
		if err == nil {
			_, err = svc.CreateTenant(ctx, made)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := svc.Suspend(ctx, "closed"); err != nil {
		t.Fatal(err)
	}
	return s
}

// appKey is a key that is no operator's.
var appKey = tenants.NewKeySecret()

// decide knows what each user's login comes to: the password is "right", and
// some names stand for trouble.
func decide(_ context.Context, c plugins.Call) (plugins.Answer, error) {
	out := plugins.Answer{Version: 1, Digest: deciding}
	name := c.Request.Credential.Text("username")
	switch {
	case c.Request.State != nil && c.Request.Credential.Text("code") == "123456":
		out.Verdict = abi.Verdict{Decision: abi.Accept, Subject: "twostep", AMR: []string{"pwd", "otp"}}
	case c.Request.State != nil:
		out.Verdict = abi.Verdict{Decision: abi.Reject}
	case name == "panic":
		panic("a verifier's insides")
	case name == "huge":
		return out, plugins.ErrTooLarge
	case name == "broken":
		return out, plugins.ErrVerifier
	case name == "odd":
		out.Verdict = abi.Verdict{Decision: "maybe"}
	case c.Request.Credential.Text("password") != "right":
		out.Verdict = abi.Verdict{Decision: abi.Reject}
	case name == "twostep":
		out.Verdict = abi.Verdict{Decision: abi.Challenge, Type: "otp", Public: []byte(`{"digits":6}`), Private: []byte(`{"secret":"state"}`), TTL: 60, MaxAttempts: 3}
	default:
		out.Verdict = abi.Verdict{Decision: abi.Accept, Subject: name, Claims: []byte(`{"role":"user"}`), AMR: []string{"pwd"}}
	}
	return out, nil
}

// answer is what a request got.
type answer struct {
	*httptest.ResponseRecorder
	test testing.TB
}

// ask makes a request of "METHOD URL" with a body and headers in pairs, at the
// public listener. A path alone is at the shared host.
func (s *site) ask(what, body string, headers ...string) answer {
	s.Helper()
	return s.at(s.public, "https://login.example", what, body, headers...)
}

// operate is ask at the admin listener, with the operator's key.
func (s *site) operate(what, body string, headers ...string) answer {
	s.Helper()
	return s.at(s.admin, "http://127.0.0.1:8481/admin/v1", what, body, append([]string{"Authorization", "Bearer " + s.key}, headers...)...)
}

func (s *site) at(h http.Handler, base, what, body string, headers ...string) answer {
	s.Helper()
	method, target, _ := strings.Cut(what, " ")
	if strings.HasPrefix(target, "/") {
		target = base + target
	}
	r := httptest.NewRequestWithContext(s.Context(), method, target, strings.NewReader(body))
	if body == "" {
		r.Body = http.NoBody
	}
	if strings.HasPrefix(body, "{") || strings.HasPrefix(body, "[") {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if r.Header.Add(headers[i], headers[i+1]); headers[i] == "Content-Type" {
			r.Header["Content-Type"] = []string{headers[i+1]}
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return answer{w, s.TB}
}

// is wants a status, and of a problem its code.
func (a answer) is(status int, code string) answer {
	a.test.Helper()
	if a.Code != status || a.field("code") != code {
		a.test.Fatalf("%d %s, want %d %q", a.Code, a.Body, status, code)
	}
	return a
}

// field reads a dotted path of the answer's JSON, "" when it is not there.
func (a answer) field(path string) string {
	var at any
	if json.Unmarshal(a.Body.Bytes(), &at) != nil {
		return ""
	}
	for name := range strings.SplitSeq(path, ".") {
		object, _ := at.(map[string]any)
		at = object[name]
	}
	switch v := at.(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		text, _ := json.Marshal(v)
		return string(text)
	}
}

// cookie is one that the answer sets, nil when it does not.
func (a answer) cookie(name string) *http.Cookie {
	for _, c := range a.Result().Cookies() {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// token signs a user in at acme and returns the token.
func (s *site) token(username string) string {
	s.Helper()
	return s.ask("POST /t/acme/v1/login", `{"username":"`+username+`","password":"right","transport":"token"}`).is(201, "").field("token")
}

// visitor is a browser: it keeps cookies and the flow value of its last page.
type visitor struct {
	*site
	base    string
	cookies map[string]string
	flow    string
}

func (s *site) visitor(base string) *visitor {
	return &visitor{site: s, base: base, cookies: map[string]string{}}
}

var flowValue = regexp.MustCompile(`name="flow" value="([^"]+)"`)

// open goes to "METHOD PATH" under the tenant's base; a form brings the last
// page's flow value, unless it has its own.
func (v *visitor) open(what string, form url.Values, headers ...string) answer {
	v.Helper()
	method, path, _ := strings.Cut(what, " ")
	if len(v.cookies) > 0 {
		var jar []string
		for name, value := range v.cookies {
			jar = append(jar, name+"="+value)
		}
		headers = append(headers, "Cookie", strings.Join(jar, "; "))
	}
	body := ""
	if form != nil {
		if !form.Has("flow") {
			form.Set("flow", v.flow)
		}
		body = form.Encode()
		headers = append(headers, "Content-Type", "application/x-www-form-urlencoded")
	}
	got := v.ask(method+" "+v.base+path, body, headers...)
	for _, c := range got.Result().Cookies() {
		if v.cookies[c.Name] = c.Value; c.MaxAge < 0 {
			delete(v.cookies, c.Name)
		}
	}
	if found := flowValue.FindSubmatch(got.Body.Bytes()); found != nil {
		v.flow = html.UnescapeString(string(found[1]))
	}
	return got
}
