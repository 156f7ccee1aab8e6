package sandbox

import (
	"fmt"
	"os"
	"runtime"
	"slices"
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
	// Memory, semaphores and messages that all processes of a user share, which
	// are those of all tenants; and descriptors, which a socket could keep.
	unix.SYS_SHMGET, unix.SYS_SHMAT, unix.SYS_SHMCTL, unix.SYS_SHMDT,
	unix.SYS_SEMGET, unix.SYS_SEMOP, unix.SYS_SEMTIMEDOP, unix.SYS_SEMCTL,
	unix.SYS_MSGGET, unix.SYS_MSGSND, unix.SYS_MSGRCV, unix.SYS_MSGCTL,
	unix.SYS_MQ_OPEN, unix.SYS_MQ_UNLINK, unix.SYS_MQ_TIMEDSEND, unix.SYS_MQ_TIMEDRECEIVE, unix.SYS_MQ_NOTIFY, unix.SYS_MQ_GETSETATTR,
	unix.SYS_SENDMSG, unix.SYS_SENDMMSG, unix.SYS_RECVMSG, unix.SYS_RECVMMSG,
	// What another process of the same user runs on, and with what.
	unix.SYS_SETPRIORITY, unix.SYS_IOPRIO_SET, unix.SYS_SCHED_SETAFFINITY, unix.SYS_SCHED_SETATTR, unix.SYS_SCHED_SETPARAM, unix.SYS_SCHED_SETSCHEDULER,
	unix.SYS_MIGRATE_PAGES, unix.SYS_MOVE_PAGES, unix.SYS_PROCESS_MADVISE, unix.SYS_PROCESS_MRELEASE,
	// Of openat2 the flags are behind a pointer, where a filter does not see.
	unix.SYS_OPENAT2, unix.SYS_FALLOCATE, unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_UTIMENSAT, unix.SYS_UNLINKAT,
}, refusedHere...)

// refusedWriting are the further ones of a worker, which changes no file.
var refusedWriting = append([]uint32{
	unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_MKDIRAT, unix.SYS_TRUNCATE, unix.SYS_FTRUNCATE,
}, refusedWritingHere...)

// refusedCompiling are the further ones of a compile child, which makes no images:
// memory of a file counts for no limit of its own.
var refusedCompiling = []uint32{unix.SYS_MEMFD_CREATE, unix.SYS_MEMFD_SECRET}

// undone are calls that a compile child is told have been done, and are not. With
// them, or with calls that are refused, files could be there without a name, and
// what it writes must be seen to be bounded. The engine gives its code a name for
// a while and then its own; install takes it by either.
var undone = append([]uint32{unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2}, undoneHere...)

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
	opened := uint32(unix.O_WRONLY | unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC)
	if writes {
		opened = unix.O_TMPFILE &^ unix.O_DIRECTORY             // a file without a name
		done := statement(unix.BPF_RET, unix.SECCOMP_RET_ERRNO) // of errno 0
		for _, call := range undone {
			f = append(f, jump(unix.BPF_JEQ, call, 0, 1), done)
		}
	}
	f = append(f, jump(unix.BPF_JEQ, unix.SYS_OPENAT, 0, 4), statement(load, dataArgs+2*8), jump(unix.BPF_JSET, opened, 0, 1), no, allow)
	for _, call := range refusedOf(writes) {
		f = append(f, jump(unix.BPF_JEQ, call, 0, 1), no)
	}
	return append(f, allow)
}

// refusedOf are the calls that are refused to a child, whatever their arguments.
func refusedOf(writes bool) []uint32 {
	if writes {
		return slices.Concat(refused, refusedCompiling)
	}
	return slices.Concat(refused, refusedWriting)
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
