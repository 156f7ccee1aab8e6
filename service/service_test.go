package service_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/sdk/abi"
	"github.com/doorward/doorward/service"
	"github.com/doorward/doorward/sessions"
	"github.com/doorward/doorward/tenants"
)

// house is a service over Memory in fake time, with a func that decides.
type house struct {
	*testing.T
	*service.Service
	source *tenants.Memory
	store  *sessions.Memory
	calls  []plugins.Call // that the verifier got
	fail   string         // the step of a delete that is refused; "" none
}

var errCut = errors.New("cut here")

// artifacts and source stop a delete half-way, as a crash does.
type artifacts struct {
	*plugins.Dir
	h *house
}

func (a artifacts) RemoveTenant(ctx context.Context, tenant string) error {
	if a.h.fail == "verifiers" {
		return errCut
	}
	return a.Dir.RemoveTenant(ctx, tenant)
}

type source struct {
	*tenants.Memory
	h *house
}

func (s source) Remove(ctx context.Context, uuid string) error {
	if s.h.fail == "tenant" {
		return errCut
	}
	return s.Memory.Remove(ctx, uuid)
}

type store struct {
	*sessions.Memory
	h *house
}

func (s store) RemoveTenant(ctx context.Context, tenant string) error {
	if s.h.fail == "sessions" {
		return errCut
	}
	return s.Memory.RemoveTenant(ctx, tenant)
}

// BumpEpoch fails as a full etcd does: it takes no puts.
func (s store) BumpEpoch(ctx context.Context, tenant string, f sessions.Filter) (int64, error) {
	if s.h.fail == "puts" {
		return 0, sessions.ErrUnavailable
	}
	return s.Memory.BumpEpoch(ctx, tenant, f)
}

// inHouse runs test with tenants acme (at acme.test too) and other.
func inHouse(t *testing.T, test func(h *house)) {
	synctest.Test(t, func(t *testing.T) {
		dir, err := plugins.NewDir(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		h := &house{T: t, source: tenants.NewMemory(), store: sessions.NewMemory()}
		h.Service = &service.Service{
			Tenants:  tenants.NewRegistry(h.source, tenants.RegistryConfig{}),
			Source:   source{h.source, h},
			Sessions: sessions.New(store{h.store, h}, h.store, sessions.Config{}),
			Verifier: service.VerifierFunc(h.decide),
			Catalog:  plugins.NewCatalog(artifacts{dir, h}, plugins.NewHost(nil, plugins.Settings{}, nil), plugins.CatalogConfig{}),
			Log:      slog.New(slog.DiscardHandler),
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- h.Tenants.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("Run ended with %v", err)
			}
		})
		h.tenant("acme", "acme.test")
		h.tenant("other")
		test(h)
	})
}

func (h *house) tenant(id string, hosts ...string) tenants.Tenant {
	h.Helper()
	made, err := h.Tenants.New(tenants.Tenant{ID: id, Hosts: hosts})
	if err == nil {
		made, err = h.CreateTenant(h.Context(), made)
	}
	if err != nil {
		h.Fatal(err)
	}
	return made
}

// decide lets "right" in, asks "twostep" for the code "123456", and has no
// verdict for "broken".
func (h *house) decide(_ context.Context, c plugins.Call) (plugins.Answer, error) {
	h.calls = append(h.calls, c)
	out := plugins.Answer{Version: 7, Digest: "sha256:abc", Verdict: abi.Verdict{Decision: abi.Reject}}
	name := c.Request.Credential.Text("username")
	switch {
	case c.Request.Credential.Text("code") == "deleted":
		return plugins.Answer{}, fmt.Errorf("%w: %w", plugins.ErrVerifier, plugins.ErrNotFound)
	case name == "broken":
		return plugins.Answer{}, plugins.ErrVerifier
	case string(c.Request.State) == `{"step":1}` && c.Request.Credential.Text("code") == "again":
		out.Verdict = abi.Verdict{Decision: abi.Challenge, Type: "otp", Private: []byte(`{"step":1}`), TTL: 60, MaxAttempts: 3}
	case string(c.Request.State) == `{"step":1}` && c.Request.Credential.Text("code") == "123456":
		out.Verdict = abi.Verdict{Decision: abi.Accept, Subject: "twostep"}
	case c.Request.State == nil && name == "twostep" && c.Request.Credential.Text("password") == "right":
		out.Verdict = abi.Verdict{Decision: abi.Challenge, Type: "otp", Private: []byte(`{"step":1}`), TTL: 60, MaxAttempts: 3}
	case c.Request.State == nil && c.Request.Credential.Text("password") == "right":
		out.Verdict = abi.Verdict{Decision: abi.Accept, Subject: name, Claims: []byte(`{"role":"x"}`), AMR: []string{"pwd"}}
	}
	return out, nil
}

