package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-semver/semver"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/status"
)

// ErrOldEtcd: a member of the cluster runs an etcd with known holes.
var ErrOldEtcd = errors.New("etcd is too old")

// floors are the oldest releases that are taken, one for each minor version;
// later minors are taken whole, earlier ones not at all. These mend etcd's access
// control, which nested transactions and watches over ranges went around.
var floors = []*semver.Version{semver.New("3.5.33"), semver.New("3.6.14"), semver.New("3.7.1")}

// DialConfig says where a cluster is that somebody else runs.
type DialConfig struct {
	Endpoints    []string      // https://host:port, http://host:port or unix:///path; required
	CA           string        // PEM file with who may sign the cluster's certificates; "": the system's
	Cert, Key    string        // PEM files, this node's certificate for the cluster; read at each handshake
	Identity     *Identity     // instead of these three, where the cluster's members are ours
	Username     string        // of etcd's own access control; "": none
	PasswordFile string        // whose first line is its password
	Timeout      time.Duration // for the cluster to answer; 0: 5 seconds
	Log          *slog.Logger  // members that do not answer; nil discards
}

// Dial connects to a cluster, and returns when it has answered a linearizable
// read: it is there, it has a leader, and this user may read. One member that
// does not answer is a warning, not an error. ErrOldEtcd when one that does
// runs a release below 3.5.33, 3.6.14 or 3.7.1.
//
// The client repeats reads by itself and a write only when it was never sent;
// its calls are bounded by their contexts alone. Closing it is the caller's.
func Dial(ctx context.Context, cfg DialConfig) (*clientv3.Client, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	config, err := cfg.client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	var last error
	for {
		client, err := dialOnce(ctx, cfg, config)
		if err == nil {
			return client, nil
		}
		if last == nil || !errors.Is(err, context.DeadlineExceeded) { // which says less than what came before
			last = err
		}
		if final(err) {
			return nil, last
		}
		select { // nodes and clusters are started together: it may come to be there
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			check := "do etcd.endpoints and etcd.tls fit it"
			if cfg.Identity != nil {
				check = "do its members still have cluster.clients there"
			}
			return nil, fmt.Errorf("etcd at %s has not answered within %v: %w; is it running, has it a quorum, and %s?",
				strings.Join(cfg.Endpoints, ", "), cfg.Timeout, last, check)
		}
	}
}

// client is the configuration of etcd's client.
func (cfg DialConfig) client() (clientv3.Config, error) {
	c := clientv3.Config{
		Endpoints:   cfg.Endpoints,
		DialTimeout: cfg.Timeout,
		// A peer that is gone without a word is noticed within 13 s. etcd ends
		// connections that ask more often than each 5 s, or without a call open.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		// gRPC would wait up to two minutes before it tries a member again.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
			MinConnectTimeout: 3 * time.Second,
		})},
		Username: cfg.Username,
		// Errors come back to the callers, who log them.
		Logger: zap.NewNop(),
	}
	if cfg.Username != "" {
		text, err := os.ReadFile(cfg.PasswordFile)
		if err != nil {
			return c, fmt.Errorf("read etcd password: %w", err)
		}
		line, _, _ := bytes.Cut(text, []byte("\n"))
		if c.Password = strings.TrimSpace(string(line)); c.Password == "" {
			return c, fmt.Errorf("read etcd password: the first line of %s is empty", cfg.PasswordFile)
		}
	}
	if !strings.HasPrefix(cfg.Endpoints[0], "https:") {
		return c, nil
	}
	if cfg.Identity != nil {
		var err error
		c.TLS, err = cfg.Identity.client(memberName)
		return c, err
	}
	info := transport.TLSInfo{TrustedCAFile: cfg.CA, CertFile: cfg.Cert, KeyFile: cfg.Key}
	var err error
	if c.TLS, err = info.ClientConfig(); err != nil {
		return c, fmt.Errorf("set up TLS to etcd with %s: %w", info, err)
	}
	return c, nil
}

