package segment

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/firnlog/firn/record"
)

// TempSuffix ends the names of files that are being written; a restart removes
// them.
const TempSuffix = ".tmp"

// ErrSync: a sync failed. The kernel may have forgotten what is not on disk, so
// nothing may count on it, whatever the cause: a want of space, too.
var ErrSync = errors.New("segment: sync failed")

var errNoTruncate = errors.New("segment: file cannot be truncated in place")

// IsNoSpace says whether err means that the disk, or the quota, is full, and nothing
// is lost by it: not so ErrSync.
func IsNoSpace(err error) bool {
	return !errors.Is(err, ErrSync) && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT))
}

// IsNoFiles says whether err means that the process, or the machine, has as many
// files open as it may: nothing was asked of the disk.
func IsNoFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// IsShort says whether err means that something is used up, not that it failed:
// IsNoSpace or IsNoFiles.
func IsShort(err error) bool { return IsNoSpace(err) || IsNoFiles(err) }

// IsNotExist says whether err means that a file is missing.
func IsNotExist(err error) bool { return oserror.IsNotExist(err) || errors.Is(err, os.ErrNotExist) }

// RemoveFile unlinks a file; one that is gone already is no error.
func RemoveFile(fs vfs.FS, path string) error {
	if err := fs.Remove(path); err != nil && !IsNotExist(err) {
		return fmt.Errorf("segment: remove %s: %w", path, err)
	}
	return nil
}

// SyncDir makes the entries of a directory durable. Errors: ErrSync, unless the
// directory cannot be opened.
func SyncDir(fs vfs.FS, path string) error {
	d, err := fs.OpenDir(path)
	if err != nil {
		return fmt.Errorf("segment: open directory %s: %w", path, err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("%w: directory %s: %w", ErrSync, path, err)
	}
	return nil
}

// WriteFile puts data in the place of a file at once: a reader, and a crash of
// the process, sees the old or the new. With sync the data is durable before
// it takes the place; the caller syncs the directory where the order matters.
// The file system may use data as scratch space (vfs.File.Write).
func WriteFile(fs vfs.FS, path string, data []byte, sync bool) error {
	tmp := path + TempSuffix
	f, err := fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("segment: create %s: %w", tmp, err)
	}
	if _, err = f.Write(data); err == nil && sync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fs.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("segment: write %s: %w", path, err), RemoveFile(fs, tmp))
	}
	return nil
}

// ReadFile reads a file that is at most limit bytes long.
func ReadFile(fs vfs.FS, path string, limit int64) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, fmt.Errorf("segment: open %s: %w", path, err)
	}
	defer f.Close()
	return readWhole(f, path, limit)
}

type statReaderAt interface {
	io.ReaderAt
	Stat() (vfs.FileInfo, error)
}

func readWhole(f statReaderAt, path string, limit int64) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("segment: stat %s: %w", path, err)
	}
	if st.Size() > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes, expected at most %d", ErrCorrupt, path, st.Size(), limit)
	}
	b := make([]byte, st.Size())
	if n, err := f.ReadAt(b, 0); err != nil && n < len(b) {
		return nil, fmt.Errorf("segment: read %s: %w", path, noEOF(err))
	}
	return b, nil
}

// TruncateFile cuts a file that nobody writes to and syncs it. Where the file
// system cannot truncate (in memory), a synced copy takes its place.
func TruncateFile(fs vfs.FS, path string, size int64) error {
	f, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("segment: open %s: %w", path, err)
	}
	err = truncate(f, size)
	if err == nil {
		err = f.Sync()
	}
	if errors.Is(err, errNoTruncate) {
		err = copyPrefix(fs, f, path, size)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("segment: truncate %s to %d: %w", path, size, err)
	}
	return nil
}

func copyPrefix(fs vfs.FS, f vfs.File, path string, size int64) error {
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); err != nil && n < len(b) {
		return noEOF(err)
	}
	if err := WriteFile(fs, path, b, true); err != nil {
		return err
	}
	// What is written later goes to the new file: its name must last.
	return SyncDir(fs, fs.PathDir(path))
}

// reopen replaces the descriptor of a referenced file after the file at its
// path was replaced.
//
// The old one closes with the last reference, for others may be using it.
//
// REQUIRES: a reference is held.
func (f *File) reopen() error {
	open, err := f.fs.OpenReadWrite(f.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("segment: open %s: %w", f.path, err)
	}
	f.cache.mu.Lock()
	f.replaced = append(f.replaced, f.f)
	f.f = open
	f.cache.mu.Unlock()
	return nil
}

// writeEach writes the batches one after the other.
func writeEach(f io.WriterAt, batches []record.Batch, pos int64) error {
	for i := range batches {
		n, err := f.WriteAt(batches[i].Raw, pos)
		if err != nil {
			return err
		}
		pos += int64(n)
	}
	return nil
}
