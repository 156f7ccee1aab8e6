package sandbox

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// refused are system calls that no child needs once its runtime has started.
// They fail with EPERM; the rest is let through, because what Go's runtime calls
// differs by its version.
var refused = append([]uint32{
	unix.SYS_EXECVE, unix.SYS_EXECVEAT,
	unix.SYS_SOCKET, unix.SYS_SOCKETPAIR, unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_ACCEPT, unix.SYS_ACCEPT4,
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_KCMP,
	unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_GETFD, unix.SYS_PIDFD_SEND_SIGNAL,
	unix.SYS_KILL, unix.SYS_TKILL, unix.SYS_RT_SIGQUEUEINFO, unix.SYS_RT_TGSIGQUEUEINFO,
	unix.SYS_PRLIMIT64, unix.SYS_SETRLIMIT,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
	unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT,
	unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_FSCONFIG, unix.SYS_FSPICK, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_MOUNT_SETATTR,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_REBOOT,
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_OPEN_BY_HANDLE_AT,
	unix.SYS_SETUID, unix.SYS_SETGID, unix.SYS_SETRESUID, unix.SYS_SETRESGID, unix.SYS_SETGROUPS, unix.SYS_CAPSET,
	unix.SYS_MKNODAT, unix.SYS_SYMLINKAT, unix.SYS_LINKAT, unix.SYS_FCHOWNAT, unix.SYS_FCHOWN,
	unix.SYS_SETXATTR, unix.SYS_LSETXATTR, unix.SYS_FSETXATTR,
}, refusedHere...)

// refusedWriting are the further ones of a worker, which changes no file. Those
// of openat2 are behind a pointer, where a filter does not see: all are refused.
var refusedWriting = append([]uint32{
	unix.SYS_OPENAT2, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_UNLINKAT, unix.SYS_MKDIRAT,
	unix.SYS_TRUNCATE, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_UTIMENSAT,
}, refusedWritingHere...)

// Where struct seccomp_data keeps what a filter looks at; low words, since both
// machines below are little endian.
const (
	dataCall = 0
	dataArch = 4
	dataArgs = 16
)

var auditArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

func statement(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }

func jump(test uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | test, K: k, Jt: yes, Jf: no}
}

// filterOf is the program that judges each system call of a child. What it
// refuses fails with errno.
func filterOf(arch uint32, writes bool, errno syscall.Errno) []unix.SockFilter {
	const load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	allow := statement(unix.BPF_RET, unix.SECCOMP_RET_ALLOW)
	no := statement(unix.BPF_RET, unix.SECCOMP_RET_ERRNO|uint32(errno))
	absent := statement(unix.BPF_RET, unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS))
	f := []unix.SockFilter{
		statement(load, dataArch), jump(unix.BPF_JEQ, arch, 1, 0), no,
		statement(load, dataCall), jump(unix.BPF_JSET, 0x40000000, 0, 1), no, // x32: the same calls by other numbers
		jump(unix.BPF_JEQ, unix.SYS_CLONE3, 0, 1), absent, // its flags are behind a pointer; callers fall back to clone
		// clone makes threads, never processes.
		jump(unix.BPF_JEQ, unix.SYS_CLONE, 0, 4), statement(load, dataArgs), jump(unix.BPF_JSET, unix.CLONE_THREAD, 0, 1), allow, no,
		// The runtime signals its own threads to preempt them.
		jump(unix.BPF_JEQ, unix.SYS_TGKILL, 0, 4), statement(load, dataArgs), jump(unix.BPF_JEQ, uint32(os.Getpid()), 0, 1), allow, no,
	}
	calls := refused
	if !writes {
		calls = append(append([]uint32{}, refused...), refusedWriting...)
		f = append(f, jump(unix.BPF_JEQ, unix.SYS_OPENAT, 0, 4), statement(load, dataArgs+2*8),
			jump(unix.BPF_JSET, unix.O_WRONLY|unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC, 0, 1), no, allow)
	}
	for _, call := range calls {
		f = append(f, jump(unix.BPF_JEQ, call, 0, 1), no)
	}
	return append(f, allow)
}

// filterCalls puts all threads of this process, and those to come, under the
// filter. It needs no-new-privileges.
func filterCalls(writes bool, errno syscall.Errno) error {
	arch, ok := auditArch[runtime.GOARCH]
	if !ok {
		return fmt.Errorf("filter system calls: not written for %s", runtime.GOARCH)
	}
	f := filterOf(arch, writes, errno)
	program := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("filter system calls: %w", errno)
	}
	if thread != 0 {
		return fmt.Errorf("filter system calls: thread %d could not follow", thread)
	}
	return nil
}
