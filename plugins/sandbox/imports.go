package sandbox

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/doorward/doorward/sdk/abi"
)

const (
	i32 = api.ValueTypeI32
	i64 = api.ValueTypeI64
)

// signature is what a function takes and gives.
type signature struct{ params, results []api.ValueType }

func sig(params int, results ...api.ValueType) signature {
	return signature{slices.Repeat([]api.ValueType{i32}, params), results}
}

// offered are the functions of module doorward_v1, by name. granted tells
// which of them are answered by the parent, and what they take, in order: b is a
// byte string, as pointer and length; n is a number.
var (
	offered = map[string]signature{
		abi.FuncInputRead:   sig(3, i32),
		abi.FuncOutputWrite: sig(2, i32),
		abi.FuncResultRead:  sig(3, i32),
		abi.FuncFail:        sig(3),
		abi.FuncLog:         sig(3),
		abi.FuncRandom:      sig(2, i32),
		abi.FuncNowMS:       sig(0, i64),
		abi.FuncCTEqual:     sig(4, i32),
	}
	granted = map[string]string{
		abi.FuncConfigGet:      "b",
		abi.FuncSecretGet:      "b",
		abi.FuncSecretHMAC:     "bnb",
		abi.FuncHash:           "nb",
		abi.FuncHMAC:           "nbb",
		abi.FuncSigVerify:      "nbbb",
		abi.FuncPasswordHash:   "b",
		abi.FuncPasswordVerify: "bb",
		abi.FuncTOTPVerify:     "bb",
		abi.FuncKVGet:          "bb",
		abi.FuncKVPut:          "bbbn",
		abi.FuncKVIncr:         "bbnn",
		abi.FuncKVCAS:          "bbbbn",
		abi.FuncHTTPFetch:      "b",
	}
)

func init() {
	for name, takes := range granted {
		offered[name] = sig(len(takes)+strings.Count(takes, "b"), i32)
	}
}

// preview1 are all the names of wasi_snapshot_preview1. Those without a
// function in wasi.go answer ENOSYS.
var preview1 = []string{
	"args_get", "args_sizes_get", "clock_res_get", "clock_time_get", "environ_get", "environ_sizes_get",
	"fd_advise", "fd_allocate", "fd_close", "fd_datasync", "fd_fdstat_get", "fd_fdstat_set_flags", "fd_fdstat_set_rights",
	"fd_filestat_get", "fd_filestat_set_size", "fd_filestat_set_times", "fd_pread", "fd_prestat_dir_name", "fd_prestat_get",
	"fd_pwrite", "fd_read", "fd_readdir", "fd_renumber", "fd_seek", "fd_sync", "fd_tell", "fd_write",
	"path_create_directory", "path_filestat_get", "path_filestat_set_times", "path_link", "path_open", "path_readlink",
	"path_remove_directory", "path_rename", "path_symlink", "path_unlink_file", "poll_oneoff", "proc_exit", "proc_raise",
	"random_get", "sched_yield", "sock_accept", "sock_recv", "sock_send", "sock_shutdown",
}

// checkImports refuses every import that is not offered, by its name, and
// returns the names of the others.
func checkImports(m wazero.CompiledModule) ([]string, error) {
	if len(m.ImportedMemories()) > 0 {
		return nil, fmt.Errorf("%w: it imports a memory; a verifier has its own and exports it as %q", ErrModule, abi.ExportMemory)
	}
	var names []string
	for _, f := range m.ImportedFunctions() {
		module, name, _ := f.Import()
		want, known := offered[name]
		switch {
		case module == abi.WASI && slices.Contains(preview1, name):
			if !preview1Shape(name, f.ResultTypes()) {
				return nil, fmt.Errorf("%w: import %s.%s has another signature than WASI preview 1 gives it", ErrModule, module, name)
			}
		case module == abi.Module && known:
			if !slices.Equal(f.ParamTypes(), want.params) || !slices.Equal(f.ResultTypes(), want.results) {
				return nil, fmt.Errorf("%w: import %s.%s has another signature than the contract gives it", ErrModule, module, name)
			}
		default:
			return nil, fmt.Errorf("%w: import %q.%q is not offered; a verifier may import from %s and %s only", ErrModule, module, name, abi.Module, abi.WASI)
		}
		names = append(names, module+"."+name)
	}
	sort.Strings(names)
	return slices.Compact(names), nil
}

func preview1Shape(name string, results []api.ValueType) bool {
	if name == "proc_exit" {
		return len(results) == 0
	}
	return slices.Equal(results, []api.ValueType{i32})
}

// importCount reads how many imports a module has. wazero lists functions and
// memories; when there are more, they are tables or globals, which nobody
// offers.
func importCount(module []byte) (int, bool) {
	const importSection = 2
	for at := 8; at < len(module); {
		id := module[at]
		size, n := uleb(module[at+1:])
		at += 1 + n
		if n == 0 || size > len(module)-at {
			return 0, false
		}
		if id == importSection {
			count, n := uleb(module[at:])
			return count, n > 0
		}
		at += size
	}
	return 0, true
}

// uleb reads an unsigned LEB128 of 32 bits and how many bytes it took, 0 when
// there is none.
func uleb(b []byte) (value, n int) {
	for n < len(b) && n < 5 {
		value |= int(b[n]&0x7f) << (7 * n)
		n++
		if b[n-1] < 0x80 {
			return value, n
		}
	}
	return 0, 0
}
