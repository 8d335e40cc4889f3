// Package producer keeps what a partition's log knows about the producers that
// wrote to it: for idempotence the last five batches of each (KIP-98), their
// epochs, and the transactions that are open, so that a duplicate is answered
// with its first offset, a gap is refused, and read_committed knows where it
// must stop.
//
// The state is a pure function of the log's batches (and of the clock, for
// expiry alone): State.Apply replays them in offset order and never refuses
// one; State.Check, which decides what a leader accepts, comes before it. A
// snapshot holds the state at exactly one offset; formats are described in
// docs/format/producer-snapshot.md and docs/format/transaction-index.md.
//
// The package runs no goroutine and does no I/O. A State is not safe for
// concurrent use: the log guards it.
//
// Always true of a State:
//   - open transactions are sorted by their first offset, and each belongs to
//     one producer whose entry names the same first offset;
//   - an entry remembers at most Remembered batches, all of its current epoch,
//     oldest first.
package producer
