package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

// ErrLocked: another process has the data directory.
var ErrLocked = errors.New("data directory is in use")

// Config says where a member keeps its data, and with whom.
type Config struct {
	Dir          string            // made with mode 0700 if it is not there; required
	Name         string            // of this member; "": "node"
	Listen       string            // host:port at which the other members reach this one, over TLS; "": nowhere, and then no port is open
	Advertise    string            // https://host:port, where that is for the others; "": https:// and Listen
	Clients      string            // host:port at which nodes that are no members reach this one, over TLS; "": nowhere. The others find it at Advertise's host
	Identity     *Identity         // by which the nodes of the cluster know each other; required with Listen
	Peers        map[string]string // peer URL of every first member by its name, this one's included; nil: it is the only one. It counts where Dir is empty
	Joined       bool              // Peers is a cluster that is there, to which this member was added
	QuotaBytes   int64             // of the database; 0: 4 GiB
	CompactEvery time.Duration     // how far back a watch may begin, at least; 0: 1 minute
	Log          *slog.Logger      // etcd's warnings and errors, and what Run does; nil discards
}

// DefaultQuota is the size in bytes at which a database is full.
const DefaultQuota = 4 << 30

// Member is a running member.
type Member struct {
	etcd   *embed.Etcd
	client *clientv3.Client
	lock   io.Closer
	log    *slog.Logger
	logs   *logCore
	socket string // directory of the sockets

	quota        int64
	compactEvery time.Duration
	work         sync.WaitGroup // housekeeping inside the server
	disk         latency        // of the log's syncs
	links        latency        // of round trips to the other members
}

// closeTime bounds how long a member may take to stop.
const closeTime = 5 * time.Second

