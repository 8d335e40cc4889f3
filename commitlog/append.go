package commitlog

import (
	"errors"
	"fmt"
	"time"

	"github.com/firnlog/firn/commitlog/producer"
	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

// Append writes the batches to the end of the log in one vectored write (one
// for each segment, where they do not fit into the active one) and hands the
// log to the flusher. Batches are stamped with offset and epoch, validated,
// and begin at End() or above (a follower of a compacted log has gaps). Their
// buffers are free again when it returns.
//
// REQUIRES: one writer at a time.
//
// Errors: ErrNoSpace and ErrNoFiles leave the log exactly as it was. Any other error of a
// write is final: ErrFailed, now and later. ErrNotContiguous, ErrClosed.
func (l *Log) Append(batches []record.Batch) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if len(batches) == 0 {
		return nil
	}
	defer l.ForgetChecks()
	if err := l.usable(); err != nil {
		return err
	}
	end := l.End()
	for i, next := 0, end; i < len(batches); i++ {
		h := &batches[i].Header
		if h.BaseOffset < next || h.LastOffsetDelta < 0 {
			return fmt.Errorf("%w: batch at %d, end %d", ErrNotContiguous, h.BaseOffset, next)
		}
		next = h.NextOffset()
		if h.IsControl() && h.NumRecords > 0 {
			if _, _, err := batches[i].EndTxnMarker(); err != nil {
				return fmt.Errorf("commitlog: control batch at %d: %w", h.BaseOffset, err)
			}
		}
	}
	cfg := l.config.Load()
	now := time.Now()
	var bytes int64
	for rest := batches; len(rest) > 0; {
		n, size, err := l.appendRun(rest, cfg, now)
		if err != nil {
			return l.undoAppend(end, rest, batches, err)
		}
		bytes += size
		rest = rest[n:]
	}
	l.publishEnd(batches[len(batches)-1].NextOffset())
	l.flusher.appended(l, bytes, !l.config.Load().Lazy) // of now: SetConfig has synced what was there
	return nil
}

// publishEnd makes what was written visible.
func (l *Log) publishEnd(end record.Offset) { l.end.Store(int64(end)) }

// appendRun writes as many of the batches as belong into one segment and
// answers how many and their bytes. They are in the log afterwards, but not
// below its published end.
func (l *Log) appendRun(batches []record.Batch, cfg *Config, now time.Time) (int, int64, error) {
	p := l.active()
	if l.rollDue(p, &batches[0], cfg, now) {
		next, err := l.roll(p, true)
		switch {
		case err == nil:
			p = next
		case !errors.Is(err, ErrNoFiles) || !p.Fits(batches[0].LastOffset(), int64(len(batches[0].Raw))):
			return 0, 0, err
		}
		// Without a descriptor for another segment this one becomes longer.
	}
	m := p.Meta()
	n, size := 0, int64(0)
	for n < len(batches) {
		b := int64(len(batches[n].Raw))
		if n > 0 && (m.Bytes+size+b > cfg.SegmentBytes || !p.Fits(batches[n].LastOffset(), size+b)) {
			break
		}
		size += b
		n++
	}
	more := n < len(batches)
	batches = batches[:n]
	if err := l.pin(p); err != nil {
		return 0, 0, l.shortOr(err)
	}
	if err := p.Write(batches); err != nil {
		defer l.unbusy(p)
		if !segment.IsNoSpace(err) {
			return 0, 0, err
		}
		if uerr := p.Undo(); uerr != nil {
			return 0, 0, fmt.Errorf("after %w: %w", err, uerr)
		}
		return 0, 0, fmt.Errorf("%w: %s: %w", ErrNoSpace, l.place.Dir, err)
	}
	return n, size, l.commit(p, batches, now.UnixMilli(), size, more)
}

// pin keeps the active segment's file open until it is synced: an error of
// writing it back must not be lost with the descriptor. The part is busy until
// commit or unbusy, and over the runs of one append: it need not be opened again in
// its middle.
func (l *Log) pin(p *part) error {
	l.mu.Lock()
	p.busy = true
	pinned := p.pinned
	l.mu.Unlock()
	if pinned {
		return nil
	}
	if err := p.File().Acquire(); err != nil {
		l.unbusy(p)
		return err
	}
	l.mu.Lock()
	p.pinned = true
	l.mu.Unlock()
	return nil
}

// unbusy ends a write that came to nothing.
func (l *Log) unbusy(p *part) {
	l.mu.Lock()
	p.busy = false
	l.mu.Unlock()
}

// commit takes written batches into the log's state. more says that the append goes on.
func (l *Log) commit(p *part, batches []record.Batch, now, size int64, more bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.Commit(batches, now)
	p.busy = more
	l.size.Add(size)
	for i := range batches {
		if err := l.applyLocked(p, &batches[i], now); err != nil {
			return err
		}
	}
	l.noteTxnsLocked()
	return nil
}

// applyLocked takes one batch into epochs, producers and aborted transactions.
func (l *Log) applyLocked(p *part, b *record.Batch, now int64) error {
	if b.LeaderEpoch != l.epochs.Last() {
		l.epochs.Note(b.LeaderEpoch, b.BaseOffset)
	}
	done, ended, err := applyProducer(&l.producers, b, now)
	if err != nil {
		return err
	}
	if ended && !done.Commit {
		p.aborted = append(p.aborted, done.Aborted)
		p.AddAborted()
	}
	return nil
}

