package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/doorward/doorward/sdk/abi"
	doorward "github.com/doorward/doorward/sdk/guest/go"
)

const shadow = "# of the old machine\n\nalice:$6$right:19000:0:99999:7:::\r\nbob:pbkdf2_sha256$right\ncarol:$argon2id$right\ndave:$y$right\nerin:!$6$right:1::\nfrank:*:1::\ngrace:{SHA}right\nalice:$6$second\nheidi\n:$6$right\nivan:\n"

// asked is what the host was asked to check at the last login.
var asked []string

func login(t *testing.T, config map[string]string, username, password string) doorward.Verdict {
	t.Helper()
	asked = nil
	doorward.Fake.Config = config
	doorward.Fake.Password = func(hash, password string) bool {
		asked = append(asked, hash)
		return strings.HasSuffix(hash, password)
	}
	return verify(&doorward.Request{Credential: doorward.Credential{"username": username, "password": password}})
}

func TestALineIsAUser(t *testing.T) {
	config := map[string]string{"hashes": shadow}
	for name, c := range map[string]struct {
		user, password string
		want           abi.Decision
	}{
		"Linux":                                 {"alice", "$right", abi.Accept},
		"Django":                                {"bob", "$right", abi.Accept},
		"a new kind":                            {"carol", "$right", abi.Accept},
		"a form that begins as JSON does not":   {"grace", "}right", abi.Accept},
		"a wrong password":                      {"alice", "wrong", abi.Reject},
		"only the first line of a user":         {"alice", "$second", abi.Reject},
		"what comes after a second colon":       {"alice", "7", abi.Reject},
		"a kind that is not checked":            {"dave", "$right", abi.Reject},
		"who may not sign in":                   {"erin", "$right", abi.Reject},
		"who has no password":                   {"frank", "*", abi.Reject},
		"a line without a hash":                 {"heidi", "heidi", abi.Reject},
		"a line without a name":                 {"", "$right", abi.Reject},
		"an empty hash":                         {"ivan", "", abi.Reject},
		"somebody else":                         {"judy", "$right", abi.Reject},
		"a name with a colon":                   {"alice:$6$right", "$right", abi.Reject},
		"a comment":                             {"# of the old machine", "$right", abi.Reject},
		"a password longer than any is checked": {"alice", strings.Repeat("x", abi.MaxPassword+1), abi.Reject},
	} {
		t.Run(name, func(t *testing.T) {
			if v := login(t, config, c.user, c.password); v.Decision != c.want || c.want == abi.Accept && v.Subject != c.user {
				t.Errorf("%+v, want %s", v, c.want)
			}
		})
	}
}

// Who is not there, or whose hash cannot be checked, costs one check, as who is
// there does; for one name it is always that of the same user, and over names
// that of each.
func TestAnUnknownUserCostsWhatOneOfTheUsersDoes(t *testing.T) {
	config := map[string]string{"hashes": shadow}
	seen := map[string]bool{}
	for n := range 200 {
		name := strings.Repeat("x", n+1)
		login(t, config, name, "right")
		first := asked
		login(t, config, name, "other")
		if len(first) != 1 || len(asked) != 1 || asked[0] != first[0] {
			t.Fatalf("%s: %q, then %q", name, first, asked)
		}
		if !strings.HasPrefix(first[0], "?$") && !strings.HasPrefix(first[0], "?pbkdf2") && !strings.HasPrefix(first[0], "?{SHA}") || strings.Contains(first[0], "$y$") {
			t.Fatalf("%s is held against %q", name, first[0])
		}
		seen[first[0]] = true
	}
	if len(seen) != 5 { // four users, one of them twice
		t.Errorf("200 names are held against %d hashes", len(seen))
	}
	for _, name := range []string{"dave", "erin", "frank", "ivan"} {
		if login(t, config, name, "right"); len(asked) != 1 || !strings.HasPrefix(asked[0], "?") {
			t.Errorf("%s is held against %q", name, asked)
		}
	}
	// No dump at all costs the host's own.
	v := login(t, nil, "alice", "right")
	if v.Decision != abi.Reject || v.Code != abi.BadCredentials || len(asked) != 0 { // Fake is not asked for an empty hash
		t.Errorf("%+v, %q", v, asked)
	}
}

func TestADumpMayBeJSON(t *testing.T) {
	for name, text := range map[string]string{
		"names and hashes": `{"alice":"$6$right","bob":"$2y$right"}`,
		"a list":           ` [{"username":"alice","password_hash":"$6$right","subject":"u-1","claims":{"role":"x"}},{"username":"bob","password_hash":"$2y$right"}]`,
	} {
		v := login(t, map[string]string{"hashes": text}, "alice", "$right")
		if v.Decision != abi.Accept {
			t.Errorf("%s: %+v", name, v)
		}
		if name == "a list" && (v.Subject != "u-1" || string(v.Claims) != `{"role":"x"}`) {
			t.Errorf("%s: %+v", name, v)
		}
		if v := login(t, map[string]string{"hashes": text}, "alice", "wrong"); v.Decision != abi.Reject {
			t.Errorf("%s: %+v", name, v)
		}
	}
	// What cannot be read is no wrong password.
	for _, text := range []string{"[", "{", `{"alice":7}`, `[{"username":7}]`} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s was read", text)
				}
			}()
			login(t, map[string]string{"hashes": text}, "alice", "x")
		}()
	}
}

func TestAClaimSaysThatAHashIsOld(t *testing.T) {
	config := map[string]string{"legacy_claim": "old_hash", "hashes": `[
		{"username":"alice","password_hash":"$6$right","claims":{"role":"admin"}},
		{"username":"bob","password_hash":"$P$right","claims":null},
		{"username":"carol","password_hash":"$wp$2y$right","claims":{"role":"staff"}}]`}
	for user, want := range map[string]string{
		"alice": `{"old_hash":"sha512-crypt","role":"admin"}`, "bob": `{"old_hash":"phpass"}`, "carol": `{"role":"staff"}`,
	} {
		v := login(t, config, user, "$right")
		if v.Decision != abi.Accept || string(v.Claims) != want || !json.Valid(v.Claims) {
			t.Errorf("%s: %+v %s, want %s", user, v, v.Claims, want)
		}
	}
	delete(config, "legacy_claim")
	if v := login(t, config, "bob", "$right"); len(v.Claims) > 0 && string(v.Claims) != "null" {
		t.Errorf("without its name the claim is %s", v.Claims)
	}
}
