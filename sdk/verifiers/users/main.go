// Command users is a ready-made verifier over a list of users: the
// configuration key "users" holds it, as a JSON array or as its text.
//
//	[{"username":"alice","password_hash":"$argon2id$…","claims":{"role":"admin"},
//	  "subject":"u-17","totp_secret":"JBSWY3DPEHPK3PXP","disabled":false}]
//
// Only username and password_hash are required; subject is the username when
// left out. A user with a totp_secret (base32) is asked for a code as a second
// step, and each code is good once.
package main

import (
	"encoding/json"

	"github.com/doorward/doorward/sdk/abi"
	doorward "github.com/doorward/doorward/sdk/guest/go"
)

func init() { doorward.Handle(verify) }
func main() {}

// user is one entry of the list.
type user struct {
	Username     string          `json:"username"`
	PasswordHash string          `json:"password_hash"`
	Subject      string          `json:"subject"`
	Claims       json.RawMessage `json:"claims"`
	TOTPSecret   string          `json:"totp_secret"`
	Disabled     bool            `json:"disabled"`
}

// pending is what a challenge remembers.
type pending struct {
	Username string `json:"username"`
}

func verify(r *doorward.Request) doorward.Verdict {
	var p pending
	if doorward.State(r, &p) {
		return second(r, p)
	}
	name, password := r.Credential.Text("username"), r.Credential.Text("password")
	u, found := find(name)
	// An unknown or disabled user costs what a known one costs, and hears the same.
	ok := doorward.VerifyPassword(u.PasswordHash, password)
	switch {
	case !found || !ok || name == "" || password == "":
		return doorward.Reject()
	case u.Disabled:
		return doorward.RejectWith(abi.Denied, "the user is disabled")
	case u.TOTPSecret != "":
		return doorward.Challenge("otp", map[string]any{"digits": 6, "prompt": "Enter the code from your authenticator app."}, pending{name})
	}
	return accept(u, "pwd")
}

// second checks the code, which is good once. The user is looked up anew: it may
// have been disabled since the first step.
func second(r *doorward.Request, p pending) doorward.Verdict {
	u, found := find(p.Username)
	if !found || u.Disabled || u.TOTPSecret == "" {
		return doorward.Reject()
	}
	ok, err := doorward.VerifyTOTP(u.TOTPSecret, r.Credential.Text("code"))
	if err != nil { // the code was not the user's fault, so it is not called wrong
		doorward.Fail("the code of %s was not checked: %v", u.Username, err)
	}
	if !ok {
		return doorward.Reject()
	}
	return accept(u, "pwd", "otp")
}

func accept(u user, methods ...string) doorward.Verdict {
	subject := u.Subject
	if subject == "" {
		subject = u.Username
	}
	v := doorward.Accept(subject, methods...)
	v.Claims = u.Claims
	return v
}

// find looks a user up; a list that is not there or cannot be read is empty,
// and the log says so.
func find(name string) (user, bool) {
	text, err := doorward.Config("users")
	if err != nil {
		doorward.Logf("configuration key \"users\" is not there (%v): set it to a JSON list of users", err)
		return user{}, false
	}
	var list []user
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		doorward.Logf("configuration key \"users\" is not a JSON list of users")
		return user{}, false
	}
	for _, u := range list {
		if u.Username == name {
			return u, true
		}
	}
	return user{}, false
}
