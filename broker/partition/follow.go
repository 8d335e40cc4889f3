package partition

import (
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/record"
)

// Puller is told, by a partition that follows, that Position may have changed
// without a reply: what was received is durable, the assignment is new, or the
// log began anew at the bucket's end. FollowReady must not block, and must not
// call the partition. It may be told for nothing.
type Puller interface{ FollowReady(p *Partition) }

// SetPuller says who pulls for the partition, nil for nobody. The one before is
// told nothing more once it returns.
func (p *Partition) SetPuller(to Puller) {
	p.mu.Lock()
	p.puller = to
	p.mu.Unlock()
}

// Position is what a follower asks its leader for next. ok is false while there is
// nothing to ask: it does not follow, knows no leader, what it received is not yet
// durable to the topic's level, or its log waits for the bucket. The puller is
// told when that may be over.
func (p *Partition) Position() (at replica.Position, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.restoring || p.log.Failed() != nil {
		return replica.Position{}, false
	}
	return p.rep.Position(p.log)
}

// LocalStart is where the local log begins, which a follower tells its leader with each
// fetch.
func (p *Partition) LocalStart() record.Offset { return p.log.Start() }

// Reply is what a leader answered to a position.
type Reply struct {
	At replica.Position
	replica.Reply
	// Raw are whole batches one after another, as the leader has them. They are not
	// read after OnReply returned.
	Raw []byte
}

// Outcome is what became of a reply.
type Outcome struct {
	replica.Decision
	// Bytes and Batches were appended.
	Bytes, Batches int
}

// OnReply carries out what a leader's reply means: it appends, truncates or
// begins anew, on the caller's goroutine. It waits for no flush: Position says
// when to ask on. A reply to anything but the present position changes nothing.
//
// Errors: record.ErrCorrupt and others of package record for batches that are
// none; kerr.KafkaStorageError for a full or failed disk. Then the position is as
// it was, or (a log that failed) there is none.
func (p *Partition) OnReply(r *Reply) (Outcome, error) {
	p.mu.Lock()
	if p.writing {
		p.mu.Unlock()
		return p.onReplyInTurn(r)
	}
	// Nobody writes, as ever on a follower: no need to queue.
	p.writing = true
	p.mu.Unlock()
	out, err := p.onReply(r)
	p.writeLoop()
	p.deliver()
	return out, err
}

// onReplyInTurn is OnReply where somebody writes: the partition has just stopped
// leading, say.
func (p *Partition) onReplyInTurn(r *Reply) (out Outcome, err error) {
	p.exclusive(func() { out, err = p.onReply(r) })
	return out, err
}

// onReply is OnReply. REQUIRES: the caller is the writer.
func (p *Partition) onReply(r *Reply) (out Outcome, err error) {
	p.mu.Lock()
	if p.closed || p.restoring {
		p.mu.Unlock()
		return Outcome{Decision: replica.Decision{Step: replica.Drop}}, nil
	}
	out.Decision = p.rep.OnReply(r.At, r.Reply, p.log)
	if out.Step == replica.ResetToRemote {
		p.restoreLocked(nil)
	}
	p.mu.Unlock()
	switch out.Step {
	case replica.Append:
		out.Bytes, out.Batches, err = p.appendReply(r, out.HighWatermark)
	case replica.Truncate:
		err = p.truncateTo(out.Decision)
	case replica.Reset:
		err = p.beginAt(out.To, nil, nil)
	case replica.Drop, replica.Wait, replica.ResetToRemote:
	}
	if err != nil {
		return out, fmt.Errorf("follow %s-%d: %s: %w", p.topic, p.tp.Partition, out.Step, err)
	}
	return out, nil
}

// appendReply appends a leader's batches as they are and learns its watermark.
func (p *Partition) appendReply(r *Reply, watermark record.Offset) (bytes, batches int, err error) {
	p.counts.leaderWatermark.Store(int64(watermark)) // also when nothing can be appended: it is what lacks
	if len(r.Raw) > 0 {
		if bytes, err = p.gatherReply(r); err != nil {
			p.dropGathered()
			return 0, 0, err
		}
		batches = len(p.gather)
		if err = p.log.Append(p.gather); err != nil {
			p.dropGathered()
			return 0, 0, fmt.Errorf("%w: %w", kerr.KafkaStorageError, err)
		}
		p.dropGathered()
		p.counts.replicaIn.Add(uint64(bytes))
	}
	p.mu.Lock()
	if batches > 0 {
		p.effectsLocked(p.rep.Appended(p.log.End()))
		p.watch.grownLocked()
	}
	p.effectsLocked(p.rep.LearnWatermark(watermark))
	p.mu.Unlock()
	return bytes, batches, nil
}

