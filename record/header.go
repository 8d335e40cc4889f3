package record

import (
	"encoding/binary"
	"fmt"
	"math"
)

const (
	// HeaderSize is the length of a batch header in bytes, with the 12 bytes
	// of base offset and length in front of it.
	HeaderSize = 61
	// Overhead is the length in bytes of what Header.Length does not count.
	Overhead = 12
	// Magic is the only version of a batch that is read or written.
	Magic = 2
)

// Places of the header's fields.
const (
	posBaseOffset      = 0
	posLength          = 8
	posLeaderEpoch     = 12
	posMagic           = 16
	posCRC             = 17
	posAttributes      = 21 // the checksum covers the bytes from here to the end
	posLastOffsetDelta = 23
	posBaseTimestamp   = 27
	posMaxTimestamp    = 35
	posProducerID      = 43
	posProducerEpoch   = 51
	posBaseSequence    = 53
	posNumRecords      = 57
)

// Bits of Header.Attributes above the codec.
const (
	attrLogAppendTime = 1 << 3
	attrTransactional = 1 << 4
	attrControl       = 1 << 5
	attrDeleteHorizon = 1 << 6
)

// Values of header fields that mean none.
const (
	NoTimestamp     int64 = -1
	NoProducerID    int64 = -1
	NoProducerEpoch int16 = -1
	NoSequence      int32 = -1
)

// TimestampType says where a batch's timestamps come from.
type TimestampType int8

// The values of message.timestamp.type.
const (
	CreateTime    TimestampType = 0
	LogAppendTime TimestampType = 1
)

// String returns Kafka's name of the type.
func (t TimestampType) String() string {
	if t == LogAppendTime {
		return "LogAppendTime"
	}
	return "CreateTime"
}

// Header is a decoded batch header. Timestamps are milliseconds since 1970.
type Header struct {
	BaseOffset      Offset
	Length          int32 // bytes after this field: the batch's size less 12
	LeaderEpoch     Epoch
	Magic           int8
	CRC             uint32
	Attributes      int16
	LastOffsetDelta int32
	BaseTimestamp   int64 // the delete horizon where HasDeleteHorizon
	MaxTimestamp    int64
	ProducerID      int64
	ProducerEpoch   int16
	BaseSequence    int32
	NumRecords      int32
}

// ReadHeader decodes the header at the start of b. It needs HeaderSize bytes,
// else ErrTruncated, and checks magic and length, else ErrCorrupt. It checks
// neither the checksum nor that the whole batch is there.
func ReadHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize {
		return Header{}, fmt.Errorf("%w: %d bytes, a header has %d", ErrTruncated, len(b), HeaderSize)
	}
	h := decodeHeader(b)
	if h.Magic != Magic {
		return Header{}, fmt.Errorf("%w: magic %d, want %d", ErrCorrupt, h.Magic, Magic)
	}
	if h.Length < HeaderSize-Overhead {
		return Header{}, fmt.Errorf("%w: length %d, a batch has at least %d", ErrCorrupt, h.Length, HeaderSize-Overhead)
	}
	return h, nil
}

// decodeHeader decodes without a check. REQUIRES: len(b) >= HeaderSize.
func decodeHeader(b []byte) Header {
	b = b[:HeaderSize:HeaderSize]
	be := binary.BigEndian
	return Header{
		BaseOffset:      Offset(be.Uint64(b[posBaseOffset:])),
		Length:          int32(be.Uint32(b[posLength:])),
		LeaderEpoch:     Epoch(be.Uint32(b[posLeaderEpoch:])),
		Magic:           int8(b[posMagic]),
		CRC:             be.Uint32(b[posCRC:]),
		Attributes:      int16(be.Uint16(b[posAttributes:])),
		LastOffsetDelta: int32(be.Uint32(b[posLastOffsetDelta:])),
		BaseTimestamp:   int64(be.Uint64(b[posBaseTimestamp:])),
		MaxTimestamp:    int64(be.Uint64(b[posMaxTimestamp:])),
		ProducerID:      int64(be.Uint64(b[posProducerID:])),
		ProducerEpoch:   int16(be.Uint16(b[posProducerEpoch:])),
		BaseSequence:    int32(be.Uint32(b[posBaseSequence:])),
		NumRecords:      int32(be.Uint32(b[posNumRecords:])),
	}
}

