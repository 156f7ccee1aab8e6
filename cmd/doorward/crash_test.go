package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/sessions/cluster"
	sessionsetcd "github.com/doorward/doorward/sessions/etcd"
	"github.com/doorward/doorward/tenants"
	tenantsetcd "github.com/doorward/doorward/tenants/etcd"
	"github.com/doorward/doorward/tenants/seal"
)

// What survives kill -9 in the middle of everything.

// life is what the test knows of one session.
type life struct {
	token string
	ended atomic.Int32 // 0 lives, 1 its end was asked for and nobody knows, 2 it was acknowledged
}

const (
	mayHaveEnded = 1
	hasEnded     = 2
)

// revisions checks that what a server acknowledged grows: an answer to what was
// asked after another answer had come says a later revision.
type revisions struct{ last atomic.Int64 }

func (r *revisions) before() int64 { return r.last.Load() }

func (r *revisions) after(t testing.TB, before, now int64) {
	if now <= before {
		t.Errorf("revision %d was acknowledged after %d", now, before)
	}
	for old := r.last.Load(); now > old && !r.last.CompareAndSwap(old, now); old = r.last.Load() {
	}
}

// crashes kills a server of one node again and again while people sign in and
// out over HTTP.
func crashes(t *testing.T, cycles int) {
	s := newSite(t, "DOORWARD_LOG_LEVEL=error")
	const perSecond, lanes, kept = 200, 12, 300
	s.honest("honest", nil)
	var revision revisions
	var all []*life // of this and earlier cycles
	signedIn, signedOut, checked := 0, 0, 0
	var refused atomic.Int64
	var busy time.Duration
	for cycle := range cycles {
		s.enters("honest") // so that the load finds the verifier loaded
		var mu sync.Mutex
		var now []*life
		stop := make(chan struct{})
		var people sync.WaitGroup
		began := time.Now()
		for lane := range lanes {
			people.Go(func() {
				for n := lane; ; n += lanes {
					select {
					case <-stop:
						return
					case <-time.After(time.Until(began.Add(time.Duration(n) * time.Second / perSecond))):
					}
					before := revision.before()
					got, err := s.login("honest", "alice", "x")
					if err != nil {
						return // it was killed
					}
					if got.status == http.StatusServiceUnavailable {
						refused.Add(1) // a busy machine has no worker to spare, and says so
						continue
					}
					if got.status != http.StatusCreated {
						t.Errorf("cycle %d: sign in: %d %s", cycle, got.status, got.body)
						return
					}
					at, err := strconv.ParseInt(got.header.Get("Doorward-Revision"), 10, 64)
					if err != nil {
						t.Errorf("sign in: no revision: %v", err)
						return
					}
					revision.after(t, before, at)
					l := &life{token: got.field("token")}
					mu.Lock()
					now = append(now, l)
					mu.Unlock()
					if n%4 != 0 {
						continue
					}
					l.ended.Store(mayHaveEnded)
					before = revision.before()
					if got, err = s.session("DELETE", "honest", l.token); err != nil {
						return
					}
					if got.status == http.StatusServiceUnavailable {
						continue // nobody knows
					}
					if at, _ = strconv.ParseInt(got.header.Get("Doorward-Revision"), 10, 64); got.status != http.StatusNoContent || at == 0 {
						t.Errorf("sign out: %d %s %v", got.status, got.body, got.header)
						return
					}
					revision.after(t, before, at)
					l.ended.Store(hasEnded)
				}
			})
		}
		time.Sleep(time.Second + rand.N(time.Second)) // when it is killed is a matter of luck
		s.crash()
		busy += time.Since(began)
		close(stop)
		people.Wait()
		s.client.CloseIdleConnections()
		s.start()
		signedIn += len(now)
		all = append(all, now...)
		for _, l := range now {
			if l.ended.Load() == hasEnded {
				signedOut++
			}
		}
		s.survived(t, cycle, all)
		checked += len(all)
		if t.Failed() {
			return
		}
		if len(all) > kept { // a subject may have so many
			s.operate(http.StatusOK, "POST /tenants/honest/sessions/revoke", map[string]string{"subject": "alice"})
			for _, l := range all {
				l.ended.Store(hasEnded)
			}
			s.survived(t, cycle, all)
			all = all[len(all)-50:] // these shall still have ended after the next crash
		}
	}
	rate := float64(signedIn) / busy.Seconds()
	t.Logf("%d kills: %d sign-ins (%.0f/s) and %d sign-outs acknowledged, %d sign-ins refused, %d look-ups as expected, last revision %d",
		cycles, signedIn, rate, signedOut, refused.Load(), checked, revision.last.Load())
	if rate < 100 && soak() && !raceEnabled { // the short form shares its machine with other tests
		t.Errorf("only %.0f sign-ins a second", rate)
	}
}

