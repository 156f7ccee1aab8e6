package guesttest

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// Languages are those that sdk/guest has one verifier in.
var Languages = []string{"c", "rust", "assemblyscript", "js", "go"}

// In is that verifier in a language, as make guests built it below root, which is
// the way from the test's directory to the repository's.
func In(t testing.TB, root, language string) []byte { return built(t, root, language) }

// WorkIn is a module in a language that decides nothing and only works. Which work
// the length of the request says: 1 computes, 2 calls functions, 3 calls itself
// without end. In JavaScript the request is a number, and there are more.
func WorkIn(t testing.TB, root, language string) []byte { return built(t, root, language+"-work") }

// ProbeIn is a module in a language, Go not among them, that calls every function of
// the SDK and accepts with what came of it as claims.
func ProbeIn(t testing.TB, root, language string) []byte { return built(t, root, language+"-probe") }

func built(t testing.TB, root, name string) []byte {
	t.Helper()
	module, err := os.ReadFile(root + "/bin/guests/" + name + ".wasm")
	if err != nil {
		t.Fatalf("%v; the verifiers in five languages are not built: run make guests, which says what it needs", err)
	}
	return module
}

// Sign is a login or the answer to a challenge, and the verdict that the verifier
// gives in each language.
type Sign struct {
	Name    string
	Request []byte // as the guest reads it
	Want    string // JSON; members that are not there are not in the verdict
}

// Users is the configuration of that verifier: hash makes of a password what it is
// checked against, and secret is that of the one-time codes of bob.
func Users(hash func(password string) string, secret string) map[string]string {
	return map[string]string{
		"alice": hash("wonderland"), "role:alice": `chief "of" staff \ é`,
		"bob": hash("builder"), "totp:bob": secret, "role:bob": "worker",
		"carol": hash("x"), "role:carol": "", // a value that is empty is one
		"dave": "", "erin": hash("x"), "totp:erin": "",
		`q"\é😀`:  hash("p\"\\\té😀"),
		"\ufffd": hash("\ufffdx"), // what half a character becomes
	}
}

const (
	no      = `{"decision":"reject","code":"bad_credentials"}`
	isAlice = `{"decision":"accept","subject":"alice","claims":{"role":"chief \"of\" staff \\ é"},"amr":["pwd"]}`
	isBob   = `{"decision":"accept","subject":"bob","claims":{"role":"worker"},"amr":["pwd","otp"]}`
)

// Logins are requests about Users. code is bob's code now. A host that encodes
// requests itself writes some of them in another way.
func Logins(code string) []Sign {
	asks := func(user string) string {
		return `{"decision":"challenge","type":"otp","public":{"digits":6},"private":{"user":"` + user + `"},"ttl":300,"max_attempts":5}`
	}
	filler := strings.Repeat("x", 60_000)
	deep := strings.Repeat(`{"a":[`, 40) + strings.Repeat(`]}`, 40)
	return []Sign{
		{"right", login(`"alice"`, `"wonderland"`), isAlice},
		{"wrong", login(`"alice"`, `"x"`), no},
		{"no password", login(`"alice"`, `""`), no},
		{"nobody", login(`"nobody"`, `"x"`), no},
		{"no name", login(`""`, `"x"`), no},
		{"nothing", []byte("{}"), no},
		{"first step", login(`"bob"`, `"builder"`), asks("bob")},
		{"wrong code", answer(`{"user":"bob"}`, "1x1111"), no},
		{"second step", answer(`{"user":"bob"}`, code), isBob},
		{"second step of one who has none", answer(`{"user":"alice"}`, code), no},
		{"escapes", []byte(`{"credential":{"other":{"username":"x"},"username":"q\"\\\u00e9\ud83d\ude00","password":"p\"\\\té😀"}}`),
			`{"decision":"accept","subject":"q\"\\é😀","amr":["pwd"]}`},

		{"a name that is a number", login(`7`, `"x"`), no},
		{"a name that is a list", login(`["alice"]`, `"wonderland"`), no},
		{"a password that is true", login(`"alice"`, `true`), no},
		{"a password that is nothing", login(`"alice"`, `null`), no},
		{"a credential that is nothing", []byte(`{"credential":null}`), no},
		{"a credential that is in another", []byte(`{"credential":{"credential":{"username":"alice","password":"wonderland"}}}`), no},

		// Once taken for a first step in two of the languages.
		{"a state without a user", []byte(`{"credential":{"username":"alice","password":"wonderland","code":"x"},"state":{}}`), no},
		{"a state that is nothing", []byte(`{"credential":{"username":"alice","password":"wonderland"},"state":null}`), no},
		{"a state that is a list", []byte(`{"credential":{"username":"alice","password":"wonderland"},"state":["user","bob"]}`), no},
		{"a state with a user that is none", answer(`{"user":{"user":"bob"}}`, code), no},

		{"an empty claim", login(`"carol"`, `"x"`), `{"decision":"accept","subject":"carol","claims":{"role":""},"amr":["pwd"]}`},
		{"an empty hash", login(`"dave"`, `""`), no},
		{"an empty secret", login(`"erin"`, `"x"`), asks("erin")},
		{"a code for an empty secret", answer(`{"user":"erin"}`, ""), no},

		// UTF-8 cannot say these, so each is U+FFFD.
		{"the first half of a character", login(`"\ud83d"`, `"\ud83dx"`), `{"decision":"accept","subject":"�","amr":["pwd"]}`},
		{"the second half of a character", login(`"\ude00"`, `"\udbffx"`), `{"decision":"accept","subject":"�","amr":["pwd"]}`},
		{"half a character before a line's end", login(`"\ud83d\n"`, `"x"`), no},
		{"halves the wrong way round", login(`"\ude00\ud83d"`, `"x"`), no},

		{"a long field before", fmt.Appendf(nil, `{"credential":{"other":%q,"username":"alice","password":"wonderland"}}`, filler), isAlice},
		{"many fields before", []byte(`{"credential":{` + strings.Repeat(`"f":"\n",`, 6000) + `"username":"alice","password":"wonderland"}}`), isAlice},
		{"deep fields before", []byte(`{"credential":{"deep":` + deep + `,"username":"alice","password":"wonderland"}}`), isAlice},
		{"a long name", login(`"`+filler+`"`, `"x"`), no},
		{"a long password", login(`"alice"`, `"`+filler+`"`), no},
		{"a long code", answer(`{"user":"bob"}`, filler), no},
		{"as long as may be", login(`"alice"`, `"`+strings.Repeat(`\n`, (64<<10-len(login(`"alice"`, `""`)))/2)+`"`), no},
	}
}

// login is a request as the host writes it, for a name and a password in JSON.
func login(name, password string) []byte {
	return []byte(`{"abi":1,"tenant":"acme","method":"password","request_id":"r1","attempt":1,"credential":{"password":` + password + `,"username":` + name +
		`},"client":{"ip":"192.0.2.7","user_agent":"test","app":"web"},"now_ms":1700000000000}`)
}

// answer is a request as a guest gets it for a challenge's answer.
func answer(state, code string) []byte {
	return fmt.Appendf(nil, `{"abi":1,"tenant":"acme","method":"password","request_id":"r2","attempt":2,"credential":{"code":%q},"client":{},"state":%s,"now_ms":1700000000000}`, code, state)
}
