package fsm

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// PebbleLog is the pebble.Logger of a database of the metadata, and what its events
// are judged by. Pebble's chatter is debug.
//
// Where the disk below Pebble fails in a write, Pebble calls Fatalf with its locks held
// and its pipeline broken: nobody can close it any more, and a node that went on would
// only be half there. So the process ends at once, as by kill -9, with one line that
// says why; the next start finds what was synced.
type PebbleLog struct {
	Logger *slog.Logger
	// Dir is the database's directory, for people.
	Dir string
}

// Infof implements pebble.Logger.
func (p PebbleLog) Infof(format string, args ...any) { p.Logger.Debug(fmt.Sprintf(format, args...)) }

// Errorf implements pebble.Logger.
func (p PebbleLog) Errorf(format string, args ...any) { p.Logger.Error(fmt.Sprintf(format, args...)) }

// Fatalf implements pebble.Logger. It does not return.
func (p PebbleLog) Fatalf(format string, args ...any) {
	p.Logger.Error("the metadata's disk failed, so the process ends: look at the disk, then start it again", "dir", p.Dir, "err", fmt.Sprintf(format, args...))
	os.Exit(1)
}

// BackgroundError is for pebble.EventListener: of a flush or a compaction that failed,
// which Pebble tries again for ever. That is right for a full disk, not for a broken one.
func (p PebbleLog) BackgroundError(err error) {
	if diskFailed(err) {
		p.Fatalf("background work: %v", err)
	}
	p.Logger.Error("metadata database: background work failed, and is tried again", "dir", p.Dir, "err", err)
}

// FS is the file system below a database: an operation that finds the device broken
// ends the process, and so does a write-ahead log that cannot be begun or written, for
// whatever reason. Pebble has a panic for the first, in which a lock is unlocked twice,
// and one for a write after the second that nobody waits for.
func (p PebbleLog) FS(below vfs.FS) vfs.FS { return watchedFS{below, p} }

type watchedFS struct {
	vfs.FS
	log PebbleLog
}

// Unwrap implements vfs.FS.
func (w watchedFS) Unwrap() vfs.FS { return w.FS }

func (w watchedFS) file(f vfs.File, path string, err error) (vfs.File, error) {
	if diskFailed(err) || err != nil && isLog(path) && !errors.Is(err, fs.ErrNotExist) {
		w.log.Fatalf("open %s: %v", path, err)
	}
	if err != nil {
		return nil, err
	}
	return watchedFile{f, path, w.log}, nil
}

// Create implements vfs.FS.
func (w watchedFS) Create(path string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := w.FS.Create(path, c)
	return w.file(f, path, err)
}

// ReuseForWrite implements vfs.FS.
func (w watchedFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := w.FS.ReuseForWrite(from, to, c)
	return w.file(f, to, err)
}

// OpenDir implements vfs.FS.
func (w watchedFS) OpenDir(path string) (vfs.File, error) {
	f, err := w.FS.OpenDir(path)
	return w.file(f, path, err)
}

// Rename implements vfs.FS.
func (w watchedFS) Rename(from, to string) error {
	err := w.FS.Rename(from, to)
	if diskFailed(err) {
		w.log.Fatalf("rename to %s: %v", to, err)
	}
	return err
}

type watchedFile struct {
	vfs.File
	path string
	log  PebbleLog
}

func (f watchedFile) check(err error) {
	if diskFailed(err) || err != nil && isLog(f.path) {
		f.log.Fatalf("write %s: %v", f.path, err)
	}
}

// Write implements vfs.File.
func (f watchedFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.check(err)
	return n, err
}

// WriteAt implements vfs.File.
func (f watchedFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	f.check(err)
	return n, err
}

// Sync implements vfs.File.
func (f watchedFile) Sync() error {
	err := f.File.Sync()
	f.check(err)
	return err
}

// SyncData implements vfs.File.
func (f watchedFile) SyncData() error {
	err := f.File.SyncData()
	f.check(err)
	return err
}

// SyncTo implements vfs.File.
func (f watchedFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	f.check(err)
	return full, err
}

// isLog says whether the path is a write-ahead log's.
func isLog(path string) bool { return strings.HasSuffix(path, ".log") }

// diskFailed says whether the device or its file system gave up.
func diskFailed(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && slices.Contains([]syscall.Errno{syscall.EIO, syscall.EROFS, syscall.ENXIO, syscall.ENODEV, syscall.ESTALE}, errno)
}
