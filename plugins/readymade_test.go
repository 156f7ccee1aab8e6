//go:build !race

package plugins

// Without the race detector: under it, each of these modules compiles for half a
// minute.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/plugins/egress"
	"github.com/doorward/doorward/sdk/abi"
)

// tool runs one of the programs that the tests drive, see CONTRIBUTING.md.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).Output()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return string(out)
}

// readyMade is a ready-made verifier in the sandbox, under its own manifest.
type readyMade struct {
	*testing.T
	host    *Host
	module  []byte
	version Version
}

func newReadyMade(t *testing.T, name string, manifest abi.Manifest, settings Settings) readyMade {
	t.Helper()
	module := builtGuest(t, "../sdk/verifiers/"+name)
	v := Version{Number: 1, Name: manifest.Name, Digest: digestOf(module), Profile: "core", Grants: manifest.Grants, Limits: manifest.Limits}
	return readyMade{t, NewHost(newPool(t), settings, nil), module, v}
}

func (m readyMade) ask(r abi.Request) outcome {
	m.Helper()
	calls := &hostCalls{host: m.host, tenant: "a", version: m.version, kv: m.host.settings.KV}
	out, err := m.host.try(m.Context(), calls, r, func(context.Context) ([]byte, error) { return m.module, nil })
	if err != nil {
		m.Fatal(err)
	}
	return out
}

func (m readyMade) login(username, password string) outcome {
	m.Helper()
	return m.ask(abi.Request{ABI: abi.Version, Method: "password", Credential: abi.Credential{"username": username, "password": password}})
}

// keys is the configuration of a tenant.
func keys(values map[string]string) func(context.Context, string, string) (json.RawMessage, bool, error) {
	return func(_ context.Context, _, key string) (json.RawMessage, bool, error) {
		text, there := values[key]
		value, err := json.Marshal(text)
		return value, there, err
	}
}

// The hashes are Perl's crypt, which is glibc's, and Node's; phpass's and
// WordPress's are those of frameworks_test.go. The dump has as many users as a
// tenant's configuration has room for: nobody's login may be out of fuel for it.
func TestUsersOfAnOldSystemSignIn(t *testing.T) {
	const password = "pässword one"
	crypt := func(salt string) string {
		return tool(t, "perl", "-e", `print crypt($ARGV[0], $ARGV[1])`, password, salt)
	}
	django := tool(t, "node", "-e", `const c = require("crypto"); process.stdout.write("pbkdf2_sha256$5000$NaCl$" + c.pbkdf2Sync(process.argv[1], "NaCl", 5000, 32, "sha256").toString("base64"))`, password)
	hashes := map[string]string{
		"linux": crypt("$6$rounds=1000$abcdefgh$") + ":19000:0:99999:7:::", "sha256": crypt("$5$saltsalt$"), "bcrypt": crypt("$2y$04$abcdefghijklmnopqrstuu"),
		"django": django, "wordpress": "$P$BNGCqrfD6E9cJOR7145ipFFqhGeHdc/", "wordpress68": "$wp$2y$04$kIM6OERyluSiwa3toO6Pu.s/7Go0nAbZiV6l.6a6xDlmwuO2yQz.W",
		"yescrypt": crypt("$y$j9T$abcdefgh$"), "dear": "$6$rounds=999999999$abcdefgh$" + strings.Repeat("x", 86),
	}
	var dump strings.Builder
	filler := crypt("$6$rounds=1000$fillerfi$")
	for n := 0; dump.Len() < 500<<10; n++ {
		fmt.Fprintf(&dump, "user%d:%s\n", n, filler)
	}
	for name, hash := range hashes {
		fmt.Fprintf(&dump, "%s:%s\n", name, hash)
	}
	text, err := os.ReadFile("../sdk/verifiers/legacy-hashes/doorward.manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := readManifest(text)
	if err != nil {
		t.Fatal(err)
	}
	m := newReadyMade(t, "legacy-hashes", manifest, Settings{Config: keys(map[string]string{"hashes": dump.String(), "legacy_claim": "old_hash"})})
	m.version.Limits.WallMS, m.version.Limits.MemoryMiB = 60_000, abi.DefaultMemoryMiB // a busy machine is no failure
	for name, old := range map[string]string{
		"linux": "sha512-crypt", "sha256": "sha256-crypt", "bcrypt": "", "django": "pbkdf2", "wordpress": "phpass", "wordpress68": "", "user7": "sha512-crypt",
	} {
		out := m.login(name, password)
		if out.failure != nil || out.Decision != abi.Accept || out.Verdict.Subject != name {
			t.Errorf("%s: %s %+v", name, out.Error, out.Verdict)
			continue
		}
		if want := `{"old_hash":"` + old + `"}`; old != "" && string(out.Verdict.Claims) != want || old == "" && string(out.Verdict.Claims) != "{}" {
			t.Errorf("%s: claims %s", name, out.Verdict.Claims)
		}
		noted := slices.ContainsFunc(out.Logs, func(l LogLine) bool {
			return regexp.MustCompile(`old kind \(` + old + `\); \d{4} of \d{4} users`).MatchString(l.Text)
		})
		if noted != (old != "") {
			t.Errorf("%s: %+v", name, out.Logs)
		}
		if out := m.login(name, password+"x"); out.failure != nil || out.Decision != abi.Reject {
			t.Errorf("%s, a wrong password: %s %+v", name, out.Error, out.Verdict)
		}
	}
	for _, name := range []string{"nobody", "yescrypt", "dear", "linux:", "#"} {
		out := m.login(name, password)
		if out.failure != nil || out.Decision != abi.Reject {
			t.Errorf("%s: %s %+v", name, out.Error, out.Verdict)
		}
		if why := map[string]string{"yescrypt": "cannot be checked (yescrypt)", "dear": "more work than is allowed"}[name]; !strings.Contains(fmt.Sprint(out.Logs), why) {
			t.Errorf("%s: %+v", name, out.Logs)
		}
	}
}

// oldSystem starts testdata/old-system.js, and returns its host:port and whom to
// trust for it.
func oldSystem(t *testing.T) (string, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	var args []string
	for kind, der := range map[string][]byte{"CERTIFICATE": certificate, "PRIVATE KEY": private} {
		file := filepath.Join(t.TempDir(), kind)
		text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		roots.AppendCertsFromPEM(text)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, file)
	}
	slices.Sort(args)
	if filepath.Base(args[0]) == "CERTIFICATE" {
		slices.Reverse(args)
	}
	server := exec.Command("node", append([]string{"testdata/old-system.js"}, args...)...)
	server.Stderr = os.Stderr
	stdin, err := server.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := server.StdoutPipe()
	if err == nil {
		err = server.Start()
	}
	if err != nil {
		t.Fatalf("node is one of the tests' tools, see CONTRIBUTING.md: %v", err)
	}
	t.Cleanup(func() { stdin.Close(); server.Wait() })
	port, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return "127.0.0.1:" + strings.TrimSpace(port), roots
}

