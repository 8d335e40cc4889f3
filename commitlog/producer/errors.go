package producer

import "errors"

var (
	// ErrOutOfOrderSequence: the batch's first sequence does not follow the
	// producer's last one (Kafka: OUT_OF_ORDER_SEQUENCE_NUMBER).
	ErrOutOfOrderSequence = errors.New("producer: out of order sequence")
	// ErrStaleEpoch: a newer epoch of this producer id has written already
	// (Kafka: INVALID_PRODUCER_EPOCH).
	ErrStaleEpoch = errors.New("producer: stale producer epoch")
	// ErrInvalidTxnState: a record outside the transaction while one is open
	// (Kafka: INVALID_TXN_STATE).
	ErrInvalidTxnState = errors.New("producer: not a record of the open transaction")
	// ErrStaleCoordinator: a marker from a transaction coordinator older than
	// one seen before (Kafka: TRANSACTION_COORDINATOR_FENCED).
	ErrStaleCoordinator = errors.New("producer: stale transaction coordinator epoch")
	// ErrCorrupt: a snapshot or transaction index that cannot be trusted.
	ErrCorrupt = errors.New("producer: corrupt")
)
