package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/doorward/doorward/plugins/egress"
	"github.com/doorward/doorward/sdk/abi"
	"github.com/doorward/doorward/sessions"
)

// config is every setting of a server. What a later source says wins: the
// file, then the environment (DOORWARD_ and the name in capitals, sections
// joined by an underscore), then flags.
type config struct {
	DataDir        string   `yaml:"data_dir"`        // everything the node keeps
	Listen         string   `yaml:"listen"`          // browsers, apps, gateways; "" is 127.0.0.1:8480
	AdminListen    string   `yaml:"admin_listen"`    // operators and probes; "" is 127.0.0.1:8481
	PublicURL      string   `yaml:"public_url"`      // where users find this installation; "" is http://{listen} in dev
	TrustedProxies []string `yaml:"trusted_proxies"` // addresses or prefixes whose X-Forwarded-For and -Proto count
	Keyring        struct {
		File string `yaml:"file"` // root keys; made at the first start if the file is not there
	} `yaml:"keyring"`
	Sessions struct {
		Mode       string `yaml:"mode"`        // cached (default), replicated, centralized or memory
		CacheBytes int64  `yaml:"cache_bytes"` // what mode cached may hold in memory, about; 0: 256 MiB
	} `yaml:"sessions"`
	Etcd struct {
		Endpoints []string `yaml:"endpoints"` // of a cluster that somebody else runs: https://host:port; none: the one inside this process
		TLS       struct {
			CA   string `yaml:"ca"`   // PEM file with who may sign the cluster's certificates; "": the system's
			Cert string `yaml:"cert"` // PEM files with this node's own
			Key  string `yaml:"key"`
		} `yaml:"tls"`
		Username     string `yaml:"username"`
		PasswordFile string `yaml:"password_file"` // its first line
		QuotaBytes   int64  `yaml:"quota_bytes"`   // of the embedded etcd's database; 0: 4 GiB
	} `yaml:"etcd"`
	Cluster struct {
		Name      string            `yaml:"name"`      // of this node among the others; "": node
		Listen    string            `yaml:"listen"`    // host:port at which other members reach the etcd in this process, by TLS of the cluster's own; "": nowhere, and nobody can join
		Advertise string            `yaml:"advertise"` // where that is for them; "": https:// and listen
		Control   string            `yaml:"control"`   // host:port at which nodes join and are asked how they are, by the same TLS, at the same host; "": the port after listen's
		Clients   string            `yaml:"clients"`   // host:port at which nodes without a member of their own reach this one, by the same TLS, at the same host; "": nowhere
		Initial   map[string]string `yaml:"initial"`   // the first members, name: advertise, where several start together; counts at the first start
		Authority string            `yaml:"authority"` // file with the cluster's certificate and key; made at the first start where initial is not set; "": DATA_DIR/cluster/authority.pem
	} `yaml:"cluster"`
	Plugins struct {
		Confine     string `yaml:"confine"`      // best-effort (default): the log and doorward_sandbox_confined say what binds verifiers; required: no start unless all does
		Isolation   string `yaml:"isolation"`    // shared (default): tenants take turns in workers; tenant: a worker that one has had is no other's
		CacheBytes  int64  `yaml:"cache_bytes"`  // what DIR/modules may hold of compiled verifiers beside those that are loaded; 0: 1 GiB
		ModuleBytes int64  `yaml:"module_bytes"` // of a verifier that may be uploaded; 0: 8 MiB; at most 16 MiB
		UID         int    `yaml:"uid"`          // number of the user and group that verifiers run as where the server is root; 0: 65534
		Egress      struct {
			Ports []string `yaml:"ports"` // that verifiers may reach on public addresses, by https; left out: 443 and 8443
			Allow []string `yaml:"allow"` // exact host:port that they may reach besides, by http and at private addresses too; open to every tenant
		} `yaml:"egress"`
	} `yaml:"plugins"`
	Log struct {
		Level  string `yaml:"level"`  // debug, info (default), warn, error
		Format string `yaml:"format"` // json or text
	} `yaml:"log"`

	dev bool
}

// What plugins.confine may be.
const (
	bestEffort = "best-effort"
	required   = "required"
)

// What plugins.isolation may be.
const (
	shared    = "shared"
	perTenant = "tenant"
)

// inMemory is the mode in which sessions are kept in the process alone.
const inMemory = "memory"

