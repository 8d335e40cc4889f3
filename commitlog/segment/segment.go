package segment

import (
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/firnlog/firn/record"
)

// Place is where segments live.
type Place struct {
	FS  vfs.FS
	FDs *FDCache
	Dir string
}

func (p *Place) path(base record.Offset, suffix string) string {
	return p.FS.PathJoin(p.Dir, Name(base, suffix))
}

// Segment is one segment of a log. One writer appends (Write, Commit) while
// any number of readers look things up.
type Segment struct {
	place Place
	base  record.Offset
	log   *File
	// index and timeIndex are the files of a persisted index.
	index, timeIndex *File

	interval int64 // bytes between index entries; the writer's
	nextPos  int64 // position from which on the next entry is due; the writer's

	// sealed: no more batches will come.
	sealed atomic.Bool
	// rebuilding is held while a damaged index is made anew; never with mu.
	rebuilding sync.Mutex

	mu   sync.RWMutex // guards the fields below, for moments
	meta Meta
	// entries are the index in memory: complete while inMemory, else empty.
	// Appended to only, so a reader may keep the slice that it saw.
	entries  []entry
	inMemory bool
	count    int  // of entries on disk, when not inMemory
	checked  bool // the files on disk were read whole and found good
	// cursor is where the last Read ended, cursorPos the position of the first
	// batch at or above it.
	cursor    record.Offset
	cursorPos int64
}

// Create makes an empty active segment. The caller syncs the directory before
// it counts on the file.
func Create(p Place, base record.Offset, interval int64) (*Segment, error) {
	return CreateAs(p, base, LogSuffix, interval)
}

// CreateHeld is Create with a reference to the log file held: it need not be opened
// again, for which there might be no descriptor.
func CreateHeld(p Place, base record.Offset, interval int64) (*Segment, error) {
	return create(p, base, LogSuffix, interval, 1)
}

// CreateAs is Create for a log file that has another suffix until Rename.
func CreateAs(p Place, base record.Offset, suffix string, interval int64) (*Segment, error) {
	return create(p, base, suffix, interval, 0)
}

func create(p Place, base record.Offset, suffix string, interval int64, refs int) (*Segment, error) {
	path := p.path(base, suffix)
	f, err := p.FDs.openOver(func() (vfs.File, error) { return p.FS.Create(path, vfs.WriteCategoryUnspecified) })
	if err != nil {
		return nil, fmt.Errorf("segment: create %s: %w", path, err)
	}
	s := newSegment(p, NewMeta(base), interval)
	s.log = NewFile(p.FDs, p.FS, path, true)
	s.log.adopt(f, refs)
	s.inMemory = true
	return s, nil
}

// Sealed describes a sealed segment that is on disk. It reads nothing.
func Sealed(p Place, m Meta) *Segment {
	s := newSegment(p, m, 0)
	s.log = NewFile(p.FDs, p.FS, p.path(m.Base, LogSuffix), false)
	s.sealed.Store(true)
	return s
}

func newSegment(p Place, m Meta, interval int64) *Segment {
	s := &Segment{place: p, base: m.Base, meta: m, interval: interval, nextPos: interval, cursor: m.Base}
	s.index = NewFile(p.FDs, p.FS, p.path(m.Base, IndexSuffix), false)
	s.timeIndex = NewFile(p.FDs, p.FS, p.path(m.Base, TimeIndexSuffix), false)
	return s
}

// Base is the offset that names the segment.
func (s *Segment) Base() record.Offset { return s.base }

// File is the log file.
func (s *Segment) File() *File { return s.log }

// Meta describes the segment as published.
func (s *Segment) Meta() Meta {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.meta
}

// IsSealed says whether Seal was called.
func (s *Segment) IsSealed() bool { return s.sealed.Load() }

// Seal ends appending. end is the next segment's base.
func (s *Segment) Seal(end record.Offset) {
	s.mu.Lock()
	s.meta.End = end
	s.mu.Unlock()
	s.sealed.Store(true)
}

// SealCompacted is Seal for a segment that compaction wrote in the place of
// others, whose times it takes over.
func (s *Segment) SealCompacted(end record.Offset, created, lastAppend int64) {
	s.mu.Lock()
	s.meta.Created, s.meta.LastAppend = created, lastAppend
	s.meta.Flags |= Compacted
	s.mu.Unlock()
	s.Seal(end)
}

