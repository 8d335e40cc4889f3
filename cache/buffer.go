package cache

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
	if cap(b) == c.opts.BufferBytes && len(c.free) < c.opts.FreeBuffers && !c.isClose {
		c.free = append(c.free, b[:cap(b)])
	}
}

// Buffer returns n bytes of any content, to be filled and given to Complete, or
// back to Recycle, or forgotten.
func (c *Cache) Buffer(n int) []byte {
	size := c.opts.BufferBytes
	if n > size || n < size/4*3 {
		return make([]byte, n) // an unusual chunk
	}
	var b []byte
	c.mu.Lock()
	if i := len(c.free) - 1; i >= 0 {
		b, c.free[i] = c.free[i], nil
		c.free = c.free[:i]
	}
	c.mu.Unlock()
	if b == nil {
		b = make([]byte, size)
	}
	return b[:n]
}

// Recycle takes back what Buffer gave and nobody uses any more.
func (c *Cache) Recycle(b []byte) {
	c.mu.Lock()
	c.recycleLocked(b)
	c.mu.Unlock()
}
