package plugins_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/sdk/abi"
)

func TestWhatAGuestMayAnswer(t *testing.T) {
	claims := func(n int) string { return `{"k":"` + strings.Repeat("x", n-8) + `"}` } // n bytes
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	accept := func(members string) string { return `{"decision":"accept","subject":"a"` + members + `}` }
	ask := func(members string) string { return `{"decision":"challenge","type":"otp"` + members + `}` }
	const refused, fine = false, true
	for name, c := range map[string]struct {
		answer string
		good   bool
	}{
		"accept":                          {accept(``), fine},
		"accept with all it may have":     {accept(`,"claims":{"role":"x"},"amr":["pwd","otp"]`), fine},
		"space around":                    {" " + accept(``) + "\n", fine},
		"a subject of 256 characters":     {`{"decision":"accept","subject":"` + strings.Repeat("ü", 256) + `"}`, fine},
		"a subject of 257 characters":     {`{"decision":"accept","subject":"` + strings.Repeat("ü", 257) + `"}`, refused},
		"an empty subject":                {`{"decision":"accept","subject":""}`, refused},
		"no subject":                      {`{"decision":"accept"}`, refused},
		"a subject with a line feed":      {`{"decision":"accept","subject":"a\nb"}`, refused},
		"a subject that turns the line":   {`{"decision":"accept","subject":"a\u202eb"}`, refused},
		"a subject with a zero":           {`{"decision":"accept","subject":"a\u0000"}`, refused},
		"a subject that is a number":      {`{"decision":"accept","subject":7}`, refused},
		"a subject in another case":       {`{"decision":"accept","Subject":"a"}`, refused},
		"claims of 8 KiB":                 {accept(`,"claims":` + claims(8<<10)), fine},
		"claims above 8 KiB":              {accept(`,"claims":` + claims(8<<10+1)), refused},
		"claims that are null":            {accept(`,"claims":null`), fine},
		"claims that are a list":          {accept(`,"claims":[]`), refused},
		"claims that are text":            {accept(`,"claims":"null"`), refused},
		"nine methods":                    {accept(`,"amr":["a","a","a","a","a","a","a","a","a"]`), refused},
		"a method without a name":         {accept(`,"amr":[""]`), refused},
		"a method of 33 letters":          {accept(`,"amr":["` + strings.Repeat("a", 33) + `"]`), refused},
		"methods that are text":           {accept(`,"amr":"pwd"`), refused},
		"nested eight deep":               {accept(`,"claims":{"k":` + nested(6) + `}`), fine},
		"nested nine deep":                {accept(`,"claims":{"k":` + nested(7) + `}`), refused},
		"brackets in a text are no depth": {accept(`,"claims":{"k":"` + strings.Repeat(`[\"{`, 20) + `"}`), fine},
		"a hundred thousand deep":         {nested(32000), refused},

		"reject":                   {`{"decision":"reject"}`, fine},
		"reject with a reason":     {`{"decision":"reject","code":"locked","detail":"x"}`, fine},
		"reject for a new reason":  {`{"decision":"reject","code":"teapot"}`, refused},
		"no decision":              {`{"subject":"a"}`, refused},
		"another decision":         {`{"decision":"maybe"}`, refused},
		"a decision in capitals":   {`{"decision":"ACCEPT","subject":"a"}`, refused},
		"a decision that is true":  {`{"decision":true}`, refused},
		"a decision in other case": {`{"Decision":"accept","subject":"a"}`, refused},

		"challenge":                   {ask(``), fine},
		"challenge of the other type": {`{"decision":"challenge","type":"custom","public":{"q":1},"private":[1],"ttl":900,"max_attempts":10}`, fine},
		"challenge of no type":        {`{"decision":"challenge"}`, refused},
		"challenge of a new type":     {`{"decision":"challenge","type":"webauthn"}`, refused},
		"challenge for too long":      {ask(`,"ttl":901`), refused},
		"challenge below zero":        {ask(`,"ttl":-1`), refused},
		"challenge for ever":          {ask(`,"ttl":1e300`), refused},
		"eleven attempts":             {ask(`,"max_attempts":11`), refused},
		"attempts below zero":         {ask(`,"max_attempts":-1`), refused},
		"public of 8 KiB":             {ask(`,"public":` + claims(8<<10)), fine},
		"public above 8 KiB":          {ask(`,"public":` + claims(8<<10+1)), refused},
		"public that is a list":       {ask(`,"public":[]`), refused},
		"private above 8 KiB":         {ask(`,"private":` + claims(8<<10+1)), refused},

		"nothing":                    {``, refused},
		"no JSON":                    {`accept`, refused},
		"half an object":             {`{"decision":"accept","subject":"a"`, refused},
		"two objects":                {accept(``) + accept(``), refused},
		"something after it":         {accept(``) + `x`, refused},
		"null":                       {`null`, refused},
		"a list":                     {`[` + accept(``) + `]`, refused},
		"text":                       {`"accept"`, refused},
		"a name twice":               {`{"decision":"reject","decision":"accept","subject":"a"}`, refused},
		"a name twice, once escaped": {`{"decision":"reject","\u0064ecision":"accept","subject":"a"}`, refused},
		"a name twice, deeper":       {accept(`,"claims":{"role":"user","role":"admin"}`), refused},
		"a byte order mark":          {"\ufeff" + accept(``), refused},
		"no UTF-8":                   {accept(`,"claims":{"k":"` + "\xff" + `"}`), refused},
		"half a surrogate":           {accept(`,"claims":{"k":"\ud800"}`), refused},
		"64 KiB":                     {accept(``) + strings.Repeat(" ", abi.MaxOutput-len(accept(``))), fine},
		"above 64 KiB":               {accept(``) + strings.Repeat(" ", abi.MaxOutput-len(accept(``))+1), refused},
	} {
		_, _, err := plugins.ReadAnswer([]byte(c.answer))
		if (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range abi.ReservedClaims {
		if _, _, err := plugins.ReadAnswer([]byte(accept(`,"claims":{"` + name + `":1}`))); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("the claim %s: %v", name, err)
		}
		if _, _, err := plugins.ReadAnswer([]byte(accept(`,"claims":{"of":{"` + name + `":1}}`))); err != nil {
			t.Errorf("the claim %s, deeper: %v", name, err)
		}
	}
}

func TestWhatAGuestLeavesOutIsFilled(t *testing.T) {
	for answer, want := range map[string]abi.Verdict{
		`{"decision":"accept","subject":"a"}`:           {Decision: abi.Accept, Subject: "a", Claims: []byte(`{}`)},
		`{"decision":"reject"}`:                         {Decision: abi.Reject, Code: abi.BadCredentials},
		`{"decision":"challenge","type":"otp"}`:         {Decision: abi.Challenge, Type: "otp", TTL: 300, MaxAttempts: 5},
		`{"decision":"challenge","type":"otp","ttl":1}`: {Decision: abi.Challenge, Type: "otp", TTL: 1, MaxAttempts: 5},
	} {
		if got, unknown, err := plugins.ReadAnswer([]byte(answer)); err != nil || len(unknown) > 0 || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s is read as %+v, %v, %v", answer, got, unknown, err)
		}
	}
	_, unknown, err := plugins.ReadAnswer([]byte(`{"zeta":1,"decision":"reject","alpha":{}}`))
	if err != nil || !slices.Equal(unknown, []string{"alpha", "zeta"}) {
		t.Errorf("members of a newer contract: %v, %v", unknown, err)
	}
}

// Whatever bytes a guest leaves, reading them ends in a verdict that holds what
// is promised, or in an error.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"decision":"accept","subject":"a","claims":{"k":[1,{"x":null}]},"amr":["pwd"]}`, `{"decision":"reject","code":"locked"}`,
		`{"decision":"challenge","type":"otp","public":{},"private":1,"ttl":5,"max_attempts":2}`, `[[[[`, `{"decision":"accept","decision":"x"}`, "\ufeff{}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, output []byte) {
		v, _, err := plugins.ReadAnswer(output)
		if err != nil {
			return
		}
		switch v.Decision {
		case abi.Accept:
			if v.Subject == "" || len(v.Claims) < 2 || v.Claims[0] != '{' || len(v.Claims) > abi.MaxClaims {
				t.Fatalf("accepted %q with %q", v.Subject, v.Claims)
			}
		case abi.Challenge:
			if v.TTL < 1 || v.TTL > abi.MaxTTL || v.MaxAttempts < 1 || v.MaxAttempts > abi.MaxAttempts {
				t.Fatalf("asks %+v", v)
			}
		case abi.Reject:
			if v.Code == "" {
				t.Fatal("rejects for no reason")
			}
		default:
			t.Fatalf("decides %q", v.Decision)
		}
	})
}
