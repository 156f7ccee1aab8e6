package js_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/doorward/doorward/sdk/abi"
	"github.com/doorward/doorward/sdk/guest/js"
)

func engine(t *testing.T) []byte {
	t.Helper()
	e, err := js.Engine()
	if errors.Is(err, js.ErrNoEngine) {
		t.Fatalf("%v, which says what it needs", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// imports tells whether a module imports a function of the host, by the name that stands
// in its section of imports. None is part of another there: each is
// preceded by its length.
func imports(module []byte, name string) bool {
	entry := append([]byte{byte(len(abi.Module))}, abi.Module...)
	entry = append(append(entry, byte(len(name))), name...)
	return bytes.Contains(module, entry)
}

func TestABundleImportsWhatIsGranted(t *testing.T) {
	script := []byte("function verify() {}")
	granted := []string{
		abi.FuncConfigGet, abi.FuncSecretGet, abi.FuncSecretHMAC, abi.FuncHash, abi.FuncHMAC, abi.FuncSigVerify, abi.FuncPasswordHash,
		abi.FuncPasswordVerify, abi.FuncTOTPVerify, abi.FuncKVGet, abi.FuncKVPut, abi.FuncKVIncr, abi.FuncKVCAS, abi.FuncHTTPFetch,
	}
	for _, c := range []struct {
		grants abi.Grants
		want   string
	}{
		{abi.Grants{}, ""},
		{abi.Grants{Config: true, TOTP: true}, "config_get totp_verify"},
		{abi.Grants{Secrets: []string{"A"}, Hash: true}, "secret_get secret_hmac hash"},
		{abi.Grants{HMAC: true, SigVerify: true, Password: []string{"*"}}, "hmac sig_verify password_hash password_verify"},
		{abi.Grants{KV: &abi.KVGrant{}, HTTP: &abi.HTTPGrant{}}, ""},
		{abi.Grants{KV: &abi.KVGrant{Namespaces: []string{"a"}}, HTTP: &abi.HTTPGrant{Hosts: []string{"a:443"}}}, "kv_get kv_put kv_incr kv_cas http_fetch"},
	} {
		module, err := js.Bundle(engine(t), script, c.grants)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, name := range granted {
			if imports(module, name) {
				got = append(got, name)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("for %+v it imports %q, not %q", c.grants, got, c.want)
		}
		if !imports(module, abi.FuncInputRead) || !bytes.Contains(module, script) {
			t.Errorf("for %+v it has lost its script, or what is always there", c.grants)
		}
	}
}

func TestWhatIsNoEngineIsRefused(t *testing.T) {
	whole := engine(t)
	other, err := os.ReadFile("../../../bin/guests/c.wasm")
	if err != nil {
		t.Fatalf("%v; run make guests", err)
	}
	for name, c := range map[string]struct {
		module []byte
		want   string
	}{
		"nothing":           {nil, "no WebAssembly"},
		"another verifier":  {other, "it is no engine"},
		"half of an engine": {whole[:len(whole)/2], "it ends"},
		"most of one":       {whole[:len(whole)-1], "it ends"},
	} {
		if _, err := js.Bundle(c.module, []byte("function verify() {}"), abi.Grants{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := js.Bundle(whole, make([]byte, js.MaxScript+1), abi.Grants{}); err == nil {
		t.Error("a script over the limit was taken")
	}
}

// A damaged engine is an error, wherever the damage is, and never the end of the
// program that bundles.
func FuzzBundle(f *testing.F) {
	e, err := js.Engine()
	if err != nil {
		f.Skip(err)
	}
	f.Add(uint32(100), byte(7))
	f.Add(uint32(len(e)-10), byte(0xff))
	f.Fuzz(func(t *testing.T, at uint32, with byte) {
		broken := bytes.Clone(e)
		broken[int(at)%len(broken)] = with
		js.Bundle(broken, []byte("function verify() {}"), abi.Grants{})
	})
}
