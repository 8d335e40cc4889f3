package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

const (
	// DefaultMaxBytes is Kafka's default of max.message.bytes.
	DefaultMaxBytes = 1048588
	// MaxRecordErrors bounds how many records an InvalidError names; the walk
	// ends there.
	MaxRecordErrors = 100
	// NoTimestampLimit switches a limit of Rules off.
	NoTimestampLimit int64 = math.MaxInt64
)

// Rules are what a topic and a request ask of a batch. NewRules gives Kafka's
// defaults; the zero value refuses every timestamp but Now.
type Rules struct {
	// MaxBytes bounds the whole batch, as sent and as stored, with its 12-byte
	// prefix (max.message.bytes).
	MaxBytes int
	// MaxDecompressed bounds in bytes what the records may become. 0 takes
	// DefaultMaxDecompressed.
	MaxDecompressed int64
	// Compression is the topic's compression.type. A batch of another codec is
	// compressed anew; CodecProducer keeps what came.
	Compression Codec
	// CompressionLevel is the level for that, 0 the codec's default.
	CompressionLevel int
	// ForbidZstd refuses zstd: requests before Produce v7 (KIP-110).
	ForbidZstd bool
	// TimestampType is message.timestamp.type. LogAppendTime stamps Now.
	TimestampType TimestampType
	// TimestampBeforeMax and TimestampAfterMax bound in milliseconds how far a
	// record's CreateTime may lie before and after Now (KIP-937), and are not
	// negative.
	TimestampBeforeMax int64
	TimestampAfterMax  int64
	// Now is the broker's clock in milliseconds since 1970.
	Now int64
	// Compacted refuses records without a key (cleanup.policy=compact).
	Compacted bool
	// HeaderOnly skips the walk over the records, unless the topic is
	// compacted or the batch must be compressed anew (record.validation=header).
	HeaderOnly bool
	// Internal marks a batch that the broker made itself: control records and
	// any timestamp are in order.
	Internal bool
}

// NewRules returns the rules of a topic with Kafka's defaults at now, in
// milliseconds since 1970.
func NewRules(now int64) Rules {
	return Rules{
		MaxBytes:           DefaultMaxBytes,
		Compression:        CodecProducer,
		TimestampBeforeMax: NoTimestampLimit,
		TimestampAfterMax:  3600_000,
		Now:                now,
	}
}

// RecordError says what is wrong with one record. Index counts from 0 within
// the batch, as record_errors of Produce v8 does (KIP-467).
type RecordError struct {
	Index   int32
	Message string
}

// InvalidError is the answer of Validate to a bad batch. Kind is one of the
// package's sentinels, and errors.Is finds it.
type InvalidError struct {
	Kind    error
	Records []RecordError // at most MaxRecordErrors, in order
	Message string
}

// Error returns the kind and what was found.
func (e *InvalidError) Error() string {
	if len(e.Records) == 0 {
		return e.Kind.Error() + ": " + e.Message
	}
	r := e.Records[0]
	return fmt.Sprintf("%v: %s; record %d: %s", e.Kind, e.Message, r.Index, r.Message)
}

// Unwrap returns the kind.
func (e *InvalidError) Unwrap() error { return e.Kind }

