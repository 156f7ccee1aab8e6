package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// server is one doorward process, as scripts and tests have it run.
type server struct {
	cmd           *exec.Cmd
	out           *bytes.Buffer // what it printed before it was ready
	public, admin string        // URLs, from its ready line
	done          chan struct{}
}

// launch runs this test binary as doorward in dir, its log going to a file, and
// returns when it says that it is ready.
func launch(dir, log string, env []string, args ...string) (*server, error) {
	s := &server{out: &bytes.Buffer{}, done: make(chan struct{})}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s.cmd = exec.Command(self, args...)
	s.cmd.Args[0] = "doorward"
	s.cmd.Dir, s.cmd.Env = dir, env
	errs, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer errs.Close()
	s.cmd.Stderr = errs
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	modules := filepath.Join(dir, "data", "modules")
	if args[0] == "dev" || args[0] == "serve" {
		shareModules(moduleStore(), modules)
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	ready := make(chan string, 1)
	go func() {
		defer close(s.done)
		lines := bufio.NewScanner(stdout)
		seen := false
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "ready ") {
				ready <- lines.Text()
				seen = true
			} else if !seen {
				fmt.Fprintln(s.out, lines.Text())
			}
		}
		if !seen {
			close(ready)
		}
		s.cmd.Wait()
		shareModules(modules, moduleStore())
	}()
	var line string
	select {
	case line = <-ready:
	case <-time.After(startTime + drainTime):
	}
	if line == "" {
		s.crash()
		text, _ := os.ReadFile(log)
		return nil, fmt.Errorf("did not become ready; it said:\n%s%s", s.out, text[max(0, len(text)-4000):])
	}
	for field := range strings.FieldsSeq(line) {
		if url, ok := strings.CutPrefix(field, "public="); ok {
			s.public = url
		}
		if url, ok := strings.CutPrefix(field, "admin="); ok {
			s.admin = url
		}
	}
	return s, nil
}

// crash sends SIGKILL and waits for the end.
func (s *server) crash() {
	s.cmd.Process.Kill()
	<-s.done
}

// drain sends SIGTERM and wants exit code 0 within 10 seconds.
func (s *server) drain() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		return fmt.Errorf("has not drained within 10 s")
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("ended with %d", code)
	}
	return nil
}

// site is a server with what a test needs to use it.
type site struct {
	testing.TB
	*server
	dir, log string
	env      []string
	args     []string // the command that runs it
	password string   // of demo's user demo
	client   *http.Client

	profile string        // in a benchmark, where the server lets one look into it
	opened  *atomic.Int64 // in a benchmark, the connections of client
}

// newSite runs "doorward dev" in a fresh directory for one test, with this
// added to its environment.
func newSite(t testing.TB, env ...string) *site {
	t.Helper()
	s := prepareSite(t, env...)
	s.args = []string{"dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"}
	s.start()
	if found := regexp.MustCompile(`password (\S+) `).FindSubmatch(s.out.Bytes()); found != nil {
		s.password = string(found[1])
	}
	return s
}

// prepareSite is a site in a fresh directory that has not been started.
func prepareSite(t testing.TB, env ...string) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{TB: t, dir: dir, log: filepath.Join(dir, "log"), env: append(os.Environ(), env...), client: &http.Client{
		Timeout:       60 * time.Second,
		Transport:     &http.Transport{MaxIdleConnsPerHost: 64},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	t.Cleanup(func() {
		if s.server != nil {
			s.crash()
		}
		if t.Failed() {
			text, _ := os.ReadFile(s.log)
			t.Logf("its log ends:\n%s", text[max(0, len(text)-4000):])
		}
	})
	return s
}

// start starts the server, again after crash or drain.
func (s *site) start() {
	s.Helper()
	var err error
	if s.server, err = launch(s.dir, s.log, s.env, s.args...); err != nil {
		s.Fatal(err)
	}
}

// answer is what a request got.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// field reads a dotted path of the answer's JSON, "" when it is not there.
func (a answer) field(path string) string {
	value, err := lookUp(a.body, path)
	if err != nil {
		return ""
	}
	return value
}

// send makes a request: "METHOD URL", headers in pairs, and a body that is
// bytes, text or to be encoded as JSON.
func (s *site) send(what string, body any, headers ...string) (answer, error) {
	method, url, _ := strings.Cut(what, " ")
	var content []byte
	kind := "application/json"
	switch b := body.(type) {
	case nil:
	case []byte:
		content, kind = b, "application/wasm"
	case string:
		content, kind = []byte(b), "application/x-www-form-urlencoded"
	default:
		var err error
		if content, err = json.Marshal(b); err != nil {
			return answer{}, err
		}
	}
	r, err := http.NewRequest(method, url, bytes.NewReader(content))
	if err != nil {
		return answer{}, err
	}
	if body != nil {
		r.Header.Set("Content-Type", kind)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	got, err := s.client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	return answer{got.StatusCode, got.Header, text}, err
}

// must is send for an answer of that status.
func (s *site) must(status int, what string, body any, headers ...string) answer {
	s.Helper()
	got, err := s.send(what, body, headers...)
	if err != nil {
		s.Fatalf("%s: %v", what, err)
	}
	if got.status != status {
		s.Fatalf("%s: %d %s, want %d", what, got.status, got.body, status)
	}
	return got
}

// operate is must at the admin listener with the operator key.
func (s *site) operate(status int, what string, body any) answer {
	s.Helper()
	key, err := os.ReadFile(filepath.Join(s.dir, "data", "operator.key"))
	if err != nil {
		s.Fatal(err)
	}
	method, path, _ := strings.Cut(what, " ")
	return s.must(status, method+" "+s.admin+"/admin/v1"+path, body, "Authorization", "Bearer "+strings.TrimSpace(string(key)))
}

// tenant makes a tenant whose logins that module decides.
func (s *site) tenant(id string, module []byte) {
	s.Helper()
	s.operate(201, "POST /tenants", map[string]any{"id": id})
	s.operate(201, "POST /tenants/"+id+"/verifiers", module)
	s.operate(200, "POST /tenants/"+id+"/verifiers/1/activate", map[string]any{})
}

// login signs in with a password and wants a token.
func (s *site) login(tenant, username, password string) (answer, error) {
	return s.send("POST "+s.public+"/t/"+tenant+"/v1/login", map[string]any{"username": username, "password": password, "transport": "token"})
}
