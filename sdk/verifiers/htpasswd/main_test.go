package main

import (
	"testing"

	"github.com/doorward/doorward/sdk/abi"
	doorward "github.com/doorward/doorward/sdk/guest/go"
)

func TestVerify(t *testing.T) {
	doorward.Fake.Config = map[string]string{"htpasswd": "# staff\n\nalice:$2y$05$right\r\nbob:plain\n alice:$2y$05$second\n#carol:$2y$05$x\ndave:{SHA}abc:extra\n"}
	doorward.Fake.Password = func(hash, password string) bool { return hash == password }
	for name, c := range map[string]struct {
		user, password string
		want           abi.Decision
	}{
		"the right password":              {"alice", "$2y$05$right", abi.Accept},
		"a wrong one":                     {"alice", "no", abi.Reject},
		"only the first line of a user":   {"alice", "$2y$05$second", abi.Reject},
		"plain text never matches":        {"bob", "plain", abi.Reject},
		"a comment is nobody":             {"#carol", "$2y$05$x", abi.Reject},
		"what comes after a second colon": {"dave", "{SHA}abc", abi.Accept},
		"a user who is not there":         {"erin", "", abi.Reject},
		"nobody with nothing":             {"", "", abi.Reject},
	} {
		t.Run(name, func(t *testing.T) {
			r := &doorward.Request{Credential: doorward.Credential{"username": c.user, "password": c.password}}
			if got := verify(r); got.Decision != c.want {
				t.Fatalf("verify = %+v, want %s", got, c.want)
			}
		})
	}
	t.Run("no file is nobody", func(t *testing.T) {
		doorward.Fake.Config = nil
		if got := verify(&doorward.Request{Credential: doorward.Credential{"username": "a", "password": "b"}}); got.Decision != abi.Reject {
			t.Fatalf("verify = %+v", got)
		}
	})
}
