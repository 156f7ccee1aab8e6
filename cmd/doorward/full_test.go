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
// room again.
func TestAFullNodeSignsOutAndRecovers(t *testing.T) {
	s := newSite(t, "DOORWARD_ETCD_QUOTA_BYTES=33554432")
	base := s.public + "/t/demo/v1"
	login := func() answer {
		got, err := s.send("POST "+base+"/login", map[string]string{"username": "demo", "password": s.password, "transport": "token"})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	session := func(method, token string) int {
		got, err := s.send(method+" "+base+"/session", nil, "Authorization", "Bearer "+token)
		if err != nil {
			t.Fatal(err)
		}
		return got.status
	}
	stays, ends := login(), login()
	if stays.status != http.StatusCreated || ends.status != http.StatusCreated {
		t.Fatalf("sign in: %v, %v", stays, ends)
	}

	etcd, err := cluster.Dial(t.Context(), cluster.DialConfig{Endpoints: []string{"unix://" + filepath.Join(s.dir, "data", "run", "client")}})
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
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

	if got := login(); got.status != http.StatusServiceUnavailable || got.field("code") != "unavailable" {
		t.Errorf("sign in with a full database: %d %s", got.status, got.body)
	}
	if status := session("GET", stays.field("token")); status != http.StatusOK {
		t.Errorf("validate with a full database: %d", status)
	}
	if status := session("DELETE", ends.field("token")); status != http.StatusNoContent {
		t.Errorf("sign out with a full database: %d", status)
	}
	if status := session("GET", ends.field("token")); status != http.StatusUnauthorized {
		t.Errorf("validate after that: %d", status)
	}

	if _, err := etcd.Delete(t.Context(), "fill/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	room := time.Now()
	for login().status != http.StatusCreated {
		if time.Since(room) > time.Minute {
			t.Fatal("a minute after room was made nobody can sign in")
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("signed in %v after room was made", time.Since(room))
	if status := session("GET", stays.field("token")); status != http.StatusOK {
		t.Errorf("validate after recovery: %d", status)
	}
}
