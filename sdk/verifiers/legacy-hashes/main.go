// Command legacy-hashes is a ready-made verifier over the users of a system that
// is left behind: the configuration key "hashes" holds a dump of their names and
// password hashes, in whatever form that system kept them. Nobody has to choose a
// new password. As text it has a line for each user, and what follows the hash
// after a colon (as in /etc/shadow) does not count:
//
//	alice:pbkdf2_sha256$1000000$…        Django: PBKDF2, argon2, bcrypt, scrypt
//	bob:$P$B…                            WordPress, phpBB (phpass); $wp$2y$… too
//	carol:$6$…:19000:0:99999:7:::        Linux: SHA-crypt of /etc/shadow
//	dave:$2y$…                           bcrypt; argon2id, scrypt, pbkdf2, apr1, {SHA}
//
// As JSON it is {"alice":"$6$…"} or a list, of which only the first two members
// are required:
//
//	[{"username":"alice","password_hash":"$6$…","subject":"u-17","claims":{"role":"admin"}}]
//
// Hashes of other kinds than argon2, bcrypt and scrypt are old ones: each sign-in
// with one is in the tenant's log, with how many users have one still. Where the
// configuration key "legacy_claim" holds a name, the session has that claim then,
// with the kind of the hash as its value, so that an application can ask its user
// for a new password.
//
// It does not check yescrypt ($y$), MD5-crypt ($1$), DES or plain MD5, nor what takes
// longer than the host allows: such a user is refused, and the log says why. It does
// not change the dump.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"

	"github.com/doorward/doorward/sdk/abi"
	doorward "github.com/doorward/doorward/sdk/guest/go"
)

func init() { doorward.Handle(verify) }
func main() {}

// user is one entry of the dump.
type user struct {
	Username string          `json:"username"`
	Hash     string          `json:"password_hash"`
	Subject  string          `json:"subject"`
	Claims   json.RawMessage `json:"claims"`
}

func verify(r *doorward.Request) doorward.Verdict {
	name, password := r.Credential.Text("username"), r.Credential.Text("password")
	if name == "" || password == "" || len(password) > abi.MaxPassword {
		return doorward.Reject()
	}
	users := dump()
	u, found := find(users, name)
	k := kindOf(u.Hash)
	switch {
	case found && k.locked:
		doorward.Logf("%s has no password in the dump, as Linux writes for who may not sign in", name)
	case found && !k.checked:
		doorward.Logf("the hash of %s is of a kind that cannot be checked (%s): give that user a new one", name, k.name)
	}
	hash := u.Hash
	if !found || !k.checked {
		hash, found = decoy(users, name), false
	}
	ok, err := doorward.CheckPassword(hash, password)
	if errors.Is(err, doorward.ErrTooLarge) || errors.Is(err, doorward.ErrHost) {
		if found {
			doorward.Logf("the hash of %s is not whole, or asks for more work than is allowed (%v): give that user a new one", name, err)
		}
		found = false
		ok, err = doorward.CheckPassword("", password)
	}
	switch {
	case err != nil: // the password is not wrong for it
		doorward.Fail("a password was not checked: %v", err)
	case !ok || !found:
		return doorward.Reject()
	}
	return accept(users, u, k)
}

// accept signs u in, and notes it when its hash is of an old kind.
func accept(users []user, u user, k kind) doorward.Verdict {
	subject := u.Subject
	if subject == "" {
		subject = u.Username
	}
	v := doorward.Accept(subject, "pwd")
	v.Claims = u.Claims
	if !k.old {
		return v
	}
	left := 0
	for _, other := range users {
		if k := kindOf(other.Hash); k.old && k.checked {
			left++
		}
	}
	doorward.Logf("%s signed in by a hash of an old kind (%s); %d of %d users in the dump have one still", u.Username, k.name, left, len(users))
	claim, err := doorward.Config("legacy_claim")
	if err != nil || claim == "" {
		return v
	}
	claims, err := withClaim(u.Claims, claim, k.name)
	if err != nil {
		doorward.Fail("the claims of %s are not a JSON object", u.Username)
	}
	v.Claims = claims
	return v
}

func withClaim(claims json.RawMessage, name, value string) (json.RawMessage, error) {
	all := map[string]any{}
	if len(claims) > 0 {
		if err := json.Unmarshal(claims, &all); err != nil {
			return nil, fmt.Errorf("read claims: %w", err)
		}
	}
	if all == nil { // null
		all = map[string]any{}
	}
	all[name] = value
	return json.Marshal(all)
}

