package partition

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/commitlog/producer"
	"github.com/firnlog/firn/record"
)

const (
	// maxRounds is how often one goroutine writes for others before it hands the
	// writer's part to a goroutine made for it.
	maxRounds = 32
	// maxScratch bounds, in elements, the slices kept between rounds, so that an
	// idle partition holds next to nothing.
	maxScratch = 256
)

// Owner is told of its append's progress from any goroutine, off all locks.
type Owner interface {
	// AppendWritten says that Raw is not read any more. It is called once,
	// before AppendDone.
	AppendWritten(*Append)
	// AppendDone says that the answer stands. It is called once; for one
	// partition the calls come in offset order.
	AppendDone(*Append)
}

// Append is one batch on its way into a partition. The caller fills the first
// group; the second is the answer, valid from AppendDone on.
type Append struct {
	// Raw is the batch as the client sent it. It must stay unchanged until
	// AppendWritten; its offset and epoch are stamped in place.
	Raw []byte
	// AcksAll waits for the watermark (acks=all); otherwise the append is done
	// when it is in the log.
	AcksAll bool
	// Internal marks a coordinator's own append: control batches are allowed and
	// the epoch below is checked.
	Internal bool
	// ZstdOK is false for Produce below version 7.
	ZstdOK bool
	// LeaderEpoch is the epoch that an internal writer believes in, −1 for none.
	LeaderEpoch record.Epoch
	Owner       Owner
	// Tag is the owner's to use.
	Tag int

	// Err is nil, a *kerr.Error (perhaps wrapped) or a *record.InvalidError.
	Err error
	// Base is the first offset, −1 on error; of a duplicate, the original's.
	Base record.Offset
	// AppendTime is the log append time in ms, −1 for CreateTime topics.
	AppendTime int64

	batch record.Batch
	end   record.Offset
}

// Append puts one batch into the partition. It may write for others on the
// caller's goroutine, but waits for no flush and no replica. Appends of one
// goroutine keep their order.
func (p *Partition) Append(a *Append) {
	a.Base, a.AppendTime = -1, -1
	set := p.settings.Load()
	rules := set.rules
	rules.Now = p.set.opts.Now().UnixMilli()
	rules.Internal, rules.ForbidZstd = a.Internal, !a.Internal && !a.ZstdOK
	batch, err := record.Validate(a.Raw, &rules)
	if err == nil && int64(batch.Size()) > set.topic.SegmentBytes {
		err = kerr.RecordListTooLarge
	}
	if err == nil {
		a.batch = batch
		if batch.IsLogAppendTime() {
			a.AppendTime = batch.MaxTimestamp
		}
		if err = p.enqueue(a); err == nil {
			return
		}
	}
	a.Err = err
	p.counts.rejected.Add(1)
	a.written()
	a.Owner.AppendDone(a)
}

// enqueue queues an append that is allowed, and writes unless somebody does.
func (p *Partition) enqueue(a *Append) error {
	if err := p.space.take(int64(a.batch.Size()), a.Internal); err != nil {
		return err
	}
	p.mu.Lock()
	if err := p.admitLocked(a); err != nil {
		p.mu.Unlock()
		return err
	}
	p.queue = append(p.queue, a)
	p.runLocked()
	return nil
}

// written lets go of the client's bytes.
func (a *Append) written() {
	a.Raw, a.batch.Raw = nil, nil
	a.Owner.AppendWritten(a)
}

func (p *Partition) admitLocked(a *Append) error {
	if err := p.checkLeaderLocked(a.LeaderEpoch); err != nil {
		return err
	}
	if a.AcksAll && !p.rep.EnoughInSync() {
		return kerr.NotEnoughReplicas
	}
	return nil
}

// exclusive runs op while no append is under way and returns when it is done.
func (p *Partition) exclusive(op func()) {
	done := make(chan struct{})
	p.mu.Lock()
	p.ops = append(p.ops, func() { defer close(done); op() })
	p.runLocked()
	<-done
	p.deliver()
}

// runLocked makes the caller the writer unless there is one, and releases the
// lock.
func (p *Partition) runLocked() {
	if p.writing {
		p.mu.Unlock()
		return
	}
	p.writing = true
	p.mu.Unlock()
	p.writeLoop()
}

// writeLoop is the writer's part: rounds of operations and gathered appends
// until nothing is queued.
func (p *Partition) writeLoop() {
	for round := 0; ; round++ {
		p.mu.Lock()
		if len(p.ops) == 0 && len(p.queue) == 0 {
			p.writing = false
			p.mu.Unlock()
			return
		}
		if round == maxRounds {
			p.mu.Unlock()
			go p.writeLoop()
			return
		}
		ops, queue := p.ops, p.queue
		p.ops, p.queue = nil, nil
		epoch := p.rep.LeaderEpoch()
		p.mu.Unlock()
		for _, op := range ops {
			op()
		}
		if len(ops) > 0 && len(queue) > 0 {
			queue, epoch = p.readmit(queue)
		}
		if len(queue) > 0 {
			p.write(queue, epoch)
		}
		p.deliver()
	}
}

