package web

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/doorward/doorward/service"
	"github.com/doorward/doorward/service/pages"
	"github.com/doorward/doorward/sessions"
)

// accountPage shows people where they are signed in, and lets them end that.
func (s *Server) accountPage(c echo.Context) error {
	d := doorOf(c)
	t, err := s.svc.Tenant(d)
	if err != nil {
		return err
	}
	list, current, err := s.svc.OwnSessions(c.Request().Context(), d, cookieToken(c, d), 0)
	if errors.Is(err, sessions.ErrNotFound) {
		return toLogin(c, d)
	}
	if err != nil {
		return err
	}
	// This browser first, then who was seen last.
	slices.SortFunc(list, func(a, b sessions.Session) int {
		switch {
		case a.ID == current && b.ID != current:
			return -1
		case b.ID == current && a.ID != current:
			return 1
		}
		return b.LastSeenAt.Compare(a.LastSeenAt)
	})
	view := pages.Account{
		Tenant: t.Name, Action: d.Base() + "/account", Stylesheet: s.stylesheetURL(c), LogoutURL: d.Base() + "/logout",
		Flow: s.seal(t, flow{Kind: "account", Nonce: s.begin(c, d, t).Nonce}),
	}
	for _, one := range list {
		view.Subject = one.Subject
		view.Sessions = append(view.Sessions, pages.AccountSession{
			ID: string(one.ID), Current: one.ID == current, Device: device(one.Client.UserAgent), IP: one.Client.IP,
			Began: one.CreatedAt, Seen: one.LastSeenAt,
		})
	}
	return s.render(c, http.StatusOK, view)
}

// toLogin sends somebody whom the account page does not know to sign in first.
func toLogin(c echo.Context, d service.Door) error {
	return c.Redirect(http.StatusSeeOther, d.Base()+"/login?return_to="+url.QueryEscape(d.Base()+"/account"))
}

// accountForm ends one other session of the caller, or all others, and shows
// the page again. One that is gone already is as good as ended.
func (s *Server) accountForm(c echo.Context) error {
	d := doorOf(c)
	t, err := s.svc.Tenant(d)
	if err != nil {
		return err
	}
	form, err := readForm(c, "flow", "end")
	if err != nil {
		return err
	}
	_, err = s.unseal(t, s.journeyOf(c, d, t), "account", form.Get("flow"))
	if errors.Is(err, errStale) {
		return c.Redirect(http.StatusSeeOther, d.Base()+"/account")
	}
	if err != nil {
		return err
	}
	var revision int64
	var own bool
	token := cookieToken(c, d)
	if form.Get("end") == "others" {
		var done service.Revoked
		done, err = s.svc.EndOthers(c.Request().Context(), d, token)
		revision = done.Revision
	} else {
		id, malformed := sessions.ParseID(form.Get("end"))
		if malformed != nil {
			return unreadable("The form names no session.")
		}
		revision, own, err = s.svc.EndOwn(c.Request().Context(), d, token, id)
		if own && err == nil {
			clearSession(c, d)
		}
	}
	if err != nil && !errors.Is(err, sessions.ErrNotFound) && !errors.Is(err, service.ErrNoSession) {
		return err
	}
	writeRevision(c, revision)
	if err == nil && !own {
		s.renewToken(c, d, token)
	}
	return c.Redirect(http.StatusSeeOther, d.Base()+"/account")
}

// renewToken gives the browser a new token when it is time for one. Hosted
// forms do it by the way; a page that is only read changes nothing, and where
// it does not work now the next form will do.
func (s *Server) renewToken(c echo.Context, d service.Door, token sessions.Token) {
	ctx := c.Request().Context()
	session, err := s.svc.Validate(ctx, d, token, 0)
	if err != nil || time.Now().Before(session.RotateAfter()) {
		return
	}
	if next, session, err := s.svc.Rotate(ctx, d, token); err == nil {
		setSession(c, d, next, session)
	}
}

// device says in words what a User-Agent header claims, so that people
// recognise their own. Nothing is decided by it. The order matters: browsers
// name their forebears too.
func device(userAgent string) string {
	named := func(list [][2]string) string {
		for _, one := range list {
			if strings.Contains(userAgent, one[0]) {
				return one[1]
			}
		}
		return ""
	}
	program := named([][2]string{
		{"Edg", "Edge"}, {"OPR/", "Opera"}, {"SamsungBrowser/", "Samsung Internet"},
		{"Firefox/", "Firefox"}, {"FxiOS/", "Firefox"}, {"Chrome/", "Chrome"}, {"CriOS/", "Chrome"}, {"Safari/", "Safari"},
	})
	system := named([][2]string{
		{"Android", "Android"}, {"iPhone", "iPhone"}, {"iPad", "iPad"}, {"Windows", "Windows"},
		{"Macintosh", "Mac"}, {"CrOS", "ChromeOS"}, {"Linux", "Linux"},
	})
	if program != "" && system != "" {
		return program + " on " + system
	}
	if name, _, _ := strings.Cut(userAgent, "/"); program == "" && name != "" {
		return cut(name, 60) // programs say their name and version: curl/8.5.0
	}
	if program != "" {
		return program
	}
	return "Unknown device"
}
