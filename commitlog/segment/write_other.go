//go:build !linux

package segment

import (
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/firnlog/firn/record"
)

func writeAt(f vfs.File, batches []record.Batch, pos int64) error { return writeEach(f, batches, pos) }

func truncate(f vfs.File, size int64) error {
	if t, ok := f.(interface{ Truncate(size int64) error }); ok {
		return t.Truncate(size)
	}
	return errNoTruncate
}

// DropCache does nothing: this system has no way to say it.
func (f *File) DropCache(int64) error { return nil }