// Start runs a member on cfg.Dir and returns when it can write, which in a
// cluster is when most of the members are there. It goes on until Close.
// ErrLocked, with the process that has it, when the directory is in use;
// ErrWiped when this member had data that is gone.
//
// A member whose address is another one than at its last start tells the others.
func Start(ctx context.Context, cfg Config) (*Member, error) {
	if cfg.QuotaBytes == 0 {
		cfg.QuotaBytes = DefaultQuota
	}
	if cfg.CompactEvery == 0 {
		cfg.CompactEvery = time.Minute
	}
	if cfg.Name == "" {
		cfg.Name = "node"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	peers, err := cfg.peers()
	if err != nil {
		return nil, err
	}
	lock, err := Lock(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if err := cfg.begin(); err != nil {
		lock.Close()
		return nil, err
	}
	m := &Member{lock: lock, log: cfg.Log.With("part", "etcd"), logs: newLogCore(cfg.Log), quota: cfg.QuotaBytes, compactEvery: cfg.CompactEvery}
	if err := m.start(ctx, cfg, peers); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// ErrWiped: the data of a member of a cluster is gone. It must not vote again
// under its old name: it would not know what it has voted for.
var ErrWiped = errors.New("this member's data is gone")

// replaceIt is what to do then.
const replaceIt = `on another node run "doorward cluster token", and here "doorward cluster replace URL --token TOKEN": it takes the old member's place with the others' data`

// begin refuses a member that had data and has none. A raft member that comes
// back with an empty disk under its old id makes etcd panic, or worse, votes
// twice.
func (cfg Config) begin() error {
	if cfg.Listen == "" {
		return nil
	}
	mark := filepath.Join(cfg.Dir, "etcd.begun")
	_, markErr := os.Stat(mark)
	_, dataErr := os.Stat(filepath.Join(cfg.Dir, "etcd", "member", "wal"))
	if dataErr == nil {
		return nil
	}
	if markErr == nil {
		return fmt.Errorf("%w: %s has been a member's, and holds no etcd/member/wal any more; %s", ErrWiped, cfg.Dir, replaceIt)
	}
	if err := os.WriteFile(mark, []byte(cfg.Name+"\n"), 0o600); err != nil { // before it promises anything
		return fmt.Errorf("mark data directory: %w", err)
	}
	return nil
}

// Forget takes the mark away by which Start knows that there was data in dir,
// before another member begins there.
func Forget(dir string) error {
	err := errors.Join(os.RemoveAll(filepath.Join(dir, "etcd")), os.RemoveAll(filepath.Join(dir, "etcd.begun")))
	if err != nil {
		return fmt.Errorf("empty data directory: %w", err)
	}
	return nil
}

// advertise is where the others reach this member.
func (cfg Config) advertise() string {
	if cfg.Advertise != "" {
		return cfg.Advertise
	}
	return "https://" + cfg.Listen
}

// Beside is where others reach what a member listens at besides: at the host of its
// peer URL, and that listener's port.
func Beside(advertise, listener string) (string, error) {
	u, err := peerURL(advertise)
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(listener)
	if err != nil {
		return "", err
	}
	return "https://" + net.JoinHostPort(u.Hostname(), port), nil
}

// peers are the first members in etcd's types, none for a member that opens no
// port.
func (cfg Config) peers() (types.URLsMap, error) {
	peers := types.URLsMap{}
	list := cfg.Peers
	if cfg.Listen != "" {
		if cfg.Identity == nil {
			return nil, errors.New("a member that others reach needs an identity")
		}
		if _, err := peerURL(cfg.advertise()); err != nil {
			return nil, fmt.Errorf("advertise: %w", err)
		}
		if len(list) == 0 {
			list = map[string]string{cfg.Name: cfg.advertise()}
		}
		if own := list[cfg.Name]; own != "" && own != cfg.advertise() {
			return nil, fmt.Errorf("peer %s: it is %s there and advertises %s", cfg.Name, own, cfg.advertise())
		}
	}
	for name, text := range list {
		urls, err := types.NewURLs([]string{text})
		if err != nil {
			return nil, fmt.Errorf("peer %s: %w", name, err)
		}
		if cfg.Listen != "" {
			if _, err := peerURL(text); err != nil {
				return nil, fmt.Errorf("peer %s: %w", name, err)
			}
		} else if ip := net.ParseIP(urls[0].Hostname()); urls[0].Scheme != "http" || ip == nil || !ip.IsLoopback() {
			// Whoever reaches a peer's port can write what it likes.
			return nil, fmt.Errorf("peer %s: %s is not http on a loopback address, and without Listen there is no TLS between members", name, text)
		}
		peers[name] = urls
	}
	if len(peers) > 0 && peers[cfg.Name] == nil {
		return nil, fmt.Errorf("peers: the member %q itself is not among them", cfg.Name)
	}
	return peers, nil
}

func (m *Member) start(ctx context.Context, cfg Config, peers types.URLsMap) error {
	var err error
	if m.socket, err = socketDir(cfg.Dir); err != nil {
		return err
	}
	c, err := m.config(cfg, peers)
	if err != nil {
		return err
	}
	if m.etcd, err = embed.StartEtcd(c); err != nil {
		if strings.Contains(err.Error(), "has already been bootstrapped") {
			return fmt.Errorf("%w: the others know it by the name %s and %s is empty; %s", ErrWiped, cfg.Name, cfg.Dir, replaceIt)
		}
		if m.removed() { // an empty disk that has been replaced before: the first member's id is none any more
			return fmt.Errorf("start etcd: %w; %s", ErrRemoved, replaceIt)
		}
		return fmt.Errorf("start etcd: %w", err)
	}
	select {
	case <-m.etcd.Server.ReadyNotify():
	case <-m.etcd.Server.StopNotify():
		return fmt.Errorf("start etcd: %w", m.stopped())
	case err := <-m.etcd.Err():
		return fmt.Errorf("start etcd: %w", err)
	case <-ctx.Done():
		return fmt.Errorf("start etcd: not ready in time: %w", ctx.Err())
	}
	m.client = v3client.New(m.etcd.Server)
	if cfg.Listen == "" {
		return nil
	}
	return m.tellAddress(ctx, cfg.advertise())
}

// tellAddress corrects where the others reach this member: one that had no port
// until now, or has another address.
func (m *Member) tellAddress(ctx context.Context, advertise string) error {
	own := m.etcd.Server.Cluster().Member(m.etcd.Server.MemberID())
	if own == nil || slices.Equal(own.PeerURLs, []string{advertise}) {
		return nil
	}
	if _, err := m.client.MemberUpdate(ctx, uint64(own.ID), []string{advertise}); err != nil {
		return fmt.Errorf("tell the cluster that this member is at %s and not at %s: %w", advertise, strings.Join(own.PeerURLs, ", "), err)
	}
	m.log.Info("this member's address has changed", "was", own.PeerURLs, "is", advertise)
	return nil
}

// config is etcd's, tuned for batches of small writes by one process. The
// figures and their reasons are in ../DESIGN.md.
func (m *Member) config(cfg Config, peers types.URLsMap) (*embed.Config, error) {
	c := embed.NewConfig()
	c.Name = cfg.Name
	c.Dir = filepath.Join(cfg.Dir, "etcd")
	client := url.URL{Scheme: "unix", Path: filepath.Join(m.socket, "client")}
	// Of a peer's URL etcd listens at the host alone. With the path in its place
	// that was "", an abstract socket, which every user of the machine may open.
	peer := url.URL{Scheme: "unix", Host: filepath.Join(m.socket, "peer")}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.ListenPeerUrls = []url.URL{peer}
	// The peer URL is part of the member's identity and must be the same at the
	// next start, wherever the sockets are then. Nobody connects to it: a member
	// of one has no peers.
	c.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "localhost:2380"}}
	c.InitialCluster = c.Name + "=" + c.AdvertisePeerUrls[0].String()
	if len(peers) > 0 {
		c.ListenPeerUrls, c.AdvertisePeerUrls = peers[cfg.Name], peers[cfg.Name]
		c.InitialCluster = peers.String()
	}
	if cfg.Listen != "" {
		c.ListenPeerUrls = []url.URL{{Scheme: "https", Host: cfg.Listen}}
		c.PeerTLSInfo = cfg.Identity.tls(memberName)
		c.TlsMinVersion = "TLS1.3"
	}
	if cfg.Joined {
		c.ClusterState = embed.ClusterStateFlagExisting
	}
	if cfg.Clients != "" {
		text, err := Beside(cfg.advertise(), cfg.Clients)
		if err != nil {
			return nil, fmt.Errorf("clients: %w", err)
		}
		reached, err := url.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("clients: %w", err)
		}
		c.ListenClientUrls = append(c.ListenClientUrls, url.URL{Scheme: "https", Host: cfg.Clients})
		c.AdvertiseClientUrls = []url.URL{*reached}
		c.ClientTLSInfo = cfg.Identity.tls(nodeName)
	}
	c.InitialClusterToken = "doorward"
	c.EnableGRPCGateway = false
	c.QuotaBackendBytes = cfg.QuotaBytes
	c.MaxTxnOps = 1024
	c.SnapshotCount, c.SnapshotCatchUpEntries = 1000, 500
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, "0" // Run does it
	c.CompactionSleepInterval = time.Millisecond                                       // between 1000 keys; with etcd's 10 ms a million take twice as long
	c.TickMs, c.ElectionMs = 50, 500
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(m.logs.logger())
	if gate, ok := c.ServerFeatureGate.(interface{ Set(string) error }); ok {
		if err := gate.Set("CompactHashCheck=true"); err != nil {
			panic("cluster: etcd's feature gates have other names: " + err.Error())
		}
	}
	return c, nil
}

