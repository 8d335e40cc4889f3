package remote

import (
	"context"
	"errors"
	"fmt"

	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
	"github.com/firnlog/firn/tiering/object"
	"github.com/firnlog/firn/tiering/objstore"
)

// Found is a record found by its time.
type Found struct {
	Offset    record.Offset
	Timestamp int64 // ms since 1970
	Epoch     record.Epoch
}

// OffsetForTime returns the first record at or above the log start whose
// timestamp is at least ts, looking into compressed batches; false if the
// bucket has none. Errors are those of Read.
func (r *Reader) OffsetForTime(ctx context.Context, tp record.TopicPartition, ts int64) (Found, bool, error) {
	return r.search(ctx, tp, func(m manifest.Manifest) []target {
		var at []target
		for _, e := range m.Live() {
			if e.MaxTimestamp >= ts {
				at = append(at, target{e, ts})
			}
		}
		return at
	}, func(b *record.Batch, from, to record.Offset) (Found, bool, error) {
		return firstFrom(b, ts, from, to)
	})
}

// MaxTimestamp returns the first record with the greatest timestamp in the
// bucket (ListOffsets −3, KIP-734), false if there is no record with one.
func (r *Reader) MaxTimestamp(ctx context.Context, tp record.TopicPartition) (Found, bool, error) {
	var best Found
	var any bool
	m, err := r.entries(ctx, tp)
	if err != nil {
		return best, false, err
	}
	most := record.NoTimestamp
	for _, e := range m.Live() {
		most = max(most, e.MaxTimestamp)
	}
	if most == record.NoTimestamp {
		return best, false, nil
	}
	best, any, err = r.OffsetForTime(ctx, tp, most)
	if err != nil || any {
		return best, any, err
	}
	// The log start moved past the record that the entry's figure comes from.
	_, _, err = r.search(ctx, tp, func(m manifest.Manifest) []target {
		var at []target
		for _, e := range m.Live() {
			at = append(at, target{e, 0})
		}
		return at
	}, func(b *record.Batch, from, to record.Offset) (Found, bool, error) {
		if any && b.MaxTimestamp <= best.Timestamp {
			return Found{}, false, nil
		}
		err := b.Records(func(rec *record.Record) error {
			if rec.Offset >= from && rec.Offset < to && (!any || rec.Timestamp > best.Timestamp) {
				best, any = Found{rec.Offset, rec.Timestamp, b.LeaderEpoch}, true
			}
			return nil
		})
		return Found{}, false, err
	})
	return best, any, err
}

// target is an entry to search for batches whose max timestamp is at least ts.
type target struct {
	entry manifest.Entry
	ts    int64
}

var errStop = errors.New("found")

// firstFrom is the first record of a batch in [from, to) with a timestamp of at
// least ts.
func firstFrom(b *record.Batch, ts int64, from, to record.Offset) (found Found, ok bool, err error) {
	if b.BaseOffset >= from && b.NextOffset() <= to {
		off, at, ok, err := b.FirstAtOrAfter(ts)
		return Found{off, at, b.LeaderEpoch}, ok, err
	}
	err = b.Records(func(rec *record.Record) error {
		if rec.Timestamp >= ts && rec.Offset >= from && rec.Offset < to {
			found, ok = Found{rec.Offset, rec.Timestamp, b.LeaderEpoch}, true
			return errStop
		}
		return nil
	})
	if ok {
		err = nil
	}
	return found, ok, err
}

// search calls match with each batch of the targets that can hold what is
// sought, in order, until it finds it. match gets the visible range.
func (r *Reader) search(ctx context.Context, tp record.TopicPartition, targets func(manifest.Manifest) []target,
	match func(b *record.Batch, from, to record.Offset) (Found, bool, error)) (Found, bool, error) {
	type hit struct {
		Found
		ok bool
	}
	h, err := retryMoved(r, func() (hit, error) {
		m, err := r.entries(ctx, tp)
		if err != nil {
			return hit{}, err
		}
		for _, t := range targets(m) {
			from := max(t.entry.Start, m.LogStart())
			f, ok, err := r.searchEntry(ctx, &t, from, match)
			if err != nil || ok {
				return hit{f, ok}, err
			}
		}
		return hit{}, nil
	})
	if err != nil {
		if ctx.Err() != nil {
			return Found{}, false, ctx.Err()
		}
		return Found{}, false, fmt.Errorf("remote search in %s: %w", tp, err)
	}
	return h.Found, h.ok, nil
}

