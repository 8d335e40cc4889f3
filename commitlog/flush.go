package commitlog

import (
	"bytes"
	"context"
	"errors"

	"github.com/firnlog/firn/commitlog/producer"
	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

// capture is what one flush makes durable: the log as it was at a moment.
type capture struct {
	end   record.Offset
	parts []*part // not stored yet, in order, the last one active
	// snapshots are producer states at segment bases, to be written.
	snapshots []*part
	states    [][]byte
	dir, top  bool        // the directory, and those above it, are to be synced
	cp        *checkpoint // nil when none is due
}

// flushRound is one turn with a flusher worker.
func (l *Log) flushRound() {
	l.files.Lock()
	defer l.files.Unlock()
	if l.usable() != nil {
		return // failed or closed meanwhile; waiters were answered
	}
	due := l.flusher.takeDue(l, false)
	switch err := l.flush(due, nil); {
	case errors.Is(err, ErrNoFiles):
		l.flusher.later(l, due)
	case err != nil:
		// fail has told the owner and answered the waiters.
		_ = l.fail(err)
	}
}

// flush syncs what was appended, stores what was sealed, publishes FlushedEnd
// and, with checkpoint, writes the recovery checkpoint, after edit has changed
// it. A full disk only puts off what is not data. Without descriptors nothing is
// lost, and all may be put off: ErrNoFiles.
//
// Crash points: data is synced first, then the files derived from it, then
// the directory, then the checkpoint takes its place by a rename. So a
// checkpoint never claims what is not durable, and each file it relies on is.
//
// REQUIRES: files is held.
func (l *Log) flush(withCheckpoint bool, edit func(*checkpoint)) error {
	c := l.capture(withCheckpoint)
	if c.cp != nil && edit == nil && c.end > l.End() {
		// An append is under way. It may yet be undone, for want of space, and then
		// there would be none for a checkpoint that takes this one back.
		c.cp = nil
		l.flusher.request(l, true)
	}
	dir, top := c.dir, c.top
	putOff := func(err error) error {
		l.mu.Lock()
		l.dirChanged, l.newDir = l.dirChanged || dir || c.dir, l.newDir || top
		l.mu.Unlock()
		return l.shortOr(err)
	}
	for _, p := range c.parts {
		if err := p.File().Acquire(); err != nil {
			return putOff(err)
		}
		err := p.Sync()
		p.File().Release()
		if err != nil {
			return err
		}
	}
	stored, short, err := l.storeDerived(&c)
	if err != nil {
		return err
	}
	if c.dir {
		if err := l.syncDirs(c.top); err != nil {
			return putOff(err)
		}
		if c.top {
			l.rooted.Store(true)
		}
	}
	l.publishFlushed(&c, stored)
	if c.cp != nil && short != nil && edit != nil {
		return l.shortOr(short)
	}
	if c.cp != nil && short == nil {
		if edit != nil {
			edit(c.cp)
		}
		if err := l.writeCheckpoint(c.cp); err != nil {
			if !segment.IsShort(err) {
				return err
			}
			l.tellShort("the recovery checkpoint", err)
			if edit != nil {
				return l.shortOr(err)
			}
		}
	}
	return nil
}

// capture takes the picture that a flush works from.
func (l *Log) capture(withCheckpoint bool) capture {
	l.mu.Lock()
	defer l.mu.Unlock()
	parts := l.list()
	c := capture{dir: l.dirChanged, top: l.newDir}
	last := parts[len(parts)-1]
	c.end = last.Meta().End
	for _, p := range parts {
		if !p.stored {
			c.parts = append(c.parts, p)
		}
		if p.snapshot != nil {
			c.snapshots = append(c.snapshots, p)
			c.states = append(c.states, p.snapshot)
		}
	}
	l.dirChanged, l.newDir = false, false
	if withCheckpoint {
		c.cp = l.checkpointLocked(parts)
	}
	return c
}

// checkpointLocked describes the log as it is now.
func (l *Log) checkpointLocked(parts []*part) *checkpoint {
	last := parts[len(parts)-1]
	cp := &checkpoint{
		start: parts[0].Base(), cleaned: l.cleaned,
		segments:  make([]segment.Meta, len(parts)),
		epochs:    append(EpochCache(nil), l.epochs...),
		aborted:   append([]producer.Aborted(nil), last.aborted...),
		producers: l.producers.AppendSnapshot(nil, last.Meta().End),
	}
	for i, p := range parts {
		cp.segments[i] = p.Meta()
	}
	return cp
}

// storeDerived writes the indexes of sealed segments and the producer
// snapshots between them. It answers which segments need no further work, and
// why some are left: there was no room, or no descriptor.
func (l *Log) storeDerived(c *capture) (stored []*part, short, err error) {
	full := func(err error) ([]*part, error, error) {
		if !segment.IsShort(err) {
			return nil, nil, err
		}
		l.tellShort("the indexes of a segment", err)
		return stored, err, nil
	}
	for i, p := range c.snapshots {
		path := l.place.Path(p.Base(), snapshotSuffix)
		if err := segment.WriteFile(l.place.FS, path, bytes.Clone(c.states[i]), true); err != nil {
			return full(err)
		}
		c.dir = true
		l.mu.Lock()
		p.snapshot = nil
		l.mu.Unlock()
	}
	last := len(c.parts) - 1 // active when the picture was taken
	for _, p := range c.parts[:last] {
		if err := l.storePart(p); err != nil {
			return full(err)
		}
		c.dir = true
		stored = append(stored, p)
	}
	if p := c.parts[last]; c.cp != nil && p.PersistDue() {
		if err := p.Persist(); err != nil {
			return full(err)
		}
	}
	return stored, nil, nil
}

// tellShort says that a file was put off.
func (l *Log) tellShort(what string, err error) {
	if segment.IsNoFiles(err) {
		l.place.FDs.GiveWay() // what comes next wants one, too
		l.flusher.tellNoFiles(l.logger, err)
		return
	}
	l.logger.Warn("no space for "+what, "dir", l.place.Dir, "err", err)
}

// storePart writes the index files of a sealed and synced segment.
func (l *Log) storePart(p *part) error {
	if err := l.storeAborted(p); err != nil {
		return err
	}
	return p.Persist()
}

func (l *Log) storeAborted(p *part) error {
	l.mu.Lock()
	aborted := p.aborted
	l.mu.Unlock()
	if len(aborted) == 0 {
		return nil
	}
	path := l.place.Path(p.Base(), txnIndexSuffix)
	return segment.WriteFile(l.place.FS, path, producer.AppendTxnIndex(nil, aborted), true)
}

// syncDirs makes the entries of the log's directory durable, and with top
// those of the topic's and the data directory.
func (l *Log) syncDirs(top bool) error {
	fs, dir := l.place.FS, l.place.Dir
	if err := segment.SyncDir(fs, dir); err != nil {
		return err
	}
	if !top {
		return nil
	}
	topic := fs.PathDir(dir)
	if err := segment.SyncDir(fs, topic); err != nil {
		return err
	}
	return segment.SyncDir(fs, fs.PathDir(topic))
}

// publishFlushed makes the new FlushedEnd known.
func (l *Log) publishFlushed(c *capture, stored []*part) {
	l.mu.Lock()
	for _, p := range stored {
		p.stored, p.aborted = true, nil
	}
	var unpin []*part
	for _, p := range c.parts {
		if p.pinned && !p.busy && (p.stored || p.Meta().End <= c.end) {
			p.pinned = false
			unpin = append(unpin, p)
		}
	}
	// An append that is not published yet may be undone.
	end := min(c.end, l.End())
	moved := end > l.FlushedEnd()
	if moved {
		l.flushed.Store(int64(end))
	}
	var done []waiter
	rest := l.waiters[:0]
	for _, w := range l.waiters {
		if w.end <= end {
			done = append(done, w)
		} else {
			rest = append(rest, w)
		}
	}
	l.waiters = rest
	l.mu.Unlock()
	for _, p := range unpin {
		p.File().Release()
	}
	if moved {
		l.onFlushed(end)
	}
	for _, w := range done {
		w.done <- nil
	}
}

// writeCheckpoint replaces the recovery checkpoint.
//
// REQUIRES: files is held; what cp claims is durable.
func (l *Log) writeCheckpoint(cp *checkpoint) error {
	path := l.place.FS.PathJoin(l.place.Dir, checkpointName)
	if err := segment.WriteFile(l.place.FS, path, cp.encode(), true); err != nil {
		return err
	}
	l.checkpointed, l.hasCheckpoint = cp.end(), true
	return nil
}

// Flush waits until all that was appended before the call is durable.
func (l *Log) Flush(ctx context.Context) error {
	end := l.End()
	l.mu.Lock()
	switch {
	case l.closed.Load():
		l.mu.Unlock()
		return ErrClosed
	case l.Failed() != nil:
		l.mu.Unlock()
		return l.Failed()
	case l.FlushedEnd() >= end:
		l.mu.Unlock()
		return nil
	}
	w := waiter{end: end, done: make(chan error, 1)}
	l.waiters = append(l.waiters, w)
	l.mu.Unlock()
	l.flusher.request(l, false)
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close ends the log. With clean all is synced and the recovery checkpoint
// written first, so that the next Open reads nothing else; without, the files
// are left as they are. Waiters of Flush get ErrClosed. Slices stay readable
// until released.
//
// Errors: ErrNoFiles if not all could be synced; the log is closed all the same.
func (l *Log) Close(clean bool) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.files.Lock()
	defer l.files.Unlock()
	if l.closed.Load() {
		return ErrClosed
	}
	var err error
	// Most of many logs are idle: what their checkpoint says is still so.
	idle := l.flusher.unchanged(l) && (l.checkpointed == l.End() && l.hasCheckpoint || l.Size() == 0 && !l.hasCheckpoint)
	if clean && l.Failed() == nil && !idle {
		l.flusher.takeDue(l, true)
		err = l.flush(true, func(cp *checkpoint) { cp.clean = true })
		switch {
		case isShort(err) && l.FlushedEnd() == l.End():
			err = nil // the next start reads the tail again
		case isShort(err): // not clean: what is not synced may be in the page cache alone
		case err != nil:
			err = l.fail(err)
		}
	}
	l.mu.Lock()
	l.closed.Store(true)
	waiters := l.waiters
	l.waiters = nil
	var unpin []*part
	for _, p := range l.list() {
		if p.pinned {
			p.pinned = false
			unpin = append(unpin, p)
		}
	}
	l.mu.Unlock()
	for _, p := range unpin {
		p.File().Release()
	}
	for _, w := range waiters {
		w.done <- ErrClosed
	}
	l.flusher.forget(l)
	for _, p := range l.list() {
		p.Detach()
	}
	return err
}
