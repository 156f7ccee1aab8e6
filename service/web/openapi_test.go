package web_test

import (
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/sdk/abi"
	"github.com/doorward/doorward/service/web"
)

// What is published of an answer is what is in it: the members of its type.
func TestTheContractNamesEveryMemberOfOperatorsAnswers(t *testing.T) {
	text, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	type schema struct {
		Properties map[string]schema `yaml:"properties"`
	}
	var document struct {
		Components struct {
			Schemas map[string]schema `yaml:"schemas"`
		} `yaml:"components"`
	}
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	schemas := document.Components.Schemas
	for name, c := range map[string]struct {
		published schema
		answer    any
		not       []string // is stored and never shown
	}{
		"Verifier":             {schemas["Verifier"], plugins.Version{}, []string{"manifest"}},
		"Verifier.vectors":     {schemas["Verifier"].Properties["vectors"], plugins.Tally{}, nil},
		"Verifier.grants_diff": {schemas["Verifier"].Properties["grants_diff"], plugins.GrantsDiff{}, nil},
		"Verifier.limits":      {schemas["Verifier"].Properties["limits"], abi.Limits{}, nil},
		"Trace":                {schemas["Trace"], plugins.Trace{}, nil},
		"HostCall":             {schemas["HostCall"], plugins.HostCall{}, nil},
		"TraceLine":            {schemas["TraceLine"], plugins.LogLine{}, nil},
		"LogLine":              {schemas["LogLine"], plugins.LogEntry{}, nil},
		"ClusterStatus":        {schemas["ClusterStatus"], web.ClusterStatus{}, nil},
		"NodeStatus":           {schemas["NodeStatus"], web.NodeStatus{}, nil},
		"Invitation":           {schemas["Invitation"], web.Invitation{}, nil},
	} {
		var members []string
		for field := range reflect.TypeOf(c.answer).Fields() {
			member, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if !slices.Contains(c.not, member) {
				members = append(members, member)
			}
		}
		slices.Sort(members)
		if published := slices.Sorted(maps.Keys(c.published.Properties)); !slices.Equal(published, members) {
			t.Errorf("%s: published %q, answered %q", name, published, members)
		}
	}
}

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
