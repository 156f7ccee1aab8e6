package tenants_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/doorward/doorward/tenants"
)

func TestHostsAreComparedInOneForm(t *testing.T) {
	label := strings.Repeat("a", 63)
	for raw, want := range map[string]string{ // "" is refused
		"acme.test":                     "acme.test",
		"ACME.Test":                     "acme.test",
		"acme.test.":                    "acme.test",
		"acme.test:8443":                "acme.test",
		"acme.test.:443":                "acme.test",
		"localhost":                     "localhost",
		"xn--bcher-kva.test":            "xn--bcher-kva.test",
		"1.test":                        "1.test",
		"127.0.0.1.test":                "127.0.0.1.test",
		"a-b.test":                      "a-b.test",
		label + ".test":                 label + ".test",
		strings.Repeat("a.", 126) + "a": strings.Repeat("a.", 126) + "a",

		"":                               "",
		".":                              "",
		":80":                            "",
		"acme.test..":                    "",
		".acme.test":                     "",
		"acme..test":                     "",
		"-acme.test":                     "",
		"acme-.test":                     "",
		label + "a.test":                 "",
		strings.Repeat("a.", 126) + "ab": "",
		"acme.test:":                     "",
		"acme.test:0":                    "",
		"acme.test:65536":                "",
		"acme.test:+80":                  "",
		"acme.test:80:80":                "",
		"acme.test:http":                 "",
		"127.0.0.1":                      "", // an address is nobody's name
		"127.1":                          "",
		"2130706433":                     "",
		"0x7f.1":                         "",
		"0x7f000001":                     "",
		"acme.0x7f":                      "",
		"::1":                            "",
		"[::1]":                          "",
		"[::1]:80":                       "",
		"user@acme.test":                 "",
		"acme.test/":                     "",
		"acme.test,evil.test":            "",
		"acme.test evil.test":            "",
		" acme.test":                     "",
		"acme.test\n":                    "",
		"acme.test\x00":                  "",
		"acme_b.test":                    "",
		"acme%2etest":                    "",
		"bücher.test":                    "",
		"acme。test":                      "", // an ideographic full stop: browsers read a dot
		"\u212aacme.test":                "", // the Kelvin sign, which lower case makes a k
		"*.acme.test":                    "",
	} {
		got, err := tenants.NormalizeHost(raw)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("NormalizeHost(%q) = %q, %v; want %q", raw, got, err, want)
		}
	}
}

func TestOriginsAreComparedInOneForm(t *testing.T) {
	for raw, want := range map[string]string{ // "" is refused
		"https://shop.test":      "https://shop.test",
		"https://shop.test/":     "https://shop.test",
		"HTTPS://Shop.Test.":     "https://shop.test",
		"https://shop.test:443":  "https://shop.test",
		"https://shop.test:8443": "https://shop.test:8443",
		"https://shop.test:80":   "https://shop.test:80",
		"http://localhost":       "http://localhost",
		"http://LOCALHOST:80":    "http://localhost",
		"http://localhost:3000":  "http://localhost:3000",
		"http://127.0.0.1:3000":  "http://127.0.0.1:3000",
		"http://[::1]:3000":      "http://[::1]:3000",
		"http://[::1]":           "http://[::1]",
		"http://[0:0::1]/":       "http://[0:0::1]",
		"https://localhost:443":  "https://localhost",

		"":                         "",
		"shop.test":                "",
		"//shop.test":              "",
		"https://":                 "",
		"https:shop.test":          "",
		"https:/shop.test":         "",
		"https://shop.test/x":      "",
		"https://shop.test?":       "",
		"https://shop.test?a=b":    "",
		"https://shop.test#":       "",
		"https://shop.test/#x":     "",
		"https://shop.test:":       "",
		"https://shop.test:0":      "",
		"https://shop.test:65536":  "",
		"https://u@shop.test":      "",
		"https://@shop.test":       "",
		"http://shop.test":         "",
		"http://localhost.test":    "",
		"http://10.0.0.1":          "",
		"https://10.0.0.1":         "",
		"http://[::1%25lo]":        "",
		"ftp://localhost":          "",
		"javascript://localhost":   "",
		"null":                     "",
		"https://shop.test\\@evil": "",
		"https://shop.test\t":      "",
		"https://shöp.test":        "",
		"https://shop%2etest":      "",
	} {
		got, err := tenants.NormalizeOrigin(raw)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("NormalizeOrigin(%q) = %q, %v; want %q", raw, got, err, want)
		}
	}
}

