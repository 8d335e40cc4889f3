package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sort"
	"sync"

	"github.com/firnlog/firn/record"
)

// At is a batch's place in a segment.
type At struct {
	Pos    int64
	Header record.Header
}

// Span is a run of whole batches in a segment.
type Span struct {
	Pos, Len int64
	// First is the base offset of the first batch, Next the offset after the
	// last one.
	First, Next record.Offset
}

// view is a consistent picture of a segment.
type view struct {
	meta     Meta
	entries  []entry
	inMemory bool
	count    int
	// cursor is where the last Read ended, and cursorPos its position: where
	// the next one of the same reader begins.
	cursor    record.Offset
	cursorPos int64
}

func (s *Segment) viewLocked() view {
	return view{
		meta: s.meta, entries: s.entries, inMemory: s.inMemory, count: s.count, cursor: s.cursor, cursorPos: s.cursorPos,
	}
}

// look takes a view, reading the index files whole when they are used for the
// first time.
func (s *Segment) look() (view, error) {
	s.mu.RLock()
	v := s.viewLocked()
	ok := s.inMemory || s.checked
	s.mu.RUnlock()
	if ok {
		return v, nil
	}
	if err := s.checkIndex(); err != nil {
		return view{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.viewLocked(), nil
}

// searchOffset finds the last indexed batch that begins at or before position
// limit and offset limit: the best place from which to walk forward. Without
// one it answers the segment's start.
func (s *Segment) searchOffset(v *view, offset record.Offset, pos int64) (record.Offset, int64, error) {
	rel, p := int64(offset-s.base), pos
	if rel < 0 || pos < 0 {
		return s.base, 0, nil
	}
	if v.inMemory {
		n := sort.Search(len(v.entries), func(i int) bool {
			return int64(v.entries[i].rel) > rel || int64(v.entries[i].pos) > p
		})
		if n == 0 {
			return s.base, 0, nil
		}
		e := &v.entries[n-1]
		return s.base + record.Offset(e.rel), int64(e.pos), nil
	}
	if v.count == 0 {
		return s.base, 0, nil
	}
	if err := s.index.Acquire(); err != nil {
		return 0, 0, err
	}
	defer s.index.Release()
	be := binary.BigEndian
	// Guess by whichever bound is nearer to the front.
	share := min(float64(rel)/float64(max(v.meta.End-s.base, 1)), float64(p)/float64(max(v.meta.Bytes, 1)))
	at, atPos := s.base, int64(0)
	d := diskIndex{file: s.index, header: indexHeader, size: indexEntry, count: v.count}
	err := d.search(guess(share, v.count), func(e []byte) bool {
		return int64(be.Uint32(e)) <= rel && int64(be.Uint32(e[4:])) <= p
	}, func(e []byte) {
		at, atPos = s.base+record.Offset(be.Uint32(e)), int64(be.Uint32(e[4:]))
	})
	return at, atPos, err
}

// guess is the index of the entry that lies at a share of the whole.
func guess(share float64, count int) int { return int(min(share, 1) * float64(count)) }

// searchTime finds the last indexed position before which every batch is
// older than ts.
func (s *Segment) searchTime(v *view, ts int64) (int64, error) {
	if v.inMemory {
		n := sort.Search(len(v.entries), func(i int) bool { return v.entries[i].before >= ts })
		if n == 0 {
			return 0, nil
		}
		return int64(v.entries[n-1].pos), nil
	}
	if v.count == 0 {
		return 0, nil
	}
	if err := s.timeIndex.Acquire(); err != nil {
		return 0, err
	}
	defer s.timeIndex.Release()
	be := binary.BigEndian
	var pos int64
	d := diskIndex{file: s.timeIndex, header: timeIndexHeader, size: timeIndexEntry, count: v.count}
	err := d.search(v.count/2, func(e []byte) bool { return int64(be.Uint64(e)) < ts }, func(e []byte) {
		pos = int64(be.Uint32(e[8:]))
	})
	return pos, err
}

// headerBuffer is what a walk reads at once: an index interval's worth.
const headerBuffer = 4096

var headerBuffers = sync.Pool{New: func() any { return new([headerBuffer]byte) }}

// walk calls fn with the headers of the batches from pos on until fn answers
// false or the published end is reached.
//
// REQUIRES: a reference on File() is held; a batch starts at pos.
func (s *Segment) walk(v *view, pos int64, fn func(pos int64, h *record.Header) bool) error {
	buf := headerBuffers.Get().(*[headerBuffer]byte)
	defer headerBuffers.Put(buf)
	var have []byte // of the file from pos on
	for pos < v.meta.Bytes {
		if len(have) < record.HeaderSize {
			want := min(headerBuffer, v.meta.Bytes-pos)
			n, err := s.log.ReadAt(buf[:want], pos)
			if n < record.HeaderSize {
				if err == nil || int64(n) == want {
					return fmt.Errorf("%w: %s ends inside a header at %d", ErrCorrupt, s.log.Path(), pos)
				}
				return fmt.Errorf("segment: read %s: %w", s.log.Path(), noEOF(err))
			}
			have = buf[:n]
		}
		h, err := record.ReadHeader(have)
		if err != nil {
			return fmt.Errorf("%w: %s at position %d: %w", ErrCorrupt, s.log.Path(), pos, err)
		}
		if h.BaseOffset < s.base || int64(h.Size()) > v.meta.Bytes-pos || h.LastOffsetDelta < 0 {
			return fmt.Errorf("%w: %s at position %d: no batch of this segment", ErrCorrupt, s.log.Path(), pos)
		}
		if !fn(pos, &h) {
			return nil
		}
		pos += int64(h.Size())
		have = have[min(h.Size(), len(have)):]
	}
	return nil
}

// Find finds the first batch whose last offset is at or above offset.
//
// REQUIRES: a reference on File() is held.
func (s *Segment) Find(offset record.Offset) (at At, ok bool, err error) {
	v, err := s.look()
	if err != nil {
		return At{}, false, err
	}
	return s.find(&v, offset)
}

func (s *Segment) find(v *view, offset record.Offset) (at At, ok bool, err error) {
	pos := v.cursorPos
	if offset != v.cursor {
		if _, pos, err = s.searchOffset(v, offset, math.MaxInt64); err != nil {
			return At{}, false, err
		}
	}
	err = s.walk(v, pos, func(pos int64, h *record.Header) bool {
		if h.LastOffset() < offset {
			return true
		}
		at, ok = At{Pos: pos, Header: *h}, true
		return false
	})
	return at, ok, err
}

// FindTime finds the first batch whose max timestamp is at or above ts among
// those whose last offset is at or above from.
//
// REQUIRES: a reference on File() is held.
func (s *Segment) FindTime(ts int64, from record.Offset) (at At, ok bool, err error) {
	v, err := s.look()
	if err != nil {
		return At{}, false, err
	}
	pos, err := s.searchTime(&v, ts)
	if err != nil {
		return At{}, false, err
	}
	err = s.walk(&v, pos, func(pos int64, h *record.Header) bool {
		if h.MaxTimestamp < ts || h.LastOffset() < from {
			return true
		}
		at, ok = At{Pos: pos, Header: *h}, true
		return false
	})
	return at, ok, err
}

// Read selects the batches from the one that holds from (or the next after a
// gap) up to upTo, at most maxBytes of them, but one whole batch at least when
// atLeastOne. Len is 0 when that first batch may not be read. It answers false
// when the segment holds nothing at or above from; Next is then its end.
//
// REQUIRES: a reference on File() is held.
func (s *Segment) Read(from, upTo record.Offset, maxBytes int64, atLeastOne bool) (Span, bool, error) {
	v, err := s.look()
	if err != nil {
		return Span{}, false, err
	}
	at, ok, err := s.find(&v, from)
	if err != nil || !ok {
		return Span{First: record.NoOffset, Next: v.meta.End}, false, err
	}
	h := &at.Header
	if h.NextOffset() > upTo || int64(h.Size()) > maxBytes && !atLeastOne {
		return Span{}, true, nil
	}
	span := Span{Pos: at.Pos, Len: int64(h.Size()), First: h.BaseOffset, Next: h.NextOffset()}
	limit := at.Pos + max(maxBytes, span.Len)
	if v.meta.End <= upTo && v.meta.Bytes <= limit {
		span.Len, span.Next = v.meta.Bytes-at.Pos, v.meta.End
		s.noteRead(&span)
		return span, true, nil
	}
	offset, pos, err := s.searchOffset(&v, upTo, limit)
	if err != nil {
		return Span{}, false, err
	}
	if pos > at.Pos+span.Len {
		span.Len, span.Next = pos-at.Pos, offset
	}
	err = s.walk(&v, at.Pos+span.Len, func(pos int64, h *record.Header) bool {
		if h.NextOffset() > upTo || pos+int64(h.Size()) > limit {
			return false
		}
		span.Len, span.Next = pos+int64(h.Size())-at.Pos, h.NextOffset()
		return true
	})
	s.noteRead(&span)
	return span, true, err
}

// noteRead remembers where a read ended.
func (s *Segment) noteRead(span *Span) {
	s.mu.Lock()
	s.cursor, s.cursorPos = span.Next, span.Pos+span.Len
	s.mu.Unlock()
}

// Walk calls fn with the header of each batch from the one that holds from on,
// until fn answers false.
//
// REQUIRES: a reference on File() is held.
func (s *Segment) Walk(from record.Offset, fn func(pos int64, h *record.Header) bool) error {
	v, err := s.look()
	if err != nil {
		return err
	}
	at, ok, err := s.find(&v, from)
	if err != nil || !ok {
		return err
	}
	return s.walk(&v, at.Pos, fn)
}

// checkIndex reads the index files whole, once, and rebuilds them when they
// are not to be believed. Afterwards the index can be used.
func (s *Segment) checkIndex() error {
	s.rebuilding.Lock()
	defer s.rebuilding.Unlock()
	s.mu.RLock()
	ok := s.inMemory || s.checked
	m := s.meta
	s.mu.RUnlock()
	if ok {
		return nil
	}
	onDisk, entries, err := s.readIndex(m.Bytes)
	switch {
	case err == nil && onDisk.Bytes == m.Bytes && onDisk.Base == m.Base:
		s.mu.Lock()
		s.count, s.checked = len(entries), true
		s.mu.Unlock()
		return nil
	case err == nil || errors.Is(err, ErrCorrupt) || IsNotExist(err):
		return s.rebuild()
	}
	return err
}

// readIndex reads both index files and checks that they belong together.
func (s *Segment) readIndex(logBytes int64) (Meta, []entry, error) {
	// An entry stands for a batch, which is at least a header long.
	limit := timeIndexHeader + (logBytes/record.HeaderSize+1)*timeIndexEntry
	index, err := ReadFile(s.place.FS, s.index.path, limit)
	if err != nil {
		return Meta{}, nil, err
	}
	timeIndex, err := ReadFile(s.place.FS, s.timeIndex.path, limit)
	if err != nil {
		return Meta{}, nil, err
	}
	return parseBoth(index, timeIndex)
}