// enters waits until somebody can sign in.
func (s *site) enters(tenant string) {
	s.Helper()
	for began := time.Now(); ; {
		got, err := s.login(tenant, "alice", "x")
		if err == nil && got.status == http.StatusCreated {
			return
		}
		if time.Since(began) > time.Minute {
			s.Fatalf("nobody can sign in: %d %s %v", got.status, got.body, err)
		}
	}
}

// survived asks about every session and wants what was acknowledged.
func (s *site) survived(t *testing.T, cycle int, all []*life) {
	t.Helper()
	each(len(all), 16, func(i int) {
		got, err := s.decided(func() (answer, error) { return s.session("GET", "honest", all[i].token) })
		ended := all[i].ended.Load()
		switch {
		case err == nil && got.status == http.StatusOK && ended != hasEnded:
		case err == nil && got.status == http.StatusUnauthorized && ended != 0:
		default:
			t.Errorf("cycle %d, session %d of %d, ended %d: %d %s %v", cycle, i, len(all), ended, got.status, got.body, err)
		}
	})
}

func TestFaultKill9LosesNothingThatWasAcknowledged(t *testing.T) { crashes(t, 3) }

func TestSoakKill9LosesNothingThatWasAcknowledged(t *testing.T) {
	if !soak() {
		t.Skip("takes minutes; make soak")
	}
	crashes(t, 100)
}

// openerRate is how many sessions a second the opener makes.
const openerRate = 600

// openSessions is a process of its own, to be killed: it opens sessions in dir
// and prints the token and the revision of each that was acknowledged.
func openSessions(dir, tenant string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	manager, _, closeAll, err := openManager(ctx, dir)
	if err != nil {
		return err
	}
	defer closeAll()
	fmt.Println("ready")
	began := time.Now()
	var lanes sync.WaitGroup
	const atOnce = 64
	failed := make(chan error, atOnce)
	for lane := range atOnce {
		lanes.Go(func() {
			for n := lane; ctx.Err() == nil; n += atOnce {
				time.Sleep(time.Until(began.Add(time.Duration(n) * time.Second / openerRate)))
				token, s, err := manager.Open(ctx, sessions.Opening{
					Tenant: tenant, Subject: "user" + strconv.Itoa(n%1000), AMR: []string{"pwd"},
					Policy: sessions.Policy{Idle: time.Hour, Absolute: time.Hour, MaxPerSubject: 1000},
				})
				if err != nil {
					failed <- err
					return
				}
				// One write, so that a kill cuts no line in two that counts.
				os.Stdout.WriteString(token.Reveal() + " " + strconv.FormatInt(s.Revision, 10) + "\n")
			}
		})
	}
	lanes.Wait()
	return errors.Join(<-failed, errors.New("nobody has killed this process"))
}

// openManager runs a member in dir with a Manager on it.
func openManager(ctx context.Context, dir string) (*sessions.Manager, tenants.Source, func(), error) {
	member, err := cluster.Start(ctx, cluster.Config{Dir: dir})
	if err != nil {
		return nil, nil, nil, err
	}
	ring, err := seal.LoadOrCreateRing(filepath.Join(dir, "keyring"))
	if err != nil {
		member.Close()
		return nil, nil, nil, err
	}
	source := tenantsetcd.New(member.Client(), ring, tenantsetcd.Config{})
	store := sessionsetcd.New(member.Client(), source.Keys, sessionsetcd.Config{})
	manager := sessions.New(store, store, sessions.Config{Mode: sessions.Replicated})
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	var rooms sync.WaitGroup
	rooms.Go(func() { store.Run(life) })
	rooms.Go(func() { manager.Run(life) })
	return manager, source, func() {
		stop()
		rooms.Wait()
		member.Close()
	}, manager.WaitReady(ctx)
}

