package commitlog

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/firnlog/firn/commitlog/producer"
	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

// Files of a log beside those of package segment.
const (
	snapshotSuffix = ".snapshot" // producer state at the offset in the name
	txnIndexSuffix = ".txnindex" // aborted transactions whose markers are in the segment
	cleanedSuffix  = ".cleaned"  // compaction's output while it is written
	swapSuffix     = ".swap"     // the same, complete, before it takes its place
)

// part is a segment and what the log keeps with it.
type part struct {
	*segment.Segment

	// Guarded by Log.mu:

	// aborted are the aborted transactions whose markers are in the segment,
	// while they are not in its transaction index file.
	aborted []producer.Aborted
	// snapshot is the producer state at the segment's base, while it is not in
	// its file; nil when it is, or when there is none.
	snapshot []byte
	// pinned: a reference on the log file is held because it has unsynced data.
	// Only the writer pins, and while it is busy writing only it unpins.
	pinned, busy bool
	// stored: sealed, synced, and its indexes are on disk.
	stored bool
}

// Log is the local log of one replica. See the package comment.
type Log struct {
	place     segment.Place
	flusher   *Flusher
	logger    *slog.Logger
	onFlushed func(record.Offset)
	config    atomic.Pointer[Config]

	// parts are the segments in order, the last one active. Replaced as a whole
	// under mu, read without. INVARIANT: never empty; each one's End is the next
	// one's Base.
	parts atomic.Pointer[[]*part]
	// start <= flushed <= end, and firstOpen is NoOffset or in [0, end).
	start, end, flushed, firstOpen atomic.Int64
	size                           atomic.Int64 // bytes of all segments
	hasTxns                        atomic.Bool  // LastStable may differ from the watermark
	failure                        atomic.Pointer[error]

	// writing is the token of the one writer: Append, roll, truncation. It
	// orders callers by mistake concurrent; readers never take it.
	writing sync.Mutex
	// files is the token of whoever changes files other than by appending:
	// flush, checkpoint, trim, swap, truncation. Neither Append nor Read takes
	// it, so that nobody waits for I/O but other maintenance.
	files sync.Mutex
	// compacting is held by the one run of Compact.
	compacting sync.Mutex
	// checkpointed is the recovery point of the checkpoint on disk, if there is
	// one. Guarded by files.
	checkpointed  record.Offset
	hasCheckpoint bool

	mu         sync.Mutex // guards the fields below; never held across I/O
	producers  producer.State
	epochs     EpochCache
	cleaned    record.Offset // compaction has come this far
	dirChanged bool          // the directory has entries that are not synced
	newDir     bool          // nor is the directory itself in its parents
	waiters    []waiter

	closed atomic.Bool // set under mu
	// rooted: the log's first file and the directories above it are durable.
	rooted atomic.Bool

	flushState flushState // guarded by flusher.mu
}

// Lock order: compacting, writing, files, mu, then those of segments and descriptors;
// flusher.mu after mu.

type waiter struct {
	end  record.Offset
	done chan error // capacity 1
}

func (l *Log) list() []*part { return *l.parts.Load() }

func (l *Log) active() *part {
	parts := l.list()
	return parts[len(parts)-1]
}

// setPartsLocked publishes a new list of segments.
func (l *Log) setPartsLocked(parts []*part) {
	l.parts.Store(&parts)
	l.start.Store(int64(parts[0].Base()))
	var size int64
	for _, p := range parts {
		size += p.Meta().Bytes
	}
	l.size.Store(size)
}

// noteTxnsLocked publishes what readers want to know of transactions.
func (l *Log) noteTxnsLocked() {
	l.firstOpen.Store(int64(l.producers.FirstOpen()))
	l.hasTxns.Store(l.producers.HasTxns())
}

// SetConfig changes the topic's settings; they count from the next append.
func (l *Log) SetConfig(c Config) {
	c = c.withDefaults()
	old := l.config.Swap(&c)
	if old != nil && old.Lazy && !c.Lazy {
		l.flusher.request(l, false)
	}
}

// Config is the settings in force, defaults filled in.
func (l *Log) Config() Config { return *l.config.Load() }

// Start is the offset of the first segment, the local log start.
func (l *Log) Start() record.Offset { return record.Offset(l.start.Load()) }

// End is the offset that the next record gets.
func (l *Log) End() record.Offset { return record.Offset(l.end.Load()) }

// FlushedEnd is the offset below which everything survives power loss.
func (l *Log) FlushedEnd() record.Offset { return record.Offset(l.flushed.Load()) }

// FirstUnstable is the first offset of the oldest open transaction, NoOffset
// when none is open. LastStable is what bounds read_committed.
func (l *Log) FirstUnstable() record.Offset { return record.Offset(l.firstOpen.Load()) }

