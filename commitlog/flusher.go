package commitlog

import (
	"container/list"
	"log/slog"
	"sync"
	"time"
)

// FlusherOptions sets how data reaches the disk.
type FlusherOptions struct {
	// Workers is the number of files that are synced at the same time.
	// Default 16.
	Workers int
	// CheckpointBytes is how much may be appended to one log before it is
	// synced and its recovery checkpoint written: what a restart must read
	// again. Default 128 MiB.
	CheckpointBytes int64
	// TotalBytes bounds the same over all logs. Default 1 GiB, which a start
	// reads from the page cache in less than a second.
	TotalBytes int64
	// CheckpointAge is how long an append may wait for a checkpoint. Default 30 s.
	CheckpointAge time.Duration
	// OnFatal is called, off any lock, when a log has failed because a sync or
	// write did: what the disk holds above the last sync is unknown. The broker
	// marks its data directory untrusted (Dir.MarkUntrusted) and stops.
	OnFatal func(dir string, err error)
}

// Flusher syncs the logs of one data directory. It owns the set of dirty logs
// and the goroutines that sync them: at most Workers, and none while nothing
// is dirty. Appends that arrive while a log is being synced wait for the next
// round together (group commit).
//
// A log is with at most one worker at a time, so FlushedEnd is published in
// order. A failed sync is never repeated: the log it happened to has failed.
type Flusher struct {
	opts FlusherOptions

	mu      sync.Mutex
	idle    sync.Cond // on mu: workers is 0 and queue is empty
	queue   []*Log    // to be synced, first in first out
	workers int
	closed  bool
	// aging holds logs with data above their checkpoint, oldest first; total
	// counts those bytes.
	aging list.List
	total int64
	timer *time.Timer // fires when the first of aging is due; nil when not armed
	// putOff holds logs whose flush found no descriptor; again fires when they are
	// tried once more, nil when there are none. toldNoFiles is when that was told last.
	putOff      []*Log
	again       *time.Timer
	toldNoFiles time.Time
}

const (
	// retryAfter is when a flush that found no descriptor is tried again.
	retryAfter = 200 * time.Millisecond
	// tellEvery is the least time between two complaints about descriptors.
	tellEvery = 10 * time.Second
)

// flushState is a log's place in the flusher, guarded by Flusher.mu.
type flushState struct {
	queued, running, again bool
	putOff                 bool // in Flusher.putOff
	due                    bool // the next round writes a checkpoint
	bytes                  int64
	since                  time.Time
	aging                  *list.Element
}

// NewFlusher starts nothing; goroutines come with work.
func NewFlusher(o FlusherOptions) *Flusher {
	if o.Workers <= 0 {
		o.Workers = 16
	}
	if o.CheckpointBytes <= 0 {
		o.CheckpointBytes = 128 << 20
	}
	if o.TotalBytes <= 0 {
		o.TotalBytes = 1 << 30
	}
	if o.CheckpointAge <= 0 {
		o.CheckpointAge = 30 * time.Second
	}
	if o.OnFatal == nil {
		o.OnFatal = func(string, error) {}
	}
	f := &Flusher{opts: o}
	f.idle.L = &f.mu
	return f
}

// appended notes that a log has n more bytes above its checkpoint. With sync
// it is synced as soon as a worker is free.
func (f *Flusher) appended(l *Log, n int64, sync bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	s := &l.flushState
	s.bytes += n
	f.total += n
	if s.aging == nil {
		s.since = time.Now()
		s.aging = f.aging.PushBack(l)
		f.armLocked()
	}
	if s.bytes >= f.opts.CheckpointBytes {
		s.due, sync = true, true
	}
	if sync {
		f.enqueueLocked(l)
	}
	for e := f.aging.Front(); f.total >= f.opts.TotalBytes && e != nil; e = e.Next() {
		if old := e.Value.(*Log); !old.flushState.due {
			old.flushState.due = true
			f.enqueueLocked(old)
			break
		}
	}
}

// request has a log synced soon, with a checkpoint if asked for.
func (f *Flusher) request(l *Log, checkpoint bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	l.flushState.due = l.flushState.due || checkpoint
	f.enqueueLocked(l)
}

