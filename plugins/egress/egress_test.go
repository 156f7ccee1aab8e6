package egress_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/doorward/doorward/plugins/egress"
)

// names is a DNS server on loopback. Each name has answers for its first,
// second … look-up; the last one stays.
type names struct {
	conn net.PacketConn

	mu      sync.Mutex
	answers map[string][][]string // by name: addresses, or "=name" for a CNAME before them
	asked   map[string]int        // A queries, by name
}

func newNames(t *testing.T) *names {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &names{conn: conn, answers: map[string][][]string{}, asked: map[string]int{}}
	done := make(chan struct{})
	go func() { defer close(done); n.serve() }()
	t.Cleanup(func() { conn.Close(); <-done })
	return n
}

// has gives a name its addresses, look-up by look-up.
func (n *names) has(name string, answers ...[]string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answers[name+"."] = answers
}

func (n *names) lookups(name string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked[name+"."]
}

func (n *names) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", n.conn.LocalAddr().String())
	}}
}

func (n *names) serve() {
	buffer := make([]byte, 1500)
	for {
		size, from, err := n.conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buffer[:size]) != nil || len(m.Questions) != 1 {
			continue
		}
		m.Response, m.RecursionAvailable, m.Additionals = true, true, nil // without it, an empty answer is asked for again
		n.answer(&m)
		if out, err := m.Pack(); err == nil {
			n.conn.WriteTo(out, from)
		}
	}
}

func (n *names) answer(m *dnsmessage.Message) {
	n.mu.Lock()
	defer n.mu.Unlock()
	q := m.Questions[0]
	all, known := n.answers[q.Name.String()]
	if !known {
		m.RCode = dnsmessage.RCodeNameError
		return
	}
	// A and AAAA are asked for side by side: each A begins a look-up, and the
	// AAAA of the same one may come before it.
	turn := n.asked[q.Name.String()]
	if q.Type == dnsmessage.TypeA {
		n.asked[q.Name.String()]++
	} else if n.asked["6"+q.Name.String()]++; true {
		turn = n.asked["6"+q.Name.String()] - 1
	}
	owner := q.Name
	for _, text := range all[min(turn, len(all)-1)] {
		if alias, ok := strings.CutPrefix(text, "="); ok {
			to := dnsmessage.MustNewName(alias + ".")
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET}, Body: &dnsmessage.CNAMEResource{CNAME: to}})
			owner = to
			continue
		}
		a := netip.MustParseAddr(text)
		header := dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET}
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
}

// listener counts who connects.
type listener struct {
	net.Listener
	connections atomic.Int32
}

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.connections.Add(1)
	}
	return conn, err
}

// serve runs an HTTPS server at address whose certificate is for name, and
// trusts it.
func serve(t *testing.T, address, name string, handler http.HandlerFunc) (*listener, *x509.CertPool) {
	t.Helper()
	l := listen(t, address)
	certificate, roots := certify(t, name)
	run(t, tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}}), handler)
	return l, roots
}

func listen(t *testing.T, address string) *listener {
	t.Helper()
	inner, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return &listener{Listener: inner}
}

func run(t *testing.T, l net.Listener, handler http.Handler) {
	t.Helper()
	server := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)} // clients that give up are its daily bread
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-done })
}

