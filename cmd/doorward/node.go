package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/doorward/doorward/plugins"
	pluginsetcd "github.com/doorward/doorward/plugins/etcd"
	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/service"
	"github.com/doorward/doorward/service/web"
	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/sessions/cluster"
	sessionsetcd "github.com/doorward/doorward/sessions/etcd"
	"github.com/doorward/doorward/tenants"
	tenantsetcd "github.com/doorward/doorward/tenants/etcd"
	"github.com/doorward/doorward/tenants/seal"
)

// drainTime is how long requests may take to finish after SIGTERM, startTime
// how long a start may take before it is an error (etcd reads every key, and
// mode replicated every session: 100,000 took more than a minute on a machine
// that eight others wanted), and dialTime how much of it a cluster may take to
// answer.
const (
	drainTime = 8 * time.Second
	startTime = 5 * time.Minute
	dialTime  = 10 * time.Second
)

// node is one running server: the rooms, bottom-up.
type node struct {
	config config
	log    *slog.Logger

	member    *cluster.Member // nil when somebody else runs the etcd
	client    *clientv3.Client
	source    *tenantsetcd.Source
	rootKey   string // id of the topmost
	registry  *tenants.Registry
	sessions  *sessions.Manager
	store     sessions.Store
	committer *sessionsetcd.Store // the same, where it is in etcd
	pool      *sandbox.Pool
	artifacts *pluginsetcd.Artifacts
	catalog   *plugins.Catalog
	service   *service.Service
	web       *web.Server

	backingUp sync.Mutex
}

// run serves until ctx ends, then drains. It starts bottom-up and closes
// top-down: whoever still has work must find what it works on.
func run(ctx context.Context, c config, out, errs io.Writer) error {
	level, err := c.logLevel()
	if err != nil {
		return err
	}
	log := newLog(errs, level, c.Log.Format)
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	// The ports come first: a busy one is told at once, before anything starts.
	public, err := listen(ctx, "listen", c.Listen)
	if err != nil {
		return err
	}
	defer public.Close()
	admin, err := listen(ctx, "admin-listen", c.AdminListen)
	if err != nil {
		return err
	}
	defer admin.Close()
	if c.dev {
		c.takePorts(public.Addr(), admin.Addr())
	}
	starting, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	client, member, closeStore, err := openStore(starting, c, log)
	if err != nil {
		return err
	}
	defer closeStore() // last: every room above writes to it
	if err := cluster.Interrupted(starting, client, storePrefix); err != nil {
		return fmt.Errorf("%w; run doorward restore again, or empty the store", err)
	}
	n, err := assemble(c, client, log)
	if err != nil {
		return err
	}
	n.member = member
	metrics := sessionMetrics{n.sessions}
	prometheus.MustRegister(metrics)
	defer prometheus.Unregister(metrics)
	pools := poolMetrics{n.pool}
	prometheus.MustRegister(pools)
	defer prometheus.Unregister(pools)
	return n.serve(ctx, starting, public, admin, out)
}

// openStore gives a client of the etcd that c asks for: of a member in this
// process, or, with no member, of a cluster that somebody else runs. Either way
// the data directory is this process's alone until the store is closed.
func openStore(ctx context.Context, c config, log *slog.Logger) (*clientv3.Client, *cluster.Member, func(), error) {
	if !c.external() {
		member, err := cluster.Start(ctx, cluster.Config{Dir: c.DataDir, QuotaBytes: c.Etcd.QuotaBytes, Log: log})
		if err != nil {
			return nil, nil, nil, err
		}
		prometheus.MustRegister(member)
		return member.Client(), member, func() {
			prometheus.Unregister(member)
			member.Close() // what it could not end in time is on disk
		}, nil
	}
	lock, err := cluster.Lock(c.DataDir)
	if err != nil {
		return nil, nil, nil, err
	}
	if _, err := os.Stat(filepath.Join(c.DataDir, "etcd")); err == nil {
		log.Warn("the data directory holds sessions and tenants of an embedded etcd, which are not used: etcd.endpoints is set", "dir", c.DataDir)
	}
	client, err := cluster.Dial(ctx, cluster.DialConfig{
		Endpoints: c.Etcd.Endpoints, CA: c.Etcd.TLS.CA, Cert: c.Etcd.TLS.Cert, Key: c.Etcd.TLS.Key,
		Username: c.Etcd.Username, PasswordFile: c.Etcd.PasswordFile, Timeout: dialTime, Log: log,
	})
	if err != nil {
		lock.Close()
		return nil, nil, nil, err
	}
	return client, nil, func() {
		client.Close() // its connections end with the process anyway
		lock.Close()
	}, nil
}