func (p *Partition) dropGathered() {
	clear(p.gather)
	p.gather = p.gather[:0]
	if cap(p.gather) > maxScratch {
		p.gather = nil
	}
}

// gatherReply checks what the leader sent and leaves it in p.gather. The leader
// has validated the records; here it is that the bytes are whole, that they
// continue this log, and that no epoch goes back.
func (p *Partition) gatherReply(r *Reply) (bytes int, err error) {
	end, epoch := r.At.Offset, r.At.LastEpoch
	for batch, err := range record.Batches(r.Raw) {
		if err == nil {
			err = batch.VerifyCRC()
		}
		if err != nil {
			return 0, err
		}
		if batch.BaseOffset < end && bytes == 0 && p.log.Start() == end && p.log.Size() == 0 {
			// The log begins anew at an offset within a batch: the leader's log start.
			// The batch comes whole, and the log begins where it does.
			if err := p.beginAt(batch.BaseOffset, nil, nil); err != nil {
				return 0, err
			}
			end = batch.BaseOffset
		}
		switch {
		case batch.BaseOffset < end:
			return 0, fmt.Errorf("%w: batch at %d does not follow the end %d", record.ErrCorrupt, batch.BaseOffset, end)
		case batch.LeaderEpoch < epoch || batch.LeaderEpoch > r.At.LeaderEpoch:
			return 0, fmt.Errorf("%w: batch at %d has leader epoch %d, after %d and under %d", record.ErrCorrupt,
				batch.BaseOffset, batch.LeaderEpoch, epoch, r.At.LeaderEpoch)
		}
		end, epoch = batch.NextOffset(), batch.LeaderEpoch
		p.gather = append(p.gather, batch)
		bytes += batch.Size()
	}
	if bytes == 0 {
		return 0, nil
	}
	return bytes, p.space.take(int64(bytes), false)
}

// truncateTo cuts the log where the leader's went another way.
func (p *Partition) truncateTo(d replica.Decision) error {
	log := p.slog.Info
	if d.BelowWatermark {
		// After an unclean election that is what was lost.
		p.counts.belowWatermark.Add(1)
		log = p.slog.Error
	}
	end := p.log.End()
	if err := p.log.TruncateTo(d.To); err != nil {
		return fmt.Errorf("%w: %w", kerr.KafkaStorageError, err)
	}
	if p.log.End() == end && !d.BelowWatermark {
		log = p.slog.Debug // nothing but an epoch without records
	}
	p.mu.Lock()
	log("log is cut where the leader's went another way", "topic", p.topic, "partition", p.tp.Partition,
		"to", p.log.End(), "end", end, "watermark", p.rep.HighWatermark(), "below_watermark", d.BelowWatermark)
	p.rep.Truncated(replica.Progress{LogEnd: p.log.End(), FlushedEnd: p.log.FlushedEnd()})
	p.watch.movedLocked()
	p.mu.Unlock()
	return nil
}

// beginAt discards the log and begins an empty one. REQUIRES: the writer.
func (p *Partition) beginAt(at record.Offset, epochs []commitlog.EpochStart, producers []byte) error {
	from, to := p.log.Start(), p.log.End()
	if err := p.log.ResetTo(at, epochs, producers); err != nil {
		return fmt.Errorf("%w: begin anew at %d: %w", kerr.KafkaStorageError, at, err)
	}
	if to > from {
		p.slog.Warn("log is discarded and begins anew", "topic", p.topic, "partition", p.tp.Partition,
			"log_start", from, "log_end", to, "at", at)
	}
	p.mu.Lock()
	p.rep.Restarted(at)
	p.watch.movedLocked()
	p.mu.Unlock()
	return nil
}

// tellPullerLocked tells the puller that the position may have changed.
func (p *Partition) tellPullerLocked() {
	if p.puller != nil && p.rep.Role() == replica.Follower {
		p.puller.FollowReady(p)
	}
}

// Synced reports whether this broker is in the partition's committed ISR.
func (p *Partition) Synced() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.rep.ISR(), p.set.opts.NodeID)
}

// AwaitsFlush reports whether a follower's Position waits for what it received to
// be durable; the puller is told when it is.
func (p *Partition) AwaitsFlush() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.closed && p.rep.Role() == replica.Follower && p.log.Failed() == nil && !p.rep.Durable()
}
