package tenants

import (
	"crypto/rand"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Invalid says what of a tenant, config or secret cannot be accepted.
type Invalid struct{ Fields []FieldError }

// FieldError is one field and what it must be. The message never repeats the
// value.
type FieldError struct{ Field, Message string }

// Error implements error with the first field.
func (e *Invalid) Error() string {
	return fmt.Sprintf("%s %s (%d in all)", e.Fields[0].Field, e.Fields[0].Message, len(e.Fields))
}

// add notes one more field.
func (e *Invalid) add(field, message string) {
	e.Fields = append(e.Fields, FieldError{field, message})
}

// or returns e when it holds anything.
func (e *Invalid) or() error {
	if len(e.Fields) == 0 {
		return nil
	}
	return e
}

// Bounds of one tenant.
const (
	maxHosts      = 32
	maxApps       = 64
	maxReturnURLs = 64
	maxLifetime   = 8760 * time.Hour
	minIdle       = time.Minute // below it is accepted with a warning
)

var idForm = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)

// newUUID returns a random UUID, version 4 (RFC 9562 §5.4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// check normalises t, fills what was left out, and returns *Invalid with every
// field that cannot be. publicHost is the shared host, which no tenant may
// have as its own.
func check(t Tenant, publicHost string) (Tenant, error) {
	bad := &Invalid{}
	if !idForm.MatchString(t.ID) {
		bad.add("id", "must be 1 to 40 of a-z, 0-9 and -")
	}
	if strings.HasPrefix(t.ID, "flow-") {
		bad.add("id", `must not begin with "flow-": under the shared host, its session cookie would have the name of another tenant's flow cookie`)
	}
	if t.Name == "" {
		t.Name = t.ID
	}
	if n := utf8.RuneCountInString(t.Name); n > 200 || !printable(t.Name) {
		bad.add("name", "must be at most 200 printable characters")
	}
	t.Hosts = checkHosts(t.Hosts, publicHost, bad)
	t.Apps = checkApps(t.Apps, bad)
	t.Session = t.Session.check(bad)
	if t.WithoutQuorum == "" {
		t.WithoutQuorum = "fail-closed"
	}
	if !quorumForm(t.WithoutQuorum) {
		bad.add("without_quorum", `must be "fail-closed" or "bounded:<seconds>" with 1 to 3600 seconds`)
	}
	return t, bad.or()
}

func checkHosts(hosts []string, publicHost string, bad *Invalid) []string {
	if len(hosts) > maxHosts {
		bad.add("hosts", "may be 32 at the most")
		return nil
	}
	var list []string
	for i, raw := range hosts {
		field := "hosts." + strconv.Itoa(i)
		host, err := NormalizeHost(raw)
		switch {
		case err != nil:
			bad.add(field, "must be a plain DNS name such as login.acme.test")
		case host == publicHost:
			bad.add(field, "is the host of public_url, under which every tenant is found at /t/{id} already")
		case isLoopback(host):
			bad.add(field, "is a name of this machine: nobody else would find the tenant there, and dev has it for public_url")
		case slices.Contains(list, host):
			bad.add(field, "is there twice")
		default:
			list = append(list, host)
		}
	}
	return list
}

func checkApps(apps []App, bad *Invalid) []App {
	if len(apps) > maxApps {
		bad.add("apps", "may be 64 at the most")
		return nil
	}
	var list []App
	for i, a := range apps {
		field := "apps." + strconv.Itoa(i)
		if !idForm.MatchString(a.ID) || slices.ContainsFunc(list, func(b App) bool { return b.ID == a.ID }) {
			bad.add(field+".id", "must be 1 to 40 of a-z, 0-9 and -, and there once")
		}
		origin, err := NormalizeOrigin(a.Origin)
		if err != nil {
			bad.add(field+".origin", "must be https://host[:port] and nothing after it; http is for loopback hosts only")
		}
		checked := App{ID: a.ID, Origin: origin}
		if len(a.ReturnURLs) > maxReturnURLs {
			bad.add(field+".return_urls", "may be 64 at the most")
			a.ReturnURLs = nil
		}
		for j, raw := range a.ReturnURLs {
			u, err := absolute(raw)
			if err != nil || originOf(u) != origin {
				bad.add(fmt.Sprintf("%s.return_urls.%d", field, j), "must be an absolute URL of the app's origin, without a fragment")
				continue
			}
			checked.ReturnURLs = append(checked.ReturnURLs, u.String())
		}
		list = append(list, checked)
	}
	return list
}

// check fills what was left out and notes what cannot be.
func (p Policy) check(bad *Invalid) Policy {
	for _, d := range []struct {
		of    *time.Duration
		usual time.Duration
	}{{&p.Idle, 30 * time.Minute}, {&p.Absolute, 12 * time.Hour}, {&p.Remember, 720 * time.Hour}} {
		if *d.of == 0 {
			*d.of = d.usual
		}
	}
	if p.MaxPerSubject == 0 {
		p.MaxPerSubject = 10
	}
	if p.Idle < time.Second {
		bad.add("session.idle", "must be 1s or more")
	}
	if p.Absolute < p.Idle {
		bad.add("session.absolute", "must not be shorter than idle")
	}
	if p.Remember < p.Absolute {
		bad.add("session.remember", "must not be shorter than absolute")
	}
	if p.Remember > maxLifetime || p.Absolute > maxLifetime || p.Idle > maxLifetime {
		bad.add("session", "must not live longer than 8760h")
	}
	if p.MaxPerSubject < 1 || p.MaxPerSubject > 1000 {
		bad.add("session.max_per_subject", "must be 1 to 1000")
	}
	return p
}

// Warnings says what is allowed but seldom meant.
func (t Tenant) Warnings() []string {
	if t.Session.Idle < minIdle {
		return []string{"session.idle is below 60s: people will be signed out while they read"}
	}
	return nil
}

func quorumForm(s string) bool {
	_, ok := boundOf(s)
	return ok || s == "fail-closed"
}

// boundOf reads "bounded:<seconds>".
func boundOf(s string) (time.Duration, bool) {
	text, ok := strings.CutPrefix(s, "bounded:")
	if !ok {
		return 0, false // every validate asks; an error costs more than the rest of it
	}
	n, err := strconv.Atoi(text)
	return time.Duration(n) * time.Second, err == nil && n >= 1 && n <= 3600 && strconv.Itoa(n) == text
}

// Bounded is how long the tenant's sessions may be believed while no majority
// of the store can be asked: 0 for "fail-closed".
func (t Tenant) Bounded() time.Duration {
	bound, ok := boundOf(t.WithoutQuorum)
	if !ok {
		return 0
	}
	return bound
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
