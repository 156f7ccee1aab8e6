package main

import (
	"encoding/json"
	"testing"

	doorward "github.com/doorward/doorward/sdk/guest/go"
)

// Built for the machine it is on, as go test does, the host's functions are answered
// by doorward.Fake: a hash is the password itself, and a secret its code.
func TestVerify(t *testing.T) {
	doorward.Fake.Config = map[string]string{
		"alice": "wonderland", "role:alice": "admin",
		"bob": "builder", "totp:bob": "123456",
	}
	for _, c := range []struct{ name, request, want string }{
		{"right", `{"credential":{"username":"alice","password":"wonderland"}}`, `{"decision":"accept","subject":"alice","claims":{"role":"admin"},"amr":["pwd"]}`},
		{"wrong", `{"credential":{"username":"alice","password":"looking-glass"}}`, `{"decision":"reject","code":"bad_credentials"}`},
		{"nobody", `{"credential":{"username":"eve","password":""}}`, `{"decision":"reject","code":"bad_credentials"}`},
		{"first step", `{"credential":{"username":"bob","password":"builder"}}`, `{"decision":"challenge","type":"otp","public":{"digits":6},"private":{"user":"bob"},"ttl":300,"max_attempts":5}`},
		{"second step", `{"credential":{"code":"123456"},"state":{"user":"bob"}}`, `{"decision":"accept","subject":"bob","amr":["pwd","otp"]}`},
		{"wrong code", `{"credential":{"code":"000000"},"state":{"user":"bob"}}`, `{"decision":"reject","code":"bad_credentials"}`},
		{"a second step for one who has none", `{"credential":{"code":""},"state":{"user":"alice"}}`, `{"decision":"reject","code":"bad_credentials"}`},
	} {
		got, err := doorward.Verify(json.RawMessage(c.request))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %s, want %s; %v", c.name, got, c.want, err)
		}
	}
}
