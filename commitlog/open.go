package commitlog

import (
	"errors"
	"fmt"
	"slices"

	"github.com/firnlog/firn/commitlog/producer"
	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

// Open opens a log, or begins one at InitialOffset where the directory holds
// none. It reads the recovery checkpoint, lists the directory, and scans what
// was appended since; a torn tail is cut off. What it recovered above the
// checkpoint is synced by the flusher before it counts in FlushedEnd.
//
// Errors: ErrCorrupt when something below the recovery point is missing.
func Open(o Options) (*Log, error) {
	if o.Dir == "" || o.Flusher == nil || o.FDs == nil || o.InitialOffset < 0 {
		return nil, errors.New("commitlog: Options need Dir, Flusher, FDs and an InitialOffset of 0 or more")
	}
	l := newLog(&o)
	r := recovery{l: l, o: &o, next: o.InitialOffset}
	if err := r.run(); err != nil {
		return nil, fmt.Errorf("commitlog: open %s: %w", o.Dir, err)
	}
	l.mu.Lock()
	l.noteTxnsLocked()
	l.mu.Unlock()
	if r.changed {
		l.flusher.appended(l, l.active().Meta().Bytes-r.known, true)
		l.flusher.request(l, true)
	}
	return l, nil
}

// recovery is the work of one Open.
//
// Crash points, by what a restart finds:
//   - no checkpoint: none was ever written, so all segments are scanned, each
//     beginning where the one before it ends; or it is damaged, which reads the
//     same way, with the sealed segments' own descriptions for their ends;
//   - segments missing at the front of the checkpoint's list: a trim was under
//     way; the whole list, but later ones are there: a trim on a disk without
//     room for the next checkpoint; in the middle or at the end of it:
//     ErrCorrupt;
//   - segments before the list: a trim or truncation was under way, removed;
//   - segments after the list: written since. Each must begin where the one
//     before ends, else it and all after it were cut off before, or never
//     became durable as a whole, and are removed;
//   - the reset flag: ResetTo was under way, everything goes, and the flag before the
//     log is used;
//   - the swap flag: see compaction;
//   - files without a segment, temporary files: removed.
type recovery struct {
	l *Log
	o *Options

	files map[string]bool // names in the directory
	logs  []record.Offset // bases of the .log files, in order
	cp    *checkpoint     // nil when there is none to rely on

	parts   []*part
	next    record.Offset // end of what was recovered so far
	known   int64         // bytes of the active segment below the recovery point
	changed bool          // there is something to sync
}

func (r *recovery) run() error {
	l := r.l
	if err := r.list(); err != nil {
		return err
	}
	if err := r.readCheckpoint(); err != nil {
		return err
	}
	if r.cp != nil && r.cp.reset {
		if err := r.finishReset(); err != nil {
			return err
		}
	}
	if r.cp != nil && r.cp.swap != nil {
		if err := r.finishSwap(); err != nil {
			return err
		}
	}
	var err error
	flushed := record.NoOffset
	if r.cp != nil {
		flushed = r.cp.end()
		err = r.fromCheckpoint()
	} else {
		err = r.fromScratch()
	}
	if err != nil {
		return err
	}
	if len(r.parts) == 0 {
		if err := r.create(); err != nil {
			return err
		}
	}
	l.mu.Lock()
	l.setPartsLocked(r.parts)
	l.mu.Unlock()
	l.end.Store(int64(r.next))
	flushed = max(flushed, l.Start())
	l.flushed.Store(int64(flushed))
	r.changed = r.changed || r.next > flushed
	l.dirChanged = l.dirChanged || r.changed
	if err := r.sweep(); err != nil {
		return err
	}
	if r.cp != nil && r.cp.reset {
		return r.endReset()
	}
	return nil
}

// list reads the directory, which it makes if there is none.
func (r *recovery) list() error {
	fs, dir := r.l.place.FS, r.l.place.Dir
	names, err := fs.List(dir)
	if segment.IsNotExist(err) {
		if err := fs.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		r.l.newDir = true
	} else if err != nil {
		return err
	}
	r.files = make(map[string]bool, len(names))
	for _, name := range names {
		r.files[name] = true
		if base, suffix, ok := segment.ParseName(name); ok && suffix == segment.LogSuffix {
			r.logs = append(r.logs, base)
		}
	}
	slices.Sort(r.logs)
	return nil
}

func (r *recovery) readCheckpoint() error {
	// Until a checkpoint has been written nobody has synced the directories.
	if !r.files[checkpointName] {
		r.l.newDir = true
		return nil
	}
	fs := r.l.place.FS
	b, err := segment.ReadFile(fs, fs.PathJoin(r.l.place.Dir, checkpointName), checkpointLimit)
	if err == nil {
		var cp *checkpoint
		if cp, err = parseCheckpoint(b); err == nil {
			err = r.useCheckpoint(cp)
		}
	}
	if err != nil {
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, producer.ErrCorrupt) {
			return err
		}
		r.l.logger.Warn("recovery checkpoint is damaged, reading the whole log", "dir", r.l.place.Dir, "err", err)
		r.changed = true
	}
	return nil
}

