// Package commitlog is one replica's log on the local disk: segments of plain
// Kafka record batches, appended by one writer, synced in groups, read as file
// ranges for sendfile, and exact about what survives which kind of crash.
//
// # What it owns
//
// A Log owns the directory of one partition (docs/format/data-directory.md):
// segments and their indexes (package segment), the producer state and aborted
// transactions (package producer), the leader epochs, and the recovery
// checkpoint, from which a restart reads no more than what was appended since.
// A Dir owns the data directory around the logs: its lock, its identity, and
// how its last run ended.
//
// # Goroutines
//
// A Log has none. The Flusher of the data directory runs at most
// FlusherOptions.Workers, only while something is dirty, and a timer while
// something is above its checkpoint. Close of Log and Flusher wait for them.
//
// # Who may call what
//
// Append, CheckProducer, TruncateTo and ResetTo belong to the partition's one
// writer; everything else may be called by anyone, at any time. Readers take
// immutable snapshots: the list of segments, and each segment's published
// size. They never wait for an append, a flush, a trim or a compaction.
//
// # Always true
//
//   - Start <= FlushedEnd <= End, and offsets strictly increase; gaps come only
//     from compaction, here or on the leader that a follower copies.
//   - What is below FlushedEnd is durable, with the names that lead to it.
//     FlushedEnd goes back only by truncation.
//   - A segment begins at the offset where the one before it ended, so a file
//     that a crash left behind is recognised by its name.
//   - A full disk changes nothing: ErrNoSpace, and the log goes on. Neither does
//     running out of descriptors: ErrNoFiles, and flushes wait for some. Any other
//     failed write or sync is final for the log (ErrFailed): after a failed
//     fsync the kernel has forgotten which pages are not on disk, so asking
//     again would only get a lie.
//
// # Crashes
//
// After kill -9 the page cache is whole: nothing that was appended is lost. A
// recovered tail is checked by CRC and synced before it counts. After power
// loss what is below FlushedEnd is there, and above it a prefix of what was
// appended. After a failed sync the tail is read back from the disk, not from
// the page cache (Options.Untrusted). The crash points of each operation are
// listed beside it: recovery, flush, roll, TruncateTo, ResetTo, TrimTo,
// Compact, and those of single files in package segment.
package commitlog
