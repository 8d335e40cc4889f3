package record

import (
	"fmt"
	"math"
)

// BuilderOptions say what a built batch is. The zero value is an uncompressed
// batch without producer.
type BuilderOptions struct {
	Codec Codec // not CodecProducer
	Level int   // of the codec; 0 is its default

	// Idempotent says that ProducerID, ProducerEpoch and BaseSequence count.
	// A ProducerID above 0 implies it, so that only producer 0 must say so.
	Idempotent    bool
	ProducerID    int64
	ProducerEpoch int16
	BaseSequence  int32

	Transactional bool
	// Control makes a control batch, which has no sequence.
	Control bool
	// TimestampType LogAppendTime makes the largest timestamp that of all
	// records.
	TimestampType TimestampType
}

// BatchBuilder makes one batch after another. It has one user at a time.
type BatchBuilder struct {
	opts    BuilderOptions
	records []byte
	first   int64 // timestamp of the first record
	latest  int64
	count   int32
}

// NewBuilder returns an empty builder.
func NewBuilder(opts BuilderOptions) *BatchBuilder {
	return &BatchBuilder{opts: opts}
}

// Append adds a record. ts is in milliseconds since 1970; a nil key or value is
// null. The bytes are copied.
func (bb *BatchBuilder) Append(ts int64, key, value []byte, headers ...RecordHeader) {
	if bb.count == 0 {
		bb.first, bb.latest = ts, ts
	}
	bb.latest = max(bb.latest, ts)
	rec := Record{Key: key, Value: value, Headers: headers}
	bb.records = appendRecord(bb.records, ts-bb.first, bb.count, &rec)
	bb.count++
}

// Len returns the number of records.
func (bb *BatchBuilder) Len() int { return int(bb.count) }

// Size returns the bytes of the batch if it is not compressed.
func (bb *BatchBuilder) Size() int { return HeaderSize + len(bb.records) }

// Reset drops the records and takes baseSequence for the next batch.
func (bb *BatchBuilder) Reset(baseSequence int32) {
	bb.records, bb.count = bb.records[:0], 0
	bb.opts.BaseSequence = baseSequence
}

// Build returns the batch with base offset 0 and no leader epoch, in memory of
// its own. It does not empty the builder. REQUIRES: there is a record, the
// codec exists.
func (bb *BatchBuilder) Build() []byte {
	o := &bb.opts
	if bb.count == 0 {
		panic("record: Build of an empty batch")
	}
	h := Header{
		LeaderEpoch:     NoEpoch,
		LastOffsetDelta: bb.count - 1,
		BaseTimestamp:   bb.first,
		MaxTimestamp:    bb.latest,
		ProducerID:      NoProducerID,
		ProducerEpoch:   NoProducerEpoch,
		BaseSequence:    NoSequence,
		NumRecords:      bb.count,
		Attributes:      int16(o.Codec),
	}
	if o.Idempotent || o.ProducerID > 0 {
		h.ProducerID, h.ProducerEpoch = o.ProducerID, o.ProducerEpoch
		if !o.Control {
			h.BaseSequence = o.BaseSequence
		}
	}
	if o.Transactional {
		h.Attributes |= attrTransactional
	}
	if o.Control {
		h.Attributes |= attrControl
	}
	if o.TimestampType == LogAppendTime {
		h.Attributes |= attrLogAppendTime
	}
	raw, err := encodeBatch(h, bb.records, o.Level)
	if err != nil {
		panic(fmt.Sprintf("record: Build: %v", err)) // memory takes every write, and options are the caller's
	}
	return raw
}

// encodeBatch compresses records with h's codec behind a header made of h.
func encodeBatch(h Header, records []byte, level int) ([]byte, error) {
	b := Batch{Header: h}
	out := newBatchBuffer(len(records), math.MaxInt32)
	enc, free, err := newCompressor(h.Codec(), level, out)
	if err != nil {
		return nil, err
	}
	defer free()
	if _, err := enc.Write(records); err != nil {
		return nil, err
	}
	if err := enc.Close(); err != nil {
		return nil, err
	}
	b.Raw = out.buf
	b.seal()
	return b.Raw, nil
}

// appendRecord appends a record with its length. Offset and timestamp of rec
// are not used.
func appendRecord(dst []byte, timestampDelta int64, offsetDelta int32, rec *Record) []byte {
	size := 1 + sizeVarint(timestampDelta) + sizeVarint(int64(offsetDelta)) +
		sizeField(rec.Key) + sizeField(rec.Value) + sizeVarint(int64(len(rec.Headers)))
	for _, h := range rec.Headers {
		size += sizeVarint(int64(len(h.Key))) + len(h.Key) + sizeField(h.Value)
	}
	dst = appendVarint(dst, int64(size))
	dst = append(dst, 0) // attributes
	dst = appendVarint(dst, timestampDelta)
	dst = appendVarint(dst, int64(offsetDelta))
	dst = appendField(dst, rec.Key)
	dst = appendField(dst, rec.Value)
	dst = appendVarint(dst, int64(len(rec.Headers)))
	for _, h := range rec.Headers {
		dst = appendVarint(dst, int64(len(h.Key)))
		dst = append(dst, h.Key...)
		dst = appendField(dst, h.Value)
	}
	return dst
}

// sizeField returns the bytes that appendField adds.
func sizeField(f []byte) int {
	if f == nil {
		return 1
	}
	return sizeVarint(int64(len(f))) + len(f)
}

// appendField appends a field behind its length, -1 where it is nil.
func appendField(dst, f []byte) []byte {
	if f == nil {
		return appendVarint(dst, -1)
	}
	return append(appendVarint(dst, int64(len(f))), f...)
}
