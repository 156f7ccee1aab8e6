package main

import (
	"encoding/json"
	"testing"

	"github.com/doorward/doorward/sdk/abi"
	doorward "github.com/doorward/doorward/sdk/guest/go"
)

// rfc is the secret of RFC 6238's appendix B, "12345678901234567890".
const rfc = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"

func TestTOTP(t *testing.T) {
	// RFC 6238 appendix B, SHA-1, the last six of its eight digits.
	for now, code := range map[int64]string{59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130"} {
		if !totpOK(rfc, code, now) {
			t.Errorf("%s is refused at %d", code, now)
		}
		if !totpOK(rfc, code, now+30) || !totpOK("gezd gnbv gy3t qojq gezd gnbv gy3t qojq", code, now-30) {
			t.Errorf("%s is refused one step off %d", code, now)
		}
		if totpOK(rfc, code, now+90) {
			t.Errorf("%s is taken three steps after %d", code, now)
		}
	}
	for _, code := range []string{"", "28708", "2870820", "abcdef"} {
		if totpOK(rfc, code, 59) {
			t.Errorf("%q is taken", code)
		}
	}
	if totpOK("", "000000", 59) || totpOK("not base32!", "000000", 59) {
		t.Error("no secret is taken for one")
	}
}

func TestVerify(t *testing.T) {
	doorward.Fake.Config = map[string]string{"users": `[
		{"username":"alice","password_hash":"pw-a","claims":{"role":"admin"}},
		{"username":"bob","password_hash":"pw-b","subject":"u-2","totp_secret":"` + rfc + `"},
		{"username":"carol","password_hash":"pw-c","disabled":true}]`}
	ask := func(state string, now int64, credential doorward.Credential) doorward.Verdict {
		return verify(&doorward.Request{Credential: credential, State: json.RawMessage(state), NowMS: now * 1000})
	}
	login := func(user, password string) doorward.Verdict {
		return ask("", 59, doorward.Credential{"username": user, "password": password})
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
	if v := ask(string(asked.Private), 59, doorward.Credential{"code": "287082"}); v.Decision != abi.Accept || v.Subject != "u-2" || len(v.AMR) != 2 {
		t.Errorf("bob's code: %+v", v)
	}
	if v := ask(string(asked.Private), 59, doorward.Credential{"code": "000000"}); v.Decision != abi.Reject {
		t.Errorf("a wrong code: %+v", v)
	}
	if v := ask(`{"username":"alice"}`, 59, doorward.Credential{"code": ""}); v.Decision != abi.Reject {
		t.Errorf("a code for who has no secret: %+v", v)
	}
}
