package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/sdk/abi"
	"github.com/doorward/doorward/service"
	"github.com/doorward/doorward/sessions"
)

// loginBody is what an app posts to sign somebody in.
type loginBody struct {
	Username   *string        `json:"username"`
	Password   *string        `json:"password"`
	Method     string         `json:"method"`
	Credential abi.Credential `json:"credential"`
	Transport  string         `json:"transport"`
	Remember   bool           `json:"remember"`
}

// Bounds on what goes to a verifier. A longer password is refused, not cut:
// some hashes would silently ignore the rest.
const (
	maxUsername = 256
	maxPassword = 1024
)

// attempt turns the body into what the verb takes.
func (b loginBody) attempt() (service.Attempt, error) {
	a := service.Attempt{Method: b.Method, Credential: b.Credential, Remember: b.Remember}
	switch b.Transport {
	case "", "cookie":
	case "token":
		a.Token = true
	default:
		return a, unacceptable("transport", `must be "cookie" or "token"`)
	}
	if b.Method == "" {
		a.Method = "password"
	}
	if len(a.Method) > 40 || !printable(a.Method) {
		return a, unacceptable("method", "must be 1 to 40 printable characters")
	}
	if a.Credential == nil {
		a.Credential = abi.Credential{}
	}
	for name, value := range map[string]*string{"username": b.Username, "password": b.Password} {
		if value == nil {
			continue
		}
		if _, twice := a.Credential[name]; twice {
			return a, unacceptable(name, "stands both at the top and in credential")
		}
		a.Credential[name] = *value
	}
	return a, checkCredential(a)
}

// checkCredential refuses what no verifier should have to think about.
func checkCredential(a service.Attempt) error {
	if a.Method == "password" {
		for _, name := range []string{"username", "password"} {
			if _, ok := a.Credential[name]; !ok {
				return unacceptable(name, "is required")
			}
			if _, ok := a.Credential[name].(string); !ok {
				return wrongType("/credential/"+name, "has the wrong JSON type")
			}
		}
	}
	if name := a.Credential.Text("username"); len(name) > maxUsername || !printable(name) {
		return unacceptable("username", "must be at most 256 bytes of printable text")
	}
	if len(a.Credential.Text("password")) > maxPassword {
		return unacceptable("password", "must be at most 1024 bytes")
	}
	return nil
}

// printable refuses control and formatting characters, which look like nothing
// and could make two names look like one.
func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

func clientOf(c echo.Context) sessions.Client {
	return sessions.Client{IP: c.RealIP(), UserAgent: cut(c.Request().UserAgent(), 256)}
}

// cut shortens s to at most n bytes of valid text.
func cut(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	for !utf8.ValidString(s) && s != "" {
		s = s[:len(s)-1]
	}
	return s
}

func (s *Server) login(c echo.Context) error {
	var body loginBody
	if err := readJSON(c, maxLogin, &body); err != nil {
		return err
	}
	a, err := body.attempt()
	if err != nil {
		return err
	}
	d := doorOf(c)
	a.Client, a.RequestID, a.Replaces = clientOf(c), requestID(c), cookieToken(c, d)
	out, err := s.svc.Login(c.Request().Context(), d, a)
	if errors.Is(err, plugins.ErrMethod) {
		return unacceptable("method", "is not one that this tenant's verifier takes")
	}
	if err != nil {
		return err
	}
	return s.outcome(c, d, out)
}

func (s *Server) answer(c echo.Context) error {
	var body struct {
		Challenge string         `json:"challenge"`
		Answer    abi.Credential `json:"answer"`
	}
	if err := readJSON(c, maxLogin, &body); err != nil {
		return err
	}
	if body.Challenge == "" || body.Answer == nil {
		return unacceptable("challenge and answer", "are required")
	}
	id, err := sessions.ParseChallengeID(body.Challenge)
	if err != nil {
		return service.ErrChallenge
	}
	d := doorOf(c)
	out, err := s.svc.Answer(c.Request().Context(), d, id, service.Attempt{
		Credential: body.Answer, Client: clientOf(c), RequestID: requestID(c), Replaces: cookieToken(c, d),
	})
	if err != nil {
		return err
	}
	return s.outcome(c, d, out)
}