// fromFile reads a YAML file strictly: a key that does not exist is an error
// with its line, not a setting that silently does nothing.
func (c *config) fromFile(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	return nil
}

// fromEnv lays DOORWARD_* over c.
func (c *config) fromEnv(lookup func(string) (string, bool)) error {
	for name, to := range map[string]*string{
		"DATA_DIR": &c.DataDir, "LISTEN": &c.Listen, "ADMIN_LISTEN": &c.AdminListen, "PUBLIC_URL": &c.PublicURL,
		"KEYRING_FILE": &c.Keyring.File, "SESSIONS_MODE": &c.Sessions.Mode,
		"ETCD_TLS_CA": &c.Etcd.TLS.CA, "ETCD_TLS_CERT": &c.Etcd.TLS.Cert, "ETCD_TLS_KEY": &c.Etcd.TLS.Key,
		"ETCD_USERNAME": &c.Etcd.Username, "ETCD_PASSWORD_FILE": &c.Etcd.PasswordFile,
		"CLUSTER_NAME": &c.Cluster.Name, "CLUSTER_LISTEN": &c.Cluster.Listen, "CLUSTER_ADVERTISE": &c.Cluster.Advertise,
		"CLUSTER_CONTROL": &c.Cluster.Control, "CLUSTER_CLIENTS": &c.Cluster.Clients, "CLUSTER_AUTHORITY": &c.Cluster.Authority,
		"PLUGINS_CONFINE": &c.Plugins.Confine, "PLUGINS_ISOLATION": &c.Plugins.Isolation, "LOG_LEVEL": &c.Log.Level, "LOG_FORMAT": &c.Log.Format,
	} {
		if value, ok := lookup("DOORWARD_" + name); ok {
			*to = value
		}
	}
	for name, to := range map[string]*[]string{
		"TRUSTED_PROXIES": &c.TrustedProxies, "ETCD_ENDPOINTS": &c.Etcd.Endpoints,
		"PLUGINS_EGRESS_PORTS": &c.Plugins.Egress.Ports, "PLUGINS_EGRESS_ALLOW": &c.Plugins.Egress.Allow,
	} {
		if value, ok := lookup("DOORWARD_" + name); ok {
			*to = strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })
		}
	}
	if value, ok := lookup("DOORWARD_CLUSTER_INITIAL"); ok {
		c.Cluster.Initial = map[string]string{}
		for _, one := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' }) {
			name, at, found := strings.Cut(one, "=")
			if !found {
				return usage(fmt.Errorf("DOORWARD_CLUSTER_INITIAL holds %q; it takes name=https://host:port, with commas between", one))
			}
			c.Cluster.Initial[name] = at
		}
	}
	for name, to := range map[string]*int64{
		"ETCD_QUOTA_BYTES": &c.Etcd.QuotaBytes, "SESSIONS_CACHE_BYTES": &c.Sessions.CacheBytes, "PLUGINS_CACHE_BYTES": &c.Plugins.CacheBytes,
		"PLUGINS_MODULE_BYTES": &c.Plugins.ModuleBytes,
	} {
		value, ok := lookup("DOORWARD_" + name)
		if !ok {
			continue
		}
		var err error
		if *to, err = strconv.ParseInt(value, 10, 64); err != nil {
			return usage(fmt.Errorf("DOORWARD_%s is %q; it takes a number of bytes", name, value))
		}
	}
	if value, ok := lookup("DOORWARD_PLUGINS_UID"); ok {
		var err error
		if c.Plugins.UID, err = strconv.Atoi(value); err != nil {
			return usage(fmt.Errorf("DOORWARD_PLUGINS_UID is %q; it takes the number of a user", value))
		}
	}
	return nil
}

