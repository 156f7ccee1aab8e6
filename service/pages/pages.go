package pages

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io"
	"sync"
	"time"
)

// View is what a page shows. Each kind of page has a type.
type View interface{ template() string }

// Login is the sign-in form.
type Login struct {
	Tenant     string // display name
	App        string // where the user comes from; may be empty
	Action     string // address of the form
	Stylesheet string // address
	Flow       string // sealed value that the form brings back
	Username   string // as typed before; never the password
	Remember   bool
	Error      string // one sentence; may be empty
	RequestID  string // shown with an error
}

// Challenge is the form of a second step.
type Challenge struct {
	Tenant, App, Action, Stylesheet, Flow string

	Username  string // who it is about
	Type      string // "otp" asks for a code, anything else for an answer
	Prompt    string // the verifier's own words; may be empty
	Digits    int    // of a code; 0 when it is not known
	StartOver string // address
	Error     string
	RequestID string
}

// Logout asks before it signs out, and says when nobody is signed in.
type Logout struct {
	Tenant, Action, Stylesheet, Flow string

	SignedIn bool
	LoginURL string
}

// Account is where a sign-in ends that was for no app: who is signed in, where,
// and a form that ends sessions.
type Account struct {
	Tenant, Subject, Action, Stylesheet, Flow, LogoutURL string

	Sessions []AccountSession // the current one among them
}

// AccountSession is one session as its owner may recognise it.
type AccountSession struct {
	ID      string // public handle, the value that the form sends
	Current bool   // of the browser that looks at the page
	Device  string // in words, such as "Firefox on Linux"
	IP      string
	Began   time.Time
	Seen    time.Time
}

// Others is how many sessions the form can end.
func (a Account) Others() int {
	n := 0
	for _, s := range a.Sessions {
		if !s.Current {
			n++
		}
	}
	return n
}

// Message says what went wrong, and what to do.
type Message struct {
	Title, Text, Stylesheet, RequestID string

	LoginURL string // where to begin again; empty where there is no tenant
}

func (Login) template() string     { return "login.html" }
func (Challenge) template() string { return "challenge.html" }
func (Logout) template() string    { return "logout.html" }
func (Account) template() string   { return "account.html" }
func (Message) template() string   { return "message.html" }

//go:embed templates/*.html style.css
var files embed.FS

var templates = sync.OnceValue(func() *template.Template {
	words := template.FuncMap{
		"machine": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"day":     func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04 UTC") },
	}
	return template.Must(template.New("").Funcs(words).ParseFS(files, "templates/*.html"))
})

// Render writes the page of v.
func Render(w io.Writer, v View) error {
	if err := templates().ExecuteTemplate(w, v.template(), v); err != nil {
		return fmt.Errorf("draw page: %w", err)
	}
	return nil
}

var stylesheet = sync.OnceValues(func() (string, []byte) {
	css, err := files.ReadFile("style.css")
	if err != nil {
		panic("pages: " + err.Error()) // it is embedded
	}
	sum := sha256.Sum256(css)
	return hex.EncodeToString(sum[:8]) + ".css", css
})

// Stylesheet returns the one file that pages need besides themselves, under a
// name that changes with its content.
func Stylesheet() (name string, css []byte) { return stylesheet() }
