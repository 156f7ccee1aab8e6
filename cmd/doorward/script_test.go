package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/doorward/doorward/plugins/guesttest"
)

// The test binary is doorward: scripts run it under that name, and its sandbox
// workers are it again.
func TestMain(m *testing.M) {
	if socket := os.Getenv(profileEnv); socket != "" && len(os.Args) > 1 && os.Args[1] == "dev" {
		serveProfile(socket)
	}
	if len(os.Args) > 1 && (os.Args[1] == "sandbox" || os.Args[1] == freshSandbox || os.Args[1] == "dev") {
		main()
	}
	if len(os.Args) > 1 && os.Args[1] == "bare" {
		bareServer()
	}
	if len(os.Args) == 4 && os.Args[1] == "opener" {
		fmt.Fprintln(os.Stderr, openSessions(os.Args[2], os.Args[3]))
		os.Exit(1)
	}
	testscript.Main(tests{m}, map[string]func(){"doorward": main})
}

func TestScript(t *testing.T) {
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Deadline:            time.Now().Add(10 * time.Minute),
		Condition: func(name string) (bool, error) {
			if name != "race" {
				return false, fmt.Errorf("there is no condition %q", name)
			}
			return raceEnabled, nil
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("REPO", repo)
			e.Setenv("XDG_CACHE_HOME", filepath.Join(e.WorkDir, ".cache"))
			bin, err := onlyDoorward(e.Getenv("PATH"), e.WorkDir)
			if err != nil {
				return err
			}
			e.Setenv("BIN", bin)
			e.Setenv("GOCACHE", goEnv(t, "GOCACHE"))
			e.Setenv("GOMODCACHE", goEnv(t, "GOMODCACHE"))
			e.Setenv("GOFLAGS", "-mod=mod")
			e.Setenv("GOPROXY", "off")
			e.Setenv("DOORWARD_KEY_FILE", filepath.Join(e.WorkDir, "data", "operator.key"))
			e.Values[serversKey{}] = &servers{running: map[string]*server{}}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"start":  cmdStart,
			"drain":  cmdDrain,
			"crash":  cmdCrash,
			"http":   cmdHTTP,
			"field":  cmdField,
			"header": cmdHeader,
			"match":  cmdMatch,
			"module": cmdModule,
			"readme": cmdReadme,
		},
	})
}

var goEnv = func(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
	if err != nil {
		t.Fatalf("go env %s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}

type serversKey struct{}

// servers are the ones a script has running, by name.
type servers struct {
	mu      sync.Mutex
	running map[string]*server
}

// start NAME ARG... runs doorward with these arguments, waits for its ready
// line, and sets $PUBLIC and $ADMIN (also DOORWARD_ADMIN_URL). What it printed
// before goes to standard output. "! start" wants it to end by itself.
func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start NAME ARG...")
	}
	s, err := launch(ts.MkAbs("."), ts.MkAbs(args[0]+".log"), scriptEnv(ts), args[1:]...)
	ts.Check(err)
	ts.Defer(s.crash)
	fmt.Fprint(ts.Stdout(), s.out)
	ts.Setenv("PUBLIC", s.public)
	ts.Setenv("ADMIN", s.admin)
	ts.Setenv("DOORWARD_ADMIN_URL", s.admin)
	all := ts.Value(serversKey{}).(*servers)
	all.mu.Lock()
	defer all.mu.Unlock()
	all.running[args[0]] = s
}

// scriptEnv is the environment of the script, for a process it starts.
func scriptEnv(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "REPO", "GOCACHE", "GOMODCACHE", "GOFLAGS", "GOPROXY", "DOORWARD_KEY_FILE"} {
		env = append(env, name+"="+ts.Getenv(name))
	}
	return env
}

// drain NAME sends SIGTERM and wants exit code 0 within 10 seconds.
func cmdDrain(ts *testscript.TestScript, neg bool, args []string) {
	s := take(ts, neg, args)
	ts.Check(s.drain())
}

// crash NAME sends SIGKILL.
func cmdCrash(ts *testscript.TestScript, neg bool, args []string) {
	take(ts, neg, args).crash()
}

func take(ts *testscript.TestScript, neg bool, args []string) *server {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: drain|crash NAME")
	}
	all := ts.Value(serversKey{}).(*servers)
	all.mu.Lock()
	defer all.mu.Unlock()
	s, ok := all.running[args[0]]
	if !ok {
		ts.Fatalf("no server %q runs", args[0])
	}
	delete(all.running, args[0])
	return s
}

