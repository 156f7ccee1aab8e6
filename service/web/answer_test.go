package web_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/service/web"
	"github.com/doorward/doorward/sessions"
)

// What is hard to write in JSON: quotes, controls, what HTML and JavaScript stumble
// over, characters of every length, and bytes that are no character.
var pieces = []string{"", "a", "Alice Example", `"`, `\`, "/", "<", ">", "&", "'", "\x00", "\x1f", "\b", "\f", "\n", "\r", "\t", "\x7f", "\x80", "\xff", "\xe2", "\xe2\x80", "\xc3\x28",
	"é", "€", "\u2027", "\u2028", "\u2029", "\ufffd", "\ufeff", "😀", "日本", "\xed\xa0\x80", `\u2028`, "{", "}", "[", "]", ":", ",", " "}

func anyText() string {
	var b strings.Builder
	for range rand.IntN(6) {
		b.WriteString(pieces[rand.IntN(len(pieces))])
	}
	return b.String()
}

// anyClaims is an object as a verifier may have written it: with blanks anywhere,
// and escaped or not.
func anyClaims(t *testing.T) json.RawMessage {
	t.Helper()
	values := []any{nil, true, 0, -1.5e300, 1e-7, anyText(), []any{}, []any{anyText(), map[string]any{anyText(): anyText()}}, map[string]any{}}
	claims := map[string]any{}
	for range rand.IntN(5) {
		claims[anyText()] = values[rand.IntN(len(values))]
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(rand.IntN(2) == 0)
	if rand.IntN(2) == 0 {
		e.SetIndent([]string{"", " ", "\t", "\r"}[rand.IntN(4)], []string{"", " ", "\t"}[rand.IntN(3)])
	}
	if err := e.Encode(claims); err != nil {
		t.Fatal(err)
	}
	if rand.IntN(2) == 0 {
		return bytes.TrimSpace(b.Bytes())
	}
	return b.Bytes()
}

func anyTime() time.Time {
	return time.UnixMilli(rand.Int64N(4_000_000_000_000)).In(time.FixedZone("", 3600*rand.IntN(3)))
}

func TestAValidateWritesWhatEncodingJSONWrites(t *testing.T) {
	for range 20_000 {
		s := sessions.Session{
			ID: sessions.ID(anyText()), Subject: anyText(), Claims: anyClaims(t),
			Verifier: sessions.Verifier{Version: rand.IntN(100) - 1, Digest: anyText()},
			Client:   sessions.Client{IP: anyText(), UserAgent: anyText()},
			AuthTime: anyTime(), CreatedAt: anyTime(), LastSeenAt: anyTime(), IdleExpiresAt: anyTime(), ExpiresAt: anyTime(), IssuedAt: anyTime(),
			Degraded: time.Duration(max(0, rand.Int64N(20_000_000_000)-10_000_000_000)),
		}
		for range rand.IntN(4) {
			s.AMR = append(s.AMR, anyText())
		}
		written, encoded, err := web.SessionJSON(anyText(), s)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(written, encoded) {
			t.Fatalf("of %#v\nis written %q\n   not %q", s, written, encoded)
		}
	}
}

func TestATimeThatNoJSONHasIsAnError(t *testing.T) {
	if _, _, err := web.SessionJSON("acme", sessions.Session{ExpiresAt: time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)}); err == nil {
		t.Fatal("it is written")
	}
}