// complete fills what was left out.
func (c *config) complete() {
	setDefault(&c.Listen, "127.0.0.1:8480")
	setDefault(&c.AdminListen, "127.0.0.1:8481")
	setDefault(&c.Sessions.Mode, string(sessions.Cached))
	setDefault(&c.Plugins.Confine, bestEffort)
	setDefault(&c.Plugins.Isolation, shared)
	setDefault(&c.Log.Level, "info")
	setDefault(&c.Cluster.Name, "node")
	if host, port, err := net.SplitHostPort(c.Cluster.Listen); err == nil {
		setDefault(&c.Cluster.Advertise, "https://"+c.Cluster.Listen)
		if n, err := strconv.ParseUint(port, 10, 16); err == nil && n < 1<<16-1 {
			setDefault(&c.Cluster.Control, net.JoinHostPort(host, strconv.FormatUint(n+1, 10)))
		}
	}
	if !c.dev {
		setDefault(&c.Log.Format, "json")
		return
	}
	setDefault(&c.DataDir, "data")
	setDefault(&c.PublicURL, "http://"+c.Listen)
	setDefault(&c.Log.Format, "text")
	if c.Keyring.File == "" {
		c.Keyring.File = filepath.Join(c.DataDir, "keyring")
	}
	if c.TrustedProxies == nil {
		c.TrustedProxies = []string{"127.0.0.0/8", "::1/128"}
	}
}

func setDefault(to *string, value string) {
	if *to == "" {
		*to = value
	}
}

// check names everything that must not be served as it is: errUnsafe with one
// line an item. A value that makes no sense at all is a usage error.
func (c *config) check() error {
	if !slices.Contains([]string{string(sessions.Cached), string(sessions.Replicated), string(sessions.Centralized), inMemory}, c.Sessions.Mode) {
		return usage(fmt.Errorf("sessions.mode is %q; it may be cached, replicated, centralized or memory", c.Sessions.Mode))
	}
	if c.Sessions.CacheBytes < 0 || c.Sessions.CacheBytes > 0 && c.Sessions.CacheBytes < 1<<20 {
		return usage(fmt.Errorf("sessions.cache_bytes is %d; it takes 1048576 (1 MiB) or more", c.Sessions.CacheBytes))
	}
	if c.Plugins.Confine != bestEffort && c.Plugins.Confine != required {
		return usage(fmt.Errorf("plugins.confine is %q; it may be %s or %s", c.Plugins.Confine, bestEffort, required))
	}
	if c.Plugins.CacheBytes < 0 || c.Plugins.CacheBytes > 0 && c.Plugins.CacheBytes < 1<<20 {
		return usage(fmt.Errorf("plugins.cache_bytes is %d; it takes 1048576 (1 MiB) or more", c.Plugins.CacheBytes))
	}
	if c.Plugins.Isolation != shared && c.Plugins.Isolation != perTenant {
		return usage(fmt.Errorf("plugins.isolation is %q; it may be %s or %s", c.Plugins.Isolation, shared, perTenant))
	}
	if c.Plugins.ModuleBytes < 0 || c.Plugins.ModuleBytes > abi.MaxModule || c.Plugins.ModuleBytes > 0 && c.Plugins.ModuleBytes < 1<<20 {
		return usage(fmt.Errorf("plugins.module_bytes is %d; it takes 1048576 (1 MiB) to %d (16 MiB)", c.Plugins.ModuleBytes, abi.MaxModule))
	}
	if c.Plugins.UID < 0 || c.Plugins.UID > 1<<31-2 {
		return usage(fmt.Errorf("plugins.uid is %d; it takes the number of a user that owns nothing", c.Plugins.UID))
	}
	if _, err := c.logLevel(); err != nil {
		return usage(err)
	}
	if _, err := c.proxies(); err != nil {
		return usage(err)
	}
	if err := c.checkEtcd(); err != nil {
		return usage(err)
	}
	if err := c.checkCluster(); err != nil {
		return usage(err)
	}
	if _, err := c.outbound(); err != nil {
		return usage(err)
	}
	var missing []string
	for _, l := range []struct{ name, address string }{{"listen", c.Listen}, {"admin_listen", c.AdminListen}} {
		host, _, err := net.SplitHostPort(l.address)
		if err != nil {
			return usage(fmt.Errorf("%s is %q; it takes host:port", l.name, l.address))
		}
		if !loopback(host) {
			missing = append(missing, l.name+": "+l.address+" can be reached from outside, and this version has no TLS of its own; listen on 127.0.0.1 behind a proxy that has")
		}
	}
	if !c.dev {
		missing = append(missing, c.checkServe()...)
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w, %d to mend:\n  - %s", errUnsafe, len(missing), strings.Join(missing, "\n  - "))
	}
	return nil
}

