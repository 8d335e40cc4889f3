package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Batch is one whole batch. Raw holds its bytes, len(Raw) == Size(), and
// aliases the buffer that it was read from: it is valid as long as that is.
//
// INVARIANT: Header equals the decoded first HeaderSize bytes of Raw.
type Batch struct {
	Header
	Raw []byte
}

// ReadBatch reads the batch at the start of b, which may go on behind it.
// Bytes that end early are ErrTruncated, a bad header is ErrCorrupt. The
// checksum is not verified.
func ReadBatch(b []byte) (Batch, error) {
	h, err := ReadHeader(b)
	if err != nil {
		return Batch{}, err
	}
	size := h.Size()
	if len(b) < size {
		return Batch{}, fmt.Errorf("%w: %d of %d bytes", ErrTruncated, len(b), size)
	}
	return Batch{Header: h, Raw: b[:size:size]}, nil
}

// VerifyCRC compares the CRC-32C of the bytes from the attributes to the end
// with the header's. ErrCorrupt if they differ.
func (b *Batch) VerifyCRC() error {
	if sum := crc32.Checksum(b.Raw[posAttributes:], castagnoli); sum != b.CRC {
		return fmt.Errorf("%w: checksum %08x, header says %08x", ErrCorrupt, sum, b.CRC)
	}
	return nil
}

// Stamp sets base offset and leader epoch in the header and in Raw. Both lie
// outside of the checksum.
func (b *Batch) Stamp(base Offset, epoch Epoch) {
	b.BaseOffset, b.LeaderEpoch = base, epoch
	binary.BigEndian.PutUint64(b.Raw[posBaseOffset:], uint64(base))
	binary.BigEndian.PutUint32(b.Raw[posLeaderEpoch:], uint32(epoch))
}

// Payload returns the bytes after the header: the records as they are stored,
// compressed where Codec says so. They alias Raw.
func (b *Batch) Payload() []byte { return b.Raw[HeaderSize:] }

// seal writes the header to Raw with the checksum that belongs to it.
// REQUIRES: Raw holds HeaderSize bytes and the payload.
func (b *Batch) seal() {
	b.Magic = Magic
	b.Length = int32(len(b.Raw) - Overhead)
	b.encode(b.Raw)
	b.CRC = crc32.Checksum(b.Raw[posAttributes:], castagnoli)
	binary.BigEndian.PutUint32(b.Raw[posCRC:], b.CRC)
}

// Batches yields the batches that lie one after another in b, without
// verifying their checksums. A batch that is cut off at the end of b ends the
// sequence silently, as the answer to a Fetch may have one; bytes that are no
// batch yield their error last.
func Batches(b []byte) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		for pos := 0; pos < len(b); {
			batch, err := ReadBatch(b[pos:])
			if errors.Is(err, ErrTruncated) {
				return
			}
			if err != nil {
				yield(Batch{}, fmt.Errorf("batch at byte %d: %w", pos, err))
				return
			}
			if !yield(batch, nil) {
				return
			}
			pos += batch.Size()
		}
	}
}
