package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/sessions/cluster"
)

// lines is a log that a test reads while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// kept starts a member whose housekeeping runs.
func kept(t *testing.T, cfg cluster.Config) *cluster.Member {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	m, err := cluster.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// until waits for a fact.
func until(t *testing.T, within time.Duration, what string, is func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !is() {
		if time.Since(began) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(began)
}

func TestAFullDatabaseTakesDeletesOnlyAndRecoversByItself(t *testing.T) {
	log := &lines{}
	dir := t.TempDir()
	m := kept(t, cluster.Config{Dir: dir, QuotaBytes: 16 << 20, Log: slog.New(slog.NewTextHandler(log, nil))})
	ctx, client := t.Context(), m.Client()
	// Small values: large ones leave holes in the file, and so room.
	value := strings.Repeat("x", 3000)
	n := 0
	for {
		var puts []clientv3.Op
		for i := range 16 {
			puts = append(puts, clientv3.OpPut(fmt.Sprintf("k/%06d", n+i), value))
		}
		if _, err := client.Txn(ctx).Then(puts...).Commit(); errors.Is(err, rpctypes.ErrNoSpace) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if n += len(puts); n > 20_000 {
			t.Fatal("60 MB fit into a quota of 16 MB")
		}
	}
	if s := m.Stats(); !s.NoSpace || s.InUseBytes < 12<<20 || s.QuotaBytes != 16<<20 {
		t.Fatalf("Stats = %+v", s)
	}
	until(t, 10*time.Second, "the log says that it is full", func() bool { return log.count("database is full: nobody can sign in") > 0 })
	until(t, 10*time.Second, "the log warns of 80 %", func() bool { return log.count("over 80 % full") > 0 })

	// It stays so while there is no room, however often it is looked at.
	if _, err := client.Delete(ctx, "k/000000"); err != nil {
		t.Fatalf("delete from a full database: %v", err)
	}
	if _, err := client.Put(ctx, "small", "x"); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Fatalf("put into a full database: %v", err)
	}
	if _, err := client.Grant(ctx, 60); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Fatalf("grant with a full database: %v", err)
	}

	got, err := client.Delete(ctx, "k/000000", clientv3.WithRange(fmt.Sprintf("k/%06d", n/2)))
	if err != nil || got.Deleted == 0 {
		t.Fatalf("delete half of a full database: %v, %v", got, err)
	}
	took := until(t, time.Minute, "puts work again", func() bool {
		_, err := client.Put(ctx, "small", "x")
		return err == nil
	})
	t.Logf("wrote again %v after room was made", took)
	until(t, 10*time.Second, "the log says so", func() bool { return log.count("has room again") == 1 })
	if s := m.Stats(); s.NoSpace || s.Bytes > 12<<20 {
		t.Errorf("Stats after recovery = %+v", s)
	}
	if full := log.count("database is full: nobody"); full != 1 {
		t.Errorf("it was said %d times that it is full", full)
	}
	if got, err := client.Get(ctx, fmt.Sprintf("k/%06d", n-1)); err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != value {
		t.Errorf("what was not deleted: %v", err)
	}
}

// The one whose past fills it: live data is small, and nobody deletes.
func TestADatabaseFullOfThePastRecoversByItself(t *testing.T) {
	m := kept(t, cluster.Config{QuotaBytes: 16 << 20})
	value := strings.Repeat("x", 64<<10)
	until(t, time.Minute, "it is full", func() bool {
		_, err := m.Client().Put(t.Context(), "k", value)
		return errors.Is(err, rpctypes.ErrNoSpace)
	})
	until(t, time.Minute, "it writes again", func() bool {
		_, err := m.Client().Put(t.Context(), "k", value)
		return err == nil
	})
}

