package sim

import (
	"errors"
	"time"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/commitlog/producer"
	"github.com/firnlog/firn/record"
)

// producerClient writes to one partition with acks=all, idempotently: each batch
// has a sequence, and is sent again until it is acknowledged. An attempt that timed
// out may arrive later, after its repetition or after later batches.
type producerClient struct {
	w    *world
	t    *truth
	pid  int64
	seq  int32
	size record.Offset
	// epoch is the newest leader epoch heard of: a client does not go back to the
	// leader of an older one (KIP-320).
	epoch record.Epoch
	// last is set in calm: the batch under way is the last one.
	last, done bool
}

const produceTimeout = 1500 * time.Millisecond

func (w *world) startProducers() {
	pid := int64(1)
	for _, t := range w.parts {
		for range w.plan.producers {
			c := &producerClient{w: w, t: t, pid: pid}
			pid++
			w.users = append(w.users, c)
			w.after(w.upTo(w.plan.produceEvery), c.next)
		}
	}
}

// next begins a new batch.
func (c *producerClient) next() {
	c.last = c.w.calm
	c.size = 1 + record.Offset(c.w.rng.IntN(3))
	c.send()
}

// send makes one attempt, at the leader that some broker names.
func (c *producerClient) send() {
	w := c.w
	leader, epoch := w.leaderBy(c.t)
	if leader < 0 || epoch < c.epoch {
		w.after(w.between(50*time.Millisecond, 150*time.Millisecond), c.send)
		return
	}
	c.epoch = epoch
	b := batch{next: c.size, pid: c.pid, seq: c.seq}
	call(w, nil, leader, produceTimeout, false, func(p *proc, reply func(produced)) {
		if h := p.hosts[c.t.index]; h != nil {
			h.append(b, reply)
		} else {
			reply(produced{err: errNotLeading})
		}
	}, func(res produced, err error) {
		if err == nil {
			err = res.err
		}
		switch {
		case err == nil:
			w.count.acked++
			w.mix(uint64(c.pid), uint64(c.seq), uint64(res.base))
			a := ack{pid: c.pid, seq: c.seq, base: res.base}
			c.t.acknowledged(a, res.epoch)
			if c.t.floor <= res.epoch {
				c.t.acked = append(c.t.acked, a)
			}
			c.seq += int32(c.size)
			if c.last {
				c.done = true
				return
			}
			w.after(w.between(w.plan.produceEvery/2, w.plan.produceEvery*3/2), c.next)
			return
		case errors.Is(err, producer.ErrOutOfOrderSequence) || errors.Is(err, producer.ErrStaleEpoch):
			if !c.t.lossy {
				w.violate("7", "%s: producer %d is refused sequence %d: %v", c.t.name(), c.pid, c.seq, err)
			}
			// Acknowledged records are gone: the producer begins anew.
			c.pid, c.seq = c.pid+1000, 0
		}
		w.after(w.between(20*time.Millisecond, 150*time.Millisecond), c.send)
	})
}

// leaderBy is a partition's leader as some running broker has it, -1 if none.
func (w *world) leaderBy(t *truth) (leader int32, epoch record.Epoch) {
	n := w.nodes[1+w.rng.IntN(w.plan.brokers)]
	if n.proc == nil {
		return -1, -1
	}
	state := n.proc.image.Partition(t.tp)
	if state == nil {
		return -1, -1
	}
	return state.Leader, state.LeaderEpoch
}

// readerClient follows one partition from its log start, mostly at the leader,
// sometimes at another replica (KIP-392).
type readerClient struct {
	w        *world
	t        *truth
	from     record.Offset
	follower bool
}

// readAnswer is what a reader gets.
type readAnswer struct {
	batches  []batch
	hw       record.Offset
	logStart record.Offset
	epoch    record.Epoch
	err      error
}

func (w *world) startReaders() {
	for _, t := range w.parts {
		for i := range 2 {
			c := &readerClient{w: w, t: t, follower: i == 1}
			w.after(w.upTo(time.Second), c.read)
		}
	}
}

func (c *readerClient) read() {
	w := c.w
	again := w.between(50*time.Millisecond, 400*time.Millisecond)
	target, _ := w.leaderBy(c.t)
	if c.follower {
		state := w.meta.image().Partition(c.t.tp)
		target = state.Replicas[w.rng.IntN(len(state.Replicas))]
	}
	if target < 0 {
		w.after(again, c.read)
		return
	}
	call(w, nil, target, time.Second, false, func(p *proc, reply func(readAnswer)) { reply(p.serveRead(c.t, c.from, c.follower)) },
		func(a readAnswer, err error) {
			if err == nil && a.err == nil {
				w.count.read += len(a.batches)
				c.t.readBatches(c.from, a.batches, a.epoch, target)
				if n := len(a.batches); n > 0 {
					c.from = a.batches[n-1].next
				}
			}
			if errors.Is(a.err, errOutOfRange) {
				c.from = a.logStart
			}
			w.after(again, c.read)
		})
}

// serveRead answers a consumer (partition.Partition.Read, tiering/remote).
func (p *proc) serveRead(t *truth, from record.Offset, any bool) readAnswer {
	h := p.hosts[t.index]
	leads := h.leads() && p.leased()
	if h == nil || h.restoring || !leads && (!any || h.rep.Role() != replica.Follower) {
		return readAnswer{err: errNotLeading}
	}
	logStart := p.image.Partition(t.tp).LogStart
	hw := max(h.rep.HighWatermark(), min(logStart, h.log.end()))
	a := readAnswer{hw: hw, logStart: logStart, epoch: h.rep.LeaderEpoch()}
	switch {
	case leads && h.rep.WatermarkKnown():
		t.told(a.epoch, a.hw)
	case !leads && t.lossy:
		a.epoch = record.NoEpoch // after an unclean election a follower may not have cut its log yet
	}
	switch {
	case from < logStart:
		a.err = errOutOfRange
	case from > hw && (!leads || !h.rep.WatermarkKnown()):
		a.err = errUnavailable
	case from > h.log.end():
		a.err = errOutOfRange
	case from < h.log.start:
		a.batches, a.err = p.readRemote(t, from)
	case from < a.hw:
		a.batches = h.log.read(from, a.hw, maxBatches)
	}
	return a
}
