package web

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/doorward/doorward/service"
	"github.com/doorward/doorward/tenants"
)

// flowTime is how long a page may stand open before its form is stale.
const flowTime = 10 * time.Minute

// A flow is what a hosted form carries besides what the user types, sealed so
// that only this service can have written it. Its nonce is also in a cookie of
// the browser that got the page: a form planted in somebody else's browser
// (login CSRF) does not match. Nothing of it is stored on the server.
type flow struct {
	Kind     string `json:"k"` // which form: "login", "challenge", "logout" or "account"
	Nonce    string `json:"n"`
	ReturnTo string `json:"r,omitempty"` // already checked
	App      string `json:"a,omitempty"`
	Expires  int64  `json:"e"` // Unix seconds
}

// journey is what the flow cookie holds: the nonce, and, between the two steps
// of a sign-in, where it stands.
type journey struct {
	Nonce     string `json:"n"`
	Challenge string `json:"c,omitempty"` // id of the pending challenge
	Type      string `json:"t,omitempty"`
	Prompt    string `json:"p,omitempty"`
	Digits    int    `json:"d,omitempty"`
	Username  string `json:"u,omitempty"`
	ReturnTo  string `json:"r,omitempty"`
	App       string `json:"a,omitempty"`
}

// seal makes the form's hidden value.
func (s *Server) seal(t tenants.Tenant, f flow) string {
	f.Expires = time.Now().Add(flowTime).Unix()
	return s.sealJSON("form", t, f)
}

// Why a form is not taken.
var (
	errStale   = refuse(http.StatusUnprocessableEntity, "invalid", "This page was open for too long. Please try again.")
	errForeign = refuse(http.StatusForbidden, "forbidden", "This form does not belong to this browser. Please begin again.")
)

// unseal opens a form's hidden value and holds it against the browser's
// journey. errForeign when it is not this browser's; errStale, with the flow,
// when it is but too old.
func (s *Server) unseal(t tenants.Tenant, j journey, kind, sealed string) (flow, error) {
	var f flow
	if !s.openJSON("form", t, sealed, &f) || f.Kind != kind || f.Nonce == "" || f.Nonce != j.Nonce {
		return flow{}, errForeign
	}
	if time.Now().Unix() > f.Expires {
		return f, errStale
	}
	return f, nil
}

// journeyOf reads the flow cookie; a zero journey when there is none that is
// ours and of this tenant.
func (s *Server) journeyOf(c echo.Context, d service.Door, t tenants.Tenant) journey {
	text, ok := oneCookie(c.Request(), cookieName(flowCookie, d))
	var j journey
	if !ok || !s.openJSON("cookie", t, text, &j) {
		return journey{}
	}
	return j
}

// keep writes the flow cookie. It lives as long as the browser: what is stale is
// told by the form. A cookie that ended with the form, or before it, made every
// page that was open for too long look foreign, which is a dead end.
func (s *Server) keep(c echo.Context, d service.Door, t tenants.Tenant, j journey) {
	setCookie(c, cookieName(flowCookie, d), s.sealJSON("cookie", t, j), 0)
}

// begin returns the browser's journey, making one for a browser that has none.
func (s *Server) begin(c echo.Context, d service.Door, t tenants.Tenant) journey {
	j := s.journeyOf(c, d, t)
	if j.Nonce == "" {
		j = journey{Nonce: rand.Text()}
		s.keep(c, d, t, j)
	}
	return j
}

func (s *Server) sealJSON(purpose string, t tenants.Tenant, v any) string {
	plain, err := json.Marshal(v)
	if err != nil {
		panic("web: encode flow: " + err.Error()) // plain strings and numbers
	}
	return base64.RawURLEncoding.EncodeToString(s.flows.Seal([]byte(purpose+"\x00"+t.UUID), plain))
}

func (s *Server) openJSON(purpose string, t tenants.Tenant, text string, v any) bool {
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return false
	}
	plain, err := s.flows.Open([]byte(purpose+"\x00"+t.UUID), sealed)
	return err == nil && json.Unmarshal(plain, v) == nil
}
