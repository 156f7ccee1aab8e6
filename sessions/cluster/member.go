package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

// ErrLocked: another process has the data directory.
var ErrLocked = errors.New("data directory is in use")

// Config says where a member keeps its data.
type Config struct {
	Dir        string       // made with mode 0700 if it is not there; required
	QuotaBytes int64        // of the database; 0: 4 GiB
	Log        *slog.Logger // etcd's warnings and errors; nil discards
}

// Member is a running member.
type Member struct {
	etcd   *embed.Etcd
	client *clientv3.Client
	lock   *os.File
	logs   *logCore
	socket string // directory of the sockets
}

// closeTime bounds how long a member may take to stop.
const closeTime = 5 * time.Second

// Start runs a member of one on cfg.Dir and returns when it can write. It goes
// on until Close. ErrLocked, with the process that has it, when the directory
// is in use.
func Start(ctx context.Context, cfg Config) (*Member, error) {
	if cfg.QuotaBytes == 0 {
		cfg.QuotaBytes = 4 << 30
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	m := &Member{lock: lock, logs: newLogCore(cfg.Log)}
	if err := m.start(ctx, cfg); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func (m *Member) start(ctx context.Context, cfg Config) error {
	var err error
	if m.socket, err = socketDir(cfg.Dir); err != nil {
		return err
	}
	if m.etcd, err = embed.StartEtcd(m.config(cfg)); err != nil {
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
func (m *Member) config(cfg Config) *embed.Config {
	c := embed.NewConfig()
	c.Name = "node"
	c.Dir = filepath.Join(cfg.Dir, "etcd")
	client := url.URL{Scheme: "unix", Path: filepath.Join(m.socket, "client")}
	peer := url.URL{Scheme: "unix", Path: filepath.Join(m.socket, "peer")}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.ListenPeerUrls = []url.URL{peer}
	// The peer URL is part of the member's identity and must be the same at the
	// next start, wherever the sockets are then. Nobody connects to it: a member
	// of one has no peers.
	c.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "localhost:2380"}}
	c.InitialCluster = c.Name + "=" + c.AdvertisePeerUrls[0].String()
	c.InitialClusterToken = "doorward"
	c.EnableGRPCGateway = false
	c.QuotaBackendBytes = cfg.QuotaBytes
	c.MaxTxnOps = 1024
	c.SnapshotCount, c.SnapshotCatchUpEntries = 1000, 500
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, "5m"
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

// lockDir takes the directory for this process. The lock is the kernel's and
// ends with the process, however it ends; the number in the file is for people.
func lockDir(dir string) (*os.File, error) {
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
