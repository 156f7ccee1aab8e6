// Command http-bridge is a ready-made verifier that asks a system which is there
// already: keep the old login endpoint, and let Doorward have the sessions. The
// configuration key "http_bridge" says what to send, and how to read the answer:
//
//	{"url": "https://old.acme.test/login",
//	 "json": {"user": "{username}", "pass": "{password}"},
//	 "headers": {"authorization": "Bearer {secret:BRIDGE_TOKEN}"},
//	 "yes": {"status": [200], "pointer": "/ok", "equals": true},
//	 "no": [{"status": [401]}, {"status": [423], "code": "locked"}],
//	 "subject": "/user/id",
//	 "claims": {"role": "/user/role"}}
//
// The manifest has the exact hosts and the secrets' names, so this module comes
// without one, and it is given at the upload:
//
//	doorward verifier push --tenant acme --manifest bridge.manifest.json --activate http-bridge.wasm
//
//	{"abi":1,"name":"http-bridge","version":"1.0.0","methods":["password"],"limits":{"wall_ms":5000,"cpu_ms":200},
//	 "grants":{"config":true,"http":{"hosts":["old.acme.test:443"]},"secrets":["BRIDGE_TOKEN"]}}
//
// It names a secret even where the configuration has no use for one, and that
// secret need not be set.
//
// # What is sent
//
// method is POST unless it is given. The body is one of form (an object of fields)
// and json (any JSON). basic, {"username":"{username}","password":"{password}"},
// is HTTP's Basic authentication. Placeholders in their texts, in headers and in url
// are
//
//	{username} {password} {code}           what the user typed; {code} in the second step
//	{credential:NAME}                      another field of the credential
//	{secret:NAME}                          a secret that the manifest names
//	{kept:NAME}                            what the first step kept, in the second
//	{ip} {user_agent} {app} {tenant} {request_id}
//
// and each is escaped for its place. Passwords, codes and secrets are refused in
// url, and there is no placeholder in its host.
//
// # How the answer is read
//
// A rule has a status (any of a list), and may look at one of: pointer, a JSON
// pointer into the body, which equals something (true if not said); header, which
// equals a text; and contains, a text that the body, or what pointer or header
// names, contains. yes is one rule, {"status":[200]} if not said. no is a list of
// rules, each with one of the codes bad_credentials (if not said), locked, expired
// and denied. If not said, no is 401 and 403, and what has yes's status, but
// another value where its pointer points.
//
// An answer that is neither, any 5xx, and no answer are not "wrong password": the
// login ends as 503 verifier_unavailable, and the tenant's log says what came.
//
// subject is a pointer to a text or a number; without one the subject is the name
// as it was typed. If the old system takes ALICE for alice, they are two subjects
// then. claims are names and pointers; what is not there is left out.
//
// # A second step
//
// second is what to do when the first answer asks for one:
//
//	"second": {"when": {"status": [200], "pointer": "/mfa", "equals": "required"},
//	  "keep": {"ticket": "/ticket"}, "prompt": "The code that we sent you", "digits": 6,
//	  "url": "https://old.acme.test/login/code",
//	  "json": {"ticket": "{kept:ticket}", "code": "{code}"}}
//
// It has url, method, headers, basic, form, json, yes, no, subject and claims of its
// own. What it keeps goes sealed to its second step and nowhere else. The password
// is not kept.
package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/doorward/doorward/sdk/abi"
	doorward "github.com/doorward/doorward/sdk/guest/go"
)

func init() { doorward.Handle(verify) }
func main() {}

// bridge is the configuration.
type bridge struct {
	step
	Second *second `json:"second"`
}

// second is the second step and what asks for it.
type second struct {
	When   rule              `json:"when"`
	Keep   map[string]string `json:"keep"` // names and pointers
	Prompt string            `json:"prompt"`
	Digits int               `json:"digits"`
	step
}

// step is one request, and how its answer is read.
type step struct {
	URL     string            `json:"url"`
	Method  string            `json:"method"`
	Headers map[string]string `json:"headers"`
	Basic   *basic            `json:"basic"`
	Form    map[string]string `json:"form"`
	JSON    json.RawMessage   `json:"json"`
	Yes     *rule             `json:"yes"`
	No      []rule            `json:"no"`
	Subject string            `json:"subject"` // pointer
	Claims  map[string]string `json:"claims"`  // names and pointers
}

type basic struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// pending is what a challenge remembers.
type pending struct {
	Username string            `json:"username"`
	Kept     map[string]string `json:"kept"`
}

// maxName bounds a username in bytes: a mail address has 254.
const maxName = 256

