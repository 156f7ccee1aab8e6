package plugins

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

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
	if _, err := readManifest([]byte(`{"abi":1,"name":"acme","version":"1.4.2","methods":["password"],"grants":{"secrets":["LDAP_PW"],"password":["argon2id"]}}`)); err != nil {
		t.Errorf("an honest one: %v", err)
	}
}
