package producer

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/firnlog/firn/record"
)

// Layout of a transaction index: docs/format/transaction-index.md.
const (
	txnIndexMagic   = "FTXN"
	txnIndexVersion = 1
	txnIndexHeader  = 4 + 2 + 2 + 4
	txnIndexEntry   = 4 * 8
)

// AppendTxnIndex encodes the aborted transactions whose markers are in one
// segment to dst.
func AppendTxnIndex(dst []byte, txns []Aborted) []byte {
	be := binary.BigEndian
	begin := len(dst)
	dst = append(dst, txnIndexMagic...)
	dst = be.AppendUint16(dst, txnIndexVersion)
	dst = be.AppendUint16(dst, 0)
	dst = be.AppendUint32(dst, uint32(len(txns)))
	for i := range txns {
		t := &txns[i]
		dst = be.AppendUint64(dst, uint64(t.ProducerID))
		dst = be.AppendUint64(dst, uint64(t.First))
		dst = be.AppendUint64(dst, uint64(t.Last))
		dst = be.AppendUint64(dst, uint64(t.LastStable))
	}
	return be.AppendUint32(dst, crc32.Checksum(dst[begin:], castagnoli))
}

// ParseTxnIndex decodes a transaction index. Errors are ErrCorrupt.
func ParseTxnIndex(b []byte) ([]Aborted, error) {
	be := binary.BigEndian
	if len(b) < txnIndexHeader+crcSize || string(b[:4]) != txnIndexMagic {
		return nil, fmt.Errorf("%w: not a transaction index", ErrCorrupt)
	}
	if v := be.Uint16(b[4:]); v != txnIndexVersion {
		return nil, fmt.Errorf("%w: transaction index of unknown version %d", ErrCorrupt, v)
	}
	count := int64(be.Uint32(b[8:]))
	if int64(len(b)) != txnIndexHeader+count*txnIndexEntry+crcSize {
		return nil, fmt.Errorf("%w: transaction index claims %d entries in %d bytes", ErrCorrupt, count, len(b))
	}
	if crc32.Checksum(b[:len(b)-crcSize], castagnoli) != be.Uint32(b[len(b)-crcSize:]) {
		return nil, fmt.Errorf("%w: transaction index's checksum does not match", ErrCorrupt)
	}
	txns := make([]Aborted, count)
	for i := range txns {
		e := b[txnIndexHeader+i*txnIndexEntry:]
		t := Aborted{
			ProducerID: int64(be.Uint64(e)), First: record.Offset(be.Uint64(e[8:])),
			Last: record.Offset(be.Uint64(e[16:])), LastStable: record.Offset(be.Uint64(e[24:])),
		}
		if t.First < 0 || t.Last < t.First || t.LastStable < 0 {
			return nil, fmt.Errorf("%w: transaction index entry %d is out of range", ErrCorrupt, i)
		}
		txns[i] = t
	}
	return txns, nil
}
