package egress

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// How a request can fail. The text of each is fit for the tenant: no address of
// the operator's networks is in it.
var (
	// ErrRequest: it cannot be made as it is written.
	ErrRequest = errors.New("request refused")

	// ErrForbidden: its host is not among those that the caller may reach, or
	// its port or scheme is open to nobody.
	ErrForbidden = errors.New("host not allowed")

	// ErrBusy: the tenant has too many in flight.
	ErrBusy = errors.New("too many requests at once")

	// ErrTooLarge: the answer is larger than it may be.
	ErrTooLarge = errors.New("answer too large")

	// ErrTimeout: no whole answer came in time.
	ErrTimeout = errors.New("no answer in time")

	// ErrUpstream: there was no answer to be had: no such name, an address that
	// nobody may reach, no connection, no proof of the name, nonsense.
	ErrUpstream = errors.New("upstream failed")
)

// AddressError is an ErrUpstream: the host's name leads to an address that may
// not be reached from here. The text does not name the address; an operator's
// log may.
type AddressError struct {
	Host    string
	Address netip.Addr
}

// Error names the host only.
func (e *AddressError) Error() string {
	return fmt.Sprintf("%v: %s is at an address that verifiers may not reach", ErrUpstream, e.Host)
}

// Unwrap returns ErrUpstream.
func (e *AddressError) Unwrap() error { return ErrUpstream }

// Bounds of what comes back.
const (
	MaxBody       = 1 << 20  // bytes of a body, as sent and as decoded
	maxAnswerHead = 16 << 10 // bytes of its headers
	maxAddresses  = 32       // of one name
)

// Config tunes a Client. The zero value reaches public addresses by https.
type Config struct {
	Ports []uint16 // that are open; nil: 443 and 8443

	// Allow lists, as exact host:port, hosts to which that does not apply: they
	// may be reached at any port, by plain http too, and at private and loopback
	// addresses. Each is open to every verifier of every tenant that asks for it.
	// Link-local and metadata addresses stay out of reach.
	Allow []string

	Roots     *x509.CertPool // who vouches for names; nil: the system's
	Resolver  *net.Resolver  // nil: the system's configuration, read by Go
	PerTenant int            // requests in flight; 0: 16
	Timeout   time.Duration  // of one request, all in all; 0: 3 s
}

// Client makes requests. Safe for use by many goroutines; it starts none that
// outlives its request.
type Client struct {
	cfg        Config
	beforeDial func(address string) error // tests look on

	mu       sync.Mutex
	inFlight map[string]int // by tenant
}

// New returns a Client, or an error that names the entry of cfg.Allow that is
// not host:port.
func New(cfg Config) (*Client, error) {
	for _, host := range cfg.Allow {
		if _, _, err := ParseHost(host); err != nil {
			return nil, fmt.Errorf("egress.allow: %w", err)
		}
	}
	if cfg.Ports == nil {
		cfg.Ports = []uint16{443, 8443}
	}
	if cfg.Resolver == nil {
		cfg.Resolver = &net.Resolver{PreferGo: true} // the C library would read 127.1 and 0x7f000001
	}
	if cfg.PerTenant == 0 {
		cfg.PerTenant = 16
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 3 * time.Second
	}
	return &Client{cfg: cfg, beforeDial: func(string) error { return nil }, inFlight: map[string]int{}}, nil
}

// Response is what came back, whatever its status.
type Response struct {
	Status  int
	Headers map[string][]string // names in lower case
	Body    []byte              // at most MaxBody
}

// Do makes one request for a tenant to one of hosts, given as exact host:port.
// It ends with ctx, and by the client's timeout. Every error wraps one of this
// package's.
func (c *Client) Do(ctx context.Context, tenant string, hosts []string, r Request) (Response, error) {
	to, err := r.target()
	if err != nil {
		return Response{}, err
	}
	if !slices.Contains(hosts, to.hostport) {
		return Response{}, fmt.Errorf("%w: %s is not among the granted hosts", ErrForbidden, to.hostport)
	}
	allowed := slices.Contains(c.cfg.Allow, to.hostport)
	if !allowed && (to.url.Scheme != "https" || !slices.Contains(c.cfg.Ports, to.port)) {
		return Response{}, fmt.Errorf("%w: %s://%s; verifiers reach https at the ports %v, and what the operator allows", ErrForbidden, to.url.Scheme, to.hostport, c.cfg.Ports)
	}
	if !c.enter(tenant) {
		return Response{}, fmt.Errorf("%w: %d are in flight", ErrBusy, c.cfg.PerTenant)
	}
	defer c.leave(tenant)
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	message, err := r.build(ctx, to)
	if err != nil {
		return Response{}, err
	}
	address, err := c.address(ctx, to.host, allowed)
	if err != nil {
		return Response{}, timely(ctx, err)
	}
	answer, err := c.exchange(message, to, address)
	return answer, timely(ctx, err)
}

