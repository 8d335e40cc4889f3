package cache

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// openDirect is the flag that lets reads and writes go past the page cache.
const openDirect = unix.O_DIRECT

// refused reports whether a file system has refused openDirect.
func refused(err error) bool { return errors.Is(err, unix.EINVAL) }

// startWriteback hands a file that was written through the page cache to the
// disk and waits until it is there, so that at most one file of the cache is
// dirty at a time: dirty pages without bound would make the kernel stall everyone
// who writes, the log's fsync first. It is no fsync: it neither flushes the disk's
// cache nor writes metadata.
func startWriteback(f *os.File) error {
	err := unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ESPIPE) {
		return nil // this file system cannot; the kernel writes when it likes
	}
	return err
}
