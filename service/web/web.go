package web

import (
	"context"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/doorward/doorward/service"
	"github.com/doorward/doorward/tenants"
	"github.com/doorward/doorward/tenants/seal"
)

// Config says how the outside reaches this server.
type Config struct {
	// PublicURL is where users find the shared host, e.g. https://login.example.
	// No URL is ever built from what a request claims.
	PublicURL *url.URL

	// AnyLoopback lets every loopback name stand for the shared host (dev).
	AnyLoopback bool

	// TrustedProxies are the peers whose X-Forwarded-For and X-Forwarded-Proto
	// count. Empty trusts nobody.
	TrustedProxies []netip.Prefix

	// Ready reports why this node should get no traffic, or nil.
	Ready func(ctx context.Context) error

	// Metrics serves GET /metrics on the admin listener; nil leaves it out.
	Metrics http.Handler

	// Backup makes a backup of the store, encrypted to age recipients, as a file
	// that nobody else knows; the caller closes it. ErrRecipients, ErrBusy. nil leaves
	// it out.
	Backup func(ctx context.Context, recipients []string) (*os.File, error)

	// Log takes one line a request; nil discards.
	Log *slog.Logger
}

// Server answers HTTP for a service.
type Server struct {
	svc        *service.Service
	flows      *seal.Box // seals what browsers carry between two pages
	cfg        Config
	log        *slog.Logger
	publicHost string // normalised
	https      bool   // users come by https, whatever the last hop is
	origin     *http.CrossOriginProtection
	closing    context.Context // over when answers without an end of their own have to end
	close      context.CancelFunc
}

// New returns a Server. flows seals login forms; every node behind one public
// URL needs the same.
func New(svc *service.Service, flows *seal.Box, cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	closing, end := context.WithCancel(context.Background())
	return &Server{
		closing: closing, close: end,
		svc: svc, flows: flows, cfg: cfg, log: cfg.Log,
		publicHost: bareHost(cfg.PublicURL.Host),
		https:      cfg.PublicURL.Scheme == "https",
		origin:     http.NewCrossOriginProtection(),
	}
}

// Public returns the handler for browsers, apps and gateways.
func (s *Server) Public() http.Handler { return s.edge(s.publicRoutes()) }

// Admin returns the handler for operators and probes.
func (s *Server) Admin() http.Handler { return s.edge(s.adminRoutes()) }

// EndStreams ends the answers that go on by themselves, such as a log that is
// followed, now and from now on: a shutdown does not wait for them.
func (s *Server) EndStreams() { s.close() }

// newEcho returns an Echo that trusts no header by itself.
func (s *Server) newEcho() *echo.Echo {
	trust := []echo.TrustOption{echo.TrustLoopback(false), echo.TrustLinkLocal(false), echo.TrustPrivateNet(false)}
	for _, p := range s.cfg.TrustedProxies {
		trust = append(trust, echo.TrustIPRange(&net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}))
	}
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.IPExtractor, e.SchemeExtractor = echo.ExtractIPDirect(), echo.ExtractSchemeDirect()
	if len(s.cfg.TrustedProxies) > 0 {
		e.IPExtractor, e.SchemeExtractor = echo.ExtractIPFromXFFHeader(trust...), echo.ExtractSchemeFromHeaders(trust...)
	}
	e.HTTPErrorHandler = s.fail
	e.Use(s.logged)
	return e
}

// edge is what every request meets first: an id, the headers that every answer
// carries, and the guard. A panic further in costs this one request.
func (s *Server) edge(next http.Handler) http.Handler {
	guarded := guard(next, s.failPlain)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["X-Request-Id"] = []string{newRequestID()}
		maps.Copy(h, always)
		if s.https {
			h["Strict-Transport-Security"] = aYearOfHTTPS
		}
		defer func() {
			if broken := recover(); broken != nil && broken != http.ErrAbortHandler {
				s.log.ErrorContext(r.Context(), "panic", "panic", broken, "request_id", h.Get("X-Request-Id"))
				s.failPlain(w, r, refuse(http.StatusInternalServerError, "internal", "Something went wrong here. The request id finds it in the log."))
			}
		}()
		guarded.ServeHTTP(w, r)
	})
}