func (r *Reader) searchEntry(ctx context.Context, t *target, from record.Offset,
	match func(b *record.Batch, from, to record.Offset) (Found, bool, error)) (Found, bool, error) {
	rd, err := r.openRun(ctx, &t.entry)
	if err != nil {
		return Found{}, false, err
	}
	f, run := rd.Footer(), int(t.entry.Run)
	n, ok := f.FindOffset(run, from)
	for ok {
		if n, ok = f.FindTime(run, n, t.ts); !ok || f.Chunks[n].Base >= t.entry.End {
			break
		}
		found, hit, err := r.searchChunk(ctx, rd, n, t, from, match)
		if err != nil && errors.Is(err, objstore.ErrNotExist) {
			err = &movedError{rd, err}
		}
		if err != nil || hit {
			return found, hit, err
		}
		n++
	}
	return Found{}, false, nil
}

func (r *Reader) searchChunk(ctx context.Context, rd *object.Reader, n int, t *target, from record.Offset,
	match func(b *record.Batch, from, to record.Offset) (Found, bool, error)) (Found, bool, error) {
	cost := r.pinned.clamp(rd.Footer().Chunks[n].RawLen)
	if err := r.pinned.Acquire(ctx, cost); err != nil {
		return Found{}, false, err
	}
	defer r.pinned.Release(cost)
	c, _, _, err := r.chunk(ctx, rd, n, true)
	if err != nil {
		return Found{}, false, err
	}
	defer c.Release()
	chunk := c.Bytes()
	for pos := int64(0); pos < int64(len(chunk)); {
		h, err := headerAt(chunk, pos)
		if err != nil {
			return Found{}, false, err
		}
		if h.MaxTimestamp >= t.ts && h.NextOffset() > from && h.BaseOffset < t.entry.End {
			b := record.Batch{Header: h, Raw: chunk[pos : pos+int64(h.Size())]}
			if found, ok, err := match(&b, from, t.entry.End); ok || err != nil {
				return found, ok, err
			}
		}
		pos += int64(h.Size())
	}
	return Found{}, false, nil
}

// EpochEnd follows Kafka's OffsetForLeaderEpoch over the bucket's part of the
// lineage: the greatest epoch that is at most the one asked for, and the offset
// at which it ends. ok is false when the bucket cannot tell: it holds no such
// epoch (found −1), or the epoch is its last one and may go on in the local log
// (end is then the remote end).
func EpochEnd(m manifest.Manifest, epoch record.Epoch) (found record.Epoch, end record.Offset, ok bool) {
	found, end = record.NoEpoch, m.RemoteEnd()
	for _, s := range Epochs(m) {
		if s.Epoch > epoch {
			return found, s.Start, found != record.NoEpoch
		}
		found = s.Epoch
	}
	return found, end, false
}

// Epochs is the leader epochs of the live entries, ascending.
func Epochs(m manifest.Manifest) []manifest.EpochStart {
	var all []manifest.EpochStart
	for _, e := range m.Live() {
		for _, s := range e.Epochs {
			if n := len(all); n == 0 || s.Epoch > all[n-1].Epoch {
				all = append(all, s)
			}
		}
	}
	return all
}

// LastState is what a leader without local log begins with at the remote end
// ("the bucket wins"): the leader epochs and the producer state there, as the
// last object has them. ErrNotFound if the bucket has no live entry.
func (r *Reader) LastState(ctx context.Context, tp record.TopicPartition) (end record.Offset, epochs []manifest.EpochStart, producers []byte, err error) {
	type state struct {
		end       record.Offset
		epochs    []manifest.EpochStart
		producers []byte
	}
	s, err := retryMoved(r, func() (state, error) {
		m, err := r.entries(ctx, tp)
		if err != nil {
			return state{}, err
		}
		live := m.Live()
		if len(live) == 0 {
			return state{}, ErrNotFound
		}
		last := &live[len(live)-1]
		rd, err := r.openRun(ctx, last)
		if err != nil {
			return state{}, err
		}
		if got := rd.Footer().Runs[last.Run].End; got != last.End {
			return state{}, &object.CorruptError{Object: last.Object, Chunk: -1, Detail: fmt.Sprintf("run ends at %d, its entry at %d", got, last.End)}
		}
		p, err := rd.ProducerState(ctx, int(last.Run))
		if err != nil {
			if errors.Is(err, objstore.ErrNotExist) {
				err = &movedError{rd, err}
			}
			return state{}, r.classify(err)
		}
		return state{last.End, Epochs(m), p}, nil
	})
	if err != nil {
		return 0, nil, nil, fmt.Errorf("remote state of %s: %w", tp, err)
	}
	return s.end, s.epochs, s.producers, nil
}
