package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

// reader asks the broker without a consumer in between.
type reader struct {
	s      *soak
	c      *kgo.Client
	random *rand.Rand
	ids    map[string][16]byte
}

func (s *soak) newReader(stream uint64) *reader {
	return &reader{s: s, c: s.client(), random: s.random(stream), ids: map[string][16]byte{}}
}

func (r *reader) close() { r.c.Close() }

func (s *soak) read() {
	for n := range uint64(3) {
		s.run(func() {
			r := s.newReader(200 + n)
			defer r.close()
			for s.ctx.Err() == nil {
				t := s.topics[r.random.IntN(len(s.topics))]
				r.stroll(t.part(r.random.Int32N(t.count())))
			}
		})
	}
	s.run(func() {
		r := s.newReader(300)
		defer r.close()
		for s.ctx.Err() == nil {
			r.session()
		}
	})
	s.run(func() {
		r := s.newReader(310)
		defer r.close()
		for s.pause(50 * time.Millisecond) {
			t := s.topics[r.random.IntN(len(s.topics))]
			r.listings(t.part(r.random.Int32N(t.count())))
		}
	})
}

// id of a topic by its name.
func (r *reader) id(t *topic) ([16]byte, bool) {
	if id, ok := r.ids[t.name]; ok {
		return id, true
	}
	req := kmsg.NewPtrMetadataRequest()
	mt := kmsg.NewMetadataRequestTopic()
	mt.Topic = kmsg.StringPtr(t.name)
	req.Topics = append(req.Topics, mt)
	resp, err := req.RequestWith(r.s.ctx, r.c)
	if err != nil || len(resp.Topics) != 1 || resp.Topics[0].ErrorCode != 0 {
		r.s.unexpected("metadata", errors.Join(err))
		return [16]byte{}, false
	}
	r.ids[t.name] = resp.Topics[0].TopicID
	return resp.Topics[0].TopicID, true
}

// list asks for the offset of a special timestamp or a time.
func (r *reader) list(j *journal, timestamp int64) (kmsg.ListOffsetsResponseTopicPartition, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = j.topic.name
	rp := kmsg.NewListOffsetsRequestTopicPartition()
	rp.Partition, rp.Timestamp = j.partition, timestamp
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	for {
		resp, err := r.c.Request(r.s.ctx, req)
		if err == nil {
			p := resp.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
			if err = kerr.ErrorForCode(p.ErrorCode); err == nil {
				return p, nil
			}
		}
		r.s.unexpected("ListOffsets", err)
		if !r.s.pause(50 * time.Millisecond) {
			return kmsg.ListOffsetsResponseTopicPartition{}, context.Canceled
		}
	}
}

// start is where a topic's partition begins now.
func (r *reader) start(j *journal) (int64, bool) {
	floor := j.floor()
	p, err := r.list(j, -2)
	if err != nil {
		return 0, false
	}
	if p.Offset < floor.start {
		r.s.fail("%v: the log start is %d and was %d", j, p.Offset, floor.start)
	}
	j.raise(p.Offset, 0)
	return p.Offset, true
}

func (r *reader) end(j *journal) (int64, bool) {
	floor := j.floor()
	p, err := r.list(j, -1)
	if err != nil {
		return 0, false
	}
	if p.Offset < floor.watermark {
		r.s.fail("%v: the end is %d and was %d", j, p.Offset, floor.watermark)
	}
	j.raise(0, p.Offset)
	return p.Offset, true
}

// listings asks for offsets of all kinds.
func (r *reader) listings(j *journal) {
	start, ok1 := r.start(j)
	local, err := r.list(j, -4)
	if err != nil || !ok1 {
		return
	}
	end, ok := r.end(j)
	if !ok {
		return
	}
	if local.Offset < start || local.Offset > end {
		r.s.fail("%v: the local start is %d, the log [%d,%d)", j, local.Offset, start, end)
	}
	for _, special := range []int64{-3, -5, -6} {
		p, err := r.list(j, special)
		if err != nil {
			return
		}
		if p.Offset > end {
			if now, ok := r.end(j); ok && p.Offset > now {
				r.s.fail("%v: timestamp %d gave offset %d, the end is %d", j, special, p.Offset, now)
			}
		}
	}
	r.byTime(j, start)
	r.s.count("listings")
}