// opened is a session that the opener said it had opened.
type opened struct {
	token    sessions.Token
	revision int64
}

// openings kills an opener again and again.
func openings(t *testing.T, cycles int) {
	dir := t.TempDir()
	manager, source, closeAll, err := openManager(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	tenant := newTenant(t, source, "acme")
	closeAll()
	var all []opened
	last := int64(0)
	var busy time.Duration
	for cycle := range cycles {
		after := 500*time.Millisecond + rand.N(time.Second)
		these := killOpener(t, dir, tenant, after)
		busy += after
		lowest := last
		for _, o := range these {
			if o.revision <= last {
				t.Fatalf("cycle %d: revision %d was acknowledged after %d", cycle, o.revision, last)
			}
			lowest = max(lowest, o.revision)
		}
		last = lowest
		all = append(all, these...)
		if manager, _, closeAll, err = openManager(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		each(len(all), 16, func(i int) {
			s, err := manager.Find(t.Context(), tenant, all[i].token, sessions.Reading{})
			if err != nil {
				t.Errorf("cycle %d, session %d of %d: %v", cycle, i, len(all), err)
			} else if s.Born > all[i].revision { // it may have been renewed since
				t.Errorf("cycle %d, session %d of %d was born at revision %d, acknowledged at %d", cycle, i, len(all), s.Born, all[i].revision)
			}
		})
		closeAll()
		if t.Failed() {
			return
		}
	}
	rate := float64(len(all)) / busy.Seconds()
	t.Logf("%d kills: %d sessions acknowledged (%.0f/s), all found after each, last revision %d", cycles, len(all), rate, last)
	if rate < 500 && soak() && !raceEnabled {
		t.Errorf("only %.0f sessions a second", rate)
	}
}

// killOpener runs an opener, kills it after it has run that long, and returns
// what it had acknowledged.
func killOpener(t *testing.T, dir, tenant string, after time.Duration) []opened {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	opener := exec.Command(self, "opener", dir, tenant)
	opener.Stderr = os.Stderr
	out, err := opener.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := opener.Start(); err != nil {
		t.Fatal(err)
	}
	defer opener.Wait()
	defer opener.Process.Kill()
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("opener: %q, %v", line, err)
	}
	kill := time.AfterFunc(after, func() { opener.Process.Kill() })
	defer kill.Stop()
	var list []opened
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			opener.Wait()
			return list
		}
		fields := strings.Fields(line)
		token, err := sessions.ParseToken(fields[0])
		if err != nil {
			t.Fatal(err)
		}
		revision, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, opened{token, revision})
	}
}

func TestFaultKill9LosesNothingThatAManagerOpened(t *testing.T) { openings(t, 3) }

func TestSoakKill9LosesNothingThatAManagerOpened(t *testing.T) {
	if !soak() {
		t.Skip("takes minutes; make soak")
	}
	openings(t, 100)
}

// A worker that was taken over, or has stopped, does not see that its socket ends.
func TestChildrenEndWithTheirServer(t *testing.T) {
	s := newSite(t)
	s.tenant("acme", guesttest.Accepts("alice").Module())
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var children []int
	for _, file := range files {
		text, _ := os.ReadFile(file) // a thread may have ended
		for field := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			children = append(children, pid)
		}
	}
	if len(children) == 0 {
		t.Fatal("the server has no children")
	}
	s.crash()
	for _, pid := range children {
		for began := time.Now(); ; time.Sleep(10 * time.Millisecond) { // between two looks
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if _, state, _ := strings.Cut(string(text), ") "); err != nil || strings.HasPrefix(state, "Z") {
				break
			}
			if time.Since(began) > 10*time.Second {
				unix.Kill(pid, unix.SIGKILL)
				t.Fatalf("child %d goes on without its server", pid)
			}
		}
	}
}