var (
	acme   = service.Door{ID: "acme"}
	byHost = service.Door{Host: "acme.test"}
	other  = service.Door{ID: "other"}
)

func attempt(username, password string) service.Attempt {
	return service.Attempt{Credential: abi.Credential{"username": username, "password": password}}
}

func (h *house) in(d service.Door, username string) service.Outcome {
	h.Helper()
	out, err := h.Login(h.Context(), d, attempt(username, "right"))
	if err != nil || out.Asked != nil {
		h.Fatalf("login of %s: %+v, %v", username, out, err)
	}
	return out
}

func (h *house) want(want, err error) {
	h.Helper()
	if !errors.Is(err, want) {
		h.Fatalf("err = %v, want %v", err, want)
	}
}

// valid wants a token to be good, or not, at a door.
func (h *house) valid(want bool, d service.Door, token sessions.Token) {
	h.Helper()
	_, err := h.Validate(h.Context(), d, token, 0)
	if want && err != nil || !want && !errors.Is(err, sessions.ErrNotFound) {
		h.Fatalf("validate: %v, want good %v", err, want)
	}
}

func TestALoginIsDecidedByTheTenantsVerifier(t *testing.T) {
	inHouse(t, func(h *house) {
		a := attempt("alice", "right")
		a.Client, a.App, a.RequestID = sessions.Client{IP: "192.0.2.1", UserAgent: "ua"}, "shop", "r1"
		out, err := h.Login(h.Context(), acme, a)
		if err != nil {
			h.Fatal(err)
		}
		made, _ := h.Tenants.ByID("acme")
		s := out.Session
		if s.Subject != "alice" || s.Tenant != made.UUID || string(s.Claims) != `{"role":"x"}` || s.Verifier.Version != 7 || s.Verifier.Digest != "sha256:abc" || s.Client != a.Client || out.Token.IsZero() {
			h.Errorf("session %+v", s)
		}
		if got := h.calls[0]; got.Tenant != made.UUID || got.Version != 0 || got.Request.Tenant != "acme" || got.Request.Method != "password" || got.Request.Attempt != 1 || got.Request.RequestID != "r1" || got.Request.State != nil || got.Request.Client != (abi.Client{IP: "192.0.2.1", UserAgent: "ua", App: "shop"}) || got.Request.NowMS != time.Now().UnixMilli() {
			h.Errorf("call %+v", got)
		}
		h.valid(true, acme, out.Token)
		h.valid(true, byHost, out.Token)
		h.valid(false, other, out.Token)
		h.valid(false, acme, sessions.Token{})
		_, err = h.Validate(h.Context(), service.Door{ID: "nobody"}, out.Token, 0)
		h.want(service.ErrNoDoor, err)
		_, err = h.Validate(h.Context(), acme, out.Token, 1<<40)
		h.want(sessions.ErrRevision, err)
		time.Sleep(made.Session.Idle)
		h.valid(false, acme, out.Token)
	})
}

func TestALoginIsRefused(t *testing.T) {
	inHouse(t, func(h *house) {
		for name, c := range map[string]struct {
			door service.Door
			try  service.Attempt
			want error
			asks bool // whether the verifier hears of it
		}{
			"a wrong password":  {acme, attempt("alice", "wrong"), service.ErrDenied, true},
			"an empty password": {acme, attempt("alice", ""), service.ErrDenied, false},
			"an empty user":     {acme, attempt("", "right"), service.ErrDenied, false},
			"nothing at all":    {acme, service.Attempt{}, service.ErrDenied, false},
			"a broken verifier": {acme, attempt("broken", "right"), service.ErrVerifier, true},
			"no such tenant":    {service.Door{ID: "nobody"}, attempt("alice", "right"), service.ErrNoDoor, false},
			"no such host":      {service.Door{Host: "nobody.test"}, attempt("alice", "right"), service.ErrNoDoor, false},
			"no door":           {service.Door{}, attempt("alice", "right"), service.ErrNoDoor, false},
			"an id as a host":   {service.Door{Host: "acme"}, attempt("alice", "right"), service.ErrNoDoor, false},
		} {
			before := len(h.calls)
			out, err := h.Login(h.Context(), c.door, c.try)
			if !errors.Is(err, c.want) || !out.Token.IsZero() || len(h.calls) > before != c.asks {
				h.Errorf("%s: %v, %d calls", name, err, len(h.calls)-before)
			}
		}
	})
}

