package main

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
)

// A node that waited for a majority of its cluster once took connections and
// answered none, for minutes.
func TestANodeThatIsStartingSaysSo(t *testing.T) {
	for _, probes := range []bool{false, true} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		d := newDoor(slog.New(slog.DiscardHandler), probes)
		go d.serve(l)
		ask := func(path string) (int, string, http.Header) {
			t.Helper()
			got, err := http.Get("http://" + l.Addr().String() + path)
			if err != nil {
				t.Fatal(err)
			}
			defer got.Body.Close()
			text, err := io.ReadAll(got.Body)
			if err != nil {
				t.Fatal(err)
			}
			return got.StatusCode, string(text), got.Header
		}
		status, body, header := ask("/t/acme/v1/session")
		if status != 503 || header.Get("Retry-After") == "" || header.Get("Content-Type") != "application/problem+json" || header.Get("X-Request-Id") == "" || !strings.Contains(body, `"code":"unavailable"`) {
			t.Errorf("%d %v %s", status, header, body)
		}
		if status, _, _ := ask("/readyz"); status != 503 {
			t.Errorf("ready with %d", status)
		}
		want := 503
		if probes {
			want = 200
		}
		if status, _, _ := ask("/livez"); status != want {
			t.Errorf("alive with %d, want %d", status, want)
		}
		d.open(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "open") }))
		if status, body, _ := ask("/livez"); status != 200 || body != "open" {
			t.Errorf("once it is open: %d %s", status, body)
		}
		d.Close()
		if err := <-d.ended; err != nil {
			t.Errorf("shut, it ended with %v", err)
		}
	}
}
