package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/doorward/doorward"

// plan is which room may import which of ours. It is the architecture: draw an
// arrow here, with its reason, before you add it to the code. A room that is
// not here may not exist.
var plan = map[string][]string{
	"cmd/doorward": {"plugins", "plugins/egress", "plugins/etcd", "plugins/sandbox", "sdk", "sdk/abi", "sdk/guest/js", "service", "service/web", "sessions", "sessions/cluster", "sessions/etcd", "tenants", "tenants/etcd", "tenants/seal"},

	"cmd/doorload": {"sessions"}, // how a token looks: an unknown one with a wrong checksum costs no look-up

	"service/web":   {"plugins", "sdk/abi", "service", "service/pages", "sessions", "tenants", "tenants/seal"}, // seal: what a browser carries between two pages; sdk/abi: a credential's type, which prints nothing
	"service":       {"plugins", "sdk/abi", "sessions", "tenants"},
	"service/pages": {},

	"plugins":         {"plugins/egress", "plugins/sandbox", "plugins/wasm", "sdk/abi"}, // wasm: what was measured, and functions' names, for authors
	"plugins/sandbox": {"plugins/wasm", "sdk/abi"},                                      // wasm: what a child compiles was read and rewritten before
	"plugins/wasm":    {},
	"plugins/egress":  {},                          // whoever may reach the network for strangers can be read alone
	"plugins/etcd":    {"plugins", "tenants/seal"}, // seal: what verifiers keep may be a secret

	"tenants":      {},
	"tenants/etcd": {"tenants", "tenants/seal"},
	"tenants/seal": {},

	"sessions":         {},
	"sessions/etcd":    {"sessions", "tenants/seal"},
	"sessions/cluster": {},

	"sdk":                         {}, // files, and no package of them
	"sdk/abi":                     {},
	"sdk/guest/go":                {"sdk/abi"},
	"sdk/guest/go/hello":          {"sdk/guest/go"},
	"sdk/guest/js":                {"sdk/abi"},
	"sdk/guest/js/bundle":         {"sdk/abi", "sdk/guest/js"},
	"sdk/verifiers/build":         {"sdk/abi"},
	"sdk/verifiers/htpasswd":      {"sdk/abi", "sdk/guest/go"},
	"sdk/verifiers/http-bridge":   {"sdk/abi", "sdk/guest/go"},
	"sdk/verifiers/legacy-hashes": {"sdk/abi", "sdk/guest/go"},
	"sdk/verifiers/users":         {"sdk/abi", "sdk/guest/go"},

	// Exams, and the guests that tests run: imported by tests alone.
	"plugins/guesttest":    {"sdk/abi"},
	"plugins/hosttest":     {"plugins/guesttest", "sdk/abi"}, // not plugins: a host is a function
	"plugins/artifacttest": {"plugins", "sdk/abi"},
	"plugins/kvtest":       {"plugins"},
	"sessions/history":     {},
	"sessions/storetest":   {"sessions"},
	"tenants/sourcetest":   {"tenants"},
}

// testsMay adds what a room's tests import besides. The etcd stores sit their
// exams in cmd/doorward: the server half of etcd stays out of every other test
// binary.
var testsMay = map[string][]string{
	"cmd/doorward":    {"plugins/artifacttest", "plugins/guesttest", "plugins/kvtest", "sessions/history", "sessions/storetest", "tenants/sourcetest"},
	"service/web":     {"plugins/guesttest"},
	"plugins":         {"plugins/artifacttest", "plugins/guesttest", "plugins/hosttest", "plugins/kvtest"},
	"plugins/sandbox": {"plugins/guesttest"},
	"plugins/wasm":    {"plugins/guesttest", "sdk/abi"},
	"tenants":         {"tenants/sourcetest"},
	"sessions":        {"sessions/history", "sessions/storetest"},
}

// onlyIn holds what only one room may link: where a technology lives.
var onlyIn = map[string][]string{
	"github.com/tetratelabs/wazero":   {"plugins/sandbox"},
	"github.com/labstack/echo/v4":     {"service/web"},
	"go.etcd.io/etcd/server/v3/embed": {"sessions/cluster"},
}

func TestRoomsImportWhatThePlanDraws(t *testing.T) {
	for _, p := range listPackages(t) {
		room := strings.TrimPrefix(p.ImportPath, module+"/")
		may, drawn := plan[room]
		if !drawn {
			t.Errorf("%s is not in the plan: draw the room here first", room)
			continue
		}
		for _, imported := range ours(p.Imports) {
			if !slices.Contains(may, imported) {
				t.Errorf("%s imports %s: draw the arrow here first", room, imported)
			}
		}
		inTests := append(append([]string{room}, may...), testsMay[room]...)
		for _, imported := range ours(append(p.TestImports, p.XTestImports...)) {
			if !slices.Contains(inTests, imported) {
				t.Errorf("tests of %s import %s: draw the arrow here first", room, imported)
			}
		}
		for technology, rooms := range onlyIn {
			if slices.Contains(p.Imports, technology) && !slices.Contains(rooms, room) {
				t.Errorf("%s imports %s, which lives in %s alone", room, technology, rooms)
			}
		}
		if strings.HasPrefix(room, "sdk/") {
			for _, imported := range p.Imports {
				if strings.Contains(imported, ".") && !strings.HasPrefix(imported, module) {
					t.Errorf("%s imports %s: the sdk is for strangers and takes the standard library only", room, imported)
				}
			}
		}
	}
}

// The longest chain of our own imports: measured over good and bad projects,
// this tells them apart better than file length does.
func TestTheLongestImportChainIsShort(t *testing.T) {
	var depth func(room string) int
	depth = func(room string) int {
		longest := 0
		for _, next := range plan[room] {
			longest = max(longest, depth(next))
		}
		return longest + 1
	}
	if got := depth("cmd/doorward"); got > 6 {
		t.Errorf("the longest chain is %d rooms", got)
	}
}

type goPackage struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", module+"/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	if len(list) < 10 {
		t.Fatalf("go list knows %d packages only", len(list))
	}
	return list
}

func ours(imports []string) []string {
	var list []string
	for _, i := range imports {
		if room, ok := strings.CutPrefix(i, module+"/"); ok {
			list = append(list, room)
		}
	}
	return list
}
