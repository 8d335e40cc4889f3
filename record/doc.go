// Package record owns Kafka's record batch, version 2: reading, checking,
// stamping, building and rewriting it, and the small value types that name a
// place in a log (Offset, Epoch, TopicID, TopicPartition).
//
// A batch is handled as the bytes that the client sent. Header is a decoded
// copy of its first 61 bytes, Batch ties that copy to the bytes. Nothing here
// copies a batch unless Kafka's rules demand other bytes (another codec,
// compaction); Stamp and the header corrections of Validate work in place.
//
// What always holds:
//
//   - Memory that a hostile batch can claim is bounded by the bytes it really
//     produces, and those by MaxDecompressed. No length field is believed
//     before as many bytes were seen.
//   - Validate accepts a batch only if every other reader of it will find
//     exactly the records that its header promises.
//   - Walking the records of a batch allocates nothing per record.
//
// The package runs no goroutine. All functions are safe for concurrent use on
// different batches; a Batch itself has one user at a time.
//
// The layout follows Kafka's "Message Format" documentation and KIP-98,
// KIP-82 (headers) and KIP-534 (delete horizon). Byte table:
// docs/format/record-batch.md.
package record