// checkServe is what production needs besides.
func (c *config) checkServe() (missing []string) {
	if c.DataDir == "" {
		missing = append(missing, "data_dir: is not set; say where this node keeps its data")
	}
	if c.Keyring.File == "" {
		missing = append(missing, "keyring.file: is not set; say where the root keys are, apart from the data and from its backups (the file is made at the first start)")
	}
	u, err := c.publicURL()
	switch {
	case c.PublicURL == "":
		missing = append(missing, "public_url: is not set; say the https URL at which users find this installation")
	case err != nil:
		missing = append(missing, "public_url: "+err.Error())
	case u.Scheme != "https" && !loopback(u.Hostname()):
		missing = append(missing, "public_url: "+c.PublicURL+" is not https; session cookies need it")
	}
	if c.Sessions.Mode == inMemory {
		missing = append(missing, `sessions.mode: "memory" forgets every session at a restart; it is for dev`)
	}
	if len(c.Cluster.Initial) > 1 {
		// Made by each of them, they would be three of a kind, and the members strangers.
		for _, f := range []struct{ setting, file, make string }{
			{"keyring.file", c.Keyring.File, "keyring create"}, {"cluster.authority", c.authorityFile(), "cluster authority"},
		} {
			if _, err := os.Stat(f.file); errors.Is(err, fs.ErrNotExist) && f.file != "" {
				missing = append(missing, fmt.Sprintf("%s: %s is not there, and the nodes of cluster.initial need the same one before they start; make it once with: doorward %s %s, and copy it to each", f.setting, f.file, f.make, f.file))
			}
		}
	}
	for _, endpoint := range c.Etcd.Endpoints {
		if u, err := url.Parse(endpoint); err == nil && u.Scheme == "http" && !loopback(u.Hostname()) {
			missing = append(missing, "etcd.endpoints: "+endpoint+" is not https; whoever listens on the way has every session")
		}
	}
	return missing
}

// minQuota is the least that holds a few verifiers and some sessions.
const minQuota = 16 << 20

// checkEtcd names what makes no sense about the etcd to be used.
func (c *config) checkEtcd() error {
	e := &c.Etcd
	secure := 0
	for _, endpoint := range e.Endpoints {
		u, err := url.Parse(endpoint)
		plain := err == nil && u.User == nil && u.RawQuery == "" && u.Fragment == ""
		switch {
		case plain && u.Scheme == "unix" && u.Host == "" && filepath.IsAbs(u.Path):
		case plain && (u.Scheme == "https" || u.Scheme == "http") && u.Hostname() != "" && u.Port() != "" && u.Path == "":
		default:
			return fmt.Errorf("etcd.endpoints holds %q; it takes https://host:port, and http://127.0.0.1:port or unix:///path on this machine", endpoint)
		}
		if u.Scheme == "https" {
			secure++
		}
	}
	tls := e.TLS.CA + e.TLS.Cert + e.TLS.Key
	switch {
	case len(e.Endpoints) == 0 && tls+e.Username+e.PasswordFile != "":
		return errors.New("etcd.tls, etcd.username and etcd.password_file are for a cluster that somebody else runs; say where it is with etcd.endpoints, or leave them out")
	case len(e.Endpoints) > 0 && e.QuotaBytes != 0:
		return errors.New("etcd.quota_bytes is of the embedded etcd; at etcd.endpoints it is set there, with --quota-backend-bytes")
	case e.QuotaBytes != 0 && e.QuotaBytes < minQuota:
		return fmt.Errorf("etcd.quota_bytes is %d; it takes %d (16 MiB) or more", e.QuotaBytes, minQuota)
	case secure != 0 && secure != len(e.Endpoints):
		return errors.New("etcd.endpoints mixes https with others; one connection is secured or it is not")
	case secure == 0 && tls != "":
		return errors.New("etcd.tls is set, and no endpoint in etcd.endpoints is https")
	case (e.TLS.Cert == "") != (e.TLS.Key == ""):
		return errors.New("etcd.tls.cert and etcd.tls.key go together; one of them is not set")
	case (e.Username == "") != (e.PasswordFile == ""):
		return errors.New("etcd.username and etcd.password_file go together; one of them is not set")
	}
	return nil
}

