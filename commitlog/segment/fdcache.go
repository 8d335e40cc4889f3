package segment

import (
	"container/list"
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// DefaultFDs bounds the descriptors that an FDCache keeps open.
const DefaultFDs = 4096

// ErrRemoved says that the file was deleted or replaced after its segment was
// looked up. The caller takes a newer snapshot of the log and tries again.
var ErrRemoved = errors.New("segment: file was removed")

// FDCache is a least-recently-used set of open descriptors that the logs of a
// data directory share. Files in use (acquired) are never closed; the bound is
// exceeded rather than a reader refused.
type FDCache struct {
	max int

	mu   sync.Mutex
	open int       // files with a descriptor
	idle list.List // of *File with a descriptor and no reference, most recent first
}

// NewFDCache makes a cache of at most limit open descriptors (DefaultFDs when
// limit <= 0).
func NewFDCache(limit int) *FDCache {
	if limit <= 0 {
		limit = DefaultFDs
	}
	return &FDCache{max: limit}
}

// Open counts the descriptors open now.
func (c *FDCache) Open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open
}

// File is a file of a log, opened on demand. A reference from Acquire keeps
// the descriptor open, also after the file was unlinked or replaced, until
// Release.
type File struct {
	cache *FDCache
	fs    vfs.FS
	write bool

	opening sync.Mutex // single flight for opening; held across open(2), never with cache.mu

	// Guarded by cache.mu:
	path    string
	f       vfs.File
	refs    int
	removed bool
	// replaced are descriptors of earlier files of that path, see reopen.
	replaced []vfs.File
	elem     *list.Element // place in cache.idle, nil while referenced or closed
}

// NewFile describes the file at path. Nothing is opened. With write the file
// is opened for reading and writing.
func NewFile(c *FDCache, fs vfs.FS, path string, write bool) *File {
	return &File{cache: c, fs: fs, path: path, write: write}
}

// adopt takes over an open file, which starts with so many references.
func (f *File) adopt(open vfs.File, refs int) {
	c := f.cache
	c.mu.Lock()
	f.f = open
	c.open++
	if f.refs = refs; refs == 0 {
		f.elem = c.idle.PushFront(f)
	}
	victims := c.evictLocked()
	c.mu.Unlock()
	closeAll(victims)
}

// Path is where the file is.
func (f *File) Path() string {
	f.cache.mu.Lock()
	defer f.cache.mu.Unlock()
	return f.path
}

func (f *File) setPath(path string) {
	f.cache.mu.Lock()
	f.path = path
	f.cache.mu.Unlock()
}

// Acquire opens the file if needed and keeps it open until Release. It answers
// ErrRemoved once Detach was called.
func (f *File) Acquire() error {
	c := f.cache
	c.mu.Lock()
	if f.removed {
		c.mu.Unlock()
		return ErrRemoved
	}
	f.refs++
	if f.f != nil {
		if f.elem != nil {
			c.idle.Remove(f.elem)
			f.elem = nil
		}
		c.mu.Unlock()
		return nil
	}
	c.mu.Unlock()
	if err := f.openFile(); err != nil {
		c.mu.Lock()
		f.refs--
		removed, path := f.removed, f.path
		c.mu.Unlock()
		if removed {
			return ErrRemoved
		}
		return fmt.Errorf("segment: open %s: %w", path, err)
	}
	return nil
}

func (f *File) openFile() error {
	f.opening.Lock()
	defer f.opening.Unlock()
	c := f.cache
	c.mu.Lock()
	done, removed, path := f.f != nil, f.removed, f.path
	c.mu.Unlock()
	if done {
		return nil
	}
	if removed {
		return ErrRemoved
	}
	open, err := c.openOver(func() (vfs.File, error) {
		if f.write {
			return f.fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
		}
		return f.fs.Open(path)
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	f.f = open
	c.open++
	victims := c.evictLocked()
	c.mu.Unlock()
	closeAll(victims)
	return nil
}

// Release gives one reference back.
func (f *File) Release() {
	c := f.cache
	c.mu.Lock()
	f.refs--
	if f.refs < 0 {
		c.mu.Unlock()
		panic("segment: File released more often than acquired: " + f.path)
	}
	var victims []vfs.File
	if f.refs == 0 {
		victims, f.replaced = f.replaced, nil
	}
	if f.refs == 0 && f.f != nil {
		if f.removed {
			victims = append(victims, f.f)
			f.f = nil
			c.open--
		} else {
			f.elem = c.idle.PushFront(f)
			victims = append(victims, c.evictLocked()...)
		}
	}
	c.mu.Unlock()
	closeAll(victims)
}

// Detach makes the file unobtainable: later calls of Acquire fail with
// ErrRemoved, and the descriptor closes with the last reference. It leaves the
// file on disk as it is. Once it has returned nobody opens the path any more,
// so that it may be unlinked or taken by another file (opening for writing
// would make it anew).
func (f *File) Detach() {
	c := f.cache
	c.mu.Lock()
	f.removed = true
	var victims []vfs.File
	if f.refs == 0 && f.f != nil {
		if f.elem != nil {
			c.idle.Remove(f.elem)
			f.elem = nil
		}
		victims = append(victims, f.f)
		f.f = nil
		c.open--
	}
	c.mu.Unlock()
	closeAll(victims)
	f.opening.Lock()   // wait for an open that is under way
	f.opening.Unlock() //nolint:staticcheck // nothing to do but to wait
}

// evictLocked takes idle descriptors out of the cache until it is within its
// bound. The caller closes them without the lock.
func (c *FDCache) evictLocked() []vfs.File { return c.takeLocked(c.max) }

// takeLocked is evictLocked down to a bound.
func (c *FDCache) takeLocked(bound int) []vfs.File {
	var victims []vfs.File
	for c.open > bound {
		last := c.idle.Back()
		if last == nil {
			break
		}
		f := last.Value.(*File)
		c.idle.Remove(last)
		f.elem = nil
		victims = append(victims, f.f)
		f.f = nil
		c.open--
	}
	return victims
}

// closeAll closes descriptors that hold nothing unsynced: a file with unsynced
// data is referenced by its log until the flusher has synced it. So an error
// of close(2) says nothing that matters.
func closeAll(files []vfs.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// openOver opens a file, if need be in the place of idle ones: others than logs may
// have taken the descriptors that the cache counts on.
func (c *FDCache) openOver(open func() (vfs.File, error)) (vfs.File, error) {
	f, err := open()
	if err == nil || !IsNoFiles(err) || !c.GiveWay() {
		return f, err
	}
	return open()
}

// GiveWay closes a few idle descriptors, for others that found none. It answers
// whether there were any.
func (c *FDCache) GiveWay() bool {
	const spare = 8
	c.mu.Lock()
	victims := c.takeLocked(max(c.open-spare, 0))
	c.mu.Unlock()
	closeAll(victims)
	return len(victims) > 0
}

// handle is the open file.
//
// REQUIRES: a reference is held.
func (f *File) handle() vfs.File {
	c := f.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	return f.f
}

// Fd is the descriptor, for sendfile, or vfs.InvalidFd where there is none.
// It stays valid until Release.
//
// REQUIRES: a reference is held.
func (f *File) Fd() uintptr { return f.handle().Fd() }

// ReadAt reads like io.ReaderAt.
//
// REQUIRES: a reference is held.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.handle().ReadAt(p, off) }
