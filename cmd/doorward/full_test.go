package main

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/doorward/doorward/sessions/cluster"
)

// A full database costs sign-ins and nothing else, and that only until there is
// room again. Sessions end in every way there is: one tenant here for each.
func TestAFullNodeSignsOutAndRecovers(t *testing.T) {
	s := newSite(t, "DOORWARD_ETCD_QUOTA_BYTES=33554432")
	s.honest("home", nil)
	var digest string
	ways := []struct {
		tenant string
		end    func(own, other answer) // ends other; own is the same subject's
	}{
		{"logout", func(_, other answer) { s.ends("logout", other.field("token")) }},
		{"one", func(_, other answer) {
			s.operate(http.StatusNoContent, "DELETE /tenants/one/sessions/"+other.field("session.id"), nil)
		}},
		{"own", func(own, other answer) {
			s.must(http.StatusNoContent, "DELETE "+s.public+"/t/own/v1/sessions/"+other.field("session.id"), nil, "Authorization", "Bearer "+own.field("token"))
		}},
		{"others", func(own, _ answer) {
			s.must(http.StatusOK, "DELETE "+s.public+"/t/others/v1/sessions?except=current", nil, "Authorization", "Bearer "+own.field("token"))
		}},
		{"subject", func(answer, answer) {
			s.operate(http.StatusOK, "POST /tenants/subject/sessions/revoke", map[string]any{"subject": "alice"})
		}},
		{"verifier", func(answer, answer) {
			s.operate(http.StatusOK, "POST /tenants/verifier/sessions/revoke", map[string]any{"verifier": digest})
		}},
		{"all", func(answer, answer) {
			s.operate(http.StatusOK, "POST /tenants/all/sessions/revoke", map[string]any{"all": true})
		}},
		// The state itself cannot be written, and that is what the answer says.
		{"suspend", func(answer, answer) {
			s.operate(http.StatusServiceUnavailable, "POST /tenants/suspend/suspend", nil)
		}},
		{"expiry", func(_, other answer) {
			end, err := time.Parse(time.RFC3339, other.field("session.expires_at"))
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Until(end))
		}},
		{"everybody", func(answer, answer) {
			s.operate(http.StatusOK, "POST /sessions/revoke", map[string]any{"all": true})
		}},
	}
	login := func(tenant string) answer {
		got, err := s.login(tenant, "alice", "x")
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	own, other := map[string]answer{}, map[string]answer{}
	for _, way := range ways {
		session := map[string]any{"max_per_subject": 10}
		if way.tenant == "expiry" {
			session["idle"], session["absolute"] = "15s", "15s"
		}
		s.honest(way.tenant, map[string]any{"session": session})
		own[way.tenant], other[way.tenant] = login(way.tenant), login(way.tenant)
		digest = other[way.tenant].field("session.verifier.digest")
	}
	stays := login("home").field("token")

	etcd, err := cluster.Dial(t.Context(), cluster.DialConfig{Endpoints: []string{"unix://" + filepath.Join(s.dir, "data", "run", "client")}})
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	// What is on a lease that ends while the database is full must go.
	lease, err := etcd.Grant(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Put(t.Context(), "leased", "", clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	fill := strings.Repeat("x", 3000)
	for i := 0; ; {
		var puts []clientv3.Op
		for range 16 {
			i++
			puts = append(puts, clientv3.OpPut(fmt.Sprintf("fill/%06d", i), fill))
		}
		if _, err := etcd.Txn(t.Context()).Then(puts...).Commit(); errors.Is(err, rpctypes.ErrNoSpace) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}

	if got := login("home"); got.status != http.StatusServiceUnavailable || got.field("code") != "unavailable" || got.header.Get("Retry-After") == "" {
		t.Errorf("sign in with a full database: %d %v %s", got.status, got.header, got.body)
	}
	is := func(status int, tenant, token, when string) {
		t.Helper()
		got, err := s.session("GET", tenant, token)
		if err != nil || got.status != status {
			t.Errorf("%s, validate %s: %d %s %v, want %d", tenant, when, got.status, got.body, err, status)
		}
	}
	for _, way := range ways {
		token := other[way.tenant].field("token")
		is(http.StatusOK, way.tenant, token, "with a full database")
		if way.tenant == "everybody" {
			is(http.StatusOK, "home", stays, "with a full database")
		}
		way.end(own[way.tenant], other[way.tenant])
		is(http.StatusUnauthorized, way.tenant, token, "after its end with a full database")
	}
	for began := time.Now(); ; {
		got, err := etcd.Get(t.Context(), "leased", clientv3.WithCountOnly())
		if err != nil {
			t.Fatal(err)
		}
		if got.Count == 0 {
			break
		}
		if time.Since(began) > 30*time.Second {
			t.Fatal("a key on a lease that has ended stays while the database is full")
		}
		time.Sleep(100 * time.Millisecond)
	}
	if got := login("home"); got.status != http.StatusServiceUnavailable {
		t.Errorf("sign in while the database is still full: %d %s", got.status, got.body)
	}

	if _, err := etcd.Delete(t.Context(), "fill/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	room := time.Now()
	var in answer
	for in = login("home"); in.status != http.StatusCreated; in = login("home") {
		if time.Since(room) > time.Minute {
			t.Fatal("a minute after room was made nobody can sign in")
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("signed in %v after room was made", time.Since(room))
	is(http.StatusOK, "home", in.field("token"), "after recovery")
	is(http.StatusUnauthorized, "home", stays, "after recovery")
	for _, way := range ways {
		is(http.StatusUnauthorized, way.tenant, other[way.tenant].field("token"), "after recovery")
	}
}