// timely makes ErrTimeout of whatever failed because time was up.
func timely(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ErrTimeout
	}
	return err
}

func (c *Client) enter(tenant string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inFlight[tenant] >= c.cfg.PerTenant {
		return false
	}
	c.inFlight[tenant]++
	return true
}

func (c *Client) leave(tenant string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inFlight[tenant]--; c.inFlight[tenant] == 0 {
		delete(c.inFlight, tenant)
	}
}

// address resolves a host, once, and returns an address of it that may be
// dialled: none when any of them may not. A name that is at a public and at a
// private address is not one that a stranger should lead us by.
func (c *Client) address(ctx context.Context, host string, allowed bool) (netip.Addr, error) {
	own, err := ownAddresses()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%w: %w", ErrUpstream, err)
	}
	list := []netip.Addr{}
	if literal, err := netip.ParseAddr(host); err == nil {
		list = append(list, literal)
	} else if list, err = c.cfg.Resolver.LookupNetIP(ctx, "ip", host+"."); err != nil { // the dot: no search list
		return netip.Addr{}, fmt.Errorf("%w: the name %s cannot be resolved", ErrUpstream, host)
	}
	if len(list) == 0 || len(list) > maxAddresses {
		return netip.Addr{}, fmt.Errorf("%w: the name %s has %d addresses", ErrUpstream, host, len(list))
	}
	for i, a := range list {
		list[i] = a.Unmap() // the resolver writes IPv4 both ways
		if !mayReach(list[i], allowed, own) {
			return netip.Addr{}, &AddressError{Host: host, Address: list[i]}
		}
	}
	return list[0], nil
}

// exchange makes one connection, to that address, for one message.
func (c *Client) exchange(message *http.Request, to target, address netip.Addr) (Response, error) {
	checked := netip.AddrPortFrom(address, to.port).String()
	dialer := net.Dialer{
		Timeout: c.cfg.Timeout, KeepAlive: -1,
		// The last look before the kernel's: nothing above may have dialled elsewhere.
		Control: func(_, dialled string, _ syscall.RawConn) error {
			if dialled != checked {
				return &AddressError{Host: to.host}
			}
			return c.beforeDial(dialled)
		},
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", checked)
		},
		TLSClientConfig:        &tls.Config{RootCAs: c.cfg.Roots, ServerName: to.host, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    c.cfg.Timeout,
		MaxResponseHeaderBytes: maxAnswerHead,
		DisableKeepAlives:      true, // no connection is ever another tenant's
		DisableCompression:     true, // what is decoded here is bounded here
	}
	defer transport.CloseIdleConnections()
	answer, err := transport.RoundTrip(message) // not a Client: no redirects, no cookies
	if err != nil {
		return Response{}, fmt.Errorf("%w: %s: %s", ErrUpstream, to.hostport, reason(err))
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusSwitchingProtocols { // what follows would heed no deadline
		return Response{}, fmt.Errorf("%w: %s: no answer that is HTTP", ErrUpstream, to.hostport)
	}
	body, err := readBody(answer)
	if err != nil {
		return Response{}, fmt.Errorf("%s: %w", to.hostport, err)
	}
	out := Response{Status: answer.StatusCode, Headers: map[string][]string{}, Body: body}
	for name, values := range answer.Header {
		out.Headers[strings.ToLower(name)] = values
	}
	return out, nil
}

// readBody reads a body, bounded as it comes and as it is decoded: a gzip of
// nothing but empty blocks goes on for ever too.
func readBody(answer *http.Response) ([]byte, error) {
	body, err := readBounded(answer.Body)
	if err != nil || len(body) == 0 {
		return nil, err
	}
	encodings := answer.Header.Values("Content-Encoding")
	answer.Header.Del("Content-Encoding")
	switch strings.ToLower(strings.Join(encodings, ",")) {
	case "", "identity":
		return body, nil
	case "gzip", "x-gzip":
		decoded, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, fmt.Errorf("%w: its answer is not the gzip that it says", ErrUpstream)
		}
		return readBounded(decoded)
	}
	return nil, fmt.Errorf("%w: its answer has an encoding that was not asked for", ErrUpstream)
}

func readBounded(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, MaxBody+1))
	if len(body) > MaxBody {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, MaxBody)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: its answer ended early", ErrUpstream)
	}
	return body, nil
}

// reason is why there was no answer, without addresses.
func reason(err error) string {
	var number syscall.Errno
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &number):
		return number.Error()
	case errors.As(err, &name):
		return "its certificate is for another name"
	case errors.As(err, &authority):
		return "its certificate is signed by an authority that is not known here"
	case errors.As(err, &invalid):
		return "its certificate is not valid"
	}
	return "no answer that is HTTP"
}
