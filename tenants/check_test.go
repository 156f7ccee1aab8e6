package tenants_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/tenants"
)

// many makes n values.
func many[T any](n int, make func(i int) T) []T {
	var list []T
	for i := range n {
		list = append(list, make(i))
	}
	return list
}

func TestWhatATenantMayBe(t *testing.T) {
	registry := tenants.NewRegistry(tenants.NewMemory(), tenants.RegistryConfig{PublicHost: "login.example"})
	host := func(i int) string { return fmt.Sprintf("h%d.test", i) }
	app := func(i int) tenants.App { return tenants.App{ID: fmt.Sprint("a", i), Origin: "https://a.test"} }
	url := func(i int) string { return fmt.Sprint("https://a.test/", i) }
	policy := func(p tenants.Policy) func(*tenants.Tenant) { return func(t *tenants.Tenant) { t.Session = p } }
	with := func(a tenants.App) func(*tenants.Tenant) {
		return func(t *tenants.Tenant) { t.Apps = []tenants.App{a} }
	}
	for _, c := range []struct {
		name string
		set  func(t *tenants.Tenant)
		bad  []string // the fields refused; none: accepted
	}{
		{"the least", func(t *tenants.Tenant) { t.ID = "-" }, nil},
		{"the longest id", func(t *tenants.Tenant) { t.ID = strings.Repeat("a", 40) }, nil},
		{"no id", func(t *tenants.Tenant) { t.ID = "" }, []string{"id"}},
		{"too long an id", func(t *tenants.Tenant) { t.ID = strings.Repeat("a", 41) }, []string{"id"}},
		{"capitals in the id", func(t *tenants.Tenant) { t.ID = "Acme" }, []string{"id"}},
		{"a line after the id", func(t *tenants.Tenant) { t.ID, t.Name = "acme\n", "n" }, []string{"id"}},
		{"a slash in the id", func(t *tenants.Tenant) { t.ID = "a/b" }, []string{"id"}},

		{"200 characters of name", func(t *tenants.Tenant) { t.Name = strings.Repeat("ü", 200) }, nil},
		{"201 characters of name", func(t *tenants.Tenant) { t.Name = strings.Repeat("ü", 201) }, []string{"name"}},
		{"a name that turns the line", func(t *tenants.Tenant) { t.Name = "a\u202eb" }, []string{"name"}},
		{"a name with a line feed", func(t *tenants.Tenant) { t.Name = "a\nb" }, []string{"name"}},
		{"a name that is no UTF-8", func(t *tenants.Tenant) { t.Name = "a\xffb" }, []string{"name"}},

		{"32 hosts", func(t *tenants.Tenant) { t.Hosts = many(32, host) }, nil},
		{"33 hosts", func(t *tenants.Tenant) { t.Hosts = many(33, host) }, []string{"hosts"}},
		{"a host twice, written differently", func(t *tenants.Tenant) { t.Hosts = []string{"a.test", "A.test.:443"} }, []string{"hosts.1"}},
		{"the shared host", func(t *tenants.Tenant) { t.Hosts = []string{"a.test", "Login.Example"} }, []string{"hosts.1"}},
		{"hosts that are none", func(t *tenants.Tenant) { t.Hosts = []string{"https://a.test", "", "127.0.0.1"} }, []string{"hosts.0", "hosts.1", "hosts.2"}},

		{"64 apps", func(t *tenants.Tenant) { t.Apps = many(64, app) }, nil},
		{"65 apps", func(t *tenants.Tenant) { t.Apps = many(65, app) }, []string{"apps"}},
		{"an app twice", func(t *tenants.Tenant) { t.Apps = []tenants.App{app(1), app(1)} }, []string{"apps.1.id"}},
		{"an app without an id", with(tenants.App{Origin: "https://a.test"}), []string{"apps.0.id"}},
		{"an origin over http", with(tenants.App{ID: "a", Origin: "http://a.test"}), []string{"apps.0.origin"}},
		{"an origin over http on loopback", with(tenants.App{ID: "a", Origin: "http://127.0.0.1:3000"}), nil},
		{"an origin with a path", with(tenants.App{ID: "a", Origin: "https://a.test/x"}), []string{"apps.0.origin"}},
		{"an origin that is a script", with(tenants.App{ID: "a", Origin: "javascript:alert(1)"}), []string{"apps.0.origin"}},
		{"64 return URLs", with(tenants.App{ID: "a", Origin: "https://a.test", ReturnURLs: many(64, url)}), nil},
		{"65 return URLs", with(tenants.App{ID: "a", Origin: "https://a.test", ReturnURLs: many(65, url)}), []string{"apps.0.return_urls"}},
		{"a return URL elsewhere", with(tenants.App{ID: "a", Origin: "https://a.test", ReturnURLs: []string{"https://a.test/", "https://b.test/"}}), []string{"apps.0.return_urls.1"}},
		{"a return URL with a fragment", with(tenants.App{ID: "a", Origin: "https://a.test", ReturnURLs: []string{"https://a.test/#x"}}), []string{"apps.0.return_urls.0"}},
		{"a return URL that is a path", with(tenants.App{ID: "a", Origin: "https://a.test", ReturnURLs: []string{"/in"}}), []string{"apps.0.return_urls.0"}},

		{"the shortest sessions", policy(tenants.Policy{Idle: time.Second, Absolute: time.Second, Remember: time.Second, MaxPerSubject: 1}), nil},
		{"the longest sessions", policy(tenants.Policy{Idle: 8760 * time.Hour, Absolute: 8760 * time.Hour, Remember: 8760 * time.Hour, MaxPerSubject: 1000}), nil},
		{"idle below a second", policy(tenants.Policy{Idle: time.Second - 1}), []string{"session.idle"}},
		{"idle below zero", policy(tenants.Policy{Idle: -time.Hour}), []string{"session.idle"}},
		{"absolute below idle", policy(tenants.Policy{Idle: time.Hour, Absolute: time.Minute}), []string{"session.absolute"}},
		{"remember below absolute", policy(tenants.Policy{Absolute: 10 * time.Hour, Remember: 9 * time.Hour}), []string{"session.remember"}},
		{"longer than a year", policy(tenants.Policy{Remember: 8760*time.Hour + 1}), []string{"session"}},
		{"1001 sessions a subject", policy(tenants.Policy{MaxPerSubject: 1001}), []string{"session.max_per_subject"}},
		{"-1 sessions a subject", policy(tenants.Policy{MaxPerSubject: -1}), []string{"session.max_per_subject"}},

		{"bounded for a second", func(t *tenants.Tenant) { t.WithoutQuorum = "bounded:1" }, nil},
		{"bounded for an hour", func(t *tenants.Tenant) { t.WithoutQuorum = "bounded:3600" }, nil},
		{"bounded for nothing", func(t *tenants.Tenant) { t.WithoutQuorum = "bounded:0" }, []string{"without_quorum"}},
		{"bounded for too long", func(t *tenants.Tenant) { t.WithoutQuorum = "bounded:3601" }, []string{"without_quorum"}},
		{"bounded with a unit", func(t *tenants.Tenant) { t.WithoutQuorum = "bounded:30s" }, []string{"without_quorum"}},
		{"bounded with a sign", func(t *tenants.Tenant) { t.WithoutQuorum = "bounded:+30" }, []string{"without_quorum"}},
		{"seconds alone", func(t *tenants.Tenant) { t.WithoutQuorum = "30" }, []string{"without_quorum"}},
		{"open", func(t *tenants.Tenant) { t.WithoutQuorum = "fail-open" }, []string{"without_quorum"}},

		{"all wrong at once", func(t *tenants.Tenant) { t.ID, t.Name, t.Hosts = "", "\n", []string{"x y"} }, []string{"id", "name", "hosts.0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := tenants.Tenant{ID: "acme"}
			c.set(&in)
			checked, err := registry.Check(in)
			var fields []string
			var invalid *tenants.Invalid
			if errors.As(err, &invalid) {
				for _, f := range invalid.Fields {
					fields = append(fields, f.Field)
				}
			} else if err != nil {
				t.Fatalf("err = %v", err)
			}
			if !slices.Equal(fields, c.bad) {
				t.Fatalf("refused %v, want %v", fields, c.bad)
			}
			if again, err := registry.Check(checked); c.bad == nil && (err != nil || fmt.Sprint(again) != fmt.Sprint(checked)) {
				t.Errorf("a checked tenant is not the same when it is checked again: %+v, %v", again, err)
			}
		})
	}
}

