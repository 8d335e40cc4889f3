package cache

import (
	"container/list"
	"io"
	"os"
	"sync/atomic"
)

// Handle pins one chunk: either bytes in memory or a range of a file. It is
// safe for concurrent use until Release.
type Handle struct {
	cache *Cache
	entry *entry // nil for bytes that are in no tier
	data  *shared
	file  *os.File
	size  int64
	freed atomic.Bool
}

// Len is the chunk's length in bytes.
func (h *Handle) Len() int64 {
	if h.file != nil {
		return h.size
	}
	return int64(len(h.data.data))
}

// Bytes returns the chunk if it is in memory, else nil. They must not be
// changed, nor used after Release.
func (h *Handle) Bytes() []byte {
	if h.file != nil {
		return nil
	}
	return h.data.data
}

// File returns the file that holds the chunk and where it begins there, in
// bytes, or nil if the chunk is in memory. The file must not be closed, its
// position not be used, and neither be used after Release.
func (h *Handle) File() (*os.File, int64) { return h.file, fileHeaderSize }

// ReadAt reads from the chunk wherever it is.
func (h *Handle) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= h.Len() {
		return 0, io.EOF
	}
	if h.file == nil {
		n := copy(p, h.data.data[off:])
		if n < len(p) {
			return n, io.EOF
		}
		return n, nil
	}
	want := min(int64(len(p)), h.size-off)
	n, err := h.file.ReadAt(p[:want], fileHeaderSize+off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// Release unpins the chunk. Further calls do nothing.
func (h *Handle) Release() {
	if h.freed.Swap(true) {
		return
	}
	c, e := h.cache, h.entry
	var closing []*os.File
	c.mu.Lock()
	if h.file == nil {
		if e != nil {
			e.memPins--
		}
		c.unrefLocked(h.data)
		c.evictMemoryLocked()
	} else if e.diskPins--; e.diskPins == 0 {
		closing = c.restLocked(e)
	}
	c.mu.Unlock()
	if err := closeAll(closing); err != nil {
		c.log.Warn("cache: close file", "chunk", e.key, "error", err)
	}
}

// restLocked is what becomes of an open file that nobody reads any more. It
// returns the files to close.
func (c *Cache) restLocked(e *entry) []*os.File {
	if e.gone || !e.onDisk || c.isClose {
		f := e.file
		e.file = nil
		return []*os.File{f}
	}
	c.idle.push(e)
	var closing []*os.File
	for c.idle.Len() > c.opts.IdleFiles {
		closing = append(closing, c.idle.pop())
	}
	return closing
}

// idleFiles are the entries with an open file and no reader, newest first.
type idleFiles struct {
	list.List
	elems map[*entry]*list.Element
}

func (l *idleFiles) push(e *entry) {
	if l.elems == nil {
		l.elems = make(map[*entry]*list.Element)
	}
	l.elems[e] = l.PushFront(e)
}

func (l *idleFiles) remove(e *entry) {
	if elem, ok := l.elems[e]; ok {
		l.Remove(elem)
		delete(l.elems, e)
	}
}

// pop takes out the file that was idle longest, for the caller to close.
func (l *idleFiles) pop() *os.File {
	e := l.Back().Value.(*entry)
	l.remove(e)
	f := e.file
	e.file = nil
	return f
}

func (l *idleFiles) drain() []*os.File {
	var files []*os.File
	for l.Len() > 0 {
		files = append(files, l.pop())
	}
	return files
}