// applyProducer takes one batch into a producer state.
func applyProducer(s *producer.State, b *record.Batch, now int64) (producer.Completed, bool, error) {
	if !b.HasProducer() {
		return producer.Completed{}, false, nil
	}
	if !b.IsControl() || b.NumRecords == 0 {
		done, ended := s.Apply(&b.Header, nil, now)
		return done, ended, nil
	}
	m, ok, err := b.EndTxnMarker()
	if err != nil {
		return producer.Completed{}, false, fmt.Errorf("commitlog: control batch at %d: %w", b.BaseOffset, err)
	}
	marker := &m
	if !ok {
		marker = nil
	}
	done, ended := s.Apply(&b.Header, marker, now)
	return done, ended, nil
}

// undoAppend ends an append that did not work out. What earlier runs of it
// wrote is cut off again when the disk was full, or there was no descriptor.
func (l *Log) undoAppend(end record.Offset, rest, all []record.Batch, err error) error {
	if !isShort(err) {
		return l.fail(err)
	}
	if len(rest) == len(all) {
		return err
	}
	// The end that is published stays: what truncate syncs above it must not
	// count as flushed.
	if terr := l.truncate(end); terr != nil {
		return l.fail(fmt.Errorf("after %w: %w", err, terr))
	}
	return err
}

// rollDue says whether a batch must begin a new segment.
func (l *Log) rollDue(p *part, b *record.Batch, cfg *Config, now time.Time) bool {
	m := p.Meta()
	if m.Bytes == 0 {
		return !p.Fits(b.LastOffset(), int64(len(b.Raw))) && l.End() > m.Base
	}
	size := int64(len(b.Raw))
	return m.Bytes+size > cfg.SegmentBytes || !p.Fits(b.LastOffset(), size) ||
		p.IndexBytes() >= cfg.IndexBytes || old(&m, cfg, now)
}

func old(m *segment.Meta, cfg *Config, now time.Time) bool {
	return m.Bytes > 0 && m.Created >= 0 && now.Sub(time.UnixMilli(m.Created)) >= cfg.SegmentAge
}

// roll seals the active segment and begins a new one where it ends, which is pinned
// and, for an append, busy. The flusher syncs the old one and writes its indexes.
//
// Crash points: the new file may be missing after power loss, which loses only
// what was not synced; it may be there without the end of the old one, which
// recovery sees by its name, and drops it.
//
// REQUIRES: writing is held.
func (l *Log) roll(p *part, busy bool) (*part, error) {
	end := p.Meta().End
	cfg := l.config.Load()
	if !l.rooted.Load() {
		// Nothing but the first segment's name says where the log begins: it must
		// be durable before another segment can be.
		if err := l.root(); err != nil {
			return nil, l.shortOr(err)
		}
	}
	s, err := segment.CreateHeld(l.place, end, cfg.IndexIntervalBytes)
	if err != nil {
		return nil, l.shortOr(err)
	}
	next := &part{Segment: s, pinned: true, busy: busy}
	l.mu.Lock()
	p.busy = false
	next.snapshot = l.producers.AppendSnapshot(nil, end)
	p.Seal(end)
	l.dirChanged = true
	parts := l.list()
	l.setPartsLocked(append(parts[:len(parts):len(parts)], next))
	l.mu.Unlock()
	l.flusher.request(l, true)
	return next, nil
}

// MaybeRoll seals the active segment when it holds data and is older than
// SegmentAge. It may be called beside the writer.
func (l *Log) MaybeRoll(now time.Time) (bool, error) {
	return l.seal(func(m *segment.Meta) bool { return old(m, l.config.Load(), now) })
}

// Roll seals the active segment when it holds data. It may be called beside the
// writer.
func (l *Log) Roll() (bool, error) {
	return l.seal(func(m *segment.Meta) bool { return m.Bytes > 0 })
}

// seal rolls while the active segment is due, by a look without the lock and
// another with it.
func (l *Log) seal(due func(*segment.Meta) bool) (bool, error) {
	if m := l.active().Meta(); !due(&m) {
		return false, nil
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.usable(); err != nil {
		return false, err
	}
	p := l.active()
	if m := p.Meta(); !due(&m) {
		return false, nil
	}
	if _, err := l.roll(p, false); err != nil {
		if isShort(err) {
			return false, err
		}
		return false, l.fail(err)
	}
	return true, nil
}

// CheckProducer decides whether the leader may append a client's batch, which
// is stamped with its offsets already. Batches found new are remembered until
// the next Append or ForgetChecks, so that those gathered for one Append are
// checked against each other.
//
// REQUIRES: the one writer.
//
// Errors: ErrOutOfOrderSequence, ErrStaleProducerEpoch, ErrInvalidTxnState.
func (l *Log) CheckProducer(h *record.Header) (producer.Verdict, error) {
	if !h.HasProducer() {
		return producer.Verdict{}, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.producers.Check(h)
}

// ForgetChecks drops what CheckProducer remembers of batches that will not be
// appended.
func (l *Log) ForgetChecks() {
	l.mu.Lock()
	l.producers.Forget()
	l.mu.Unlock()
}

// CheckMarker decides whether the leader may append a transaction marker.
//
// Errors: ErrStaleProducerEpoch, ErrStaleCoordinator.
func (l *Log) CheckMarker(producerID int64, epoch int16, coordinator int32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.producers.CheckMarker(producerID, epoch, coordinator)
}