// certify makes a certificate for a name or an address.
func certify(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		DNSNames: []string{name},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.DNSNames, template.IPAddresses = nil, []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

func newClient(t *testing.T, cfg egress.Config) *egress.Client {
	t.Helper()
	c, err := egress.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func portOf(l net.Listener) uint16 { return uint16(l.Addr().(*net.TCPAddr).Port) }

// idp is a server at 127.0.0.1 with the name idp.acme.test, and a client that
// may reach it.
type idp struct {
	*listener
	client *egress.Client
	names  *names
	host   string // host:port
}

func newIDP(t *testing.T, cfg egress.Config, handler http.HandlerFunc) idp {
	t.Helper()
	l, roots := serve(t, "127.0.0.1:0", "idp.acme.test", handler)
	n := newNames(t)
	n.has("idp.acme.test", []string{"127.0.0.1"})
	host := fmt.Sprintf("idp.acme.test:%d", portOf(l))
	cfg.Allow, cfg.Roots, cfg.Resolver = append(cfg.Allow, host), roots, n.resolver()
	return idp{l, newClient(t, cfg), n, host}
}

func (i idp) do(t *testing.T, r egress.Request) (egress.Response, error) {
	t.Helper()
	if r.URL == "" {
		r.URL = "https://" + i.host + "/"
	}
	return i.client.Do(t.Context(), "a", []string{i.host}, r)
}

func TestAnAllowedHostIsReached(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1") // nobody listens: who heeds it gets nowhere
	i := newIDP(t, egress.Config{}, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Add("X-Two", "1")
		w.Header().Add("X-Two", "2")
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, "%s %s %s %s %s", r.Method, r.URL, r.Host, r.Header.Get("X-Key"), body)
	})
	got, err := i.do(t, egress.Request{Method: "POST", URL: "https://" + i.host + "/token?a=b%20c", Headers: map[string]string{"x-key": "k"}, Body: []byte("hello")})
	if err != nil {
		t.Fatal(err)
	}
	if want := "POST /token?a=b%20c " + i.host + " k hello"; got.Status != 418 || string(got.Body) != want || len(got.Headers["x-two"]) != 2 {
		t.Errorf("%d %q %v, want %q", got.Status, got.Body, got.Headers, want)
	}
	if n := i.names.lookups("idp.acme.test"); n != 1 {
		t.Errorf("the name was looked up %d times", n)
	}
	// No connection is used again.
	if _, err := i.do(t, egress.Request{}); err != nil || i.connections.Load() != 2 {
		t.Errorf("%v; %d connections for two requests", err, i.connections.Load())
	}
}

// What is checked is what is dialled, whatever the name leads to afterwards.
func TestANameThatChangesItsAddressLeadsNowhereElse(t *testing.T) {
	n := newNames(t)
	inside, roots := serve(t, "127.0.0.1:0", "rebind.test", func(http.ResponseWriter, *http.Request) {})
	port := portOf(inside)
	hosts := []string{fmt.Sprintf("rebind.test:%d", port), fmt.Sprintf("two.test:%d", port)}

	// Public first, 127.0.0.1 ever after. The connection ends before its first
	// packet: no test speaks to a stranger.
	n.has("rebind.test", []string{"93.184.216.34"}, []string{"127.0.0.1"})
	c := newClient(t, egress.Config{Ports: []uint16{port}, Roots: roots, Resolver: n.resolver()})
	var dialled []string
	egress.BeforeDial(c, func(address string) error {
		dialled = append(dialled, address)
		return errors.New("seen enough")
	})
	for range 4 {
		if _, err := c.Do(t.Context(), "a", hosts, egress.Request{URL: "https://" + hosts[0] + "/"}); !errors.Is(err, egress.ErrUpstream) {
			t.Errorf("err = %v", err)
		}
	}
	if want := fmt.Sprintf("93.184.216.34:%d", port); len(dialled) != 1 || dialled[0] != want {
		t.Errorf("dialled %v, want %s once and nothing else", dialled, want)
	}
	if got := n.lookups("rebind.test"); got != 4 {
		t.Errorf("%d look-ups for four requests", got)
	}

	// The same where the first address answers: the connection is there, and
	// only there.
	first, roots := serve(t, fmt.Sprintf("127.0.0.2:%d", port), "two.test", func(http.ResponseWriter, *http.Request) {})
	n.has("two.test", []string{"127.0.0.2"}, []string{"127.0.0.1"})
	c = newClient(t, egress.Config{Allow: hosts[1:], Roots: roots, Resolver: n.resolver()})
	if _, err := c.Do(t.Context(), "a", hosts, egress.Request{URL: "https://" + hosts[1] + "/"}); err != nil {
		t.Error(err)
	}
	if first.connections.Load() != 1 || inside.connections.Load() != 0 {
		t.Errorf("%d connections to what was checked, %d to what came after; want 1 and 0", first.connections.Load(), inside.connections.Load())
	}
}