// checkCluster names what makes no sense about other nodes.
func (c *config) checkCluster() error {
	l := &c.Cluster
	if strings.Trim(l.Name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") != "" || l.Name == "" || len(l.Name) > 63 {
		return fmt.Errorf("cluster.name is %q; it takes up to 63 letters, digits, dots, hyphens and underscores", l.Name)
	}
	for _, a := range []struct{ name, address string }{{"listen", l.Listen}, {"control", l.Control}, {"clients", l.Clients}} {
		if _, port, err := net.SplitHostPort(a.address); a.address != "" && (err != nil || port == "" || port == "0") {
			return fmt.Errorf("cluster.%s is %q; it takes host:port, with a port that stays the same", a.name, a.address)
		}
	}
	for _, a := range []struct{ name, address string }{{"listen", l.Listen}, {"clients", l.Clients}} { // etcd's own listeners look no names up
		host, port, _ := net.SplitHostPort(a.address)
		if a.address != "" && host != "localhost" && net.ParseIP(host) == nil {
			return fmt.Errorf("cluster.%s is %q; it takes an address of this machine and a port, or all addresses as 0.0.0.0:%s", a.name, a.address, port)
		}
	}
	urls := map[string]string{"cluster.advertise": l.Advertise}
	for name, at := range l.Initial {
		urls["cluster.initial."+name] = at
	}
	for name, text := range urls {
		u, err := url.Parse(text)
		if text != "" && (err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || u.Path != "" || u.RawQuery != "" || u.User != nil) {
			return fmt.Errorf("%s is %q; it takes https://host:port", name, text)
		}
	}
	switch u, _ := url.Parse(l.Advertise); {
	case c.external() && l.Listen+l.Advertise+l.Control+l.Clients+l.Authority != "" || c.external() && len(l.Initial) > 0:
		return errors.New("cluster is about the etcd in this process, and etcd.endpoints says to use another; leave one of them out")
	case l.Listen == "" && (l.Advertise+l.Clients != "" || len(l.Initial) > 0):
		return errors.New("cluster.advertise, cluster.clients and cluster.initial need cluster.listen, at which other members reach this one")
	case l.Advertise != "" && slices.Contains([]string{"0.0.0.0", "::"}, u.Hostname()):
		return fmt.Errorf("cluster.advertise is %q, which is no address of this machine; say where the other members reach it", l.Advertise)
	case len(l.Initial) > 0 && l.Initial[l.Name] != l.Advertise:
		return fmt.Errorf("cluster.initial has %q for this node, %s, and cluster.advertise is %q; they are the same", l.Initial[l.Name], l.Name, l.Advertise)
	}
	return nil
}

// clusterDir holds what this node knows of the others, authorityFile by whom
// they know each other.
func (c *config) clusterDir() string { return filepath.Join(c.DataDir, "cluster") }

func (c *config) authorityFile() string {
	if c.Cluster.Authority != "" {
		return c.Cluster.Authority
	}
	return filepath.Join(c.clusterDir(), "authority.pem")
}

// external reports whether somebody else runs the etcd.
func (c *config) external() bool { return len(c.Etcd.Endpoints) > 0 }

func (c *config) publicURL() (*url.URL, error) {
	u, err := url.Parse(c.PublicURL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("%q is not a plain https://host URL", c.PublicURL)
	}
	return u, nil
}

func (c *config) logLevel() (slog.Level, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Log.Level)); err != nil {
		return 0, fmt.Errorf("log.level is %q; it may be debug, info, warn or error", c.Log.Level)
	}
	return level, nil
}

// outbound is what verifiers may reach by HTTP.
func (c *config) outbound() (*egress.Client, error) {
	cfg := egress.Config{Allow: c.Plugins.Egress.Allow, Timeout: abi.HTTPTimeoutMS * time.Millisecond}
	for _, text := range c.Plugins.Egress.Ports {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 {
			return nil, fmt.Errorf("plugins.egress.ports holds %q; it takes ports from 1 to 65535", text)
		}
		cfg.Ports = append(cfg.Ports, uint16(port))
	}
	client, err := egress.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("plugins.%w; it takes exact host:port", err)
	}
	return client, nil
}

func (c *config) proxies() ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, text := range c.TrustedProxies {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			var one netip.Addr
			if one, err = netip.ParseAddr(text); err == nil {
				p, err = one.Prefix(one.BitLen())
			}
		}
		if err != nil {
			return nil, fmt.Errorf("trusted_proxies holds %q; it takes addresses and prefixes such as 10.0.0.0/8", text)
		}
		list = append(list, p.Masked())
	}
	return list, nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
