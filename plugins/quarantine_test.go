package plugins

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"syscall"
	"testing"

	"github.com/doorward/doorward/plugins/guesttest"
	"github.com/doorward/doorward/sdk/abi"
)

// The published state of a version that ends its workers; it is still the active
// one, and activating it again lifts it.
func TestAnActiveVersionThatEndsItsWorkersIsShownAsQuarantined(t *testing.T) {
	artifacts, err := NewDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	deadly := true
	config := func(context.Context, string, string) (json.RawMessage, bool, error) {
		if !deadly {
			return nil, false, nil
		}
		for _, text := range workerPIDs(t) { // as if the guest had found a way
			pid, err := strconv.Atoi(text)
			if err == nil {
				err = syscall.Kill(pid, syscall.SIGKILL)
			}
			if err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Error(err)
			}
		}
		return nil, false, nil
	}
	c := NewCatalog(artifacts, NewHost(newPool(t), Settings{Config: config}, nil), CatalogConfig{})
	activate(t, c, "a", guesttest.Accepts("before").Module())
	if v, err := c.Upload(t.Context(), "a", guesttest.Looks().Module(), nil); err != nil {
		t.Fatal(v, err)
	}
	if _, err := c.Activate(t.Context(), "a", 2, true); err != nil {
		t.Fatal(err)
	}
	verify := func() error {
		_, err := c.Verify(t.Context(), Call{Tenant: "a", Request: abi.Request{ABI: abi.Version, Method: "password"}})
		return err
	}
	states := func() (list []State) {
		t.Helper()
		versions, err := c.List(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range versions {
			list = append(list, v.State)
		}
		return list
	}
	for try := 0; states()[1] == Active; try++ {
		if err := verify(); !errors.Is(err, ErrVerifier) || try == 20 {
			t.Fatalf("try %d: %v", try, err)
		}
	}
	deadly = false
	if got := states(); got[0] != Retired || got[1] != Quarantined || !errors.Is(verify(), ErrVerifier) {
		t.Errorf("states %v", got)
	}
	if v, err := c.Get(t.Context(), "a", 2); err != nil || v.State != Quarantined {
		t.Errorf("read as %s, %v", v.State, err)
	}
	if v, err := c.Activate(t.Context(), "a", 2, false); err != nil || v.State != Active {
		t.Fatalf("activated again: %s, %v", v.State, err)
	}
	for err = verify(); errors.Is(err, ErrBusy); {
		err = verify() // until there is a worker again
	}
	if err != nil {
		t.Errorf("after it was lifted: %v", err)
	}
}
