package cache

import "time"

// Stats are counters since Open and present sizes. Sizes are bytes.
type Stats struct {
	MemoryHits, DiskHits uint64
	Misses               uint64 // reservations
	Joined               uint64 // found somebody else's fill under way
	Fills, FillErrors    uint64
	FillBytes            int64

	MemoryEvictions, DiskEvictions uint64

	DiskWrites      uint64
	DiskWriteBytes  int64
	DiskWriteErrors uint64
	DiskSkipped     uint64 // chunks not written: queue full, or disk off
	DiskOff         bool   // nothing is written at present
	CorruptFiles    uint64 // dropped at start or at first use
	Adopted         uint64 // files taken over at start

	MemoryBytes, DiskBytes, QueuedBytes int64
	MemoryChunks, DiskChunks            int
	Mapped                              int // buffers, used or not
}

// Stats returns the present figures. It is cheap: no walk over the entries.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.MemoryBytes, s.MemoryChunks = c.mem.bytes(), c.mem.len()
	s.DiskBytes, s.DiskChunks = c.disk.bytes(), c.disk.len()
	s.QueuedBytes = c.queued
	s.Mapped = len(c.pool.mapped)
	s.DiskOff = time.Now().Before(c.offTill)
	return s
}
