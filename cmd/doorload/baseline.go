package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/sessions"
)

// baselineCookie carries the token to the bare handler.
const baselineCookie = "session"

func baselineCommand() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:   "baseline",
		Short: "Serve the bare handler that others are compared with",
		Long: "A net/http handler that looks the cookie \"session\" up in a sync.Map and answers a\n" +
			"session's JSON; every login is let in and every logout obeyed. It is what no session\n" +
			"server can be cheaper than.\n\n" +
			"The numbers to reach name a bare Echo handler. Echo lives in service/web alone, so\n" +
			"this one is net/http, between which and Echo no difference could be measured; the\n" +
			"comparison with Echo itself is the Go benchmark in cmd/doorward/bench_test.go.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("baseline takes no arguments")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serveBaseline(cmd.Context(), listen, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "loopback address to serve on")
	return cmd
}

// serveBaseline serves until ctx ends, and says on out where.
func serveBaseline(ctx context.Context, listen string, out io.Writer) error {
	if at, err := netip.ParseAddrPort(listen); err != nil || !at.Addr().IsLoopback() {
		return usagef("--listen %s: it lets everybody in, so it takes a loopback address only, such as 127.0.0.1:0", listen)
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("serve the baseline: %w", err)
	}
	server := &http.Server{Handler: bareHandler(), ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		stopped <- server.Shutdown(drain)
	}()
	fmt.Fprintf(out, "ready public=http://%s\n", l.Addr())
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the baseline: %w", err)
	}
	return <-stopped
}

// bareHandler keeps sessions in a sync.Map.
func bareHandler() http.Handler {
	var known sync.Map
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/login", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Username, Password, Transport string }
		if err := json.NewDecoder(io.LimitReader(r.Body, 16<<10)).Decode(&in); err != nil {
			writeBare(w, http.StatusBadRequest, nil)
			return
		}
		token, s := sessions.NewToken().Reveal(), newBareSession(in.Username)
		known.Store(token, s)
		writeBare(w, http.StatusCreated, map[string]any{"session": s, "token": token})
	})
	mux.HandleFunc("GET /v1/session", func(w http.ResponseWriter, r *http.Request) {
		cookie, err := r.Cookie(baselineCookie)
		if err != nil {
			writeBare(w, http.StatusUnauthorized, nil)
			return
		}
		s, ok := known.Load(cookie.Value)
		if !ok {
			writeBare(w, http.StatusUnauthorized, nil)
			return
		}
		writeBare(w, http.StatusOK, s)
	})
	mux.HandleFunc("DELETE /v1/session", func(w http.ResponseWriter, r *http.Request) {
		if cookie, err := r.Cookie(baselineCookie); err == nil {
			known.Delete(cookie.Value)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

func writeBare(w http.ResponseWriter, status int, v any) {
	if status == http.StatusUnauthorized {
		w.Header().Set("Content-Type", "application/problem+json")
		v = map[string]any{"type": "about:blank", "title": "Unauthorized", "status": status, "code": noSession}
	} else {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // else the caller has gone
}

// bareSession is a session's JSON, with the members that the contract names.
type bareSession struct {
	ID            string         `json:"id"`
	Tenant        string         `json:"tenant"`
	Subject       string         `json:"subject"`
	Claims        map[string]any `json:"claims"`
	AMR           []string       `json:"amr"`
	AuthTime      time.Time      `json:"auth_time"`
	CreatedAt     time.Time      `json:"created_at"`
	LastSeenAt    time.Time      `json:"last_seen_at"`
	IdleExpiresAt time.Time      `json:"idle_expires_at"`
	ExpiresAt     time.Time      `json:"expires_at"`
	RotateAfter   time.Time      `json:"rotate_after"`
	Verifier      struct {
		Version int    `json:"version"`
		Digest  string `json:"digest"`
	} `json:"verifier"`
	Client struct {
		IP        string `json:"ip"`
		UserAgent string `json:"user_agent"`
	} `json:"client"`
	Current  bool `json:"current"`
	Degraded bool `json:"degraded"`
}

func newBareSession(subject string) bareSession {
	now := time.Now().UTC()
	s := bareSession{
		ID: "ses_01K0000000000000000000000", Tenant: "demo", Subject: subject, Claims: map[string]any{"name": "Demo User"}, AMR: []string{"pwd"},
		AuthTime: now, CreatedAt: now, LastSeenAt: now, IdleExpiresAt: now, ExpiresAt: now, RotateAfter: now, Current: true,
	}
	s.Verifier.Version, s.Verifier.Digest = 1, "sha256:e7cf4ce70f8e900cc7928924fa3ee302c5ac57a288c2230f01e206411c7e30e8"
	s.Client.IP, s.Client.UserAgent = "127.0.0.1", "Go-http-client/1.1"
	return s
}

// startBaseline runs the bare handler in a process of its own, so that its
// processor time is its own, until stop is called.
func startBaseline() (base string, pid int, stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return "", 0, nil, fmt.Errorf("start the baseline: %w", err)
	}
	// Not CommandContext: after a Ctrl-C the last requests are still answered.
	cmd := exec.Command(self, "baseline")
	// In a group of its own a terminal's Ctrl-C does not reach it; and it may
	// not outlive this process.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", 0, nil, fmt.Errorf("start the baseline: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return "", 0, nil, fmt.Errorf("start the baseline: %w", err)
	}
	stop = func() {
		_ = cmd.Process.Kill() // it holds nothing
		_ = cmd.Wait()
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	base, found := strings.CutPrefix(strings.TrimSpace(line), "ready public=")
	if err != nil {
		stop()
		return "", 0, nil, fmt.Errorf("start the baseline: read its address: %w", err)
	}
	if !found {
		stop()
		return "", 0, nil, fmt.Errorf("start the baseline: it said %q", line)
	}
	return base, cmd.Process.Pid, stop, nil
}