// Client calls the member in process; it opens no connection. It is closed
// with the member.
func (m *Member) Client() *clientv3.Client { return m.client }

// Wait returns when the member ends by itself, with the reason: ErrRemoved when
// others have removed it from the cluster. Or when ctx ends, with its error.
func (m *Member) Wait(ctx context.Context) error {
	select {
	case err := <-m.etcd.Err():
		return err
	case <-m.etcd.Server.StopNotify():
		return m.stopped()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// removed reports whether the others have said that this member is none any more.
func (m *Member) removed() bool {
	why := m.logs.ended.Load()
	return why != nil && strings.Contains(*why, "permanently removed")
}

// stopped says why the server is not there any more.
func (m *Member) stopped() error {
	if m.removed() || m.etcd.Server.IsIDRemoved(m.ID()) {
		return fmt.Errorf("%w; to have this machine back, %s", ErrRemoved, replaceIt)
	}
	if why := m.logs.ended.Load(); why != nil {
		return fmt.Errorf("etcd has stopped: %s", *why)
	}
	select {
	case err := <-m.etcd.Err():
		return err
	default:
		return errors.New("etcd has stopped")
	}
}

// IsLeader reports whether this member leads its cluster, as far as it knows.
func (m *Member) IsLeader() bool {
	return m.etcd.Server.Leader() == m.etcd.Server.MemberID()
}

// Kill ends the member as a crash of its process would: it hands its leadership
// to nobody, and acknowledges nothing more. For tests of faults. Close is still
// to be called.
func (m *Member) Kill() {
	m.logs.quiet()
	m.etcd.Server.HardStop()
}

// Close stops the member, within some seconds, and gives the directory free.
func (m *Member) Close() error {
	m.logs.quiet() // etcd calls three ordinary ends an error
	if m.client != nil {
		m.client.Close() // in process: nothing that could fail
	}
	var err error
	if m.etcd != nil {
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.work.Wait() // a compaction writes when it ends, and must find the database open
			if m.client == nil {
				m.etcd.Server.HardStop() // one that never was ready waits for that before it stops
			}
			m.etcd.Close()
		}()
		select {
		case <-done:
		case <-time.After(closeTime):
			err = errors.New("etcd has not stopped in time; what it acknowledged is on disk")
		}
	}
	if m.socket != "" {
		os.RemoveAll(m.socket) // the next start makes them anew
	}
	m.lock.Close() // which unlocks
	return err
}

// Lock takes the directory, made with mode 0700 if it is not there, for this
// process until the lock is closed; Start does it by itself. The lock is the
// kernel's and ends with the process, however it ends; the number in the file
// is for people. ErrLocked, with the process that has it, when it is in use.
func Lock(dir string) (io.Closer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid, _ := os.ReadFile(f.Name()) // only to name it
		f.Close()
		return nil, fmt.Errorf("%w: %s belongs to the running process %s; stop it, or give this one another --data-dir", ErrLocked, dir, strings.TrimSpace(string(pid)))
	}
	if err := f.Truncate(0); err == nil {
		f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0) // for people; the lock holds without it
	}
	return f, nil
}

// maxSocketPath is what fits into sockaddr_un on Linux, with its final zero.
const maxSocketPath = 107

// socketDir makes a private directory for the sockets: in the data directory,
// or, where that path is too long for a socket, in a fresh temporary one.
func socketDir(dir string) (string, error) {
	own, err := filepath.Abs(filepath.Join(dir, "run"))
	if err != nil {
		return "", fmt.Errorf("make socket directory: %w", err)
	}
	if len(filepath.Join(own, "client")) > maxSocketPath {
		short, err := os.MkdirTemp("", "doorward-") // mode 0700
		if err != nil {
			return "", fmt.Errorf("make socket directory: %w", err)
		}
		return short, nil
	}
	os.RemoveAll(own) // sockets of a process that was killed; the lock says it is gone
	if err := os.Mkdir(own, 0o700); err != nil {
		return "", fmt.Errorf("make socket directory: %w", err)
	}
	return own, nil
}
