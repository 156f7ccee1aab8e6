package main

import (
	"encoding/json"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/sdk/abi"
)

// The verifier in other languages than Go, which the ready-made ones are in, goes its
// whole way: uploaded with vectors, activated because they pass, and asked by logins
// of one step and of two.
func TestVerifiersInOtherLanguagesGoTheirWholeWay(t *testing.T) {
	if raceEnabled {
		t.Skip("a compile takes half a minute; run it without -race, as make test does")
	}
	s := newSite(t)
	config := map[string]any{}
	for key, value := range guesttest.Users(func(password string) string {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		return string(hash)
	}, totpSecret) {
		if strings.HasSuffix(key, "alice") || strings.HasSuffix(key, "bob") {
			config[key] = value
		}
	}
	manifest, err := json.Marshal(abi.Manifest{ABI: abi.Version, Name: "users", Version: "1.0.0", Vectors: []abi.Vector{
		{Name: "nobody", Request: abi.Request{Method: "password", Credential: abi.Credential{"username": "nobody", "password": "x"}}, Expect: abi.Verdict{Decision: abi.Reject, Code: abi.BadCredentials}},
		{Name: "alice", Request: abi.Request{Method: "password", Credential: abi.Credential{"username": "alice", "password": "wonderland"}}, Expect: abi.Verdict{Decision: abi.Accept, Subject: "alice"}},
	}, Grants: abi.Grants{Config: true, TOTP: true, Password: []string{"bcrypt"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, language := range []string{"c", "rust", "assemblyscript", "js"} {
		s.operate(201, "POST /tenants", map[string]any{"id": language})
		s.operate(200, "PUT /tenants/"+language+"/config", config)
		receipt := s.operate(201, "POST /tenants/"+language+"/verifiers", abi.AppendManifest(guesttest.In(t, "../..", language), manifest))
		if receipt.field("vectors.passed") != "2" || receipt.field("vectors.failed") != "0" {
			t.Errorf("%s: %s", language, receipt.body)
		}
		s.operate(200, "POST /tenants/"+language+"/verifiers/1/activate", map[string]any{})

		got, err := s.login(language, "alice", "wonderland")
		if err != nil || got.status != 201 || got.field("session.subject") != "alice" || got.field("session.claims.role") != `chief "of" staff \ é` {
			t.Errorf("%s: alice: %d %s %v", language, got.status, got.body, err)
		}
		if got, err := s.login(language, "alice", "x"); err != nil || got.status != 401 {
			t.Errorf("%s: a wrong password: %d %s %v", language, got.status, got.body, err)
		}
		got, err = s.login(language, "bob", "builder")
		if err != nil || got.status != 200 || got.field("challenge.type") != "otp" {
			t.Errorf("%s: bob: %d %s %v", language, got.status, got.body, err)
		}
		got = s.must(201, "POST "+s.public+"/t/"+language+"/v1/login/answer", map[string]any{"challenge": got.field("challenge.id"), "answer": map[string]any{"code": code(t)}})
		if got.field("session.subject") != "bob" || got.field("session.amr") != `["pwd","otp"]` {
			t.Errorf("%s: bob's second step: %s", language, got.body)
		}
	}
}
