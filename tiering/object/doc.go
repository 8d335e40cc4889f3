// Package object owns the format of the objects that tiered data lives in:
// immutable, self-describing files of whole record batches in the object store.
//
// An object is a short header, then chunks of about 4 MiB (each beginning on a
// batch boundary), then a footer: sections found through a checked directory,
// then a fixed trailer. docs/format/object.md has the byte tables. Whoever
// holds an object and its size needs nothing else to serve its records by
// offset or time, with their aborted transactions, leader epochs and producer
// state.
//
// Build makes an object out of ranges of local segment files in one pass. An
// object that is neither compressed nor encrypted is never copied: Built reads
// through to the files, so an upload can be repeated at no cost but the reads.
// Reader opens an object by a ranged read of its tail and hands out verified,
// decrypted, decompressed chunks.
//
// INVARIANT: nothing that fails a check leaves this package as data; such a
// read answers an error that matches ErrCorrupt and names object and chunk.
// INVARIANT: no length read from an object is allocated before it was compared
// with the bytes that exist.
//
// The package runs no goroutines. Built and Reader are safe for concurrent use.
package object
