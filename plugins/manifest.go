package plugins

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/doorward/doorward/plugins/egress"
	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/sdk/abi"
)

// describe makes of a compile's report and a manifest what is known of a
// version, and the vectors it must pass.
func describe(report sandbox.Report, beside []byte) (Version, []abi.Vector, error) {
	text := report.Manifest
	if text != nil && beside != nil && !bytes.Equal(bytes.TrimSpace(text), bytes.TrimSpace(beside)) {
		return Version{}, nil, fmt.Errorf("%w: the manifest beside the module and the one in its section %s differ; send one of them", ErrInvalid, abi.ManifestSection)
	}
	v := Version{Imports: report.Imports, Profile: report.Profile, Warnings: []string{}}
	if text == nil {
		text = beside
		v.Manifest = beside
	}
	if report.Fresh != "" {
		v.Warnings = append(v.Warnings, "each login gets an instance made anew, which is slower: "+report.Fresh)
	}
	if v.Imports == nil {
		v.Imports = []string{}
	}
	needs := neededBy(report.Imports)
	m := abi.Manifest{ABI: abi.Version, Grants: needs}
	if text == nil {
		if named := (abi.Grants{Secrets: needs.Secrets, HTTP: needs.HTTP, KV: needs.KV}); len(grantLines(named)) > 0 {
			return Version{}, nil, fmt.Errorf(`%w: it imports what is granted by name only; add a manifest with {"abi":1,"grants":{…}} and names for "*" in: %s`, ErrInvalid, strings.Join(grantLines(named), ", "))
		}
	} else {
		var err error
		if m, err = readManifest(text); err != nil {
			return Version{}, nil, err
		}
		if missing := addedGrants(withNames(m.Grants), needs); len(missing) > 0 {
			return Version{}, nil, fmt.Errorf("%w: it imports what its manifest does not ask for; add to \"grants\": %s", ErrInvalid, strings.Join(missing, ", "))
		}
	}
	for _, line := range grantLines(withNames(m.Grants)) {
		if !slices.Contains(grantLines(needs), line) {
			v.Warnings = append(v.Warnings, "granted, but not imported: "+line)
		}
	}
	var err error
	if v.Limits, err = limits(m.Limits, report); err != nil {
		return Version{}, nil, err
	}
	v.Name, v.Release, v.Methods, v.Grants = m.Name, m.Version, m.Methods, m.Grants
	return v, m.Vectors, nil
}

// maxManifest bounds a manifest: what is made of one is many times as large.
const maxManifest = 1 << 20

// readManifest reads a manifest strictly.
func readManifest(text []byte) (abi.Manifest, error) {
	var m abi.Manifest
	if len(text) > maxManifest {
		return m, fmt.Errorf("%w: the manifest has %d bytes; %d are the limit", ErrInvalid, len(text), maxManifest)
	}
	if err := json.Unmarshal(text, &m, json.RejectUnknownMembers(true)); err != nil {
		return m, fmt.Errorf("%w: the manifest cannot be read: %s", ErrInvalid, clean(err.Error())) // it names what the manifest names
	}
	if m.ABI != abi.Version {
		return m, fmt.Errorf(`%w: the manifest has "abi": %d; this server speaks %d`, ErrInvalid, m.ABI, abi.Version)
	}
	if len(m.Vectors) > 100 || len(m.Methods) > 16 || len(m.Name) > 100 || len(m.Version) > 40 {
		return m, fmt.Errorf("%w: the manifest holds more than 100 vectors, 16 methods, or too long a name", ErrInvalid)
	}
	if err := checkNames(m); err != nil {
		return m, err
	}
	return m, nil
}

// checkNames bounds what a manifest names: every login reads it, and people see
// it in a terminal.
func checkNames(m abi.Manifest) error {
	lists := [][]string{m.Methods, m.Grants.Secrets, m.Grants.Password}
	if m.Grants.HTTP != nil {
		lists = append(lists, m.Grants.HTTP.Hosts)
	}
	if m.Grants.KV != nil {
		lists = append(lists, m.Grants.KV.Namespaces)
	}
	for _, list := range lists {
		if len(list) > 64 || slices.ContainsFunc(list, func(name string) bool { return name == "" || len(name) > 256 || !printable(name) }) {
			return fmt.Errorf("%w: a list in the manifest holds more than 64 names, or one that is not 1 to 256 bytes of printable text", ErrInvalid)
		}
	}
	if m.Grants.HTTP != nil {
		if err := checkHTTP(*m.Grants.HTTP); err != nil {
			return err
		}
	}
	if !printable(m.Name) || !printable(m.Version) {
		return fmt.Errorf("%w: the manifest's name or version is not printable text", ErrInvalid)
	}
	return nil
}