func TestAddressesThatNobodyMayReach(t *testing.T) {
	n := newNames(t)
	inside, roots := serve(t, "127.0.0.1:0", "inside.test", func(http.ResponseWriter, *http.Request) {})
	port := portOf(inside)
	c := newClient(t, egress.Config{Ports: []uint16{port}, Roots: roots, Resolver: n.resolver(), Timeout: time.Second})
	answers := [][]string{
		{"127.0.0.1"}, {"127.255.255.254"}, {"0.0.0.0"}, {"::1"}, {"::"}, {"::127.0.0.1"},
		{"::ffff:127.0.0.1"}, {"64:ff9b::7f00:1"}, {"64:ff9b:1::7f00:1"}, {"2002:7f00:1::"}, {"2001:0:7f00:1::1"},
		{"10.0.0.1"}, {"172.16.0.1"}, {"172.31.255.255"}, {"192.168.1.1"}, {"100.64.0.1"}, {"198.18.0.1"}, {"192.0.0.192"},
		{"169.254.169.254"}, {"fd00:ec2::254"}, {"100.100.100.200"}, {"168.63.129.16"}, {"fd20:ce::254"},
		{"fe80::1"}, {"fec0::1"}, {"fc00::1"}, {"fdff::1"}, {"224.0.0.1"}, {"239.255.255.255"}, {"ff02::1"}, {"255.255.255.255"}, {"240.0.0.1"},
		{"192.0.2.1"}, {"198.51.100.1"}, {"203.0.113.1"}, {"2001:db8::1"}, {"3fff::1"}, {"5f00::1"}, {"4000::1"}, {"100::1"}, {"192.88.99.1"},
		{"2fff:ffff::1", "127.0.0.1"}, {"=else.test", "10.1.2.3"}, // a mix; an alias
		strings.Split(strings.Repeat("2fff:ffff::1 ", 39)+"2fff:ffff::1", " ")[:33], // too many
	}
	if own, err := net.InterfaceAddrs(); err != nil {
		t.Fatal(err)
	} else {
		for _, a := range own {
			if ip := a.(*net.IPNet).IP; ip.To4() != nil {
				answers = append(answers, []string{ip.String()})
			}
		}
	}
	for _, answer := range answers {
		n.has("inside.test", answer)
		host := fmt.Sprintf("inside.test:%d", port)
		_, err := c.Do(t.Context(), "a", []string{host}, egress.Request{URL: "https://" + host + "/"})
		var refused *egress.AddressError
		if !errors.As(err, &refused) && !(len(answer) > 30 && errors.Is(err, egress.ErrUpstream)) {
			t.Errorf("%v: %v, want an AddressError", answer, err)
			continue
		}
		if refused != nil && strings.Contains(err.Error(), refused.Address.String()) {
			t.Errorf("the error tells where: %v", err)
		}
	}
	if got := inside.connections.Load(); got != 0 {
		t.Errorf("%d connections to loopback", got)
	}
}

