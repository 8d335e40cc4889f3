package cache

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugeBytes is the size of a large page on the machines that have them.
const hugeBytes = 2 << 20

// mapMemory returns n bytes of zeroes, n a multiple of blockBytes, and the mapping
// that they lie in, for unmapMemory.
//
// In large pages where they fit: a disk takes a chunk from 1000 scattered pages at a
// third of the speed, and each request for them costs CPU. The price is paid once for
// each buffer: a large page is cleared, and on a virtual machine taken from its host,
// all at once, which there was seen to take 5 ms. So buffers are kept as long
// as the cache's bound allows, rather than given back and taken anew; and the pages
// are taken here, by system calls, from which the runtime takes the processor back.
// At the first touch by a copy it could not, and nothing else would run there meanwhile.
func mapMemory(n int) (whole, b []byte, err error) {
	slack := 0
	if n >= hugeBytes {
		slack = hugeBytes // to begin on a large page
	}
	whole, err = unix.Mmap(-1, 0, n+slack, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, err
	}
	b = whole[:n:n]
	if slack > 0 {
		from := int(-uintptr(unsafe.Pointer(unsafe.SliceData(whole))) & (hugeBytes - 1))
		b = whole[from : from+n : from+n]
		_ = unix.Madvise(b[:n/hugeBytes*hugeBytes], unix.MADV_HUGEPAGE) // a hint: it works without
		for at := 0; at < n; at += hugeBytes {
			// Before Linux 5.14 they are taken at the first touch. One at a time, since
			// it holds up whoever maps memory.
			_ = unix.Madvise(b[at:min(at+hugeBytes, n)], unix.MADV_POPULATE_WRITE)
		}
	}
	return whole, b, nil
}

func unmapMemory(whole []byte) error { return unix.Munmap(whole) }
