package wasm

import (
	"fmt"
	"strings"
)

// The names of the contract doorward_v1, as package sdk/abi has them.
const (
	hostModule   = "doorward_v1"
	wasiModule   = "wasi_snapshot_preview1"
	exportMemory = "memory"
	exportVerify = "doorward_v1_verify"
	exportStart  = "_start"
)

// reserved begins the names of what Rewrite adds.
const reserved = "doorward."

// hostFunctions are those that module doorward_v1 offers, and their types: a
// letter for each parameter, a colon, and the result; i for i32, I for i64.
var hostFunctions = map[string]string{
	"input_read": "iii:i", "output_write": "ii:i", "result_read": "iii:i", "fail": "iii:", "log": "iii:",
	"random": "ii:i", "now_ms": ":I", "ct_equal": "iiii:i",
	"config_get": "ii:i", "secret_get": "ii:i", "password_hash": "ii:i", "password_verify": "iiii:i",
	"secret_hmac": "iiiii:i", "hash": "iii:i", "hmac": "iiiii:i", "sig_verify": "iiiiiii:i", "totp_verify": "iiii:i",
	"kv_get": "iiii:i", "kv_put": "iiiiiii:i", "kv_incr": "iiiiii:i", "kv_cas": "iiiiiiiii:i", "http_fetch": "ii:i",
}

// wasiFunctions are all of WASI preview 1.
var wasiFunctions = map[string]string{
	"args_get": "ii:i", "args_sizes_get": "ii:i", "clock_res_get": "ii:i", "clock_time_get": "iIi:i",
	"environ_get": "ii:i", "environ_sizes_get": "ii:i", "fd_advise": "iIIi:i", "fd_allocate": "iII:i",
	"fd_close": "i:i", "fd_datasync": "i:i", "fd_fdstat_get": "ii:i", "fd_fdstat_set_flags": "ii:i",
	"fd_fdstat_set_rights": "iII:i", "fd_filestat_get": "ii:i", "fd_filestat_set_size": "iI:i",
	"fd_filestat_set_times": "iIIi:i", "fd_pread": "iiiIi:i", "fd_prestat_dir_name": "iii:i",
	"fd_prestat_get": "ii:i", "fd_pwrite": "iiiIi:i", "fd_read": "iiii:i", "fd_readdir": "iiiIi:i",
	"fd_renumber": "ii:i", "fd_seek": "iIii:i", "fd_sync": "i:i", "fd_tell": "ii:i", "fd_write": "iiii:i",
	"path_create_directory": "iii:i", "path_filestat_get": "iiiii:i", "path_filestat_set_times": "iiiiIIi:i",
	"path_link": "iiiiiii:i", "path_open": "iiiiiIIii:i", "path_readlink": "iiiiii:i",
	"path_remove_directory": "iii:i", "path_rename": "iiiiii:i", "path_symlink": "iiiii:i",
	"path_unlink_file": "iii:i", "poll_oneoff": "iiii:i", "proc_exit": "i:", "proc_raise": "i:i",
	"random_get": "ii:i", "sched_yield": ":i", "sock_accept": "iii:i", "sock_recv": "iiiiii:i",
	"sock_send": "iiiii:i", "sock_shutdown": "ii:i",
}

// exportTypes are those of the exports that the host calls.
var exportTypes = map[string]string{
	exportVerify: "i:i", "doorward_v1_init": "i:i", "doorward_v1_warm": ":i", "_initialize": ":", exportStart: ":",
}

func (t Type) String() string {
	letters := map[ValueType]byte{I32: 'i', I64: 'I', F32: 'f', F64: 'F', FuncRef: 'r', ExternRef: 'R'}
	var s []byte
	for _, p := range t.Params {
		s = append(s, letters[p])
	}
	s = append(s, ':')
	for _, p := range t.Results {
		s = append(s, letters[p])
	}
	return string(s)
}

// contract holds a module that is well formed against doorward_v1.
func (r *reader) contract() {
	r.section = "import"
	for n, i := range r.m.Imports {
		r.checkImport(r.spots.imports[n], i)
	}
	r.section = "start"
	if s := r.m.start; s >= 0 {
		if s < r.m.imported {
			r.fail(r.spots.start, "the start function is an import; it must be the module's own")
		} else if t := r.typeOf(uint32(s)).String(); t != ":" {
			r.fail(r.spots.start, "the start function has type %s, not ():", readable(t))
		}
	}
	r.section = "export"
	for n, e := range r.m.Exports {
		r.checkExport(r.spots.exports[n], e)
	}
	r.checkProfile()
}

func (r *reader) checkImport(at int, i Import) {
	var want string
	var known bool
	switch i.Module {
	case hostModule:
		want, known = hostFunctions[i.Name]
	case wasiModule:
		want, known = wasiFunctions[i.Name]
	}
	if !known {
		r.fail(at, "import %.64q.%.64q is not offered; a verifier may import from %s and %s only", i.Module, i.Name, hostModule, wasiModule)
		return
	}
	if is := i.Type.String(); is != want {
		r.fail(at, "import %s.%s has type %s; the contract gives it %s", i.Module, i.Name, readable(is), readable(want))
	}
}

func (r *reader) checkExport(at int, e Export) {
	if strings.HasPrefix(e.Name, reserved) {
		r.fail(at, "export %.64q: names that begin with %q are the host's", e.Name, reserved)
		return
	}
	if e.Kind == Function && int(e.Index) < r.m.imported {
		r.fail(at, "export %.64q is an import; it must be the module's own function", e.Name)
		return
	}
	want, called := exportTypes[e.Name]
	if !called {
		return
	}
	if e.Kind != Function {
		r.fail(at, "export %s is not a function", e.Name)
		return
	}
	if is := r.typeOf(e.Index).String(); is != want {
		r.fail(at, "export %s has type %s; the contract gives it %s", e.Name, readable(is), readable(want))
	}
}

func (r *reader) checkProfile() {
	names := map[string]Kind{}
	for _, e := range r.m.Exports {
		names[e.Name] = e.Kind
	}
	if kind, there := names[exportMemory]; !there || kind != Memory {
		r.fail(len(r.b), "the module does not export its memory as %q", exportMemory)
		return
	}
	_, verify := names[exportVerify]
	_, start := names[exportStart]
	switch {
	case verify:
		r.m.Profile = Core
	case start:
		r.m.Profile = Stdio
	default:
		r.fail(len(r.b), "the module exports neither %s nor %s", exportVerify, exportStart)
	}
}

func (r *reader) typeOf(function uint32) Type { return r.m.types[r.m.functions[function]] }

// readable writes a type as "(i32 i32) -> i32".
func readable(t string) string {
	words := map[rune]string{'i': "i32", 'I': "i64", 'f': "f32", 'F': "f64", 'r': "funcref", 'R': "externref"}
	params, results, _ := strings.Cut(t, ":")
	list := func(letters string) string {
		var names []string
		for _, l := range letters {
			names = append(names, words[l])
		}
		return strings.Join(names, " ")
	}
	if results == "" {
		return fmt.Sprintf("(%s)", list(params))
	}
	return fmt.Sprintf("(%s) -> %s", list(params), list(results))
}

func sprintAt(name string, at int) string { return fmt.Sprintf("%s at offset %d", name, at) }
