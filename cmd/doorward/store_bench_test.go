package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
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
// session is the same four writes. The ratios say something, not the rates.
// Each contender has a member of its own: what it leaves behind it meets itself.
func BenchmarkCreate(b *testing.B) {
	client := startMember(b)
	source := newSource(b, client)
	tenant := newTenant(b, source, "a")
	store := newStore(b, client, source, sessionsetcd.Config{})
	other := startMember(b)
	contenders := []struct {
		name   string
		create func(ctx context.Context, worker int) error
	}{
		{"store", func(ctx context.Context, _ int) error {
			d, s := benchSession(tenant)
			_, err := store.Create(ctx, sessions.Creation{Digest: d, Session: s})
			return err
		}},
		{"ownlease", func(ctx context.Context, _ int) error {
			lease, err := other.Grant(ctx, 3600)
			if err != nil {
				return err
			}
			var puts []clientv3.Op
			for _, w := range benchWrites(tenant) {
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
		}{"redis", func(_ context.Context, worker int) error { return redis[worker].set(benchWrites(tenant)) }})
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

// BenchmarkStoreFind is a look-up in the embedded etcd, by so many at a time for each
// processor: what one that comes alone costs, and those that share a transaction.
func BenchmarkStoreFind(b *testing.B) {
	client := startMember(b)
	source := newSource(b, client)
	tenant := newTenant(b, source, "a")
	store := newStore(b, client, source, sessionsetcd.Config{})
	digests := make([]sessions.Digest, 2000)
	eachOf(b, len(digests), func(i int) error {
		d, s := benchSession(tenant)
		digests[i] = d
		_, err := store.Create(b.Context(), sessions.Creation{Digest: d, Session: s})
		return err
	})
	for _, n := range []int{1, 16} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(n)
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if _, err := store.Find(b.Context(), tenant, digests[rand.IntN(len(digests))]); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
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

func benchSession(tenant string) (sessions.Digest, sessions.Session) {
	now := time.Now().UTC()
	return sessions.NewToken().Digest(tenant), sessions.Session{
		ID: sessions.NewID(now), Tenant: tenant, Subject: "subject-" + string(sessions.NewID(now)),
		Claims: []byte(benchClaims), AMR: []string{"pwd"},
		Verifier: sessions.Verifier{Version: 1, Digest: "sha256:" + strings.Repeat("0123456789abcdef", 4)},
		Client:   sessions.Client{IP: "192.0.2.1", UserAgent: benchAgent},
		AuthTime: now, CreatedAt: now, LastSeenAt: now, IssuedAt: now,
		IdleExpiresAt: now.Add(12 * time.Hour), ExpiresAt: now.Add(12 * time.Hour), Idle: 12 * time.Hour,
	}
}

// benchWrites are the keys and values of one session as long as the store's
// own, without the work of making them.
func benchWrites(tenant string) [][2]string {
	d, id := sessions.NewToken().Digest(tenant).Key(), string(sessions.NewID(time.Now()))
	return [][2]string{
		{"/x/live/s/" + tenant + "/" + d, strings.Repeat("r", 520)},
		{"/x/s/id/" + tenant + "/" + id, d},
		{"/x/s/sub/" + tenant + "/" + d[:22] + "/" + id, d},
		{"/x/s/ver/" + tenant + "/" + strings.Repeat("v", 22) + "/" + id, d},
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