// probe is a key that is never there. Everything that Doorward keeps in etcd
// lies under /dw/, so a user who may not read this one cannot serve.
const probe = "/dw/probe"

func dialOnce(ctx context.Context, cfg DialConfig, config clientv3.Config) (*clientv3.Client, error) {
	if err := reach(ctx, config); err != nil {
		return nil, err
	}
	client, err := clientv3.New(config)
	if err != nil {
		return nil, cfg.explain(err)
	}
	if err := cfg.prove(ctx, client); err != nil {
		client.Close() // the error that counts is the other
		return nil, err
	}
	return client, nil
}

// reach says why there is no connection. The client's own calls, of which its
// sign-in is the first, wait for one and only say that it took too long.
func reach(ctx context.Context, config clientv3.Config) error {
	config.Username, config.Password = "", ""
	client, err := clientv3.New(config)
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = etcdserverpb.NewMaintenanceClient(client.ActiveConnection()).Status(ctx, &etcdserverpb.StatusRequest{}, grpc.WaitForReady(false))
	if err != nil && !errors.Is(rpctypes.Error(err), rpctypes.ErrUserEmpty) { // which says that somebody is there
		return errors.New(status.Convert(err).Message())
	}
	return nil
}

// prove asks each member for its version, and the cluster for one read.
func (cfg DialConfig) prove(ctx context.Context, client *clientv3.Client) error {
	errs := make([]error, len(cfg.Endpoints))
	var asked sync.WaitGroup
	for i, endpoint := range cfg.Endpoints {
		asked.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, cfg.Timeout/2)
			defer cancel()
			answer, err := client.Status(ctx, endpoint)
			if err == nil {
				err = checkVersion(endpoint, answer.Version)
			}
			errs[i] = err
		})
	}
	asked.Wait()
	silent := 0
	for _, err := range errs {
		if err := cfg.explain(err); final(err) {
			return err
		}
		if err != nil {
			silent++
		}
	}
	if silent == len(errs) {
		return errs[0]
	}
	if _, err := client.Get(ctx, probe, clientv3.WithCountOnly()); err != nil {
		return cfg.explain(err)
	}
	for i, err := range errs {
		if err != nil {
			cfg.Log.Warn("a member of the etcd cluster does not answer; going on without it, its version unknown", "endpoint", cfg.Endpoints[i], "err", err)
		}
	}
	return nil
}

func checkVersion(endpoint, text string) error {
	v, err := semver.NewVersion(text)
	if err != nil {
		return fmt.Errorf("%w: the version of %s is %q, which says nothing", ErrOldEtcd, endpoint, text)
	}
	for _, floor := range floors {
		if v.Major == floor.Major && v.Minor == floor.Minor && !v.LessThan(*floor) {
			return nil
		}
	}
	if floors[len(floors)-1].LessThan(*v) {
		return nil
	}
	return fmt.Errorf("%w: %s runs %s; upgrade the cluster to 3.5.33, 3.6.14, 3.7.1 or later of these, because older releases let users read keys that are not theirs", ErrOldEtcd, endpoint, text)
}

// errRefused: trying again will not help.
var errRefused = errors.New("etcd refuses this node")

func final(err error) bool { return errors.Is(err, errRefused) || errors.Is(err, ErrOldEtcd) }

// explain says what to do about the errors that trying again does not mend.
func (cfg DialConfig) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(rpctypes.Error(err), rpctypes.ErrAuthFailed):
		return fmt.Errorf("%w: user name or password of %q is wrong; check etcd.username and etcd.password_file", errRefused, cfg.Username)
	case errors.Is(rpctypes.Error(err), rpctypes.ErrUserEmpty):
		return fmt.Errorf("%w: the cluster wants to know who this is; set etcd.username and etcd.password_file", errRefused)
	case errors.Is(rpctypes.Error(err), rpctypes.ErrPermissionDenied):
		return fmt.Errorf("%w: user %q needs a role that may read and write the prefix /dw/", errRefused, cfg.Username)
	}
	return err
}
