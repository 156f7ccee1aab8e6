// Command probe is a verifier that calls every function of sdk/guest/go and
// accepts with what came of it as claims. A test builds it: what the SDK imports
// is what the host offers, or it does not load.
package main

import (
	"encoding/hex"
	"fmt"

	"github.com/doorward/doorward/sdk/abi"
	doorward "github.com/doorward/doorward/sdk/guest/go"
)

func init() { doorward.Handle(verify) }
func main() {}

func verify(r *doorward.Request) doorward.Verdict {
	if r.Method == "fails" {
		doorward.Fail("as it was %s", "told to")
	}
	seen := map[string]string{}
	note := func(name string, value any, err error) { seen[name] = fmt.Sprint(value, " ", err) }
	bytes := func(name string, value []byte, err error) { note(name, hex.EncodeToString(value), err) }

	config, err := doorward.Config("colour")
	note("config", config, err)
	secret, err := doorward.Secret("PEPPER")
	note("secret", len(secret), err)
	_, err = doorward.Secret("OTHER")
	note("secret not granted", "", err)
	sum, err := doorward.Hash(abi.AlgSHA256, []byte("abc"))
	bytes("hash", sum, err)
	sum, err = doorward.HMAC(abi.AlgSHA256, []byte("Jefe"), []byte("what do ya want for nothing?"))
	bytes("hmac", sum, err)
	sum, err = doorward.SecretHMAC("PEPPER", abi.AlgSHA256, nil)
	bytes("secret_hmac", sum[:min(len(sum), 4)], err)
	_, err = doorward.Hash(99, nil)
	note("hash 99", "", err)
	ok, err := doorward.VerifySignature(abi.SigEd25519, []byte(config), nil, nil)
	note("signature", ok, err)
	note("password", doorward.VerifyPassword("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "password"), nil)
	ok, err = doorward.VerifyTOTP("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", "287082")
	note("totp", ok, err)
	ok, err = doorward.VerifyTOTP("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", "287082")
	note("totp again", ok, err)
	value, err := doorward.KVGet("ns", "k")
	note("get nothing", value, err)
	note("put", "", doorward.KVPut("ns", "k", "4", 60))
	n, err := doorward.KVIncr("ns", "k", 38, 60)
	note("incr", n, err)
	ok, err = doorward.KVSwap("ns", "k", "41", "x", 60)
	note("swap other", ok, err)
	ok, err = doorward.KVSwap("ns", "k", "42", "y", 60)
	note("swap", ok, err)
	value, err = doorward.KVGet("ns", "k")
	note("get", value, err)
	note("put elsewhere", "", doorward.KVPut("elsewhere", "k", "", 60))
	_, err = doorward.Fetch(doorward.HTTPRequest{URL: "https://127.0.0.1/"})
	note("fetch", "", err)
	return doorward.AcceptWith("probe", seen)
}
