// Package cache keeps decoded chunks of remote objects: in memory, over files
// on a local NVMe disk.
//
// A chunk is reserved once and filled once, however many want it (Acquire): the
// first becomes the owner of its Fill, the others wait for it. The fill does
// not depend on the request that began it; a waiter that gives up does not
// disturb it. A Handle pins bytes until it is released; a chunk that is on disk
// alone is read into memory first, once for all who want it.
//
// Both tiers are bounded in bytes and evict by S3-FIFO, so that one scan of a
// terabyte passes through a tenth of the cache and leaves the rest alone. Where there
// is a disk, chunks that were read once take at most a quarter of a small memory, and
// all but 96 MiB of a larger one, be the rest free or not. What
// is pinned is not evicted; memory can therefore exceed its bound by what is
// pinned at the time, and its users bound that.
//
// What leaves memory goes to disk, written behind by two goroutines, of which one is
// at work while their bounded queue is short, and which Close stops; they are the
// package's only ones. Who fills the cache waits a little when the queue is long
// (Pace). The disk is a convenience: when it is full or failing, chunks are no longer
// written to it for a while, and nobody who reads sees an error. Files carry the
// checksum by which the bytes were verified at fill; those found at start are verified
// at first use and dropped if damaged (docs/format/cache-file.md).
//
// Disk and memory exchange whole chunks past the page cache, from and to the same
// buffers (Buffer) that chunks are received into and sent from: through the page
// cache each chunk would cost a copy, and room that the log has better use for.
//
// INVARIANT: the bytes of a chunk never change once they are in the cache; an
// entry is in the table exactly while it is being filled, in memory, queued for
// writing, or on disk.
//
// Lock order: Cache.mapping, which is held while memory is taken from the system, then
// Cache.mu, which is never held across I/O.
package cache
