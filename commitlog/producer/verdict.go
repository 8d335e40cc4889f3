package producer

import "github.com/firnlog/firn/record"

// Verdict is what State.Check found out about a batch that is acceptable.
type Verdict struct {
	// Duplicate: the batch was appended before and must not be again. Base,
	// Next and Timestamp describe the original; it is acknowledged once the
	// high watermark has reached Next.
	Duplicate bool
	Base      record.Offset
	Next      record.Offset
	// Timestamp is the original batch's max timestamp in ms.
	Timestamp int64
	// Unknown: no state is held for this producer id, so any first sequence was
	// accepted. Under transactions V2 the caller refuses it unless the sequence
	// is 0.
	Unknown bool
}

// Info describes one producer for DescribeProducers.
type Info struct {
	ProducerID       int64
	Epoch            int16
	CoordinatorEpoch int32
	// LastSequence is the last sequence written, -1 when none.
	LastSequence int32
	// LastTimestamp is the newest max timestamp of its batches in ms, -1 if none.
	LastTimestamp int64
	// TxnStart is the first offset of its open transaction, -1 when none.
	TxnStart record.Offset
}
