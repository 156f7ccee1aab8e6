// Package hosttest is the exam that every host of verifiers sits: guests of package
// guesttest, each of which does one thing as the contract has it and looks for itself
// whether the host does too. What an SDK makes is examined the other way round, by
// guesttest.Logins, which verifiers in all languages answer the same.
//
// The one idea: the guest is the examiner. A host is only a function that runs a
// module on a request and gives the verdict, or says that there is none, so that a
// host in any process, or language, can be examined.
package hosttest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/sdk/abi"
)

// Host decides one login by a module, as if the tenant had uploaded it with that
// manifest. It gives the verdict with what the host fills in, or an error when there
// is none. What the module keeps is the tenant's, from login to login. Every exam
// has tenants of its own.
type Host func(ctx context.Context, l Login) (abi.Verdict, error)

// Login is one request to one module.
type Login struct {
	Tenant   string
	Module   []byte
	Manifest abi.Manifest
	Request  abi.Request
}

// Check examines a host with every guest there is. open gives it, with the world
// around it that it is given.
func Check(t *testing.T, open func(t *testing.T, w guesttest.World) Host) {
	w := NewWorld(t)
	host := open(t, w)
	for _, g := range guesttest.GoodGuests(w) {
		t.Run(g.Name, func(t *testing.T) {
			for _, wrong := range Examine(t.Context(), host, g) {
				t.Error(wrong)
			}
		})
	}
}

// NewWorld starts what a host is to have around it, for the length of a test.
func NewWorld(t *testing.T) guesttest.World {
	t.Helper()
	upstream := httptest.NewServer(http.HandlerFunc(guesttest.Upstream))
	t.Cleanup(func() {
		upstream.CloseClientConnections()
		upstream.Close()
	})
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := nobody.Addr().String()
	nobody.Close()
	return guesttest.NewWorld(upstream.Listener.Addr().String(), closed)
}

// Examine asks a host about one guest, and tells what was not as it should be.
func Examine(ctx context.Context, host Host, g guesttest.Good) (wrong []error) {
	manifest := abi.Manifest{ABI: abi.Version, Name: "exam", Grants: g.Grants, Limits: abi.Limits{WallMS: abi.MaxWallMS}}
	var kept json.RawMessage
	for n, turn := range g.Logins {
		request := turn.Request
		request.State = kept
		verdict, err := host(ctx, Login{Tenant: g.Name, Module: g.Module, Manifest: manifest, Request: request})
		switch {
		case turn.Want == "" && err == nil:
			wrong = append(wrong, fmt.Errorf("login %d: there is a verdict, %s, and there should be none", n+1, verdict.Decision))
		case turn.Want != "" && err != nil:
			wrong = append(wrong, fmt.Errorf("login %d: there is no verdict: %w", n+1, err))
		case turn.Want != "":
			if err := same(verdict, turn.Want, request); err != nil {
				wrong = append(wrong, fmt.Errorf("login %d: %w", n+1, err))
			}
		}
		kept = verdict.Private
	}
	return wrong
}

// same holds a verdict against what it should be.
func same(verdict abi.Verdict, want string, request abi.Request) error {
	asked, err := json.Marshal(request)
	if err != nil {
		return err
	}
	got, err := tree(verdict)
	if err != nil {
		return err
	}
	wanted, err := tree(json.RawMessage(strings.ReplaceAll(want, "REQUEST", string(asked))))
	if err != nil {
		return err
	}
	if claims, _ := got["claims"].(map[string]any); claims != nil {
		if len(claims) == 0 {
			delete(got, "claims") // a host may give those who have none an empty object
		}
		if answer, is := claims["answer"].(map[string]any); is { // of http_fetch: a server has headers of its own
			headers, _ := answer["headers"].(map[string]any)
			if location, _ := headers["location"].([]any); len(location) == 1 {
				answer["location"] = location[0]
			}
			delete(answer, "headers")
			for _, name := range []string{"body", "body_base64"} {
				if answer[name] == "" {
					delete(answer, name)
				}
			}
		}
	}
	if !reflect.DeepEqual(got, wanted) {
		return fmt.Errorf("the verdict is\n%.2000v, and should be\n%.2000v", got, wanted)
	}
	return nil
}

func tree(v any) (out map[string]any, err error) {
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		err = fmt.Errorf("as JSON: %w", err)
	}
	return out, err
}
