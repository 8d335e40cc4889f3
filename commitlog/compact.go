package commitlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/time/rate"

	"github.com/firnlog/firn/commitlog/producer"
	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

var (
	// ErrCompacting: the log is being compacted already.
	ErrCompacting = errors.New("commitlog: log is being compacted")
	// ErrStale: segments went away (retention, truncation) while they were
	// compacted. Nothing was changed by the group at hand; the next run begins
	// with what is there then.
	ErrStale = errors.New("commitlog: compaction came too late")
)

// CompactOptions says what one run of compaction may do.
type CompactOptions struct {
	// Now is the time by which lags and delete horizons are judged.
	Now time.Time
	// UpTo bounds what is touched: the last stable offset, or the high watermark
	// where that is lower.
	UpTo record.Offset
	// BytesPerSecond bounds reading plus writing. 0 is no bound.
	BytesPerSecond int64
	// MapBytes bounds the memory of the key map; when the keys do not fit, the
	// run covers what fits and the next one goes on. Default 64 MiB.
	MapBytes int64
	// Force compacts whatever the ratio of uncleaned bytes.
	Force bool
}

// CompactStats tells what a run did.
type CompactStats struct {
	// Cleaned is false when there was not enough to clean.
	Cleaned                 bool
	SegmentsIn, SegmentsOut int
	BytesIn, BytesOut       int64
	RecordsIn, RecordsOut   int64
	// CleanedEnd is the offset up to which the log has been compacted.
	CleanedEnd record.Offset
}

// Compact keeps the last value of each key (cleanup.policy=compact): one run
// over the sealed segments below UpTo. It keeps offsets, the newest batch of
// each producer (without records, if need be), tombstones until their delete
// horizon (KIP-534), and transaction markers while records of the transaction
// remain and a horizon longer; records of aborted transactions go. Segments
// that became small are merged.
//
// It reads and writes beside appends and reads, which never wait for it, and
// ends with ctx's error when ctx does; groups of segments that were swapped in
// stay.
//
// Crash points, for each group of segments that becomes one:
//   - while base.log.cleaned is written: it is removed by the next start;
//   - it is synced and renamed to .swap, with nothing else: removed as well;
//   - the checkpoint says that the swap is due: the start completes it, by the
//     same rename if .swap is still there, and takes the new segment for the old
//     ones, whose files it removes;
//   - the checkpoint lists the new segment: old files are removed.
//
// Errors: ErrCompacting, ErrStale, ErrClosed, ErrNoSpace and ErrNoFiles (nothing
// is lost), ErrCorrupt, ErrFailed.
func (l *Log) Compact(ctx context.Context, o CompactOptions) (CompactStats, error) {
	if !l.compacting.TryLock() {
		return CompactStats{}, ErrCompacting
	}
	defer l.compacting.Unlock()
	if err := l.usable(); err != nil {
		return CompactStats{}, err
	}
	c := &compaction{l: l, ctx: ctx, o: o, cfg: l.Config()}
	c.stats.CleanedEnd = l.cleanedEnd()
	parts := c.choose()
	if len(parts) == 0 {
		return c.stats, nil
	}
	if o.BytesPerSecond > 0 {
		c.limit = rate.NewLimiter(rate.Limit(o.BytesPerSecond), throttleBurst)
	}
	if err := c.prepare(parts); err != nil {
		return c.stats, c.late(err)
	}
	for _, group := range c.groups(parts) {
		if err := c.clean(group); err != nil {
			return c.stats, c.late(err)
		}
	}
	l.mu.Lock()
	l.cleaned = max(l.cleaned, c.mapEnd)
	l.mu.Unlock()
	c.stats.Cleaned, c.stats.CleanedEnd = true, c.mapEnd
	l.flusher.request(l, true)
	return c.stats, nil
}

// late names what befell the log in the meantime, where that is why err came
// about: it was closed, perhaps with its directory gone, or lost segments.
func (c *compaction) late(err error) error {
	if c.l.closed.Load() && c.ctx.Err() == nil {
		return ErrClosed
	}
	if errors.Is(err, segment.ErrRemoved) {
		return fmt.Errorf("%w: %w", ErrStale, err)
	}
	return c.l.shortOr(err)
}

// throttleBurst is the most bytes that pass the limiter at once.
const throttleBurst = 1 << 20

// compaction is one run.
type compaction struct {
	l     *Log
	ctx   context.Context
	o     CompactOptions
	cfg   Config
	limit *rate.Limiter
	stats CompactStats

	keys   keyMap
	mapEnd record.Offset // the map knows all keys in [cleaned, mapEnd)
	// aborted are the aborted transactions by producer.
	aborted map[int64][]producer.Aborted
	// newest is the last offset of each producer's newest batch.
	newest map[int64]record.Offset
	// kept says of each producer whether records of its current transaction
	// were kept.
	kept map[int64]bool
}

