package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/doorward/doorward/sdk/abi"
	"github.com/doorward/doorward/service"
	"github.com/doorward/doorward/service/pages"
	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/tenants"
)

// people marks a route that a person looks at: its errors are pages.
func people(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		c.Set("people", true)
		return next(c)
	}
}

func forPeople(c echo.Context) bool { return c.Get("people") != nil }

func (s *Server) loginPage(c echo.Context) error {
	d := doorOf(c)
	t, err := s.svc.Tenant(d)
	if err != nil {
		return err
	}
	app := c.QueryParam("app")
	returnTo, err := returnTarget(t, d, c.QueryParam("return_to"), app)
	if err != nil {
		return err
	}
	j := s.begin(c, d, t)
	return s.showLogin(c, t, http.StatusOK, flow{Kind: "login", Nonce: j.Nonce, ReturnTo: returnTo, App: app}, pages.Login{})
}

// showLogin renders the form; view brings what the user typed and the error.
func (s *Server) showLogin(c echo.Context, t tenants.Tenant, status int, f flow, view pages.Login) error {
	d := doorOf(c)
	view.Tenant, view.App = t.Name, appName(t, f)
	view.Action, view.Stylesheet = d.Base()+"/login", s.stylesheetURL(c)
	view.Flow, view.RequestID = s.seal(t, f), requestID(c)
	return s.render(c, status, view, originOf(f.ReturnTo))
}

func (s *Server) loginForm(c echo.Context) error {
	d := doorOf(c)
	t, err := s.svc.Tenant(d)
	if err != nil {
		return err
	}
	form, err := readForm(c, "username", "password", "return_to", "flow", "remember")
	if err != nil {
		return err
	}
	j := s.journeyOf(c, d, t)
	f, err := s.unseal(t, j, "login", form.Get("flow"))
	view := pages.Login{Username: cut(form.Get("username"), maxUsername), Remember: form.Get("remember") != ""}
	if errors.Is(err, errStale) {
		view.Error = errStale.Detail
		return s.showLogin(c, t, errStale.Status, f, view)
	}
	if err != nil {
		return err
	}
	if own := form.Get("return_to"); own != "" {
		if f.ReturnTo, err = returnTarget(t, d, own, f.App); err != nil {
			return err
		}
	}
	a := service.Attempt{
		Credential: abi.Credential{"username": form.Get("username"), "password": form.Get("password")},
		Method:     "password", Remember: view.Remember, App: f.App,
		Client: clientOf(c), RequestID: requestID(c), Replaces: cookieToken(c, d),
	}
	if err := checkCredential(a); err != nil {
		view.Error = "The user name or password is too long, or holds characters that cannot be typed."
		return s.showLogin(c, t, http.StatusUnprocessableEntity, f, view)
	}
	out, err := s.svc.Login(c.Request().Context(), d, a)
	if err != nil {
		p, _ := toProblem(err)
		view.Error = loginMessage(p)
		return s.showLogin(c, t, formStatus(p), f, view)
	}
	if out.Asked != nil {
		j.Challenge, j.Type = out.Asked.ID.Reveal(), out.Asked.Type
		j.Prompt, j.Digits = promptOf(out.Asked.Public)
		j.Username, j.ReturnTo, j.App = view.Username, f.ReturnTo, f.App
		s.keep(c, d, t, j)
		return c.Redirect(http.StatusSeeOther, d.Base()+"/login/challenge")
	}
	return s.signedIn(c, d, out, f.ReturnTo)
}

func (s *Server) challengePage(c echo.Context) error {
	d := doorOf(c)
	t, err := s.svc.Tenant(d)
	if err != nil {
		return err
	}
	j := s.journeyOf(c, d, t)
	if j.Challenge == "" {
		return c.Redirect(http.StatusSeeOther, d.Base()+"/login")
	}
	return s.showChallenge(c, t, http.StatusOK, j, "")
}

func (s *Server) showChallenge(c echo.Context, t tenants.Tenant, status int, j journey, message string) error {
	d := doorOf(c)
	f := flow{Kind: "challenge", Nonce: j.Nonce, ReturnTo: j.ReturnTo, App: j.App}
	return s.render(c, status, pages.Challenge{
		Tenant: t.Name, App: appName(t, f), Action: d.Base() + "/login/challenge", Stylesheet: s.stylesheetURL(c),
		Flow: s.seal(t, f), Username: j.Username, Type: j.Type, Prompt: j.Prompt, Digits: j.Digits,
		StartOver: restartURL(d, j), Error: message, RequestID: requestID(c),
	}, originOf(j.ReturnTo))
}