// Where the operator allows a host, these stay out of reach.
func TestAnAllowedHostReachesNoMetadata(t *testing.T) {
	n := newNames(t)
	c := newClient(t, egress.Config{Allow: []string{"bridge.test:80"}, Resolver: n.resolver()})
	for _, address := range []string{"169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "0.0.0.0", "::", "224.0.0.1", "fe80::1", "64:ff9b::a00:1"} {
		n.has("bridge.test", []string{address})
		_, err := c.Do(t.Context(), "a", []string{"bridge.test:80"}, egress.Request{URL: "http://bridge.test/"})
		var refused *egress.AddressError
		if !errors.As(err, &refused) {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// Each of these is granted as it stands, and leads nowhere.
func TestSpellingsAndTricksLeadNowhere(t *testing.T) {
	n := newNames(t)
	inside, roots := serve(t, "127.0.0.1:0", "localhost", func(http.ResponseWriter, *http.Request) {})
	port := portOf(inside)
	n.has("localhost", []string{"127.0.0.1"})
	n.has("acme.test", []string{"127.0.0.1"})
	c := newClient(t, egress.Config{Ports: []uint16{port}, Roots: roots, Resolver: n.resolver(), Timeout: time.Second})
	at := func(format string) string { return fmt.Sprintf(strings.ReplaceAll(format, "PORT", "%[1]d"), port) }
	for _, url := range []string{
		"https://127.0.0.1:PORT/", "https://127.1:PORT/", "https://0x7f000001:PORT/", "https://0x7f.0.0.1:PORT/", "https://2130706433:PORT/", "https://017700000001:PORT/", "https://0177.0.0.1:PORT/",
		"https://0.0.0.0:PORT/", "https://0:PORT/", "https://[::1]:PORT/", "https://[::]:PORT/", "https://[::ffff:127.0.0.1]:PORT/", "https://[::ffff:7f00:1]:PORT/", "https://[64:ff9b::7f00:1]:PORT/", "https://[2002:7f00:1::]:PORT/",
		"https://[fe80::1%25lo]:PORT/", "https://[0:0:0:0:0:0:0:1]:PORT/", "https://127.0.0.1.:PORT/", "https://localhost:PORT/", "https://localhost.:PORT/", "https://LOCALHOST:PORT/", "https://ⓛocalhost:PORT/", "https://127。0。0。1:PORT/",
		"https://acme.test@127.0.0.1:PORT/", "https://127.0.0.1:PORT@acme.test/", "https://user:pw@acme.test:PORT/", "https://acme.test:PORT\\@127.0.0.1/", "https://acme.test%00.evil:PORT/", "https://acme.test:PORT#@evil/", "https://acme.test:0PORT/", "https://acme.test:/", "https:/acme.test:PORT/", "https:acme.test:PORT/", "//acme.test:PORT/",
		"http://localhost:PORT/", "file:///etc/passwd", "gopher://127.0.0.1:PORT/", "data:text/plain,x", "unix:/run/x.sock", "https://acme.test:22/", "https://acme.test:25/", "https://acme.test:6379/", "https://acme.test:2379/", "http://acme.test/",
		"https://acme.test:PORT/\r\nX: y", "https://acme.test:PORT/ HTTP/1.1", "https:///", "", "https://" + strings.Repeat("a", 3000) + "/",
	} {
		url = at(url)
		// Whatever a sloppy manifest might have granted.
		_, rest, _ := strings.Cut(url, "//")
		host, _, _ := strings.Cut(rest, "/")
		hosts := []string{host, host + ":443", host + ":80", at("127.0.0.1:PORT"), at("acme.test:PORT"), at("localhost:PORT"), "acme.test:443"}
		if got, err := c.Do(t.Context(), "a", hosts, egress.Request{URL: url}); err == nil {
			t.Errorf("%s: %d", url, got.Status)
		}
	}
	if got := inside.connections.Load(); got != 0 {
		t.Errorf("%d connections to loopback", got)
	}
}

func TestOnlyGrantedHostsAreReached(t *testing.T) {
	i := newIDP(t, egress.Config{}, func(http.ResponseWriter, *http.Request) {})
	for _, hosts := range [][]string{nil, {"idp.acme.test:443"}, {"acme.test:1"}, {"*"}, {"*.acme.test"}} {
		_, err := i.client.Do(t.Context(), "a", hosts, egress.Request{URL: "https://" + i.host + "/"})
		if !errors.Is(err, egress.ErrForbidden) {
			t.Errorf("%v: %v", hosts, err)
		}
	}
	if i.connections.Load() != 0 {
		t.Error("it was connected to")
	}
}

func TestWhatAVerifierMaySend(t *testing.T) {
	i := newIDP(t, egress.Config{}, func(http.ResponseWriter, *http.Request) {})
	many := map[string]string{}
	for n := range 33 {
		many[fmt.Sprint("x-", n)] = "v"
	}
	for name, r := range map[string]egress.Request{
		"CRLF in the method":     {Method: "GET / HTTP/1.1\r\nX: y"},
		"CONNECT":                {Method: "CONNECT"},
		"lower case":             {Method: "get"},
		"CRLF in a value":        {Headers: map[string]string{"X": "a\r\nHost: evil"}},
		"CRLF in a name":         {Headers: map[string]string{"X\r\nY": "a"}},
		"a colon in a name":      {Headers: map[string]string{"X:": "a"}},
		"an empty name":          {Headers: map[string]string{"": "a"}},
		"another host":           {Headers: map[string]string{"HOST": "evil"}},
		"its own framing":        {Headers: map[string]string{"Transfer-Encoding": "chunked"}},
		"its own length":         {Headers: map[string]string{"content-length": "0"}},
		"an upgrade":             {Headers: map[string]string{"Upgrade": "h2c"}},
		"a continue":             {Headers: map[string]string{"Expect": "100-continue"}},
		"an encoding":            {Headers: map[string]string{"Accept-Encoding": "br"}},
		"proxy credentials":      {Headers: map[string]string{"Proxy-Authorization": "x"}},
		"too many headers":       {Headers: many},
		"headers that are long":  {Headers: map[string]string{"X": strings.Repeat("a", 9<<10)}},
		"a byte that is no text": {Headers: map[string]string{"X": "\xff"}},
	} {
		if _, err := i.do(t, r); !errors.Is(err, egress.ErrRequest) {
			t.Errorf("%s: %v, want ErrRequest", name, err)
		}
	}
	if i.connections.Load() != 0 {
		t.Error("it was connected to")
	}
}

func TestARedirectIsAnAnswer(t *testing.T) {
	inside := listen(t, "127.0.0.1:0")
	run(t, inside, http.NotFoundHandler())
	i := newIDP(t, egress.Config{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://"+inside.Addr().String()+"/")
		w.WriteHeader(307)
	})
	got, err := i.do(t, egress.Request{Method: "POST", Body: []byte("secret")})
	if err != nil || got.Status != 307 || got.Headers["location"] == nil {
		t.Errorf("%+v, %v", got, err)
	}
	if inside.connections.Load() != 0 {
		t.Error("it was followed to loopback")
	}
}

func TestTheNameMustBeProven(t *testing.T) {
	n := newNames(t)
	asked := atomic.Int32{}
	count := func(http.ResponseWriter, *http.Request) { asked.Add(1) }
	l, roots := serve(t, "127.0.0.1:0", "other.test", count)
	n.has("idp.acme.test", []string{"127.0.0.1"})
	host := fmt.Sprintf("idp.acme.test:%d", portOf(l))
	for name, trusted := range map[string]*x509.CertPool{"another name": roots, "nobody's word": x509.NewCertPool()} {
		c := newClient(t, egress.Config{Allow: []string{host}, Roots: trusted, Resolver: n.resolver()})
		_, err := c.Do(t.Context(), "a", []string{host}, egress.Request{URL: "https://" + host + "/"})
		if !errors.Is(err, egress.ErrUpstream) || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if asked.Load() != 0 {
		t.Error("the request was sent to who did not prove the name")
	}
}

func TestBombsAreBounded(t *testing.T) {
	zip := func(plain []byte) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		w.Write(plain)
		w.Close()
		return b.Bytes()
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    error
	}{
		"endless body": {func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}, egress.ErrTooLarge},
		"gzip of much": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(zip(make([]byte, 8<<20)))
		}, egress.ErrTooLarge},
		"gzip of nothing, for ever": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			for empty := zip(nil); ; {
				if _, err := w.Write(bytes.Repeat(empty, 1000)); err != nil {
					return
				}
			}
		}, egress.ErrTooLarge},
		"brotli": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			w.Write([]byte("x"))
		}, egress.ErrUpstream},
		"not gzip": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write([]byte("x"))
		}, egress.ErrUpstream},
		"10,000 headers": {func(w http.ResponseWriter, r *http.Request) {
			for n := range 10_000 {
				w.Header().Set(fmt.Sprint("X-", n), "v")
			}
		}, egress.ErrUpstream},
		"endless 1xx": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X", strings.Repeat("v", 1000))
			for range 10_000 {
				w.WriteHeader(103)
			}
		}, egress.ErrUpstream},
		"another protocol": {func(w http.ResponseWriter, r *http.Request) {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
			rw.Flush()
			io.Copy(io.Discard, conn) // and nothing more, until the client goes
			conn.Close()
		}, egress.ErrUpstream},
		"no HTTP": {func(w http.ResponseWriter, r *http.Request) {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err == nil {
				rw.WriteString("220 mail.test ESMTP\r\n")
				rw.Flush()
				conn.Close()
			}
		}, egress.ErrUpstream},
		"cut short": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.Write([]byte("x"))
		}, egress.ErrUpstream},
	} {
		t.Run(name, func(t *testing.T) {
			i := newIDP(t, egress.Config{Timeout: 20 * time.Second}, c.handler)
			if got, err := i.do(t, egress.Request{}); !errors.Is(err, c.want) {
				t.Errorf("%d, %d bytes, %v; want %v", got.Status, len(got.Body), err, c.want)
			}
		})
	}
	i := newIDP(t, egress.Config{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(zip(bytes.Repeat([]byte("a"), egress.MaxBody)))
	})
	if got, err := i.do(t, egress.Request{}); err != nil || len(got.Body) != egress.MaxBody {
		t.Errorf("a whole MiB: %d bytes, %v", len(got.Body), err)
	}
}