// decoy is a hash for a name that is not there, or whose hash cannot be checked:
// that of one of the users, always the same for a name, worked through and
// answered no. A dump has cheap hashes and dear ones, and so do those who are not
// in it.
func decoy(users []user, name string) string {
	var hashes []string
	for _, u := range users {
		if kindOf(u.Hash).checked {
			hashes = append(hashes, u.Hash)
		}
	}
	if len(hashes) == 0 {
		return ""
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	return "?" + hashes[h.Sum32()%uint32(len(hashes))]
}

// find is the first entry of a name.
func find(users []user, name string) (user, bool) {
	for _, u := range users {
		if u.Username == name {
			return u, true
		}
	}
	return user{}, false
}

// dump reads the configuration. One that is not there or cannot be read has no
// users, and the log says so.
func dump() []user {
	text, err := doorward.Config("hashes")
	if err != nil {
		doorward.Logf("configuration key \"hashes\" is not there (%v): set it to a dump with a line user:hash for each user", err)
		return nil
	}
	users, err := read(text)
	if err != nil {
		doorward.Fail("configuration key \"hashes\" cannot be read: %v", err)
	}
	return users
}

func read(text string) (users []user, err error) {
	switch text = strings.TrimSpace(text); {
	case strings.HasPrefix(text, "["):
		if json.Unmarshal([]byte(text), &users) != nil {
			return nil, errors.New(`it begins as JSON and is no list of {"username":…,"password_hash":…}`)
		}
		return users, nil
	case strings.HasPrefix(text, "{") && !strings.HasPrefix(text, "{SHA}"):
		var byName map[string]string
		if json.Unmarshal([]byte(text), &byName) != nil {
			return nil, errors.New(`it begins as JSON and is no {"user":"hash", …}`)
		}
		for _, name := range slices.Sorted(maps.Keys(byName)) { // decoy wants an order
			users = append(users, user{Username: name, Hash: byName[name]})
		}
		return users, nil
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		name, hash, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.HasPrefix(line, "#") {
			continue
		}
		hash, _, _ = strings.Cut(hash, ":")
		users = append(users, user{Username: name, Hash: strings.TrimSpace(hash)})
	}
	return users, nil
}

// kind is what a hash looks like.
type kind struct {
	name    string
	old     bool // not what one would choose today
	checked bool // the host can
	locked  bool // no hash at all: nobody signs in by it
}

// kinds are told by how a hash begins. The first that fits counts.
var kinds = []struct {
	begins string
	kind
}{
	{"$argon2", kind{name: "argon2", checked: true}},
	{"argon2$argon2", kind{name: "argon2", checked: true}},
	{"$2", kind{name: "bcrypt", checked: true}},
	{"$wp$2", kind{name: "bcrypt", checked: true}},
	{"bcrypt$$2", kind{name: "bcrypt", checked: true}},
	{"bcrypt_sha256$$2", kind{name: "bcrypt", checked: true}},
	{"$scrypt$", kind{name: "scrypt", checked: true}},
	{"scrypt$", kind{name: "scrypt", checked: true}},
	{"$pbkdf2", kind{name: "pbkdf2", old: true, checked: true}},
	{"pbkdf2_sha", kind{name: "pbkdf2", old: true, checked: true}},
	{"$5$", kind{name: "sha256-crypt", old: true, checked: true}},
	{"$6$", kind{name: "sha512-crypt", old: true, checked: true}},
	{"$P$", kind{name: "phpass", old: true, checked: true}},
	{"$H$", kind{name: "phpass", old: true, checked: true}},
	{"$apr1$", kind{name: "apr1", old: true, checked: true}},
	{"{SHA}", kind{name: "sha1", old: true, checked: true}},
	{"!", kind{name: "none", locked: true}},
	{"*", kind{name: "none", locked: true}},
	{"$y$", kind{name: "yescrypt", old: true}},
	{"$1$", kind{name: "md5-crypt", old: true}},
}

func kindOf(hash string) kind {
	for _, k := range kinds {
		if strings.HasPrefix(hash, k.begins) {
			return k.kind
		}
	}
	if hash == "" {
		return kind{name: "none", locked: true}
	}
	return kind{name: "unknown", old: true}
}
