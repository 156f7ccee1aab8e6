package sandbox_test

import "golang.org/x/sys/unix"

// forks are older calls, of this machine only, that return 0 in a new process.
var forks = []uintptr{unix.SYS_FORK, unix.SYS_VFORK}