// checkHTTP refuses hosts that could be read in two ways, and budgets over the
// ceiling.
func checkHTTP(g abi.HTTPGrant) error {
	for _, host := range g.Hosts {
		if _, _, err := egress.ParseHost(host); err != nil {
			return fmt.Errorf("%w: grants.http.hosts: %w", ErrInvalid, err)
		}
	}
	if g.MaxCalls < 0 || g.MaxCalls > abi.MaxHTTPCalls {
		return fmt.Errorf("%w: grants.http.max_calls is %d; it may be 1 to %d, and is %d when left out", ErrInvalid, g.MaxCalls, abi.MaxHTTPCalls, abi.DefaultHTTPCalls)
	}
	return nil
}

// neededBy is what imports cannot do without. The name of a secret, a host or a
// namespace is not in an import; "*" stands for it.
func neededBy(imports []string) (g abi.Grants) {
	for _, i := range imports {
		switch strings.TrimPrefix(i, abi.Module+".") {
		case abi.FuncConfigGet:
			g.Config = true
		case abi.FuncSecretGet, abi.FuncSecretHMAC:
			g.Secrets = []string{"*"}
		case abi.FuncHash:
			g.Hash = true
		case abi.FuncHMAC:
			g.HMAC = true
		case abi.FuncSigVerify:
			g.SigVerify = true
		case abi.FuncTOTPVerify:
			g.TOTP = true
		case abi.FuncKVGet, abi.FuncKVPut, abi.FuncKVIncr, abi.FuncKVCAS:
			g.KV = &abi.KVGrant{Namespaces: []string{"*"}}
		case abi.FuncHTTPFetch:
			g.HTTP = &abi.HTTPGrant{Hosts: []string{"*"}}
		case abi.FuncPasswordHash, abi.FuncPasswordVerify:
			g.Password = []string{"*"}
		}
	}
	return g
}

// withNames is g as neededBy would see it: which kinds, not which names.
func withNames(g abi.Grants) abi.Grants {
	if len(g.Secrets) > 0 {
		g.Secrets = []string{"*"}
	}
	if len(g.Password) > 0 {
		g.Password = []string{"*"}
	}
	if g.HTTP != nil && len(g.HTTP.Hosts) > 0 {
		g.HTTP = &abi.HTTPGrant{Hosts: []string{"*"}}
	}
	if g.KV != nil && len(g.KV.Namespaces) > 0 {
		g.KV = &abi.KVGrant{Namespaces: []string{"*"}}
	}
	return g
}

// grantLines shows grants one by one, as a manifest writes them.
func grantLines(g abi.Grants) []string {
	var lines []string
	for _, flag := range []struct {
		name string
		set  bool
	}{{"config", g.Config}, {"hash", g.Hash}, {"hmac", g.HMAC}, {"sig_verify", g.SigVerify}, {"totp", g.TOTP}} {
		if flag.set {
			lines = append(lines, fmt.Sprintf("%q: true", flag.name))
		}
	}
	for _, list := range []struct {
		name   string
		values []string
	}{{"secrets", g.Secrets}, {"password", g.Password}} {
		for _, value := range list.values {
			lines = append(lines, fmt.Sprintf("%q: [%q]", list.name, value))
		}
	}
	if g.HTTP != nil {
		for _, host := range g.HTTP.Hosts {
			lines = append(lines, fmt.Sprintf(`"http": {"hosts": [%q]}`, host))
		}
		if n := g.HTTP.MaxCalls; n > abi.DefaultHTTPCalls {
			lines = append(lines, fmt.Sprintf(`"http": {"max_calls": %d}`, n))
		}
	}
	if g.KV != nil {
		for _, ns := range g.KV.Namespaces {
			lines = append(lines, fmt.Sprintf(`"kv": {"namespaces": [%q]}`, ns))
		}
	}
	return lines
}

// limits resolves what a manifest asks for within the ceilings.
func limits(l abi.Limits, report sandbox.Report) (abi.Limits, error) {
	if l.WallMS == 0 {
		l.WallMS = abi.DefaultWallMS
	}
	if l.CPUMS == 0 {
		l.CPUMS = abi.DefaultCPUMS
	}
	if l.MemoryMiB == 0 {
		l.MemoryMiB = abi.DefaultMemoryMiB
	}
	if l.WallMS < 10 || l.WallMS > abi.MaxWallMS {
		return l, fmt.Errorf("%w: limits.wall_ms is %d; it may be 10 to %d", ErrInvalid, l.WallMS, abi.MaxWallMS)
	}
	if l.CPUMS < 1 || l.CPUMS > abi.MaxCPUMS {
		return l, fmt.Errorf("%w: limits.cpu_ms is %d; it may be 1 to %d", ErrInvalid, l.CPUMS, abi.MaxCPUMS)
	}
	if l.MemoryMiB < 1 || l.MemoryMiB > abi.MaxMemoryMiB {
		return l, fmt.Errorf("%w: limits.memory_mib is %d; it may be 1 to %d", ErrInvalid, l.MemoryMiB, abi.MaxMemoryMiB)
	}
	if report.MemoryMiB > l.MemoryMiB {
		return l, fmt.Errorf("%w: the module starts with %d MiB of memory and may have %d; raise limits.memory_mib (at most %d) or let it start smaller", ErrInvalid, report.MemoryMiB, l.MemoryMiB, abi.MaxMemoryMiB)
	}
	return l, nil
}
