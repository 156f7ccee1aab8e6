// Package pages draws what people see: sign in, second step, sign out, and
// what went wrong.
//
// The one idea: a page is a pure function of a View, which is data. Tenants
// bring words, never markup, and there is no JavaScript, no inline style and
// nothing from another host, so that the strictest content security policy
// holds and a page works wherever HTML does.
//
// It knows no HTTP: addresses are given to it, and whoever serves the page sets
// the headers.
package pages
