// Package web is where HTTP ends: it turns requests into the service's verbs
// and what they say into JSON, pages, cookies and status codes.
//
// The one idea: routes.go is the whole map, one handler is "decode, call one
// verb, encode", and errors.go is the one table from error to answer. What is
// not in the table is a 500 that says nothing.
//
// Two handlers come out of it. Public serves browsers, apps and gateways, each
// tenant under its own host or under /t/{tenant}; Admin serves operators and
// probes on a listener of its own, so that no middleware can forget to guard
// them. Requests that proxies and routers are known to read differently are
// refused before any routing (guard.go).
//
// It decides nothing about tenants, sessions or credentials, and Echo is known
// nowhere else.
package web