func TestASecondStepIsAnsweredOnceAndInTime(t *testing.T) {
	inHouse(t, func(h *house) {
		ask := func() service.Question {
			h.Helper()
			a := attempt("twostep", "right")
			a.Remember, a.Token = true, true
			out, err := h.Login(h.Context(), acme, a)
			if err != nil || out.Asked == nil || !out.Token.IsZero() {
				h.Fatalf("asked %+v, %v", out, err)
			}
			return *out.Asked
		}
		answer := func(d service.Door, id sessions.ChallengeID, code string) (service.Outcome, error) {
			return h.Answer(h.Context(), d, id, service.Attempt{Credential: abi.Credential{"code": code}})
		}
		denied := func(d service.Door, id sessions.ChallengeID, code string) {
			h.Helper()
			_, err := answer(d, id, code)
			h.want(service.ErrChallenge, err)
		}
		q := ask()
		denied(other, q.ID, "123456")
		denied(acme, q.ID, "000000")
		out, err := answer(acme, q.ID, "123456")
		if err != nil || out.Session.Subject != "twostep" || !out.ByToken || !out.Remember || !out.Session.Remember {
			h.Fatalf("answered %+v, %v", out, err)
		}
		if last := h.calls[len(h.calls)-1]; last.Version != 7 || last.Request.Attempt != 2 || last.Request.Method != "password" {
			h.Errorf("the answer went to version %d as attempt %d", last.Version, last.Request.Attempt)
		}
		h.valid(true, acme, out.Token)
		denied(acme, q.ID, "123456") // once

		q = ask()
		for range 3 {
			denied(acme, q.ID, "000000")
		}
		calls := len(h.calls)
		denied(acme, q.ID, "123456") // no attempt is left, and the verifier is not asked
		if len(h.calls) != calls {
			h.Error("the verifier was asked without an attempt")
		}

		q = ask()
		further, err := answer(acme, q.ID, "again")
		if err != nil || further.Asked == nil {
			h.Fatalf("a further step: %+v, %v", further, err)
		}
		denied(acme, q.ID, "123456") // the further step took its place
		if _, err := answer(acme, further.Asked.ID, "123456"); err != nil {
			h.Errorf("the further step: %v", err)
		}

		q = ask()
		time.Sleep(time.Minute)
		denied(acme, q.ID, "123456") // late

		q = ask()
		denied(acme, q.ID, "deleted") // the version that asked, and then nobody is asked again
		calls = len(h.calls)
		denied(acme, q.ID, "123456")
		if len(h.calls) != calls {
			h.Error("a challenge of a deleted version is still there")
		}

		q = ask()
		if _, err := h.Suspend(h.Context(), "acme"); err != nil {
			h.Fatal(err)
		}
		_, err = answer(acme, q.ID, "123456")
		h.want(service.ErrSuspended, err)
	})
}

func TestASuspendedTenantSignsNobodyInAndItsSessionsHaveEnded(t *testing.T) {
	inHouse(t, func(h *house) {
		mine, theirs := h.in(acme, "alice"), h.in(other, "alice")
		if got, err := h.Suspend(h.Context(), "acme"); err != nil || got.State != tenants.Suspended {
			h.Fatalf("%+v, %v", got, err)
		}
		_, err := h.Login(h.Context(), acme, attempt("alice", "right"))
		h.want(service.ErrSuspended, err)
		h.valid(false, acme, mine.Token)
		h.valid(true, other, theirs.Token)
		if _, err := h.Logout(h.Context(), acme, mine.Token); err != nil {
			h.Errorf("signing out: %v", err)
		}
		if _, err := h.Resume(h.Context(), "acme"); err != nil {
			h.Fatal(err)
		}
		h.valid(false, acme, mine.Token)
		h.in(acme, "alice")
		_, err = h.Suspend(h.Context(), "nobody")
		h.want(tenants.ErrNotFound, err)
	})
}