// What every answer carries, and the validate's too. The values are shared by all
// of them, so they are replaced in an answer's header and never written into.
var (
	always = http.Header{
		"X-Content-Type-Options":       {"nosniff"},
		"Cross-Origin-Resource-Policy": {"same-origin"},
		"Cache-Control":                {"no-store"},
	}
	aYearOfHTTPS = []string{"max-age=31536000"}
	jsonType     = []string{echo.MIMEApplicationJSON}
)

// newRequestID is 128 random bits in base32. It is for finding log lines and
// proves nothing, so it needs no cryptographic source, which costs ten times as
// much.
func newRequestID() string {
	var id [16]byte
	binary.LittleEndian.PutUint64(id[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(id[8:], rand.Uint64())
	return requestIDs.EncodeToString(id[:])
}

var requestIDs = base32.StdEncoding.WithPadding(base32.NoPadding)

// failPlain answers with a problem where there is no Echo context yet.
func (s *Server) failPlain(w http.ResponseWriter, _ *http.Request, p *problem) {
	p.Type, p.Title, p.RequestID = "about:blank", http.StatusText(p.Status), w.Header().Get("X-Request-Id")
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p) // a client that is gone needs no answer
}

// logged writes one line a request. A validate that worked is said only to
// those who debug: there are thousands a second.
func (s *Server) logged(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		began := time.Now()
		err := next(c)
		if err != nil {
			c.Error(err) // answers now, so that the status below is the one sent
		}
		level := slog.LevelInfo
		if quiet(c) && c.Response().Status < 500 {
			level = slog.LevelDebug
		}
		if ctx := c.Request().Context(); s.log.Enabled(ctx, level) {
			s.log.LogAttrs(ctx, level, "request",
				slog.String("method", c.Request().Method), slog.String("route", c.Path()),
				slog.Int("status", c.Response().Status), slog.Duration("took", time.Since(began)),
				slog.String("ip", c.RealIP()), slog.String("request_id", requestID(c)))
		}
		return nil
	}
}

func quiet(c echo.Context) bool {
	path := c.Path()
	return strings.HasSuffix(path, "/v1/session") && c.Request().Method != http.MethodDelete ||
		path == "/livez" || path == "/readyz" || path == "/metrics"
}

// within bounds how long a handler may take. The connection gets the same time
// and a little more, so that the answer about it still fits.
func within(d time.Duration) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if d == ownTime {
				return next(c)
			}
			ctx, cancel := context.WithTimeout(c.Request().Context(), d)
			defer cancel()
			if d > usualTime {
				deadline := time.Now().Add(d + 5*time.Second)
				control := http.NewResponseController(c.Response())
				control.SetReadDeadline(deadline)
				control.SetWriteDeadline(deadline) // where the connection cannot, the server's own limits stand
			}
			c.SetRequest(c.Request().WithContext(ctx))
			return next(c)
		}
	}
}

// requestID is the id this server gave the request; a caller's own is not
// believed.
func requestID(c echo.Context) string { return c.Response().Header().Get("X-Request-Id") }

// door lets through who came by a door: a tenant's own host has its paths at
// the root, the shared host has them under /t/{tenant}, and neither way leads
// into the other.
func (s *Server) door(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if !s.hasDoor(c) {
			return service.ErrNoDoor
		}
		return next(c)
	}
}

func (s *Server) hasDoor(c echo.Context) bool {
	d := doorOf(c)
	if s.isShared(c.Request().Host) {
		return d.ID != ""
	}
	return d.Host != ""
}

// doorOf is how the caller came, where door let it through. It is read again by
// each who asks: to keep it, Echo would make a map for every request.
func doorOf(c echo.Context) service.Door {
	if id := c.Param("tenant"); id != "" {
		return service.Door{ID: id}
	}
	host, err := tenants.NormalizeHost(c.Request().Host)
	if err != nil {
		return service.Door{}
	}
	return service.Door{Host: host}
}

func (s *Server) isShared(host string) bool {
	host = bareHost(host)
	return host == s.publicHost || s.cfg.AnyLoopback && isLoopback(host)
}

// bareHost takes port, brackets, case and one trailing dot off a host.
func bareHost(host string) string {
	if strings.Contains(host, ":") { // without, there would be an error to make at each request
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// sameOrigin refuses unsafe requests that a browser says come from elsewhere.
func (s *Server) sameOrigin(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if err := s.origin.Check(c.Request()); err != nil {
			return refuse(http.StatusForbidden, "forbidden", "A browser sent this from another site.")
		}
		return next(c)
	}
}
