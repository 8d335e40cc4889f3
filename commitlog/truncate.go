package commitlog

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/firnlog/firn/commitlog/producer"
	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

// TruncateTo removes everything at and above off: batches (one that holds off
// goes as a whole, and End is then where the last batch that stays ends, which
// may be below off), leader epochs that begin
// there, and what producers wrote there. At End it removes the epochs that begin
// there and wrote nothing. Below Start it empties the log, which
// then begins at off. It syncs before it returns.
//
// REQUIRES: the one writer; nothing at or above off was committed.
//
// Crash points: a checkpoint whose recovery point is above the cut is replaced
// before anything is cut. Until all is cut the old tail may come back, as if
// the truncation had not happened yet; never a part of it behind new data, for
// a segment only continues the log where it ends.
func (l *Log) TruncateTo(off record.Offset) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if off < 0 {
		return fmt.Errorf("%w: truncation to %d", ErrOutOfRange, off)
	}
	switch end := l.End(); {
	case off > end:
		return nil
	case off == end:
		l.forgetEpochs(end)
		return nil
	}
	return l.shortOr(l.truncate(off))
}

// forgetEpochs drops the epochs that begin at the end of the log. A crash may
// bring them back; a batch of an older epoch then shows that they are wrong, and
// otherwise they end where the log does.
func (l *Log) forgetEpochs(end record.Offset) {
	l.mu.Lock()
	kept := l.epochs.Truncate(end)
	changed := len(kept) < len(l.epochs)
	if changed {
		l.epochs = kept
	}
	l.mu.Unlock()
	if changed {
		l.flusher.appended(l, 0, false)
	}
}

// truncate is TruncateTo. REQUIRES: writing is held, off < the end of what was
// written.
func (l *Log) truncate(off record.Offset) error {
	l.files.Lock()
	defer l.files.Unlock()
	if off < l.Start() {
		return l.reset(off, l.epochsBelow(off), &producer.State{})
	}
	if err := l.flush(false, nil); err != nil {
		if isShort(err) {
			return err
		}
		return l.fail(err)
	}
	parts := l.list()
	i := find(parts, off)
	old := parts[i]
	cut, err := cutPoint(old, off)
	if err != nil {
		return err
	}
	next, err := l.reopenCut(old, cut)
	if err != nil {
		return err
	}
	// Both are held from here on, for there may be no descriptor once it is cut.
	if err := next.File().Acquire(); err != nil {
		return err
	}
	defer next.File().Release()
	dir, err := l.openDir()
	if err != nil {
		return err
	}
	defer dir.Close()
	end := next.Meta().End
	state, err := l.stateAt(end)
	if err != nil {
		return err
	}
	epochs := l.epochsBelow(end)
	kept := append(parts[:i:i], next)
	if end < l.checkpointed {
		cp := &checkpoint{
			start: kept[0].Base(), cleaned: min(l.cleanedEnd(), end), epochs: epochs, aborted: next.aborted,
			producers: state.AppendSnapshot(nil, end),
		}
		for _, p := range kept {
			cp.segments = append(cp.segments, p.Meta())
		}
		if err := l.replaceCheckpoint(cp); err != nil {
			next.Detach()
			return err
		}
	}
	l.mu.Lock()
	l.producers, l.epochs = *state, epochs
	l.cleaned = min(l.cleaned, end)
	l.end.Store(int64(end))
	l.flushed.Store(min(l.flushed.Load(), int64(end)))
	l.noteTxnsLocked()
	l.setPartsLocked(kept)
	l.mu.Unlock()
	if err := l.cutFiles(parts[i:], next, dir); err != nil {
		return l.fail(err)
	}
	return nil
}

// cutPoint finds the position in p from which on everything goes.
func cutPoint(p *part, off record.Offset) (int64, error) {
	if err := p.File().Acquire(); err != nil {
		return 0, err
	}
	defer p.File().Release()
	at, ok, err := p.Find(off)
	if err != nil {
		return 0, err
	}
	if !ok {
		return p.Meta().Bytes, nil
	}
	return at.Pos, nil
}