// The old login endpoint is in another language, and asked by TLS from the real
// sandbox.
func TestAnOldSystemIsAsked(t *testing.T) {
	at, roots := oldSystem(t)
	client := func(roots *x509.CertPool) *egress.Client {
		c, err := egress.New(egress.Config{Allow: []string{at}, Roots: roots, Timeout: 2 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	config := map[string]string{}
	manifest := abi.Manifest{Name: "http-bridge", Grants: abi.Grants{Config: true, Secrets: []string{"BRIDGE_TOKEN"}, HTTP: &abi.HTTPGrant{Hosts: []string{at}}}}
	manifest.Limits = abi.Limits{WallMS: 60_000, MemoryMiB: abi.DefaultMemoryMiB}
	m := newReadyMade(t, "http-bridge", manifest, Settings{Config: keys(config), Egress: client(roots), Secret: func(_ context.Context, _, name string) ([]byte, bool, error) {
		return []byte("hot-pepper"), name == "BRIDGE_TOKEN", nil
	}})
	how := func(path, more string) string {
		return `{"url":"https://` + at + path + `","headers":{"X-Key":"{secret:BRIDGE_TOKEN}"},` + more + `}`
	}
	const read = `"yes":{"status":[200],"pointer":"/ok"},"no":[{"status":[401]},{"status":[423],"code":"locked"}],"subject":"/person/id","claims":{"roles":"/person/roles"}`
	asForm := how("/login", `"form":{"user":"{username}","pass":"{password}","from":"{ip}"},`+read)
	asJSON := how("/login", `"json":{"user":"{username}","pass":"{password}","from":"{app}"},`+read+
		`,"second":{"when":{"status":[200],"pointer":"/mfa","equals":"required"},"keep":{"ticket":"/ticket"},"url":"https://`+at+`/code","headers":{"X-Key":"{secret:BRIDGE_TOKEN}"},"json":{"ticket":"{kept:ticket}","code":"{code}"},"subject":"/person/id"}`)
	asPage := how("/page", `"form":{"user":"{username}","pass":"{password}"},"yes":{"status":[302],"header":"location","equals":"/home"},"no":[{"status":[302],"header":"location","contains":"error="}]`)
	const odd, oddPassword = "b&b=\"é\"", "p\\w&ü=\u2028"
	for name, c := range map[string]struct{ config, user, password, want string }{
		"a form":                       {asForm, "alice", "wonderland", `accept 5 {"roles":["staff",""]}`},
		"JSON":                         {asJSON, "alice", "wonderland", `accept 5 {"roles":["staff",""]}`},
		"a form and odd letters":       {asForm, odd, oddPassword, `accept 7 {"roles":["staff",""]}`},
		"JSON and odd letters":         {asJSON, odd, oddPassword, `accept 7 {"roles":["staff",""]}`},
		"a redirect":                   {asPage, odd, oddPassword, `accept ` + odd + ` {}`},
		"a wrong password":             {asForm, "alice", "wonder", "reject bad_credentials"},
		"a wrong password, as JSON":    {asJSON, "alice", "wonder", "reject bad_credentials"},
		"a wrong password, a redirect": {asPage, "alice", "wonder", "reject bad_credentials"},
		"locked":                       {asForm, "dave", "x", "reject locked"},
		"broken":                       {how("/broken", `"json":{}`), "alice", "wonderland", "answered 500"},
		"silent":                       {how("/silent", `"json":{}`), "alice", "wonderland", "gave no answer: out of time"},
		"not there":                    {how("/nowhere", `"json":{}`), "alice", "wonderland", "neither yes nor no"},
		"elsewhere":                    {`{"url":"https://127.0.0.1:1/"}`, "alice", "wonderland", "gave no answer: not granted"},
		"no configuration":             {"", "alice", "wonderland", "http_bridge"},
	} {
		t.Run(name, func(t *testing.T) {
			config["http_bridge"] = c.config
			if c.config == "" {
				delete(config, "http_bridge")
			}
			out := m.login(c.user, c.password)
			got := out.Error
			switch {
			case out.Decision == abi.Accept:
				got = fmt.Sprintf("accept %s %s", out.Verdict.Subject, out.Verdict.Claims)
			case out.Decision != "":
				got = fmt.Sprintf("%s %s", out.Decision, out.Verdict.Code)
			}
			if !strings.Contains(got, c.want) || (out.failure == nil) != (out.Verdict != nil) || out.Verdict == nil && len(out.Logs) == 0 && name == "elsewhere" {
				t.Errorf("%s, want %s", got, c.want)
			}
			if all := fmt.Sprint(out.Error, out.Logs, out.Verdict); strings.Contains(all, "wonder") || strings.Contains(all, "pepper") {
				t.Errorf("a password or the key is told: %s", all)
			}
		})
	}

	config["http_bridge"] = asJSON
	first := m.login("carol", "sings")
	if first.Decision != abi.Challenge || bytes.Contains(first.Verdict.Private, []byte("sings")) {
		t.Fatalf("carol: %s %+v", first.Error, first.Verdict)
	}
	answer := func(code string) outcome {
		return m.ask(abi.Request{ABI: abi.Version, Method: "password", Credential: abi.Credential{"code": code}, State: first.Verdict.Private})
	}
	if out := answer("246810"); out.Decision != abi.Accept || out.Verdict.Subject != "5" || len(out.Verdict.AMR) != 2 {
		t.Errorf("the code: %s %+v", out.Error, out.Verdict)
	}
	if out := answer("000000"); out.Decision != abi.Reject {
		t.Errorf("a wrong code: %s %+v", out.Error, out.Verdict)
	}
	asDocumented(m)
	m.host.settings.Egress = client(x509.NewCertPool())
	if out := m.login("alice", "wonderland"); out.Verdict != nil || !strings.Contains(out.Error, "gave no answer") {
		t.Errorf("nobody vouches for its name: %s %+v", out.Error, out.Verdict)
	}
}

// asDocumented uploads http-bridge with the manifest that its documentation has,
// and without.
func asDocumented(m readyMade) {
	m.Helper()
	source, err := os.ReadFile("../sdk/verifiers/http-bridge/main.go")
	if err != nil {
		m.Fatal(err)
	}
	found := regexp.MustCompile(`(?s)//\t(\{"abi":1.*?\}\})\n//\n`).FindSubmatch(source)
	if found == nil {
		m.Fatal("no manifest is documented")
	}
	artifacts, err := NewDir(m.TempDir())
	if err != nil {
		m.Fatal(err)
	}
	c := NewCatalog(artifacts, m.host, CatalogConfig{})
	v, err := c.Upload(m.Context(), "a", m.module, bytes.ReplaceAll(found[1], []byte("\n//\t"), []byte("\n")))
	if err != nil || v.Name != "http-bridge" || len(v.Warnings) > 0 || !slices.Equal(v.Grants.HTTP.Hosts, []string{"old.acme.test:443"}) {
		m.Errorf("%+v, %v", v, err)
	}
	if _, err := c.Upload(m.Context(), "a", m.module, nil); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), `"http"`) {
		m.Errorf("without one: %v", err)
	}
}
