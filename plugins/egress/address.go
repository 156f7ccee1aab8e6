package egress

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// ParseHost reads "host:port" in its one spelling: a lower-case DNS name, or an
// address as net/netip prints it (IPv6 in brackets), and a decimal port.
// ErrRequest says what is wrong. That one spelling is the only one that is
// granted, asked for and dialled, so that no two readers can differ over it:
// 127.1, 0x7f000001, 2130706433, localhost. and ::ffff:127.0.0.1 are none.
func ParseHost(hostport string) (host string, port uint16, err error) {
	host, digits, err := net.SplitHostPort(hostport)
	if err != nil {
		return "", 0, fmt.Errorf("%w: %q is not host:port", ErrRequest, hostport)
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != digits {
		return "", 0, fmt.Errorf("%w: %q has no port from 1 to 65535", ErrRequest, hostport)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		if a.String() != host || a.Zone() != "" || a.Is4In6() || net.JoinHostPort(host, digits) != hostport {
			return "", 0, fmt.Errorf("%w: %q is not how that address is written", ErrRequest, hostport)
		}
		return host, uint16(n), nil
	}
	if !nameForm(host) {
		return "", 0, fmt.Errorf("%w: %q is not a lower-case DNS name", ErrRequest, host)
	}
	return host, uint16(n), nil
}

// nameForm reports whether host is a DNS name in lower case without a final
// dot. A name whose last label is a number would be an address to some readers
// (WHATWG URL §3.5, "ends in a number").
func nameForm(host string) bool {
	if len(host) > 253 {
		return false
	}
	labels := strings.Split(host, ".")
	for _, label := range labels {
		if len(label) < 1 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	last := labels[len(labels)-1]
	_, decimal := strconv.ParseUint(last, 10, 64)
	return decimal != nil && !strings.HasPrefix(last, "0x")
}

// never are addresses that no request reaches, whoever allows its host: what is
// no single host, what is next to this one, what tells clouds' secrets, and
// addresses that stand for other addresses.
var never = prefixes(
	"0.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"168.63.129.16/32",   // Azure's platform, metadata among it
	"100.100.100.200/32", // Alibaba Cloud's metadata
	"::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16",
	"fe80::/10", "fec0::/10", "ff00::/8",
	"fd00:ec2::/32", // Amazon's metadata
	"fd20:ce::/32",  // Google's
)

// inner are addresses of this machine and of networks like the one that it is
// in. Hosts that the operator allows may be there.
var inner = prefixes(
	"10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",
	"192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
	"::1/128", "fc00::/7", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16",
)

// global6 is all that IANA has given out of IPv6; the rest is nobody's.
var global6 = netip.MustParsePrefix("2000::/3")

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// mayReach reports whether a may be dialled. allowed is for hosts that the
// operator named; own are the addresses of this machine.
func mayReach(a netip.Addr, allowed bool, own []netip.Addr) bool {
	within := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	loopback6 := a == netip.IPv6Loopback() // it is within ::/96 too
	switch {
	case !a.IsValid() || a.Zone() != "" || within(never) && !loopback6:
		return false
	case allowed:
		return true
	}
	return !within(inner) && !slices.Contains(own, a) && (a.Is4() || global6.Contains(a))
}

// ownAddresses are those of this machine: a public one leads to its own
// listeners too.
func ownAddresses() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list own addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if own, ok := netip.AddrFromSlice(n.IP); ok {
				out = append(out, own.Unmap())
			}
		}
	}
	return out, nil
}