func invalid(kind error, format string, args ...any) error {
	return &InvalidError{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// Validate checks that raw is exactly one batch that may be appended under r,
// by Kafka's rules, and gives it the form in which it is stored. Every error
// is an *InvalidError, but for the failure to set up a codec.
//
// The batch aliases raw. The header is corrected in place, with a new
// checksum, for LogAppendTime, for a max timestamp that is not that of the
// records, and for a delete horizon, which is not a client's to set. Only a
// compression.type that differs from the batch's codec makes new bytes. After
// an error raw is as it was.
func Validate(raw []byte, r *Rules) (Batch, error) {
	b, err := onlyBatch(raw)
	if err != nil {
		return Batch{}, err
	}
	if len(b.Raw) > r.MaxBytes {
		return Batch{}, invalid(ErrTooLarge, "the batch has %d bytes, the limit is %d", len(b.Raw), r.MaxBytes)
	}
	if err := b.VerifyCRC(); err != nil {
		return Batch{}, invalid(ErrCorrupt, "the checksum does not match")
	}
	if err := r.checkHeader(&b.Header); err != nil {
		return Batch{}, err
	}

	latest := b.MaxTimestamp
	recode := r.Compression != CodecProducer && r.Compression != b.Codec()
	var out *batchBuffer
	switch {
	case recode:
		out, latest, err = r.recompress(&b)
	case !r.HeaderOnly || r.Compacted:
		latest, err = r.walk(&b, nil)
	default:
		err = r.checkBounds(&b.Header)
	}
	if err != nil {
		return Batch{}, err
	}
	r.store(&b, latest, out)
	return b, nil
}

// onlyBatch reads raw as exactly one batch. As Kafka does, it takes a batch that is
// cut off for none, and ignores the beginning of one behind the first.
func onlyBatch(raw []byte) (Batch, error) {
	size, err := wholeBatch(raw)
	switch {
	case err != nil:
		return Batch{}, err
	case size == 0:
		return Batch{}, invalid(ErrInvalidRecord, "there is no whole batch, a partition takes exactly one")
	case raw[posMagic] < Magic:
		return Batch{}, invalid(ErrInvalidRecord, "message format v%d is too old, want v2", raw[posMagic])
	}
	b, err := ReadBatch(raw[:size])
	if err != nil {
		return Batch{}, &InvalidError{Kind: ErrCorrupt, Message: err.Error()}
	}
	switch behind, err := wholeBatch(raw[size:]); {
	case err != nil:
		return Batch{}, err
	case behind > 0:
		return Batch{}, invalid(ErrInvalidRecord, "a batch of %d bytes follows the first, a partition takes exactly one", behind)
	}
	return b, nil
}

// leastRecord is the length that Kafka asks of an entry of any message format, its
// prefix not counted.
const leastRecord = 14

// wholeBatch is the size of the entry that b begins with, in any message format, 0
// if it is not whole. The error is ErrCorrupt.
func wholeBatch(b []byte) (size int, err error) {
	if len(b) < Overhead {
		return 0, nil
	}
	length := int32(binary.BigEndian.Uint32(b[posLength:]))
	switch {
	case length < leastRecord:
		return 0, invalid(ErrCorrupt, "length %d, a record has at least %d", length, leastRecord)
	case len(b) <= posMagic:
		return 0, nil
	case b[posMagic] > Magic:
		return 0, invalid(ErrCorrupt, "magic %d, want %d", int8(b[posMagic]), Magic)
	case int64(len(b)) < Overhead+int64(length):
		return 0, nil
	}
	return Overhead + int(length), nil
}

// checkHeader applies the rules that need the header alone.
func (r *Rules) checkHeader(h *Header) error {
	switch {
	case h.NumRecords <= 0:
		return invalid(ErrInvalidRecord, "the header counts %d records", h.NumRecords)
	case int64(h.NumRecords) != int64(h.LastOffsetDelta)+1:
		return invalid(ErrInvalidRecord, "the header counts %d records, its last offset delta is %d", h.NumRecords, h.LastOffsetDelta)
	case !h.Codec().known():
		return invalid(ErrUnsupportedCodec, "codec %d does not exist", h.Codec())
	case h.Codec() == CodecZstd && r.ForbidZstd:
		return invalid(ErrUnsupportedCodec, "zstd needs Produce version 7")
	case r.Internal:
		return nil
	case h.IsControl():
		return invalid(ErrInvalidRecord, "clients may not write control records")
	case h.IsLogAppendTime():
		return invalid(ErrInvalidTimestamp, "clients may not set the timestamp type LogAppendTime")
	case h.HasProducer() && h.BaseSequence < 0:
		return invalid(ErrInvalidRecord, "producer %d sent the sequence number %d", h.ProducerID, h.BaseSequence)
	case h.HasProducer() && h.ProducerEpoch < 0:
		return invalid(ErrInvalidRecord, "producer %d sent the epoch %d", h.ProducerID, h.ProducerEpoch)
	case h.IsTransactional() && !h.HasProducer():
		return invalid(ErrInvalidRecord, "a transactional batch has no producer id")
	}
	return nil
}

// bounds returns the smallest and largest CreateTime that r accepts.
func (r *Rules) bounds() (earliest, latest int64) {
	earliest, latest = math.MinInt64, math.MaxInt64
	if r.Internal || r.TimestampType == LogAppendTime {
		return earliest, latest
	}
	if r.TimestampBeforeMax != NoTimestampLimit {
		earliest = r.Now - r.TimestampBeforeMax
	}
	if r.TimestampAfterMax < math.MaxInt64-r.Now {
		latest = r.Now + r.TimestampAfterMax
	}
	return earliest, latest
}

// checkBounds is all that can be said of timestamps without the records.
func (r *Rules) checkBounds(h *Header) error {
	earliest, latest := r.bounds()
	if t := h.MaxTimestamp; t != NoTimestamp && (t < earliest || t > latest) {
		return invalid(ErrInvalidTimestamp, "the max timestamp %d is out of range: the clock is at %d", t, r.Now)
	}
	return nil
}

// walk checks every record, writes the decompressed payload to out where that
// is not nil, and returns the largest timestamp.
func (r *Rules) walk(b *Batch, out compressor) (latest int64, err error) {
	w, err := openWindow(b, r.MaxDecompressed, out)
	if err != nil {
		return 0, broke(0, err)
	}
	defer w.close()

	earliest, limit := r.bounds()
	var (
		h    head
		bad  findings
		last = int64(math.MinInt64)
	)
	for i := range b.NumRecords {
		if err := w.next(&h); err != nil {
			return 0, broke(i, err)
		}
		if h.offsetDelta != i {
			bad.add(ErrInvalidRecord, i, "offset delta %d, want %d", h.offsetDelta, i)
			return 0, bad.err()
		}
		t := b.BaseTimestamp + h.timestampDelta
		last = max(last, t)
		if (t < earliest || t > limit) && t != NoTimestamp {
			bad.add(ErrInvalidTimestamp, i, "timestamp %d is out of range: the clock is at %d", t, r.Now)
		}
		if h.nullKey && r.Compacted && !b.IsControl() {
			bad.add(ErrInvalidRecord, i, "a compacted topic takes no record without a key")
		}
		if len(bad.records) == MaxRecordErrors {
			return 0, bad.err()
		}
	}
	if err := w.finish(); err != nil {
		return 0, broke(b.NumRecords, err)
	}
	return last, bad.err()
}

// broke wraps what a walk failed with at record i of a sent batch.
func broke(i int32, err error) error {
	var m malformed
	switch {
	case errors.As(err, &m):
		return &InvalidError{Kind: ErrInvalidRecord, Message: "the records are malformed",
			Records: []RecordError{{Index: i, Message: err.Error()}}}
	case errors.Is(err, ErrTooLarge):
		return &InvalidError{Kind: ErrTooLarge, Message: err.Error()}
	}
	return err
}

// findings collects what is wrong with records that are well formed.
type findings struct {
	kind    error
	records []RecordError
}

// add notes one. A timestamp decides the kind, as in Kafka.
func (f *findings) add(kind error, i int32, format string, args ...any) {
	if f.kind == nil || errors.Is(kind, ErrInvalidTimestamp) {
		f.kind = kind
	}
	f.records = append(f.records, RecordError{Index: i, Message: fmt.Sprintf(format, args...)})
}

func (f *findings) err() error {
	if f.kind == nil {
		return nil
	}
	return &InvalidError{Kind: f.kind, Records: f.records,
		Message: fmt.Sprintf("%d records are refused", len(f.records))}
}

// recompress checks every record and compresses them with the topic's codec.
func (r *Rules) recompress(b *Batch) (*batchBuffer, int64, error) {
	out := newBatchBuffer(len(b.Raw), r.MaxBytes)
	enc, free, err := newCompressor(r.Compression, r.CompressionLevel, out)
	if err != nil {
		return nil, 0, err
	}
	defer free()
	latest, err := r.walk(b, enc)
	if err != nil {
		return nil, 0, err
	}
	if err := enc.Close(); err != nil {
		return nil, 0, broke(b.NumRecords, err)
	}
	return out, latest, nil
}

// store gives b the bytes and the header that are appended.
func (r *Rules) store(b *Batch, latest int64, out *batchBuffer) {
	attributes := b.Attributes
	if !r.Internal {
		attributes &^= attrDeleteHorizon
	}
	if r.TimestampType == LogAppendTime {
		attributes |= attrLogAppendTime
		latest = r.Now
	} else if b.IsLogAppendTime() {
		latest = b.MaxTimestamp // Internal: the maker has stamped it
	}
	if out == nil && attributes == b.Attributes && latest == b.MaxTimestamp {
		return
	}
	if out != nil {
		b.Raw = out.buf
		attributes = attributes&^codecMask | int16(r.Compression)
	}
	b.Attributes, b.MaxTimestamp = attributes, latest
	b.seal()
}
