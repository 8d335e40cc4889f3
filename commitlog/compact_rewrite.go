package commitlog

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

// rewriteBuffer is how many bytes of cleaned batches are written at once.
const rewriteBuffer = 1 << 20

// clean makes one segment of a group and swaps it in, unless nothing changed.
func (c *compaction) clean(group []*part) error {
	l := c.l
	s, err := segment.CreateAs(l.place, group[0].Base(), cleanedSuffix, l.config.Load().IndexIntervalBytes)
	if err != nil {
		return c.l.shortOr(err)
	}
	w := rewriter{c: c, out: s}
	err = w.run(group)
	var bytesIn int64
	for _, p := range group {
		bytesIn += p.Meta().Bytes
	}
	unchanged := err == nil && len(group) == 1 && !w.changed
	if err == nil && !unchanged {
		err = c.swap(group, s)
	}
	if err != nil || unchanged {
		s.Detach()
	}
	// A log that failed may have a checkpoint that relies on the file.
	if (err != nil || unchanged) && l.Failed() == nil {
		for _, suffix := range [...]string{cleanedSuffix, swapSuffix} {
			if rerr := segment.RemoveFile(l.place.FS, l.place.Path(s.Base(), suffix)); rerr != nil {
				return l.fail(errors.Join(err, rerr))
			}
		}
	}
	if err != nil {
		return c.l.shortOr(err)
	}
	c.stats.SegmentsIn += len(group)
	c.stats.SegmentsOut++
	c.stats.BytesIn += bytesIn
	c.stats.BytesOut += s.Meta().Bytes
	c.stats.RecordsIn += w.in
	c.stats.RecordsOut += w.kept
	return nil
}

// rewriter writes what is kept of a group of segments.
type rewriter struct {
	c   *compaction
	out *segment.Segment

	buf     []byte // batches that are not written yet
	flags   []bool // which records of the batch at hand are kept
	in      int64  // records read
	kept    int64  // records kept
	changed bool   // the output differs from the input
}

func (w *rewriter) run(group []*part) error {
	if err := w.out.File().Acquire(); err != nil {
		return err
	}
	defer w.out.File().Release()
	for _, p := range group {
		if err := w.c.scan(p, w.batch); err != nil {
			return err
		}
	}
	if err := w.flush(); err != nil {
		return err
	}
	first, last := group[0].Meta(), group[len(group)-1].Meta()
	w.out.SealCompacted(last.End, first.Created, last.LastAppend)
	return w.out.Sync()
}

// batch keeps of one batch what is to be kept.
func (w *rewriter) batch(b *record.Batch) error {
	var err error
	before := len(w.buf)
	w.in += int64(b.NumRecords)
	switch {
	case b.NumRecords == 0:
		if w.isNewest(&b.Header) {
			w.buf = append(w.buf, b.Raw...)
		}
	case b.IsControl():
		err = w.control(b)
	case w.c.isAborted(&b.Header):
		err = w.filter(b, 0, false)
	default:
		err = w.data(b)
	}
	if err != nil {
		return fmt.Errorf("commitlog: batch at %d: %w", b.BaseOffset, err)
	}
	if len(w.buf)-before != len(b.Raw) {
		w.changed = true
	}
	if len(w.buf) >= rewriteBuffer {
		return w.flush()
	}
	return nil
}

// isNewest says whether the batch carries its producer's last sequence.
func (w *rewriter) isNewest(h *record.Header) bool {
	last, ok := w.c.newest[h.ProducerID]
	return ok && h.HasProducer() && last == h.LastOffset()
}

// data keeps the records of a batch that are the latest of their key.
func (w *rewriter) data(b *record.Batch) error {
	c := w.c
	horizon, dated := b.DeleteHorizon()
	expired := dated && horizon <= c.o.Now.UnixMilli()
	w.flags = w.flags[:0]
	kept, tombstones := 0, false
	err := b.Records(func(r *record.Record) error {
		keep := r.Key != nil && c.keys.isLatest(r.Key, r.Offset)
		if keep && r.Value == nil {
			keep = !expired
			tombstones = tombstones || keep
		}
		if keep {
			kept++
		}
		w.flags = append(w.flags, keep)
		return nil
	})
	if err != nil {
		return err
	}
	w.kept += int64(kept)
	if kept > 0 && b.IsTransactional() {
		c.kept[b.ProducerID] = true
	}
	stamp := tombstones && !dated
	if kept == len(w.flags) && !stamp {
		w.buf = append(w.buf, b.Raw...)
		return nil
	}
	return w.filter(b, kept, stamp)
}

// filter rewrites a batch with the flagged records; with none if kept is 0.
func (w *rewriter) filter(b *record.Batch, kept int, stamp bool) error {
	w.changed = true
	keepEmpty := w.isNewest(&b.Header)
	if kept == 0 && !keepEmpty {
		return nil
	}
	i := 0
	var err error
	w.buf, _, err = b.Filter(w.buf, record.FilterOptions{
		KeepEmpty: keepEmpty, SetHorizon: stamp, DeleteHorizon: w.c.o.Now.Add(w.c.cfg.DeleteRetention).UnixMilli(),
	}, func(*record.Record) (bool, error) {
		i++
		return kept > 0 && w.flags[i-1], nil
	})
	return err
}