// encode writes the header to the start of b. REQUIRES: len(b) >= HeaderSize.
func (h *Header) encode(b []byte) {
	b = b[:HeaderSize:HeaderSize]
	be := binary.BigEndian
	be.PutUint64(b[posBaseOffset:], uint64(h.BaseOffset))
	be.PutUint32(b[posLength:], uint32(h.Length))
	be.PutUint32(b[posLeaderEpoch:], uint32(h.LeaderEpoch))
	b[posMagic] = byte(h.Magic)
	be.PutUint32(b[posCRC:], h.CRC)
	be.PutUint16(b[posAttributes:], uint16(h.Attributes))
	be.PutUint32(b[posLastOffsetDelta:], uint32(h.LastOffsetDelta))
	be.PutUint64(b[posBaseTimestamp:], uint64(h.BaseTimestamp))
	be.PutUint64(b[posMaxTimestamp:], uint64(h.MaxTimestamp))
	be.PutUint64(b[posProducerID:], uint64(h.ProducerID))
	be.PutUint16(b[posProducerEpoch:], uint16(h.ProducerEpoch))
	be.PutUint32(b[posBaseSequence:], uint32(h.BaseSequence))
	be.PutUint32(b[posNumRecords:], uint32(h.NumRecords))
}

// Size returns the bytes of the whole batch, prefix included.
func (h *Header) Size() int { return Overhead + int(h.Length) }

// LastOffset returns the offset of the batch's last record, also where
// compaction has removed that record.
func (h *Header) LastOffset() Offset { return h.BaseOffset + Offset(h.LastOffsetDelta) }

// NextOffset returns the batch's exclusive end.
func (h *Header) NextOffset() Offset { return h.LastOffset() + 1 }

// Codec returns the compression, which may be none that exists (5 to 7).
func (h *Header) Codec() Codec { return Codec(h.Attributes & codecMask) }

// IsTransactional reports whether the batch belongs to a transaction.
func (h *Header) IsTransactional() bool { return h.Attributes&attrTransactional != 0 }

// IsControl reports whether the batch holds control records, such as the
// marker that ends a transaction.
func (h *Header) IsControl() bool { return h.Attributes&attrControl != 0 }

// IsLogAppendTime reports whether MaxTimestamp is the time of every record.
func (h *Header) IsLogAppendTime() bool { return h.Attributes&attrLogAppendTime != 0 }

// HasProducer reports whether an idempotent producer wrote the batch.
func (h *Header) HasProducer() bool { return h.ProducerID > NoProducerID }

// HasDeleteHorizon reports whether compaction has set a delete horizon.
func (h *Header) HasDeleteHorizon() bool { return h.Attributes&attrDeleteHorizon != 0 }

// DeleteHorizon returns the time in milliseconds from which compaction may
// drop the batch's tombstones and markers (KIP-534), false where none is set.
func (h *Header) DeleteHorizon() (int64, bool) {
	if !h.HasDeleteHorizon() {
		return NoTimestamp, false
	}
	return h.BaseTimestamp, true
}

// LastSequence returns the sequence number of the last record, NoSequence
// where the batch has none. Sequences wrap from 2147483647 to 0.
func (h *Header) LastSequence() int32 {
	if h.BaseSequence < 0 {
		return NoSequence
	}
	return AddSequence(h.BaseSequence, h.LastOffsetDelta)
}

// AddSequence returns the sequence number that is n records after seq, where
// 0 follows 2147483647. REQUIRES: seq and n are not negative.
func AddSequence(seq, n int32) int32 {
	return int32((int64(seq) + int64(n)) & math.MaxInt32)
}
