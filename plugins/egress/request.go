package egress

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Request is one to be made. Only Method, URL, Headers and Body are sent, and a
// User-Agent when the headers name none.
type Request struct {
	Method  string // GET, HEAD, POST, PUT, PATCH or DELETE; "" is GET
	URL     string // https://host[:port]/path?query; no user, no fragment
	Headers map[string]string
	Body    []byte
}

// Bounds of a request.
const (
	maxURL         = 2 << 10
	maxHeaders     = 32
	maxHeaderBytes = 8 << 10 // names and values together
)

var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}

// ours are headers that say how a message is framed, where it goes, or what the
// connection does: they are this package's business.
var ours = []string{
	"host", "connection", "keep-alive", "proxy-connection", "proxy-authorization", "proxy-authenticate", "te", "trailer",
	"transfer-encoding", "upgrade", "expect", "content-length", "accept-encoding", "http2-settings",
}

// target is where a request goes.
type target struct {
	url      *url.URL
	host     string
	port     uint16
	hostport string // in its one spelling
}

// target reads the URL strictly.
func (r Request) target() (target, error) {
	if len(r.URL) > maxURL {
		return target{}, fmt.Errorf("%w: the URL is longer than %d bytes", ErrRequest, maxURL)
	}
	for _, c := range []byte(r.URL) {
		if c <= ' ' || c >= 0x7f || c == '\\' {
			return target{}, fmt.Errorf("%w: the URL holds a character that must be escaped", ErrRequest)
		}
	}
	u, err := url.Parse(r.URL)
	switch {
	case err != nil:
		return target{}, fmt.Errorf("%w: the URL cannot be read", ErrRequest)
	case u.Scheme != "https" && u.Scheme != "http":
		return target{}, fmt.Errorf("%w: the URL does not begin with https://", ErrRequest)
	case u.User != nil || strings.Contains(u.Host, "@"):
		return target{}, fmt.Errorf("%w: the URL holds credentials", ErrRequest)
	case u.Opaque != "" || strings.Contains(r.URL, "#") || u.Path != "" && u.Path[0] != '/':
		return target{}, fmt.Errorf("%w: the URL is not scheme://host/path?query", ErrRequest)
	}
	hostport := u.Host
	if u.Port() == "" && !strings.HasSuffix(hostport, ":") {
		hostport += map[string]string{"https": ":443", "http": ":80"}[u.Scheme]
	}
	host, port, err := ParseHost(hostport)
	if err != nil {
		return target{}, err
	}
	return target{u, host, port, hostport}, nil
}

// To is where a request goes, as exact host:port. Every error wraps ErrRequest.
func (r Request) To() (string, error) {
	to, err := r.target()
	return to.hostport, err
}

// build makes the message, of checked parts only.
func (r Request) build(ctx context.Context, to target) (*http.Request, error) {
	method := r.Method
	if method == "" {
		method = "GET"
	}
	if !slices.Contains(methods, method) {
		return nil, fmt.Errorf("%w: the method is none of %s", ErrRequest, strings.Join(methods, ", "))
	}
	out, err := http.NewRequestWithContext(ctx, method, to.url.String(), bytes.NewReader(r.Body))
	if err != nil {
		return nil, fmt.Errorf("%w: the URL cannot be read", ErrRequest)
	}
	total := 0
	for name, value := range r.Headers {
		total += len(name) + len(value)
		switch {
		case len(r.Headers) > maxHeaders || total > maxHeaderBytes:
			return nil, fmt.Errorf("%w: more than %d headers, or %d bytes of them", ErrRequest, maxHeaders, maxHeaderBytes)
		case !token(name) || !fieldValue(value):
			return nil, fmt.Errorf("%w: a header holds a character that headers cannot", ErrRequest)
		case slices.Contains(ours, strings.ToLower(name)):
			return nil, fmt.Errorf("%w: the header %s is not the verifier's to set", ErrRequest, name)
		}
		out.Header.Set(name, value)
	}
	if out.Header.Get("User-Agent") == "" {
		out.Header.Set("User-Agent", "doorward-verifier")
	}
	return out, nil
}

// token is RFC 9110 §5.6.2.
func token(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

// fieldValue is RFC 9110 §5.5, without the obsolete bytes.
func fieldValue(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' && c != '\t' || c >= 0x7f {
			return false
		}
	}
	return strings.TrimSpace(s) == s
}
