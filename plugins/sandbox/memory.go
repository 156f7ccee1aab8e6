package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// reserve gives guests memory that grows where it is: all that one may come to
// have is reserved at first, and costs nothing until it is touched. On the Go
// heap, growing means copying, and a guest that asked for page after page had
// its worker copy for seconds, at hardly any fuel.
func reserve(most uint64) *reserved {
	if most == 0 {
		return &reserved{}
	}
	b, err := unix.Mmap(-1, 0, int(most), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		panic(fmt.Sprintf("reserve a guest's memory of %d bytes: %v", most, err)) // beyond this process's own limit: it is worth one login
	}
	return &reserved{b}
}

// reserved is the memory of one instance.
type reserved struct{ b []byte }

// Reallocate returns the first bytes of the reservation, nil when there are not
// so many.
func (r *reserved) Reallocate(size uint64) []byte {
	if size > uint64(len(r.b)) {
		return nil
	}
	return r.b[:size:size]
}

// Free gives the reservation back.
func (r *reserved) Free() {
	if r.b == nil {
		return
	}
	if err := unix.Munmap(r.b); err != nil {
		panic(fmt.Sprintf("give a guest's memory back: %v", err)) // it was ours, and is not any more
	}
	r.b = nil
}