func verify(r *doorward.Request) doorward.Verdict {
	b := configuration()
	var p pending
	if doorward.State(r, &p) {
		if b.Second == nil || r.Credential.Text("code") == "" {
			return doorward.Reject()
		}
		answer, verdict := b.Second.ask(values{r, p.Username, p.Kept})
		if verdict != nil {
			return *verdict
		}
		return b.Second.decide(answer, p.Username, "pwd", "otp")
	}
	name, password := r.Credential.Text("username"), r.Credential.Text("password")
	if name == "" || password == "" || len(name) > maxName || len(password) > abi.MaxPassword {
		return doorward.Reject() // many systems take no password for a guest
	}
	answer, verdict := b.ask(values{r, name, nil})
	if verdict != nil {
		return *verdict
	}
	if b.Second != nil && b.Second.When.fits(answer) {
		return b.Second.challenge(answer, name)
	}
	return b.decide(answer, name, "pwd")
}

// configuration reads the key strictly: a member that is misspelt would be a
// rule that does not hold. It does not return when there is none to go by.
func configuration() (b bridge) {
	text, err := doorward.Config("http_bridge")
	if err != nil {
		doorward.Fail("configuration key \"http_bridge\" is not there (%v): set it to what to ask, as JSON", err)
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		doorward.Fail("configuration key \"http_bridge\" cannot be read: %v", err)
	}
	if err := b.check(); err != nil {
		doorward.Fail("configuration key \"http_bridge\": %v", err)
	}
	if b.Second == nil {
		return b
	}
	err = errors.Join(b.Second.check(), b.Second.When.check())
	if b.Subject != "" && b.Second.Subject == "" {
		err = errors.Join(err, errors.New(`"subject" is missing, and the first step has one: a user would be two`))
	}
	if err != nil {
		doorward.Fail("configuration key \"http_bridge\": \"second\": %v", err)
	}
	return b
}

// check refuses a step that could not be meant, and fills in what it left out.
func (s *step) check() error {
	if s.URL == "" {
		return errors.New(`"url" is missing`)
	}
	if s.Form != nil && s.JSON != nil {
		return errors.New(`"form" and "json" are both there; a request has one body`)
	}
	if s.Yes == nil {
		s.Yes = &rule{Status: []int{200}}
	}
	if s.No == nil {
		s.No = []rule{{Status: []int{401, 403}}}
		if s.Yes.Pointer != "" {
			s.No = append(s.No, rule{Status: s.Yes.Status, Pointer: s.Yes.Pointer, other: s.Yes})
		}
	}
	if err := s.Yes.check(); err != nil {
		return err
	}
	for i := range s.No {
		if err := s.No[i].check(); err != nil {
			return err
		}
	}
	for name, pointer := range s.Claims {
		if !isPointer(pointer) || pointer == "" {
			return fmt.Errorf(`"claims": %q is no JSON pointer for %q`, pointer, name)
		}
	}
	if !isPointer(s.Subject) {
		return fmt.Errorf(`"subject": %q is no JSON pointer`, s.Subject)
	}
	return nil
}

// ask makes the request. Where there is nothing to ask for, it has the verdict.
// It does not return when there is no answer: that is nobody's wrong password.
func (s *step) ask(v values) (answer, *doorward.Verdict) {
	request, err := s.request(v)
	if errors.Is(err, errTyped) {
		no := doorward.Reject()
		return answer{}, &no
	}
	if err != nil {
		doorward.Fail("the request to %s cannot be made: %v", s.URL, err)
	}
	got, err := doorward.Fetch(request)
	if err != nil {
		doorward.Fail("%s %s gave no answer: %v", request.Method, s.URL, err)
	}
	if got.Status >= 500 {
		doorward.Fail("%s %s answered %d", request.Method, s.URL, got.Status)
	}
	return newAnswer(got), nil
}

