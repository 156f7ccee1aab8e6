package plugins

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/doorward/doorward/sdk/abi"
)

// Trouble with verifiers. ErrVerifier is what a login meets; the rest answer
// the operator.
var (
	// ErrVerifier: no verdict could be had (no active version, a trap, a timeout,
	// nonsense, a dead worker). It says nothing about the credential. The text
	// behind it is for the tenant, never for the client.
	ErrVerifier = errors.New("verifier gave no verdict")

	// ErrBusy: too many logins at once; worth another try. It wraps ErrVerifier.
	ErrBusy = fmt.Errorf("%w: too many logins at once", ErrVerifier)

	// ErrPending: the version is not compiled on this node yet, and there is none
	// before it that is. A later login finds it compiled. It wraps ErrVerifier.
	ErrPending = fmt.Errorf("%w: not compiled on this node yet", ErrVerifier)

	// ErrQueueFull: a module was not compiled, because too many wait for that; the
	// text says when to come again.
	ErrQueueFull = errors.New("verifier not compiled")

	// ErrMethod: the version does not take logins by that method. It was not run.
	ErrMethod = errors.New("login method not taken")

	// ErrTooLarge: the credential, as JSON and with what goes with it, is more than
	// abi.MaxInput. No verifier was run.
	ErrTooLarge = errors.New("credential too large")

	// ErrNotFound: the tenant has no such version. A Verify that names one, for an
	// answer to a challenge, wraps it in ErrVerifier.
	ErrNotFound = errors.New("no such verifier version")

	// ErrInvalid: the module or manifest cannot be accepted; the text says what,
	// where and what to do.
	ErrInvalid = errors.New("verifier not accepted")

	// ErrConflict: the version's state does not allow that, or a grant needs
	// approval; the text says which.
	ErrConflict = errors.New("verifier state conflict")

	// ErrQuota: the tenant's modules, or those of all tenants, take more room than
	// they may; the text says which versions to delete.
	ErrQuota = errors.New("verifier quota exceeded")

	// ErrUnavailable: the artifact store did not answer.
	ErrUnavailable = errors.New("verifier store unavailable")
)

// State is where a version stands in its life.
type State string

// The states of a version.
const (
	Staged      State = "staged"
	Active      State = "active"
	Retired     State = "retired"
	Quarantined State = "quarantined"
)

// Standing is where a version stands on one node.
type Standing string

// How a version stands on a node.
const (
	NodeReady       Standing = "ready"
	NodePending     Standing = "pending"     // not compiled there yet
	NodeQuarantined Standing = "quarantined" // it ended worker after worker there, or could not be compiled
	NodePaused      Standing = "paused"      // it overran its wall limit again and again
)

// Version is one module that a tenant uploaded.
type Version struct {
	Number      int        `json:"version"`
	Digest      string     `json:"digest"` // "sha256:" and 64 hex digits of the module
	State       State      `json:"state"`
	Size        int        `json:"size"`    // bytes of the module
	Imports     []string   `json:"imports"` // "module.name", sorted
	Grants      abi.Grants `json:"grants"`
	Limits      abi.Limits `json:"limits"` // resolved: no zero
	Methods     []string   `json:"methods,omitempty"`
	Name        string     `json:"name,omitempty"`
	Release     string     `json:"manifest_version,omitempty"` // what the manifest calls this version
	Profile     string     `json:"profile"`                    // "core" or "stdio"
	Vectors     Tally      `json:"vectors"`
	Engine      string     `json:"engine,omitempty"` // that ran the vectors; another one runs them again before an activation
	Warnings    []string   `json:"warnings"`
	CreatedAt   time.Time  `json:"created_at"`
	ActivatedAt time.Time  `json:"activated_at,omitzero"` // the last time
	RetiredAt   time.Time  `json:"retired_at,omitzero"`   // the last time; kept when it is activated again

	// GrantsDiff is made when a version is shown, and never stored: nil for the
	// active version, and while none is active.
	GrantsDiff *GrantsDiff `json:"grants_diff,omitempty"`

	// Node and NodeUntil are how the version stands on the node that shows it, and
	// until when; never stored. Empty where no node runs anything.
	Node      Standing  `json:"node,omitempty"`
	NodeUntil time.Time `json:"node_until,omitzero"` // the end of a quarantine or pause

	// NodesPending are the live nodes that have not compiled a version that was made
	// active, by their ids; never stored. Until they have, the version before it
	// decides there, or nobody signs in there.
	NodesPending []string `json:"nodes_pending,omitempty"`

	// Manifest is the one that came beside the module, for its vectors; nil when
	// the module has it inside. It is stored, and never shown.
	Manifest json.RawMessage `json:"manifest,omitempty"`
}

// GrantsDiff is how the grants of a version differ from those of the active one,
// as lines of a manifest.
type GrantsDiff struct {
	Against int      `json:"against"` // the active version
	Added   []string `json:"added"`   // any: the activation needs approval
	Removed []string `json:"removed"`
}

// takes reports whether logins by that method reach the version.
func (v Version) takes(method string) bool {
	return len(v.Methods) == 0 || slices.Contains(v.Methods, method)
}

// Tally counts the vectors of a version.
type Tally struct {
	Passed int `json:"passed"`
	Failed int `json:"failed"`

	Failures []VectorFailure `json:"failures,omitempty"` // one for each that failed, in the manifest's order
}

// VectorFailure says which vector failed, and why.
type VectorFailure struct {
	Vector int    `json:"vector"` // its place in the manifest, from 1
	Name   string `json:"name"`
	Why    string `json:"why"`
}

// Call is one login to be decided.
type Call struct {
	Tenant  string // uuid
	Version int    // 0: the active one; otherwise the one that issued the challenge
	Request abi.Request
}

// Answer is a verdict that passed the host's checks, and who gave it.
type Answer struct {
	Verdict abi.Verdict
	Version int
	Digest  string
}

// Trace is what one try shows the tenant.
type Trace struct {
	Decision   abi.Decision `json:"decision,omitempty"`
	Verdict    *abi.Verdict `json:"verdict,omitempty"` // nil when there was none
	Error      string       `json:"error,omitempty"`   // why there was none; no host paths, no Go stacks
	DurationMS float64      `json:"duration_ms"`
	Fuel       int64        `json:"fuel"`       // what the guest's own code used; wasm.FuelPerMillisecond is a millisecond
	MemoryKiB  int          `json:"memory_kib"` // the most linear memory it had: at the end, because it never shrinks; 0 when its worker was lost
	HostCalls  []HostCall   `json:"host_calls"` // in their order
	Logs       []LogLine    `json:"logs"`
}

// HostCall is one granted function that the guest called. What it was called
// with and what came back may be secret and are not told.
type HostCall struct {
	Name       string  `json:"name"`
	Result     int     `json:"result"`  // what the guest was handed: a length, a number, or an error of abi's below zero
	Outcome    string  `json:"outcome"` // "ok", or the error's name
	DurationMS float64 `json:"duration_ms"`
}

// LogLine is one line that the guest wrote, control characters escaped.
type LogLine struct {
	Level string `json:"level"`
	Text  string `json:"text"`
}
