package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/sdk/abi"
	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/tenants"
)

// Attempt is one try to sign in.
type Attempt struct {
	Method     string // "" is "password"
	Credential abi.Credential
	Remember   bool
	Token      bool   // the caller keeps a token itself; otherwise a cookie
	App        string // id of the app the login is for, if any
	Client     sessions.Client
	RequestID  string
	Replaces   sessions.Token // the session that this browser had so far, if any
}

// Outcome is what a login came to: a session with its token, or a question.
type Outcome struct {
	Token   sessions.Token
	Session sessions.Session
	Asked   *Question // set instead of the others when a second step is needed

	// What the first step asked for, and an answer to it inherits.
	ByToken  bool
	Remember bool
}

// Question is a second step as the client may see it.
type Question struct {
	ID        sessions.ChallengeID
	Type      string
	Public    json.RawMessage
	ExpiresAt time.Time
}

// Login decides a credential and opens a session. ErrDenied when it is not
// good, ErrVerifier when nobody could say, ErrSuspended, ErrNoDoor.
func (s *Service) Login(ctx context.Context, d Door, a Attempt) (Outcome, error) {
	t, err := s.open(d)
	if err != nil {
		return Outcome{}, err
	}
	if a.Method == "" {
		a.Method = "password"
	}
	if a.Method == "password" && (a.Credential.Text("username") == "" || a.Credential.Text("password") == "") {
		return Outcome{}, ErrDenied // an empty password must never reach a directory that takes it for "anonymous"
	}
	if err := s.Sessions.Available(); err != nil {
		return Outcome{}, fmt.Errorf("sign in: %w", err)
	}
	answer, err := s.ask(ctx, t, 0, a, 1, nil)
	if err != nil {
		return Outcome{}, err
	}
	return s.settle(ctx, t, a, answer, sessions.ChallengeID{})
}

// Answer gives the user's answer to a challenge and opens a session when it is
// right. ErrChallenge when it is wrong, late, or for nothing that is pending, as a
// challenge is whose verifier version was deleted.
func (s *Service) Answer(ctx context.Context, d Door, id sessions.ChallengeID, a Attempt) (Outcome, error) {
	t, err := s.open(d)
	if err != nil {
		return Outcome{}, err
	}
	pending, err := s.Sessions.Answer(ctx, t.UUID, id)
	if errors.Is(err, sessions.ErrNotFound) {
		return Outcome{}, ErrChallenge
	}
	if err != nil {
		return Outcome{}, fmt.Errorf("take an attempt: %w", err)
	}
	a.Method, a.Remember, a.Token, a.App = pending.Method, pending.Remember, pending.Token, pending.App
	answer, err := s.ask(ctx, t, pending.Verifier.Version, a, pending.Answers, pending.Private)
	if errors.Is(err, plugins.ErrNotFound) { // nobody can ever decide it: the user begins anew
		if err := s.Sessions.Drop(ctx, t.UUID, id); err != nil {
			return Outcome{}, fmt.Errorf("drop challenge of a deleted version: %w", err)
		}
		return Outcome{}, ErrChallenge
	}
	if err != nil {
		return Outcome{}, err
	}
	out, err := s.settle(ctx, t, a, answer, id)
	if errors.Is(err, ErrDenied) || errors.Is(err, sessions.ErrNotFound) {
		return Outcome{}, ErrChallenge
	}
	return out, err
}

// ask puts one credential to a version of the tenant's verifier.
func (s *Service) ask(ctx context.Context, t tenants.Tenant, version int, a Attempt, attempt int, state json.RawMessage) (plugins.Answer, error) {
	answer, err := s.Verifier.Verify(ctx, plugins.Call{
		Tenant:  t.UUID,
		Version: version,
		Request: abi.Request{
			ABI:        abi.Version,
			Tenant:     t.ID,
			Method:     a.Method,
			RequestID:  a.RequestID,
			Attempt:    attempt,
			Credential: a.Credential,
			Client:     abi.Client{IP: a.Client.IP, UserAgent: a.Client.UserAgent, App: a.App},
			State:      state,
			NowMS:      time.Now().UnixMilli(),
		},
	})
	if err != nil {
		return plugins.Answer{}, fmt.Errorf("%w: %w", ErrVerifier, err)
	}
	return answer, nil
}

// settle turns a verdict into a session, a question or a denial. answered is
// the challenge that the credential answered, if it did.
func (s *Service) settle(ctx context.Context, t tenants.Tenant, a Attempt, answer plugins.Answer, answered sessions.ChallengeID) (Outcome, error) {
	v, by := answer.Verdict, sessions.Verifier{Version: answer.Version, Digest: answer.Digest}
	out := Outcome{ByToken: a.Token, Remember: a.Remember}
	switch v.Decision {
	case abi.Accept:
		token, session, err := s.Sessions.Open(ctx, sessions.Opening{
			Tenant: t.UUID, Subject: v.Subject, Claims: v.Claims, AMR: v.AMR,
			Verifier: by, Client: a.Client,
			Policy: sessions.Policy(t.Session), Remember: a.Remember,
			Replaces: a.Replaces, Challenge: answered,
		})
		if err != nil {
			return Outcome{}, fmt.Errorf("open session: %w", err)
		}
		out.Token, out.Session = token, session
		return out, nil

	case abi.Challenge:
		asked, err := s.question(ctx, t, a, v, by)
		if err != nil {
			return Outcome{}, err
		}
		if !answered.IsZero() { // a further step takes the place of the one just answered
			if err := s.Sessions.Drop(ctx, t.UUID, answered); err != nil {
				return Outcome{}, fmt.Errorf("drop answered challenge: %w", err)
			}
		}
		out.Asked = &asked
		return out, nil

	case abi.Reject:
		return Outcome{}, ErrDenied
	}
	return Outcome{}, fmt.Errorf("%w: decision %q", ErrVerifier, v.Decision)
}

// question keeps what the verifier wants asked until the answer comes.
func (s *Service) question(ctx context.Context, t tenants.Tenant, a Attempt, v abi.Verdict, by sessions.Verifier) (Question, error) {
	expires := time.Now().Add(time.Duration(v.TTL) * time.Second)
	id, err := s.Sessions.Ask(ctx, sessions.Challenge{
		Tenant: t.UUID, Method: a.Method, Type: v.Type, Public: v.Public, Private: v.Private,
		Verifier: by, Attempts: v.MaxAttempts, Remember: a.Remember, Token: a.Token, App: a.App,
		ExpiresAt: expires,
	})
	if err != nil {
		return Question{}, fmt.Errorf("keep challenge: %w", err)
	}
	return Question{ID: id, Type: v.Type, Public: v.Public, ExpiresAt: expires}, nil
}
