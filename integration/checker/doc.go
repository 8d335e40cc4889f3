// Package checker judges what the clients of a log saw while brokers failed.
//
// Clients note every operation in a [History]: what they asked, when, and what
// came of it; the history can be kept as a file of one JSON object per line
// (see [Op]). [Check] reads a history and returns the anomalies that Jepsen's
// Kafka workload knows, and a few that its clients cannot see: lost writes, dirty
// and aborted reads, duplicates, offsets that hold two values, polls and sends
// out of order, skipped records, holes, watermarks and committed offsets that go
// back. [CheckMetadata] hands the history of administrative operations to
// porcupine, which searches an order that explains it.
//
// The rules rest on three conventions. A value is sent once in its log. Times are
// of one monotonic clock, so that an operation that ended before another began
// came first. An operation with an unknown outcome, such as a timeout, may have
// happened or not, and no rule holds that it did or did not.
//
// Check and CheckMetadata are pure; History may be used by many goroutines, runs
// none, and keeps all operations in memory.
package checker