func TestALogoutEndsOneSessionAndALoginTheOneItReplaces(t *testing.T) {
	inHouse(t, func(h *house) {
		first, second := h.in(acme, "alice"), h.in(acme, "alice")
		if revision, err := h.Logout(h.Context(), other, first.Token); err != nil || revision != 0 {
			h.Errorf("at another tenant: %d, %v", revision, err)
		}
		h.valid(true, acme, first.Token)
		if revision, err := h.Logout(h.Context(), byHost, first.Token); err != nil || revision == 0 {
			h.Errorf("revision %d, %v", revision, err)
		}
		h.valid(false, acme, first.Token)
		h.valid(true, acme, second.Token)
		if revision, err := h.Logout(h.Context(), acme, first.Token); err != nil || revision != 0 {
			h.Errorf("again: %d, %v", revision, err)
		}
		again := attempt("alice", "right")
		again.Replaces = second.Token
		out, err := h.Login(h.Context(), acme, again)
		if err != nil {
			h.Fatal(err)
		}
		h.valid(false, acme, second.Token)
		h.valid(true, acme, out.Token)
	})
}

func TestOnesOwnSessionsAreListedAndEnded(t *testing.T) {
	inHouse(t, func(h *house) {
		mine, second, third, bobs, elsewhere := h.in(acme, "alice"), h.in(acme, "alice"), h.in(acme, "alice"), h.in(acme, "bob"), h.in(other, "alice")
		list, current, err := h.OwnSessions(h.Context(), acme, mine.Token, 0)
		if err != nil || len(list) != 3 || current != mine.Session.ID {
			h.Fatalf("%d sessions, current %s, %v", len(list), current, err)
		}
		for _, id := range []sessions.ID{bobs.Session.ID, elsewhere.Session.ID, sessions.NewToken().Digest("nobody").ID()} {
			_, _, err := h.EndOwn(h.Context(), acme, mine.Token, id)
			h.want(sessions.ErrNotFound, err)
		}
		_, _, err = h.EndOwn(h.Context(), acme, sessions.NewToken(), mine.Session.ID)
		h.want(service.ErrNoSession, err)
		if _, own, err := h.EndOwn(h.Context(), acme, mine.Token, second.Session.ID); err != nil || own {
			h.Errorf("end of the second: own %v, %v", own, err)
		}
		h.valid(false, acme, second.Token)
		if done, err := h.EndOthers(h.Context(), acme, mine.Token); err != nil || done.Processed != 1 || done.More {
			h.Errorf("the others: %+v, %v", done, err)
		}
		h.valid(false, acme, third.Token)
		for d, token := range map[service.Door]sessions.Token{acme: bobs.Token, other: elsewhere.Token, byHost: mine.Token} {
			h.valid(true, d, token)
		}
		if _, own, err := h.EndOwn(h.Context(), acme, mine.Token, mine.Session.ID); err != nil || !own {
			h.Errorf("end of one's own: own %v, %v", own, err)
		}
		_, _, err = h.OwnSessions(h.Context(), acme, mine.Token, 0)
		h.want(sessions.ErrNotFound, err)
	})
}

func TestARevokeEndsWhatItNames(t *testing.T) {
	inHouse(t, func(h *house) {
		alice, bob, elsewhere := h.in(acme, "alice"), h.in(acme, "bob"), h.in(other, "alice")
		_, err := h.RevokeSessions(h.Context(), "nobody", sessions.Filter{})
		h.want(tenants.ErrNotFound, err)
		for i, step := range []struct {
			f          sessions.Filter
			alice, bob bool
		}{
			{sessions.Filter{Digest: "sha256:else"}, true, true},
			{sessions.Filter{Subject: "alice"}, false, true},
			{sessions.Filter{Digest: "sha256:abc"}, false, false},
		} {
			if _, err := h.RevokeSessions(h.Context(), "acme", step.f); err != nil {
				h.Fatal(i, err)
			}
			h.valid(step.alice, acme, alice.Token)
			h.valid(step.bob, acme, bob.Token)
			h.valid(true, other, elsewhere.Token)
		}
	})
}

