package producer

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/firnlog/firn/record"
)

// Layout of a snapshot: docs/format/producer-snapshot.md.
const (
	snapshotMagic   = "FPRD"
	snapshotVersion = 1
	snapshotHeader  = 4 + 2 + 2 + 8 + 4
	snapshotEntry   = 8 + 2 + 4 + 8 + 8 + 8 + 1
	snapshotBatch   = 8 + 8 + 4 + 4
	crcSize         = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// AppendSnapshot encodes the state, which must be that at exactly end, to dst.
func (s *State) AppendSnapshot(dst []byte, end record.Offset) []byte {
	ids := make([]int64, 0, len(s.producers))
	for id := range s.producers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	begin := len(dst)
	dst = slices.Grow(dst, snapshotHeader+len(ids)*(snapshotEntry+Remembered*snapshotBatch)+crcSize)
	be := binary.BigEndian
	dst = append(dst, snapshotMagic...)
	dst = be.AppendUint16(dst, snapshotVersion)
	dst = be.AppendUint16(dst, 0)
	dst = be.AppendUint64(dst, uint64(end))
	dst = be.AppendUint32(dst, uint32(len(ids)))
	for _, id := range ids {
		e := s.producers[id]
		dst = be.AppendUint64(dst, uint64(id))
		dst = be.AppendUint16(dst, uint16(e.epoch))
		dst = be.AppendUint32(dst, uint32(e.coord))
		dst = be.AppendUint64(dst, uint64(e.txnStart))
		dst = be.AppendUint64(dst, uint64(e.updated))
		dst = be.AppendUint64(dst, uint64(e.timestamp))
		dst = append(dst, byte(e.n))
		for i := range e.batches[:e.n] {
			b := &e.batches[i]
			dst = be.AppendUint64(dst, uint64(b.lastOffset))
			dst = be.AppendUint64(dst, uint64(b.timestamp))
			dst = be.AppendUint32(dst, uint32(b.lastSeq))
			dst = be.AppendUint32(dst, uint32(b.delta))
		}
	}
	return be.AppendUint32(dst, crc32.Checksum(dst[begin:], castagnoli))
}

// ParseSnapshot decodes a snapshot and the offset whose state it holds. It
// keeps no reference to b. Errors are ErrCorrupt.
func ParseSnapshot(b []byte) (*State, record.Offset, error) {
	be := binary.BigEndian
	if len(b) < snapshotHeader+crcSize || string(b[:4]) != snapshotMagic {
		return nil, 0, fmt.Errorf("%w: not a producer snapshot", ErrCorrupt)
	}
	if v := be.Uint16(b[4:]); v != snapshotVersion {
		return nil, 0, fmt.Errorf("%w: producer snapshot of unknown version %d", ErrCorrupt, v)
	}
	body, sum := b[:len(b)-crcSize], be.Uint32(b[len(b)-crcSize:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, 0, fmt.Errorf("%w: producer snapshot's checksum does not match", ErrCorrupt)
	}
	end := record.Offset(be.Uint64(b[8:]))
	count := int(be.Uint32(b[16:]))
	body = body[snapshotHeader:]
	if end < 0 || count > len(body)/snapshotEntry {
		return nil, 0, fmt.Errorf("%w: producer snapshot claims %d producers in %d bytes", ErrCorrupt, count, len(body))
	}
	s := &State{}
	if count > 0 {
		s.producers = make(map[int64]*entry, count)
	}
	for range count {
		id, e, rest, err := parseEntry(body, end)
		if err != nil {
			return nil, 0, err
		}
		if s.producers[id] != nil {
			return nil, 0, fmt.Errorf("%w: producer %d is twice in the snapshot", ErrCorrupt, id)
		}
		body = rest
		s.producers[id] = e
		if e.txnStart != record.NoOffset {
			s.open = append(s.open, openTxn{first: e.txnStart, id: id})
		}
	}
	if len(body) != 0 {
		return nil, 0, fmt.Errorf("%w: %d bytes after the producer snapshot's end", ErrCorrupt, len(body))
	}
	slices.SortFunc(s.open, func(a, b openTxn) int { return int(min(max(a.first-b.first, -1), 1)) })
	for i := 1; i < len(s.open); i++ {
		if s.open[i].first == s.open[i-1].first {
			return nil, 0, fmt.Errorf("%w: two transactions begin at offset %d", ErrCorrupt, s.open[i].first)
		}
	}
	return s, end, nil
}

func parseEntry(b []byte, end record.Offset) (int64, *entry, []byte, error) {
	if len(b) < snapshotEntry {
		return 0, nil, nil, fmt.Errorf("%w: producer snapshot is cut off", ErrCorrupt)
	}
	be := binary.BigEndian
	id := int64(be.Uint64(b))
	e := &entry{
		epoch: int16(be.Uint16(b[8:])), coord: int32(be.Uint32(b[10:])), txnStart: record.Offset(be.Uint64(b[14:])),
		updated: int64(be.Uint64(b[22:])), timestamp: int64(be.Uint64(b[30:])),
	}
	n := int(b[38])
	b = b[snapshotEntry:]
	if id < 0 || n > Remembered || len(b) < n*snapshotBatch || e.txnStart < record.NoOffset || e.txnStart >= end {
		return 0, nil, nil, fmt.Errorf("%w: producer %d of the snapshot has fields out of range", ErrCorrupt, id)
	}
	e.n = int8(n)
	for i := range n {
		x := &e.batches[i]
		x.lastOffset = record.Offset(be.Uint64(b))
		x.timestamp = int64(be.Uint64(b[8:]))
		x.lastSeq = int32(be.Uint32(b[16:]))
		x.delta = int32(be.Uint32(b[20:]))
		b = b[snapshotBatch:]
		if x.lastSeq < 0 || x.delta < 0 || x.lastOffset < record.Offset(x.delta) || x.lastOffset >= end {
			return 0, nil, nil, fmt.Errorf("%w: producer %d of the snapshot has a batch out of range", ErrCorrupt, id)
		}
	}
	return id, e, b, nil
}
