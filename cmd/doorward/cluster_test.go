package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/service/web"
)

// freeAddress is a loopback address that nobody listens at now.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// newNode prepares a production node of that name, whose own files are all in its
// directory; what is in env beside that wins.
func newNode(t testing.TB, name string, env ...string) *site {
	t.Helper()
	listen := freeAddress(t)
	s := prepareSite(t)
	s.args = []string{"serve"}
	s.env = append(s.env,
		"DOORWARD_DATA_DIR=data", "DOORWARD_KEYRING_FILE=keyring",
		"DOORWARD_LISTEN="+listen, "DOORWARD_PUBLIC_URL=http://"+listen, "DOORWARD_ADMIN_LISTEN="+freeAddress(t))
	if name != "" {
		s.env = append(s.env, "DOORWARD_CLUSTER_NAME="+name)
	}
	s.env = append(s.env, env...)
	return s
}

// listening are the settings of a member that others reach.
func listening(t testing.TB) []string {
	return []string{"DOORWARD_CLUSTER_LISTEN=" + freeAddress(t), "DOORWARD_CLUSTER_CONTROL=" + freeAddress(t), "DOORWARD_CLUSTER_CLIENTS=" + freeAddress(t)}
}

// command runs doorward beside the node, with its configuration, its key and
// its address.
func (s *site) command(args ...string) (string, error) {
	s.Helper()
	self, err := os.Executable()
	if err != nil {
		s.Fatal(err)
	}
	c := exec.Command(self, args...)
	c.Args[0], c.Dir, c.Env = "doorward", s.dir, s.env
	if s.server != nil {
		c.Env = append(c.Env, "DOORWARD_ADMIN_URL="+s.admin, "DOORWARD_KEY_FILE="+filepath.Join(s.dir, "data", "operator.key"))
	}
	out, err := c.CombinedOutput()
	return string(out), err
}

