package plugins

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/sdk/abi"
)

// Every login reads what a manifest names, and operators see it in a terminal.
func TestWhatAManifestNamesIsBoundedAndPrintable(t *testing.T) {
	many := strings.Split(strings.Repeat("x,", 65), ",")[:65]
	long := []string{strings.Repeat("x", 257)}
	for name, m := range map[string]abi.Manifest{
		"a name with an escape":    {Name: "\x1b]0;mine\x07"},
		"a version with an escape": {Version: "1\x1b[2J"},
		"a method with a newline":  {Methods: []string{"pass\nword"}},
		"65 schemes":               {Grants: abi.Grants{Password: many}},
		"a long scheme":            {Grants: abi.Grants{Password: long}},
		"65 secrets":               {Grants: abi.Grants{Secrets: many}},
		"a long secret":            {Grants: abi.Grants{Secrets: long}},
		"a nameless secret":        {Grants: abi.Grants{Secrets: []string{""}}},
		"65 hosts":                 {Grants: abi.Grants{HTTP: &abi.HTTPGrant{Hosts: many}}},
		"a host without port":      {Grants: abi.Grants{HTTP: &abi.HTTPGrant{Hosts: []string{"idp.acme.test"}}}},
		"a wildcard":               {Grants: abi.Grants{HTTP: &abi.HTTPGrant{Hosts: []string{"*.acme.test:443"}}}},
		"an address in disguise":   {Grants: abi.Grants{HTTP: &abi.HTTPGrant{Hosts: []string{"0x7f000001:443"}}}},
		"six requests":             {Grants: abi.Grants{HTTP: &abi.HTTPGrant{Hosts: []string{"idp.acme.test:443"}, MaxCalls: 6}}},
		"a nameless namespace":     {Grants: abi.Grants{KV: &abi.KVGrant{Namespaces: []string{""}}}},
		"a long namespace":         {Grants: abi.Grants{KV: &abi.KVGrant{Namespaces: long}}},
	} {
		m.ABI = abi.Version
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readManifest(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if _, err := readManifest([]byte(`{"abi":1,"name":"acme","version":"1.4.2","methods":["password"],"grants":{"secrets":["LDAP_PW"],"http":{"hosts":["idp.acme.test:443"],"max_calls":2},"kv":{"namespaces":["otp"]},"password":["argon2id","bcrypt"]}}`)); err != nil {
		t.Errorf("an honest one: %v", err)
	}
}

// What a module imports is what it needs a grant for, and the refusal says what
// to write.
func TestImportsAreHeldAgainstTheManifest(t *testing.T) {
	for _, c := range []struct {
		function, manifest, want string // want "" is for accepted
	}{
		{abi.FuncSecretHMAC, "", `"secrets": ["*"]`},
		{abi.FuncKVIncr, "", `"kv": {"namespaces": ["*"]}`},
		{abi.FuncHTTPFetch, "", `"http": {"hosts": ["*"]}`},
		{abi.FuncHash, "", ""},
		{abi.FuncHMAC, "", ""},
		{abi.FuncSigVerify, "", ""},
		{abi.FuncTOTPVerify, "", ""},
		{abi.FuncHash, `{"abi":1}`, `"hash": true`},
		{abi.FuncHMAC, `{"abi":1,"grants":{"hash":true}}`, `"hmac": true`},
		{abi.FuncSigVerify, `{"abi":1}`, `"sig_verify": true`},
		{abi.FuncTOTPVerify, `{"abi":1}`, `"totp": true`},
		{abi.FuncKVCAS, `{"abi":1,"grants":{"kv":{"namespaces":[]}}}`, `"kv": {"namespaces": ["*"]}`},
		{abi.FuncHTTPFetch, `{"abi":1,"grants":{"http":{"hosts":[]}}}`, `"http": {"hosts": ["*"]}`},
		{abi.FuncSecretHMAC, `{"abi":1,"grants":{"secrets":["A","B"]}}`, ""},
		{abi.FuncKVGet, `{"abi":1,"grants":{"kv":{"namespaces":["a","b"]}}}`, ""},
		{abi.FuncHTTPFetch, `{"abi":1,"grants":{"http":{"hosts":["idp.acme.test:443"],"max_calls":5}}}`, ""},
	} {
		report := sandbox.Report{Profile: "core", Imports: []string{abi.Module + "." + c.function}}
		var beside []byte
		if c.manifest != "" {
			beside = []byte(c.manifest)
		}
		v, _, err := describe(report, beside)
		switch {
		case c.want == "" && (err != nil || len(v.Warnings) > 0):
			t.Errorf("%s with %s: %v %v", c.function, c.manifest, err, v.Warnings)
		case c.want != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s with %s: %v, want %s", c.function, c.manifest, err, c.want)
		}
	}
}

func TestAVersionThatIsSlowIsToldWhy(t *testing.T) {
	v, _, err := describe(sandbox.Report{Profile: "core", Fresh: "it has table.set at offset 120"}, nil)
	if err != nil || len(v.Warnings) != 1 || !strings.Contains(v.Warnings[0], "table.set at offset 120") {
		t.Errorf("%v, %v", v.Warnings, err)
	}
}

// A later version that may ask more often is one that is granted more.
func TestMoreRequestsAreAGrant(t *testing.T) {
	grants := func(n int) abi.Grants {
		return abi.Grants{HTTP: &abi.HTTPGrant{Hosts: []string{"idp.acme.test:443"}, MaxCalls: n}}
	}
	if added := addedGrants(grants(0), grants(5)); len(added) != 1 {
		t.Errorf("added %v", added)
	}
	if added := addedGrants(grants(2), grants(0)); len(added) != 0 {
		t.Errorf("added %v", added)
	}
}
