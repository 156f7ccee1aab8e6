package plugins

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/plugins/wasm"
	"github.com/doorward/doorward/sdk/abi"
)

// Examination is what an upload finds in a module before it compiles it.
type Examination struct {
	Version Version       `json:"verifier"` // as its receipt would be; it has no number, and no vector has run
	Vectors []abi.Vector  `json:"-"`        // the manifest's
	Figures []wasm.Figure `json:"figures"`
	Fresh   bool          `json:"fresh"` // each login gets an instance made anew: a warning says why
	Notes   []string      `json:"notes"` // what an author should know, and no receipt says
	module  []byte
}

// ManifestOf is the manifest inside a module, nil when there is none.
func ManifestOf(module []byte) []byte { return wasm.Custom(module, abi.ManifestSection) }

// Examine holds a module, and the manifest beside it when that is not nil, to all
// that Upload holds them to, but for the compile and the vectors. It is the same
// code, and needs no server. ErrInvalid says what, where and what to do; Hint says
// more.
func Examine(module, manifest []byte) (Examination, error) {
	if err := sizes(module, manifest, abi.DefaultModule); err != nil {
		return Examination{}, err
	}
	m, report, err := sandbox.Read(module)
	if err != nil {
		return Examination{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	v, vectors, err := describe(report, manifest)
	if err != nil {
		return Examination{}, err
	}
	v.Digest, v.Size, v.State = fmt.Sprintf("sha256:%x", sha256.Sum256(module)), len(module), Staged
	return Examination{Version: v, Vectors: vectors, Figures: m.Figures(), Fresh: report.Fresh != "", Notes: notes(v, report, manifest, vectors, module), module: module}, nil
}

// notes are hints that are no warnings: most verifiers earn one and are right.
func notes(v Version, report sandbox.Report, manifest []byte, vectors []abi.Vector, module []byte) []string {
	list := []string{}
	if report.Manifest == nil && manifest == nil {
		list = append(list, "no manifest: it is granted what it imports, and has no name; doorward.manifest.json beside the module, or verifier build, gives it one")
	}
	if len(vectors) == 0 {
		list = append(list, "its manifest has no vectors: nothing is tried before it is activated")
	}
	random := slices.Contains(report.Imports, abi.WASI+".random_get")
	if random && !slices.Contains(report.Imports, abi.Module+"."+abi.FuncRandom) && report.Fresh == "" {
		list = append(list, "randomness: a generator that seeds itself when the module starts (Go's math/rand and map order, JavaScript's Math.random) may go the same way in every login; take what nobody may guess from the host during the login (crypto/rand, random_get)")
	}
	if len(wasm.FunctionNames(module)) == 0 {
		list = append(list, "no function names: a trap's stack will show numbers; verifier build keeps the names")
	}
	return list
}

// GrantLines are grants one by one, as a manifest writes them.
func GrantLines(g abi.Grants) []string { return grantLines(g) }

// Compare tells how the grants of a version differ from those of the active one.
func Compare(active, v Version) GrantsDiff {
	return GrantsDiff{Against: active.Number, Added: addedGrants(active.Grants, v.Grants), Removed: addedGrants(v.Grants, active.Grants)}
}