// byTime looks a time up and holds the answer against all that is known.
func (r *reader) byTime(j *journal, start int64) {
	j.mu.Lock()
	var want int64
	if n := int64(len(j.entries)); n > start {
		want = j.entries[start+r.random.Int64N(n-start)].time
	}
	acked := j.ackedEnd
	j.mu.Unlock()
	if want == 0 {
		return
	}
	want += r.random.Int64N(5) - 2
	p, err := r.list(j, want)
	if err != nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	upTo := p.Offset
	if upTo < 0 {
		upTo = acked
	}
	from := j.floors.start
	for o := from; o < min(upTo, int64(len(j.entries))); o++ {
		if e := j.entries[o]; e.known && e.time >= want {
			if j.topic.kind.trimmed || j.topic.kind.compacted {
				return // it may be gone
			}
			r.s.fail("%v: time %d is at %d (%d), but offset %d has %d", j, want, p.Offset, p.Timestamp, o, e.time)
			return
		}
	}
	if p.Offset >= 0 && p.Offset < int64(len(j.entries)) {
		if e := j.entries[p.Offset]; e.known && (e.time != p.Timestamp || e.time < want) {
			r.s.fail("%v: time %d is said to be at %d with %d, where %d is", j, want, p.Offset, p.Timestamp, e.time)
		}
	}
	r.s.count("lookups by time")
}

// stroll reads some way from a random place.
func (r *reader) stroll(j *journal) {
	start, ok := r.start(j)
	if !ok {
		return
	}
	end, ok := r.end(j)
	if !ok {
		return
	}
	from := start
	switch r.random.IntN(6) {
	case 0: // from the start
	case 1, 2: // anywhere
		if end > start {
			from = start + r.random.Int64N(end-start)
		}
	case 3: // across the seam
		local, err := r.list(j, -4)
		if err != nil {
			return
		}
		from = max(start, min(end, local.Offset-r.random.Int64N(50)))
	case 4: // the newest
		from = max(start, end-r.random.Int64N(20))
	case 5:
		from = end // long poll
	}
	w := walk{j: j, next: from, isolation: int8(r.random.IntN(2)), max: []int32{1, 5000, 200_000, 1 << 20, 8 << 20}[r.random.IntN(5)]}
	for range 1 + r.random.IntN(30) {
		if !r.step(&w) {
			return
		}
	}
}

// walk is a read in progress.
type walk struct {
	j         *journal
	next      int64
	last      int64 // offset of the last record, −1 before the first
	isolation int8
	max       int32
	each      func(offset int64, id identity)
	order     map[int32]int64 // producer -> number of its last record; nil: not looked at
	watermark int64           // of the last answer
	empty     bool            // the last answer had no batch
	empties   int             // how often in a row, though there were records
}

func (r *reader) request(w *walk) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis = int32(r.random.IntN(300))
	req.MinBytes = 1
	req.MaxBytes = 16 << 20
	req.IsolationLevel = w.isolation
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic = w.j.topic.name
	rt.TopicID = r.ids[w.j.topic.name]
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = w.j.partition, w.next, w.max
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