// shopper has an app that may be returned to anywhere, one with a list, and one
// on a developer's machine.
var shopper = tenants.Tenant{ID: "acme", Apps: []tenants.App{
	{ID: "shop", Origin: "https://shop.test"},
	{ID: "bank", Origin: "https://bank.test:8443", ReturnURLs: []string{"https://bank.test:8443/in", "https://bank.test:8443/in?from=login"}},
	{ID: "dev", Origin: "http://localhost:3000"},
}}

func TestASignInLeadsToAnOwnPathOrToAnApp(t *testing.T) {
	const shared, own = "/t/acme", ""
	for _, c := range []struct{ base, raw, app, want string }{ // want "" is refused
		{own, "/", "", "/"},
		{own, "/account", "", "/account"},
		{own, "/account?x=1&y=%2F", "", "/account?x=1&y=%2F"},
		{own, "/a:b@c,d", "", "/a:b@c,d"},
		{shared, "/t/acme", "", "/t/acme"},
		{shared, "/t/acme/account", "", "/t/acme/account"},

		{shared, "/", "", ""},
		{shared, "/account", "", ""},
		{shared, "/t/other/account", "", ""},
		{shared, "/t/acme-b/account", "", ""},
		{shared, "/t/acme/../other", "", ""},
		{own, "/a/./b", "", ""},
		{own, "/a/..", "", ""},
		{own, "/%2e%2e/b", "", ""},
		{own, "/a%2fb", "", ""},
		{own, "/a;b", "", ""},
		{own, "/a!b", "", ""}, // written anew it would hold a percent sign
		{own, "/a[b", "", ""},
		{own, "//evil.test", "", ""},
		{own, "//", "", ""}, // once "", which leads nowhere
		{own, "//?x", "", ""},
		{own, "///evil.test", "", ""},
		{own, "/\\evil.test", "", ""},
		{own, "\\/evil.test", "", ""},
		{own, "/\t/evil.test", "", ""},
		{own, "\t//evil.test", "", ""},
		{own, " /account", "", ""},
		{own, "/account\n", "", ""},
		{own, "/a\x00", "", ""},
		{own, "/ü", "", ""},
		{own, "/a#b", "", ""},
		{own, "/a#", "", ""},
		{own, "account", "", ""},
		{own, "?x", "", ""},
		{own, "javascript:alert(1)", "", ""},
		{own, "data:text/html,x", "", ""},
		{own, "", "", ""},
		{own, "/" + strings.Repeat("a", 2048), "", ""},

		{own, "https://shop.test", "", "https://shop.test"},
		{own, "https://shop.test/deep/er?q=1", "", "https://shop.test/deep/er?q=1"},
		{shared, "HTTPS://Shop.TEST:443/in", "", "https://shop.test/in"},
		{own, "http://localhost:3000/x", "", "http://localhost:3000/x"},
		{own, "https://bank.test:8443/in", "", "https://bank.test:8443/in"},
		{own, "https://bank.test:8443/in?from=login", "", "https://bank.test:8443/in?from=login"},
		{own, "https://bank.test:8443/out", "", ""},
		{own, "https://bank.test:8443/in?from=evil", "", ""},
		{own, "https://bank.test:8443/in/", "", ""},
		{own, "https://bank.test/in", "", ""},
		{own, "http://shop.test/", "", ""},
		{own, "https://shop.test:8443/", "", ""},
		{own, "https://shop.test.evil.test/", "", ""},
		{own, "https://evil.test/https://shop.test/", "", ""},
		{own, "https://evil.test", "", ""},
		{own, "https://shop.test@evil.test/", "", ""},
		{own, "https://evil.test#@shop.test/", "", ""},
		{own, "https://evil.test\\@shop.test/", "", ""},
		{own, "https://u:p@shop.test/", "", ""},
		{own, "https:/shop.test/", "", ""},
		{own, "https:shop.test", "", ""},
		{own, "https:///shop.test", "", ""},
		{own, "https://shop.test/#token", "", ""},
		{own, "https://shop.test/a\r\nSet-Cookie: x", "", ""},
		{own, "http://localhost:3001/", "", ""},
		{own, "http://127.0.0.1:3000/", "", ""},

		{own, "", "shop", "https://shop.test/"},
		{own, "", "bank", "https://bank.test:8443/in"},
		{own, "", "nobody", ""},
		{own, "https://shop.test/x", "shop", "https://shop.test/x"},
		{own, "https://shop.test/x", "bank", ""},
		{own, "https://shop.test/x", "nobody", ""},
		{own, "/account", "shop", "/account"},
	} {
		got, ok := shopper.ReturnTo(c.base, c.raw, c.app)
		if got != c.want || ok != (c.want != "") {
			t.Errorf("ReturnTo(%q, %q, %q) = %q, %v; want %q", c.base, c.raw, c.app, got, ok, c.want)
		}
	}
}