func TestAFullDatabaseRecoversAfterARestartWithALargerQuota(t *testing.T) {
	dir := t.TempDir()
	small, err := cluster.Start(t.Context(), cluster.Config{Dir: dir, QuotaBytes: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	value := strings.Repeat("x", 64<<10)
	n := 0
	until(t, time.Minute, "it is full", func() bool {
		n++
		_, err := small.Client().Put(t.Context(), fmt.Sprint(n), value)
		return errors.Is(err, rpctypes.ErrNoSpace)
	})
	if err := small.Close(); err != nil {
		t.Fatal(err)
	}
	m := kept(t, cluster.Config{Dir: dir, QuotaBytes: 64 << 20})
	if !m.Stats().NoSpace {
		t.Fatal("the alarm ended with the process")
	}
	until(t, time.Minute, "it writes again", func() bool {
		_, err := m.Client().Put(t.Context(), "k", value)
		return err == nil
	})
}

func TestThePastIsForgottenAfterAnIntervalAndNotBefore(t *testing.T) {
	const every = 500 * time.Millisecond
	m := kept(t, cluster.Config{CompactEvery: every})
	first, err := m.Client().Put(t.Context(), "k", "1")
	if err != nil {
		t.Fatal(err)
	}
	written := time.Now()
	if _, err := m.Client().Put(t.Context(), "k", "2"); err != nil {
		t.Fatal(err)
	}
	old := func() error {
		_, err := m.Client().Get(t.Context(), "k", clientv3.WithRev(first.Header.Revision))
		return err
	}
	until(t, 20*time.Second, "the first value is forgotten", func() bool {
		m.Client().Put(t.Context(), "k", "3") // the cluster goes on
		return errors.Is(old(), rpctypes.ErrCompacted)
	})
	if age := time.Since(written); age < every {
		t.Errorf("forgotten after %v, before the interval of %v", age, every)
	}
	if got, err := m.Client().Get(t.Context(), "k"); err != nil || string(got.Kvs[0].Value) != "3" {
		t.Errorf("the last value: %v, %v", got, err)
	}
}

func TestALargeFileThatIsMostlyFreeIsGivenBack(t *testing.T) {
	m := kept(t, cluster.Config{QuotaBytes: 64 << 20, CompactEvery: 500 * time.Millisecond})
	value := strings.Repeat("x", 64<<10)
	for i := range 250 { // a quarter of the quota
		if _, err := m.Client().Put(t.Context(), fmt.Sprint(i), value); err != nil {
			t.Fatal(err)
		}
	}
	until(t, 10*time.Second, "all is in the file", func() bool { return m.Stats().InUseBytes >= 250*64<<10 })
	before := m.Stats()
	if _, err := m.Client().Delete(t.Context(), "", clientv3.WithFromKey()); err != nil {
		t.Fatal(err)
	}
	until(t, 30*time.Second, "the file is small", func() bool { return m.Stats().Bytes < before.Bytes/4 })
}

func TestGaugesSayWhatStatsSay(t *testing.T) {
	m := kept(t, cluster.Config{QuotaBytes: 32 << 20})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(m)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		got[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue()
	}
	if got["doorward_etcd_quota_bytes"] != 32<<20 || got["doorward_etcd_nospace"] != 0 ||
		got["doorward_etcd_db_bytes"] <= 0 || got["doorward_etcd_db_in_use_bytes"] <= 0 || len(got) != 4 {
		t.Errorf("gauges: %v", got)
	}
}

// freePort is the URL of a loopback port that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func TestThreeMembersWriteOnWithin2SecondsOfLosingTheirLeader(t *testing.T) {
	peers := map[string]string{}
	for _, name := range []string{"a", "b", "c"} {
		peers[name] = freePort(t)
	}
	var members []*cluster.Member
	var mu sync.Mutex
	var starting sync.WaitGroup
	for name := range peers {
		starting.Go(func() {
			m, err := cluster.Start(t.Context(), cluster.Config{Dir: t.TempDir(), Name: name, Peers: peers})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			members = append(members, m)
		})
	}
	starting.Wait()
	t.Cleanup(func() {
		for _, m := range members {
			m.Close() // the last ones have no quorum to leave
		}
	})
	if len(members) != 3 {
		t.FailNow()
	}
	write := func(m *cluster.Member, key string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := m.Client().Put(ctx, key, "v")
		return err
	}
	until(t, 10*time.Second, "every member writes", func() bool {
		return write(members[0], "x") == nil && write(members[1], "x") == nil && write(members[2], "x") == nil
	})
	var leader int
	until(t, 10*time.Second, "one leads", func() bool {
		for i, m := range members {
			if m.IsLeader() {
				leader = i
				return true
			}
		}
		return false
	})
	survivor := members[(leader+1)%3]
	members[leader].Kill()
	took := until(t, 10*time.Second, "a survivor writes", func() bool { return write(survivor, "after") == nil })
	t.Logf("wrote again %v after the leader was killed", took)
	if took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	got, err := members[(leader+2)%3].Client().Get(t.Context(), "after")
	if err != nil || len(got.Kvs) != 1 {
		t.Errorf("read through the other survivor: %v, %v", got, err)
	}
}

func TestPeersInPlainTextAreOnLoopbackOnly(t *testing.T) {
	for _, peer := range []string{"http://192.0.2.1:2380", "http://0.0.0.0:2380", "https://127.0.0.1:2380", "http://localhost", "peer"} {
		_, err := cluster.Start(t.Context(), cluster.Config{Dir: t.TempDir(), Name: "a", Peers: map[string]string{"a": peer}})
		if err == nil {
			t.Fatalf("%s was taken", peer)
		}
	}
	if _, err := cluster.Start(t.Context(), cluster.Config{Dir: t.TempDir(), Name: "a", Peers: map[string]string{"b": "http://127.0.0.1:2380"}}); err == nil {
		t.Fatal("a member that is not among its peers was started")
	}
}
