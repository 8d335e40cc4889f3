package cache

import "unsafe"

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
	if b = c.pool.put(b); b == nil {
		return
	}
	if c.isClose { // and the writer has gone
		mustUnmap(b)
		return
	}
	c.unused = append(c.unused, b)
	c.wakeWriter()
}

// unmapUnused gives memory back, which takes too long under the lock.
func (c *Cache) unmapUnused() {
	c.mu.Lock()
	unused := c.unused
	c.unused = nil
	c.mu.Unlock()
	for _, b := range unused {
		mustUnmap(b)
	}
}

func mustUnmap(b []byte) {
	if err := unmapMemory(b); err != nil {
		panic("cache: unmap a buffer: " + err.Error()) // it was not mapped
	}
}

// Buffer returns n bytes of any content, to be filled and given to Complete, or
// back to Recycle. Those that are neither are lost until the process ends.
func (c *Cache) Buffer(n int) []byte {
	var b []byte
	if c.pool.usual(n) {
		if b = c.unusedBuffer(); b == nil {
			b = c.mapBuffer()
		}
	}
	if b == nil {
		b = make([]byte, fileSize(int64(n)))
	}
	return b[:n]
}

// unusedBuffer takes a buffer of the usual length from the pool; nil if there is none.
func (c *Cache) unusedBuffer() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pool.get()
}

// mapBuffer maps a buffer of the usual length, or takes one that became free while
// others were being mapped. It is nil when there are no more mappings
// (vm.max_map_count).
func (c *Cache) mapBuffer() []byte {
	c.mapping.Lock()
	defer c.mapping.Unlock()
	if b := c.unusedBuffer(); b != nil {
		return b
	}
	whole, b, err := mapMemory(int(fileSize(int64(c.pool.size))))
	if err != nil {
		return nil
	}
	c.mu.Lock()
	c.pool.mapped[unsafe.SliceData(b)] = whole
	c.mu.Unlock()
	return b
}

// room is a buffer with what follows it, which makes it a file's image.
func room(b []byte) []byte { return b[:fileSize(int64(len(b)))] }

// Recycle takes back what Buffer gave and nobody uses any more.
func (c *Cache) Recycle(b []byte) {
	c.mu.Lock()
	c.recycleLocked(b)
	c.mu.Unlock()
}

// pool keeps the buffers for chunks of the usual length: mappings of our own, which
// are used again, and which the garbage collector neither counts nor scans. Guarded
// by Cache.mu.
type pool struct {
	size   int              // of the usual chunk, bytes; constant
	keep   int              // none is given back while there are no more than these; 0 once the cache is closed
	free   [][]byte         // last in, first out: what was used last is still in the processor's cache
	mapped map[*byte][]byte // used or free, by address: the mapping that a buffer lies in
}

// usual reports whether n bytes take a buffer of the usual length.
func (p *pool) usual(n int) bool { return n <= p.size && n >= p.size/4*3 }

// get returns an unused buffer, or nil.
func (p *pool) get() []byte {
	i := len(p.free) - 1
	if i < 0 {
		return nil
	}
	b := p.free[i]
	p.free[i] = nil
	p.free = p.free[:i]
	return b
}

// put takes a buffer back. The result is to be unmapped, if not nil.
func (p *pool) put(b []byte) (unused []byte) {
	at := unsafe.SliceData(b)
	whole := p.mapped[at]
	if whole == nil {
		return nil // the garbage collector's
	}
	if len(p.mapped) <= p.keep {
		p.free = append(p.free, b[:cap(b)])
		return nil
	}
	delete(p.mapped, at)
	return whole
}

// close gives back what is unused, and from now on what becomes so.
func (p *pool) close() {
	free := p.free
	p.free, p.keep = nil, 0
	for _, b := range free {
		mustUnmap(p.put(b))
	}
}