// http STATUS METHOD URL [Header: value]... [BODY | @FILE] makes a request and
// wants that status. The answer's headers and body go to standard output, and
// to answer.headers and answer.body. Redirects are not followed. "1MB" in a
// body stands for a million letters.
func cmdHTTP(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: http STATUS METHOD URL [Header: value]... [BODY | @FILE]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	var body []byte
	headers := http.Header{}
	for _, arg := range args[3:] {
		name, value, ok := strings.Cut(arg, ": ")
		switch file, isFile := strings.CutPrefix(arg, "@"); {
		case isFile:
			body = []byte(ts.ReadFile(file))
		case ok && !strings.ContainsAny(name, "{=\" "):
			headers.Add(name, value)
		default:
			body = []byte(strings.Replace(arg, "1MB", strings.Repeat("x", 1_000_000), 1))
		}
	}
	r, err := http.NewRequest(args[1], args[2], bytes.NewReader(body))
	ts.Check(err)
	r.Header = headers
	if host := headers.Get("Host"); host != "" {
		r.Host = host
	}
	client := http.Client{
		Timeout:       130 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	answer, err := client.Do(r)
	ts.Check(err)
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	ts.Check(err)
	var head bytes.Buffer
	answer.Header.Write(&head)
	ts.Check(os.WriteFile(ts.MkAbs("answer.headers"), head.Bytes(), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("answer.body"), got, 0o600))
	fmt.Fprintf(ts.Stdout(), "%d\n%s\n%s\n", answer.StatusCode, head.Bytes(), got)
	if answer.StatusCode != want {
		ts.Fatalf("%s %s answered %d, want %d:\n%s", args[1], args[2], answer.StatusCode, want, got)
	}
}

// field PATH [WANT | -> VAR] reads a dotted path of the last JSON answer, and
// compares it or keeps it.
func cmdField(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 {
		ts.Fatalf("usage: field PATH [WANT | -> VAR]")
	}
	got, err := lookUp([]byte(ts.ReadFile("answer.body")), args[0])
	if neg {
		if err == nil {
			ts.Fatalf("%s is there: %s", args[0], got)
		}
		return
	}
	ts.Check(err)
	switch {
	case len(args) == 3 && args[1] == "->":
		ts.Setenv(args[2], got)
	case len(args) == 2 && got != args[1]:
		ts.Fatalf("%s is %s, want %s", args[0], got, args[1])
	}
}

func lookUp(text []byte, path string) (string, error) {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return "", err
	}
	for name := range strings.SplitSeq(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			next, ok := at[name]
			if !ok {
				return "", errors.New("there is no " + path)
			}
			v = next
		case []any:
			i, err := strconv.Atoi(name)
			if name == "len" {
				v = len(at)
				continue
			}
			if err != nil || i >= len(at) {
				return "", errors.New("there is no " + path)
			}
			v = at[i]
		default:
			return "", errors.New("there is no " + path)
		}
	}
	if s, ok := v.(string); ok {
		return s, nil
	}
	out, err := json.Marshal(v)
	return string(out), err
}

// header NAME REGEXP [VAR] wants a header of the last answer to match; a group
// goes to VAR. "!" wants that none does.
func cmdHeader(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: header NAME REGEXP [VAR]")
	}
	var lines []string
	for line := range strings.SplitSeq(ts.ReadFile("answer.headers"), "\r\n") {
		if name, value, ok := strings.Cut(line, ": "); ok && strings.EqualFold(name, args[0]) {
			lines = append(lines, value)
		}
	}
	matchTo(ts, neg, strings.Join(lines, "\n"), args[1:])
}

// onlyDoorward is a directory with doorward and no other program, as PATH of somebody
// who has installed nothing.
func onlyDoorward(path, dir string) (string, error) {
	bin := filepath.Join(dir, ".bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return "", err
	}
	first, _, _ := strings.Cut(path, string(filepath.ListSeparator)) // testscript's
	return bin, os.Symlink(filepath.Join(first, "doorward"), filepath.Join(bin, "doorward"))
}

// module FILE CASE writes the hostile module of that number and name.
func cmdModule(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: module FILE CASE")
	}
	for _, c := range guesttest.Hostile() {
		if c.String() == args[1] {
			ts.Check(os.WriteFile(ts.MkAbs(args[0]), c.Module, 0o600))
			return
		}
	}
	ts.Fatalf("there is no hostile module %q", args[1])
}

// readme FILE SECTION has a shell do what stands in a section of a file in blocks
// marked sh, in their order and in one go, with the servers of the script for those
// that the text names. Every command must succeed; each is on standard error as it
// was.
func cmdReadme(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: readme FILE SECTION")
	}
	_, section, found := strings.Cut(ts.ReadFile(args[0]), "\n## "+args[1]+"\n")
	if !found {
		ts.Fatalf("%s has no section %q", args[0], args[1])
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var commands strings.Builder
	for _, block := range strings.Split(section, "\n```sh\n")[1:] {
		block, _, _ = strings.Cut(block, "\n```")
		for line := range strings.Lines(block + "\n") {
			if !strings.HasPrefix(line, "export PATH=") { // the script has it right
				commands.WriteString(line)
			}
		}
	}
	if commands.Len() == 0 {
		ts.Fatalf("%s, section %q: no commands", args[0], args[1])
	}
	do := strings.ReplaceAll(commands.String(), "http://127.0.0.1:8480", ts.Getenv("PUBLIC"))
	ts.Check(ts.Exec("sh", "-exc", do))
}

// match FILE REGEXP [VAR] is header for a file.
func cmdMatch(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: match FILE REGEXP [VAR]")
	}
	matchTo(ts, neg, ts.ReadFile(args[0]), args[1:])
}

func matchTo(ts *testscript.TestScript, neg bool, text string, args []string) {
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	found := re.FindStringSubmatch(text)
	if neg {
		if found != nil {
			ts.Fatalf("%q matches %q", args[0], found[0])
		}
		return
	}
	if found == nil {
		ts.Fatalf("nothing matches %q in:\n%s", args[0], text)
	}
	if len(args) > 1 {
		ts.Setenv(args[1], html.UnescapeString(found[len(found)-1]))
	}
}

// A new project in Go asks for the Go that the SDK beside it is written in.
func TestANewProjectInGoAsksForThisGo(t *testing.T) {
	text, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^go ([0-9]+\.[0-9]+)`).FindSubmatch(text)
	if line == nil || string(line[1]) != goLine {
		t.Errorf("go.mod says %q, a new project %q", line, goLine)
	}
}
