package main

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/doorward/doorward/plugins/sandbox"
)

// serving is a configuration that may be served.
var serving = map[string]string{
	"DOORWARD_DATA_DIR": "data", "DOORWARD_KEYRING_FILE": "ring", "DOORWARD_PUBLIC_URL": "https://login.test",
}

func TestAnEtcdThatMakesNoSenseIsAUsageErrorAndAnUnsafeOneIsNotServed(t *testing.T) {
	const secure = "https://10.0.0.1:2379"
	for _, c := range []struct {
		env  map[string]string // names without DOORWARD_ETCD_
		code int
		want string
	}{
		{map[string]string{}, 0, ""},
		{map[string]string{"QUOTA_BYTES": "16777216"}, 0, ""},
		{map[string]string{"ENDPOINTS": secure + ", https://etcd-2.test:2379"}, 0, ""},
		{map[string]string{"ENDPOINTS": secure, "TLS_CA": "ca", "TLS_CERT": "c", "TLS_KEY": "k", "USERNAME": "u", "PASSWORD_FILE": "p"}, 0, ""},
		{map[string]string{"ENDPOINTS": "http://127.0.0.1:2379,http://localhost:2379,http://[::1]:2379,unix:///run/etcd.sock"}, 0, ""},

		{map[string]string{"ENDPOINTS": "http://10.0.0.1:2379"}, 78, "http://10.0.0.1:2379 is not https"},
		{map[string]string{"ENDPOINTS": "http://127.0.0.1:2379,http://etcd.test:2379"}, 78, "http://etcd.test:2379 is not https"},

		{map[string]string{"ENDPOINTS": "10.0.0.1:2379"}, 2, `holds "10.0.0.1:2379"`},
		{map[string]string{"ENDPOINTS": "https://10.0.0.1"}, 2, "https://host:port"},
		{map[string]string{"ENDPOINTS": "https://u:p@10.0.0.1:2379"}, 2, "https://host:port"},
		{map[string]string{"ENDPOINTS": "unix://run/etcd.sock"}, 2, "unix:///path"},
		{map[string]string{"ENDPOINTS": secure + ",http://127.0.0.1:2379"}, 2, "mixes https"},
		{map[string]string{"ENDPOINTS": "http://127.0.0.1:2379", "TLS_CA": "ca"}, 2, "no endpoint in etcd.endpoints is https"},
		{map[string]string{"ENDPOINTS": secure, "TLS_CERT": "c"}, 2, "go together"},
		{map[string]string{"ENDPOINTS": secure, "TLS_KEY": "k"}, 2, "go together"},
		{map[string]string{"ENDPOINTS": secure, "USERNAME": "u"}, 2, "etcd.username and etcd.password_file go together"},
		{map[string]string{"ENDPOINTS": secure, "PASSWORD_FILE": "p"}, 2, "etcd.username and etcd.password_file go together"},
		{map[string]string{"ENDPOINTS": secure, "QUOTA_BYTES": "1073741824"}, 2, "--quota-backend-bytes"},
		{map[string]string{"TLS_CA": "ca"}, 2, "say where it is with etcd.endpoints"},
		{map[string]string{"USERNAME": "u", "PASSWORD_FILE": "p"}, 2, "say where it is with etcd.endpoints"},
		{map[string]string{"QUOTA_BYTES": "16777215"}, 2, "16 MiB"},
		{map[string]string{"QUOTA_BYTES": "-1"}, 2, "16 MiB"},
		{map[string]string{"QUOTA_BYTES": "4G"}, 2, `"4G"`},
	} {
		env := maps.Clone(serving)
		for name, value := range c.env {
			env["DOORWARD_ETCD_"+name] = value
		}
		var cfg config
		err := cfg.fromEnv(func(name string) (string, bool) { value, ok := env[name]; return value, ok })
		if err == nil {
			cfg.complete()
			err = cfg.check()
		}
		if exitCode(err) != c.code || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: exit %d, %v; want %d, %q", c.env, exitCode(err), err, c.code, c.want)
		}
		if (c.code == 78) != errors.Is(err, errUnsafe) {
			t.Errorf("%v: err = %v", c.env, err)
		}
	}
}

func TestSettingsOfVerifiersThatMakeNoSenseAreRefused(t *testing.T) {
	for setting, want := range map[string]int{
		"MODULE_BYTES=1048576": 0, "MODULE_BYTES=16777216": 0, "MODULE_BYTES=0": 0,
		"MODULE_BYTES=16777217": 2, "MODULE_BYTES=1048575": 2, "MODULE_BYTES=-1": 2, "MODULE_BYTES=16MiB": 2,
		"ISOLATION=": 0, "ISOLATION=shared": 0, "ISOLATION=tenant": 0, "ISOLATION=process": 2,
	} {
		env := maps.Clone(serving)
		name, value, _ := strings.Cut(setting, "=")
		env["DOORWARD_PLUGINS_"+name] = value
		var cfg config
		err := cfg.fromEnv(func(name string) (string, bool) { value, ok := env[name]; return value, ok })
		if err == nil {
			cfg.complete()
			err = cfg.check()
		}
		if exitCode(err) != want {
			t.Errorf("%s: exit %d, %v; want %d", setting, exitCode(err), err, want)
		}
	}
}

func TestWhereVerifiersAreNotBoundTheErrorSaysWhatIsOpenAndWhy(t *testing.T) {
	bound := sandbox.Bound{Part: "worker", Refused: sandbox.Tried, Off: []string{"user: the server is not root"}}
	if err := confinedWell([]sandbox.Bound{bound}); err != nil {
		t.Errorf("all is refused, by whatever measures: %v", err)
	}
	err := confinedWell([]sandbox.Bound{bound, {Part: "compile", Open: []string{"read", "exec"}, Off: []string{"files: no Landlock"}}})
	if exitCode(err) != 78 {
		t.Fatalf("exit %d: %v", exitCode(err), err)
	}
	for _, want := range []string{"plugins.confine is required", "a compile process may: read, exec", "files: no Landlock", "Linux 5.13", "best-effort"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "worker") {
		t.Errorf("the worker is bound: %v", err)
	}
}
