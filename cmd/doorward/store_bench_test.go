package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/sessions"
	sessionsetcd "github.com/doorward/doorward/sessions/etcd"
)

const (
	createClients = 128
	createTurn    = 2 * time.Second // of each contender, in each round
)

// BenchmarkCreate lets three contenders make sessions in turns, round by round,
// at 128 clients: the store; one transaction on a lease of its own for each
// session, which is how one would begin; and, where redis-server is installed,
// Redis that writes through to the disk (appendfsync always) as etcd does. Each
// session is the same writes. The ratios say something, not the rates.
// Each contender has a member of its own: what it leaves behind it meets itself.
func BenchmarkCreate(b *testing.B) {
	client := startMember(b)
	source := newSource(b, client)
	tenant := newTenant(b, source, "a")
	store := newStore(b, client, source, sessionsetcd.Config{})
	first, s := benchSession(tenant)
	if _, err := store.Create(b.Context(), sessions.Creation{Digest: first.Digest(tenant), Session: s}); err != nil {
		b.Fatal(err)
	}
	writes := benchWrites(b, client)
	other := startMember(b)
	contenders := []struct {
		name   string
		create func(ctx context.Context, worker int) error
	}{
		{"store", func(ctx context.Context, _ int) error {
			token, s := benchSession(tenant)
			_, err := store.Create(ctx, sessions.Creation{Digest: token.Digest(tenant), Session: s})
			return err
		}},
		{"ownlease", func(ctx context.Context, _ int) error {
			lease, err := other.Grant(ctx, 3600)
			if err != nil {
				return err
			}
			var puts []clientv3.Op
			for _, w := range writes() {
				puts = append(puts, clientv3.OpPut(w[0], w[1], clientv3.WithLease(lease.ID)))
			}
			_, err = other.Txn(ctx).Then(puts...).Commit()
			return err
		}},
	}
	if redis := startRedis(b); redis != nil {
		contenders = append(contenders, struct {
			name   string
			create func(ctx context.Context, worker int) error
		}{"redis", func(_ context.Context, worker int) error { return redis[worker].set(writes()) }})
	}
	rates := map[string]float64{}
	rounds := 0
	for b.Loop() {
		rounds++
		for _, c := range contenders {
			rates[c.name] += createRate(b, c.create)
		}
	}
	for name, rate := range rates {
		b.ReportMetric(rate/float64(rounds), name+"/s")
		if name != "store" {
			b.ReportMetric(rates["store"]/rate, "store:"+name)
		}
	}
	b.ReportMetric(0, "ns/op") // a round is as long as it is set to be
}

// createRate is how many creates a second createClients make.
func createRate(b *testing.B, create func(ctx context.Context, worker int) error) float64 {
	var made atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	for worker := range createClients {
		all.Go(func() {
			for time.Since(began) < createTurn {
				if err := create(b.Context(), worker); err != nil {
					b.Error(err)
					return
				}
				made.Add(1)
			}
		})
	}
	all.Wait()
	return float64(made.Load()) / time.Since(began).Seconds()
}

func benchSession(tenant string) (sessions.Token, sessions.Session) {
	now, token := time.Now().UTC(), sessions.NewToken()
	id := token.Digest(tenant).ID()
	return token, sessions.Session{
		ID: id, Tenant: tenant, Subject: "subject-" + string(id),
		Claims: []byte(benchClaims), AMR: []string{"pwd"},
		Verifier: sessions.Verifier{Version: 1, Digest: "sha256:" + strings.Repeat("0123456789abcdef", 4)},
		Client:   sessions.Client{IP: "192.0.2.1", UserAgent: benchAgent},
		AuthTime: now, CreatedAt: now, LastSeenAt: now, IssuedAt: now,
		IdleExpiresAt: now.Add(12 * time.Hour), ExpiresAt: now.Add(12 * time.Hour), Idle: 12 * time.Hour,
	}
}

// benchWrites returns a maker of the keys and values of one session, each as long
// as the store's own, without the work of making them: it looks at one that the
// store has made.
func benchWrites(b *testing.B, client *clientv3.Client) func() [][2]string {
	var like [][2]string
	for _, prefix := range []string{"/dw/live/s/", "/dw/s/"} {
		got, err := client.Get(b.Context(), prefix, clientv3.WithPrefix())
		if err != nil {
			b.Fatal(err)
		}
		for _, kv := range got.Kvs {
			like = append(like, [2]string{string(kv.Key), strings.Repeat("v", len(kv.Value))})
		}
	}
	return func() [][2]string {
		writes := make([][2]string, len(like))
		for i, w := range like {
			unlike := rand.Text() // 26 letters and digits, as long as what a key ends with
			writes[i] = [2]string{w[0][:len(w[0])-len(unlike)] + unlike, w[1]}
		}
		return writes
	}
}

// redisConn speaks to Redis by hand: nothing is faster.
type redisConn struct {
	conn net.Conn
	in   *bufio.Reader
}

// set writes all in one MULTI, with an expiry each.
func (r *redisConn) set(writes [][2]string) error {
	var out strings.Builder
	out.WriteString("*1\r\n$5\r\nMULTI\r\n")
	for _, w := range writes {
		fmt.Fprintf(&out, "*5\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n$2\r\nEX\r\n$5\r\n43200\r\n", len(w[0]), w[0], len(w[1]), w[1])
	}
	out.WriteString("*1\r\n$4\r\nEXEC\r\n")
	if _, err := r.conn.Write([]byte(out.String())); err != nil {
		return err
	}
	// +OK, a +QUEUED for each, the number of answers, and the answers.
	for range 1 + len(writes) + 1 + len(writes) {
		line, err := r.in.ReadString('\n')
		if err != nil {
			return err
		}
		if line[0] == '-' {
			return fmt.Errorf("redis: %s", strings.TrimSpace(line))
		}
	}
	return nil
}

// startRedis runs Redis for one benchmark and returns a connection for each
// client, or nothing where it is not installed.
func startRedis(b *testing.B) []*redisConn {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		b.Log("redis-server is not installed: no comparison with it")
		return nil
	}
	dir := b.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	address := l.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	l.Close()
	server := exec.Command(path, "--bind", "127.0.0.1", "--port", port, "--dir", dir, "--save", "",
		"--appendonly", "yes", "--appendfsync", "always", "--logfile", filepath.Join(dir, "log"))
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		server.Process.Kill()
		server.Wait()
	})
	conns := make([]*redisConn, createClients)
	deadline := time.Now().Add(10 * time.Second)
	for i := range conns {
		conn, err := net.Dial("tcp", address)
		for err != nil && time.Now().Before(deadline) {
			conn, err = net.Dial("tcp", address)
		}
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { conn.Close() })
		conns[i] = &redisConn{conn, bufio.NewReader(conn)}
	}
	return conns
}
