package producer

import (
	"cmp"
	"math"
	"slices"

	"github.com/firnlog/firn/record"
)

// Remembered is the number of batches kept for each producer: as many as an
// idempotent client may have in flight.
const Remembered = 5

// Completed describes a transaction that a marker has just ended.
type Completed struct {
	Aborted
	Commit bool
}

// batch is one remembered batch. Delta is its last offset less its first, and
// likewise for the sequences.
type batch struct {
	lastOffset record.Offset
	timestamp  int64
	lastSeq    int32
	delta      int32
}

// firstSeq undoes record.AddSequence: 0 is preceded by 2147483647.
func (b *batch) firstSeq() int32 { return int32((int64(b.lastSeq) - int64(b.delta)) & math.MaxInt32) }

// entry is the state of one producer.
type entry struct {
	txnStart  record.Offset // first offset of the open transaction, NoOffset when none
	updated   int64         // ms: when it last wrote, by the appending broker's clock
	timestamp int64         // newest max timestamp of its batches, -1 when none
	coord     int32         // newest coordinator epoch seen in a marker, -1 when none
	epoch     int16
	n         int8
	batches   [Remembered]batch // batches[:n], oldest first, all of epoch
}

func (e *entry) lastSeq() int32 {
	if e.n == 0 {
		return record.NoSequence
	}
	return e.batches[e.n-1].lastSeq
}

func (e *entry) push(b batch) {
	if e.n == Remembered {
		copy(e.batches[:], e.batches[1:])
		e.n--
	}
	e.batches[e.n] = b
	e.n++
}

func (e *entry) setEpoch(epoch int16) {
	if e.epoch != epoch {
		e.epoch = epoch
		e.n = 0
	}
}

// openTxn is an open transaction.
type openTxn struct {
	first record.Offset
	id    int64
}

// endedTxn is a transaction that ended by a marker which the high watermark may
// not have passed yet.
type endedTxn struct {
	first, marker record.Offset
}

// checked is a batch that Check accepted and that was not applied yet.
type checked struct {
	id                int64
	base, next        record.Offset
	timestamp         int64
	firstSeq, lastSeq int32
	epoch             int16
	txn               bool
}

// State is what a log knows of its producers. The zero value is an empty state.
type State struct {
	producers map[int64]*entry
	open      []openTxn  // by first offset
	ended     []endedTxn // by marker offset
	pending   []checked
}

// Len counts the producers.
func (s *State) Len() int { return len(s.producers) }

// Check decides whether a leader may append a batch of a client, as
// kafka-compat.md "Idempotent producers" has it. A batch that it finds new is
// remembered until the next Apply or Forget, so that batches gathered into one
// write are checked against each other. h must be stamped with its offsets.
//
// Errors: ErrStaleEpoch, ErrOutOfOrderSequence, ErrInvalidTxnState.
func (s *State) Check(h *record.Header) (Verdict, error) {
	if !h.HasProducer() || h.IsControl() {
		return Verdict{}, nil
	}
	e := s.producers[h.ProducerID]
	v, last, known, err := s.findDuplicate(h, e)
	if err != nil || v.Duplicate {
		return v, err
	}
	if known {
		if err := follows(h, last); err != nil {
			return Verdict{}, err
		}
	} else {
		v.Unknown = true
	}
	s.pending = append(s.pending, checked{
		id: h.ProducerID, base: h.BaseOffset, next: h.NextOffset(), timestamp: h.MaxTimestamp,
		firstSeq: h.BaseSequence, lastSeq: h.LastSequence(), epoch: h.ProducerEpoch, txn: h.IsTransactional(),
	})
	return v, nil
}

// position is where a producer stands after its batches so far.
type position struct {
	epoch   int16
	lastSeq int32
	inTxn   bool
}

