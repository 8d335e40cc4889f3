package commitlog

import (
	"errors"
	"fmt"
	"io"

	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

// Extent is a range of a segment's file, in bytes.
type Extent struct {
	File *segment.File
	Pos  int64
	Len  int64
}

// Slice is a run of whole batches on disk. Its files stay open and readable,
// whatever happens to the log, until Release, which is called exactly once.
// The zero Slice is empty and need not be released.
type Slice struct {
	Extents []Extent
	// Bytes is the sum of the extents.
	Bytes int64
	// First is the base offset of the first batch, which may be below the offset
	// asked for; NoOffset when the slice is empty.
	First record.Offset
	// Next is where to go on reading: the offset after the last batch, or, when
	// empty, the one asked for or a later one after a gap of compaction.
	Next record.Offset
}

// Release lets go of the files.
func (s *Slice) Release() {
	for _, e := range s.Extents {
		e.File.Release()
	}
	s.Extents = nil
}

// ReadAll reads the slice into buf, which grows when it is too small.
func (s *Slice) ReadAll(buf []byte) ([]byte, error) {
	if int64(cap(buf)) < s.Bytes {
		buf = make([]byte, s.Bytes)
	}
	buf = buf[:s.Bytes]
	at := buf
	for _, e := range s.Extents {
		if _, err := e.File.ReadAt(at[:e.Len], e.Pos); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("commitlog: read %s: %w", e.File.Path(), err)
		}
		at = at[e.Len:]
	}
	return buf, nil
}

// readRetries bounds how often a lookup begins again because a segment went
// away under it, each time with a newer list of segments.
const readRetries = 100

// Read selects whole batches, beginning with the one that holds from (or the
// next one after a gap) and lying entirely below upTo, at most maxBytes of
// them; with atLeastOne the first batch comes whatever its size. The slice is
// empty when there is none.
//
// Errors: ErrOutOfRange when from is below Start or above End; an error of
// the file system.
func (l *Log) Read(from, upTo record.Offset, maxBytes int, atLeastOne bool) (Slice, error) {
	var err error
	for range readRetries {
		var s Slice
		if s, err = l.read(from, upTo, int64(maxBytes), atLeastOne); err == nil {
			return s, nil
		}
		s.Release()
		if !errors.Is(err, segment.ErrRemoved) {
			return Slice{}, err
		}
		if l.closed.Load() {
			return Slice{}, ErrClosed
		}
	}
	return Slice{}, err
}

func (l *Log) read(from, upTo record.Offset, maxBytes int64, atLeastOne bool) (Slice, error) {
	s := Slice{First: record.NoOffset, Next: from}
	end := l.End()
	parts := l.list()
	if from < parts[0].Base() || from > end {
		return s, fmt.Errorf("%w: %d is not in [%d, %d]", ErrOutOfRange, from, parts[0].Base(), end)
	}
	upTo = min(upTo, end)
	for i := find(parts, from); i < len(parts) && s.Next < upTo && (s.Bytes < maxBytes || s.Bytes == 0); i++ {
		p := parts[i]
		if p.Base() >= upTo {
			break
		}
		if err := p.File().Acquire(); err != nil {
			return s, err
		}
		span, ok, err := p.Read(s.Next, upTo, maxBytes-s.Bytes, atLeastOne && s.Bytes == 0)
		if err != nil || span.Len == 0 {
			p.File().Release()
		}
		switch {
		case err != nil:
			return s, err
		case !ok:
			s.Next = max(s.Next, min(span.Next, upTo)) // a gap at the segment's end
			continue
		case span.Len == 0:
			return s, nil
		}
		s.Extents = append(s.Extents, Extent{File: p.File(), Pos: span.Pos, Len: span.Len})
		s.Bytes += span.Len
		if s.First == record.NoOffset {
			s.First = span.First
		}
		s.Next = span.Next
		if !p.IsSealed() || span.Next < p.Meta().End {
			break
		}
	}
	return s, nil
}

