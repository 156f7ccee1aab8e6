package web

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
)

// How long a handler may take: the usual, where a module is compiled or waited
// for, and where all that it calls has a bound of its own and no body is read.
const (
	usualTime  = 10 * time.Second
	moduleTime = 120 * time.Second
	ownTime    = time.Duration(-1)
)

// route is one line of the map. A path names the query parameters that the call
// takes, as in "/tenants?limit&page_token"; any other is refused. "?*" takes all.
type route struct {
	method, path string
	handler      echo.HandlerFunc
	time         time.Duration // 0: usualTime
}

// publicMap is everything under {base}: at the root of a tenant's own host, and
// under /t/{tenant} of the shared one.
func (s *Server) publicMap() (apps, browsers []route) {
	apps = []route{
		{"POST", "/v1/login", s.login, 0},
		{"POST", "/v1/login/answer", s.answer, 0},
		{"GET", "/v1/session", s.validate, ownTime},
		{"HEAD", "/v1/session", s.validate, ownTime},
		{"DELETE", "/v1/session", s.logout, 0},
		{"POST", "/v1/session/rotate", s.rotate, 0},
		{"GET", "/v1/sessions", s.ownSessions, 0},
		{"DELETE", "/v1/sessions?except", s.endOthers, 0},
		{"DELETE", "/v1/sessions/:session", s.endOwn, 0},
	}
	browsers = []route{
		{"GET", "/login?return_to&app", s.loginPage, 0},
		{"POST", "/login", s.loginForm, 0},
		{"GET", "/login/challenge", s.challengePage, 0},
		{"POST", "/login/challenge", s.challengeForm, 0},
		{"GET", "/logout", s.logoutPage, 0},
		{"POST", "/logout", s.logoutForm, 0},
		{"GET", "/account", s.accountPage, 0},
		{"POST", "/account", s.accountForm, 0},
		{"GET", "/.well-known/change-password", s.changePassword, 0},
		{"GET", "/assets/:name", s.asset, 0},
	}
	return apps, browsers
}

// adminMap is everything operators may call, under /admin/v1.
func (s *Server) adminMap() []route {
	return []route{
		{"POST", "/tenants", s.createTenant, 0},
		{"GET", "/tenants?limit&page_token", s.listTenants, 0},
		{"GET", "/tenants/:tenant", s.getTenant, 0},
		{"PATCH", "/tenants/:tenant", s.patchTenant, 0},
		{"DELETE", "/tenants/:tenant", s.deleteTenant, 0},
		{"POST", "/tenants/:tenant/suspend", s.suspendTenant, 0},
		{"POST", "/tenants/:tenant/resume", s.resumeTenant, 0},
		{"POST", "/tenants/:tenant/rotate-keys", s.rotateKeys, 0},

		{"POST", "/tenants/:tenant/verifiers", s.uploadVerifier, moduleTime},
		{"GET", "/tenants/:tenant/verifiers", s.listVerifiers, 0},
		{"POST", "/tenants/:tenant/verifiers/rollback", s.rollbackVerifier, moduleTime},
		{"GET", "/tenants/:tenant/verifiers/logs?follow&after", s.verifierLogs, ownTime},
		{"GET", "/tenants/:tenant/verifiers/:version", s.getVerifier, 0},
		{"DELETE", "/tenants/:tenant/verifiers/:version", s.deleteVerifier, 0},
		{"POST", "/tenants/:tenant/verifiers/:version/activate", s.activateVerifier, moduleTime},
		{"POST", "/tenants/:tenant/verifiers/:version/try", s.tryVerifier, moduleTime},

		{"GET", "/tenants/:tenant/config", s.getConfig, 0},
		{"PUT", "/tenants/:tenant/config", s.putConfig, 0},
		{"GET", "/tenants/:tenant/secrets", s.listSecrets, 0},
		{"PUT", "/tenants/:tenant/secrets/:name", s.putSecret, 0},
		{"DELETE", "/tenants/:tenant/secrets/:name", s.deleteSecret, 0},

		{"GET", "/tenants/:tenant/sessions?subject&limit&page_token", s.listSessions, 0},
		{"DELETE", "/tenants/:tenant/sessions/:session", s.endSession, 0},
		{"POST", "/tenants/:tenant/sessions/revoke", s.revokeSessions, 0},
		{"POST", "/sessions/revoke", s.revokeEverybody, 0},

		{"POST", "/backup", s.backup, ownTime},
	}
}

// probeMap is what machines ask about this node, beside the operators' calls.
func (s *Server) probeMap() []route {
	return []route{
		{"GET", "/livez?*", s.livez, 0},
		{"GET", "/readyz?*", s.readyz, 0},
		{"GET", "/metrics?*", s.metrics, 0},
	}
}

func (s *Server) publicRoutes() http.Handler {
	e := s.newEcho()
	apps, browsers := s.publicMap()
	for _, base := range []string{"", "/t/:tenant"} {
		add(e.Group(base), apps, s.door, s.sameOrigin)
		add(e.Group(base), browsers, people, s.door, s.sameOrigin)
	}
	return e
}

func (s *Server) adminRoutes() http.Handler {
	e := s.newEcho()
	e.Use(s.adminHost)
	// The key is asked for by each route, not by the group: a group with
	// middleware answers 404 where the method is wrong, which is a 405.
	add(e.Group("/admin/v1"), s.adminMap(), s.operator, s.revised)
	add(e.Group(""), s.probeMap())
	return e
}

// add puts routes on a group. What can be read can be asked about with HEAD.
func add(g *echo.Group, routes []route, middleware ...echo.MiddlewareFunc) {
	for _, r := range routes {
		if r.time == 0 {
			r.time = usualTime
		}
		path, query, _ := strings.Cut(r.path, "?")
		all := append(middleware[:len(middleware):len(middleware)], onlyQuery(strings.FieldsFunc(query, func(r rune) bool { return r == '&' })), within(r.time))
		handler := r.handler
		for _, m := range slices.Backward(all) { // once, here: Echo would do it at each request
			handler = m(handler)
		}
		g.Add(r.method, path, handler)
		if r.method == http.MethodGet {
			g.Add(http.MethodHead, path, handler)
		}
	}
}