func (s *Server) challengeForm(c echo.Context) error {
	d := doorOf(c)
	t, err := s.svc.Tenant(d)
	if err != nil {
		return err
	}
	form, err := readForm(c, "flow", "code", "answer")
	if err != nil {
		return err
	}
	j := s.journeyOf(c, d, t)
	_, err = s.unseal(t, j, "challenge", form.Get("flow"))
	if errors.Is(err, errStale) {
		return s.showChallenge(c, t, errStale.Status, j, errStale.Detail)
	}
	if err != nil {
		return err
	}
	id, err := sessions.ParseChallengeID(j.Challenge)
	if err != nil {
		return c.Redirect(http.StatusSeeOther, d.Base()+"/login")
	}
	field := "answer"
	if j.Type == "otp" {
		field = "code"
	}
	out, err := s.svc.Answer(c.Request().Context(), d, id, service.Attempt{
		Credential: abi.Credential{field: strings.TrimSpace(form.Get(field))},
		Client:     clientOf(c), RequestID: requestID(c), Replaces: cookieToken(c, d),
	})
	if err != nil {
		p, _ := toProblem(err)
		return s.showChallenge(c, t, formStatus(p), j, loginMessage(p))
	}
	if out.Asked != nil {
		j.Challenge, j.Type = out.Asked.ID.Reveal(), out.Asked.Type
		j.Prompt, j.Digits = promptOf(out.Asked.Public)
		s.keep(c, d, t, j)
		return c.Redirect(http.StatusSeeOther, d.Base()+"/login/challenge")
	}
	return s.signedIn(c, d, out, j.ReturnTo)
}

// signedIn sends a browser with its new session to where it wanted to go. The
// flow cookie goes: the next sign-in is another journey.
func (s *Server) signedIn(c echo.Context, d service.Door, out service.Outcome, returnTo string) error {
	setCookie(c, cookieName(flowCookie, d), "", -1)
	setSession(c, d, out.Token, out.Session)
	writeRevision(c, out.Session.Revision)
	if returnTo == "" {
		returnTo = d.Base() + "/account"
	}
	return c.Redirect(http.StatusSeeOther, returnTo)
}

func (s *Server) logoutPage(c echo.Context) error {
	d := doorOf(c)
	t, err := s.svc.Tenant(d)
	if err != nil {
		return err
	}
	view := pages.Logout{Tenant: t.Name, Stylesheet: s.stylesheetURL(c), LoginURL: d.Base() + "/login"}
	_, err = s.svc.Validate(c.Request().Context(), d, cookieToken(c, d), 0)
	if errors.Is(err, sessions.ErrNotFound) {
		return s.render(c, http.StatusOK, view)
	}
	if err != nil {
		return err
	}
	j := s.begin(c, d, t)
	view.SignedIn, view.Action = true, d.Base()+"/logout"
	view.Flow = s.seal(t, flow{Kind: "logout", Nonce: j.Nonce})
	return s.render(c, http.StatusOK, view)
}

func (s *Server) logoutForm(c echo.Context) error {
	d := doorOf(c)
	t, err := s.svc.Tenant(d)
	if err != nil {
		return err
	}
	form, err := readForm(c, "flow")
	if err != nil {
		return err
	}
	_, err = s.unseal(t, s.journeyOf(c, d, t), "logout", form.Get("flow"))
	if errors.Is(err, errStale) {
		return c.Redirect(http.StatusSeeOther, d.Base()+"/logout")
	}
	if err != nil {
		return err
	}
	revision, err := s.svc.Logout(c.Request().Context(), d, cookieToken(c, d))
	if err != nil {
		return err
	}
	clearSession(c, d)
	writeRevision(c, revision)
	return c.Redirect(http.StatusSeeOther, d.Base()+"/logout")
}

// changePassword tells password managers where to go. The hosted pages do not
// hold passwords, so that is the account page.
func (s *Server) changePassword(c echo.Context) error {
	d := doorOf(c)
	if _, err := s.svc.Tenant(d); err != nil {
		return err
	}
	return c.Redirect(http.StatusFound, d.Base()+"/account")
}

