package main

import (
	"encoding/json"
	"testing"

	"github.com/doorward/doorward/sdk/abi"
	doorward "github.com/doorward/doorward/sdk/guest/go"
)

func TestVerify(t *testing.T) {
	doorward.Fake.Config = map[string]string{"users": `[
		{"username":"alice","password_hash":"pw-a","claims":{"role":"admin"}},
		{"username":"bob","password_hash":"pw-b","subject":"u-2","totp_secret":"secret-of-bob"},
		{"username":"carol","password_hash":"pw-c","disabled":true}]`}
	ask := func(state string, credential doorward.Credential) doorward.Verdict {
		return verify(&doorward.Request{Credential: credential, State: json.RawMessage(state)})
	}
	login := func(user, password string) doorward.Verdict {
		return ask("", doorward.Credential{"username": user, "password": password})
	}
	if v := login("alice", "pw-a"); v.Decision != abi.Accept || v.Subject != "alice" || string(v.Claims) != `{"role":"admin"}` {
		t.Errorf("alice: %+v", v)
	}
	for _, c := range [][2]string{{"alice", "pw-b"}, {"nobody", "pw-a"}, {"", ""}, {"alice", ""}, {"carol", "wrong"}} {
		if v := login(c[0], c[1]); v.Decision != abi.Reject || v.Code != abi.BadCredentials {
			t.Errorf("%v: %+v", c, v)
		}
	}
	if v := login("carol", "pw-c"); v.Decision != abi.Reject || v.Code != abi.Denied {
		t.Errorf("a disabled user: %+v", v)
	}
	asked := login("bob", "pw-b")
	if asked.Decision != abi.Challenge || asked.Type != "otp" {
		t.Fatalf("bob: %+v", asked)
	}
	if v := ask(string(asked.Private), doorward.Credential{"code": "secret-of-bob"}); v.Decision != abi.Accept || v.Subject != "u-2" || len(v.AMR) != 2 {
		t.Errorf("bob's code: %+v", v)
	}
	if v := ask(string(asked.Private), doorward.Credential{"code": "000000"}); v.Decision != abi.Reject {
		t.Errorf("a wrong code: %+v", v)
	}
	if v := ask(`{"username":"alice"}`, doorward.Credential{"code": ""}); v.Decision != abi.Reject {
		t.Errorf("a code for who has no secret: %+v", v)
	}
}
