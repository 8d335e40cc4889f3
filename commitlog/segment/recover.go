package segment

import (
	"errors"
	"fmt"
	"math"
	"sort"

	"github.com/firnlog/firn/record"
)

const (
	// defaultInterval is the index interval where no topic's setting is at
	// hand: when the index of a sealed segment is rebuilt.
	defaultInterval = 4096
	// smallIndex is the position up to which an active segment's index is made
	// from the log at start, rather than persisted with each checkpoint.
	smallIndex = 1 << 20
)

// Recovery says what to do to take up a segment after a restart.
type Recovery struct {
	// Meta describes the part that is known to be good: the recovery
	// checkpoint's, or NewMeta when nothing is known.
	Meta Meta
	// Size is the length of the log file, at least Meta.Bytes.
	Size int64
	// Interval is the distance of index entries in bytes.
	Interval int64
	// ModTime stands for the append times of batches above Meta.Bytes, in ms.
	ModTime int64
	// Verify checks the CRC of each batch above Meta.Bytes.
	Verify bool
	// OnBatch is called with each batch above Meta.Bytes in order. Raw is only
	// valid during the call. Optional.
	OnBatch func(b *record.Batch) error
}

// Recover takes up a segment as the active one. What follows Meta is scanned;
// the segment ends before the first byte that is not part of a good batch.
// bad says why when that is before Size; the caller cuts the file there.
func Recover(p Place, r Recovery) (s *Segment, bad, err error) {
	if r.Size < r.Meta.Bytes {
		return nil, nil, fmt.Errorf("%w: %s has %d bytes, at least %d were durable", ErrCorrupt, Name(r.Meta.Base, LogSuffix), r.Size, r.Meta.Bytes)
	}
	s = newSegment(p, NewMeta(r.Meta.Base), r.Interval)
	s.log = NewFile(p.FDs, p.FS, p.path(r.Meta.Base, LogSuffix), true)
	s.inMemory = true
	if r.Size == 0 {
		s.meta = r.Meta
		return s, nil, nil
	}
	if err := s.log.Acquire(); err != nil {
		return nil, nil, err
	}
	defer s.log.Release()
	if err := s.restoreIndex(r.Meta.Bytes); err != nil {
		return nil, nil, err
	}
	s.meta = r.Meta
	_, bad, err = Scan(s.log, r.Meta.Bytes, r.Size, r.Meta.End, r.Verify, func(_ int64, b *record.Batch) error {
		if int64(b.LastOffset()-s.base) > maxRel {
			return errBeyond
		}
		if r.OnBatch != nil {
			if err := r.OnBatch(b); err != nil {
				return err
			}
		}
		s.addLocked(&b.Header)
		return nil
	})
	if s.meta.Bytes > r.Meta.Bytes {
		s.meta.LastAppend = max(s.meta.LastAppend, r.ModTime)
		if s.meta.Created < 0 {
			s.meta.Created = r.ModTime
		}
	}
	if errors.Is(err, errBeyond) {
		return s, fmt.Errorf("position %d: %w: offset does not belong to this segment", s.meta.Bytes, record.ErrCorrupt), nil
	}
	return s, bad, err
}

const (
	maxRel = math.MaxInt32
	maxLog = math.MaxUint32 // the longest log that an index can describe
)

var errBeyond = errors.New("segment: offset beyond the segment's range")

// restoreIndex makes the index in memory for the first upTo bytes of the log:
// from the files of the last Persist as far as they go, from the log's headers
// after that.
func (s *Segment) restoreIndex(upTo int64) error {
	if upTo > smallIndex {
		m, entries, err := s.readIndex(maxLog)
		switch {
		case err == nil && m.Base == s.base && m.Bytes > upTo:
			// Written for a checkpoint that came to nothing. What it says of the
			// part below the recovery point, which does not change, is good.
			n := sort.Search(len(entries), func(i int) bool { return int64(entries[i].pos) >= upTo })
			s.entries = entries[:n:n]
			if n > 0 {
				s.nextPos = int64(entries[n-1].pos) + s.interval
			}
			return nil
		case err == nil && m.Base == s.base:
			s.meta, s.entries = m, entries
			if n := len(entries); n > 0 {
				s.nextPos = int64(entries[n-1].pos) + s.interval
			}
		case err != nil && !errors.Is(err, ErrCorrupt) && !IsNotExist(err):
			return err
		}
	}
	return s.indexHeaders(upTo)
}

