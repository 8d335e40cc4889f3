// Package tiered has tests alone: segments settle into object stores (MinIO by
// both drivers, a directory), leave the local disk, and the whole history reads
// back from a real broker process, until retention or deletion empties the bucket.
package tiered
