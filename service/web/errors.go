package web

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/service"
	"github.com/doorward/doorward/service/pages"
	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/tenants"
)

// answers is the one table from error to answer; the first row that matches
// counts. What is not here is "internal".
var answers = []struct {
	is     error
	status int
	code   string
	detail string // "" shows the error's own text, which then must be fit for the caller
}{
	{service.ErrDenied, 401, "login_failed", "The sign-in was not accepted."},
	{service.ErrChallenge, 401, "challenge_failed", "The answer was not accepted, or the challenge is over. Sign in again."},
	{service.ErrSuspended, 403, "forbidden", "Signing in here is suspended."},
	{service.ErrVerifier, 503, "verifier_unavailable", "Nobody can check credentials right now. Try again."},
	{service.ErrNoDoor, 404, "not_found", "There is nothing at this address."},
	{service.ErrNoSession, 401, "no_session", "There is no session here. Sign in."},

	{sessions.ErrNotFound, 401, "no_session", "There is no session here. Sign in."},
	{sessions.ErrRevision, 400, "invalid", "Doorward-Min-Revision is ahead of this server's store."},
	{sessions.ErrTooMany, 503, "unavailable", "Too many sign-ins wait for their second step. Try again later."},
	{sessions.ErrUnavailable, 503, "unavailable", "The session store does not answer. Try again."},

	{tenants.ErrNotFound, 404, "not_found", "There is no such tenant, secret or key."},
	{tenants.ErrExists, 409, "conflict", "That tenant id is taken."},
	{tenants.ErrHostTaken, 409, "conflict", "Another tenant has one of these hosts."},
	{tenants.ErrChanged, 409, "conflict", "The tenant has changed since you read it. Read it again and repeat."},
	{tenants.ErrUnavailable, 503, "unavailable", "The tenant store does not answer. Try again."},

	{plugins.ErrNotFound, 404, "not_found", "The tenant has no such verifier version."},
	{plugins.ErrInvalid, 422, "verifier_invalid", ""},
	{plugins.ErrQuota, 409, "quota_exceeded", ""},
	{plugins.ErrConflict, 409, "conflict", ""},
	{plugins.ErrFollowed, 503, "unavailable", ""},
	{plugins.ErrVerifier, 503, "verifier_unavailable", ""}, // operators only: logins meet service.ErrVerifier first
	{plugins.ErrUnavailable, 503, "unavailable", "The verifier store does not answer. Try again."},

	{ErrRecipients, 422, "invalid", ""},
	{ErrBusy, 503, "unavailable", "One backup at a time: another is being made on this node. Try again later."},

	{context.DeadlineExceeded, 503, "unavailable", "This took too long. Try again."},
	{context.Canceled, 503, "unavailable", "The request was given up."},
}

// problem is an RFC 9457 answer, and an error.
type problem struct {
	Type      string       `json:"type"`
	Title     string       `json:"title"`
	Status    int          `json:"status"`
	Code      string       `json:"code"`
	Detail    string       `json:"detail,omitempty"`
	RequestID string       `json:"request_id"`
	Errors    []fieldError `json:"errors,omitempty"`
}

// fieldError names one field of a request that cannot be accepted. The message
// never repeats the value: it may be a secret.
type fieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// Error implements error.
func (p *problem) Error() string { return p.Code + ": " + p.Detail }

// refuse makes a problem of our own, for what is wrong with a request itself.
func refuse(status int, code, detail string) *problem {
	return &problem{Status: status, Code: code, Detail: detail}
}

// unreadable is a 400: syntax, duplicates, unknown members, wrong JSON types.
func unreadable(detail string) *problem { return refuse(http.StatusBadRequest, "invalid", detail) }

// unacceptable is a 422: readable, but a field's value cannot be taken.
func unacceptable(field, message string) *problem {
	p := refuse(http.StatusUnprocessableEntity, "invalid", "A field cannot be accepted: "+field+" "+message+".")
	p.Errors = []fieldError{{field, message}}
	return p
}

// toProblem finds the answer to err. known is false for what nobody foresaw.
func toProblem(err error) (p problem, known bool) {
	var own *problem
	if errors.As(err, &own) {
		return *own, true
	}
	var bad *tenants.Invalid
	if errors.As(err, &bad) {
		p := refuse(http.StatusUnprocessableEntity, "invalid", "The tenant cannot be accepted as it is.")
		for _, f := range bad.Fields {
			p.Errors = append(p.Errors, fieldError{f.Field, f.Message})
		}
		return *p, true
	}
	if errors.Is(err, plugins.ErrTooLarge) { // before ErrVerifier, in which a login wraps it
		return *unacceptable("credential", "is more than the 64 KiB of JSON that a verifier takes; send a shorter one"), true
	}
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		return *tooLarge(tooLong.Limit), true
	}
	for _, row := range answers {
		if errors.Is(err, row.is) {
			detail := row.detail
			if detail == "" {
				detail = err.Error()
			}
			return *refuse(row.status, row.code, detail), true
		}
	}
	var routed *echo.HTTPError
	if errors.As(err, &routed) {
		switch routed.Code {
		case http.StatusNotFound:
			return *refuse(routed.Code, "not_found", "There is nothing at this address."), true
		case http.StatusMethodNotAllowed:
			return *refuse(routed.Code, "method_not_allowed", "This address does not take that method."), true
		}
	}
	return *refuse(http.StatusInternalServerError, "internal", "Something went wrong here. The request id finds it in the log."), false
}

func tooLarge(limit int64) *problem {
	return refuse(http.StatusRequestEntityTooLarge, "too_large", "The body is larger than "+strconv.FormatInt(limit, 10)+" bytes.")
}

// fail is Echo's HTTPErrorHandler: it answers with problem+json, or with a page
// where a person is looking.
func (s *Server) fail(err error, c echo.Context) {
	if c.Response().Committed {
		return // the client has half an answer already; the log line tells the rest
	}
	p, known := toProblem(err)
	if !known {
		s.log.ErrorContext(c.Request().Context(), "internal error", "err", err, "request_id", requestID(c), "route", c.Path())
	} else if p.Status >= 500 {
		s.log.WarnContext(c.Request().Context(), "cannot decide", "err", err, "request_id", requestID(c), "route", c.Path())
	}
	p.Type, p.Title, p.RequestID = "about:blank", http.StatusText(p.Status), requestID(c)
	h := c.Response().Header()
	h.Set("Cache-Control", "no-store")
	switch p.Status {
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", "1")
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", "Bearer")
	}
	if c.Request().Method == http.MethodHead {
		c.NoContent(p.Status)
		return
	}
	if forPeople(c) {
		s.render(c, p.Status, pages.Message{
			Title: heading(p.Status), Text: p.Detail, RequestID: p.RequestID, Stylesheet: s.stylesheetURL(c), LoginURL: s.loginURL(c),
		})
		return
	}
	h.Set(echo.HeaderContentType, "application/problem+json")
	if err := c.JSON(p.Status, p); err != nil {
		s.log.DebugContext(c.Request().Context(), "answer not delivered", "err", err)
	}
}

// loginURL is where a person can begin again, "" where there is no tenant.
func (s *Server) loginURL(c echo.Context) string {
	if !s.hasDoor(c) {
		return ""
	}
	d := doorOf(c)
	if _, err := s.svc.Tenant(d); err != nil {
		return ""
	}
	return d.Base() + "/login"
}

// heading says what happened in words that are not a protocol's.
func heading(status int) string {
	switch {
	case status == http.StatusNotFound:
		return "Not found"
	case status >= 500:
		return "This does not work right now"
	}
	return "This did not work"
}