// readmit checks queued appends again after an operation that may have changed
// the partition's role.
func (p *Partition) readmit(queue []*Append) ([]*Append, record.Epoch) {
	var refused []*Append
	kept := queue[:0]
	p.mu.Lock()
	for _, a := range queue {
		if a.Err = p.admitLocked(a); a.Err != nil {
			refused = append(refused, a)
		} else {
			kept = append(kept, a)
		}
	}
	epoch := p.rep.LeaderEpoch()
	p.mu.Unlock()
	// Ready only after that: whoever delivers meanwhile would answer them first.
	for _, a := range refused {
		a.written()
	}
	p.mu.Lock()
	p.ready = append(p.ready, refused...)
	p.mu.Unlock()
	return kept, epoch
}

// write stamps, checks and appends a gathered queue. The log judges the sequence
// of a batch against those gathered before it.
func (p *Partition) write(queue []*Append, epoch record.Epoch) {
	next := p.log.End()
	first := 0 // queue[first:i] is gathered and not yet written
	for i, a := range queue {
		a.batch.Stamp(next, epoch)
		if dup, ok, err := p.checkProducer(a); err != nil || ok {
			// Not to be written. What stands before it, perhaps its original, is
			// written first, so that it is answered in order.
			if failed := p.commit(queue[first:i]); failed != nil && err == nil {
				err = failed // the original may be among what was not written
			}
			first, next = i+1, p.log.End()
			p.settle(a, dup, err)
			continue
		}
		a.Base = next
		next = a.batch.NextOffset()
		a.end = next
		p.gather = append(p.gather, a.batch)
	}
	_ = p.commit(queue[first:]) // the appends have the error
	if cap(p.gather) > maxScratch {
		p.gather = nil
	}
}

// checkProducer judges the batch's sequence. ok tells that it is a duplicate of
// what dup names.
func (p *Partition) checkProducer(a *Append) (dup producer.Verdict, ok bool, err error) {
	if !a.batch.HasProducer() || a.batch.IsControl() {
		return dup, false, nil
	}
	dup, err = p.log.CheckProducer(&a.batch.Header)
	switch {
	case errors.Is(err, producer.ErrOutOfOrderSequence):
		return dup, false, fmt.Errorf("%w: %w", kerr.OutOfOrderSequenceNumber, err)
	case errors.Is(err, producer.ErrStaleEpoch):
		return dup, false, fmt.Errorf("%w: %w", kerr.InvalidProducerEpoch, err)
	case err != nil:
		return dup, false, fmt.Errorf("%w: %w", kerr.InvalidTxnState, err)
	}
	return dup, dup.Duplicate, nil
}

// settle answers an append that is not written: a duplicate or an error.
func (p *Partition) settle(a *Append, dup producer.Verdict, err error) {
	a.written()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		a.Err = err
		p.ready = append(p.ready, a)
		return
	}
	a.Base, a.end = dup.Base, dup.Next
	if a.AppendTime >= 0 {
		a.AppendTime = dup.Timestamp
	}
	if !a.AcksAll || a.end <= p.rep.HighWatermark() {
		p.ready = append(p.ready, a)
		return
	}
	p.waitLocked(a)
}

// waitLocked keeps acks in the order of their ends; a duplicate may belong
// before appends that came after its original.
func (p *Partition) waitLocked(a *Append) {
	i := len(p.acks)
	for i > 0 && p.acks[i-1].end > a.end {
		i--
	}
	p.acks = append(p.acks, nil)
	copy(p.acks[i+1:], p.acks[i:])
	p.acks[i] = a
}

// commit writes what was gathered for these appends and queues their answers. It
// returns the error that they were answered with.
func (p *Partition) commit(appends []*Append) error {
	if len(p.gather) == 0 {
		return nil
	}
	err := p.log.Append(p.gather)
	clear(p.gather)
	p.gather = p.gather[:0]
	for _, a := range appends {
		a.written()
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		if !errors.Is(err, commitlog.ErrNoSpace) && !errors.Is(err, commitlog.ErrNoFiles) { // the log, or the reserve, says those
			p.slog.Error("append failed", "topic", p.topic, "partition", p.tp.Partition, "err", err)
		}
		err = fmt.Errorf("%w: %w", kerr.KafkaStorageError, err)
		p.counts.rejected.Add(uint64(len(appends)))
		for _, a := range appends {
			a.Base, a.Err = -1, err
		}
		p.ready = append(p.ready, appends...)
		p.watch.movedLocked() // a log that failed answers readers with its error
		return err
	}
	for _, a := range appends {
		p.counts.bytesIn.Add(uint64(a.batch.Size()))
		p.counts.messagesIn.Add(uint64(a.batch.NumRecords))
		if a.AcksAll {
			p.waitLocked(a)
		} else {
			p.ready = append(p.ready, a)
		}
	}
	p.watch.grownLocked()
	p.effectsLocked(p.rep.Appended(p.log.End()))
	return nil
}