// reopenCut takes the first cut bytes of a segment up as the active one. It
// ends where its last batch does, also when a gap follows: a restart, which
// sees the batches alone, must find the same end, or it would not know the
// next segment by its name.
func (l *Log) reopenCut(old *part, cut int64) (*part, error) {
	s, bad, err := segment.Recover(l.place, segment.Recovery{
		Meta: segment.NewMeta(old.Base()), Size: cut, Interval: l.config.Load().IndexIntervalBytes, ModTime: old.Meta().LastAppend,
	})
	if err != nil {
		return nil, err
	}
	if bad != nil {
		return nil, fmt.Errorf("%w: segment %d below position %d: %w", ErrCorrupt, old.Base(), cut, bad)
	}
	p := &part{Segment: s}
	if p.aborted, err = l.abortedBelow(old, s.Meta().End); err != nil {
		return nil, err
	}
	for range p.aborted {
		s.AddAborted()
	}
	l.mu.Lock()
	p.snapshot = old.snapshot
	l.mu.Unlock()
	return p, nil
}

// cutFiles makes the disk follow: the segment next takes the place of gone[0],
// the others of gone are removed, newest first.
//
// REQUIRES: a reference to next's file is held; dir is the log's directory.
func (l *Log) cutFiles(gone []*part, next *part, dir vfs.File) error {
	for i := len(gone) - 1; i > 0; i-- {
		if err := l.removePart(gone[i]); err != nil {
			return err
		}
	}
	l.unpin(gone[0])
	gone[0].Detach()
	for _, suffix := range [...]string{segment.IndexSuffix, segment.TimeIndexSuffix, txnIndexSuffix} {
		if err := segment.RemoveFile(l.place.FS, l.place.Path(next.Base(), suffix)); err != nil {
			return err
		}
	}
	if err := next.Undo(); err != nil {
		return err
	}
	if err := next.Sync(); err != nil {
		return err
	}
	return dir.Sync()
}

// openDir opens the log's directory for syncs that must not want for a descriptor.
func (l *Log) openDir() (vfs.File, error) {
	dir, err := l.place.FS.OpenDir(l.place.Dir)
	if err != nil {
		return nil, fmt.Errorf("commitlog: open directory %s: %w", l.place.Dir, err)
	}
	return dir, nil
}

// unpin releases the reference for unsynced data.
func (l *Log) unpin(p *part) {
	l.mu.Lock()
	pinned := p.pinned
	p.pinned = false
	l.mu.Unlock()
	if pinned {
		p.File().Release()
	}
}

// removePart deletes all files of a segment that is out of the list. Slices
// that were taken before stay readable. The caller syncs the directory.
func (l *Log) removePart(p *part) error {
	l.unpin(p)
	errs := []error{p.Remove()}
	for _, suffix := range [...]string{txnIndexSuffix, snapshotSuffix} {
		errs = append(errs, segment.RemoveFile(l.place.FS, l.place.Path(p.Base(), suffix)))
	}
	return errors.Join(errs...)
}

// root makes the names in the log's directory durable, and once those of the
// directories above it.
func (l *Log) root() error {
	rooted := l.rooted.Load()
	if err := l.syncDirs(!rooted); err != nil {
		return err
	}
	if !rooted {
		l.rooted.Store(true)
	}
	return nil
}

func (l *Log) epochsBelow(end record.Offset) EpochCache {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epochs.Truncate(end)
}

func (l *Log) cleanedEnd() record.Offset {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cleaned
}

// replaceCheckpoint writes a checkpoint and makes sure that it is the one that
// a restart finds. Everything that may want for a descriptor comes before it is
// there: from then on a crash would carry it out.
func (l *Log) replaceCheckpoint(cp *checkpoint) error {
	if !l.rooted.Load() {
		if err := l.root(); err != nil {
			return l.shortOrFail(err)
		}
	}
	dir, err := l.openDir()
	if err != nil {
		return l.shortOrFail(err)
	}
	if err = l.writeCheckpoint(cp); err != nil {
		err = l.shortOrFail(err)
	} else if err = dir.Sync(); err != nil {
		err = l.fail(err)
	}
	if cerr := dir.Close(); err == nil && cerr != nil {
		err = l.fail(cerr)
	}
	return err
}

// shortOrFail is short, and what is not short is final.
func (l *Log) shortOrFail(err error) error {
	if s := l.short(err); s != nil {
		return s
	}
	return l.fail(err)
}

