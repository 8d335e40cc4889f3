// Package segment holds one segment of a log: a file of plain Kafka record
// batches named by its base offset, and the sparse indexes beside it.
//
//	00000000000000000042.log        batches, exactly as Kafka stores them
//	00000000000000000042.index      offset → position     (docs/format/offset-index.md)
//	00000000000000000042.timeindex  timestamp → position  (docs/format/time-index.md)
//
// The active segment keeps its index in memory. Persist writes it beside the
// log: when the segment is sealed, and now and then before, so that a restart
// need not read the whole segment. A sealed segment is looked up by pread.
//
// The package runs no goroutine. A Segment has one writer (Write, Commit);
// readers take a view of size and index under a short lock and read the files
// without one. Descriptors come from a shared FDCache; an acquired File stays
// readable after its file was unlinked.
//
// Always true:
//   - published batches are whole, and their offsets strictly increase;
//   - an index entry names the start of a batch below the published size;
//   - indexes are derived: one that is missing, damaged or does not describe
//     the log file beside it is rebuilt from the log, never believed.
//
// Crash points, and what survives them:
//   - in Write: the tail is torn. Scan stops at the first batch that is cut
//     off, fails its checksum or goes back in offsets; the log cuts there.
//   - in Persist: files are written beside and renamed, so either the old or
//     the new one is there. After power loss an index that was not synced may
//     hold anything: checksum and log size decide whether it is believed.
package segment