// findDuplicate looks for the batch among those remembered and those checked
// before, and tells where the producer stands.
func (s *State) findDuplicate(h *record.Header, e *entry) (v Verdict, at position, known bool, err error) {
	if e != nil {
		at = position{epoch: e.epoch, lastSeq: e.lastSeq(), inTxn: e.txnStart != record.NoOffset}
		known = true
	}
	first, last := h.BaseSequence, h.LastSequence()
	for i := range s.pending {
		p := &s.pending[i]
		if p.id != h.ProducerID {
			continue
		}
		at = position{epoch: p.epoch, lastSeq: p.lastSeq, inTxn: p.txn || at.inTxn && p.epoch == at.epoch}
		known = true
		if p.epoch == h.ProducerEpoch && p.firstSeq == first && p.lastSeq == last {
			v = Verdict{Duplicate: true, Base: p.base, Next: p.next, Timestamp: p.timestamp}
		}
	}
	if known && h.ProducerEpoch < at.epoch {
		return Verdict{}, at, known, ErrStaleEpoch
	}
	if v.Duplicate || e == nil || e.epoch != h.ProducerEpoch {
		return v, at, known, nil
	}
	for i := range e.batches[:e.n] {
		b := &e.batches[i]
		if b.lastSeq == last && b.firstSeq() == first {
			return Verdict{
				Duplicate: true, Base: b.lastOffset - record.Offset(b.delta), Next: b.lastOffset + 1, Timestamp: b.timestamp,
			}, at, known, nil
		}
	}
	return Verdict{}, at, known, nil
}

// follows says whether the batch continues what the producer wrote.
func follows(h *record.Header, at position) error {
	if h.ProducerEpoch > at.epoch {
		if h.BaseSequence != 0 && at.epoch != record.NoProducerEpoch {
			return ErrOutOfOrderSequence
		}
		return nil
	}
	want := int64(at.lastSeq) + 1
	if at.lastSeq == math.MaxInt32 {
		want = 0
	}
	if int64(h.BaseSequence) != want {
		return ErrOutOfOrderSequence
	}
	if at.inTxn && !h.IsTransactional() {
		return ErrInvalidTxnState
	}
	return nil
}

// Forget drops what Check remembered of batches that were not appended.
func (s *State) Forget() { s.pending = s.pending[:0] }

// CheckMarker decides whether a leader may append an end-of-transaction marker.
//
// Errors: ErrStaleEpoch, ErrStaleCoordinator.
func (s *State) CheckMarker(id int64, epoch int16, coordinator int32) error {
	e := s.producers[id]
	if e == nil {
		return nil
	}
	if epoch < e.epoch {
		return ErrStaleEpoch
	}
	if coordinator < e.coord {
		return ErrStaleCoordinator
	}
	return nil
}

// Apply takes over a batch that is in the log. marker is the content of an
// end-of-transaction batch and nil for every other; now is the broker's clock
// in ms. It answers the transaction that the batch ended, if it ended one.
//
// REQUIRES: batches come in offset order.
func (s *State) Apply(h *record.Header, marker *record.EndTxnMarker, now int64) (Completed, bool) {
	if !h.HasProducer() {
		return Completed{}, false
	}
	e := s.producers[h.ProducerID]
	if e == nil {
		if s.producers == nil {
			s.producers = make(map[int64]*entry)
		}
		e = &entry{epoch: h.ProducerEpoch, coord: -1, txnStart: record.NoOffset, timestamp: record.NoTimestamp}
		s.producers[h.ProducerID] = e
	}
	e.setEpoch(h.ProducerEpoch)
	e.updated = max(e.updated, now)
	if marker != nil {
		return s.endTxn(h, e, marker)
	}
	if h.IsControl() {
		return Completed{}, false
	}
	e.timestamp = max(e.timestamp, h.MaxTimestamp)
	if h.BaseSequence >= 0 {
		e.push(batch{lastOffset: h.LastOffset(), timestamp: h.MaxTimestamp, lastSeq: h.LastSequence(), delta: h.LastOffsetDelta})
	}
	// A batch that compaction has emptied opens nothing: its marker may be gone.
	if h.IsTransactional() && h.NumRecords > 0 && e.txnStart == record.NoOffset {
		e.txnStart = h.BaseOffset
		s.open = append(s.open, openTxn{first: h.BaseOffset, id: h.ProducerID})
	}
	return Completed{}, false
}