// listen opens one address, with an error that says what to do.
func listen(ctx context.Context, flag, address string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w; is another doorward running? choose another address with --%s", err, flag)
	}
	return l, nil
}

// takePorts puts the ports that the system chose where :0 was asked for.
func (c *config) takePorts(public, admin net.Addr) {
	if c.PublicURL == "http://"+c.Listen {
		c.PublicURL = "http://" + public.String()
	}
	c.Listen, c.AdminListen = public.String(), admin.String()
}

// assemble builds the rooms on a client of etcd. Nothing runs yet.
func assemble(c config, client *clientv3.Client, log *slog.Logger) (*node, error) {
	ring, err := seal.LoadOrCreateRing(c.Keyring.File)
	if err != nil {
		return nil, err
	}
	publicURL, err := c.publicURL()
	if err != nil {
		return nil, err
	}
	proxies, err := c.proxies()
	if err != nil {
		return nil, err
	}
	n := &node{config: c, log: log, client: client, rootKey: ring.IDs()[0]}
	n.source = tenantsetcd.New(client, ring, tenantsetcd.Config{})
	n.registry = tenants.NewRegistry(n.source, tenants.RegistryConfig{PublicHost: publicURL.Hostname(), Log: log})

	var challenges sessions.Challenges
	mode := sessions.Mode(c.Sessions.Mode)
	if c.Sessions.Mode == inMemory {
		memory := sessions.NewMemory()
		n.store, challenges, mode = memory, memory, sessions.Centralized
		log.Warn("sessions.mode is memory: every session ends when this process does")
	} else {
		txnOps := 0
		if c.external() {
			txnOps = 128 // etcd's own default; a larger one there is not known here
		}
		n.committer = sessionsetcd.New(client, n.source.Keys, sessionsetcd.Config{TxnOps: txnOps})
		n.store, challenges = n.committer, n.committer
	}
	n.sessions = sessions.New(n.store, challenges, sessions.Config{Mode: mode, CacheBytes: c.Sessions.CacheBytes, Log: log})

	n.pool, err = sandbox.New(sandbox.Config{
		CacheDir: filepath.Join(c.DataDir, "modules"), CacheBytes: c.Plugins.CacheBytes, User: c.Plugins.UID,
		Secrets: []string{c.Keyring.File, n.keyFile()}, Log: log,
	})
	if err != nil {
		return nil, err
	}
	n.artifacts = pluginsetcd.New(client)
	outbound, err := c.outbound()
	if err != nil {
		return nil, err
	}
	host := plugins.NewHost(n.pool, plugins.Settings{
		Config: n.configValue, Secret: n.secretValue,
		KV: pluginsetcd.NewKV(client, n.source.Keys, 0), Egress: outbound,
	}, log)
	n.catalog = plugins.NewCatalog(n.artifacts, host, plugins.CatalogConfig{Log: log})

	n.service = &service.Service{
		Tenants: n.registry, Source: n.source, Sessions: n.sessions,
		Verifier: n.catalog, Catalog: n.catalog, Log: log,
	}
	n.web = web.New(n.service, ring.Box("flow"), web.Config{
		PublicURL: publicURL, AnyLoopback: c.dev, TrustedProxies: proxies,
		Ready: n.ready, Metrics: promhttp.Handler(), Backup: n.backup, Log: log,
	})
	return n, nil
}

