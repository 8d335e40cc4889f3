package record

import (
	"encoding/binary"
	"fmt"
)

// ControlType is the kind of a control record, the second half of its key.
type ControlType int16

// The control records that Kafka writes into partitions.
const (
	ControlAbort        ControlType = 0
	ControlCommit       ControlType = 1
	ControlLeaderChange ControlType = 2
)

// EndTxnMarker ends a producer's transaction in a partition (KIP-98).
type EndTxnMarker struct {
	Commit           bool
	CoordinatorEpoch int32
}

// Batch returns the control batch that holds the marker, as BatchBuilder.Build
// does: base offset 0, memory of its own. ts is in milliseconds since 1970.
func (m EndTxnMarker) Batch(producerID int64, producerEpoch int16, ts int64) []byte {
	kind := ControlAbort
	if m.Commit {
		kind = ControlCommit
	}
	var key [4]byte // version 0, type
	binary.BigEndian.PutUint16(key[2:], uint16(kind))
	var value [6]byte // version 0, coordinator epoch
	binary.BigEndian.PutUint32(value[2:], uint32(m.CoordinatorEpoch))

	bb := NewBuilder(BuilderOptions{Idempotent: true, ProducerID: producerID, ProducerEpoch: producerEpoch,
		Transactional: true, Control: true})
	bb.Append(ts, key[:], value[:])
	return bb.Build()
}

// ReadControlType reads the key of a control record: int16 version, int16
// type. Later versions only add to it. ErrCorrupt if it is too short.
func ReadControlType(key []byte) (ControlType, error) {
	if len(key) < 4 {
		return 0, fmt.Errorf("%w: the key of a control record has %d bytes", ErrCorrupt, len(key))
	}
	return ControlType(binary.BigEndian.Uint16(key[2:])), nil
}

// EndTxnMarker returns the marker in a control batch, false where b is no
// control batch or one of another type.
func (b *Batch) EndTxnMarker() (EndTxnMarker, bool, error) {
	var m EndTxnMarker
	if !b.IsControl() {
		return m, false, nil
	}
	found := false
	err := b.Records(func(r *Record) error {
		kind, err := ReadControlType(r.Key)
		if err != nil || kind != ControlAbort && kind != ControlCommit {
			return err
		}
		if len(r.Value) < 6 {
			return fmt.Errorf("%w: the value of a transaction marker has %d bytes", ErrCorrupt, len(r.Value))
		}
		m = EndTxnMarker{Commit: kind == ControlCommit, CoordinatorEpoch: int32(binary.BigEndian.Uint32(r.Value[2:]))}
		found = true
		return ErrStop // a control batch has one record
	})
	return m, found, err
}
