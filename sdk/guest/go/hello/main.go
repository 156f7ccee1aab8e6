// Command hello is a verifier in Go: the password's hash is in the configuration
// under the user's name, a one-time code's secret under totp:NAME, a claim under
// role:NAME.
package main

import doorward "github.com/doorward/doorward/sdk/guest/go"

func init() { doorward.Handle(verify) }
func main() {}

// pending is what the second step has to know of the first.
type pending struct {
	User string `json:"user"`
}

func verify(r *doorward.Request) doorward.Verdict {
	if len(r.State) > 0 {
		var p pending
		if !doorward.State(r, &p) {
			return doorward.Reject()
		}
		return second(p.User, r.Credential.Text("code"))
	}
	user := r.Credential.Text("username")
	hash := setting(user) // nobody by that name: the check takes as long, and says no
	if !doorward.VerifyPassword(hash, r.Credential.Text("password")) {
		return doorward.Reject()
	}
	if _, err := doorward.Config("totp:" + user); err == doorward.ErrNotFound {
		return accept(user, "pwd")
	}
	v := doorward.Challenge("otp", map[string]any{"digits": 6}, pending{user})
	v.TTL, v.MaxAttempts = 300, 5
	return v
}

func second(user, code string) doorward.Verdict {
	secret := setting("totp:" + user)
	if secret == "" {
		return doorward.Reject()
	}
	ok, err := doorward.VerifyTOTP(secret, code)
	if err != nil { // the code was not the user's fault, so it is not called wrong
		doorward.Fail("the code was not checked: %v", err)
	}
	if !ok {
		return doorward.Reject()
	}
	return accept(user, "pwd", "otp")
}

func accept(user string, methods ...string) doorward.Verdict {
	role, err := doorward.Config("role:" + user)
	if err != nil {
		return doorward.Accept(user, methods...)
	}
	return doorward.AcceptWith(user, map[string]string{"role": role}, methods...)
}

// setting is a value of the configuration, "" where there is none.
func setting(key string) string {
	value, err := doorward.Config(key)
	if err != nil && err != doorward.ErrNotFound {
		doorward.Fail("configuration %q: %v", key, err)
	}
	return value
}