// control keeps a transaction's marker while records of it are there, and
// after that until the delete horizon that it then gets. Other control batches
// stay.
func (w *rewriter) control(b *record.Batch) error {
	c := w.c
	_, ok, err := b.EndTxnMarker()
	if err != nil {
		return err
	}
	keepAll := func(stamp bool) error {
		w.kept += int64(b.NumRecords)
		if !stamp {
			w.buf = append(w.buf, b.Raw...)
			return nil
		}
		w.flags = w.flags[:0]
		for range b.NumRecords {
			w.flags = append(w.flags, true)
		}
		return w.filter(b, len(w.flags), true)
	}
	if !ok {
		return keepAll(false)
	}
	hasRecords := c.kept[b.ProducerID]
	delete(c.kept, b.ProducerID)
	if hasRecords {
		return keepAll(false)
	}
	horizon, dated := b.DeleteHorizon()
	if dated && horizon <= c.o.Now.UnixMilli() {
		w.changed = true
		return nil
	}
	return keepAll(!dated)
}

// flush writes the buffered batches to the new segment.
func (w *rewriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	if err := w.c.pay(len(w.buf)); err != nil {
		return err
	}
	var batches []record.Batch
	for b, err := range record.Batches(w.buf) {
		if err != nil {
			return err
		}
		batches = append(batches, b)
	}
	if err := w.out.Write(batches); err != nil {
		return err
	}
	w.out.Commit(batches, 0)
	w.buf = w.buf[:0]
	return nil
}

// swap puts the cleaned segment in the place of the group.
func (c *compaction) swap(group []*part, s *segment.Segment) error {
	l := c.l
	l.files.Lock()
	defer l.files.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if !inList(l.list(), group) {
		return fmt.Errorf("%w: segments went away while they were cleaned", ErrStale)
	}
	if err := s.Rename(swapSuffix); err != nil {
		return err
	}
	// Both are held from here on: once the checkpoint is there the swap must not want
	// for a descriptor.
	if err := s.File().Acquire(); err != nil {
		return err
	}
	defer s.File().Release()
	dir, err := l.openDir()
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return l.fail(err)
	}
	m := s.Meta()
	l.flusher.takeDue(l, true)
	if err := l.flush(true, func(cp *checkpoint) { cp.swap = &m }); err != nil {
		if isShort(err) {
			return err
		}
		return l.fail(err)
	}
	if err := l.finishSwap(group, s, dir); err != nil {
		return l.fail(err)
	}
	return nil
}

// inList says whether the group stands in the list as it was chosen.
func inList(parts, group []*part) bool {
	i := indexOf(parts, group[0])
	if i < 0 || i+len(group) > len(parts) {
		return false
	}
	for j, p := range group {
		if parts[i+j] != p {
			return false
		}
	}
	return true
}

func indexOf(parts []*part, p *part) int {
	for i, q := range parts {
		if p == q {
			return i
		}
	}
	return -1
}

// finishSwap does what follows once the checkpoint says that the swap is due.
// The new file stays open over its renaming, so that readers find it at any
// moment.
//
// REQUIRES: a reference to s's file is held; dir is the log's directory.
func (l *Log) finishSwap(group []*part, s *segment.Segment, dir vfs.File) error {
	if err := dir.Sync(); err != nil {
		return err
	}
	next := &part{Segment: s}
	l.mu.Lock()
	next.snapshot = group[0].snapshot
	parts := l.list()
	i := indexOf(parts, group[0])
	list := append([]*part(nil), parts[:i]...)
	list = append(append(list, next), parts[i+len(group):]...)
	l.setPartsLocked(list)
	l.mu.Unlock()
	for _, p := range group {
		p.Detach()
	}
	if err := s.Rename(segment.LogSuffix); err != nil {
		return err
	}
	if err := dir.Sync(); err != nil {
		return err
	}
	// All records of aborted transactions are gone, and with them the use of the
	// index.
	if err := segment.RemoveFile(l.place.FS, l.place.Path(next.Base(), txnIndexSuffix)); err != nil {
		return err
	}
	for _, f := range [...]string{segment.IndexSuffix, segment.TimeIndexSuffix} {
		if err := segment.RemoveFile(l.place.FS, l.place.Path(next.Base(), f)); err != nil {
			return err
		}
	}
	// The next flush stores the index. A full disk must not keep the old files:
	// the checkpoint that completes the swap waits for room, or for a descriptor, they
	// need not.
	if err := l.flush(true, func(*checkpoint) {}); errors.Is(err, ErrNoFiles) {
		l.flusher.later(l, true)
	} else if err != nil && !errors.Is(err, ErrNoSpace) {
		return err
	}
	if err := dir.Sync(); err != nil {
		return err
	}
	for _, p := range group[1:] {
		if err := l.removePart(p); err != nil {
			return err
		}
	}
	return nil
}
