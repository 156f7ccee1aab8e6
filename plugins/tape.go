package plugins

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/doorward/doorward/plugins/egress"
	"github.com/doorward/doorward/sdk/abi"
)

// Exchange is one http_fetch of a scene: what was asked, and what came back. A
// request's headers are not kept: they are where secrets are.
type Exchange struct {
	Request  abi.HTTPRequest   `json:"request"`
	Response *abi.HTTPResponse `json:"response,omitempty"`
	Error    string            `json:"error,omitempty"` // instead of a response: the name of one of abi's errors, such as "timeout"
}

// tapeErrors are the errors that a tape keeps by name.
var tapeErrors = []struct {
	name string
	err  error
}{
	{"invalid", egress.ErrRequest}, {"not_granted", egress.ErrForbidden}, {"busy", egress.ErrBusy},
	{"too_large", egress.ErrTooLarge}, {"timeout", egress.ErrTimeout}, {"upstream", egress.ErrUpstream},
}

// tape answers http_fetch: from what was recorded, or, while it records, from the
// network. One goroutine uses it at a time.
type tape struct {
	exchanges []Exchange     // what was recorded, or is being
	played    []bool         // which of them were asked
	network   *egress.Client // nil: it does not record
	missing   []string       // what was asked and is not there
}

func (t *tape) answer(ctx context.Context, tenant string, hosts []string, r egress.Request) (egress.Response, error) {
	if t.network != nil {
		return t.record(ctx, tenant, hosts, r)
	}
	to, err := r.To()
	if err != nil {
		return egress.Response{}, err
	}
	if !slices.Contains(hosts, to) { // as it is when nothing is recorded
		return egress.Response{}, fmt.Errorf("%w: %s is not among the granted hosts", egress.ErrForbidden, to)
	}
	ask := kept(r)
	for i, e := range t.exchanges {
		if !t.played[i] && sameRequest(e.Request, ask) {
			t.played[i] = true
			return e.given()
		}
	}
	t.missing = append(t.missing, clean(ask.Method+" "+ask.URL))
	return egress.Response{}, fmt.Errorf("%w: nothing is recorded for %s %s", egress.ErrUpstream, ask.Method, ask.URL)
}

func (t *tape) record(ctx context.Context, tenant string, hosts []string, r egress.Request) (egress.Response, error) {
	got, err := t.network.Do(ctx, tenant, hosts, r)
	e := Exchange{Request: kept(r)}
	for _, known := range tapeErrors {
		if errors.Is(err, known.err) {
			e.Error = known.name
		}
	}
	if err == nil {
		answer := published(got)
		e.Response = &answer
	}
	t.exchanges = append(t.exchanges, e)
	return got, err
}

// kept is what a tape keeps of a request.
func kept(r egress.Request) abi.HTTPRequest {
	out := abi.HTTPRequest{Method: r.Method, URL: r.URL}
	if out.Method == "" {
		out.Method = "GET"
	}
	if answer := published(egress.Response{Body: r.Body}); answer.BodyBase64 != nil {
		out.BodyBase64 = answer.BodyBase64
	} else {
		out.Body = answer.Body
	}
	return out
}

func sameRequest(a, b abi.HTTPRequest) bool {
	if a.Method == "" {
		a.Method = "GET"
	}
	return a.Method == b.Method && a.URL == b.URL && a.Body == b.Body && bytes.Equal(a.BodyBase64, b.BodyBase64)
}

// given is what a guest's request is answered with.
func (e Exchange) given() (egress.Response, error) {
	if e.Response == nil {
		for _, known := range tapeErrors {
			if e.Error == known.name {
				return egress.Response{}, fmt.Errorf("%w: as recorded", known.err)
			}
		}
		return egress.Response{}, fmt.Errorf("%w: what is recorded has no response", egress.ErrUpstream)
	}
	body := e.Response.BodyBase64
	if e.Response.Body != "" {
		body = []byte(e.Response.Body)
	}
	return egress.Response{Status: e.Response.Status, Headers: e.Response.Headers, Body: body}, nil
}
