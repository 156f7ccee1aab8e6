package web

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/doorward/doorward/service"
	"github.com/doorward/doorward/sessions"
)

var param = regexp.MustCompile(`:([a-z]+)`)

// Served lists what the router serves, as the contract writes it.
func Served() []string {
	s := New(nil, nil, Config{PublicURL: &url.URL{Scheme: "http", Host: "localhost"}})
	var list []string
	take := func(prefix string, routes []route) {
		for _, r := range routes {
			path, _, _ := strings.Cut(r.path, "?")
			list = append(list, r.method+" "+param.ReplaceAllString(prefix+path, "{$1}"))
		}
	}
	apps, browsers := s.publicMap()
	take("/t/:tenant", apps)
	take("/t/:tenant", browsers)
	take("/admin/v1", s.adminMap())
	take("", s.probeMap())
	return list
}

// ParseJSON and PlainPath are fuzzed from outside.
var (
	ParseJSON = parseJSON
	PlainPath = plainPath
	OneCookie = oneCookie
)

// SessionJSON is a session as a validate writes it and as encoding/json does.
func SessionJSON(tenant string, one sessions.Session) (written, encoded []byte, err error) {
	v := viewSession(tenant, one, true)
	if written, err = v.append(nil); err != nil {
		return nil, nil, err
	}
	encoded, err = json.Marshal(v)
	return written, encoded, err
}

// Presented is the token that a request presents at a door, for apps and for
// pages.
func Presented(r *http.Request, d service.Door) (app, page sessions.Token) {
	c := echo.New().NewContext(r, nil)
	return bearer(c, d), cookieToken(c, d)
}
