package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/doorward/doorward/sessions"
)

// door is a base URL, as an application sees it.
type door struct {
	base   string
	cookie string // the name of the cookie that carries the token; "" is a bearer token
	client *http.Client
	dials  atomic.Int64
}

// answer is what came back: a status and, of a problem, its code. Status 0 is
// no answer, and the code says why.
type answer struct {
	status int
	code   string
}

// errForeign: the address is not on this machine, and nobody said that it may
// be put under load.
var errForeign = errors.New("the target is not a loopback address: a load generator pointed at somebody else's server is an attack, so say --i-own-this-target if it is yours")

// openDoor makes a door for base. Unless anywhere, it dials loopback addresses
// only, whatever the name in base resolves to.
func openDoor(base, cookie string, inFlight int, timeout time.Duration, anywhere bool) (*door, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.RawQuery != "" || u.User != nil {
		return nil, usagef("%q is no base URL, such as http://127.0.0.1:8480/t/demo", base)
	}
	if address, err := netip.ParseAddr(u.Hostname()); err == nil && !anywhere && !address.IsLoopback() {
		return nil, usage(fmt.Errorf("%s: %w", base, errForeign))
	}
	d := &door{base: strings.TrimSuffix(base, "/"), cookie: cookie}
	dialer := net.Dialer{Timeout: timeout, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err == nil && !anywhere && !at.Addr().Unmap().IsLoopback() {
			return fmt.Errorf("%s: %w", address, errForeign)
		}
		return err
	}}
	d.client = &http.Client{
		Timeout: timeout,
		// A redirect is an answer to be counted, not to be followed.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy: nil, // nor does a proxy of the environment stand between
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				d.dials.Add(1)
				return dialer.DialContext(ctx, network, address)
			},
			// As many as there may be requests: more would be opened when a
			// connection comes free while another is being dialled.
			MaxConnsPerHost: inFlight, MaxIdleConnsPerHost: inFlight, DisableCompression: true,
		},
	}
	return d, nil
}

// connections is how many have been opened so far.
func (d *door) connections() int { return int(d.dials.Load()) }

func (d *door) close() { d.client.CloseIdleConnections() }

// login signs in, with a token for the answer. The token is zero unless the
// status is 201.
func (d *door) login(ctx context.Context, username string, password secret) (sessions.Token, answer) {
	body, err := json.Marshal(map[string]string{"username": username, "password": password.reveal(), "transport": "token"})
	if err != nil {
		return sessions.Token{}, answer{code: "encode"}
	}
	got, text := d.do(ctx, http.MethodPost, "/v1/login", sessions.Token{}, body)
	if got.status != http.StatusCreated {
		return sessions.Token{}, got
	}
	var out struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(text, &out); err != nil {
		return sessions.Token{}, answer{got.status, "no_json"}
	}
	token, err := sessions.ParseToken(out.Token)
	if err != nil {
		return sessions.Token{}, answer{got.status, "no_token"}
	}
	return token, got
}

// validate asks whose session token is.
func (d *door) validate(ctx context.Context, token sessions.Token) answer {
	got, _ := d.do(ctx, http.MethodGet, "/v1/session", token, nil)
	return got
}

// logout ends the session of token.
func (d *door) logout(ctx context.Context, token sessions.Token) answer {
	got, _ := d.do(ctx, http.MethodDelete, "/v1/session", token, nil)
	return got
}

// do makes one request. A run that was interrupted still waits for what is in
// flight, for as long as the client's timeout: an answer that was cut off would
// count as the server's error.
func (d *door) do(ctx context.Context, method, path string, token sessions.Token, body []byte) (answer, []byte) {
	r, err := http.NewRequestWithContext(context.WithoutCancel(ctx), method, d.base+path, bytes.NewReader(body))
	if err != nil {
		return answer{code: "request"}, nil
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	switch {
	case token.IsZero():
	case d.cookie != "":
		r.Header.Set("Cookie", d.cookie+"="+token.Reveal())
	default:
		r.Header.Set("Authorization", "Bearer "+token.Reveal())
	}
	got, err := d.client.Do(r)
	if err != nil {
		return answer{code: why(err)}, nil
	}
	defer got.Body.Close()
	text, err := io.ReadAll(io.LimitReader(got.Body, 1<<20))
	if err != nil {
		return answer{code: why(err)}, nil
	}
	a := answer{status: got.StatusCode}
	if strings.HasPrefix(got.Header.Get("Content-Type"), "application/problem+json") {
		var problem struct {
			Code string `json:"code"`
		}
		if json.Unmarshal(text, &problem) == nil {
			a.code = problem.Code
		}
	}
	return a, text
}

// why names what kept an answer from coming.
func why(err error) string {
	var slow net.Error
	switch {
	case errors.Is(err, errForeign):
		return "not_loopback"
	case errors.As(err, &slow) && slow.Timeout():
		return "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed"
	}
	return "transport"
}

// secret is a password. It prints as "redacted".
type secret struct{ text string }

func (s secret) reveal() string { return s.text }

// String shows nothing.
func (secret) String() string { return "redacted" }

// GoString shows nothing.
func (secret) GoString() string { return "redacted" }
