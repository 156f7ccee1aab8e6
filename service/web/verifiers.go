package web

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/sdk/abi"
	"github.com/doorward/doorward/tenants"
)

func (s *Server) uploadVerifier(c echo.Context) error {
	t, err := s.tenantParam(c)
	if err != nil {
		return err
	}
	module, manifest, err := readModule(c)
	if err != nil {
		return err
	}
	v, err := s.svc.UploadVerifier(c.Request().Context(), t, module, manifest)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusCreated, v)
}

// readModule takes a module as it is, or as the part "module" beside the part
// "manifest". It keeps the bytes and reads nothing of them.
func readModule(c echo.Context) (module, manifest []byte, err error) {
	media, params, err := mime.ParseMediaType(c.Request().Header.Get(echo.HeaderContentType))
	if err != nil || media != "multipart/form-data" {
		if media != "application/wasm" {
			return nil, nil, refuse(http.StatusUnsupportedMediaType, "unsupported_media_type", "Send Content-Type: application/wasm, or multipart/form-data with the parts module and manifest.")
		}
		module, err = readBody(c, maxModule)
		return module, nil, err
	}
	if c.Request().ContentLength > maxModule+maxJSON {
		return nil, nil, tooLarge(maxModule)
	}
	body := multipart.NewReader(http.MaxBytesReader(c.Response(), c.Request().Body, maxModule+maxJSON), params["boundary"])
	for {
		part, err := body.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, orUnreadable(err)
		}
		into, limit := &module, int64(maxModule)
		switch part.FormName() {
		case "module":
		case "manifest":
			into, limit = &manifest, maxJSON
		default:
			return nil, nil, unreadable("The parts are named module and manifest.")
		}
		if *into != nil {
			return nil, nil, unreadable("A part stands there twice.")
		}
		*into, err = io.ReadAll(io.LimitReader(part, limit+1))
		if err != nil {
			return nil, nil, orUnreadable(err)
		}
		if int64(len(*into)) > limit {
			return nil, nil, tooLarge(limit)
		}
	}
	if module == nil {
		return nil, nil, unreadable("The part module is missing.")
	}
	return module, manifest, nil
}

func orUnreadable(err error) error {
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		return err
	}
	return unreadable("The multipart body cannot be read.")
}

// versionParam reads a version number from the path. One that is none names
// nothing.
func versionParam(c echo.Context) (int, error) {
	n, err := strconv.Atoi(c.Param("version"))
	if err != nil || n < 1 {
		return 0, plugins.ErrNotFound
	}
	return n, nil
}

func (s *Server) listVerifiers(c echo.Context) error {
	t, err := s.tenantParam(c)
	if err != nil {
		return err
	}
	list, err := s.svc.Catalog.List(c.Request().Context(), t.UUID)
	if err != nil {
		return err
	}
	if list == nil {
		list = []plugins.Version{}
	}
	return c.JSON(http.StatusOK, map[string]any{"verifiers": list, "next_page_token": ""})
}

func (s *Server) getVerifier(c echo.Context) error {
	return s.withVersion(c, func(tenant string, n int) (any, error) {
		return s.svc.Catalog.Get(c.Request().Context(), tenant, n)
	})
}

func (s *Server) activateVerifier(c echo.Context) error {
	var body struct {
		ApproveGrants bool `json:"approve_grants"`
	}
	if err := readJSONIfAny(c, maxJSON, &body); err != nil {
		return err
	}
	return s.withVersion(c, func(tenant string, n int) (any, error) {
		return s.svc.Catalog.Activate(c.Request().Context(), tenant, n, body.ApproveGrants)
	})
}

func (s *Server) rollbackVerifier(c echo.Context) error {
	t, err := s.tenantParam(c)
	if err != nil {
		return err
	}
	v, err := s.svc.Catalog.Rollback(c.Request().Context(), t.UUID)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, v)
}