func TestNothingOutlastsItsDeadline(t *testing.T) {
	until := make(chan struct{})
	t.Cleanup(func() { close(until) })
	for name, handler := range map[string]http.HandlerFunc{
		"never answers": func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-until:
			}
		},
		"a byte at a time": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			for tick := time.Tick(10 * time.Millisecond); ; <-tick {
				if _, err := w.Write([]byte("x")); err != nil {
					return
				}
				if http.NewResponseController(w).Flush() != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			i := newIDP(t, egress.Config{Timeout: 300 * time.Millisecond}, handler)
			if _, err := i.do(t, egress.Request{}); !errors.Is(err, egress.ErrTimeout) {
				t.Errorf("err = %v, want ErrTimeout", err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := i.client.Do(ctx, "a", []string{i.host}, egress.Request{URL: "https://" + i.host + "/"}); !errors.Is(err, egress.ErrTimeout) {
				t.Errorf("a caller that is gone: %v", err)
			}
		})
	}
	t.Run("a handshake that never ends", func(t *testing.T) {
		silent, n := listen(t, "127.0.0.1:0"), newNames(t)
		t.Cleanup(func() { silent.Close() })
		n.has("idp.acme.test", []string{"127.0.0.1"})
		host := fmt.Sprintf("idp.acme.test:%d", portOf(silent))
		c := newClient(t, egress.Config{Allow: []string{host}, Resolver: n.resolver(), Timeout: 300 * time.Millisecond})
		if _, err := c.Do(t.Context(), "a", []string{host}, egress.Request{URL: "https://" + host + "/"}); !errors.Is(err, egress.ErrTimeout) {
			t.Errorf("err = %v, want ErrTimeout", err)
		}
	})
}

