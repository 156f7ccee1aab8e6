package web

import (
	"encoding/base64"
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/tenants"
)

var errUnauthorized = refuse(http.StatusUnauthorized, "unauthorized", "Send Authorization: Bearer with an operator key.")

// operator lets only holders of an operator key through.
func (s *Server) operator(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if !s.byOperator(c) {
			return errUnauthorized
		}
		return next(c)
	}
}

// byOperator reports whether a request's key is an operator's at this moment.
func (s *Server) byOperator(c echo.Context) bool {
	scheme, text, _ := strings.Cut(c.Request().Header.Get(echo.HeaderAuthorization), " ")
	secret, err := tenants.ParseKeySecret(text)
	if scheme != "Bearer" || err != nil {
		return false
	}
	key, ok := s.svc.Tenants.FindKey(secret)
	return ok && key.Kind == "operator"
}

// revised says with which revision a write can be read again, where its handler
// does not know: with the one that the store has come to after it.
func (s *Server) revised(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if c.Request().Method == http.MethodGet || c.Request().Method == http.MethodHead {
			return next(c)
		}
		answer := c.Response()
		answer.Before(func() {
			if answer.Status >= 300 || answer.Header().Get("Doorward-Revision") != "" {
				return
			}
			if revision, err := s.svc.Sessions.Revision(c.Request().Context()); err == nil {
				writeRevision(c, revision)
			}
		})
		return next(c)
	}
}

// adminHost refuses requests that came by a name: a page on the web can make
// its own name resolve to this listener (DNS rebinding), but not a browser say
// another Host.
func (s *Server) adminHost(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if !isLoopback(bareHost(c.Request().Host)) {
			return refuse(http.StatusForbidden, "forbidden", "The admin listener answers to loopback names only.")
		}
		return next(c)
	}
}

// tenantParam is the tenant that the path names.
func (s *Server) tenantParam(c echo.Context) (tenants.Tenant, error) {
	t, ok := s.svc.Tenants.ByID(c.Param("tenant"))
	if !ok {
		return tenants.Tenant{}, tenants.ErrNotFound
	}
	return t, nil
}

// tenantView is the published Tenant.
type tenantView struct {
	ID            string     `json:"id"`
	Name          string     `json:"name"`
	Hosts         []string   `json:"hosts"`
	Apps          []appView  `json:"apps"`
	Session       policyView `json:"session"`
	WithoutQuorum string     `json:"without_quorum"`
	State         string     `json:"state"`
	CreatedAt     time.Time  `json:"created_at"`
	UpdatedAt     time.Time  `json:"updated_at"`
	Warnings      []string   `json:"warnings,omitempty"`
}

type appView struct {
	ID         string   `json:"id"`
	Origin     string   `json:"origin"`
	ReturnURLs []string `json:"return_urls"`
}

type policyView struct {
	Idle          string `json:"idle"`
	Absolute      string `json:"absolute"`
	Remember      string `json:"remember"`
	MaxPerSubject int    `json:"max_per_subject"`
}

