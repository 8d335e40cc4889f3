// Package objstore is the seam between Firn and object storage.
//
// It owns the Store interface, its errors, the rules for keys and checksums,
// and the wrapper that retries (Retrying). Drivers live below it: fs (the
// embedded default), mem, s3 and minio; package location opens one by URL.
// Package storetest is the one conformance suite that all of them pass.
//
// What every Store holds:
//
//   - An object appears whole or not at all. A reader never sees a part of it.
//   - A Put with IfAbsent never replaces an object, whoever else writes.
//   - What Put acknowledged is durable and visible to the next Head, GetRange
//     and List (all stores in use are strongly consistent).
//   - Methods are safe for concurrent use, and a store starts no goroutine
//     that outlives a call, save idle network connections until Close.
//
// Drivers make one attempt and classify the failure; they do not retry. Retry,
// deadlines and watchdogs are the wrapper's, once, for all drivers.
package objstore

import (
	"context"
	"io"
	"iter"
	"time"
)

// Store keeps immutable objects under flat keys. See the package comment for
// what all implementations hold, and ValidateKey for what a key may be.
//
// Errors wrap exactly one of the sentinels of this package, or the context's.
type Store interface {
	// Put writes the size bytes of body as one object. Body may be read more
	// than once and at several offsets concurrently; it is not used after Put
	// returns. When o.Checksum is given and the bytes do not match it, the
	// object does not appear and the error is ErrChecksum.
	//
	// ErrExists means IfAbsent was set and the key is taken. After an error
	// that is ErrTransient, or a context's, the object may or may not exist,
	// and may even appear later.
	Put(ctx context.Context, key string, body io.ReaderAt, size int64, o PutOptions) (ObjectInfo, error)

	// GetRange opens length bytes from offset off. The reader gives exactly
	// that many, or an error: a body that ends early is ErrTransient, never
	// io.EOF. Requires off ≥ 0 and length ≥ 0; length 0 checks nothing. A range that
	// reaches past the object's end is ErrInvalid. The caller closes the reader; ctx governs its life.
	GetRange(ctx context.Context, key string, off, length int64) (io.ReadCloser, error)

	// Head describes one object. Its Checksum is one that the store vouches
	// for, or not Valid where the store keeps none: see Verify.
	Head(ctx context.Context, key string) (ObjectInfo, error)

	// Delete removes the keys and returns one error for each, in order: nil
	// when the object is gone, which includes that it never was.
	Delete(ctx context.Context, keys ...string) []error

	// List yields the objects whose keys begin with prefix and sort after
	// startAfter, in byte order of their keys. The first error ends the
	// sequence. Listed objects have no Checksum.
	List(ctx context.Context, prefix, startAfter string) iter.Seq2[ObjectInfo, error]

	// Copy makes dst from src inside the store, without the bytes passing
	// through this process where the store can do that. It replaces dst.
	Copy(ctx context.Context, src, dst string, o CopyOptions) (ObjectInfo, error)

	// String names the store for logs and errors. It never holds a secret.
	String() string

	// Close frees idle connections. Calls under way may fail.
	Close() error
}

// PutOptions are the terms of one Put. The zero value overwrites.
type PutOptions struct {
	// IfAbsent makes Put fail with ErrExists when the key is taken, decided
	// by the store atomically (If-None-Match: * over S3).
	IfAbsent bool
	// Checksum of the body, when the caller knows it; it saves a pass over
	// the bytes and protects them from the caller's memory to the store's disk.
	Checksum Checksum
	// StorageClass is the store's own name for one, such as "STANDARD_IA".
	// "" is the store's default. fs and mem record nothing and ignore it.
	StorageClass string
}

// CopyOptions are the terms of one Copy. There is no IfAbsent: not every
// S3-compatible store can decide it for a copy, and Firn copies only to fresh
// names.
type CopyOptions struct {
	StorageClass string // as in PutOptions
}

// ObjectInfo describes one object as the store reports it.
type ObjectInfo struct {
	Key      string
	Size     int64     // bytes
	Checksum Checksum  // of the whole body; not Valid when the store did not say
	Modified time.Time // when it appeared, by the store's clock
	// AsOf is the store's clock when it reported this, so AsOf−Modified is an
	// age in which this machine's clock has no part. Its resolution may be 1 s.
	AsOf         time.Time
	StorageClass string // "" when default or unknown
}

// Age is how old the object was, by the store's clock, when this was reported.
func (i ObjectInfo) Age() time.Duration { return i.AsOf.Sub(i.Modified) }
