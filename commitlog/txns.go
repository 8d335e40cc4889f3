package commitlog

import (
	"errors"
	"fmt"
	"time"

	"github.com/firnlog/firn/commitlog/producer"
	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

// AbortedTxns lists the aborted transactions that have records in [from, to),
// by the offsets of their markers.
func (l *Log) AbortedTxns(from, to record.Offset) ([]producer.Aborted, error) {
	parts := l.list()
	if to <= from || from >= l.End() {
		return nil, nil
	}
	var found []producer.Aborted
	for i := find(parts, max(from, parts[0].Base())); i < len(parts); i++ {
		aborted, err := l.abortedOf(parts[i])
		if err != nil {
			return nil, err
		}
		for j := range aborted {
			a := &aborted[j]
			if a.Overlaps(from, to) {
				found = append(found, *a)
			}
			if a.LastStable >= to {
				return found, nil // what ended later began later
			}
		}
	}
	return found, nil
}

// abortedOf is the transaction index of one segment.
func (l *Log) abortedOf(p *part) ([]producer.Aborted, error) {
	if p.Meta().Aborted == 0 {
		return nil, nil
	}
	l.mu.Lock()
	aborted := p.aborted
	l.mu.Unlock()
	if aborted != nil {
		return aborted, nil // appended to only
	}
	path := l.place.Path(p.Base(), txnIndexSuffix)
	b, err := segment.ReadFile(l.place.FS, path, checkpointLimit)
	if err == nil {
		aborted, err = producer.ParseTxnIndex(b)
	}
	if err == nil || !damaged(err) {
		return aborted, err
	}
	if indexOf(l.list(), p) < 0 {
		return nil, nil // trimmed meanwhile
	}
	l.logger.Warn("making a damaged transaction index anew", "path", path, "err", err)
	return l.rebuildAborted(p)
}

func damaged(err error) bool {
	return errors.Is(err, producer.ErrCorrupt) || errors.Is(err, ErrCorrupt) || segment.IsNotExist(err)
}

// rebuildAborted replays a sealed segment for its aborted transactions and
// writes its transaction index again.
func (l *Log) rebuildAborted(p *part) ([]producer.Aborted, error) {
	state, err := l.stateAt(p.Base())
	if err != nil {
		return nil, err
	}
	var aborted []producer.Aborted
	if err := replay(p, state, p.Meta().End, &aborted); err != nil {
		return nil, err
	}
	path := l.place.Path(p.Base(), txnIndexSuffix)
	err = segment.WriteFile(l.place.FS, path, producer.AppendTxnIndex(nil, aborted), true)
	if err != nil && !segment.IsShort(err) {
		return nil, err
	}
	return aborted, nil
}

// abortedBelow is a copy of the part of a segment's transaction index whose
// markers are below end.
func (l *Log) abortedBelow(p *part, end record.Offset) ([]producer.Aborted, error) {
	all, err := l.abortedOf(p)
	if err != nil {
		return nil, err
	}
	var below []producer.Aborted
	for _, a := range all {
		if a.Last < end {
			below = append(below, a)
		}
	}
	return below, nil
}

// stateAt makes the producer state at exactly off: from the newest snapshot at
// or below it that is good, and the batches after that.
func (l *Log) stateAt(off record.Offset) (*producer.State, error) {
	parts := l.list()
	i := find(parts, off)
	state := &producer.State{}
	first := i
	for ; first >= 0; first-- {
		l.mu.Lock()
		b := parts[first].snapshot
		l.mu.Unlock()
		var err error
		if b != nil {
			state, _, err = producer.ParseSnapshot(b)
		} else {
			state, err = l.readSnapshot(parts[first].Base())
		}
		if err == nil {
			break
		}
		if !damaged(err) {
			return nil, err
		}
		if parts[first].Base() > l.Start() {
			l.logger.Warn("a producer snapshot is missing or damaged, going back further", "dir", l.place.Dir,
				"offset", int64(parts[first].Base()), "err", err)
		}
		state = &producer.State{}
	}
	for _, p := range parts[max(first, 0) : i+1] {
		if err := replay(p, state, off, nil); err != nil {
			return nil, err
		}
	}
	return state, nil
}

// replay applies the batches of a segment below end to a producer state and
// collects the transactions that they abort.
func replay(p *part, state *producer.State, end record.Offset, aborted *[]producer.Aborted) error {
	if err := p.File().Acquire(); err != nil {
		return err
	}
	defer p.File().Release()
	now := p.Meta().LastAppend
	var buf []byte
	var inner error
	err := p.Walk(p.Base(), func(pos int64, h *record.Header) bool {
		if h.NextOffset() > end {
			return false
		}
		b := record.Batch{Header: *h}
		if h.IsControl() {
			if b, inner = p.ReadBatch(pos, h, buf); inner != nil {
				return false
			}
			buf = b.Raw
		}
		var done producer.Completed
		var ended bool
		if done, ended, inner = applyProducer(state, &b, now); inner != nil {
			return false
		}
		if ended && !done.Commit && aborted != nil {
			*aborted = append(*aborted, done.Aborted)
		}
		return true
	})
	return errors.Join(err, inner)
}

// ProducerSnapshotAt encodes the producer state at exactly end, which is the
// end of a sealed segment (then it is at hand) or any other offset of the log
// (then it is made by replay).
//
// Errors: ErrOutOfRange.
func (l *Log) ProducerSnapshotAt(end record.Offset) ([]byte, error) {
	if end < l.Start() || end > l.End() {
		return nil, fmt.Errorf("%w: producer state at %d", ErrOutOfRange, end)
	}
	l.mu.Lock()
	if l.active().Meta().End == end {
		b := l.producers.AppendSnapshot(nil, end)
		l.mu.Unlock()
		return b, nil
	}
	l.mu.Unlock()
	state, err := l.stateAt(end)
	if err != nil {
		return nil, err
	}
	return state.AppendSnapshot(nil, end), nil
}

// Producers describes the producers that the log knows, by id.
func (l *Log) Producers() []producer.Info {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.producers.Infos()
}

// ExpireProducers forgets producers without an open transaction that have been
// idle for Config.ProducerExpiration, and counts them.
func (l *Log) ExpireProducers(now time.Time) int {
	before := now.Add(-l.config.Load().ProducerExpiration).UnixMilli()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.producers.Expire(before)
}