// outcome answers a login that came to something.
func (s *Server) outcome(c echo.Context, d service.Door, out service.Outcome) error {
	if q := out.Asked; q != nil {
		public := q.Public
		if len(public) == 0 {
			public = json.RawMessage("{}")
		}
		return c.JSON(http.StatusOK, map[string]any{"challenge": map[string]any{
			"id": q.ID.Reveal(), "type": q.Type, "public": public, "expires_at": stamp(q.ExpiresAt),
		}})
	}
	answer := signedIn{Session: s.view(d, out.Session, true)}
	if out.ByToken {
		answer.Token = out.Token.Reveal()
	} else {
		setSession(c, d, out.Token, out.Session)
	}
	writeRevision(c, out.Session.Revision)
	return c.JSON(http.StatusCreated, answer)
}

// signedIn is a session and, where the caller keeps it itself, its token.
type signedIn struct {
	Session sessionView `json:"session"`
	Token   string      `json:"token,omitempty"`
}

func (s *Server) validate(c echo.Context) error {
	atLeast, err := minRevision(c)
	if err != nil {
		return err
	}
	d := doorOf(c)
	session, err := s.svc.Validate(c.Request().Context(), d, bearer(c, d), atLeast)
	if err != nil {
		return err
	}
	if c.Request().Method == http.MethodHead {
		return c.NoContent(http.StatusOK)
	}
	answer, err := s.view(d, session, true).append(make([]byte, 0, 1024))
	if err != nil {
		return fmt.Errorf("write session: %w", err)
	}
	c.Response().Header()[echo.HeaderContentType] = jsonType
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, append(answer, '\n'))
}

// rotate hands out the new token the way the old one came.
func (s *Server) rotate(c echo.Context) error {
	if c.Request().ContentLength != 0 {
		if err := readJSON(c, maxLogin, &struct{}{}); err != nil {
			return err
		}
	}
	d := doorOf(c)
	token, session, err := s.svc.Rotate(c.Request().Context(), d, bearer(c, d))
	if err != nil {
		return err
	}
	answer := signedIn{Session: s.view(d, session, true)}
	if c.Request().Header.Get(echo.HeaderAuthorization) != "" {
		answer.Token = token.Reveal()
	} else {
		setSession(c, d, token, session)
	}
	writeRevision(c, session.Revision)
	return c.JSON(http.StatusOK, answer)
}

func (s *Server) logout(c echo.Context) error {
	d := doorOf(c)
	revision, err := s.svc.Logout(c.Request().Context(), d, bearer(c, d))
	if err != nil {
		return err
	}
	clearSession(c, d)
	writeRevision(c, revision)
	return c.NoContent(http.StatusNoContent)
}

func (s *Server) ownSessions(c echo.Context) error {
	atLeast, err := minRevision(c)
	if err != nil {
		return err
	}
	d := doorOf(c)
	list, current, err := s.svc.OwnSessions(c.Request().Context(), d, bearer(c, d), atLeast)
	if err != nil {
		return err
	}
	views := make([]sessionView, len(list))
	for i, one := range list {
		views[i] = s.view(d, one, one.ID == current)
	}
	return c.JSON(http.StatusOK, map[string]any{"sessions": views, "next_page_token": ""})
}

func (s *Server) endOwn(c echo.Context) error {
	id, err := sessionParam(c)
	if err != nil {
		return err
	}
	d := doorOf(c)
	revision, current, err := s.svc.EndOwn(c.Request().Context(), d, bearer(c, d), id)
	if err != nil {
		return noSuchSession(err)
	}
	if current {
		clearSession(c, d)
	}
	writeRevision(c, revision)
	return c.NoContent(http.StatusNoContent)
}