// find is the index of the segment that holds the offset.
//
// REQUIRES: offset >= parts[0].Base().
func find(parts []*part, offset record.Offset) int {
	lo, hi := 0, len(parts)
	for hi-lo > 1 {
		mid := lo + (hi-lo)/2
		if parts[mid].Base() <= offset {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// LookupTime finds the first record whose timestamp is at or above ts, inside
// compressed batches too: its offset, timestamp and leader epoch. It answers
// false when there is none.
func (l *Log) LookupTime(ts int64) (record.Offset, int64, record.Epoch, bool, error) {
	return l.LookupTimeFrom(ts, 0)
}

// LookupTimeFrom is LookupTime among the records at or above an offset: a log
// start that was raised may lie within a segment, or within a batch.
func (l *Log) LookupTimeFrom(ts int64, from record.Offset) (record.Offset, int64, record.Epoch, bool, error) {
	return l.retryLookup(func() (record.Offset, int64, record.Epoch, bool, error) {
		parts := l.list()
		for i, p := range parts {
			if m := p.Meta(); m.Bytes == 0 || m.MaxTimestamp < ts || (i+1 < len(parts) && parts[i+1].Base() <= from) {
				continue
			}
			o, t, e, ok, err := l.lookupIn(p, ts, max(p.Base(), from))
			if ok || err != nil {
				return o, t, e, ok, err
			}
		}
		return record.NoOffset, record.NoTimestamp, record.NoEpoch, false, nil
	})
}

// MaxTimestamp finds the first record with the newest timestamp of the log.
func (l *Log) MaxTimestamp() (record.Offset, int64, record.Epoch, bool, error) {
	return l.retryLookup(func() (record.Offset, int64, record.Epoch, bool, error) {
		var newest *part
		var m segment.Meta
		for _, p := range l.list() {
			if pm := p.Meta(); pm.Bytes > 0 && pm.MaxTimestampBatch != record.NoOffset && (newest == nil || pm.MaxTimestamp > m.MaxTimestamp) {
				newest, m = p, pm
			}
		}
		if newest == nil {
			return record.NoOffset, record.NoTimestamp, record.NoEpoch, false, nil
		}
		return l.latestIn(newest, m.MaxTimestampBatch)
	})
}

// latestIn answers the newest record of the batch at offset base.
func (l *Log) latestIn(p *part, base record.Offset) (record.Offset, int64, record.Epoch, bool, error) {
	none := func(err error) (record.Offset, int64, record.Epoch, bool, error) {
		return record.NoOffset, record.NoTimestamp, record.NoEpoch, false, err
	}
	if err := p.File().Acquire(); err != nil {
		return none(err)
	}
	defer p.File().Release()
	at, ok, err := p.Find(base)
	if err != nil || !ok {
		return none(err)
	}
	b, err := p.ReadBatch(at.Pos, &at.Header, nil)
	if err != nil {
		return none(err)
	}
	o, t, ok, err := b.LatestRecord()
	if err != nil || !ok {
		return none(err)
	}
	return o, t, b.LeaderEpoch, true, nil
}

func (l *Log) retryLookup(fn func() (record.Offset, int64, record.Epoch, bool, error)) (record.Offset, int64, record.Epoch, bool, error) {
	for try := 0; ; try++ {
		o, t, e, ok, err := fn()
		if !errors.Is(err, segment.ErrRemoved) || try == readRetries {
			return o, t, e, ok, err
		}
		if l.closed.Load() {
			return record.NoOffset, record.NoTimestamp, record.NoEpoch, false, ErrClosed
		}
	}
}

// firstFrom finds the first record of a batch that is at or above an offset and at
// or after a time.
func firstFrom(b *record.Batch, ts int64, least record.Offset) (at record.Offset, when int64, found bool, err error) {
	err = b.Records(func(r *record.Record) error {
		if r.Offset >= least && r.Timestamp >= ts {
			at, when, found = r.Offset, r.Timestamp, true
			return record.ErrStop
		}
		return nil
	})
	return at, when, found, err
}

// lookupIn searches one segment, batch by batch from where its index points:
// a max timestamp in a header may exceed those of the records that compaction
// left in the batch.
func (l *Log) lookupIn(p *part, ts int64, from record.Offset) (record.Offset, int64, record.Epoch, bool, error) {
	none := func(err error) (record.Offset, int64, record.Epoch, bool, error) {
		return record.NoOffset, record.NoTimestamp, record.NoEpoch, false, err
	}
	if err := p.File().Acquire(); err != nil {
		return none(err)
	}
	defer p.File().Release()
	var buf []byte
	least := from
	for {
		at, ok, err := p.FindTime(ts, from)
		if err != nil || !ok {
			return none(err)
		}
		b, err := p.ReadBatch(at.Pos, &at.Header, buf)
		if err != nil {
			return none(err)
		}
		o, t, found, err := b.FirstAtOrAfter(ts)
		if err == nil && found && o < least {
			o, t, found, err = firstFrom(&b, ts, least)
		}
		if err != nil {
			return none(fmt.Errorf("commitlog: batch at %d: %w", b.BaseOffset, err))
		}
		if found && o < l.End() {
			return o, t, b.LeaderEpoch, true, nil
		}
		buf, from = b.Raw, b.NextOffset()
	}
}