// LastStable is the last stable offset under the high watermark: at or below
// it, and below each transaction that is open or whose marker the watermark
// has not passed. Watermarks must not go back.
func (l *Log) LastStable(highWatermark record.Offset) record.Offset {
	if !l.hasTxns.Load() {
		return highWatermark
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	stable := l.producers.LastStable(highWatermark)
	l.hasTxns.Store(l.producers.HasTxns())
	return stable
}

// Size is the bytes of all segments' logs.
func (l *Log) Size() int64 { return l.size.Load() }

// Failed is nil, or why the log takes no more changes.
func (l *Log) Failed() error {
	if err := l.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// fail puts the log into the failed state and tells its owner once.
func (l *Log) fail(err error) error {
	err = fmt.Errorf("%w: %s: %w", ErrFailed, l.place.Dir, err)
	if !l.failure.CompareAndSwap(nil, &err) {
		return l.Failed()
	}
	l.mu.Lock()
	waiters := l.waiters
	l.waiters = nil
	l.mu.Unlock()
	for _, w := range waiters {
		w.done <- err
	}
	l.flusher.opts.OnFatal(l.place.Dir, err)
	return err
}

// usable is nil, or why nothing can be changed.
func (l *Log) usable() error {
	if err := l.Failed(); err != nil {
		return err
	}
	if l.closed.Load() {
		return ErrClosed
	}
	return nil
}

// SegmentInfo describes one segment.
type SegmentInfo struct {
	Base, End record.Offset
	Bytes     int64
	// MinTimestamp and MaxTimestamp are of records, in ms, -1 when there are none.
	MinTimestamp, MaxTimestamp int64
	Sealed                     bool
	// LastAppend is zero when nothing was appended.
	LastAppend time.Time
}

// Segments describes the segments, the last one active.
func (l *Log) Segments() []SegmentInfo {
	parts := l.list()
	infos := make([]SegmentInfo, len(parts))
	for i, p := range parts {
		m := p.Meta()
		infos[i] = SegmentInfo{
			Base: m.Base, End: m.End, Bytes: m.Bytes, MinTimestamp: m.MinTimestamp, MaxTimestamp: m.MaxTimestamp,
			Sealed: p.IsSealed(),
		}
		if m.LastAppend >= 0 {
			infos[i].LastAppend = time.UnixMilli(m.LastAppend)
		}
	}
	return infos
}

// Below tells how many whole segments with batches end at or below the offset, their
// bytes, and the bytes of all. It does not allocate, and looks at no segment beyond.
func (l *Log) Below(at record.Offset) (segments int, bytes, of int64) {
	for _, p := range l.list() {
		m := p.Meta()
		if m.End > at {
			break
		}
		if m.Bytes > 0 {
			segments, bytes = segments+1, bytes+m.Bytes
		}
	}
	return segments, bytes, l.Size()
}

// EpochEnd answers the largest leader epoch at or below e and the offset at
// which it ended: the log's end for the newest. It answers NoEpoch and
// NoOffset when e is unknown (OffsetForLeaderEpoch, KIP-101).
func (l *Log) EpochEnd(e record.Epoch) (record.Epoch, record.Offset) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epochs.EndOf(e, l.End())
}

// LastEpoch is the newest leader epoch, NoEpoch when there is none.
func (l *Log) LastEpoch() record.Epoch {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epochs.Last()
}

// Epochs lists the leader epochs, oldest first. They are kept from the start
// of the log's life, whatever was trimmed, for the tiered part needs them.
func (l *Log) Epochs() []EpochStart {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.epochs)
}

// AssignEpoch notes that leader epoch e begins at start, also when it never
// writes a record. It is durable with the next checkpoint: an epoch that wrote
// nothing and is forgotten by a crash ends where the one before it does.
func (l *Log) AssignEpoch(e record.Epoch, start record.Offset) error {
	if err := l.usable(); err != nil {
		return err
	}
	l.mu.Lock()
	changed := l.epochs.Assign(e, start)
	l.mu.Unlock()
	if changed {
		l.flusher.appended(l, 0, false)
	}
	return nil
}

func newLog(o *Options) *Log {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.OnFlushed == nil {
		o.OnFlushed = func(record.Offset) {}
	}
	l := &Log{
		place:     segment.Place{FS: o.FS, FDs: o.FDs, Dir: o.Dir},
		flusher:   o.Flusher,
		logger:    o.Logger,
		onFlushed: o.OnFlushed,
	}
	l.firstOpen.Store(int64(record.NoOffset))
	l.SetConfig(o.Config)
	return l
}
