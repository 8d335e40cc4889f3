package sim

import (
	"slices"
	"sort"

	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/commitlog/producer"
	"github.com/firnlog/firn/record"
)

// batch is one batch of a model log. Batches are never split; id is drawn by the
// leader that appended it, so two batches are the same iff their ids are.
type batch struct {
	base, next record.Offset
	epoch      record.Epoch
	id         uint64
	pid        int64
	seq        int32
	// chain is a hash over the ids of all batches from offset 0 to this one: two
	// logs with the same chain at an offset are the same below it.
	chain uint64
}

// lastSeq is the sequence of the last record; seq is the first one's.
func (b *batch) lastSeq() int32 { return b.seq + int32(b.next-b.base) - 1 }

func chained(before, id uint64) uint64 {
	h := (before ^ id) * 0x9e3779b97f4a7c15
	return h ^ h>>31
}

func (b *batch) header() record.Header {
	n := int32(b.next - b.base)
	return record.Header{BaseOffset: b.base, LeaderEpoch: b.epoch, Magic: record.Magic, LastOffsetDelta: n - 1, NumRecords: n,
		ProducerID: b.pid, BaseSequence: b.seq, BaseTimestamp: 0, MaxTimestamp: 0}
}

// modelLog stands for a commitlog.Log: batches with a synced and an unsynced
// part. The leader epochs and the producers are production code.
//
// INVARIANT: batches are contiguous from start; flushed ≤ end.
type modelLog struct {
	start      record.Offset
	startChain uint64
	batches    []batch
	flushed    record.Offset
	epochs     commitlog.EpochCache
	producers  *producer.State
	// before is the producer state at start.
	before []byte
	// seals are the ends of the sealed segments, oldest first.
	seals    []record.Offset
	perSeal  int // batches in a segment
	inActive int
}

func newLog(start record.Offset, chain uint64, epochs []commitlog.EpochStart, producers []byte, perSeal int) *modelLog {
	l := &modelLog{perSeal: perSeal}
	l.resetTo(start, chain, epochs, producers)
	return l
}

func (l *modelLog) end() record.Offset {
	if n := len(l.batches); n > 0 {
		return l.batches[n-1].next
	}
	return l.start
}

func (l *modelLog) endChain() uint64 {
	if n := len(l.batches); n > 0 {
		return l.batches[n-1].chain
	}
	return l.startChain
}

// at is the number of batches that end at or below off.
func (l *modelLog) at(off record.Offset) int {
	return sort.Search(len(l.batches), func(i int) bool { return l.batches[i].next > off })
}

// chainAt is the chain at an offset within [start, end] that is a batch's edge.
func (l *modelLog) chainAt(off record.Offset) (uint64, bool) {
	if off == l.start {
		return l.startChain, true
	}
	i := l.at(off) - 1
	if i < 0 || l.batches[i].next != off {
		return 0, false
	}
	return l.batches[i].chain, true
}

// append takes a batch that continues the log.
func (l *modelLog) append(b batch) {
	if b.epoch != l.epochs.Last() {
		l.epochs.Note(b.epoch, b.base)
	}
	h := b.header()
	l.producers.Apply(&h, nil, 0)
	l.producers.Forget()
	l.batches = append(l.batches, b)
	if l.inActive++; l.inActive >= l.perSeal {
		l.seals, l.inActive = append(l.seals, b.next), 0
	}
}

// read returns the whole batches from the one that holds from, below upTo.
func (l *modelLog) read(from, upTo record.Offset, most int) []batch {
	i := l.at(from)
	j := i
	for j < len(l.batches) && j-i < most && l.batches[j].next <= upTo {
		j++
	}
	return l.batches[i:j:j]
}

// truncateTo follows commitlog.Log.TruncateTo. chain is for where the log begins
// anew, below its start.
func (l *modelLog) truncateTo(off record.Offset, chain uint64) {
	switch end := l.end(); {
	case off > end:
		return
	case off == end:
		l.epochs = l.epochs.Truncate(end)
		return
	case off < l.start:
		l.resetTo(off, chain, l.epochs.Truncate(off), nil)
		return
	}
	l.cut(l.at(off))
}

// cut keeps the first n batches.
func (l *modelLog) cut(n int) {
	l.batches = slices.Clone(l.batches[:n])
	end := l.end()
	l.flushed = end // a truncation syncs
	l.epochs = l.epochs.Truncate(end)
	for len(l.seals) > 0 && l.seals[len(l.seals)-1] > end {
		l.seals = l.seals[:len(l.seals)-1]
	}
	l.recount()
	l.producers = l.producersAt(n)
}

// recount finds how many batches the active segment has.
func (l *modelLog) recount() {
	l.inActive = len(l.batches)
	if n := len(l.seals); n > 0 {
		l.inActive = len(l.batches) - l.at(l.seals[n-1])
	}
}

// producersAt is the producer state after the first n batches.
func (l *modelLog) producersAt(n int) *producer.State {
	state := &producer.State{}
	if l.before != nil {
		var err error
		if state, _, err = producer.ParseSnapshot(l.before); err != nil {
			panic(err)
		}
	}
	for i := range n {
		h := l.batches[i].header()
		state.Apply(&h, nil, 0)
	}
	return state
}

// resetTo follows commitlog.Log.ResetTo.
func (l *modelLog) resetTo(off record.Offset, chain uint64, epochs []commitlog.EpochStart, producers []byte) {
	var cache commitlog.EpochCache
	for _, e := range epochs {
		cache.Assign(e.Epoch, e.Start)
	}
	l.start, l.startChain, l.batches, l.flushed, l.epochs, l.before = off, chain, nil, off, cache, producers
	l.seals, l.inActive = nil, 0
	l.producers = l.producersAt(0)
}

// Start implements replica.Local.
func (l *modelLog) Start() record.Offset { return l.start }

// Below implements replica.Local: a batch has as many bytes as records.
func (l *modelLog) Below(at record.Offset) (segments int, bytes, of int64) {
	for _, end := range append(slices.Clone(l.seals), l.end()) {
		if end <= at {
			segments, bytes = segments+1, int64(end-l.start)
		}
	}
	return segments, bytes, int64(l.end() - l.start)
}

// trimTo drops the sealed segments that end at or below off.
func (l *modelLog) trimTo(off record.Offset) {
	n := 0
	for n < len(l.seals) && l.seals[n] <= off {
		n++
	}
	if n == 0 {
		return
	}
	to := l.seals[n-1]
	i := l.at(to)
	l.before = l.producersAt(i).AppendSnapshot(nil, to)
	l.start, l.startChain = to, l.batches[i-1].chain
	l.batches, l.seals = slices.Clone(l.batches[i:]), slices.Clone(l.seals[n:])
}

// lose drops what power loss takes: everything from keep on, which is at or
// above flushed. Empty leader epochs at the end are not told from lost ones.
func (l *modelLog) lose(keep record.Offset) { l.cut(l.at(max(keep, l.flushed))) }
