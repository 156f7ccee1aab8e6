package sandbox

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reserved is the memory of one instance. It grows where it is: all that a guest
// may come to have is reserved at first, and costs nothing until it is touched.
// On the Go heap, growing means copying, and a guest that asked for page after
// page had its worker copy for seconds, at hardly any fuel.
//
// An instance that is kept between calls has reserved no more than it uses, or a
// few would take all the addresses that a worker may have. If it grows then, it
// moves, once.
type reserved struct {
	b    []byte
	most uint64
}

// reserve makes room for so many bytes at first, and for most if it comes to
// that.
func reserve(first, most uint64) *reserved {
	return &reserved{b: mapped(min(first, most)), most: most}
}

// mapped is so many bytes of zeros outside the Go heap.
func mapped(size uint64) []byte {
	if size == 0 {
		return nil
	}
	at, err := unix.MmapPtr(-1, 0, nil, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		panic(fmt.Sprintf("reserve a guest's memory of %d bytes: %v", size, err)) // beyond this process's own limit: it is worth one login
	}
	return unsafe.Slice((*byte)(at), size)
}

// unmap gives bytes back that were mapped.
func unmap(b []byte) {
	if len(b) == 0 {
		return
	}
	if err := unix.MunmapPtr(unsafe.Pointer(&b[0]), uintptr(len(b))); err != nil {
		panic(fmt.Sprintf("give memory back: %v", err)) // it was ours, and is not any more
	}
}

// Reallocate returns the first bytes of the memory, nil when there cannot be so
// many.
func (r *reserved) Reallocate(size uint64) []byte {
	if size > r.most {
		return nil
	}
	if size > uint64(len(r.b)) {
		larger := mapped(r.most)
		copy(larger, r.b)
		unmap(r.b)
		r.b = larger
	}
	return r.b[:size:size]
}

// shrink gives back what is reserved beyond size.
func (r *reserved) shrink(size int) {
	unmap(r.b[size:])
	r.b = r.b[:size:size]
}

// Free gives all of it back.
func (r *reserved) Free() {
	unmap(r.b)
	r.b = nil
}
