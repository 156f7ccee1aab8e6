package cluster_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/sessions/cluster"
)

// newIdentity is a node's of that authority.
func newIdentity(t *testing.T, a *cluster.Authority, member bool) (*cluster.Identity, string) {
	t.Helper()
	dir := t.TempDir()
	public, err := cluster.NewKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := a.Issue("node", member, public)
	if err != nil {
		t.Fatal(err)
	}
	i, err := cluster.SaveIdentity(dir, a, certificate)
	if err != nil {
		t.Fatal(err)
	}
	return i, dir
}

func newClusterAuthority(t *testing.T) *cluster.Authority {
	t.Helper()
	a, err := cluster.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// loopbackAddress is host:port of nobody.
func loopbackAddress(t *testing.T) string {
	return strings.TrimPrefix(freePort(t), "http://")
}

// A member's peer port once was plain or nothing; now it opens to members of its
// cluster alone.
func TestAMembersPortsOpenToItsClusterAlone(t *testing.T) {
	ours, theirs := newClusterAuthority(t), newClusterAuthority(t)
	own, _ := newIdentity(t, ours, true)
	peers, clients := loopbackAddress(t), loopbackAddress(t)
	m, err := cluster.Start(t.Context(), cluster.Config{Dir: t.TempDir(), Listen: peers, Clients: clients, Identity: own})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	shown := map[string]string{} // directories
	_, shown["a member"] = newIdentity(t, ours, true)
	_, shown["a client"] = newIdentity(t, ours, false)
	_, shown["another cluster's member"] = newIdentity(t, theirs, true)
	shown["nobody"] = ""
	speaks := func(address, dir string) error {
		config := &tls.Config{InsecureSkipVerify: true} // it is the server's check that is tried
		if dir != "" {
			pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "node.pem"), filepath.Join(dir, "node.key"))
			if err != nil {
				t.Fatal(err)
			}
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		client := http.Client{Transport: &http.Transport{TLSClientConfig: config, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}, Timeout: 5 * time.Second}
		defer client.CloseIdleConnections()
		got, err := client.Get("https://" + address + "/version")
		if err == nil {
			got.Body.Close()
		}
		return err
	}
	for _, port := range []struct {
		name, address string
		open          []string
	}{{"peers", peers, []string{"a member"}}, {"clients", clients, []string{"a member", "a client"}}} {
		for who, dir := range shown {
			may := strings.Contains(fmt.Sprint(port.open), who)
			if err := speaks(port.address, dir); (err == nil) != may {
				t.Errorf("%s to the port for %s: %v, want it let in: %v", who, port.name, err, may)
			}
		}
	}
	if err := speaks(peers, shown["a member"]); err != nil {
		t.Error(err)
	}
	// A client of the cluster knows its members as well.
	for name, c := range map[string]struct {
		authority *cluster.Authority
		served    bool
	}{"ours": {ours, true}, "theirs": {theirs, false}} {
		identity, _ := newIdentity(t, c.authority, false)
		client, err := cluster.Dial(t.Context(), cluster.DialConfig{Endpoints: []string{"https://" + clients}, Identity: identity, Timeout: 2 * time.Second})
		if (err == nil) != c.served {
			t.Errorf("Dial with an identity of %s: %v", name, err)
		}
		if err == nil {
			client.Close()
		}
	}
}

// Who joins knows the cluster by a fingerprint alone, and tells nobody else its token.
func TestAFingerprintIsOneClustersMembers(t *testing.T) {
	ours, theirs := newClusterAuthority(t), newClusterAuthority(t)
	for name, c := range map[string]struct {
		serves *cluster.Authority
		member bool
		want   string
	}{
		"a member":                 {ours, true, ""},
		"a client of the cluster":  {ours, false, "member.doorward.internal"},
		"another cluster's member": {theirs, true, "not of the cluster that made the token"},
	} {
		identity, _ := newIdentity(t, c.serves, c.member)
		server, err := identity.Server()
		if err != nil {
			t.Fatal(err)
		}
		l, err := tls.Listen("tcp", "127.0.0.1:0", server)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				conn.(*tls.Conn).Handshake()
				conn.Close()
			}
		}()
		conn, err := tls.Dial("tcp", l.Addr().String(), cluster.Pinned(ours.Fingerprint()))
		if err == nil {
			conn.Close()
		}
		l.Close()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// One who has seen the authority's certificate cannot show it for his own: it