// step fetches once. It tells whether there is a next step.
func (r *reader) step(w *walk) bool {
	if _, ok := r.id(w.j.topic); !ok {
		return r.s.pause(50 * time.Millisecond)
	}
	floor, down := w.j.floor(), r.s.down.Load()
	resp, err := r.c.Request(r.s.ctx, r.request(w))
	if err != nil {
		r.s.unexpected("Fetch", err)
		return r.s.pause(50 * time.Millisecond)
	}
	f := resp.(*kmsg.FetchResponse)
	if f.ErrorCode != 0 || len(f.Topics) != 1 || len(f.Topics[0].Partitions) != 1 {
		r.s.fail("%v: fetch from %d: %v, %d topics", w.j, w.next, kerr.ErrorForCode(f.ErrorCode), len(f.Topics))
		return false
	}
	p := &f.Topics[0].Partitions[0]
	from := w.next
	ok := r.take(w, p, floor, down)
	// The answer for a partition alone has a batch, however small the limits,
	// unless the bucket was too slow for the wait that was asked for.
	switch {
	case p.ErrorCode != 0 || !w.empty || from >= floor.watermark:
		w.empties = 0
	default:
		r.s.count("answers without the records that there are")
		if w.empties++; w.empties > 20 || !w.j.topic.kind.tiered() {
			r.s.fail("%v: fetch from %d gave nothing for the %dth time, the watermark was %d before", w.j, from, w.empties, floor.watermark)
			return false
		}
	}
	return ok
}

// take holds an answer for one partition against the journal.
func (r *reader) take(w *walk, p *kmsg.FetchResponseTopicPartition, floor floors, down int64) bool {
	j := w.j
	switch err := kerr.ErrorForCode(p.ErrorCode); {
	case errors.Is(err, kerr.OffsetOutOfRange):
		start, ok := r.start(j)
		if !ok {
			return false
		}
		if start <= w.next {
			if end, ok := r.end(j); ok {
				r.s.fail("%v: offset %d is out of range, which is [%d,%d)", j, w.next, start, end)
			}
			return false
		}
		if !j.topic.kind.trimmed {
			r.s.fail("%v: the log start moved to %d", j, start)
			return false
		}
		r.s.count("overtaken by the log start")
		w.next, w.last = start, -1
		return true
	case err != nil:
		r.s.unexpected("Fetch", err)
		if r.s.down.Load() == down && down%2 == 0 && (errors.Is(err, kerr.KafkaStorageError) || errors.Is(err, kerr.UnknownServerError) || errors.Is(err, kerr.CorruptMessage)) {
			r.s.fail("%v: fetch from %d: %v", j, w.next, err)
		}
		return r.s.pause(50 * time.Millisecond)
	}
	if w.next < floor.start {
		r.s.fail("%v: offset %d is served, the log start was %d before", j, w.next, floor.start)
	}
	if p.HighWatermark < floor.watermark {
		// A leader that has just started shows what it is sure of, and answers
		// ListOffsets only once that is all there was before (KIP-207). What end
		// is told in the end is held against the floor.
		r.s.count("watermarks not yet known")
		if _, ok := r.end(j); !ok {
			return false
		}
	}
	if p.LogStartOffset < floor.start || p.LastStableOffset > p.HighWatermark {
		r.s.fail("%v: answer with log start %d, last stable %d, watermark %d; before %d and %d", j, p.LogStartOffset, p.LastStableOffset, p.HighWatermark, floor.start, floor.watermark)
	}
	j.raise(p.LogStartOffset, p.HighWatermark)
	w.watermark = p.HighWatermark
	r.s.count("fetches")
	from := w.next
	for b, err := range record.Batches(p.RecordBatches) {
		if err == nil {
			err = b.VerifyCRC()
		}
		if err != nil {
			r.s.fail("%v: fetch from %d: a broken batch after %d: %v", j, from, w.next, err)
			return false
		}
		if int64(b.LastOffset()) < from && !j.topic.kind.compacted {
			r.s.fail("%v: fetch from %d: a batch [%d,%d] wholly before it", j, from, b.BaseOffset, b.LastOffset())
		}
		if int64(b.NextOffset()) > p.HighWatermark {
			r.s.fail("%v: batch [%d,%d] above the watermark %d", j, b.BaseOffset, b.LastOffset(), p.HighWatermark)
		}
		err = b.Records(func(x *record.Record) error { return r.one(w, x) })
		if err != nil {
			r.s.fail("fetch from %d: %v", from, err)
			return false
		}
		if j.topic.kind.compacted {
			w.next = max(w.next, int64(b.NextOffset()))
		}
	}
	w.empty = len(p.RecordBatches) == 0
	return true
}