func (s *Server) endOthers(c echo.Context) error {
	if c.QueryParam("except") != "current" {
		return unacceptable("except", `must be "current"; to end this session too, DELETE /v1/session`)
	}
	d := doorOf(c)
	done, err := s.svc.EndOthers(c.Request().Context(), d, bearer(c, d))
	if err != nil {
		return err
	}
	writeRevision(c, done.Revision)
	return c.JSON(http.StatusOK, map[string]any{"processed": done.Processed, "more": done.More})
}

// sessionView is the published Session.
type sessionView struct {
	ID            string          `json:"id"`
	Tenant        string          `json:"tenant"`
	Subject       string          `json:"subject"`
	Claims        json.RawMessage `json:"claims"`
	AMR           []string        `json:"amr"`
	AuthTime      time.Time       `json:"auth_time"`
	CreatedAt     time.Time       `json:"created_at"`
	LastSeenAt    time.Time       `json:"last_seen_at"`
	IdleExpiresAt time.Time       `json:"idle_expires_at"`
	ExpiresAt     time.Time       `json:"expires_at"`
	RotateAfter   time.Time       `json:"rotate_after"`
	Verifier      verifierView    `json:"verifier"`
	Client        clientView      `json:"client"`
	Current       bool            `json:"current"`
	Degraded      bool            `json:"degraded"`
	ProofAge      string          `json:"proof_age,omitempty"` // how old the proof is, when degraded
}

type verifierView struct {
	Version int    `json:"version"`
	Digest  string `json:"digest"`
}

type clientView struct {
	IP        string `json:"ip"`
	UserAgent string `json:"user_agent"`
}

// view shows a session under the tenant's id: its uuid is nobody's business.
func (s *Server) view(d service.Door, one sessions.Session, current bool) sessionView {
	id := d.ID
	if id == "" {
		if t, err := s.svc.Tenant(d); err == nil {
			id = t.ID
		}
	}
	return viewSession(id, one, current)
}

func viewSession(tenant string, one sessions.Session, current bool) sessionView {
	claims, amr := one.Claims, one.AMR
	if len(claims) == 0 {
		claims = json.RawMessage("{}")
	}
	if amr == nil {
		amr = []string{}
	}
	proofAge := ""
	if one.Degraded > 0 {
		proofAge = one.Degraded.Truncate(time.Millisecond).String()
	}
	return sessionView{
		ID: string(one.ID), Tenant: tenant, Subject: one.Subject, Claims: claims, AMR: amr,
		AuthTime: stamp(one.AuthTime), CreatedAt: stamp(one.CreatedAt), LastSeenAt: stamp(one.LastSeenAt),
		IdleExpiresAt: stamp(one.IdleExpiresAt), ExpiresAt: stamp(one.ExpiresAt), RotateAfter: stamp(one.RotateAfter()),
		Verifier: verifierView{one.Verifier.Version, one.Verifier.Digest},
		Client:   clientView{one.Client.IP, one.Client.UserAgent},
		Current:  current,
		Degraded: one.Degraded > 0, ProofAge: proofAge,
	}
}

// stamp is a time as it is published: UTC, whole milliseconds.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// sessionParam reads a session's public handle from the path. One that is none
// names nothing.
func sessionParam(c echo.Context) (sessions.ID, error) {
	id, err := sessions.ParseID(c.Param("session"))
	if err != nil {
		return "", refuse(http.StatusNotFound, "not_found", "There is no such session.")
	}
	return id, nil
}

// minRevision reads Doorward-Min-Revision; 0 when the caller does not care.
func minRevision(c echo.Context) (int64, error) {
	values := c.Request().Header.Values("Doorward-Min-Revision")
	if len(values) == 0 {
		return 0, nil
	}
	n, err := strconv.ParseInt(values[0], 10, 64)
	if err != nil || n < 0 || len(values) > 1 {
		return 0, unreadable("Doorward-Min-Revision is not one whole number.")
	}
	return n, nil
}

// writeRevision tells the caller which revision its write has.
func writeRevision(c echo.Context, revision int64) {
	if revision > 0 {
		c.Response().Header().Set("Doorward-Revision", strconv.FormatInt(revision, 10))
	}
}