// choose answers the segments to clean, none when it is not worth while.
func (c *compaction) choose() []*part {
	l := c.l
	end := min(c.o.UpTo, l.FlushedEnd())
	if open := l.FirstUnstable(); open != record.NoOffset {
		end = min(end, open)
	}
	youngest := c.o.Now.Add(-c.cfg.MinCompactionLag).UnixMilli()
	cleaned := l.cleanedEnd()
	var parts []*part
	var all, dirty int64
	due := c.o.Force
	for _, p := range l.list() {
		m := p.Meta()
		if !l.isStored(p) || m.End > end || c.cfg.MinCompactionLag > 0 && max(m.MaxTimestamp, m.LastAppend) > youngest {
			break
		}
		parts = append(parts, p)
		all += m.Bytes
		if m.End <= cleaned {
			continue
		}
		dirty += m.Bytes
		if first := m.Created; first >= 0 && c.o.Now.Sub(time.UnixMilli(first)) >= c.cfg.MaxCompactionLag {
			due = true
		}
	}
	if dirty == 0 || !due && float64(dirty) < c.cfg.MinCleanableRatio*float64(all) {
		return nil
	}
	return parts
}

func (l *Log) isStored(p *part) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return p.stored
}

// prepare gathers what must be known of all segments before one is cleaned.
func (c *compaction) prepare(parts []*part) error {
	l := c.l
	c.aborted = make(map[int64][]producer.Aborted)
	for _, p := range parts {
		aborted, err := l.abortedOf(p)
		if err != nil {
			return err
		}
		for _, a := range aborted {
			c.aborted[a.ProducerID] = append(c.aborted[a.ProducerID], a)
		}
	}
	c.newest = make(map[int64]record.Offset)
	c.kept = make(map[int64]bool)
	l.mu.Lock()
	l.producers.LastOffsets(func(id int64, _ int16, last record.Offset) { c.newest[id] = last })
	l.mu.Unlock()

	c.keys = newKeyMap(c.o.MapBytes)
	cleaned := l.cleanedEnd()
	for _, p := range parts {
		if p.Meta().End <= cleaned {
			c.mapEnd = p.Meta().End
			continue
		}
		full, err := c.gather(p, cleaned)
		if err != nil || full {
			return err
		}
		c.mapEnd = p.Meta().End
	}
	return nil
}

// gather puts the keys of a segment into the map and answers whether it is
// full; mapEnd is then where it became so.
func (c *compaction) gather(p *part, from record.Offset) (full bool, err error) {
	err = c.scan(p, func(b *record.Batch) error {
		if b.NextOffset() <= from || b.IsControl() || c.isAborted(&b.Header) {
			return nil
		}
		err := b.Records(func(r *record.Record) error {
			if r.Offset < from || r.Key == nil {
				return nil
			}
			if !c.keys.put(r.Key, r.Offset) {
				c.mapEnd = r.Offset
				return errMapFull
			}
			return nil
		})
		if err != nil && !errors.Is(err, errMapFull) {
			return fmt.Errorf("commitlog: batch at %d: %w", b.BaseOffset, err)
		}
		return err
	})
	if errors.Is(err, errMapFull) {
		return true, nil
	}
	return false, err
}

var errMapFull = errors.New("commitlog: key map is full")

// scan reads a segment's batches in order, under the throttle.
func (c *compaction) scan(p *part, fn func(b *record.Batch) error) error {
	if err := p.File().Acquire(); err != nil {
		return err
	}
	defer p.File().Release()
	m := p.Meta()
	_, bad, err := segment.Scan(p.File(), 0, m.Bytes, m.Base, true, func(_ int64, b *record.Batch) error {
		if err := c.pay(len(b.Raw)); err != nil {
			return err
		}
		return fn(b)
	})
	if err == nil && bad != nil {
		err = fmt.Errorf("%w: segment %d: %w", ErrCorrupt, m.Base, bad)
	}
	return err
}

// pay waits until n more bytes may be read or written.
func (c *compaction) pay(n int) error {
	if c.limit == nil {
		return c.ctx.Err()
	}
	for n > 0 {
		k := min(n, throttleBurst)
		if err := c.limit.WaitN(c.ctx, k); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// isAborted says whether a batch belongs to an aborted transaction.
func (c *compaction) isAborted(h *record.Header) bool {
	if !h.IsTransactional() {
		return false
	}
	for _, a := range c.aborted[h.ProducerID] {
		if a.First <= h.BaseOffset && h.BaseOffset <= a.Last {
			return true
		}
	}
	return false
}

// groups puts neighbours together that fit into one segment. Segments above
// the keys' end are left alone, all but the one that holds it.
func (c *compaction) groups(parts []*part) [][]*part {
	var groups [][]*part
	var group []*part
	var bytes int64
	for _, p := range parts {
		m := p.Meta()
		if m.Base >= c.mapEnd {
			break
		}
		if len(group) > 0 && (bytes+m.Bytes > c.cfg.SegmentBytes || !group[0].Fits(m.End, 0)) {
			groups = append(groups, group)
			group, bytes = nil, 0
		}
		group = append(group, p)
		bytes += m.Bytes
	}
	if len(group) > 0 {
		groups = append(groups, group)
	}
	return groups
}
