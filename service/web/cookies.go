package web

import (
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/doorward/doorward/service"
	"github.com/doorward/doorward/sessions"
)

// Cookie names. The __Host- prefix makes browsers insist on Secure, Path=/ and
// no Domain. Under the shared host each tenant's cookie has the tenant's id in
// its name, because there they all reach every path.
const (
	sessionCookie = "__Host-doorward"
	flowCookie    = "__Host-doorward-flow"
)

func cookieName(prefix string, d service.Door) string {
	if d.ID == "" {
		return prefix
	}
	return prefix + "-" + d.ID
}

// setCookie is the one place that writes a cookie. maxAge zero leaves it to
// the browser's session, below zero removes it.
func setCookie(c echo.Context, name, value string, maxAge time.Duration) {
	cookie := &http.Cookie{
		Name: name, Value: value, Path: "/",
		Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
	switch {
	case maxAge < 0:
		cookie.MaxAge = -1
	case maxAge > 0:
		cookie.MaxAge = int(maxAge / time.Second)
	}
	http.SetCookie(c.Response(), cookie)
}

// setSession hands the token to the browser; only a remembered one outlives it.
func setSession(c echo.Context, d service.Door, token sessions.Token, s sessions.Session) {
	maxAge := time.Duration(0)
	if s.Remember {
		maxAge = time.Until(s.ExpiresAt)
	}
	setCookie(c, cookieName(sessionCookie, d), token.Reveal(), maxAge)
}

func clearSession(c echo.Context, d service.Door) {
	setCookie(c, cookieName(sessionCookie, d), "", -1)
}

// bearer finds the session token a caller presents: an Authorization header
// with the Bearer scheme, or else the one session cookie. The zero token is no
// token: none, malformed, or two cookies of the name, whose order means
// nothing (RFC 6265bis), so neither is believed.
func bearer(c echo.Context, d service.Door) sessions.Token {
	if scheme, text, ok := strings.Cut(c.Request().Header.Get(echo.HeaderAuthorization), " "); ok && strings.EqualFold(scheme, "Bearer") {
		token, err := sessions.ParseToken(text)
		if err != nil {
			return sessions.Token{}
		}
		return token
	}
	return cookieToken(c, d)
}

// cookieToken is bearer for pages, where only the cookie counts.
func cookieToken(c echo.Context, d service.Door) sessions.Token {
	text, ok := oneCookie(c.Request(), cookieName(sessionCookie, d))
	if !ok {
		return sessions.Token{}
	}
	token, err := sessions.ParseToken(text)
	if err != nil {
		return sessions.Token{}
	}
	return token
}

// oneCookie is the value of the one cookie of that name, as net/http reads it.
// It looks for itself, because net/http passes over a cookie whose value it
// cannot read, and two cookies would look like one.
func oneCookie(r *http.Request, name string) (value string, ok bool) {
	n := 0
	for _, line := range r.Header["Cookie"] {
		for part := range strings.SplitSeq(line, ";") {
			named, text, _ := strings.Cut(part, "=")
			if strings.TrimSpace(named) != name {
				continue
			}
			if n++; n > 1 {
				return "", false
			}
			value, ok = cookieValue(strings.TrimRight(text, blanks))
			ok = ok && strings.Trim(named, blanks) == name
		}
	}
	return value, ok
}

const blanks = " \t\r\n"

// cookieValue takes the quotes off a cookie's value. False for one that holds
// what no value may.
func cookieValue(text string) (string, bool) {
	if len(text) > 1 && text[0] == '"' && text[len(text)-1] == '"' {
		text = text[1 : len(text)-1]
	}
	for i := 0; i < len(text); i++ {
		if c := text[i]; c < ' ' || c >= 0x7f || c == '"' || c == ';' || c == '\\' {
			return "", false
		}
	}
	return text, true
}
