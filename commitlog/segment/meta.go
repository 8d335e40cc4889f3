package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/firnlog/firn/record"
)

// ErrCorrupt: a file of the log that cannot be trusted, or bytes that are missing.
var ErrCorrupt = errors.New("commitlog: corrupt")

// MetaSize is the encoded size of a Meta in bytes.
const MetaSize = 8*8 + 4 + 4

// Compacted is the flag of a segment that compaction has rewritten: its
// batches may have gaps, also at the end.
const Compacted uint32 = 1

// Meta describes a segment. Times are in ms since the epoch, -1 when unknown.
//
// INVARIANT: Base <= MaxTimestampBatch < End when there are batches.
type Meta struct {
	Base record.Offset
	// End is the next offset after the segment, exclusive.
	End record.Offset
	// Bytes is the length of the log file.
	Bytes int64
	// MinTimestamp is the smallest base timestamp of its batches.
	MinTimestamp int64
	MaxTimestamp int64
	// MaxTimestampBatch is the base offset of the first batch that has
	// MaxTimestamp, NoOffset when there is none.
	MaxTimestampBatch record.Offset
	// Created is when the first batch was appended, LastAppend when the last
	// was, by the broker's clock.
	Created    int64
	LastAppend int64
	// Aborted counts the entries of its transaction index.
	Aborted uint32
	Flags   uint32
}

// NewMeta describes an empty segment.
func NewMeta(base record.Offset) Meta {
	return Meta{
		Base: base, End: base, MinTimestamp: record.NoTimestamp, MaxTimestamp: record.NoTimestamp,
		MaxTimestampBatch: record.NoOffset, Created: -1, LastAppend: -1,
	}
}

// Add takes a batch of size bytes into the description.
func (m *Meta) Add(h *record.Header) {
	m.End = h.NextOffset()
	m.Bytes += int64(h.Size())
	if _, horizon := h.DeleteHorizon(); !horizon && h.BaseTimestamp >= 0 &&
		(m.MinTimestamp < 0 || h.BaseTimestamp < m.MinTimestamp) {
		m.MinTimestamp = h.BaseTimestamp
	}
	if h.MaxTimestamp > m.MaxTimestamp && h.NumRecords > 0 {
		m.MaxTimestamp = h.MaxTimestamp
		m.MaxTimestampBatch = h.BaseOffset
	}
}

// Append encodes m to dst, as docs/format/recovery-checkpoint.md describes.
func (m *Meta) Append(dst []byte) []byte {
	be := binary.BigEndian
	for _, v := range [...]int64{
		int64(m.Base), int64(m.End), m.Bytes, m.MinTimestamp, m.MaxTimestamp,
		int64(m.MaxTimestampBatch), m.Created, m.LastAppend,
	} {
		dst = be.AppendUint64(dst, uint64(v))
	}
	dst = be.AppendUint32(dst, m.Aborted)
	return be.AppendUint32(dst, m.Flags)
}

// ParseMeta decodes what Append wrote and checks its ranges.
//
// REQUIRES: len(b) >= MetaSize.
func ParseMeta(b []byte) (Meta, error) {
	be := binary.BigEndian
	var v [8]int64
	for i := range v {
		v[i] = int64(be.Uint64(b[8*i:]))
	}
	m := Meta{
		Base: record.Offset(v[0]), End: record.Offset(v[1]), Bytes: v[2], MinTimestamp: v[3], MaxTimestamp: v[4],
		MaxTimestampBatch: record.Offset(v[5]), Created: v[6], LastAppend: v[7],
		Aborted: be.Uint32(b[64:]), Flags: be.Uint32(b[68:]),
	}
	if m.Base < 0 || m.End < m.Base || m.Bytes < 0 || m.Bytes > math.MaxUint32 ||
		m.MaxTimestampBatch >= m.End && m.MaxTimestampBatch != record.NoOffset {
		return Meta{}, fmt.Errorf("%w: segment [%d, %d) of %d bytes", ErrCorrupt, m.Base, m.End, m.Bytes)
	}
	return m, nil
}
