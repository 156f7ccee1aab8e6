package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/sessions/cluster"
	sessionsetcd "github.com/doorward/doorward/sessions/etcd"
	"github.com/doorward/doorward/tenants/seal"
)

// theirCluster is a real etcd of three members, of etcd's own program, as somebody
// else would run it: with its own settings and nothing of ours.
type theirCluster struct {
	t         *testing.T
	members   []*exec.Cmd
	args      [][]string
	dir       string
	endpoints []string
}

// newTheirCluster builds etcd from its module, which this one needs anyway, and
// runs three of it until the test ends.
func newTheirCluster(t *testing.T) *theirCluster {
	t.Helper()
	program, err := filepath.Abs(filepath.Join("..", "..", "bin", "etcd"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "go.etcd.io/etcd/server/v3").CombinedOutput(); err != nil {
		t.Fatalf("build etcd: %v\n%s", err, out)
	}
	c := &theirCluster{t: t, dir: t.TempDir()}
	names := []string{"one", "two", "three"}
	var peers, initial []string
	for _, name := range names {
		peers = append(peers, "http://"+freeAddress(t))
		c.endpoints = append(c.endpoints, "http://"+freeAddress(t))
		initial = append(initial, name+"="+peers[len(peers)-1])
	}
	for i, name := range names {
		c.args = append(c.args, []string{
			program, "--name", name, "--data-dir", filepath.Join(c.dir, name), "--initial-cluster", strings.Join(initial, ","),
			"--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i],
			"--listen-client-urls", c.endpoints[i], "--advertise-client-urls", c.endpoints[i], "--log-level", "error",
		})
		c.members = append(c.members, nil)
	}
	c.start(0, 1, 2)
	t.Cleanup(func() { c.kill(0, 1, 2) })
	return c
}

func (c *theirCluster) start(which ...int) {
	c.t.Helper()
	for _, i := range which {
		c.members[i] = exec.Command(c.args[i][0], c.args[i][1:]...)
		c.members[i].Stderr = os.Stderr
		if err := c.members[i].Start(); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *theirCluster) kill(which ...int) {
	for _, i := range which {
		if c.members[i] != nil {
			c.members[i].Process.Kill()
		}
	}
	for _, i := range which {
		if c.members[i] != nil {
			c.members[i].Wait()
			c.members[i] = nil
		}
	}
}

// client is one of our own making.
func (c *theirCluster) client() *clientv3.Client {
	c.t.Helper()
	client, err := cluster.Dial(c.t.Context(), cluster.DialConfig{Endpoints: c.endpoints, Timeout: 20 * time.Second})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { client.Close() })
	return client
}

// leader is which of the members leads.
func (c *theirCluster) leader(client *clientv3.Client) int {
	c.t.Helper()
	for began := time.Now(); time.Since(began) < 20*time.Second; {
		for i, endpoint := range c.endpoints {
			ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
			status, err := client.Status(ctx, endpoint)
			cancel()
			if err == nil && status.Leader == status.Header.MemberId {
				return i
			}
		}
	}
	c.t.Fatal("none of their members leads")
	return 0
}

func TestSoakSessionsInAnExternalEtcdOfThreeSitTheExam(t *testing.T) {
	if !soak() {
		t.Skip("takes minutes; make soak")
	}
	examine(t, newTheirCluster(t).client(), sessionsetcd.Config{TxnOps: 128})
}

// What is promised of a cluster is promised of nodes that have none of their own.
func TestFaultAnExternalEtcdOfThree(t *testing.T) {
	forFaults(t)
	theirs := newTheirCluster(t)
	client := theirs.client()
	ring := filepath.Join(t.TempDir(), "keyring")
	if _, err := seal.LoadOrCreateRing(ring); err != nil {
		t.Fatal(err)
	}
	c := &trio{T: t, network: newNetwork(t), names: []string{"a", "b", "c"}}
	for range c.names {
		s := newNode(t, "", "DOORWARD_KEYRING_FILE="+ring, "DOORWARD_ETCD_ENDPOINTS="+strings.Join(theirs.endpoints, ","))
		c.nodes = append(c.nodes, s)
	}
	c.starts(0, 1, 2)
	c.furnish()
	leader := theirs.leader(client)
	c.under("their leader is killed", func(*trio) func() {
		theirs.kill(leader)
		holds(3 * time.Second)
		return func() { theirs.start(leader) }
	})
	two := []int{(leader + 1) % 3, (leader + 2) % 3}
	c.under("two of theirs are killed", func(*trio) func() {
		theirs.kill(two...)
		holds(3 * time.Second)
		return func() { theirs.start(two...) }
	})
	c.under("a node of ours is killed", func(c *trio) func() {
		c.kills(1)
		holds(2 * time.Second)
		return func() { c.starts(1) }
	})
}