func TestEverybodysSessionsEndAlsoWhereNothingCanBePut(t *testing.T) {
	for _, fail := range []string{"", "puts"} {
		inHouse(t, func(h *house) {
			here, elsewhere := h.in(acme, "alice"), h.in(other, "bob")
			h.fail = fail
			done, err := h.RevokeEverybody(h.Context())
			if err != nil || done.More || done.Revision == 0 {
				h.Fatalf("%q: %+v, %v", fail, done, err)
			}
			h.valid(false, acme, here.Token)
			h.valid(false, other, elsewhere.Token)
		})
	}
}

// A delete that is cut at any step is finished when it is resumed or asked for
// again; from its first step on nobody finds the tenant.
func TestADeleteThatWasCutIsFinished(t *testing.T) {
	for _, step := range []string{"", "sessions", "verifiers", "tenant"} {
		for _, again := range []string{"resume", "delete"} {
			t.Run(fmt.Sprintf("%s by %s", step, again), func(t *testing.T) {
				inHouse(t, func(h *house) {
					token, bystander := h.in(acme, "alice").Token, h.in(other, "alice").Token
					old, _ := h.Tenants.ByID("acme")
					if err := h.source.PutConfig(h.Context(), old.UUID, []byte(`{"k":1}`)); err != nil {
						h.Fatal(err)
					}
					h.fail = step
					err := h.DeleteTenant(h.Context(), "acme", 0)
					if (err != nil) != (step != "") || step != "" && !errors.Is(err, errCut) {
						h.Fatalf("cut at %q: %v", step, err)
					}
					_, err = h.Login(h.Context(), acme, attempt("alice", "right"))
					h.want(service.ErrNoDoor, err)
					_, err = h.Validate(h.Context(), byHost, token, 0)
					h.want(service.ErrNoDoor, err)
					if step != "" {
						fresh, err := h.Tenants.New(tenants.Tenant{ID: "acme"})
						if err == nil {
							_, err = h.CreateTenant(h.Context(), fresh)
						}
						h.want(tenants.ErrExists, err)
						h.fail = ""
						if again == "resume" {
							err = h.ResumeDeletes(h.Context())
						} else {
							err = h.DeleteTenant(h.Context(), "acme", 0)
						}
						if err != nil {
							h.Fatal(err)
						}
					}
					synctest.Wait()
					if len(h.Tenants.Deleting()) > 0 {
						h.Error("it is still being deleted")
					}
					h.want(tenants.ErrNotFound, h.DeleteTenant(h.Context(), "acme", 0))
					if list, _, err := h.store.List(h.Context(), old.UUID, sessions.Filter{}, "", 10); err != nil || len(list) > 0 {
						h.Errorf("its sessions: %v, %v", list, err)
					}
					if object, err := h.source.Config(h.Context(), old.UUID); err != nil || string(object) != "{}" {
						h.Errorf("its config: %s, %v", object, err)
					}
					h.tenant("acme", "acme.test")
					h.valid(false, acme, token)
					h.valid(true, other, bystander)
				})
			})
		}
	}
}

func TestAnUpdateNeedsTheRevisionItsCallerSaw(t *testing.T) {
	inHouse(t, func(h *house) {
		seen, _ := h.Tenants.ByID("acme")
		name := func(n string) func(*tenants.Tenant) error {
			return func(t *tenants.Tenant) error { t.Name = n; return nil }
		}
		time.Sleep(time.Second)
		changed, err := h.UpdateTenant(h.Context(), "acme", seen.Revision, name("first"))
		if err != nil || changed.Name != "first" || !changed.UpdatedAt.After(seen.UpdatedAt) {
			h.Fatalf("%+v, %v", changed, err)
		}
		_, err = h.UpdateTenant(h.Context(), "acme", seen.Revision, name("second"))
		h.want(tenants.ErrChanged, err)
		h.want(tenants.ErrChanged, h.DeleteTenant(h.Context(), "acme", seen.Revision))
		_, err = h.UpdateTenant(h.Context(), "acme", 0, func(*tenants.Tenant) error { return errCut })
		h.want(errCut, err)
		_, err = h.UpdateTenant(h.Context(), "nobody", 0, name("x"))
		h.want(tenants.ErrNotFound, err)
		if got, _ := h.Tenants.ByID("acme"); got.Name != "first" {
			h.Errorf("name %q", got.Name)
		}
	})
}
