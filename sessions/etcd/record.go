package etcd

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/doorward/doorward/sessions"
)

// record is a session as it is stored. Names are short because there are
// millions; V says how to read the rest. A version that is not known is an
// error, never a guess.
type record struct {
	V        int             `json:"v"`
	ID       sessions.ID     `json:"i"`
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

func encode(s sessions.Session) []byte {
	created := s.CreatedAt.UnixMilli()
	since := func(t time.Time) int64 { return t.UnixMilli() - created }
	r := record{
		V: recordVersion, ID: s.ID, Subject: s.Subject, Claims: s.Claims, AMR: s.AMR,
		Version: s.Verifier.Version, Digest: s.Verifier.Digest, IP: s.Client.IP, Agent: s.Client.UserAgent,
		Created: created, Auth: since(s.AuthTime), Seen: since(s.LastSeenAt),
		IdleEnd: since(s.IdleExpiresAt), End: since(s.ExpiresAt), Idle: s.Idle.Milliseconds(), Remember: s.Remember,
		Issued: since(s.IssuedAt),
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

func decode(tenant string, text []byte) (sessions.Session, error) {
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
	verifierPrefix  = "/dw/s/ver/"
	challengePrefix = "/dw/s/ch/"
)

func recordKey(tenant string, d sessions.Digest) string {
	return recordPrefix + tenant + "/" + d.Key()
}

func challengeKey(tenant string, id sessions.ChallengeID) string {
	return challengePrefix + tenant + "/" + id.Digest(tenant).Key()
}

// indexer hashes what an index is by: *seal.Keys.
type indexer interface{ Index(value string) []byte }

// indexPrefix is where the entries for a filter lie, each under its session ID.
func indexPrefix(keys indexer, tenant string, f sessions.Filter) string {
	switch {
	case f.Subject != "":
		return subjectPrefix + tenant + "/" + short(keys.Index(f.Subject)) + "/"
	case f.Digest != "":
		return verifierPrefix + tenant + "/" + short(keys.Index(f.Digest)) + "/"
	}
	return idPrefix + tenant + "/"
}

// short is enough of a hash to tell subjects apart: 128 bits.
func short(hash []byte) string { return base64.RawURLEncoding.EncodeToString(hash[:16]) }

// indexKeys are all the entries of one session.
func indexKeys(keys indexer, s sessions.Session) []string {
	id := string(s.ID)
	list := []string{
		indexPrefix(keys, s.Tenant, sessions.Filter{}) + id,
		indexPrefix(keys, s.Tenant, sessions.Filter{Subject: s.Subject}) + id,
	}
	if s.Verifier.Digest != "" {
		list = append(list, indexPrefix(keys, s.Tenant, sessions.Filter{Digest: s.Verifier.Digest})+id)
	}
	return list
}

// idIn reads the session ID that an index entry ends with.
func idIn(key string) sessions.ID {
	return sessions.ID(key[strings.LastIndexByte(key, '/')+1:])
}
