package cluster_test

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/doorward/doorward/sessions/cluster"
)

// theirs is an etcd as somebody else would run it, on loopback TCP; edit
// changes its configuration. It returns the endpoint.
func theirs(t *testing.T, edit func(*embed.Config)) string {
	t.Helper()
	c := embed.NewConfig()
	c.Dir = t.TempDir()
	client, peer := url.URL{Scheme: "http", Host: "127.0.0.1:0"}, url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	c.ListenClientUrls, c.ListenPeerUrls = []url.URL{client}, []url.URL{peer}
	c.TickMs, c.ElectionMs = 50, 500
	c.BcryptCost = 4 // fast: these passwords protect nothing
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	if edit != nil {
		edit(c)
	}
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	select {
	case <-e.Server.ReadyNotify():
	case <-t.Context().Done():
	case <-time.After(30 * time.Second):
		t.Fatal("etcd is not ready")
	}
	return c.ListenClientUrls[0].Scheme + "://" + e.Clients[0].Addr().String()
}

func dial(t *testing.T, cfg cluster.DialConfig) *clientv3.Client {
	t.Helper()
	client, err := cluster.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func TestDialGivesAClientThatReadsAndWrites(t *testing.T) {
	client := dial(t, cluster.DialConfig{Endpoints: []string{theirs(t, nil)}})
	if _, err := client.Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	if got, err := client.Get(t.Context(), "k"); err != nil || len(got.Kvs) != 1 {
		t.Fatalf("Get = %v, %v", got, err)
	}
}

func TestDialReachesAMemberThroughItsSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "dw") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := start(t, dir)
	defer m.Close()
	client := dial(t, cluster.DialConfig{Endpoints: []string{"unix://" + filepath.Join(dir, "run", "client")}})
	if _, err := client.Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Client().Get(t.Context(), "k"); err != nil || len(got.Kvs) != 1 {
		t.Fatalf("Get = %v, %v", got, err)
	}
}

func TestDialGoesOnWithoutAMemberThatDoesNotAnswer(t *testing.T) {
	alive := theirs(t, nil)
	client := dial(t, cluster.DialConfig{Endpoints: []string{nobody, alive}})
	for range 20 { // whichever it is asked first
		if _, err := client.Put(t.Context(), "k", "v"); err != nil {
			t.Fatal(err)
		}
	}
}

// nobody is an endpoint that refuses connections: port 1 is bound by nothing.
const nobody = "http://127.0.0.1:1"