// An error names fields and never what stood there: it may be a secret.
func TestAnInvalidFieldIsNotEchoed(t *testing.T) {
	registry := tenants.NewRegistry(tenants.NewMemory(), tenants.RegistryConfig{})
	const secret = "hunter2 hunter2"
	_, err := registry.Check(tenants.Tenant{
		ID: secret, Hosts: []string{secret}, WithoutQuorum: secret,
		Apps: []tenants.App{{ID: secret, Origin: secret, ReturnURLs: []string{secret}}},
	})
	var invalid *tenants.Invalid
	if !errors.As(err, &invalid) || len(invalid.Fields) != 6 {
		t.Fatalf("err = %v", err)
	}
	if text := fmt.Sprintf("%v %+v", err, invalid.Fields); strings.Contains(text, "hunter2") {
		t.Errorf("echoed: %s", text)
	}
	if err := tenants.CheckSecret("bad name", tenants.Secret(secret)); err == nil || strings.Contains(fmt.Sprintf("%#v", err), "hunter2") {
		t.Errorf("err = %v", err)
	}
}

func TestShortIdleTimesAreWarnedOf(t *testing.T) {
	for idle, warnings := range map[time.Duration]int{time.Minute - 1: 1, time.Minute: 0} {
		if got := (tenants.Tenant{Session: tenants.Policy{Idle: idle}}).Warnings(); len(got) != warnings {
			t.Errorf("idle %v: %v", idle, got)
		}
	}
}