// indexHeaders extends the index in memory over the batches from the end of
// s.meta to position upTo.
func (s *Segment) indexHeaders(upTo int64) error {
	v := view{meta: s.meta}
	v.meta.Bytes = upTo
	err := s.walk(&v, s.meta.Bytes, func(_ int64, h *record.Header) bool {
		s.addLocked(h)
		return true
	})
	return err
}

// PersistDue says whether Persist is worth its while for an active segment.
func (s *Segment) PersistDue() bool { return s.Meta().Bytes > smallIndex }

// Persist writes the index files. For a sealed segment they are synced (the
// caller syncs the directory) and replace the index in memory; for the active
// one they are a help for the next start, which checks them.
func (s *Segment) Persist() error {
	sealed := s.sealed.Load()
	s.mu.RLock()
	m, entries, inMemory := s.meta, s.entries, s.inMemory
	s.mu.RUnlock()
	if !inMemory {
		return nil
	}
	fs := s.place.FS
	if err := WriteFile(fs, s.index.path, appendIndex(nil, s.base, m.Bytes, entries), sealed); err != nil {
		return err
	}
	if err := WriteFile(fs, s.timeIndex.path, appendTimeIndex(nil, &m, entries), sealed); err != nil {
		return err
	}
	if sealed {
		s.mu.Lock()
		s.count, s.checked = len(entries), true
		s.entries, s.inMemory = nil, false
		s.mu.Unlock()
	}
	return nil
}

// rebuild makes the index of a sealed segment from its log's headers. It stays
// in memory when it cannot be written.
//
// REQUIRES: s.rebuilding is held.
func (s *Segment) rebuild() error {
	if err := s.log.Acquire(); err != nil {
		return err
	}
	defer s.log.Release()
	m := s.Meta()
	made := newSegment(s.place, NewMeta(s.base), defaultInterval)
	made.log = s.log
	if err := made.indexHeaders(m.Bytes); err != nil {
		return err
	}
	s.mu.Lock()
	s.entries, s.inMemory = made.entries, true
	s.mu.Unlock()
	if err := s.Persist(); err != nil && !IsShort(err) {
		return err
	}
	return nil
}

// ReadMeta reads the description in a sealed segment's time index. It answers
// ErrCorrupt unless the whole file is good and describes a log of logBytes.
func ReadMeta(p Place, base record.Offset, logBytes int64) (Meta, error) {
	s := newSegment(p, NewMeta(base), 0)
	limit := timeIndexHeader + (logBytes/record.HeaderSize+1)*timeIndexEntry
	b, err := ReadFile(p.FS, s.timeIndex.path, limit)
	if err != nil {
		return Meta{}, err
	}
	m, _, err := parseTimeIndex(b, func(int, int64, uint32) {})
	if err != nil {
		return Meta{}, err
	}
	if m.Base != base || m.Bytes != logBytes {
		return Meta{}, fmt.Errorf("%w: %s describes another log", ErrCorrupt, s.timeIndex.path)
	}
	return m, nil
}

// Rename gives the log file of the segment at base another suffix.
func Rename(p Place, base record.Offset, from, to string) error {
	if err := p.FS.Rename(p.path(base, from), p.path(base, to)); err != nil {
		return fmt.Errorf("segment: rename %s: %w", p.path(base, from), err)
	}
	return nil
}

// Path is the path of the file of the segment at base with the suffix.
func (p *Place) Path(base record.Offset, suffix string) string { return p.path(base, suffix) }
