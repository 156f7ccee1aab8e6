package web_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/doorward/doorward/plugins"
)

// newspaper is a real server with a log that is followed.
type newspaper struct {
	*site
	server *httptest.Server
	client *http.Client
	tenant string // uuid of acme
}

// newNewspaper has connections that hold a few kilobytes, so that a slow reader
// is slow soon.
func newNewspaper(t *testing.T) *newspaper {
	t.Helper()
	s := newSite(t)
	acme, _ := s.svc.Tenants.ByID("acme")
	server := httptest.NewUnstartedServer(s.admin)
	server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		c.(*net.TCPConn).SetWriteBuffer(4 << 10)
		return ctx
	}
	server.Start()
	t.Cleanup(server.Close)
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil {
			c.(*net.TCPConn).SetReadBuffer(4 << 10)
		}
		return c, err
	}
	return &newspaper{s, server, &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}, acme.UUID}
}

// write has n lines written: a challenge of a version that is not there is
// answered so often.
func (n *newspaper) write(lines int) {
	n.Helper()
	for range lines {
		if _, err := n.svc.Catalog.Verify(n.Context(), plugins.Call{Tenant: n.tenant, Version: 1}); !errors.Is(err, plugins.ErrNotFound) {
			n.Fatal(err)
		}
	}
}

// edition is one answer that is read line by line.
type edition struct {
	*http.Response
	test  testing.TB
	lines *bufio.Reader
}

// follow asks for the log within ctx.
func (n *newspaper) follow(ctx context.Context, query string) edition {
	n.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.server.URL+"/admin/v1/tenants/acme/verifiers/logs?follow=true"+query, nil)
	if err != nil {
		n.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+n.key)
	got, err := n.client.Do(r)
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { got.Body.Close() })
	return edition{got, n.TB, bufio.NewReader(got.Body)}
}

// next is the next line that is not empty.
func (e edition) next() (line struct{ ID, Missed int64 }, err error) {
	e.test.Helper()
	for {
		text, err := e.lines.ReadBytes('\n')
		if err != nil {
			return line, err
		}
		if len(bytes.TrimSpace(text)) > 0 {
			return line, json.Unmarshal(text, &line)
		}
	}
}

func (e edition) id() int64 {
	e.test.Helper()
	line, err := e.next()
	if err != nil || line.ID == 0 {
		e.test.Fatalf("%+v, %v", line, err)
	}
	return line.ID
}

func (e edition) ends() {
	e.test.Helper()
	if line, err := e.next(); !errors.Is(err, io.EOF) {
		e.test.Errorf("it goes on: %+v, %v", line, err)
	}
}

func TestALogIsFollowedByARequest(t *testing.T) {
	n := newNewspaper(t)
	n.write(2)
	got := n.follow(t.Context(), "")
	if got.StatusCode != 200 || got.Header.Get("Content-Type") != "application/x-ndjson" || got.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v", got.StatusCode, got.Header)
	}
	first := got.id()
	if second := got.id(); second != first+1 {
		t.Fatalf("line %d after %d", second, first)
	}
	n.write(1)
	if third := got.id(); third != first+2 {
		t.Fatalf("line %d after %d", third, first)
	}
	if again := n.follow(t.Context(), "&after="+strconv.FormatInt(first+1, 10)); again.id() != first+2 {
		t.Error("who comes again gets what it has")
	}
	for _, query := range []string{"follow=maybe", "follow=true&after=x", "follow=true&after=-1", "after=1", "follow=false&after=1", "follow=true&follow=true", "tail=1"} {
		n.operate("GET /tenants/acme/verifiers/logs?"+query, "").is(400, "invalid")
	}
	n.operate("GET /tenants/nobody/verifiers/logs?follow=true", "").is(404, "not_found")
	n.operate("HEAD /tenants/acme/verifiers/logs?follow=true", "").is(200, "")
	if got := n.operate("GET /tenants/acme/verifiers/logs?follow=false", "").is(200, ""); len(got.field("logs")) < 100 {
		t.Errorf("not followed: %s", got.Body)
	}
}

func TestOfAFollowedLogASlowReaderIsToldWhatItMissed(t *testing.T) {
	n := newNewspaper(t)
	n.write(1)
	got := n.follow(t.Context(), "")
	last := got.id()
	const total = 2000
	n.write(total) // and nobody reads
	seen, missed := int64(0), int64(0)
	for seen+missed < total {
		line, err := got.next()
		if err != nil {
			t.Fatalf("after %d lines and %d that were missed: %v", seen, missed, err)
		}
		if line.Missed > 0 {
			missed, last = missed+line.Missed, last+line.Missed
			continue
		}
		if seen++; line.ID != last+1 {
			t.Fatalf("line %d after %d", line.ID, last)
		}
		last = line.ID
	}
	t.Logf("%d lines were read, %d missed", seen, missed)
	if seen+missed != total || missed == 0 {
		t.Errorf("%d lines were read, %d missed, of %d", seen, missed, total)
	}
}

func TestAFollowedLogEnds(t *testing.T) {
	n := newNewspaper(t)
	n.write(1)

	// With its reader, whose place another takes.
	ctx, cancel := context.WithCancel(t.Context())
	for range 4 {
		n.follow(ctx, "").id()
	}
	if got := n.follow(t.Context(), ""); got.StatusCode != 503 || got.Header.Get("Retry-After") == "" {
		t.Errorf("a fifth: %d", got.StatusCode)
	}
	cancel()
	got := n.follow(t.Context(), "")
	for began := time.Now(); got.StatusCode != 200; got = n.follow(t.Context(), "") {
		if time.Since(began) > 10*time.Second {
			t.Fatal("readers that are gone still hold their places")
		}
	}

	// With the key.
	got.id()
	if err := n.svc.Source.DeleteKey(t.Context(), "op"); err != nil {
		t.Fatal(err)
	}
	for n.operate("GET /tenants/acme", "").Code != 401 {
		continue // until the registry knows
	}
	n.write(1)
	got.ends()
}

func TestAFollowedLogEndsWithItsTenantAndWithTheServer(t *testing.T) {
	n := newNewspaper(t)
	n.write(1)
	got := n.follow(t.Context(), "")
	got.id()
	n.operate("DELETE /tenants/acme", "").is(204, "")
	got.ends()

	n = newNewspaper(t)
	n.write(1)
	got = n.follow(t.Context(), "")
	got.id()
	n.endStreams()
	got.ends()
	n.follow(t.Context(), "").ends()
}
