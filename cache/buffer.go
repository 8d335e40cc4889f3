package cache

import (
	"errors"
	"unsafe"
)

// blockBytes is what O_DIRECT wants lengths, positions and addresses to be
// multiples of, on any disk there is.
const blockBytes = 4096

// blocks rounds a length in bytes up to whole blocks.
func blocks(n int64) int64 { return (n + blockBytes - 1) &^ (blockBytes - 1) }

// shared is a chunk's bytes with a count of who uses them: the memory tier, the
// queue of the writer, fills that somebody still waits for, and handles. Guarded
// by Cache.mu.
//
// Counting serves to use the buffers again. Left to the garbage collector, a
// full cache would need twice its size, and each chunk a zeroed buffer.
type shared struct {
	data []byte
	refs int
}

func (c *Cache) unrefLocked(b *shared) {
	b.refs--
	if b.refs < 0 {
		panic("cache: bytes were released twice")
	}
	if b.refs == 0 {
		c.recycleLocked(b.data)
		b.data = nil
	}
}

func (c *Cache) recycleLocked(b []byte) {
	if c.opts.Poison {
		b = b[:cap(b)]
		for i := range b {
			b[i] = 0xdb
		}
	}
	if err := c.pool.put(b); err != nil {
		panic("cache: unmap a buffer: " + err.Error()) // a mapping that is not ours
	}
}

// Buffer returns n bytes of any content, to be filled and given to Complete, or
// back to Recycle. Those that are neither are lost until the process ends.
func (c *Cache) Buffer(n int) []byte {
	c.mu.Lock()
	b := c.pool.get(n)
	c.mu.Unlock()
	return b[:n]
}

// room is a buffer with what follows it, which makes it a file's image.
func room(b []byte) []byte { return b[:fileSize(int64(len(b)))] }

// Recycle takes back what Buffer gave and nobody uses any more.
func (c *Cache) Recycle(b []byte) {
	c.mu.Lock()
	c.recycleLocked(b)
	c.mu.Unlock()
}

// pool makes the buffers. Those for chunks of the usual length are mappings of
// our own in large pages, which are used again and which the garbage collector
// neither scans nor counts: a fresh one in pages of 4 KiB costs as much in page
// faults as receiving the chunk does, and O_DIRECT takes them as they are.
// Guarded by Cache.mu.
type pool struct {
	size   int // of the usual chunk, bytes
	keep   int // unused ones kept, 0 once the cache is closed
	free   [][]byte
	mapped map[*byte][]byte // by address: the mapping that a buffer lies in
}

// usual reports whether n bytes take a buffer of the usual length.
func (p *pool) usual(n int) bool { return n <= p.size && n >= p.size/4*3 }

// get returns n bytes and the room for a file's image.
func (p *pool) get(n int) []byte {
	if !p.usual(n) {
		return make([]byte, fileSize(int64(n)))
	}
	if i := len(p.free) - 1; i >= 0 {
		b := p.free[i]
		p.free[i] = nil
		p.free = p.free[:i]
		return b
	}
	whole, b, err := mapMemory(int(fileSize(int64(p.size))))
	if err != nil { // no more mappings: vm.max_map_count
		return make([]byte, fileSize(int64(n)))
	}
	p.mapped[unsafe.SliceData(b)] = whole
	return b
}

// put takes a buffer back.
func (p *pool) put(b []byte) error {
	at := unsafe.SliceData(b)
	whole := p.mapped[at]
	if whole == nil {
		return nil // the garbage collector's
	}
	if len(p.free) < p.keep {
		p.free = append(p.free, b[:cap(b)])
		return nil
	}
	delete(p.mapped, at)
	return unmapMemory(whole)
}

// close gives back what is unused, and from now on what becomes so.
func (p *pool) close() error {
	p.keep = 0
	var err error
	for _, b := range p.free {
		err = errors.Join(err, p.put(b))
	}
	p.free = nil
	return err
}
