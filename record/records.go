package record

import (
	"errors"
	"fmt"
)

// Record is one record of a batch. Where a callback gets one, all of its
// slices alias memory that is used again after the callback returns.
type Record struct {
	Offset    Offset
	Timestamp int64  // ms since 1970, NoTimestamp if the producer gave none
	Key       []byte // nil is null, which differs from empty
	Value     []byte // nil is null: a tombstone in a compacted topic
	Headers   []RecordHeader
}

// RecordHeader is a header of a record (KIP-82).
type RecordHeader struct {
	Key   []byte // UTF-8, never null
	Value []byte // nil is null
}

// ErrStop is returned by a callback that wants no more records. The walk then
// ends without an error.
var ErrStop = errors.New("record: stop")

// Records calls fn with each record in order, decompressing into pooled
// memory of at most DefaultMaxDecompressed bytes. The record and what it
// points to are valid during the call only.
//
// A payload that is not what the header promises is ErrCorrupt, one above the
// limit ErrTooLarge; fn may have seen records before that. An error of fn ends
// the walk and is returned as it is, but for ErrStop.
func (b *Batch) Records(fn func(*Record) error) error {
	return b.RecordsWithin(DefaultMaxDecompressed, fn)
}

// RecordsWithin is Records with another bound on the decompressed bytes.
func (b *Batch) RecordsWithin(maxBytes int64, fn func(*Record) error) error {
	w, err := openWindow(b, maxBytes, nil)
	if err != nil {
		return b.broken(0, err)
	}
	defer w.close()
	rec := &w.rec
	for i := range b.NumRecords {
		size, err := w.length()
		if err == nil {
			var body []byte
			if body, err = w.body(size); err == nil {
				err = b.decode(body, rec)
			}
		}
		if err != nil {
			return b.broken(i, err)
		}
		if err := fn(rec); err != nil {
			if errors.Is(err, ErrStop) {
				return nil
			}
			return err
		}
	}
	if err := w.finish(); err != nil {
		return b.broken(b.NumRecords, err)
	}
	return nil
}

// broken wraps what a walk over a stored batch failed with at record i.
func (b *Batch) broken(i int32, err error) error {
	var m malformed
	if errors.As(err, &m) {
		return fmt.Errorf("%w: batch at offset %d, record %d: %w", ErrCorrupt, b.BaseOffset, i, err)
	}
	return fmt.Errorf("batch at offset %d, record %d: %w", b.BaseOffset, i, err)
}

// timestamp returns the time of a record with the given delta.
func (h *Header) timestamp(delta int64) int64 {
	if h.IsLogAppendTime() {
		return h.MaxTimestamp
	}
	return h.BaseTimestamp + delta
}

// decode fills rec with the record in body, whose slices alias body.
func (b *Batch) decode(body []byte, rec *Record) error {
	var h head
	if err := scan(body, &h); err != nil {
		return err
	}
	rec.Offset = b.BaseOffset + Offset(h.offsetDelta)
	rec.Timestamp = b.timestamp(h.timestampDelta)

	// scan has seen every length: from here on nothing can be out of bounds.
	_, n := varint64(body[1:])
	p := body[1+n:]
	_, n = varint32(p)
	p = p[n:]
	rec.Key, p = field(p)
	rec.Value, p = field(p)
	count, n := varint32(p)
	p = p[n:]
	rec.Headers = rec.Headers[:0]
	for range count {
		var rh RecordHeader
		rh.Key, p = field(p)
		rh.Value, p = field(p)
		rec.Headers = append(rec.Headers, rh)
	}
	return nil
}

// field splits a length-prefixed field off checked bytes, nil where it is
// null.
func field(p []byte) (f, rest []byte) {
	size, n := varint32(p)
	p = p[n:]
	if size < 0 {
		return nil, p
	}
	return p[:size:size], p[size:]
}

// FirstAtOrAfter returns offset and timestamp of the first record whose
// timestamp is at least ts, false where the batch has none. Records are not
// held in memory, only their heads are read.
func (b *Batch) FirstAtOrAfter(ts int64) (Offset, int64, bool, error) {
	if b.MaxTimestamp < ts || b.NumRecords == 0 {
		return NoOffset, NoTimestamp, false, nil
	}
	var (
		at    Offset
		found = NoTimestamp
		ok    bool
	)
	err := b.heads(func(h *head) bool {
		if t := b.timestamp(h.timestampDelta); t >= ts {
			at, found, ok = b.BaseOffset+Offset(h.offsetDelta), t, true
		}
		return !ok
	})
	if err != nil || !ok {
		return NoOffset, NoTimestamp, false, err
	}
	return at, found, true, nil
}

// LatestRecord returns offset and timestamp of the first record that has the
// largest timestamp of the batch; of the last record where the log's clock
// gave all the same (KIP-734). False where the batch has no record.
func (b *Batch) LatestRecord() (Offset, int64, bool, error) {
	if b.NumRecords == 0 {
		return NoOffset, NoTimestamp, false, nil
	}
	if b.IsLogAppendTime() {
		return b.LastOffset(), b.MaxTimestamp, true, nil
	}
	at, latest := NoOffset, int64(0)
	err := b.heads(func(h *head) bool {
		if t := b.timestamp(h.timestampDelta); at == NoOffset || t > latest {
			at, latest = b.BaseOffset+Offset(h.offsetDelta), t
		}
		return true
	})
	if err != nil {
		return NoOffset, NoTimestamp, false, err
	}
	return at, latest, true, nil
}

// heads calls fn with the head of each record until it returns false.
func (b *Batch) heads(fn func(*head) bool) error {
	w, err := openWindow(b, DefaultMaxDecompressed, nil)
	if err != nil {
		return b.broken(0, err)
	}
	defer w.close()
	var h head
	for i := range b.NumRecords {
		if err := w.next(&h); err != nil {
			return b.broken(i, err)
		}
		if !fn(&h) {
			return nil
		}
	}
	return nil
}
