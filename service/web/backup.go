package web

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/doorward/doorward/service"
)

// ErrRecipients: a backup cannot be encrypted to those who were named. The text is
// for the caller.
var ErrRecipients = errors.New("recipients cannot be used")

// ErrBusy: one backup is being made on this node already.
var ErrBusy = errors.New("a backup is being made on this node")

// backupTime is how long it may take to make a backup and to send it.
const backupTime = time.Hour

// backup answers with everything the store holds, encrypted to the recipients in
// the request. It is made as a file first: a client that reads slowly holds no
// revision of the store, and what fails has a status of its own.
func (s *Server) backup(c echo.Context) error {
	if s.cfg.Backup == nil {
		return service.ErrNoDoor
	}
	var body struct {
		Recipients []string `json:"recipients"`
	}
	if err := readJSON(c, maxJSON, &body); err != nil {
		return err
	}
	if len(body.Recipients) == 0 || len(body.Recipients) > maxRecipients {
		return unacceptable("recipients", "must name one to "+strconv.Itoa(maxRecipients)+" age recipients (age1…), to whom the backup is encrypted")
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), backupTime)
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()
	control := http.NewResponseController(c.Response().Writer)
	deadline := time.Now().Add(backupTime)
	control.SetReadDeadline(deadline)
	control.SetWriteDeadline(deadline)
	file, err := s.cfg.Backup(ctx, body.Recipients)
	if err != nil {
		return err
	}
	defer file.Close()
	size, err := file.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return err
	}
	h := c.Response().Header()
	h.Set(echo.HeaderContentType, "application/age")
	h.Set(echo.HeaderContentLength, strconv.FormatInt(size, 10))
	c.Response().WriteHeader(http.StatusOK)
	defer context.AfterFunc(ctx, func() { control.SetWriteDeadline(time.Now()) })()
	io.Copy(c.Response(), file) // what does not arrive, Content-Length tells
	return nil
}

// maxRecipients is how many may be able to open a backup.
const maxRecipients = 16
