package segment

import (
	"fmt"
	"io"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"github.com/firnlog/firn/record"
)

// maxVectors is IOV_MAX, the most pieces that one pwritev takes.
const maxVectors = 1024

var vectors = sync.Pool{New: func() any { v := make([][]byte, 0, 16); return &v }}

// writeAt writes the batches one behind the other from pos on, gathered into
// one system call where the file has a descriptor.
//
// REQUIRES: the caller keeps f open.
func writeAt(f vfs.File, batches []record.Batch, pos int64) error {
	fd := f.Fd()
	if fd == vfs.InvalidFd || len(batches) == 1 {
		return writeEach(f, batches, pos)
	}
	pooled := vectors.Get().(*[][]byte)
	v := (*pooled)[:0]
	for i := range batches {
		v = append(v, batches[i].Raw)
	}
	err := writeVectors(int(fd), v, pos)
	clear(v) // the pool must not hold request buffers
	*pooled = v[:0]
	vectors.Put(pooled)
	return err
}

// writeVectors writes all of v, which it eats up.
func writeVectors(fd int, v [][]byte, pos int64) error {
	for len(v) > 0 {
		n, err := unix.Pwritev(fd, v[:min(len(v), maxVectors)], pos)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("segment: pwritev: %w", err)
		}
		if n <= 0 {
			return fmt.Errorf("segment: pwritev: %w", io.ErrShortWrite)
		}
		pos += int64(n)
		for len(v) > 0 && n >= len(v[0]) {
			n -= len(v[0])
			v = v[1:]
		}
		if n > 0 {
			v[0] = v[0][n:]
		}
	}
	return nil
}

func truncate(f vfs.File, size int64) error {
	fd := f.Fd()
	if fd == vfs.InvalidFd {
		return errNoTruncate
	}
	return unix.Ftruncate(int(fd), size)
}

// DropCache asks the kernel to forget the clean pages of f from pos on, so
// that what is read next comes from the disk.
//
// REQUIRES: a reference is held.
func (f *File) DropCache(pos int64) error {
	fd := f.handle().Fd()
	if fd == vfs.InvalidFd {
		return nil
	}
	return unix.Fadvise(int(fd), pos, 0, unix.FADV_DONTNEED)
}
