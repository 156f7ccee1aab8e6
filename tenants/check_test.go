package tenants_test

import (
	"errors"
	"testing"

	"github.com/doorward/doorward/tenants"
)

// Under the shared host the session cookie of "flow-acme" and the flow cookie of
// "acme" are both __Host-doorward-flow-acme: a look at acme's sign-in page ended
// the other's session.
func TestNoTenantsCookieIsAnothersFlow(t *testing.T) {
	registry := tenants.NewRegistry(tenants.NewMemory(), tenants.RegistryConfig{})
	var bad *tenants.Invalid
	if _, err := registry.New(tenants.Tenant{ID: "flow-acme"}); !errors.As(err, &bad) || bad.Fields[0].Field != "id" {
		t.Errorf("flow-acme: %v, want its id refused", err)
	}
	for _, id := range []string{"flow", "flower", "acme-flow"} {
		if _, err := registry.New(tenants.Tenant{ID: id}); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}
