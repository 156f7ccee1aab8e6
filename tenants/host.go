package tenants

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

var (
	errHost   = errors.New("not a plain host name")
	errOrigin = errors.New("not a plain origin")
)

// NormalizeHost returns the form in which hosts are compared: lower case, no
// port, no trailing dot. It takes DNS names in ASCII (an internationalised name
// in its xn-- form) and refuses everything that two programs could read in two
// ways: IP addresses, user info, lists, blanks, empty labels.
func NormalizeHost(raw string) (string, error) {
	if !plain(raw) {
		return "", errHost // before lower case, which makes a k of the Kelvin sign
	}
	host := raw
	if name, port, ok := strings.Cut(raw, ":"); ok {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", errHost
		}
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" || len(host) > 253 {
		return "", errHost
	}
	numeric := true
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "", errHost
		}
		numeric = true // of the last label: 127.1 and 0x7f.1 are addresses to some resolvers
		for i := 0; i < len(label); i++ {
			c := label[i]
			switch {
			case c >= '0' && c <= '9':
			case c >= 'a' && c <= 'z', c == '-':
				numeric = false
			default:
				return "", errHost
			}
		}
		if strings.HasPrefix(label, "0x") {
			numeric = true
		}
	}
	if numeric {
		return "", errHost
	}
	return host, nil
}

// NormalizeOrigin returns scheme://host[:port] in the form in which origins are
// compared: lower case, without the scheme's own port. Only https, but http
// too for loopback hosts.
func NormalizeOrigin(raw string) (string, error) {
	u, err := absolute(raw)
	if err != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery {
		return "", errOrigin
	}
	return originOf(u), nil
}

// absolute parses an absolute http(s) URL whose every part is plain.
func absolute(raw string) (*url.URL, error) {
	if !plain(raw) {
		return nil, errOrigin
	}
	u, err := url.Parse(raw)
	if err != nil || u.Opaque != "" || u.User != nil || u.Fragment != "" || strings.Contains(raw, "#") {
		return nil, errOrigin
	}
	u.Scheme = strings.ToLower(u.Scheme)
	local := isLoopback(u.Hostname())
	if u.Scheme != "https" && (u.Scheme != "http" || !local) {
		return nil, errOrigin
	}
	host := strings.ToLower(u.Hostname())
	if !local {
		if host, err = NormalizeHost(u.Hostname()); err != nil {
			return nil, errOrigin
		}
	}
	port := u.Port()
	if strings.HasSuffix(u.Host, ":") || port != "" && !portForm(port) {
		return nil, errOrigin
	}
	u.Host = host
	if strings.Contains(host, ":") {
		u.Host = "[" + host + "]"
	}
	if port != "" && !(u.Scheme == "https" && port == "443") && !(u.Scheme == "http" && port == "80") {
		u.Host = net.JoinHostPort(host, port)
	}
	return u, nil
}

func portForm(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

func originOf(u *url.URL) string { return u.Scheme + "://" + u.Host }

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.IsLoopback() && ip.Zone() == ""
}

// plain refuses what browsers strip or turn: control characters, blanks,
// backslashes and anything beyond ASCII.
func plain(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '\\' {
			return false
		}
	}
	return true
}
