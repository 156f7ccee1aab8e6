package plugins

import (
	"bytes"
	stdjson "encoding/json"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/doorward/doorward/sdk/abi"
)

// Suite is a file of vectors that an author keeps beside a verifier. It is what a
// manifest's vectors are, with what a tenant would have set: configuration,
// secrets, the time, and what other servers answered. A file that is a list is the
// list of Vectors.
type Suite struct {
	Config  map[string]stdjson.RawMessage `json:"config,omitzero"`  // the tenant's configuration
	Secrets map[string]string             `json:"secrets,omitzero"` // by name; made up ones, since they stand in a file
	NowMS   int64                         `json:"now_ms,omitzero"`  // what time it is, in Unix milliseconds; 0: the real time
	Vectors []Scene                       `json:"vectors"`
}

// Scene is one vector: a login of one step (Request, Expect) or of several
// (Steps). Config, Secrets and NowMS take the place of the suite's where they are
// set. The key-value store is empty at its beginning.
type Scene struct {
	Name    string                        `json:"name"`
	Config  map[string]stdjson.RawMessage `json:"config,omitzero"`
	Secrets map[string]string             `json:"secrets,omitzero"`
	NowMS   int64                         `json:"now_ms,omitzero"`
	Step    `json:",inline"`
	Steps   []Step     `json:"steps,omitzero"`
	HTTP    []Exchange `json:"http,omitzero"` // what http_fetch gives, in any order, each once

	offline bool // a manifest's: http_fetch reaches nothing, as at an upload
}

// Step is one request and what is expected of its answer.
type Step struct {
	// Request is an abi.Request. What it leaves out is filled in: "attempt" and
	// "state" from the step before, when that was a challenge.
	Request jsontext.Value `json:"request,omitzero"`
	// Expect is an abi.Verdict. Members that are set must be equal in the answer.
	Expect jsontext.Value `json:"expect,omitzero"`
	// Fails is part of why there is no verdict, where none is expected.
	Fails string `json:"fails,omitzero"`
}

// ReadSuite reads a file of vectors strictly. ErrInvalid names what cannot be read,
// by its place in the file.
func ReadSuite(text []byte) (Suite, error) {
	var s Suite
	var err error
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("[")) {
		err = json.Unmarshal(text, &s.Vectors, json.RejectUnknownMembers(true))
	} else {
		err = json.Unmarshal(text, &s, json.RejectUnknownMembers(true))
	}
	if err != nil {
		return s, fmt.Errorf("%w: the vectors cannot be read: %s", ErrInvalid, clean(err.Error()))
	}
	for i, scene := range s.Vectors {
		if err := scene.check(); err != nil {
			return s, fmt.Errorf("%w: vector %d %q: %w", ErrInvalid, i+1, scene.Name, err)
		}
	}
	return s, nil
}

// Format is the suite as a file, by two spaces, as ReadSuite reads it.
func (s Suite) Format() ([]byte, error) {
	text, err := json.Marshal(s, json.Deterministic(true), jsontext.WithIndent("  "), jsontext.EscapeForHTML(false))
	if err != nil {
		return nil, fmt.Errorf("write vectors: %w", err)
	}
	return append(text, '\n'), nil
}

// SceneOf is a vector of a manifest, which runs as an upload has it run: without a
// network, and here without a tenant's configuration.
func SceneOf(v abi.Vector) (Scene, error) {
	request, err := json.Marshal(v.Request)
	if err != nil {
		return Scene{}, fmt.Errorf("vector %q: %w", v.Name, err)
	}
	expect, err := json.Marshal(v.Expect)
	if err != nil {
		return Scene{}, fmt.Errorf("vector %q: %w", v.Name, err)
	}
	return Scene{Name: v.Name, Step: Step{Request: request, Expect: expect}, offline: true}, nil
}

// steps are those of a scene, be it one or several.
func (s Scene) steps() []Step {
	if len(s.Steps) > 0 {
		return s.Steps
	}
	return []Step{s.Step}
}

// check refuses what Play could not read, and what would expect nothing.
func (s Scene) check() error {
	if len(s.Steps) > 0 && (s.Request != nil || s.Expect != nil || s.Fails != "") {
		return fmt.Errorf(`it has "steps", and a request, expect or fails beside them: a login of one step has those, one of several has them in each step`)
	}
	for i, step := range s.steps() {
		if step.Request == nil || step.Expect == nil && step.Fails == "" {
			return fmt.Errorf(`step %d: it takes a "request", and an "expect" (or "fails" where no verdict is expected)`, i+1)
		}
		if _, _, err := step.read(); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	for _, e := range s.HTTP {
		if e.Response == nil && e.Error == "" {
			return fmt.Errorf(`http: %s %s has neither a "response" nor an "error"`, e.Request.Method, e.Request.URL)
		}
	}
	return nil
}

func (s Step) read() (request abi.Request, expect abi.Verdict, err error) {
	if err := json.Unmarshal(s.Request, &request, json.RejectUnknownMembers(true)); err != nil {
		return request, expect, fmt.Errorf("request: %s", clean(err.Error()))
	}
	if s.Expect == nil {
		return request, expect, nil
	}
	if err := json.Unmarshal(s.Expect, &expect, json.RejectUnknownMembers(true)); err != nil {
		return request, expect, fmt.Errorf("expect: %s", clean(err.Error()))
	}
	switch expect.Decision {
	case "", abi.Accept, abi.Reject, abi.Challenge:
		return request, expect, nil
	}
	return request, expect, fmt.Errorf("expect: the decision %q is none of accept, reject and challenge", strings.ToValidUTF8(string(expect.Decision), ""))
}
