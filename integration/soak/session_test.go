package soak

import (
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// sessionPart is a partition within a fetch session.
type sessionPart struct {
	walk
	since time.Time // when it last moved, or was seen to have nothing
}

// session reads through one fetch session (KIP-227) that gains and forgets
// partitions, until it is closed or the broker forgets it.
func (r *reader) session() {
	type place struct {
		topic     [16]byte
		partition int32
	}
	in := map[place]*sessionPart{}
	id, epoch := int32(0), int32(0)
	dirty := map[place]bool{} // to be sent with the next request
	var forget []place
	add := func() {
		t := r.s.topics[r.random.IntN(len(r.s.topics))]
		tid, ok := r.id(t)
		if !ok {
			return
		}
		j := t.part(r.random.Int32N(t.count()))
		at := place{tid, j.partition}
		if in[at] != nil {
			return
		}
		start, ok := r.start(j)
		end, ok2 := r.end(j)
		if !ok || !ok2 {
			return
		}
		from := start
		if end > start && r.random.IntN(3) > 0 {
			from = start + r.random.Int64N(end-start)
		}
		in[at] = &sessionPart{walk: walk{j: j, next: from, last: -1, max: 1 << uint(r.random.IntN(21))}, since: time.Now()}
		dirty[at] = true
	}
	for len(in) < 6 {
		add()
		if r.s.ctx.Err() != nil {
			return
		}
	}
	for turn := 0; turn < 60; turn++ {
		switch r.random.IntN(6) {
		case 0:
			add()
		case 1:
			for at := range in {
				if len(in) > 3 && epoch > 0 {
					delete(in, at)
					delete(dirty, at)
					forget = append(forget, at)
				}
				break
			}
		}
		req := kmsg.NewPtrFetchRequest()
		req.MaxWaitMillis, req.MinBytes, req.MaxBytes = int32(r.random.IntN(300)), 1, 4<<20
		req.SessionID, req.SessionEpoch = id, epoch
		for at := range dirty {
			p := in[at]
			rt := kmsg.NewFetchRequestTopic()
			rt.Topic, rt.TopicID = p.j.topic.name, at.topic
			rp := kmsg.NewFetchRequestTopicPartition()
			rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = at.partition, p.next, p.max
			rt.Partitions = append(rt.Partitions, rp)
			req.Topics = append(req.Topics, rt)
		}
		for _, at := range forget {
			ft := kmsg.NewFetchRequestForgottenTopic()
			ft.TopicID, ft.Partitions = at.topic, []int32{at.partition}
			for _, t := range r.s.topics {
				if r.ids[t.name] == at.topic {
					ft.Topic = t.name
				}
			}
			req.ForgottenTopics = append(req.ForgottenTopics, ft)
		}
		floorOf := map[place]floors{}
		for at, p := range in {
			floorOf[at] = p.j.floor()
		}
		down := r.s.down.Load()
		raw, err := r.c.Request(r.s.ctx, req)
		if err != nil {
			r.s.unexpected("Fetch in a session", err)
			r.s.pause(100 * time.Millisecond)
			return
		}
		resp := raw.(*kmsg.FetchResponse)
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			if r.s.down.Load() == down && down%2 == 0 && !errors.Is(err, kerr.FetchSessionIDNotFound) || errors.Is(err, kerr.InvalidFetchSessionEpoch) {
				r.s.fail("session %d epoch %d: %v", id, epoch, err)
			}
			r.s.unexpected("session", err)
			return
		}
		if epoch == 0 {
			if id = resp.SessionID; id == 0 {
				r.s.count("sessions refused")
				return
			}
		}
		epoch++
		clear(dirty)
		forget = forget[:0]
		moved := map[place]bool{}
		for ti := range resp.Topics {
			for pi := range resp.Topics[ti].Partitions {
				rp := &resp.Topics[ti].Partitions[pi]
				at := place{resp.Topics[ti].TopicID, rp.Partition}
				p := in[at]
				if p == nil {
					r.s.fail("session %d: an answer for partition %d of %x, which is not in it", id, at.partition, at.topic)
					return
				}
				from := p.next
				if !r.take(&p.walk, rp, floorOf[at], down) {
					return
				}
				if p.next != from {
					dirty[at], moved[at] = true, true
				}
				if rp.ErrorCode != 0 {
					dirty[at] = true
				}
			}
		}
		for at, p := range in {
			if moved[at] || p.next >= floorOf[at].watermark {
				p.since = time.Now()
			}
			if wait := time.Since(p.since); wait > 20*time.Second && r.s.down.Load() == down {
				r.s.fail("session %d of %d partitions: %v stands at %d of %d since %v, with %d bytes at a time", id, len(in), p.j, p.next, floorOf[at].watermark, wait, p.max)
				return
			}
		}
		if r.s.down.Load() != down {
			return
		}
		r.s.count("session fetches")
	}
	if r.random.IntN(2) == 0 { // close it; otherwise it is left behind
		req := kmsg.NewPtrFetchRequest()
		req.SessionID, req.SessionEpoch = id, -1
		_, err := r.c.Request(r.s.ctx, req)
		r.s.unexpected("close a session", err)
	}
}