func TestConfigAndSecretsHaveBounds(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		good bool
	}{
		"the largest config":       {tenants.CheckConfig(make([]byte, tenants.MaxConfig)), true},
		"a config too large":       {tenants.CheckConfig(make([]byte, tenants.MaxConfig+1)), false},
		"the largest secret":       {tenants.CheckSecret("A_b.9-", make(tenants.Secret, tenants.MaxSecret)), true},
		"a secret too large":       {tenants.CheckSecret("s", make(tenants.Secret, tenants.MaxSecret+1)), false},
		"an empty secret":          {tenants.CheckSecret("s", nil), false},
		"a secret without a name":  {tenants.CheckSecret("", tenants.Secret("x")), false},
		"a name of 64":             {tenants.CheckSecret(strings.Repeat("n", 64), tenants.Secret("x")), true},
		"a name of 65":             {tenants.CheckSecret(strings.Repeat("n", 65), tenants.Secret("x")), false},
		"a name with a slash":      {tenants.CheckSecret("a/b", tenants.Secret("x")), false},
		"a name with a line feed":  {tenants.CheckSecret("a\n", tenants.Secret("x")), false},
		"the 64th secret":          {tenants.CheckSecretCount(many(63, func(i int) string { return fmt.Sprint(i) }), "new"), true},
		"the 65th secret":          {tenants.CheckSecretCount(many(64, func(i int) string { return fmt.Sprint(i) }), "new"), false},
		"one of the 64, once more": {tenants.CheckSecretCount(many(64, func(i int) string { return fmt.Sprint(i) }), "7"), true},
	} {
		var invalid *tenants.Invalid
		if good := c.err == nil; good != c.good || !good && !errors.As(c.err, &invalid) {
			t.Errorf("%s: %v", name, c.err)
		}
	}
}

func TestKeySecretsAreTakenToTheLetterAndPrintAsRedacted(t *testing.T) {
	secret := tenants.NewKeySecret()
	text := secret.Reveal()
	if got, err := tenants.ParseKeySecret(text); err != nil || got.Digest() != secret.Digest() {
		t.Fatalf("its own text: %v", err)
	}
	for i := range text {
		changed := []byte(text)
		if changed[i] == 'A' {
			changed[i] = 'B'
		} else {
			changed[i] = 'A'
		}
		if _, err := tenants.ParseKeySecret(string(changed)); !errors.Is(err, tenants.ErrKey) {
			t.Errorf("changed at %d: %v", i, err)
		}
	}
	for _, other := range []string{"", text[1:], text[:len(text)-1], text + "0", " " + text, text + "\n", strings.ToLower(text)} {
		if _, err := tenants.ParseKeySecret(other); !errors.Is(err, tenants.ErrKey) {
			t.Errorf("%q is taken", other)
		}
	}
	for _, printed := range []string{fmt.Sprint(secret), fmt.Sprintf("%#v", secret), fmt.Sprintf("%+v", struct{ K tenants.KeySecret }{secret}), fmt.Sprintf("%v %#v", tenants.Secret("hunter2"), tenants.Secret("hunter2"))} {
		if strings.Contains(printed, text[4:20]) || strings.Contains(printed, "hunter2") || !strings.Contains(printed, "redacted") {
			t.Errorf("printed as %s", printed)
		}
	}
}

// Under the shared host the session cookie of "flow-acme" and the flow cookie of
// "acme" are both __Host-doorward-flow-acme: a look at acme's sign-in page ended
// the other's session.
func TestNoTenantsCookieIsAnothersFlow(t *testing.T) {
	registry := tenants.NewRegistry(tenants.NewMemory(), tenants.RegistryConfig{})
	var bad *tenants.Invalid
	if _, err := registry.New(tenants.Tenant{ID: "flow-acme"}); !errors.As(err, &bad) || bad.Fields[0].Field != "id" {
		t.Errorf("flow-acme: %v, want its id refused", err)
	}
	for _, id := range []string{"flow", "flower", "acme-flow"} {
		if _, err := registry.New(tenants.Tenant{ID: id}); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}