// one record of a fetch.
func (r *reader) one(w *walk, x *record.Record) error {
	offset := int64(x.Offset)
	if offset < w.next {
		return nil // its batch begins before the fetch
	}
	if offset != w.next && !w.j.topic.kind.compacted {
		return fmt.Errorf("%v: offset %d came where %d was due", w.j, offset, w.next)
	}
	headers := make([]kgo.RecordHeader, len(x.Headers))
	for i, h := range x.Headers {
		headers[i] = kgo.RecordHeader{Key: string(h.Key), Value: h.Value}
	}
	id, err := w.j.identify(x.Key, x.Value, headers, x.Timestamp)
	if err == nil {
		err = w.j.read(id, offset, x.Timestamp)
	}
	if err != nil {
		return fmt.Errorf("offset %d: %w", offset, err)
	}
	if w.order != nil {
		if before, ok := w.order[id.producer]; ok && id.seq <= before || ok && id.seq != before+1 && !w.j.topic.kind.compacted && w.last >= 0 {
			return fmt.Errorf("%v@%d: producer %d's record %d comes after its record %d", w.j, offset, id.producer, id.seq, before)
		}
		w.order[id.producer] = id.seq
	}
	if w.each != nil {
		w.each(offset, id)
	}
	w.next, w.last = offset+1, offset
	return nil
}

// whole reads a partition from its start to what is acked by now.
func (r *reader) whole(j *journal) {
	start, ok := r.start(j)
	if !ok {
		return
	}
	end, ok := r.end(j)
	if !ok {
		return
	}
	w := walk{j: j, next: start, last: -1, max: 4 << 20, order: map[int32]int64{}}
	for w.next < end {
		if !r.step(&w) {
			if r.s.ctx.Err() != nil {
				r.s.t.Errorf("%v: not read to its end: at %d of [%d,%d)", j, w.next, start, end)
			}
			return
		}
	}
	if !j.topic.kind.trimmed && start != 0 {
		r.s.fail("%v: begins at %d", j, start)
	}
	r.s.count("partitions read whole")
}

// scan reads a keyed partition from its start and holds what is left of each
// key against its last acked record.
func (r *reader) scan(j *journal) {
	begun, down := time.Now(), r.s.down.Load()
	start, ok := r.start(j)
	if !ok {
		return
	}
	end, ok := r.end(j)
	if !ok {
		return
	}
	type found struct {
		offset int64
		tomb   bool
	}
	last := map[uint32]found{}
	w := walk{j: j, next: start, last: -1, max: 1 << 20, order: map[int32]int64{},
		each: func(offset int64, id identity) { last[id.key] = found{offset, id.tomb} }}
	for w.next < end {
		if !r.step(&w) {
			return
		}
	}
	took := time.Since(begun)
	start, ok = r.start(j)
	if !ok {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	// What a key's last record was at the end of the scan, as far as it is known.
	latest := map[uint32]int64{}
	for o := range min(w.next, int64(len(j.entries))) {
		if e := j.entries[o]; e.hash != 0 {
			latest[e.key] = o
		}
	}
	for key, o := range latest {
		e, got := j.entries[o], last[key]
		_, seen := last[key]
		switch {
		case o < start: // gone with all before it
		case seen && got.offset >= o:
		case !seen && e.tomb:
		case e.tomb && (took > deleteRetention/2 || r.s.down.Load() != down):
			r.s.count("scans too slow to judge")
		default:
			r.s.fail("%v: key %d has its last record at %d (deletion: %v), a scan to %d found %d (any: %v); start %d", j, key, o, e.tomb, w.next, got.offset, seen, start)
			return
		}
	}
	r.s.count("scans of compacted partitions")
	if len(last) > 0 {
		r.s.count("scans that found records")
	}
}

// compactions scans the keyed topics over and over.
func (s *soak) compactions() {
	s.run(func() {
		r := s.newReader(400)
		defer r.close()
		for s.pause(100 * time.Millisecond) {
			t := s.topics[r.random.IntN(len(s.topics))]
			if t.kind.keys > 0 {
				r.scan(t.part(r.random.Int32N(t.count())))
			}
		}
	})
}