// asset serves the pages' own files, under names that change with their
// content.
func (s *Server) asset(c echo.Context) error {
	name, css := pages.Stylesheet()
	if c.Param("name") != name {
		return echo.ErrNotFound
	}
	c.Response().Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	return c.Blob(http.StatusOK, "text/css; charset=utf-8", css)
}

func (s *Server) stylesheetURL(c echo.Context) string {
	name, _ := pages.Stylesheet()
	if !s.hasDoor(c) {
		return ""
	}
	return doorOf(c).Base() + "/assets/" + name
}

// render writes a page. formTo are origins that its form may lead to in the
// end: browsers hold a redirect after a POST against form-action too.
func (s *Server) render(c echo.Context, status int, view pages.View, formTo ...string) error {
	var page bytes.Buffer
	if err := pages.Render(&page, view); err != nil {
		return err
	}
	h := c.Response().Header()
	h.Set("Content-Security-Policy", strings.TrimSpace("default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self' "+strings.Join(formTo, " ")))
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin") // "no-referrer" would make form POSTs send Origin: null
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
	return c.HTMLBlob(status, page.Bytes())
}

// returnTarget is where a sign-in may lead, "" for the account page.
func returnTarget(t tenants.Tenant, d service.Door, raw, app string) (string, error) {
	if raw == "" && app == "" {
		return "", nil
	}
	safe, ok := t.ReturnTo(d.Base(), raw, app)
	if !ok {
		return "", refuse(http.StatusUnprocessableEntity, "invalid", "This link asks to continue at an address that is not registered here. Go back to the app and try again.")
	}
	return safe, nil
}

// readForm reads a posted form that holds these fields, each at most once.
func readForm(c echo.Context, fields ...string) (url.Values, error) {
	if err := wantType(c, "application/x-www-form-urlencoded"); err != nil {
		return nil, err
	}
	body, err := readBody(c, maxLogin)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, unreadable("The form cannot be read.")
	}
	known := url.Values{}
	for _, field := range fields {
		known[field] = form[field]
		delete(form, field)
		if len(known[field]) > 1 {
			return nil, unreadable("The form has a field twice.")
		}
	}
	if len(form) > 0 {
		return nil, unreadable("The form has a field that does not belong there.")
	}
	return known, nil
}

// loginMessage is the one sentence above the form.
func loginMessage(p problem) string {
	switch p.Code {
	case "login_failed":
		return "The user name or password is not right."
	case "challenge_failed":
		return "That was not right, or it came too late. Try again, or start over."
	case "invalid":
		return p.Detail
	case "forbidden":
		return "Signing in here is suspended."
	}
	return "Signing in does not work right now. Try again in a moment."
}

// formStatus is the status of a form shown again: what is wrong with the input
// is 422, what is wrong here stays what it is.
func formStatus(p problem) int {
	if p.Status == http.StatusUnauthorized {
		return http.StatusUnprocessableEntity
	}
	return p.Status
}

// promptOf reads what a challenge may tell a page: a sentence and, for a code,
// how many digits.
func promptOf(public json.RawMessage) (prompt string, digits int) {
	var p struct {
		Prompt string `json:"prompt"`
		Digits int    `json:"digits"`
	}
	if json.Unmarshal(public, &p) != nil {
		return "", 0
	}
	return cut(p.Prompt, 300), min(max(p.Digits, 0), 12)
}

func restartURL(d service.Door, j journey) string {
	query := url.Values{}
	if j.ReturnTo != "" {
		query.Set("return_to", j.ReturnTo)
	}
	if j.App != "" {
		query.Set("app", j.App)
	}
	if len(query) == 0 {
		return d.Base() + "/login"
	}
	return d.Base() + "/login?" + query.Encode()
}

// appName is the app that the user comes from, as a host they may recognise.
func appName(t tenants.Tenant, f flow) string {
	if origin := originOf(f.ReturnTo); origin != "" {
		return strings.TrimPrefix(strings.TrimPrefix(origin, "https://"), "http://")
	}
	for _, app := range t.Apps {
		if app.ID == f.App {
			return strings.TrimPrefix(strings.TrimPrefix(app.Origin, "https://"), "http://")
		}
	}
	return ""
}

// originOf is the origin of an absolute URL that ReturnTo has checked, "" of an
// own path.
func originOf(safe string) string {
	u, err := url.Parse(safe)
	if err != nil || u.Host == "" {
		return ""
	}
	return u.Scheme + "://" + u.Host
}
