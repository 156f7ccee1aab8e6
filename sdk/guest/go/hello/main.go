// Command hello is the smallest whole verifier: it signs in whoever knows the
// password whose hash is in the configuration under the user's name.
package main

import doorward "github.com/doorward/doorward/sdk/guest/go"

func init() { doorward.Handle(verify) }
func main() {}

func verify(r *doorward.Request) doorward.Verdict {
	user := r.Credential.Text("username")
	hash, err := doorward.Config(user)
	if err != nil {
		hash = "" // nobody by that name: the check takes as long, and says no
	}
	if !doorward.VerifyPassword(hash, r.Credential.Text("password")) {
		return doorward.Reject()
	}
	return doorward.Accept(user, "pwd")
}