// run is command for what has to succeed.
func (s *site) run(args ...string) string {
	s.Helper()
	out, err := s.command(args...)
	if err != nil {
		s.Fatalf("doorward %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// invites makes a token of that role.
func (s *site) invites(role string) web.Invitation {
	s.Helper()
	var made web.Invitation
	if err := json.Unmarshal([]byte(s.run("cluster", "token", "--role", role, "-o", "json")), &made); err != nil {
		s.Fatal(err)
	}
	return made
}

// status is what the node says of the cluster.
func (s *site) status() web.ClusterStatus {
	s.Helper()
	var status web.ClusterStatus
	if err := json.Unmarshal(s.operate(http.StatusOK, "GET /cluster", nil).body, &status); err != nil {
		s.Fatal(err)
	}
	return status
}

// until waits for what the node says of the cluster.
func (s *site) until(within time.Duration, what string, so func(web.ClusterStatus) bool) time.Duration {
	s.Helper()
	for began := time.Now(); ; {
		status := s.status()
		if so(status) {
			return time.Since(began)
		}
		if time.Since(began) > within {
			s.Fatalf("not within %v: %s: %+v", within, what, status)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// voting reports whether that many members have a vote, lead or follow, and are well.
func voting(n int) func(web.ClusterStatus) bool {
	return func(s web.ClusterStatus) bool {
		have := 0
		for _, one := range s.Nodes {
			if one.Role == "leader" || one.Role == "follower" {
				have++
			}
			if one.Role == "learner" || one.Role != roleClient && !one.Answers {
				return false
			}
		}
		return have == n && s.Leader != "" && s.Quorum
	}
}

// A node that began alone becomes a cluster, which loses and gets members, while
// whoever is signed in stays so.
func TestAClusterGrowsAndShrinksAroundItsSessions(t *testing.T) {
	forFaults(t)
	a := newNode(t, "a")
	a.start()
	a.honest("acme", nil)
	a.enters("acme")
	token := a.opens("acme", 1)[0]
	if out, err := a.command("cluster", "token"); err == nil || !strings.Contains(out, "Set cluster.listen") {
		t.Fatalf("a token of a node that cannot be reached: %v %s", err, out)
	}

	// cluster.listen is set later, which takes one restart.
	a.env = append(a.env, listening(t)...)
	a.restart()
	a.meets(10*time.Second, "acme", token)

	b, c := newNode(t, "b", listening(t)...), newNode(t, "c", listening(t)...)
	invited := a.invites(roleMember)
	b.run("cluster", "join", invited.URL, "--token", invited.Token)
	if out, err := c.command("cluster", "join", invited.URL, "--token", invited.Token); err == nil || !strings.Contains(out, "used up") {
		t.Fatalf("a token was good twice: %v %s", err, out)
	}
	b.start()
	t.Logf("the second has its vote %v after it was ready", a.until(20*time.Second, "two vote", voting(2)))
	b.meets(10*time.Second, "acme", token)
	inB := b.opens("acme", 1)[0]
	a.meets(5*time.Second, "acme", inB)

	// A token of another cluster is refused before anything is said to it.
	wrong := newNode(t, "wrong", listening(t)...)
	other, err := parseJoinToken(invited.Token)
	if err != nil {
		t.Fatal(err)
	}
	other.fingerprint[0]++
	if out, err := wrong.command("cluster", "join", invited.URL, "--token", other.reveal()); err == nil || !strings.Contains(out, "not of the cluster that made the token") {
		t.Fatalf("another cluster's token: %v %s", err, out)
	}

	invited = b.invites(roleMember)
	began := time.Now()
	c.run("cluster", "join", invited.URL, "--token", invited.Token)
	c.start()
	a.until(20*time.Second, "three vote", voting(3))
	t.Logf("the third voted %v after it began to join", time.Since(began))
	c.meets(10*time.Second, "acme", token, inB)

	// A fourth has no member of its own.
	d := newNode(t, "d")
	invited = c.invites(roleClient)
	d.run("cluster", "join", invited.URL, "--token", invited.Token)
	if _, err := os.Stat(filepath.Join(d.dir, "data", "cluster", "authority.pem")); err == nil {
		t.Error("a client has the authority's key")
	}
	d.start()
	d.meets(10*time.Second, "acme", token, inB)
	inD := d.opens("acme", 1)[0]
	b.meets(5*time.Second, "acme", inD)

	// The third dies with its disk.
	c.crash()
	c.server = nil
	a.until(20*time.Second, "the dead one is named", func(s web.ClusterStatus) bool {
		return strings.Contains(fmt.Sprint(s.Nodes), "does not answer")
	})
	if out, err := a.command("cluster", "status"); err != nil || !strings.Contains(out, "c: does not answer") {
		t.Errorf("status: %v\n%s", err, out)
	}
	if err := os.RemoveAll(filepath.Join(c.dir, "data", "etcd")); err != nil {
		t.Fatal(err)
	}
	if out, err := c.command("serve"); err == nil || !strings.Contains(out, "cluster replace URL") {
		t.Fatalf("a wiped member started: %v %s", err, out)
	}
	invited = a.invites(roleMember)
	if out, err := d.command("cluster", "replace", invited.URL, "--token", invited.Token); err == nil {
		t.Fatalf("a running node replaced itself: %s", out)
	}
	began = time.Now()
	c.run("cluster", "replace", invited.URL, "--token", invited.Token)
	c.start()
	a.until(20*time.Second, "three vote again", voting(3))
	t.Logf("the wiped one voted again %v after it began", time.Since(began))
	c.meets(10*time.Second, "acme", token, inB, inD)

	// A member that answers is not replaced, and none of a taken name is added.
	imposter := newNode(t, "b", listening(t)...)
	invited = a.invites(roleMember)
	if out, err := imposter.command("cluster", "replace", invited.URL, "--token", invited.Token); err == nil || !strings.Contains(out, "is to be replaced answers") {
		t.Fatalf("a member that answers was replaced: %v %s", err, out)
	}
	invited = a.invites(roleMember)
	if out, err := imposter.command("cluster", "join", invited.URL, "--token", invited.Token); err == nil || !strings.Contains(out, "cluster replace") {
		t.Fatalf("a second b: %v %s", err, out)
	}

	c.until(20*time.Second, "disks and links are timed", func(s web.ClusterStatus) bool {
		timed := 0
		for _, one := range s.Nodes {
			if one.SyncMS > 0 && one.LinkMS > 0 && one.DBBytes > 0 && one.Index > 0 {
				timed++
			}
		}
		return timed == 3
	})

	// The first one leaves, and its process ends.
	a.run("cluster", "leave")
	select {
	case <-a.done:
	case <-time.After(20 * time.Second):
		t.Fatal("a member that has left runs on")
	}
	b.until(20*time.Second, "two vote", voting(2))
	b.meets(10*time.Second, "acme", token, inB, inD)
	d.meets(10*time.Second, "acme", token, b.opens("acme", 1)[0])
	if log, _ := os.ReadFile(a.log); !strings.Contains(string(log), "was removed from its cluster") {
		t.Errorf("it does not say why it ended:\n%s", log)
	}
}