func FuzzHost(f *testing.F) {
	for _, raw := range []string{"acme.test", "A.B:80", "127.0.0.1", "0x7f", "[::1]:80", "a..b", "a.", "xn--a", "\u212a.test"} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		host, err := tenants.NormalizeHost(raw)
		if err != nil {
			if host != "" {
				t.Fatalf("refused, and yet %q", host)
			}
			return
		}
		if again, err := tenants.NormalizeHost(host); err != nil || again != host {
			t.Fatalf("%q becomes %q, and that %q, %v", raw, host, again, err)
		}
		if strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" || len(host) > 253 || strings.Contains(host, "..") {
			t.Fatalf("%q is not a plain name", host)
		}
		u, err := url.Parse("https://" + host + "/")
		if err != nil || u.Host != host || u.Path != "/" {
			t.Fatalf("another parser reads %q as %v, %v", host, u, err)
		}
		if !strings.HasPrefix(strings.ToLower(raw), host) {
			t.Fatalf("%q does not begin with %q", raw, host)
		}
	})
}

// Whatever is asked for, a sign-in ends at a path of the tenant's own or at the
// origin of one of its apps, in a form that nobody can read as anything else.
func FuzzReturnTo(f *testing.F) {
	for _, raw := range []string{
		"/", "/t/acme/account?x=1", "//evil.test", "/\\evil.test", "/t/acme/..//evil.test", "/%2f/evil.test", "/a;b", "/a!b", "/a[b]",
		"https://shop.test/a b", "https://shop.test@evil.test", "https://bank.test:8443/in", "HTTPS://SHOP.test:443//x", "https://shop.test/%0d%0a",
		"http://localhost:3000/x?y#z", "javascript:alert(1)", "https:\\\\shop.test", "/?//evil.test", "https://shop.test/?",
	} {
		for _, app := range []string{"", "shop", "bank"} {
			f.Add(raw, app, true)
			f.Add(raw, app, false)
		}
	}
	f.Fuzz(func(t *testing.T, raw, app string, shared bool) {
		base := ""
		if shared {
			base = "/t/acme"
		}
		got, ok := shopper.ReturnTo(base, raw, app)
		if !ok {
			if got != "" {
				t.Fatalf("refused, and yet %q", got)
			}
			return
		}
		if strings.ContainsFunc(got, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '\\' || r == '#' }) {
			t.Fatalf("%q holds what a browser turns or strips", got)
		}
		if again, ok := shopper.ReturnTo(base, got, app); !ok || again != got {
			t.Fatalf("%q becomes %q, and that %q, %v", raw, got, again, ok)
		}
		u, err := url.Parse(got)
		if err != nil || u.String() != got || u.User != nil {
			t.Fatalf("another parser reads %q as %v, %v", got, u, err)
		}
		if strings.HasPrefix(got, "/") {
			path, _, _ := strings.Cut(got, "?")
			if u.Host != "" || strings.Contains(path, "//") || strings.ContainsAny(path, "%;") || strings.Contains(path+"/", "/../") || strings.Contains(path+"/", "/./") {
				t.Fatalf("%q is not a plain own path", got)
			}
			if shared && path != base && !strings.HasPrefix(path, base+"/") {
				t.Fatalf("%q is another's path", got)
			}
			return
		}
		for _, a := range shopper.Apps {
			if app != "" && a.ID != app {
				continue
			}
			if rest, ok := strings.CutPrefix(got, a.Origin); ok && (rest == "" || rest[0] == '/' || rest[0] == '?') {
				return
			}
		}
		t.Fatalf("%q is at no origin of an app that counts", got)
	})
}