func (s *Server) deleteVerifier(c echo.Context) error {
	t, err := s.tenantParam(c)
	if err != nil {
		return err
	}
	n, err := versionParam(c)
	if err != nil {
		return err
	}
	if err := s.svc.Catalog.Delete(c.Request().Context(), t.UUID, n); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// tryVerifier runs a version on a made-up login. It signs nobody in.
func (s *Server) tryVerifier(c echo.Context) error {
	t, err := s.tenantParam(c)
	if err != nil {
		return err
	}
	n, err := versionParam(c)
	if err != nil {
		return err
	}
	var body struct {
		Credential abi.Credential `json:"credential"`
		Method     string         `json:"method"`
	}
	if err := readJSON(c, maxLogin, &body); err != nil {
		return err
	}
	if body.Credential == nil {
		return unacceptable("credential", "is required")
	}
	if body.Method == "" {
		body.Method = "password"
	}
	trace, err := s.svc.Catalog.Try(c.Request().Context(), t.UUID, n, abi.Request{
		ABI: abi.Version, Tenant: t.ID, Method: body.Method, RequestID: requestID(c), Attempt: 1,
		Credential: body.Credential, Client: abi.Client{IP: c.RealIP()}, NowMS: time.Now().UnixMilli(),
	})
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, trace)
}

func (s *Server) verifierLogs(c echo.Context) error {
	t, err := s.tenantParam(c)
	if err != nil {
		return err
	}
	query := c.QueryParams()
	follow, err := strconv.ParseBool(cmp.Or(query.Get("follow"), "false"))
	if err != nil || query.Has("after") && !follow {
		return unreadable("follow is true or false, and after goes with follow=true only.")
	}
	if !follow {
		return c.JSON(http.StatusOK, map[string]any{"logs": s.svc.Catalog.Logs(t.UUID)})
	}
	after, err := strconv.ParseInt(cmp.Or(query.Get("after"), "0"), 10, 64)
	if err != nil || after < 0 {
		return unreadable("after is the id of a line.")
	}
	return s.followLogs(c, t, after)
}

// Times of a followed log.
const (
	followTime  = 10 * time.Minute // of one answer; its reader asks again
	silentTime  = 15 * time.Second // between two signs of life
	unreadTime  = 30 * time.Second // for one piece to be taken by who reads
	followGrace = 5 * time.Second
)

// followLogs answers with lines as they are written: a JSON object each, one
// {"missed":n} where n were written faster than they were read, and an empty line
// now and then. It holds no lines for its reader, and ends with followTime, the
// reader's key, the tenant or the server.
func (s *Server) followLogs(c echo.Context, t tenants.Tenant, after int64) error {
	header := c.Response().Header()
	header.Set(echo.HeaderContentType, "application/x-ndjson")
	if c.Request().Method == http.MethodHead {
		return c.NoContent(http.StatusOK)
	}
	lines, err := s.svc.Catalog.Follow(t.UUID, after)
	if err != nil {
		return err
	}
	defer lines.Close()
	ctx, cancel := context.WithTimeout(c.Request().Context(), followTime)
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()
	control := http.NewResponseController(c.Response().Writer)        // Echo's own Flush says nothing of errors
	control.SetReadDeadline(time.Now().Add(followTime + followGrace)) // it would end the request otherwise
	c.Response().WriteHeader(http.StatusOK)
	out := json.NewEncoder(c.Response())
	for {
		control.SetWriteDeadline(time.Now().Add(unreadTime))
		if err := control.Flush(); err != nil {
			return nil // its reader is gone
		}
		waiting, stop := context.WithTimeout(ctx, silentTime)
		some, missed, err := lines.Read(waiting)
		stop()
		if ctx.Err() != nil || s.closing.Err() != nil || errors.Is(err, io.EOF) || !s.byOperator(c) {
			return nil
		}
		control.SetWriteDeadline(time.Now().Add(unreadTime))
		if err != nil {
			c.Response().Write([]byte("\n")) // what is not written, Flush tells
			continue
		}
		if missed > 0 {
			out.Encode(map[string]int64{"missed": missed})
		}
		for _, line := range some {
			out.Encode(line)
		}
	}
}

// withVersion answers with what do says of the tenant's version in the path.
func (s *Server) withVersion(c echo.Context, do func(tenant string, n int) (any, error)) error {
	t, err := s.tenantParam(c)
	if err != nil {
		return err
	}
	n, err := versionParam(c)
	if err != nil {
		return err
	}
	v, err := do(t.UUID, n)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, v)
}
