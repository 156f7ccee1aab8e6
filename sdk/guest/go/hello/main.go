// Command go is the verifier of this directory in Go: the password's hash is in
// the configuration under the user's name, a one-time code's secret under
// totp:NAME, a claim under role:NAME.
package main

import (
	"encoding/json"

	"github.com/doorward/doorward/sdk/abi"
	doorward "github.com/doorward/doorward/sdk/guest/go"
)

func init() { doorward.Handle(verify) }
func main() {}

func verify(r *doorward.Request) doorward.Verdict {
	if len(r.State) > 0 {
		var state struct{ User string }
		if err := json.Unmarshal(r.State, &state); err != nil {
			return doorward.Reject()
		}
		secret, err := doorward.Config("totp:" + state.User)
		if err != nil {
			return doorward.Reject()
		}
		if ok, err := doorward.VerifyTOTP(secret, r.Credential.Text("code")); err != nil || !ok {
			return doorward.Reject()
		}
		return accept(state.User, "pwd", "otp")
	}
	user := r.Credential.Text("username")
	hash, err := doorward.Config(user)
	if err != nil {
		hash = "" // nobody by that name: the check takes as long, and says no
	}
	if !doorward.VerifyPassword(hash, r.Credential.Text("password")) {
		return doorward.Reject()
	}
	if _, err := doorward.Config("totp:" + user); err != nil {
		return accept(user, "pwd")
	}
	private, err := json.Marshal(map[string]string{"user": user})
	if err != nil {
		doorward.Fail("%v", err)
	}
	return doorward.Verdict{
		Decision: abi.Challenge, Type: "otp", Public: json.RawMessage(`{"digits":6}`), Private: private, TTL: 300, MaxAttempts: 5,
	}
}

func accept(user string, amr ...string) doorward.Verdict {
	v := doorward.Verdict{Decision: abi.Accept, Subject: user, AMR: amr}
	if role, err := doorward.Config("role:" + user); err == nil {
		claims, err := json.Marshal(map[string]string{"role": role})
		if err != nil {
			doorward.Fail("%v", err)
		}
		v.Claims = claims
	}
	return v
}
