package web_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/doorward/doorward/service/web"
)

// The published document and the router must say the same.
func TestTheContractAndTheRouterAgree(t *testing.T) {
	text, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Paths map[string]map[string]any `yaml:"paths"`
	}
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	var published []string
	for path, item := range document.Paths {
		for method := range item {
			if method != "parameters" {
				published = append(published, strings.ToUpper(method)+" "+path)
			}
		}
	}
	served := web.Served()
	if len(served) < 20 {
		t.Fatalf("the router serves %d routes only", len(served))
	}
	for _, route := range served {
		if !slices.Contains(published, route) {
			t.Errorf("served and not published: %s", route)
		}
	}
	for _, route := range published {
		if !slices.Contains(served, route) {
			t.Errorf("published and not served: %s", route)
		}
	}
}
