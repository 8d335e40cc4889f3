package cache

import "golang.org/x/sys/unix"

// mapMemory returns n bytes of zeroes, and the mapping that they lie in, for
// unmapMemory. n is a multiple of blockBytes.
//
// The pages are there from the start, which costs a third of meeting them one by
// one. They are small ones: large pages are cleared, and on a virtual machine taken
// from its host, whenever the kernel has none that were used before.
func mapMemory(n int) (whole, b []byte, err error) {
	whole, err = unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
	return whole, whole, err
}

func unmapMemory(whole []byte) error { return unix.Munmap(whole) }