func (f *Flusher) enqueueLocked(l *Log) {
	s := &l.flushState
	switch {
	case s.queued:
	case s.running:
		s.again = true
	default:
		s.queued = true
		f.queue = append(f.queue, l)
		if f.workers < f.opts.Workers {
			f.workers++
			go f.work()
		}
	}
}

// armLocked sets the timer for the oldest log above its checkpoint.
func (f *Flusher) armLocked() {
	if f.timer != nil || f.closed {
		return
	}
	e := f.aging.Front()
	if e == nil {
		return
	}
	wait := time.Until(e.Value.(*Log).flushState.since.Add(f.opts.CheckpointAge))
	f.timer = time.AfterFunc(max(wait, 0), f.onTimer)
}

func (f *Flusher) onTimer() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.timer = nil
	if f.closed {
		return
	}
	oldest := time.Now().Add(-f.opts.CheckpointAge)
	for e := f.aging.Front(); e != nil; {
		l := e.Value.(*Log)
		if l.flushState.since.After(oldest) {
			break
		}
		next := e.Next()
		f.leaveAgingLocked(l)
		l.flushState.due = true
		f.enqueueLocked(l)
		e = next
	}
	f.armLocked()
}

// leaveAgingLocked takes a log off the list; its bytes still count.
func (f *Flusher) leaveAgingLocked(l *Log) {
	if s := &l.flushState; s.aging != nil {
		f.aging.Remove(s.aging)
		s.aging = nil
	}
}

// takeDue is called by a log whose state is about to be captured: whatever is
// appended from then on counts towards its next checkpoint.
func (f *Flusher) takeDue(l *Log, force bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &l.flushState
	if !s.due && !force {
		return false
	}
	s.due = false
	f.total -= s.bytes
	s.bytes = 0
	f.leaveAgingLocked(l)
	return true
}

// work syncs logs until there are no more.
func (f *Flusher) work() {
	f.mu.Lock()
	for len(f.queue) > 0 {
		l := f.queue[0]
		f.queue[0] = nil
		f.queue = f.queue[1:]
		s := &l.flushState
		s.queued, s.running = false, true
		f.mu.Unlock()

		l.flushRound()

		f.mu.Lock()
		s.running = false
		if s.again {
			s.again = false
			s.queued = true
			f.queue = append(f.queue, l)
		}
	}
	f.queue = nil
	f.workers--
	if f.workers == 0 {
		f.idle.Broadcast()
	}
	f.mu.Unlock()
}

// later has a log synced again in a while, with a checkpoint if one was due.
func (f *Flusher) later(l *Log, checkpoint bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	l.flushState.due = l.flushState.due || checkpoint
	if !l.flushState.putOff {
		l.flushState.putOff = true
		f.putOff = append(f.putOff, l)
	}
	if f.again == nil {
		f.again = time.AfterFunc(retryAfter, f.onAgain)
	}
}

func (f *Flusher) onAgain() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.again = nil
	if f.closed {
		return
	}
	for _, l := range f.putOff {
		l.flushState.putOff = false
		f.enqueueLocked(l)
	}
	f.putOff = nil
}

// tellNoFiles complains now and then that there are no descriptors: each operation
// that meets it fails by itself, all the time.
func (f *Flusher) tellNoFiles(log *slog.Logger, err error) {
	f.mu.Lock()
	now := time.Now()
	quiet := now.Sub(f.toldNoFiles) < tellEvery
	if !quiet {
		f.toldNoFiles = now
	}
	f.mu.Unlock()
	if !quiet {
		log.Error("no file descriptor is left: what needs one is refused or put off until there is; raise the limit (ulimit -n, LimitNOFILE)", "err", err)
	}
}

// unchanged says whether nothing was appended since the last checkpoint.
func (f *Flusher) unchanged(l *Log) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return l.flushState.aging == nil && !l.flushState.due
}

// forget drops a closed log.
func (f *Flusher) forget(l *Log) {
	f.takeDue(l, true)
}

// Close ends the flusher after the rounds that are queued. Logs are closed
// first; what is appended afterwards is not synced.
func (f *Flusher) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if f.timer != nil {
		f.timer.Stop()
		f.timer = nil
	}
	if f.again != nil {
		f.again.Stop()
		f.again, f.putOff = nil, nil
	}
	for f.workers > 0 {
		f.idle.Wait()
	}
}
