package record

import "errors"

// Sentinels of this package. Errors wrap exactly one of them.
var (
	// ErrTruncated means that the bytes end before the batch does.
	ErrTruncated = errors.New("record: batch is cut off")
	// ErrCorrupt means that the bytes are not a batch, or that the checksum
	// disagrees. Kafka: CORRUPT_MESSAGE, which producers retry.
	ErrCorrupt = errors.New("record: batch is corrupt")
	// ErrInvalidRecord means a batch that breaks a rule however often it is
	// sent. Kafka: INVALID_RECORD.
	ErrInvalidRecord = errors.New("record: invalid record")
	// ErrTooLarge means a batch above the size limit, as sent or
	// decompressed. Kafka: MESSAGE_TOO_LARGE, on which Java splits it.
	ErrTooLarge = errors.New("record: batch is too large")
	// ErrInvalidTimestamp means a timestamp outside of the topic's limits, or
	// a client that claims LogAppendTime. Kafka: INVALID_TIMESTAMP.
	ErrInvalidTimestamp = errors.New("record: invalid timestamp")
	// ErrUnsupportedCodec means a codec that does not exist, or one that the
	// request's version does not know. Kafka: UNSUPPORTED_COMPRESSION_TYPE.
	ErrUnsupportedCodec = errors.New("record: unsupported compression codec")
)