func (s *step) request(v values) (doorward.HTTPRequest, error) {
	r := doorward.HTTPRequest{Method: strings.ToUpper(s.Method), Headers: map[string]string{}}
	if r.Method == "" {
		r.Method = "POST"
	}
	var err error
	if r.URL, err = v.address(s.URL); err != nil {
		return r, err
	}
	switch {
	case s.Form != nil:
		r.Headers["content-type"] = "application/x-www-form-urlencoded"
		r.Body, err = v.form(s.Form)
	case s.JSON != nil:
		r.Headers["content-type"] = "application/json"
		r.Body, err = v.json(s.JSON)
	}
	if err != nil {
		return r, err
	}
	if s.Basic != nil {
		user, err := v.text(s.Basic.Username)
		if err != nil {
			return r, err
		}
		password, err := v.text(s.Basic.Password)
		if err != nil {
			return r, err
		}
		if strings.Contains(user, ":") { // RFC 7617: the password begins there
			return r, errTyped
		}
		r.Headers["authorization"] = "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	}
	for name, template := range s.Headers {
		if r.Headers[strings.ToLower(name)], err = v.header(template); err != nil {
			return r, err
		}
	}
	return r, nil
}

// decide reads the answer.
func (s *step) decide(a answer, username string, methods ...string) doorward.Verdict {
	if s.Yes.fits(a) {
		return s.accept(a, username, methods)
	}
	for _, no := range s.No {
		if no.fits(a) {
			return doorward.RejectWith(no.Code, fmt.Sprintf("%s answered no, with status %d", s.URL, a.status))
		}
	}
	doorward.Fail("%s answered with status %d, and the configuration calls that neither yes nor no", s.URL, a.status)
	return doorward.Verdict{}
}

func (s *step) accept(a answer, username string, methods []string) doorward.Verdict {
	subject := username
	if s.Subject != "" {
		value, _ := at(a.tree, s.Subject)
		subject = scalar(value)
		if subject == "" {
			doorward.Fail("%s answered yes, and has no text and no number at %s, which is to be the subject", s.URL, s.Subject)
		}
	}
	claims := map[string]any{}
	for name, pointer := range s.Claims {
		if value, there := at(a.tree, pointer); there && value != nil {
			claims[name] = value
		}
	}
	return doorward.AcceptWith(subject, claims, methods...)
}

// challenge asks for the second step.
func (s *second) challenge(a answer, username string) doorward.Verdict {
	p := pending{Username: username, Kept: map[string]string{}}
	for name, pointer := range s.Keep {
		value, _ := at(a.tree, pointer)
		if p.Kept[name] = scalar(value); p.Kept[name] == "" {
			doorward.Fail("the answer asks for a second step, and has no text and no number at %s, which is to be kept", pointer)
		}
	}
	public := map[string]any{}
	if s.Prompt != "" {
		public["prompt"] = s.Prompt
	}
	if s.Digits > 0 {
		public["digits"] = s.Digits
	}
	return doorward.Challenge("otp", public, p)
}

// scalar is a text or a number as text, "" for anything else.
func scalar(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	return ""
}

// rule is what an answer may be like.
type rule struct {
	Status   []int           `json:"status"`
	Pointer  string          `json:"pointer"`
	Header   string          `json:"header"`
	Equals   json.RawMessage `json:"equals"`
	Contains string          `json:"contains"`
	Code     string          `json:"code"`

	equals any
	other  *rule // at Pointer is something, and not what this one wants
}

var codes = []string{abi.BadCredentials, abi.Locked, abi.Expired, abi.Denied}

// check refuses a rule that could not be meant, and makes it ready.
func (r *rule) check() (err error) {
	if len(r.Status) == 0 {
		return errors.New(`a rule has no "status"`)
	}
	if slices.ContainsFunc(r.Status, func(n int) bool { return n < 100 || n >= 500 }) {
		return fmt.Errorf(`a rule has the statuses %v; from 500 on the system is broken, and no password is wrong for it`, r.Status)
	}
	if r.Code == "" {
		r.Code = abi.BadCredentials
	}
	if !slices.Contains(codes, r.Code) {
		return fmt.Errorf(`"code" is %q; there are %q`, r.Code, codes)
	}
	if !isPointer(r.Pointer) || r.Pointer != "" && r.Header != "" {
		return errors.New(`"pointer" begins with /, and a rule has "pointer" or "header"`)
	}
	switch {
	case r.Equals != nil:
		r.equals, err = decode(string(r.Equals))
	case r.Pointer != "" && r.Contains == "":
		r.equals = true
	}
	_, isText := r.equals.(string)
	switch r.equals.(type) {
	case map[string]any, []any:
		return errors.New(`"equals" is a text, a number, true, false or null`)
	}
	switch {
	case err != nil:
		return fmt.Errorf(`"equals": %w`, err)
	case r.Header != "" && !isText && r.Contains == "":
		return errors.New(`a rule with "header" has a text as "equals", or "contains"`)
	case r.Equals != nil && (r.Contains != "" || r.Pointer == "" && r.Header == ""):
		return errors.New(`"equals" is for "pointer" or "header", and not beside "contains"`)
	}
	return nil
}

// fits reports whether the answer is as the rule wants it.
func (r *rule) fits(a answer) bool {
	if !slices.Contains(r.Status, a.status) {
		return false
	}
	var value any = a.body
	there := true
	switch {
	case r.Pointer != "":
		value, there = at(a.tree, r.Pointer)
	case r.Header != "":
		value, there = a.header(r.Header)
	case r.Contains == "":
		return true
	}
	switch {
	case !there:
		return false
	case r.other != nil:
		return !r.other.fits(a)
	case r.Contains != "":
		return strings.Contains(scalar(value), r.Contains)
	}
	return value == r.equals // of different types they differ; equals is never a list
}

func isPointer(s string) bool { return s == "" || s[0] == '/' }

// answer is what came back.
type answer struct {
	status  int
	headers map[string][]string
	body    string
	tree    any // the body as JSON; nil when it is none
}

func newAnswer(r doorward.HTTPResponse) answer {
	a := answer{status: r.Status, headers: r.Headers, body: r.Body + string(r.BodyBase64)} // old pages are not in UTF-8
	if tree, err := decode(a.body); err == nil {
		a.tree = tree
	}
	return a
}

func (a answer) header(name string) (any, bool) {
	values := a.headers[strings.ToLower(name)]
	if len(values) == 0 {
		return nil, false
	}
	return values[0], true
}
