package pages_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/service/pages"
)

var update = flag.Bool("update", false, "write the golden files anew")

// began is when the sample sessions began.
var began = time.Date(2026, 11, 25, 7, 10, 0, 0, time.UTC)

// views are the pages with sample data, as they stand in testdata.
var views = map[string]pages.View{
	"login":           pages.Login{Tenant: "Acme & Sons", App: "shop.test", Action: "/t/acme/login", Stylesheet: "/t/acme/assets/x.css", Flow: "sealed"},
	"login_error":     pages.Login{Tenant: "Acme & Sons", Action: "/login", Stylesheet: "/assets/x.css", Flow: "sealed", Username: "alice", Remember: true, Error: "The user name or password is not right.", RequestID: "R1"},
	"challenge":       pages.Challenge{Tenant: "Acme", Action: "/login/challenge", Stylesheet: "/assets/x.css", Flow: "sealed", Username: "alice", Type: "otp", Digits: 6, Prompt: "Enter the code from your app.", StartOver: "/login"},
	"challenge_error": pages.Challenge{Tenant: "Acme", Action: "/login/challenge", Stylesheet: "/assets/x.css", Flow: "sealed", Type: "custom", StartOver: "/login", Error: "That was not right.", RequestID: "R2"},
	"logout":          pages.Logout{Tenant: "Acme", Action: "/logout", Stylesheet: "/assets/x.css", Flow: "sealed", SignedIn: true},
	"signed_out":      pages.Logout{Tenant: "Acme", Stylesheet: "/assets/x.css", LoginURL: "/login"},
	"account": pages.Account{
		Tenant: "Acme", Subject: "alice", Action: "/account", Stylesheet: "/assets/x.css", Flow: "sealed", LogoutURL: "/logout",
		Sessions: []pages.AccountSession{
			{ID: "ses_1", Current: true, Device: "Firefox on Linux", IP: "192.0.2.1", Began: began, Seen: began.Add(time.Hour)},
			{ID: "ses_2", Device: "curl", IP: "2001:db8::1", Began: began.Add(-time.Hour), Seen: began},
		},
	},
	"account_alone": pages.Account{
		Tenant: "Acme", Subject: "alice", Action: "/account", Stylesheet: "/assets/x.css", Flow: "sealed", LogoutURL: "/logout",
		Sessions: []pages.AccountSession{{ID: "ses_1", Current: true, Device: "Firefox on Linux", IP: "192.0.2.1", Began: began, Seen: began}},
	},
	"message": pages.Message{Title: "Not found", Text: "There is nothing at this address.", Stylesheet: "/assets/x.css", RequestID: "R3"},
}

func render(t *testing.T, v pages.View) string {
	t.Helper()
	var out bytes.Buffer
	if err := pages.Render(&out, v); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestPagesAreAsTheyWere(t *testing.T) {
	for name, v := range views {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", name+".html")
			got := render(t, v)
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("page differs from %s (run with -update if that is right):\n%s", path, diff)
			}
		})
	}
}

func TestPagesHoldNothingThatThePolicyForbids(t *testing.T) {
	for name, v := range views {
		page := render(t, v)
		for _, forbidden := range []string{"<script", "<style", " style=", " onload", " onclick", "javascript:", "http://", "https://", "data:"} {
			if strings.Contains(page, forbidden) {
				t.Errorf("%s holds %q", name, forbidden)
			}
		}
		for _, wanted := range []string{`<html lang="en">`, "<title>", "<h1>", `name="viewport"`} {
			if !strings.Contains(page, wanted) {
				t.Errorf("%s lacks %q", name, wanted)
			}
		}
	}
}

func TestHostileWordsStayWords(t *testing.T) {
	for _, evil := range []string{`"><svg onload=alert(1)>`, `</title><script>alert(1)</script>`, `{{.Flow}}`, `javascript:alert(1)`, "' autofocus onfocus=alert(1) '"} {
		for _, v := range []pages.View{
			pages.Login{Tenant: evil, App: evil, Action: evil, Stylesheet: evil, Flow: evil, Username: evil, Error: evil, RequestID: evil},
			pages.Challenge{Tenant: evil, App: evil, Action: evil, Stylesheet: evil, Flow: evil, Username: evil, Type: evil, Prompt: evil, StartOver: evil, Error: evil, RequestID: evil},
			pages.Logout{Tenant: evil, Action: evil, Stylesheet: evil, Flow: evil, SignedIn: true, LoginURL: evil},
			pages.Account{Tenant: evil, Subject: evil, Action: evil, Stylesheet: evil, Flow: evil, LogoutURL: evil, Sessions: []pages.AccountSession{{ID: evil, Device: evil, IP: evil}}},
			pages.Message{Title: evil, Text: evil, Stylesheet: evil, RequestID: evil, LoginURL: evil},
		} {
			page := render(t, v)
			if strings.Contains(page, "<svg") || strings.Contains(page, "<script") || strings.Contains(page, `href="javascript:`) || strings.Contains(page, `action="javascript:`) || strings.Contains(page, "' autofocus onfocus") {
				t.Errorf("%T lets %q out:\n%s", v, evil, page)
			}
		}
	}
}

func TestTheStylesheetIsSmallAndNamedByItsContent(t *testing.T) {
	name, css := pages.Stylesheet()
	if len(css) == 0 || len(css) > 8<<10 || !strings.HasSuffix(name, ".css") || len(name) != 20 {
		t.Errorf("%s has %d bytes", name, len(css))
	}
	if bytes.Contains(css, []byte("url(")) || bytes.Contains(css, []byte("@import")) {
		t.Error("it loads something else")
	}
}