// useCheckpoint takes over the state that the checkpoint holds.
func (r *recovery) useCheckpoint(cp *checkpoint) error {
	state, end, err := producer.ParseSnapshot(cp.producers)
	if err != nil {
		return err
	}
	if end != cp.end() {
		return fmt.Errorf("%w: producer state at %d, recovery point %d", ErrCorrupt, end, cp.end())
	}
	r.cp = cp
	r.l.rooted.Store(true)
	r.l.checkpointed, r.l.hasCheckpoint = end, true
	r.l.producers = *state
	r.l.epochs = cp.epochs
	r.l.cleaned = cp.cleaned
	return nil
}

// fromCheckpoint takes up the listed segments and scans what came after.
func (r *recovery) fromCheckpoint() error {
	cp := r.cp
	listed := cp.segments
	for len(listed) > 0 && !r.has(listed[0].Base) {
		listed = listed[1:] // being trimmed
	}
	if len(listed) == 0 {
		r.next = cp.end()
		if n := len(cp.segments); n > 0 && cp.segments[n-1].Bytes > 0 {
			if len(r.logs) == 0 || r.logs[0] < cp.end() {
				return fmt.Errorf("%w: all segments up to %d are missing", ErrCorrupt, cp.end())
			}
			r.next = r.logs[0]
			if err := r.oldestSnapshot(); err != nil {
				return err
			}
		}
		r.changed = r.changed || len(cp.segments) > 0
		return r.tail(record.NoOffset)
	}
	for i := range listed[:len(listed)-1] {
		m := listed[i]
		size, _, err := r.stat(m.Base)
		if err != nil {
			return err
		}
		if size < m.Bytes {
			return fmt.Errorf("%w: segment %d has %d bytes of %d", ErrCorrupt, m.Base, size, m.Bytes)
		}
		r.parts = append(r.parts, &part{Segment: segment.Sealed(r.l.place, m), stored: true})
	}
	last := listed[len(listed)-1]
	r.next, r.known = last.End, last.Bytes
	p, good, err := r.take(last, cp.aborted)
	if err != nil {
		return err
	}
	r.parts = append(r.parts, p)
	if !good {
		return r.dropAfter(last.Base)
	}
	return r.tail(last.Base)
}

func (r *recovery) has(base record.Offset) bool {
	_, found := slices.BinarySearch(r.logs, base)
	return found
}

// tail takes up the segments after the one at base, one after the other as
// long as each begins where the last one ends.
func (r *recovery) tail(after record.Offset) error {
	i, _ := slices.BinarySearch(r.logs, after+1)
	for ; i < len(r.logs) && r.logs[i] == r.next; i++ {
		base := r.logs[i]
		r.changed = true
		r.seal(base)
		r.known = 0
		p, good, err := r.take(segment.NewMeta(base), nil)
		if err != nil {
			return err
		}
		r.parts = append(r.parts, p)
		if !good {
			return r.dropAfter(base)
		}
	}
	if i < len(r.logs) {
		return r.dropAfter(r.logs[i] - 1)
	}
	return nil
}

// seal ends the segment before the one that begins at base.
func (r *recovery) seal(base record.Offset) {
	if n := len(r.parts); n > 0 {
		r.parts[n-1].Seal(base)
	}
}

// dropAfter removes the segments that begin after base: they never were, or no
// longer are, part of the log.
func (r *recovery) dropAfter(base record.Offset) error {
	i, _ := slices.BinarySearch(r.logs, base+1)
	for _, b := range r.logs[i:] {
		r.l.logger.Warn("removing a segment that does not continue the log", "dir", r.l.place.Dir, "base", int64(b), "end", int64(r.next))
		if err := segment.RemoveFile(r.l.place.FS, r.l.place.Path(b, segment.LogSuffix)); err != nil {
			return err
		}
		r.changed = true
	}
	r.logs = r.logs[:i]
	return nil
}

