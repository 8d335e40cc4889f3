package segment

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/firnlog/firn/record"
)

const scanBuffer = 256 << 10

var scanBuffers = sync.Pool{New: func() any { b := make([]byte, scanBuffer); return &b }}

// Scan reads the batches of r from position from up to position to, which
// holds batches of ascending offsets from next on, and calls fn with each. Raw
// of a batch is only valid during the call. With verify it checks the CRCs.
//
// It answers the position after the last good batch, and why it stopped there
// when that is before to: bad wraps record.ErrTruncated or record.ErrCorrupt.
// err is an error of reading or of fn. No more than the bytes that remain in
// the file are allocated, whatever a length claims.
func Scan(r io.ReaderAt, from, to int64, next record.Offset, verify bool, fn func(pos int64, b *record.Batch) error) (end int64, bad, err error) {
	pooled := scanBuffers.Get().(*[]byte)
	defer scanBuffers.Put(pooled)
	buf := *pooled
	pos := from    // of buf[lo]
	lo, hi := 0, 0 // unread bytes are buf[lo:hi]
	fill := func(need int) error {
		if need > len(buf) {
			bigger := make([]byte, need)
			copy(bigger, buf[lo:hi])
			buf = bigger
		} else {
			copy(buf, buf[lo:hi])
		}
		lo, hi = 0, hi-lo
		want := min(int64(len(buf)), to-pos)
		n, err := r.ReadAt(buf[hi:want], pos+int64(hi))
		hi += n
		if err != nil && !(errors.Is(err, io.EOF) && hi >= need) {
			if errors.Is(err, io.EOF) {
				return io.ErrUnexpectedEOF
			}
			return err
		}
		return nil
	}
	for pos < to {
		if to-pos < record.HeaderSize {
			return pos, fmt.Errorf("%w: %d bytes at position %d", record.ErrTruncated, to-pos, pos), nil
		}
		if hi-lo < record.HeaderSize {
			if err := fill(record.HeaderSize); err != nil {
				return pos, nil, err
			}
		}
		h, bad := record.ReadHeader(buf[lo:hi])
		if bad == nil {
			bad = plausible(&h, next, to-pos)
		}
		if bad != nil {
			return pos, fmt.Errorf("position %d: %w", pos, bad), nil
		}
		size := h.Size()
		if hi-lo < size {
			if err := fill(size); err != nil {
				return pos, nil, err
			}
		}
		b := record.Batch{Header: h, Raw: buf[lo : lo+size]}
		if verify {
			if bad := b.VerifyCRC(); bad != nil {
				return pos, fmt.Errorf("position %d: %w", pos, bad), nil
			}
		}
		if err := fn(pos, &b); err != nil {
			return pos, nil, err
		}
		next = h.NextOffset()
		lo += size
		pos += int64(size)
	}
	return pos, nil, nil
}

// plausible checks what a header claims against what may come next.
func plausible(h *record.Header, next record.Offset, room int64) error {
	if h.BaseOffset < next || h.LastOffsetDelta < 0 || h.NextOffset() <= h.BaseOffset {
		return fmt.Errorf("%w: batch of offsets %d to %d, want %d or above", record.ErrCorrupt, h.BaseOffset, h.LastOffset(), next)
	}
	if int64(h.Size()) > room {
		return fmt.Errorf("%w: batch of %d bytes, %d remain", record.ErrTruncated, h.Size(), room)
	}
	return nil
}
