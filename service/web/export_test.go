package web

import (
	"net/url"
	"regexp"
	"strings"
)

var param = regexp.MustCompile(`:([a-z]+)`)

// Served lists what the router serves, as the contract writes it.
func Served() []string {
	s := New(nil, nil, Config{PublicURL: &url.URL{Scheme: "http", Host: "localhost"}})
	var list []string
	take := func(prefix string, routes []route) {
		for _, r := range routes {
			path, _, _ := strings.Cut(r.path, "?")
			list = append(list, r.method+" "+param.ReplaceAllString(prefix+path, "{$1}"))
		}
	}
	apps, browsers := s.publicMap()
	take("/t/:tenant", apps)
	take("/t/:tenant", browsers)
	take("/admin/v1", s.adminMap())
	take("", s.probeMap())
	return list
}

// ParseJSON and PlainPath are fuzzed from outside.
var (
	ParseJSON = parseJSON
	PlainPath = plainPath
)