func viewTenant(t tenants.Tenant) tenantView {
	apps := make([]appView, len(t.Apps))
	for i, a := range t.Apps {
		apps[i] = appView{a.ID, a.Origin, orEmpty(a.ReturnURLs)}
	}
	return tenantView{
		ID: t.ID, Name: t.Name, Hosts: orEmpty(t.Hosts), Apps: apps,
		Session: policyView{
			Idle: short(t.Session.Idle), Absolute: short(t.Session.Absolute), Remember: short(t.Session.Remember),
			MaxPerSubject: t.Session.MaxPerSubject,
		},
		WithoutQuorum: t.WithoutQuorum, State: string(t.State),
		CreatedAt: stamp(t.CreatedAt), UpdatedAt: stamp(t.UpdatedAt), Warnings: t.Warnings(),
	}
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// short writes a duration as people do: 30m, not 30m0s.
func short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// tenantBody is a tenant as an operator writes it. A pointer tells "left out"
// from "empty", which a PATCH must.
type tenantBody struct {
	ID            *string     `json:"id"`
	Name          *string     `json:"name"`
	Hosts         *[]string   `json:"hosts"`
	Apps          *[]appView  `json:"apps"`
	Session       *policyBody `json:"session"`
	WithoutQuorum *string     `json:"without_quorum"`
}

type policyBody struct {
	Idle          *string `json:"idle"`
	Absolute      *string `json:"absolute"`
	Remember      *string `json:"remember"`
	MaxPerSubject *int    `json:"max_per_subject"`
}

// apply writes what the body holds over t.
func (b tenantBody) apply(t *tenants.Tenant) error {
	set(&t.Name, b.Name)
	set(&t.Hosts, b.Hosts)
	set(&t.WithoutQuorum, b.WithoutQuorum)
	if b.Apps != nil {
		t.Apps = make([]tenants.App, len(*b.Apps))
		for i, a := range *b.Apps {
			t.Apps[i] = tenants.App{ID: a.ID, Origin: a.Origin, ReturnURLs: a.ReturnURLs}
		}
	}
	if b.Session == nil {
		return nil
	}
	set(&t.Session.MaxPerSubject, b.Session.MaxPerSubject)
	if b.Session.MaxPerSubject != nil && *b.Session.MaxPerSubject == 0 {
		return unacceptable("session.max_per_subject", "must be 1 to 1000")
	}
	for _, d := range []struct {
		name string
		text *string
		to   *time.Duration
	}{
		{"idle", b.Session.Idle, &t.Session.Idle},
		{"absolute", b.Session.Absolute, &t.Session.Absolute},
		{"remember", b.Session.Remember, &t.Session.Remember},
	} {
		if d.text == nil {
			continue
		}
		length, err := time.ParseDuration(*d.text)
		if err != nil || length <= 0 {
			return unacceptable("session."+d.name, `must be a duration such as "30m" or "12h"`)
		}
		*d.to = length
	}
	return nil
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

func (s *Server) createTenant(c echo.Context) error {
	var body tenantBody
	if err := readJSON(c, maxJSON, &body); err != nil {
		return err
	}
	if body.ID == nil {
		return unacceptable("id", "is required")
	}
	t := tenants.Tenant{ID: *body.ID}
	if err := body.apply(&t); err != nil {
		return err
	}
	t, err := s.svc.Tenants.New(t)
	if err != nil {
		return err
	}
	made, err := s.svc.CreateTenant(c.Request().Context(), t)
	if err != nil {
		return err
	}
	c.Response().Header().Set("Location", "/admin/v1/tenants/"+made.ID)
	return s.tenantAnswer(c, http.StatusCreated, made)
}

func (s *Server) tenantAnswer(c echo.Context, status int, t tenants.Tenant) error {
	c.Response().Header().Set("ETag", etag(t.Revision))
	writeRevision(c, t.Revision)
	return c.JSON(status, viewTenant(t))
}

func etag(revision int64) string { return `"` + strconv.FormatInt(revision, 10) + `"` }

// ifMatch is the revision that the caller saw, 0 when any will do.
func ifMatch(c echo.Context) (int64, error) {
	text := c.Request().Header.Get("If-Match")
	if text == "" || text == "*" {
		return 0, nil
	}
	n, err := strconv.ParseInt(strings.Trim(text, `"`), 10, 64)
	if err != nil || n <= 0 {
		return 0, tenants.ErrChanged // no tag of ours: it cannot match
	}
	return n, nil
}

func (s *Server) listTenants(c echo.Context) error {
	limit, after, err := page(c)
	if err != nil {
		return err
	}
	list, next := s.svc.Tenants.List(after, limit)
	views := make([]tenantView, len(list))
	for i, t := range list {
		views[i] = viewTenant(t)
	}
	return c.JSON(http.StatusOK, map[string]any{"tenants": views, "next_page_token": pageToken(next)})
}

func (s *Server) getTenant(c echo.Context) error {
	t, err := s.tenantParam(c)
	if err != nil {
		return err
	}
	c.Response().Header().Set("ETag", etag(t.Revision))
	return c.JSON(http.StatusOK, viewTenant(t))
}

func (s *Server) patchTenant(c echo.Context) error {
	var body tenantBody
	if err := readJSON(c, maxJSON, &body); err != nil {
		return err
	}
	if body.ID != nil && *body.ID != c.Param("tenant") {
		return unacceptable("id", "cannot be changed; create another tenant")
	}
	revision, err := ifMatch(c)
	if err != nil {
		return err
	}
	t, err := s.svc.UpdateTenant(c.Request().Context(), c.Param("tenant"), revision, func(t *tenants.Tenant) error {
		if err := body.apply(t); err != nil {
			return err
		}
		checked, err := s.svc.Tenants.Check(*t)
		*t = checked
		return err
	})
	if err != nil {
		return err
	}
	return s.tenantAnswer(c, http.StatusOK, t)
}

func (s *Server) deleteTenant(c echo.Context) error {
	revision, err := ifMatch(c)
	if err != nil {
		return err
	}
	if err := s.svc.DeleteTenant(c.Request().Context(), c.Param("tenant"), revision); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func (s *Server) suspendTenant(c echo.Context) error {
	t, err := s.svc.Suspend(c.Request().Context(), c.Param("tenant"))
	if err != nil {
		return err
	}
	return s.tenantAnswer(c, http.StatusOK, t)
}

func (s *Server) resumeTenant(c echo.Context) error {
	t, err := s.svc.Resume(c.Request().Context(), c.Param("tenant"))
	if err != nil {
		return err
	}
	return s.tenantAnswer(c, http.StatusOK, t)
}

func (s *Server) rotateKeys(c echo.Context) error {
	t, err := s.svc.RotateKeys(c.Request().Context(), c.Param("tenant"))
	if err != nil {
		return err
	}
	return s.tenantAnswer(c, http.StatusOK, t)
}

func (s *Server) getConfig(c echo.Context) error {
	t, err := s.tenantParam(c)
	if err != nil {
		return err
	}
	object, err := s.svc.Source.Config(c.Request().Context(), t.UUID)
	if err != nil {
		return err
	}
	return c.JSONBlob(http.StatusOK, object)
}

func (s *Server) putConfig(c echo.Context) error {
	t, err := s.tenantParam(c)
	if err != nil {
		return err
	}
	if err := wantType(c, "application/json"); err != nil {
		return err
	}
	object, err := readBody(c, maxConfig)
	if err != nil {
		return err
	}
	if _, err := readObject(object); err != nil {
		return err
	}
	if err := tenants.CheckConfig(object); err != nil {
		return err
	}
	if err := s.svc.Source.PutConfig(c.Request().Context(), t.UUID, object); err != nil {
		return err
	}
	return c.JSONBlob(http.StatusOK, object)
}

func (s *Server) listSecrets(c echo.Context) error {
	t, err := s.tenantParam(c)
	if err != nil {
		return err
	}
	names, err := s.svc.Source.SecretNames(c.Request().Context(), t.UUID)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, map[string]any{"secrets": orEmpty(names), "next_page_token": ""})
}

func (s *Server) putSecret(c echo.Context) error {
	t, err := s.tenantParam(c)
	if err != nil {
		return err
	}
	var body struct {
		Value *string `json:"value"`
	}
	if err := readJSON(c, maxJSON, &body); err != nil {
		return err
	}
	if body.Value == nil {
		return unacceptable("value", "is required")
	}
	name, value := c.Param("name"), tenants.Secret(*body.Value)
	if err := tenants.CheckSecret(name, value); err != nil {
		return err
	}
	if err := s.svc.Source.PutSecret(c.Request().Context(), t.UUID, name, value); err != nil {
		return err
	}
	return c.JSON(http.StatusOK, map[string]any{"name": name})
}

func (s *Server) deleteSecret(c echo.Context) error {
	t, err := s.tenantParam(c)
	if err != nil {
		return err
	}
	if err := s.svc.Source.DeleteSecret(c.Request().Context(), t.UUID, c.Param("name")); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func (s *Server) listSessions(c echo.Context) error {
	t, err := s.tenantParam(c)
	if err != nil {
		return err
	}
	limit, after, err := page(c)
	if err != nil {
		return err
	}
	from := sessions.ID("")
	if after != "" {
		if from, err = sessions.ParseID(after); err != nil {
			return unreadable("page_token is not one that this list has given.")
		}
	}
	list, next, err := s.svc.Sessions.List(c.Request().Context(), t.UUID, sessions.Filter{Subject: c.QueryParam("subject")}, from, limit)
	if err != nil {
		return err
	}
	views := make([]sessionView, len(list))
	for i, one := range list {
		views[i] = viewSession(t.ID, one, false)
	}
	return c.JSON(http.StatusOK, map[string]any{"sessions": views, "next_page_token": pageToken(string(next))})
}

func (s *Server) endSession(c echo.Context) error {
	t, err := s.tenantParam(c)
	if err != nil {
		return err
	}
	id, err := sessionParam(c)
	if err != nil {
		return err
	}
	revision, err := s.svc.Sessions.CloseID(c.Request().Context(), t.UUID, id)
	if err != nil {
		return noSuchSession(err)
	}
	writeRevision(c, revision)
	return c.NoContent(http.StatusNoContent)
}

// noSuchSession tells a session that was asked for by its id from the
// caller's own.
func noSuchSession(err error) error {
	if errors.Is(err, sessions.ErrNotFound) {
		return refuse(http.StatusNotFound, "not_found", "There is no such session.")
	}
	return err
}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func (s *Server) revokeSessions(c echo.Context) error {
	var body struct {
		Subject  *string `json:"subject"`
		Verifier *string `json:"verifier"`
		All      bool    `json:"all"`
	}
	if err := readJSON(c, maxJSON, &body); err != nil {
		return err
	}
	var f sessions.Filter
	chosen := 0
	if body.Subject != nil {
		f.Subject = *body.Subject
		chosen++
	}
	if body.Verifier != nil {
		f.Digest = *body.Verifier
		chosen++
	}
	if body.All {
		chosen++
	}
	if chosen != 1 || !body.All && f == (sessions.Filter{}) {
		return unacceptable("subject, verifier or all", `takes exactly one of {"subject":"…"}, {"verifier":"sha256:…"} and {"all":true}`)
	}
	if body.Verifier != nil && !digestForm.MatchString(f.Digest) { // else anything becomes a key that each read of a session meets
		return unacceptable("verifier", `must be "sha256:" and 64 hex digits`)
	}
	done, err := s.svc.RevokeSessions(c.Request().Context(), c.Param("tenant"), f)
	if err != nil {
		return err
	}
	writeRevision(c, done.Revision)
	return c.JSON(http.StatusOK, map[string]any{"processed": done.Processed, "more": done.More})
}

// revokeEverybody ends the sessions of all tenants.
func (s *Server) revokeEverybody(c echo.Context) error {
	var body struct {
		All bool `json:"all"`
	}
	if err := readJSON(c, maxJSON, &body); err != nil {
		return err
	}
	if !body.All {
		return unacceptable("all", "must be true: this ends every session of every tenant")
	}
	done, err := s.svc.RevokeEverybody(c.Request().Context())
	if err != nil {
		return err
	}
	writeRevision(c, done.Revision)
	return c.JSON(http.StatusOK, map[string]any{"processed": done.Processed, "more": done.More})
}

// Pages of a list: how many at the most, how many when the caller does not say.
const (
	maxPage   = 500
	usualPage = 100
)

// page reads limit and page_token.
func page(c echo.Context) (limit int, after string, err error) {
	limit = usualPage
	if text := c.QueryParam("limit"); text != "" {
		limit, err = strconv.Atoi(text)
		if err != nil || limit < 1 {
			return 0, "", unreadable("limit is not a whole number above 0.")
		}
		limit = min(limit, maxPage)
	}
	position, err := base64.RawURLEncoding.DecodeString(c.QueryParam("page_token"))
	if err != nil || len(position) > 64 || !printable(string(position)) {
		return 0, "", unreadable("page_token is not one that a list gave out.")
	}
	return limit, string(position), nil
}

// pageToken is where the next page begins. It is a position and no secret: it
// opens nothing that the caller's key does not.
func pageToken(next string) string { return base64.RawURLEncoding.EncodeToString([]byte(next)) }