// Rename gives the log file another suffix.
//
// REQUIRES: nobody opens the file meanwhile: it is open, or not known yet.
func (s *Segment) Rename(suffix string) error {
	to := s.place.path(s.base, suffix)
	if err := s.place.FS.Rename(s.log.Path(), to); err != nil {
		return fmt.Errorf("segment: rename %s: %w", s.log.Path(), err)
	}
	s.log.setPath(to)
	return nil
}

// IndexBytes is the size of the offset index so far.
func (s *Segment) IndexBytes() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.inMemory {
		return indexHeader + int64(len(s.entries))*indexEntry
	}
	return indexHeader + int64(s.count)*indexEntry
}

// Fits says whether the log can take a batch that ends at last: its position
// and offset must be representable in the index.
func (s *Segment) Fits(last record.Offset, size int64) bool {
	return int64(last-s.base) <= math.MaxInt32 && s.Meta().Bytes <= math.MaxUint32-size
}

// Write puts the batches at the end of the file in one vectored write. It
// publishes nothing: Commit does, or Undo cuts them off again.
//
// REQUIRES: the one writer; a reference on File() is held.
func (s *Segment) Write(batches []record.Batch) error {
	return writeAt(s.log.handle(), batches, s.Meta().Bytes)
}

// Commit publishes batches that Write has written. now is in ms.
//
// REQUIRES: the one writer.
func (s *Segment) Commit(batches []record.Batch, now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.meta.Created < 0 {
		s.meta.Created = now
	}
	s.meta.LastAppend = now
	for i := range batches {
		s.addLocked(&batches[i].Header)
	}
}

func (s *Segment) addLocked(h *record.Header) {
	if pos := s.meta.Bytes; pos >= s.nextPos && pos > 0 {
		s.entries = append(s.entries, entry{
			before: s.meta.MaxTimestamp, rel: uint32(h.BaseOffset - s.base), pos: uint32(pos),
		})
		s.nextPos = pos + s.interval
	}
	s.meta.Add(h)
}

// Undo cuts off what Write wrote after the published size.
//
// REQUIRES: the one writer; a reference on File() is held.
func (s *Segment) Undo() error {
	size := s.Meta().Bytes
	if err := truncate(s.log.handle(), size); !errors.Is(err, errNoTruncate) {
		return err
	}
	// No way to cut the open file: only in-memory file systems come here, and
	// they put a new file in its place.
	if err := s.replaceTruncated(size); err != nil {
		return err
	}
	return nil
}

// replaceTruncated puts a copy of the log's first size bytes in its place and
// moves the reference that the caller holds.
func (s *Segment) replaceTruncated(size int64) error {
	if err := TruncateFile(s.place.FS, s.log.Path(), size); err != nil {
		return err
	}
	return s.log.reopen()
}

// AddAborted counts an entry of the segment's transaction index.
func (s *Segment) AddAborted() {
	s.mu.Lock()
	s.meta.Aborted++
	s.mu.Unlock()
}

// Sync makes the log file's data durable. Errors: ErrSync.
//
// REQUIRES: a reference on File() is held.
func (s *Segment) Sync() error {
	if err := s.log.handle().SyncData(); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrSync, s.log.Path(), err)
	}
	return nil
}

// Detach makes the segment's files unobtainable for new readers and forgets
// the index in memory. The files stay on disk.
func (s *Segment) Detach() {
	s.log.Detach()
	s.index.Detach()
	s.timeIndex.Detach()
}

// Remove detaches the segment and unlinks its files. The caller syncs the
// directory.
func (s *Segment) Remove() error {
	s.Detach()
	var errs []error
	for _, f := range [...]*File{s.index, s.timeIndex, s.log} {
		if err := RemoveFile(s.place.FS, f.Path()); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// ReadBatch reads the whole batch at pos into buf, which grows when too small.
//
// REQUIRES: a reference on File() is held.
func (s *Segment) ReadBatch(pos int64, h *record.Header, buf []byte) (record.Batch, error) {
	if cap(buf) < h.Size() {
		buf = make([]byte, h.Size())
	}
	buf = buf[:h.Size()]
	if _, err := s.log.ReadAt(buf, pos); err != nil {
		return record.Batch{}, fmt.Errorf("segment: read %s: %w", s.log.Path(), noEOF(err))
	}
	return record.ReadBatch(buf)
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
