package cache

import "sync/atomic"

// Handle pins one chunk. It is safe for concurrent use until Release.
type Handle struct {
	cache *Cache
	entry *entry // nil for bytes that are in no tier
	data  *shared
	freed atomic.Bool
}

// Len is the chunk's length in bytes.
func (h *Handle) Len() int64 { return int64(len(h.data.data)) }

// Bytes returns the chunk. The bytes must not be changed, nor used after Release.
func (h *Handle) Bytes() []byte { return h.data.data }

// Release unpins the chunk. Further calls do nothing.
func (h *Handle) Release() {
	if h.freed.Swap(true) {
		return
	}
	c := h.cache
	c.mu.Lock()
	if h.entry != nil {
		h.entry.memPins--
	}
	c.unrefLocked(h.data)
	c.evictMemoryLocked()
	c.mu.Unlock()
}