func TestDialSaysInTimeThatNobodyAnswers(t *testing.T) {
	began := time.Now()
	_, err := cluster.Dial(t.Context(), cluster.DialConfig{Endpoints: []string{nobody}, Timeout: time.Second})
	if err == nil {
		t.Fatal("dialled nobody")
	}
	for _, want := range []string{nobody, "has not answered within 1s", "connection refused", "is it running"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestDialDoesNotTakeAMemberWithoutAQuorumForACluster(t *testing.T) {
	// It waits for a second member that never comes.
	one, two := freePort(t), freePort(t)
	m := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	dir, err := os.MkdirTemp("", "dw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	go func() {
		_, err := cluster.Start(ctx, cluster.Config{Dir: dir, Name: "one", Peers: map[string]string{"one": one, "two": two}})
		m <- err
	}()
	_, err = cluster.Dial(t.Context(), cluster.DialConfig{Endpoints: []string{"unix://" + filepath.Join(dir, "run", "client")}, Timeout: 2 * time.Second})
	if err == nil || !strings.Contains(err.Error(), "has it a quorum") {
		t.Errorf("err = %v", err)
	}
	cancel()
	if err := <-m; !errors.Is(err, context.Canceled) {
		t.Errorf("Start = %v", err)
	}
}

func TestDialExplainsWhatTheClusterRefuses(t *testing.T) {
	endpoint := theirs(t, nil)
	admin := dial(t, cluster.DialConfig{Endpoints: []string{endpoint}})
	ctx := t.Context()
	for _, err := range []error{
		second(admin.UserAdd(ctx, "root", "r")), second(admin.UserGrantRole(ctx, "root", "root")),
		second(admin.UserAdd(ctx, "doorward", "right")), second(admin.RoleAdd(ctx, "doorward")),
		second(admin.RoleGrantPermission(ctx, "doorward", "/dw/", "/dw0", clientv3.PermissionType(clientv3.PermReadWrite))),
		second(admin.UserGrantRole(ctx, "doorward", "doorward")), second(admin.UserAdd(ctx, "other", "right")),
		second(admin.AuthEnable(ctx)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	file := func(text string) string {
		path := filepath.Join(dir, "password")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct{ user, password, want string }{
		{"doorward", "wrong\n", `password of "doorward" is wrong`},
		{"other", "right\n", `user "other" needs a role that may read and write the prefix /dw/`},
		{"", "", "set etcd.username and etcd.password_file"},
		{"doorward", "\n", "is empty"},
	} {
		began := time.Now()
		_, err := cluster.Dial(ctx, cluster.DialConfig{Endpoints: []string{endpoint}, Username: c.user, PasswordFile: file(c.password)})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "right") {
			t.Errorf("user %q: err = %v, want %q", c.user, err, c.want)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("user %q: it took %v to say so", c.user, took)
		}
	}
	client := dial(t, cluster.DialConfig{Endpoints: []string{endpoint}, Username: "doorward", PasswordFile: file("right\n")})
	if _, err := client.Put(ctx, "/dw/k", "v"); err != nil {
		t.Fatal(err)
	}
}

func second[T any](_ T, err error) error { return err }

// A cluster whose certificate this node's authority did not sign is not spoken
// to, and one that it did is.
func TestDialBelievesOnlyItsOwnAuthority(t *testing.T) {
	ours, foreign := newAuthority(t), newAuthority(t)
	endpoint := theirs(t, func(c *embed.Config) {
		c.ListenClientUrls[0].Scheme = "https"
		c.ClientTLSInfo.CertFile, c.ClientTLSInfo.KeyFile = ours.issue(t, "etcd")
		c.ClientTLSInfo.TrustedCAFile, c.ClientTLSInfo.ClientCertAuth = ours.file, true
	})
	cert, key := ours.issue(t, "node")
	client := dial(t, cluster.DialConfig{Endpoints: []string{endpoint}, CA: ours.file, Cert: cert, Key: key})
	if _, err := client.Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	strange, strangeKey := foreign.issue(t, "node")
	for _, c := range []struct {
		cfg  cluster.DialConfig
		want string
	}{
		{cluster.DialConfig{CA: foreign.file, Cert: cert, Key: key}, "x509"},
		{cluster.DialConfig{CA: ours.file, Cert: strange, Key: strangeKey}, "etcd.tls"}, // the cluster hangs up, sometimes before it says why
		{cluster.DialConfig{CA: ours.file}, "etcd.tls"},
		{cluster.DialConfig{CA: ours.file + ".not", Cert: cert, Key: key}, "no such file"},
		{cluster.DialConfig{CA: ours.file, Cert: cert, Key: strangeKey}, "private key does not match"},
	} {
		c.cfg.Endpoints, c.cfg.Timeout = []string{endpoint}, time.Second
		if _, err := cluster.Dial(t.Context(), c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("err = %v, want %q", err, c.want)
		}
	}
}

func TestDialRefusesAnEtcdWithKnownHoles(t *testing.T) {
	for version, good := range map[string]bool{
		"3.4.39": false, "3.5.32": false, "3.5.33": true, "3.5.40": true, "3.6.0": false, "3.6.13": false, "3.6.14": true,
		"3.7.0": false, "3.7.1-rc.0": false, "3.7.1": true, "3.7.3": true, "3.8.0": true, "4.0.0": true, "": false,
	} {
		endpoint := impostor(t, version)
		client, err := cluster.Dial(t.Context(), cluster.DialConfig{Endpoints: []string{endpoint}})
		if good != (err == nil) || !good && !errors.Is(err, cluster.ErrOldEtcd) {
			t.Errorf("%q: err = %v", version, err)
		}
		if err == nil {
			client.Close()
		}
	}
}