func (s *State) endTxn(h *record.Header, e *entry, m *record.EndTxnMarker) (Completed, bool) {
	e.coord = max(e.coord, m.CoordinatorEpoch)
	first := e.txnStart
	if first == record.NoOffset {
		return Completed{}, false
	}
	e.txnStart = record.NoOffset
	i, found := slices.BinarySearchFunc(s.open, first, func(t openTxn, o record.Offset) int { return cmp.Compare(t.first, o) })
	if !found {
		panic("producer: open transaction is not in the list of open transactions")
	}
	s.open = slices.Delete(s.open, i, i+1)
	s.ended = append(s.ended, endedTxn{first: first, marker: h.BaseOffset})
	stable := h.NextOffset()
	if len(s.open) > 0 {
		stable = s.open[0].first
	}
	return Completed{
		Aborted: Aborted{ProducerID: h.ProducerID, First: first, Last: h.LastOffset(), LastStable: stable},
		Commit:  m.Commit,
	}, true
}

// FirstOpen is the first offset of the oldest open transaction, NoOffset when
// none is open.
func (s *State) FirstOpen() record.Offset {
	if len(s.open) == 0 {
		return record.NoOffset
	}
	return s.open[0].first
}

// LastStable is the last stable offset under a high watermark: no transaction
// that touches offsets below it is open or ended by a marker that is not
// replicated yet (KIP-98; Kafka's "unreplicated transactions"). It forgets the
// transactions that the watermark has passed, so watermarks must not go back.
func (s *State) LastStable(highWatermark record.Offset) record.Offset {
	passed := 0
	for passed < len(s.ended) && s.ended[passed].marker < highWatermark {
		passed++
	}
	if passed == len(s.ended) {
		s.ended = nil
	} else {
		s.ended = s.ended[passed:]
	}
	stable := highWatermark
	for i := range s.ended {
		stable = min(stable, s.ended[i].first)
	}
	if len(s.open) > 0 {
		stable = min(stable, s.open[0].first)
	}
	return stable
}

// HasTxns says whether LastStable may differ from the high watermark.
func (s *State) HasTxns() bool { return len(s.open) > 0 || len(s.ended) > 0 }

// Expire forgets producers without an open transaction that have not written
// since before, ms, and counts them.
func (s *State) Expire(before int64) int {
	n := 0
	for id, e := range s.producers {
		if e.txnStart == record.NoOffset && e.updated < before {
			delete(s.producers, id)
			n++
		}
	}
	if len(s.producers) == 0 {
		s.producers = nil
	}
	return n
}

// Infos lists the producers by id.
func (s *State) Infos() []Info {
	infos := make([]Info, 0, len(s.producers))
	for id, e := range s.producers {
		infos = append(infos, Info{
			ProducerID: id, Epoch: e.epoch, CoordinatorEpoch: e.coord,
			LastSequence: e.lastSeq(), LastTimestamp: e.timestamp, TxnStart: e.txnStart,
		})
	}
	slices.SortFunc(infos, func(a, b Info) int { return cmp.Compare(a.ProducerID, b.ProducerID) })
	return infos
}

// LastOffsets calls fn with each producer's id and the last offset of its
// newest remembered batch; compaction keeps that batch for its sequence.
func (s *State) LastOffsets(fn func(id int64, epoch int16, last record.Offset)) {
	for id, e := range s.producers {
		if e.n > 0 {
			fn(id, e.epoch, e.batches[e.n-1].lastOffset)
		}
	}
}
