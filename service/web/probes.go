package web

import (
	"context"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
)

// livez says that the process answers, and nothing else.
func (s *Server) livez(c echo.Context) error { return c.String(http.StatusOK, "ok\n") }

// readyz says whether this node should get traffic. The reason is in the log
// only; an answer here is never used to decide about a login.
func (s *Server) readyz(c echo.Context) error {
	ctx, cancel := context.WithTimeout(c.Request().Context(), time.Second)
	defer cancel()
	if s.cfg.Ready != nil {
		if err := s.cfg.Ready(ctx); err != nil {
			s.log.WarnContext(ctx, "not ready", "err", err)
			return c.String(http.StatusServiceUnavailable, "unavailable\n")
		}
	}
	return c.String(http.StatusOK, "ok\n")
}

func (s *Server) metrics(c echo.Context) error {
	if s.cfg.Metrics == nil {
		return echo.ErrNotFound
	}
	s.cfg.Metrics.ServeHTTP(c.Response(), c.Request())
	return nil
}