func (r *recovery) stat(base record.Offset) (size, modTime int64, err error) {
	st, err := r.l.place.FS.Stat(r.l.place.Path(base, segment.LogSuffix))
	if err != nil {
		return 0, 0, err
	}
	return st.Size(), st.ModTime().UnixMilli(), nil
}

// take scans one segment above what m vouches for and cuts off what is not
// good; it answers whether everything was.
func (r *recovery) take(m segment.Meta, aborted []producer.Aborted) (*part, bool, error) {
	l := r.l
	size, modTime, err := r.stat(m.Base)
	if err != nil {
		return nil, false, err
	}
	p := &part{aborted: aborted}
	if m.Bytes == 0 {
		p.snapshot = l.producers.AppendSnapshot(nil, m.Base)
	}
	if r.o.Untrusted {
		if err := dropCache(&l.place, m); err != nil {
			return nil, false, err
		}
	}
	// Transactions that end in the scan count into the segment's description,
	// which exists only afterwards.
	before := len(p.aborted)
	seg, bad, err := segment.Recover(l.place, segment.Recovery{
		Meta: m, Size: size, Interval: l.config.Load().IndexIntervalBytes, ModTime: modTime, Verify: true,
		OnBatch: func(b *record.Batch) error { return r.apply(p, b, modTime) },
	})
	if errors.Is(err, errBadMarker) {
		// Validation lets no such batch in: it is damage of some kind.
		return nil, false, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if err != nil {
		return nil, false, err
	}
	p.Segment = seg
	for range len(p.aborted) - before {
		seg.AddAborted()
	}
	r.next = max(r.next, seg.Meta().End)
	if bad == nil {
		return p, true, nil
	}
	r.changed = true
	l.logger.Info("cutting off a torn tail", "dir", l.place.Dir, "segment", int64(m.Base),
		"end", int64(r.next), "bytes", size-seg.Meta().Bytes, "why", bad)
	return p, false, r.cut(p)
}

var errBadMarker = errors.New("commitlog: malformed transaction marker")

func (r *recovery) apply(p *part, b *record.Batch, now int64) error {
	l := r.l
	if b.LeaderEpoch != l.epochs.Last() {
		l.epochs.Note(b.LeaderEpoch, b.BaseOffset)
	}
	done, ended, err := applyProducer(&l.producers, b, now)
	if err != nil {
		return fmt.Errorf("%w: %w", errBadMarker, err)
	}
	if ended && !done.Commit {
		p.aborted = append(p.aborted, done.Aborted)
	}
	return nil
}

// cut makes the file as long as the segment.
func (r *recovery) cut(p *part) error {
	if err := p.File().Acquire(); err != nil {
		return err
	}
	defer p.File().Release()
	if err := p.Undo(); err != nil {
		return err
	}
	return p.Sync()
}

func dropCache(place *segment.Place, m segment.Meta) error {
	f := segment.NewFile(place.FDs, place.FS, place.Path(m.Base, segment.LogSuffix), false)
	if err := f.Acquire(); err != nil {
		return err
	}
	defer f.Detach()
	defer f.Release()
	return f.DropCache(m.Bytes)
}

// fromScratch scans all segments, from the oldest producer snapshot on.
func (r *recovery) fromScratch() error {
	l := r.l
	if len(r.logs) == 0 {
		return nil
	}
	r.changed = true
	r.next = r.logs[0]
	if err := r.oldestSnapshot(); err != nil {
		return err
	}
	for i, base := range r.logs {
		if base != r.next {
			return r.dropAfter(base - 1)
		}
		r.seal(base)
		p, good, err := r.take(segment.NewMeta(base), nil)
		if err != nil {
			return err
		}
		r.parts = append(r.parts, p)
		size, _, err := r.stat(base)
		if err != nil {
			return err
		}
		own, err := segment.ReadMeta(l.place, base, size)
		switch {
		case err == nil && good:
			// Sealed. Compaction may have left a gap at its end.
			if i+1 < len(r.logs) {
				r.next = max(r.next, own.End)
			}
		case err != nil && !damaged(err):
			return err
		}
		if !good {
			return r.dropAfter(base)
		}
	}
	return nil
}

// oldestSnapshot loads the producer state at the log's first offset, if it is
// there and good. Without one producers are known by what the log holds, and by
// the checkpoint if there is one.
func (r *recovery) oldestSnapshot() error {
	state, err := r.l.readSnapshot(r.next)
	switch {
	case err == nil:
		r.l.producers = *state
	case damaged(err):
	default:
		return err
	}
	return nil
}

// readSnapshot reads the producer snapshot file for the offset.
func (l *Log) readSnapshot(at record.Offset) (*producer.State, error) {
	b, err := segment.ReadFile(l.place.FS, l.place.Path(at, snapshotSuffix), checkpointLimit)
	if err != nil {
		return nil, err
	}
	state, end, err := producer.ParseSnapshot(b)
	if err != nil {
		return nil, err
	}
	if end != at {
		return nil, fmt.Errorf("%w: snapshot of %d in the file for %d", producer.ErrCorrupt, end, at)
	}
	return state, nil
}

// create begins the log with an empty segment.
func (r *recovery) create() error {
	l := r.l
	if err := r.dropAfter(record.NoOffset); err != nil {
		return err
	}
	s, err := segment.Create(l.place, r.next, l.config.Load().IndexIntervalBytes)
	if err != nil {
		return err
	}
	p := &part{Segment: s}
	if l.producers.Len() > 0 {
		p.snapshot = l.producers.AppendSnapshot(nil, r.next)
	}
	l.dirChanged = true
	r.parts = []*part{p}
	return nil
}

// sweep removes files that belong to no segment.
func (r *recovery) sweep() error {
	l := r.l
	bases := make(map[record.Offset]bool, len(r.parts))
	for _, p := range r.parts {
		bases[p.Base()] = true
	}
	for name := range r.files {
		if ours(name, bases) {
			continue
		}
		if err := segment.RemoveFile(l.place.FS, l.place.FS.PathJoin(l.place.Dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// ours says whether a file is part of the log with segments at bases, or none
// of its business.
func ours(name string, bases map[record.Offset]bool) bool {
	if len(name) > len(segment.TempSuffix) && name[len(name)-len(segment.TempSuffix):] == segment.TempSuffix {
		return false
	}
	base, suffix, ok := segment.ParseName(name)
	if !ok {
		return true
	}
	switch suffix {
	case segment.LogSuffix, segment.IndexSuffix, segment.TimeIndexSuffix, txnIndexSuffix, snapshotSuffix:
		return bases[base]
	case cleanedSuffix, swapSuffix:
		return false
	}
	return true
}

// finishSwap completes or forgets a compaction that a crash interrupted.
// The synced file waits under .swap until it was renamed for good; without it
// the renaming is done.
func (r *recovery) finishSwap() error {
	l, m := r.l, r.cp.swap
	if r.files[segment.Name(m.Base, swapSuffix)] {
		if err := segment.Rename(l.place, m.Base, swapSuffix, segment.LogSuffix); err != nil {
			return err
		}
	}
	for _, suffix := range [...]string{segment.IndexSuffix, segment.TimeIndexSuffix, txnIndexSuffix} {
		if err := segment.RemoveFile(l.place.FS, l.place.Path(m.Base, suffix)); err != nil {
			return err
		}
	}
	if err := segment.SyncDir(l.place.FS, l.place.Dir); err != nil {
		return err
	}
	var kept []segment.Meta
	for _, s := range r.cp.segments {
		if s.Base == m.Base {
			kept = append(kept, *m)
		} else if s.Base < m.Base || s.Base >= m.End {
			kept = append(kept, s)
		}
	}
	r.cp.segments = kept
	r.changed = true
	// The segments that went into it are removed by sweep.
	r.logs = slices.DeleteFunc(r.logs, func(b record.Offset) bool { return b > m.Base && b < m.End })
	return nil
}

// finishReset completes a ResetTo that a crash interrupted.
func (r *recovery) finishReset() error {
	if err := r.dropAfter(record.NoOffset); err != nil {
		return err
	}
	r.cp.segments = nil
	r.changed = true
	return nil
}

// endReset takes the flag back by which finishReset came here: as long as a start finds
// it, whatever was appended meanwhile goes.
func (r *recovery) endReset() error {
	l := r.l
	if err := l.syncDirs(true); err != nil {
		return err
	}
	l.rooted.Store(true)
	cp := *r.cp
	cp.reset, cp.segments = false, []segment.Meta{r.parts[0].Meta()}
	if err := l.writeCheckpoint(&cp); err != nil {
		return err
	}
	return segment.SyncDir(l.place.FS, l.place.Dir)
}