func TestOneTenantHasSoManyInFlight(t *testing.T) {
	arrived, until := make(chan struct{}), make(chan struct{})
	i := newIDP(t, egress.Config{Timeout: time.Minute}, func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-until
	})
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if _, err := i.do(t, egress.Request{}); err != nil {
				t.Errorf("one of sixteen: %v", err)
			}
		})
	}
	for range 16 {
		<-arrived
	}
	if _, err := i.do(t, egress.Request{}); !errors.Is(err, egress.ErrBusy) {
		t.Errorf("the seventeenth: %v, want ErrBusy", err)
	}
	all.Go(func() {
		if _, err := i.client.Do(t.Context(), "b", []string{i.host}, egress.Request{URL: "https://" + i.host + "/"}); err != nil {
			t.Errorf("another tenant's first: %v", err)
		}
	})
	<-arrived
	close(until)
	all.Wait()
	go func() { <-arrived }()
	if _, err := i.do(t, egress.Request{}); err != nil {
		t.Errorf("after they ended: %v", err)
	}
}

func TestAHostHasOneSpelling(t *testing.T) {
	for _, host := range []string{"idp.acme.test:443", "xn--bcher-kva.example:8443", "1.2.3.4:443", "[2001:db8::1]:443", "localhost:9000", "3com.com:443"} {
		if _, _, err := egress.ParseHost(host); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	for _, host := range []string{
		"", "idp.acme.test", ":443", "idp.acme.test:", "idp.acme.test:0", "idp.acme.test:65536", "idp.acme.test:0443", "idp.acme.test:+443", "IDP.acme.test:443", "idp.acme.test.:443", "*.acme.test:443", "bücher.example:443",
		"-a.test:443", "a-.test:443", "a..test:443", "a_b.test:443", "127.1:443", "1.2.3.04:443", "0x7f000001:443", "a.0x7f:443", "2130706433:443", "[::ffff:1.2.3.4]:443", "[0::1]:443", "[fe80::1%lo]:443", "::1:443", "[1.2.3.4]:443", "a b:443", "a/b:443",
	} {
		if h, p, err := egress.ParseHost(host); !errors.Is(err, egress.ErrRequest) {
			t.Errorf("%q is %s, %d, %v", host, h, p, err)
		}
	}
	if _, err := egress.New(egress.Config{Allow: []string{"10.0.0.0/8"}}); err == nil {
		t.Error("an operator's entry that is no host:port is taken")
	}
}

// Whatever is accepted is a host in its one spelling, and the message that is
// made of it says the same.
func FuzzURL(f *testing.F) {
	for _, seed := range []string{"https://idp.acme.test/", "https://idp.acme.test:443/a?b=c", "http://1.2.3.4/", "https://[2001:db8::1]:443", "https://a@b/", "https://a%00/", "https://a:1/\\b", "https:a", "https://127.1/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, url string) {
		hostport, message, err := egress.Message(t.Context(), egress.Request{URL: url})
		if err != nil {
			if !errors.Is(err, egress.ErrRequest) {
				t.Fatalf("%q: %v", url, err)
			}
			return
		}
		if _, _, err := egress.ParseHost(hostport); err != nil {
			t.Fatalf("%q goes to %q: %v", url, hostport, err)
		}
		var wire bytes.Buffer
		if err := message.Write(&wire); err != nil {
			t.Fatalf("%q: %v", url, err)
		}
		read, err := http.ReadRequest(bufio.NewReader(&wire))
		if err != nil {
			t.Fatalf("%q is sent as %q: %v", url, wire.String(), err)
		}
		host := strings.TrimSuffix(strings.TrimSuffix(hostport, ":443"), ":80")
		if read.Host != host && read.Host != hostport || read.URL.Host != "" || len(read.Header) != 1 {
			t.Fatalf("%q is sent to %q (%q) with %v, not to %q", url, read.Host, read.URL.Host, read.Header, hostport)
		}
	})
}
