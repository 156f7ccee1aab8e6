package web_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/doorward/doorward/service"
	"github.com/doorward/doorward/service/web"
	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/tenants"
)

// BenchmarkSession is a validate without the network and without the store: what
// this room and Echo add, beside an Echo handler that encodes the same JSON and
// does nothing else.
func BenchmarkSession(b *testing.B) {
	memory, source := sessions.NewMemory(), tenants.NewMemory()
	s := &service.Service{
		Tenants: tenants.NewRegistry(source, tenants.RegistryConfig{}), Source: source,
		Sessions: sessions.New(memory, memory, sessions.Config{Mode: sessions.Replicated}), Log: slog.New(slog.DiscardHandler),
	}
	go s.Tenants.Run(b.Context())
	go s.Sessions.Run(b.Context())
	acme, err := s.Tenants.New(tenants.Tenant{ID: "acme"})
	if err == nil {
		acme, err = s.CreateTenant(b.Context(), acme)
	}
	if err != nil {
		b.Fatal(err)
	}
	token, _, err := s.Sessions.Open(b.Context(), sessions.Opening{
		Tenant: acme.UUID, Subject: "alice", Claims: []byte(`{"name":"Alice Example","roles":["reader","writer"]}`), AMR: []string{"pwd"},
		Verifier: sessions.Verifier{Version: 1, Digest: "sha256:e7cf4ce70f8e900cc7928924fa3ee302c5ac57a288c2230f01e206411c7e30e8"},
		Client:   sessions.Client{IP: "127.0.0.1", UserAgent: "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0"},
		Policy:   sessions.Policy{Idle: time.Hour, Absolute: time.Hour, Remember: time.Hour, MaxPerSubject: 10},
	})
	if err == nil {
		err = s.Sessions.WaitReady(b.Context())
	}
	if err != nil {
		b.Fatal(err)
	}
	public, _ := url.Parse("http://127.0.0.1")
	door := web.New(s, nil, web.Config{PublicURL: public}).Public()
	ask := func(h http.Handler) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "http://127.0.0.1/t/acme/v1/session", nil)
		r.Header.Set("Cookie", "__Host-doorward-acme="+token.Reveal())
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 200 {
			b.Fatalf("%d %s", w.Code, w.Body)
		}
		return w
	}
	var answer map[string]json.RawMessage
	if err := json.Unmarshal(ask(door).Body.Bytes(), &answer); err != nil {
		b.Fatal(err)
	}
	bare := echo.New()
	var same struct {
		ID, Tenant, Subject string
		Claims              json.RawMessage
		AMR                 []string
		AuthTime, CreatedAt, LastSeenAt,
		IdleExpiresAt, ExpiresAt, RotateAfter time.Time
		Verifier struct {
			Version int
			Digest  string
		}
		Client            struct{ IP, UserAgent string }
		Current, Degraded bool
	}
	same.Claims, same.AMR = answer["claims"], []string{"pwd"}
	same.Verifier.Digest, same.Client.UserAgent = string(answer["verifier"][10:]), "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0"
	bare.GET("/t/acme/v1/session", func(c echo.Context) error { return c.JSON(200, same) })
	for name, h := range map[string]http.Handler{"doorward": door, "bare": bare} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ask(h)
			}
		})
	}
}