// ResetTo discards the log and begins an empty one at off, with the leader
// epochs and the producer snapshot (ProducerSnapshotAt's bytes; nil for none)
// of the history that it continues: the bucket wins.
//
// REQUIRES: the one writer.
//
// Crash points: a checkpoint with the reset flag comes first. A restart that
// finds it deletes all segments and begins at off; one that does not finds the
// log as it was.
func (l *Log) ResetTo(off record.Offset, epochs []EpochStart, producers []byte) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.files.Lock()
	defer l.files.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if off < 0 {
		return fmt.Errorf("%w: reset to %d", ErrOutOfRange, off)
	}
	var cache EpochCache
	for _, e := range epochs {
		cache.Assign(e.Epoch, e.Start)
	}
	state := &producer.State{}
	if producers != nil {
		var err error
		var at record.Offset
		if state, at, err = producer.ParseSnapshot(producers); err != nil {
			return err
		}
		if at > off {
			return fmt.Errorf("%w: producer state of offset %d for a log that begins at %d", ErrOutOfRange, at, off)
		}
	}
	return l.reset(off, cache, state)
}

// reset is ResetTo. REQUIRES: writing and files are held.
func (l *Log) reset(off record.Offset, epochs EpochCache, state *producer.State) error {
	cp := &checkpoint{reset: true, start: off, cleaned: off, epochs: epochs, producers: state.AppendSnapshot(nil, off)}
	if err := l.replaceCheckpoint(cp); err != nil {
		return err
	}
	next, err := l.beginAt(off, epochs, state)
	if err != nil {
		return l.fail(err)
	}
	cp.reset = false
	cp.segments = []segment.Meta{next.Meta()}
	if err := l.writeCheckpoint(cp); err != nil {
		return l.fail(err)
	}
	return nil
}

// beginAt replaces all segments by an empty one.
func (l *Log) beginAt(off record.Offset, epochs EpochCache, state *producer.State) (*part, error) {
	gone := l.list()
	for _, p := range gone {
		if err := l.removePart(p); err != nil {
			return nil, err
		}
	}
	s, err := segment.Create(l.place, off, l.config.Load().IndexIntervalBytes)
	if err != nil {
		return nil, err
	}
	next := &part{Segment: s, snapshot: state.AppendSnapshot(nil, off)}
	if err := segment.SyncDir(l.place.FS, l.place.Dir); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.producers = *state
	l.epochs = epochs
	l.cleaned = off
	l.end.Store(int64(off))
	l.flushed.Store(int64(off))
	l.noteTxnsLocked()
	l.setPartsLocked([]*part{next})
	return next, nil
}

// TrimTo drops the sealed segments that end at or below off and answers the
// bytes of their logs. The active segment stays, whatever off is. Slices taken
// before stay readable.
//
// Crash points: the checkpoint without the segments comes first, so one that
// comes back is removed by the next start. On a full disk there is no room for
// it: then files go one by one, oldest first, and a start accepts a list whose
// front is missing.
func (l *Log) TrimTo(off record.Offset) (freed int64, err error) {
	if l.trimmable(off) == 0 {
		return 0, l.Failed()
	}
	l.files.Lock()
	defer l.files.Unlock()
	if err := l.usable(); err != nil {
		return 0, err
	}
	n := l.trimmable(off)
	if n == 0 {
		return 0, nil
	}
	l.flusher.takeDue(l, true)
	err = l.flush(true, func(cp *checkpoint) {
		cp.segments = cp.segments[n:]
		cp.start = cp.segments[0].Base
	})
	oneByOne := errors.Is(err, ErrNoSpace)
	if err == nil {
		err = segment.SyncDir(l.place.FS, l.place.Dir)
	}
	if err != nil && !oneByOne {
		return 0, l.shortOrFail(err)
	}
	l.mu.Lock()
	parts := l.list()
	gone := parts[:n]
	l.setPartsLocked(parts[n:len(parts):len(parts)])
	l.mu.Unlock()
	for _, p := range gone {
		freed += p.Meta().Bytes
		err := l.removePart(p)
		if err == nil && oneByOne {
			err = segment.SyncDir(l.place.FS, l.place.Dir)
		}
		if err != nil {
			return freed, l.fail(err)
		}
	}
	return freed, nil
}

// trimmable counts the segments that a trim to off drops.
func (l *Log) trimmable(off record.Offset) int {
	parts := l.list()
	n := 0
	for n < len(parts)-1 && parts[n].Meta().End <= off {
		n++
	}
	return n
}