// ready reports whether this node can decide: the store answers a linearizable
// read.
func (n *node) ready(ctx context.Context) error {
	_, err := n.store.Revision(ctx)
	return err
}

// serve runs the rooms and both listeners until ctx ends or one of them fails.
func (n *node) serve(ctx, starting context.Context, public, admin net.Listener, out io.Writer) error {
	// The rooms outlive ctx: requests that drain still need them.
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, rooms := errgroup.WithContext(life)
	group.Go(func() error { return quiet(n.registry.Run(rooms)) })
	if n.committer != nil {
		group.Go(func() error { return quiet(n.committer.Run(rooms)) })
	}
	group.Go(func() error { return quiet(n.sessions.Run(rooms)) })
	group.Go(func() error { return quiet(n.pool.Run(rooms)) })
	if n.member != nil {
		group.Go(func() error { return quiet(n.member.Run(rooms)) })
		group.Go(func() error {
			select {
			case err := <-n.member.Err():
				return fmt.Errorf("etcd member: %w", err)
			case <-rooms.Done():
				return nil
			}
		})
	}
	if err := n.confined(starting); err != nil {
		stop()
		return errors.Join(err, group.Wait())
	}
	if err := n.prepare(starting, out); err != nil {
		stop()
		return errors.Join(err, group.Wait())
	}
	group.Go(func() error { n.rewrap(rooms); return nil })
	servers := []*http.Server{n.server(n.web.Public()), n.server(n.web.Admin())}
	for i, l := range []net.Listener{public, admin} {
		group.Go(func() error {
			if err := servers[i].Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	fmt.Fprintf(out, "ready public=%s admin=http://%s\n", n.config.PublicURL, n.config.AdminListen)

	select {
	case <-ctx.Done():
		n.log.Info("draining")
	case <-rooms.Done():
	}
	drain(servers)
	stop()
	return group.Wait()
}

// confined has the verifiers' processes try what they must not do, and says what
// came of it. It is an error where plugins.confine requires all to be refused.
func (n *node) confined(ctx context.Context) error {
	bounds, err := n.pool.Confinement(ctx)
	if err != nil && n.config.Plugins.Confine != required {
		n.log.Warn("what binds the verifiers' processes is not known", "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("plugins.confine is %s, and what binds the verifiers' processes is not known: %w", required, err)
	}
	for _, b := range bounds {
		user := "the server's own"
		if b.User != 0 {
			user = strconv.Itoa(b.User)
		}
		level := slog.LevelInfo
		if len(b.Open) > 0 {
			level = slog.LevelWarn
		}
		n.log.Log(ctx, level, "a verifier's process tried what it must not do", "part", b.Part, "user", user, "refused", b.Refused, "open", b.Open, "not_in_force", b.Off)
	}
	if n.config.Plugins.Confine != required {
		return nil
	}
	return confinedWell(bounds)
}

// confinedWell names what verifiers' processes may do that they must not.
func confinedWell(bounds []sandbox.Bound) error {
	var lax []string
	for _, b := range bounds {
		if len(b.Open) > 0 {
			lax = append(lax, fmt.Sprintf("a %s process may: %s; not in force: %s", b.Part, strings.Join(b.Open, ", "), cmp.Or(strings.Join(b.Off, "; "), "nothing that is known of")))
		}
	}
	if len(lax) > 0 {
		return fmt.Errorf("%w: plugins.confine is %s, and verifiers are not bound by all that it takes:\n  - %s\n"+
			"run a kernel with seccomp filters and Landlock (Linux 5.13, lsm=landlock), let the container use both, start as root to have verifiers run as a user that owns nothing, or set plugins.confine to %s",
			errUnsafe, required, strings.Join(lax, "\n  - "), bestEffort)
	}
	return nil
}

// quiet takes the end of its context for the ordinary end of a room.
func quiet(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// prepare does what is to be done before the first request: the registry is
// loaded, the operator has a key, interrupted deletes are finished if they can
// be, and dev has its demo tenant.
func (n *node) prepare(ctx context.Context, out io.Writer) error {
	if err := n.registry.WaitReady(ctx); err != nil {
		return fmt.Errorf("load tenants: %w", err)
	}
	if err := n.keyringFits(ctx); err != nil {
		return err
	}
	if err := n.copySessions(ctx); err != nil {
		return err
	}
	if err := n.operatorKey(ctx); err != nil {
		return err
	}
	// What is left over from another life keeps nobody from signing in: these
	// tenants are not found in any case, and the next start tries again.
	if err := n.service.ResumeDeletes(ctx); err != nil {
		n.log.Error("deletes not finished; delete these tenants again", "err", err)
	}
	if err := n.artifacts.Sweep(ctx); err != nil {
		n.log.Warn("unfinished uploads not swept", "err", err)
	}
	if n.config.dev {
		return n.welcome(ctx, out)
	}
	fmt.Fprintf(out, "operator key in %s\n", n.keyFile())
	return nil
}

// copyTime is how long a start waits for the copy of sessions.
const copyTime = 2 * time.Second

// copySessions waits for this node's copy of sessions, but not for one that takes
// long, as of a million: until it is there each validate asks the store.
func (n *node) copySessions(ctx context.Context) error {
	loading, cancel := context.WithTimeout(ctx, copyTime)
	defer cancel()
	err := n.sessions.WaitReady(loading)
	if ctx.Err() != nil {
		return fmt.Errorf("load sessions: %w", ctx.Err())
	}
	if err != nil {
		n.log.Info("the copy of sessions is still being loaded; until it is there validates ask the store")
	}
	return nil
}

// keyringFits refuses a key ring that does not open what is stored: one made anew
// where the file was lost, or another node's. New data would be sealed by it
// beside old data that nothing opens. One tenant's keys tell.
func (n *node) keyringFits(ctx context.Context) error {
	some, _ := n.registry.List("", 1)
	if len(some) == 0 {
		return nil
	}
	if _, err := n.source.Keys(ctx, some[0].UUID, 0); err != nil && !errors.Is(err, tenants.ErrNotFound) { // deleted this moment
		return fmt.Errorf("key ring %s: %w (every node of one etcd has the same file; if it was lost, a new one is there now: put the old one back in its place)", n.config.Keyring.File, err)
	}
	return nil
}

// rewrapAgain is how long after a failure tenants' keys are wrapped again.
const rewrapAgain = time.Minute

// rewrap has the tenants' keys wrapped by the topmost root key, where they are
// not, and says when that is so: then the others may be dropped from the ring,
// if every node says so.
func (n *node) rewrap(ctx context.Context) {
	for {
		wrapped, err := n.source.Rewrap(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			n.log.Info("every tenant's keys are wrapped by the topmost root key", "key", n.rootKey, "wrapped_anew", wrapped)
			return
		}
		n.log.Error("tenants' keys are not all wrapped by the topmost root key; trying again", "key", n.rootKey, "wrapped_anew", wrapped, "err", err, "in", rewrapAgain)
		select {
		case <-time.After(rewrapAgain):
		case <-ctx.Done():
			return
		}
	}
}

// nodeID names this node among those that share an etcd: what is in
// DIR/node.id, made at the first start.
func (n *node) nodeID() (string, error) {
	file := filepath.Join(n.config.DataDir, "node.id")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		id := strings.ToLower(rand.Text())
		// By another name first: half an id would be another node's.
		if err := os.WriteFile(file+".new", []byte(id+"\n"), 0o600); err != nil {
			return "", fmt.Errorf("write node id: %w", err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			return "", fmt.Errorf("write node id: %w", err)
		}
		return id, nil
	}
	if err != nil {
		return "", fmt.Errorf("read node id: %w", err)
	}
	id := firstLine(text)
	if !isNodeID(id) {
		return "", fmt.Errorf("%s holds no node id; put back the file that was there, or remove it to make this a new node, whose old operator key stays good", file)
	}
	return id, nil
}

// isNodeID: 26 letters and digits in lower case, as nodeID makes them.
func isNodeID(id string) bool {
	return len(id) == 26 && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

func (n *node) keyFile() string { return filepath.Join(n.config.DataDir, "operator.key") }

// operatorKey makes the key in DIR/operator.key the operator's. The file is
// the truth: made at the first start, and made anew where an operator has
// removed it, which ends the old one. Each node has its own, good at all nodes.
func (n *node) operatorKey(ctx context.Context) error {
	node, err := n.nodeID()
	if err != nil {
		return err
	}
	id := "operator-" + node
	text, err := os.ReadFile(n.keyFile())
	if errors.Is(err, fs.ErrNotExist) {
		secret := tenants.NewKeySecret()
		text = []byte(secret.Reveal() + "\n")
		if err := os.WriteFile(n.keyFile(), text, 0o600); err != nil {
			return fmt.Errorf("write operator key: %w", err)
		}
		n.log.Info("made an operator key", "file", n.keyFile())
	} else if err != nil {
		return fmt.Errorf("read operator key: %w", err)
	}
	secret, err := tenants.ParseKeySecret(firstLine(text))
	if err != nil {
		return fmt.Errorf("%s holds no operator key; remove the file to get a new one", n.keyFile())
	}
	if known, ok := n.registry.FindKey(secret); ok && known.ID == id {
		return nil
	}
	key := tenants.Key{ID: id, Kind: "operator", Digest: secret.Digest(), CreatedAt: time.Now().UTC()}
	if err := n.source.PutKey(ctx, key); err != nil {
		return fmt.Errorf("store operator key: %w", err)
	}
	return nil
}

// server is an HTTP server with a bound on everything a client may drag out.
// Headers have what the whole request has: a time of their own would be one more
// timer set for each request.
func (n *node) server(h http.Handler) *http.Server {
	s := &http.Server{
		Handler:        h,
		ReadTimeout:    10 * time.Second,
		WriteTimeout:   30 * time.Second,
		IdleTimeout:    60 * time.Second,
		MaxHeaderBytes: 32 << 10,
		ErrorLog:       slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
	s.RegisterOnShutdown(n.web.EndStreams)
	return s
}

// drain lets requests in flight finish, within drainTime.
func drain(servers []*http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	var group errgroup.Group
	for _, s := range servers {
		group.Go(func() error {
			if err := s.Shutdown(ctx); err != nil {
				return s.Close() // what is still open after that is cut
			}
			return nil
		})
	}
	group.Wait() // an error here changes nothing: the process ends
}

// firstLine is text up to its first line break, without surrounding blanks.
func firstLine(text []byte) string {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	return string(bytes.TrimSpace(line))
}

// configValue gives a verifier a key of its tenant's configuration, read at each
// login that asks, so that a change counts at once.
func (n *node) configValue(ctx context.Context, tenant, key string) (json.RawMessage, bool, error) {
	object, err := n.source.Config(ctx, tenant)
	if err != nil {
		return nil, false, err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(object, &members); err != nil {
		return nil, false, fmt.Errorf("read config: %w", err)
	}
	value, ok := members[key]
	return value, ok, nil
}

// secretValue gives a verifier one of its tenant's secrets.
func (n *node) secretValue(ctx context.Context, tenant, name string) ([]byte, bool, error) {
	value, err := n.source.Secret(ctx, tenant, name)
	if errors.Is(err, tenants.ErrNotFound) {
		return nil, false, nil
	}
	return value, err == nil, err
}
