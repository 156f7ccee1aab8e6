package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/service/web"
	"github.com/doorward/doorward/sessions/cluster"
)

// Five minutes with cluster status tell which node is sick and why.
func TestStatusNamesTheSickNodeAndWhy(t *testing.T) {
	healthy := func(id uint64) cluster.Health {
		return cluster.Health{ID: id, Leader: 1, Committed: 5000, Applied: 5000, Term: 3, Sync: 4 * time.Millisecond, Link: 2 * time.Millisecond, Stats: cluster.Stats{InUseBytes: 10, QuotaBytes: 100}}
	}
	for _, c := range []struct {
		name   string
		change func(*cluster.Health)
		want   string // "" : nothing is wrong
	}{
		{"well", func(*cluster.Health) {}, ""},
		{"slow disk", func(h *cluster.Health) { h.Sync = 256 * time.Millisecond }, "its disk is slow: 1 of 100 syncs of its log took 256ms"},
		{"slow network", func(h *cluster.Health) { h.Link = 400 * time.Millisecond }, "its network is slow"},
		{"behind", func(h *cluster.Health) { h.Applied = 3000 }, "is 2000 entries behind"},
		{"a little behind", func(h *cluster.Health) { h.Applied = 4990 }, ""},
		{"cut off", func(h *cluster.Health) { h.Leader = 0 }, "knows no leader"},
		{"deposed and unaware", func(h *cluster.Health) { h.Leader, h.Term = h.ID, h.Term-1 }, "follows another leader"},
		{"no vote", func(h *cluster.Health) { h.Learner = true }, "has no vote until it is in step"},
		{"nearly full", func(h *cluster.Health) { h.Stats.InUseBytes = 85 }, "its database is 85 % full"},
		{"full", func(h *cluster.Health) { h.Full = true }, "refuses to write"},
		{"corrupt", func(h *cluster.Health) { h.Corrupt = true }, "replace it"},
	} {
		status := web.ClusterStatus{Nodes: []web.NodeStatus{{Name: "a"}, {Name: "b", Role: "follower"}, {Name: "c", Role: "follower"}}}
		health := []healthAnswer{{Member: healthy(1)}, {Member: healthy(2)}, {Member: healthy(3)}}
		c.change(&health[2].Member)
		judge(&status, health)
		if status.Leader != "a" || status.Nodes[0].Role != "leader" {
			t.Errorf("%s: %q leads, as %s", c.name, status.Leader, status.Nodes[0].Role)
		}
		if n := len(status.Nodes[0].Problems) + len(status.Nodes[1].Problems); n > 0 {
			t.Errorf("%s: the others are sick: %+v", c.name, status.Nodes[:2])
		}
		if got := fmt.Sprint(status.Nodes[2].Problems); c.want == "" && got != "[]" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %q", c.name, got, c.want)
		}
	}
}

func TestAJoinTokenIsExactAndShowsNothing(t *testing.T) {
	var made joinToken
	for i := range made.fingerprint {
		made.fingerprint[i] = byte(i)
	}
	copy(made.secret[:], "twenty bytes of chaos")
	text := made.reveal()
	if again, err := parseJoinToken(text); err != nil || again != made {
		t.Fatalf("%v, %v", again, err)
	}
	for _, bad := range []string{"", text[4:], text + "A", text[:len(text)-2], "dwk_" + text[4:], strings.ToUpper(text), text + "=", " " + text} {
		if _, err := parseJoinToken(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if shown := fmt.Sprintf("%v %+v %#v %s", made, made, made, made); strings.Contains(shown, "twenty") || !strings.Contains(shown, "redacted") {
		t.Errorf("printed, it is %s", shown)
	}
}

func TestAClusterThatMakesNoSenseIsAUsageErrorAndAnUnsafeOneIsNotServed(t *testing.T) {
	const at = "10.0.0.1:2380"
	there := filepath.Join(t.TempDir(), "ring")
	for _, c := range []struct {
		env  map[string]string // names without DOORWARD_, beside serving
		code int
		want string
	}{
		{map[string]string{}, 0, ""},
		{map[string]string{"CLUSTER_LISTEN": at}, 0, ""},
		{map[string]string{"CLUSTER_LISTEN": "0.0.0.0:2380", "CLUSTER_ADVERTISE": "https://a.test:2380", "CLUSTER_CLIENTS": "[::]:2379", "CLUSTER_CONTROL": ":2381"}, 0, ""},
		{map[string]string{"CLUSTER_LISTEN": at, "CLUSTER_INITIAL": "node=https://" + at}, 0, ""},
		{map[string]string{"CLUSTER_CONTROL": "10.0.0.4:2381"}, 0, ""}, // of a client

		{map[string]string{"CLUSTER_LISTEN": at, "CLUSTER_NAME": "a", "CLUSTER_INITIAL": "a=https://10.0.0.1:2380,b=https://10.0.0.2:2380", "KEYRING_FILE": there}, 78, "cluster authority"},

		{map[string]string{"CLUSTER_LISTEN": "10.0.0.1"}, 2, "host:port"},
		{map[string]string{"CLUSTER_LISTEN": "10.0.0.1:0"}, 2, "a port that stays the same"},
		{map[string]string{"CLUSTER_LISTEN": at, "CLUSTER_ADVERTISE": "http://10.0.0.1:2380"}, 2, "https://host:port"},
		{map[string]string{"CLUSTER_LISTEN": ":2380", "CLUSTER_ADVERTISE": "https://a.test:2380"}, 2, "0.0.0.0:2380"},
		{map[string]string{"CLUSTER_LISTEN": "a.test:2380"}, 2, "an address of this machine"},
		{map[string]string{"CLUSTER_LISTEN": "0.0.0.0:2380"}, 2, "no address of this machine"},
		{map[string]string{"CLUSTER_LISTEN": at, "CLUSTER_NAME": "a/b"}, 2, "cluster.name"},
		{map[string]string{"CLUSTER_LISTEN": at, "CLUSTER_INITIAL": "a:https://10.0.0.2:2380"}, 2, "name=https://host:port"},
		{map[string]string{"CLUSTER_LISTEN": at, "CLUSTER_INITIAL": "a=https://10.0.0.2:2380"}, 2, "they are the same"},
		{map[string]string{"CLUSTER_LISTEN": at, "CLUSTER_NAME": "a", "CLUSTER_INITIAL": "a=https://10.0.0.2:2380"}, 2, "they are the same"},
		{map[string]string{"CLUSTER_CLIENTS": at}, 2, "need cluster.listen"},
		{map[string]string{"CLUSTER_INITIAL": "node=https://" + at}, 2, "need cluster.listen"},
		{map[string]string{"CLUSTER_LISTEN": at, "ETCD_ENDPOINTS": "https://10.0.0.1:2379"}, 2, "leave one of them out"},
	} {
		env := maps.Clone(serving)
		for name, value := range c.env {
			env["DOORWARD_"+name] = value
		}
		var cfg config
		err := cfg.fromEnv(func(name string) (string, bool) { value, ok := env[name]; return value, ok })
		if err == nil {
			cfg.complete()
			err = cfg.check()
		}
		if exitCode(err) != c.code || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: exit %d, %v; want %d, %q", c.env, exitCode(err), err, c.code, c.want)
		}
	}
	var cfg config
	cfg.Cluster.Listen = at
	cfg.complete()
	if got := []string{cfg.Cluster.Name, cfg.Cluster.Advertise, cfg.Cluster.Control}; !slices.Equal(got, []string{"node", "https://" + at, "10.0.0.1:2381"}) {
		t.Errorf("with cluster.listen alone: %q", got)
	}
}
