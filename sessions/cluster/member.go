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
	Peers        map[string]string // peer URL of every member of a new cluster by its name, this one's included; nil: a member of one, which opens no port
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
}

// closeTime bounds how long a member may take to stop.
const closeTime = 5 * time.Second

// Start runs a member on cfg.Dir and returns when it can write, which in a
// cluster is when most of the members are there. It goes on until Close.
// ErrLocked, with the process that has it, when the directory is in use.
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
	m := &Member{lock: lock, log: cfg.Log.With("part", "etcd"), logs: newLogCore(cfg.Log), quota: cfg.QuotaBytes, compactEvery: cfg.CompactEvery}
	if err := m.start(ctx, cfg, peers); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// peers are the members of a new cluster in etcd's types, none for a member of
// one.
func (cfg Config) peers() (types.URLsMap, error) {
	peers := types.URLsMap{}
	for name, text := range cfg.Peers {
		urls, err := types.NewURLs([]string{text})
		if err != nil {
			return nil, fmt.Errorf("peer %s: %w", name, err)
		}
		// Whoever reaches a peer's port can write what it likes.
		if ip := net.ParseIP(urls[0].Hostname()); urls[0].Scheme != "http" || ip == nil || !ip.IsLoopback() {
			return nil, fmt.Errorf("peer %s: %s is not http on a loopback address, and this version has no TLS between members", name, text)
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
	if m.etcd, err = embed.StartEtcd(m.config(cfg, peers)); err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	select {
	case <-m.etcd.Server.ReadyNotify():
	case err := <-m.etcd.Err():
		return fmt.Errorf("start etcd: %w", err)
	case <-ctx.Done():
		return fmt.Errorf("start etcd: not ready in time: %w", ctx.Err())
	}
	m.client = v3client.New(m.etcd.Server)
	return nil
}

// config is etcd's, tuned for batches of small writes by one process. The
// figures and their reasons are in ../DESIGN.md.
func (m *Member) config(cfg Config, peers types.URLsMap) *embed.Config {
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
		if err := gate.Set("InitialCorruptCheck=true,CompactHashCheck=true"); err != nil {
			panic("cluster: etcd's feature gates have other names: " + err.Error())
		}
	}
	return c
}

// Client calls the member in process; it opens no connection. It is closed
// with the member.
func (m *Member) Client() *clientv3.Client { return m.client }

// Err gives the error that ends the member by itself.
func (m *Member) Err() <-chan error { return m.etcd.Err() }

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
