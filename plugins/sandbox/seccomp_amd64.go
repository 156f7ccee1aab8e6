package sandbox

import "golang.org/x/sys/unix"

// Older calls that only this machine has.
var (
	refusedHere = []uint32{
		unix.SYS_FORK, unix.SYS_VFORK, unix.SYS_MKNOD, unix.SYS_SYMLINK, unix.SYS_LINK, unix.SYS_CHOWN, unix.SYS_LCHOWN, unix.SYS_IOPL, unix.SYS_IOPERM,
		unix.SYS_OPEN, unix.SYS_CREAT, unix.SYS_UNLINK, unix.SYS_RMDIR, unix.SYS_CHMOD, unix.SYS_UTIME, unix.SYS_UTIMES, unix.SYS_FUTIMESAT,
	}
	refusedWritingHere = []uint32{unix.SYS_RENAME, unix.SYS_MKDIR}
	undoneHere         = []uint32{unix.SYS_RENAME}
)
