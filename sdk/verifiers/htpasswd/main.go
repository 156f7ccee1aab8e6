// Command htpasswd is a ready-made verifier over an Apache .htpasswd file: the
// configuration key "htpasswd" holds its text. bcrypt, apr1 and {SHA} lines are
// checked; a line in the old DES form or in plain text never matches.
package main

import (
	"strings"

	doorward "github.com/doorward/doorward/sdk/guest/go"
)

func init() { doorward.Handle(verify) }
func main() {}

func verify(r *doorward.Request) doorward.Verdict {
	user, password := r.Credential.Text("username"), r.Credential.Text("password")
	file, err := doorward.Config("htpasswd")
	if err != nil {
		doorward.Logf("configuration key \"htpasswd\" is not there (%v): set it to the text of a .htpasswd file", err)
	}
	hash := find(file, user)
	if hash != "" && !checkable(hash) {
		doorward.Logf("the entry of one user is plain text or DES crypt, which are not checked; make it anew with htpasswd -B")
		hash = ""
	}
	if !doorward.VerifyPassword(hash, password) || user == "" || password == "" {
		return doorward.Reject()
	}
	return doorward.Accept(user, "pwd")
}

// find returns the hash of a user, "" when there is none. The first line of a
// user counts, as in Apache.
func find(file, user string) string {
	for line := range strings.Lines(file) {
		line = strings.TrimSpace(line)
		name, hash, ok := strings.Cut(line, ":")
		if ok && name == user && !strings.HasPrefix(line, "#") {
			hash, _, _ = strings.Cut(hash, ":")
			return strings.TrimSpace(hash)
		}
	}
	return ""
}

func checkable(hash string) bool {
	for _, form := range []string{"$2a$", "$2b$", "$2y$", "$apr1$", "{SHA}", "$5$", "$6$", "$argon2"} {
		if strings.HasPrefix(hash, form) {
			return true
		}
	}
	return false
}
