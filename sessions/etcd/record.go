package etcd

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/doorward/doorward/sessions"
)

// record is a session as it is stored. Names are short because there are
// millions; V says how to read the rest. A version that is not known is an
// error, never a guess.
type record struct {
	V        int             `json:"v"`
	ID       sessions.ID     `json:"i,omitempty"` // only of one that was rotated: else it is in the key
	Subject  string          `json:"s"`
	Claims   json.RawMessage `json:"c"`
	AMR      []string        `json:"m,omitempty"`
	Version  int             `json:"n"`
	Digest   string          `json:"d"`
	IP       string          `json:"p,omitempty"`
	Agent    string          `json:"u,omitempty"`
	Created  int64           `json:"b"`           // Unix milliseconds; all that follow count from then
	Auth     int64           `json:"a,omitempty"` // mostly 0
	Seen     int64           `json:"l,omitempty"`
	IdleEnd  int64           `json:"e"`
	End      int64           `json:"x"`
	Idle     int64           `json:"t"` // a length, in milliseconds
	Remember bool            `json:"r,omitempty"`
	Issued   int64           `json:"g,omitempty"`
	Rotated  *int64          `json:"o,omitempty"` // nil: it was not
	Salt     []byte          `json:"z,omitempty"`
}

const recordVersion = 1

// encode writes s as it stands under d.
func encode(d sessions.Digest, s sessions.Session) []byte {
	created := s.CreatedAt.UnixMilli()
	since := func(t time.Time) int64 { return t.UnixMilli() - created }
	r := record{
		V: recordVersion, Subject: s.Subject, Claims: s.Claims, AMR: s.AMR,
		Version: s.Verifier.Version, Digest: s.Verifier.Digest, IP: s.Client.IP, Agent: s.Client.UserAgent,
		Created: created, Auth: since(s.AuthTime), Seen: since(s.LastSeenAt),
		IdleEnd: since(s.IdleExpiresAt), End: since(s.ExpiresAt), Idle: s.Idle.Milliseconds(), Remember: s.Remember,
		Issued: since(s.IssuedAt),
	}
	if s.ID != d.ID() {
		r.ID = s.ID
	}
	if s.Superseded() {
		rotated := since(s.RotatedAt)
		r.Rotated = &rotated
	}
	if s.Salt != (sessions.Salt{}) {
		r.Salt = s.Salt[:]
	}
	text, err := json.Marshal(r)
	if err != nil {
		panic("sessions/etcd: encode: " + err.Error()) // claims are checked JSON, the rest is plain
	}
	return text
}

func decode(tenant string, d sessions.Digest, text []byte) (sessions.Session, error) {
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return sessions.Session{}, fmt.Errorf("decode session: %w", err)
	}
	if r.V != recordVersion {
		return sessions.Session{}, fmt.Errorf("decode session: record version %d is not known here", r.V)
	}
	at := func(since int64) time.Time { return time.UnixMilli(r.Created + since).UTC() }
	s := sessions.Session{
		ID: r.ID, Tenant: tenant, Subject: r.Subject, Claims: r.Claims, AMR: r.AMR,
		Verifier: sessions.Verifier{Version: r.Version, Digest: r.Digest},
		Client:   sessions.Client{IP: r.IP, UserAgent: r.Agent},
		AuthTime: at(r.Auth), CreatedAt: at(0), LastSeenAt: at(r.Seen),
		IdleExpiresAt: at(r.IdleEnd), ExpiresAt: at(r.End),
		Idle: time.Duration(r.Idle) * time.Millisecond, Remember: r.Remember,
		IssuedAt: at(r.Issued),
	}
	if s.ID == "" {
		s.ID = d.ID()
	}
	if r.Rotated != nil {
		s.RotatedAt = at(*r.Rotated)
	}
	if copy(s.Salt[:], r.Salt) != len(r.Salt) || len(r.Salt) != 0 && len(r.Salt) != len(s.Salt) {
		return sessions.Session{}, fmt.Errorf("decode session: a salt of %d bytes", len(r.Salt))
	}
	return s, nil
}

const (
	livePrefix      = "/dw/live/" // what nodes watch lies here
	recordPrefix    = livePrefix + "s/"
	idPrefix        = "/dw/s/id/"
	subjectPrefix   = "/dw/s/sub/"
	challengePrefix = "/dw/s/ch/"
)

func recordKey(tenant string, d sessions.Digest) string { return records(tenant) + d.Key() }

// records is where a tenant's records lie: those of the tokens that its sessions
// began with, and after firsts those of later tokens.
func records(tenant string) string { return recordPrefix + tenant + "/" }

// firsts is the end of the tokens that sessions began with: digests begin with a
// bit that says so, and are written five bits a letter, the first with three.
func firsts(tenant string) string { return records(tenant) + "4" }

func challengeKey(tenant string, id sessions.ChallengeID) string {
	return challengePrefix + tenant + "/" + id.Digest(tenant).Key()
}

// idKey is where it stands which digest a session is under that was rotated. One
// that was not is under the digest that its ID is.
func idKey(tenant string, id sessions.ID) string { return idPrefix + tenant + "/" + id.First().Key() }

// indexer hashes what an index is by: *seal.Keys.
type indexer interface{ Index(value string) []byte }

// subjectEntries is where a subject's entries lie. Their values are as at idKey.
func subjectEntries(keys indexer, tenant, subject string) string {
	return subjectPrefix + tenant + "/" + short(keys.Index(subject)) + "/"
}

func subjectKey(keys indexer, s sessions.Session) string {
	return subjectEntries(keys, s.Tenant, s.Subject) + s.ID.First().Key()
}

// short is enough of a hash to tell subjects apart: 128 bits.
func short(hash []byte) string { return base64.RawURLEncoding.EncodeToString(hash[:16]) }

// digestIn reads the digest that a key ends with.
func digestIn(key []byte) (sessions.Digest, error) {
	return sessions.ParseDigest(string(key[bytes.LastIndexByte(key, '/')+1:]))
}