// follows a leaf that it has not signed.
func TestACopyOfTheAuthoritysCertificateIsNoProof(t *testing.T) {
	ours := newClusterAuthority(t)
	thief, dir := newIdentity(t, newClusterAuthority(t), true)
	server, err := thief.Server()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(ours.Certificate())
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "node.pem"), filepath.Join(dir, "node.key"))
	if err != nil {
		t.Fatal(err)
	}
	pair.Certificate = append(pair.Certificate, block.Bytes)
	server.Certificates = []tls.Certificate{pair}
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			conn.(*tls.Conn).Handshake()
			conn.Close()
		}
	}()
	var unknown x509.UnknownAuthorityError
	if _, err := tls.Dial("tcp", l.Addr().String(), cluster.Pinned(ours.Fingerprint())); !errors.As(err, &unknown) {
		t.Errorf("err = %v", err)
	}
}

func TestAnAuthorityIsKeptWholeAndPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "authority.pem")
	made, err := cluster.LoadOrCreateAuthority(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := cluster.LoadOrCreateAuthority(path)
	if err != nil || again.Fingerprint() != made.Fingerprint() || !again.Signs() {
		t.Fatalf("read again: %v, %v", again, err)
	}
	if err := made.Create(path); err == nil {
		t.Error("it was written over")
	}
	for _, text := range []string{fmt.Sprintf("%v %+v %#v", made, made, made)} {
		encoded, err := made.Encode()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(encoded)) {
			if strings.Contains(text, strings.TrimSpace(line)) {
				t.Errorf("printed, it shows %q", line)
			}
		}
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.LoadAuthority(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("with mode 0640: %v", err)
	}
	public, err := cluster.ParseAuthority(made.Certificate())
	if err != nil || public.Signs() {
		t.Fatalf("its certificate alone: %v, %v", public, err)
	}
	key, err := cluster.NewKey(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := public.Issue("node", true, key); err == nil {
		t.Error("it signed without its key")
	}
}

// An empty disk under an old name would vote twice.
func TestAMemberWhoseDataIsGoneDoesNotStart(t *testing.T) {
	identity, _ := newIdentity(t, newClusterAuthority(t), true)
	cfg := cluster.Config{Dir: t.TempDir(), Listen: loopbackAddress(t), Identity: identity}
	m, err := cluster.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(cfg.Dir, "etcd")); err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Start(t.Context(), cfg); !errors.Is(err, cluster.ErrWiped) || !strings.Contains(err.Error(), "cluster replace") {
		t.Fatalf("err = %v", err)
	}
	if err := cluster.Forget(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	if m, err = cluster.Start(t.Context(), cfg); err != nil {
		t.Fatalf("after it was given up: %v", err)
	}
	m.Close()
}

// A member of one has a peer URL that nobody reaches. With a port it says where it
// is, before anybody joins, and again whenever that changes.
func TestAMemberTellsItsAddress(t *testing.T) {
	identity, _ := newIdentity(t, newClusterAuthority(t), true)
	dir := t.TempDir()
	for _, listen := range []string{"", loopbackAddress(t), loopbackAddress(t)} {
		m, err := cluster.Start(t.Context(), cluster.Config{Dir: dir, Listen: listen, Identity: identity})
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Peers()[0].URL; listen != "" && got != "https://"+listen {
			t.Errorf("it listens at %q and says %q", listen, got)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNobodyIsAddedUnderATakenNameOrAddress(t *testing.T) {
	identity, _ := newIdentity(t, newClusterAuthority(t), true)
	listen := loopbackAddress(t)
	m, err := cluster.Start(t.Context(), cluster.Config{Dir: t.TempDir(), Name: "a", Listen: listen, Identity: identity})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := m.Add(ctx, "a", "https://"+loopbackAddress(t)); !errors.Is(err, cluster.ErrMember) {
		t.Errorf("a second a: %v", err)
	}
	if _, err := m.Add(ctx, "b", "https://"+listen); !errors.Is(err, cluster.ErrMember) {
		t.Errorf("b at a's address: %v", err)
	}
	if err := m.Remove(ctx, "b"); !errors.Is(err, cluster.ErrNoMember) {
		t.Errorf("remove b: %v", err)
	}
	at := "https://" + loopbackAddress(t)
	peers, err := m.Add(ctx, "b", at)
	if err != nil || peers["b"] != at || peers["a"] != "https://"+listen {
		t.Fatalf("add b: %v, %v", peers, err)
	}
	// It has never started: whoever joins again takes its own place, and another has to wait.
	if _, err := m.Add(ctx, "b", at); err != nil {
		t.Errorf("b again: %v", err)
	}
	short, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	if _, err := m.Add(short, "c", "https://"+loopbackAddress(t)); !errors.Is(err, cluster.ErrNotHealthy) {
		t.Errorf("a second learner: %v", err)
	}
	for _, p := range m.Peers() {
		if p.URL == at && (!p.Learner || p.Name != "") {
			t.Errorf("b is %+v", p)
		}
	}
	if _, err := net.DialTimeout("tcp", strings.TrimPrefix(at, "https://"), time.Second); err == nil {
		t.Error("somebody is at b's address")
	}
}
