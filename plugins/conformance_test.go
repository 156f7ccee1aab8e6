package plugins

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/plugins/egress"
	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/plugins/hosttest"
	"github.com/doorward/doorward/sdk/abi"
)

// settingsOf is a world as this host has one.
func settingsOf(t *testing.T, w guesttest.World) Settings {
	t.Helper()
	client, err := egress.New(egress.Config{Allow: []string{w.Open, w.Closed}, Timeout: 2 * time.Second}) // a busy machine is no failure
	if err != nil {
		t.Fatal(err)
	}
	return Settings{
		Egress: client,
		Config: func(_ context.Context, _, key string) (json.RawMessage, bool, error) {
			text, there := w.Config[key]
			if strings.HasPrefix(text, "[") {
				return json.RawMessage(text), there, nil
			}
			value, err := json.Marshal(text)
			return value, there, err
		},
		Secret: func(_ context.Context, _, name string) ([]byte, bool, error) {
			if name == w.Broken {
				return nil, false, errors.New("as it was told to")
			}
			value, there := w.Secrets[name]
			return []byte(value), there, nil
		},
	}
}

// examined is a host with the real sandbox, by way of the catalog: each module is
// uploaded, with its manifest, and activated.
func examined(t *testing.T, settings Settings) hosttest.Host {
	t.Helper()
	artifacts, err := NewDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := NewCatalog(artifacts, NewHost(newPool(t), settings, nil), CatalogConfig{})
	uploaded := map[string]bool{}
	return func(ctx context.Context, l hosttest.Login) (v abi.Verdict, err error) {
		tenant := digestOf([]byte(l.Tenant))[7:] // a name of a test is no name of a directory
		if !uploaded[tenant] {
			manifest, err := json.Marshal(l.Manifest)
			if err != nil {
				return v, err
			}
			version, err := c.Upload(ctx, tenant, l.Module, manifest)
			if err == nil {
				_, err = c.Activate(ctx, tenant, version.Number, false)
			}
			if err != nil {
				t.Errorf("%s: %v", l.Tenant, err) // that there should be no verdict is not for this
				return v, err
			}
			uploaded[tenant] = true
		}
		answer, err := c.Verify(ctx, Call{Tenant: tenant, Request: l.Request})
		if err != nil {
			for _, line := range c.Logs(tenant) {
				err = errors.Join(err, errors.New(line.Text))
			}
		}
		return answer.Verdict, err
	}
}

func TestTheHostSitsTheExam(t *testing.T) {
	hosttest.Check(t, func(t *testing.T, w guesttest.World) hosttest.Host { return examined(t, settingsOf(t, w)) })
}

// forgetful keeps nothing.
type forgetful struct{ KV }

func (forgetful) Put(context.Context, Slot, []byte, time.Duration) error { return nil }

// An exam that nobody fails would be none.
func TestAHostThatIsWrongFailsTheExam(t *testing.T) {
	w := hosttest.NewWorld(t)
	wrong := settingsOf(t, w)
	wrong.KV = forgetful{NewMemoryKV(0)}
	wrong.Secret = func(context.Context, string, string) ([]byte, bool, error) { return []byte("the same"), true, nil }
	wrong.Config = func(_ context.Context, _, key string) (json.RawMessage, bool, error) {
		return json.RawMessage(`"blue"`), key == "colour", nil
	}
	w2 := w
	w2.Open, w2.Closed = w.Closed, w.Open
	host := examined(t, wrong)
	fails := map[string]bool{
		"config_get gives a text as it is": true, "config_get gives an empty text, which is one": true, "config_get of no such key is ErrNotFound": false,
		"secret_get gives a secret": true, "secret_get of one that is not set is ErrNotFound": true, "secret_get of one that is not granted is ErrNotGranted": false,
		"secret_get of one that cannot be read is ErrInternal": true, "secret_hmac is the hmac under a secret": true,
		"kv_put keeps a value, in its namespace": true, "kv_get of nothing is ErrNotFound": false, "init may look up configuration": true,
		"http_fetch gives any status": true, "http_fetch of a host where nobody answers is ErrUpstream": true, "http_fetch of a host that is not granted is ErrNotGranted": false,
	}
	seen := 0
	for _, g := range guesttest.GoodGuests(w2) {
		want, chosen := fails[g.Name]
		if !chosen {
			continue
		}
		seen++
		if found := hosttest.Examine(t.Context(), host, g); len(found) > 0 != want {
			t.Errorf("%s: found %v", g.Name, found)
		}
	}
	if seen != len(fails) {
		t.Errorf("%d of %d guests are there", seen, len(fails))
	}
	// One that says yes to everything, whatever it is asked.
	yes := func(context.Context, hosttest.Login) (abi.Verdict, error) {
		return abi.Verdict{Decision: "accept", Subject: "ok"}, nil
	}
	found := 0
	for _, g := range guesttest.GoodGuests(w) {
		found += len(hosttest.Examine(t.Context(), yes, g))
	}
	if found < 30 {
		t.Errorf("one that says yes to everything fails %d times", found)
	}
}
