// Package remote reads what tiering has moved to the object store: from a
// partition's offset or time to the entry, the object, its chunks, and whole
// record batches.
//
// Records and aborted transactions of one Result come from one object. Chunks
// come through package cache: verified, decompressed, pinned until the Result is
// released, and handed out as bytes. A fetch of
// chunks does not belong to the request that asked for them: it goes on when the
// client gives up, and its next request finds them.
//
// A reader that goes forward, named by Request.Stream, is read ahead of, twice
// as far each time it has to wait all the same, up to a bound, and over the ends of
// objects; a seek ends that. Its chunks come with one long ranged GET, whose body is
// read as the reader goes on: a request costs the store as much CPU as a chunk does.
// Several GETs run side by side.
//
// Memory is bounded by five budgets: bytes being fetched, bytes pinned by
// Results, bytes read ahead, bytes that were and are being read, and footers. Only the first chunk
// of a request with AtLeastOne waits for budget; whatever else finds none makes
// the answer shorter or the read-ahead smaller.
//
// Errors are of three classes. ErrNotFound: the bucket does not have the offset,
// by the metadata. ErrUnavailable: not now; the client should ask again, and it
// says nothing about offsets. object.ErrCorrupt: a chunk failed its checks twice,
// read afresh from the store; it is counted, logged and never served.
//
// Goroutines: one per GET under way, per footer being opened, and per stream
// while it extends its read-ahead; all end with Close.
//
// Lock order: Reader.mu, then package cache's own. Neither is held across I/O.
package remote
