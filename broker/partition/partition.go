// Package partition carries out what the replica machine decides: it owns the
// local log of each partition that this broker hosts, the queue of appends in
// front of it, and those who wait for its watermark.
//
// # Who runs what
//
// A partition has no goroutine. Appends are gathered: the goroutine that finds
// no writer at work becomes the writer, takes all that is queued, writes it with
// one vectored write, and goes on until the queue is empty. Whatever must not
// run beside an append (taking a new leader epoch, truncation, closing) is
// queued as an operation and run by the same writer. Completions are delivered
// in offset order by whichever goroutine moved the watermark, one at a time.
//
// # Locks
//
// Partition.mu guards the queue, the replica machine and the waiters. It is
// never held across I/O or a callback. Lock order: Set before Partition.mu;
// nothing is locked inside it but the log's own short mutexes.
//
// # Invariants
//
//	logStart ≤ localStart ≤ remoteEnd ≤ lastStable ≤ highWatermark ≤ logEnd
//
// An append with acks=all is done when the watermark has passed its end, a
// duplicate when the watermark has passed the original's end. Reads by clients
// end at the watermark (or the last stable offset).
package partition

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/metadata/configdef"
	"github.com/firnlog/firn/record"
)

// Partition is one partition's replica on this broker.
type Partition struct {
	tp    record.TopicPartition
	topic string
	log   *commitlog.Log
	slog  *slog.Logger
	space *space
	set   *Set

	settings atomic.Pointer[settings]

	mu      sync.Mutex
	closed  bool
	writing bool // a goroutine is in writeLoop
	queue   []*Append
	ops     []func()
	rep     *replica.Replica
	// restoring: the log must begin anew at the bucket's end before it follows, or
	// before deferred, an assignment as leader, is taken.
	restoring bool
	deferred  *replica.Assignment
	puller    Puller
	// acks are the appends that wait for the watermark, in offset order.
	acks       []*Append
	ready      []*Append // to be delivered, in offset order
	delivering bool
	watch      watchList
	// INVARIANT: logStart and remoteEnd never go back.
	logStart  record.Offset
	remoteEnd record.Offset

	// led and ledEpoch are what OnLeadership was told last, followed what OnFollow
	// was; the Set's.
	led      bool
	ledEpoch record.Epoch
	followed Following

	counts counters

	// gather and spare belong to the writer; they are reused between rounds.
	gather []record.Batch
	spare  []*Append
}

// settings are what the topic's configuration means for the hot path.
type settings struct {
	topic *configdef.TopicConfig
	rules record.Rules // Now is set per batch
}

// Log gives the partition's local log, for archive, reclaim and description.
func (p *Partition) Log() *commitlog.Log { return p.log }

// TP is the partition's topic id and number.
func (p *Partition) TP() record.TopicPartition { return p.tp }

// Topic is the name of the partition's topic.
func (p *Partition) Topic() string { return p.topic }

// Config is the topic's configuration in force.
func (p *Partition) Config() *configdef.TopicConfig { return p.settings.Load().topic }

// State is a consistent view of a partition's offsets and epochs.
type State struct {
	Role           replica.Role
	Leader         int32
	LeaderEpoch    record.Epoch
	LogStart       record.Offset
	LocalStart     record.Offset
	RemoteEnd      record.Offset // clamped up to LogStart
	LastStable     record.Offset
	HighWatermark  record.Offset
	LogEnd         record.Offset
	FlushedEnd     record.Offset
	WatermarkKnown bool // false: a new leader whose watermark is behind its epoch (KIP-207)
}

// check says what is out of order on a leader: the two tiers must cover all that
// was committed, and nothing may be told that the log does not have.
func (s *State) check() error {
	if s.Role != replica.Leader {
		return nil
	}
	if s.LogStart <= s.LocalStart && s.LocalStart <= s.RemoteEnd && s.RemoteEnd <= s.HighWatermark &&
		s.LastStable <= s.HighWatermark && s.HighWatermark <= s.LogEnd && s.FlushedEnd <= s.LogEnd {
		return nil
	}
	return fmt.Errorf("%w: %+v", replica.ErrInvariant, *s)
}

// State returns the partition's offsets as of now.
func (p *Partition) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stateLocked()
}

func (p *Partition) stateLocked() State {
	s := State{
		Role: p.rep.Role(), Leader: p.rep.Leader(), LeaderEpoch: p.rep.LeaderEpoch(),
		LogStart: p.logStart, HighWatermark: p.rep.HighWatermark(),
		FlushedEnd: p.log.FlushedEnd(), LogEnd: p.log.End(),
		WatermarkKnown: p.rep.WatermarkKnown(),
	}
	s.LocalStart = max(p.log.Start(), p.logStart)
	s.RemoteEnd = max(p.remoteEnd, p.logStart)
	s.HighWatermark = max(s.HighWatermark, min(s.LogStart, s.LogEnd))
	s.LastStable = max(p.log.LastStable(s.HighWatermark), min(s.LogStart, s.HighWatermark))
	return s
}

// role is what the partition is now; a leader whose log waits for the bucket is
// offline.
func (p *Partition) role() (r replica.Role, leader int32, epoch record.Epoch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.deferred != nil || p.closed {
		return replica.Offline, -1, p.rep.LeaderEpoch()
	}
	return p.rep.Role(), p.rep.Leader(), p.rep.LeaderEpoch()
}

// Followers describes the other replicas as the leader knows them, by id; nil
// where this broker does not lead.
func (p *Partition) Followers() []replica.FollowerState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rep.Followers()
}

// Trim drops the local segments that end at or below upTo, as far as the
// partition knows that they are below its log start or in the bucket: who
// decided may have read newer metadata than the partition was told of, and
// readers go by the partition's.
//
// A follower's leader is told with the next fetch, by which it knows who is warm.
func (p *Partition) Trim(upTo record.Offset) (freed int64, err error) {
	p.mu.Lock()
	upTo = min(upTo, max(p.logStart, p.remoteEnd))
	p.mu.Unlock()
	freed, err = p.log.TrimTo(upTo)
	if freed > 0 {
		p.mu.Lock()
		p.tellPullerLocked()
		p.mu.Unlock()
	}
	return freed, err
}

// CheckLeader answers nil where this broker leads the partition and the epoch
// that the client named, if any (−1 is none), is the one in force (KIP-320).
func (p *Partition) CheckLeader(current record.Epoch) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.checkLeaderLocked(current)
}

func (p *Partition) checkLeaderLocked(current record.Epoch) error {
	if err := p.checkEpochLocked(current); err != nil {
		return err
	}
	if p.rep.Role() != replica.Leader {
		return kerr.NotLeaderForPartition
	}
	if l := p.set.opts.Lease; l != nil && !l.Valid() {
		// Another broker may lead by now, and serve what this one does not know of.
		return kerr.NotLeaderForPartition
	}
	return nil
}

// checkEpochLocked answers nil where the replica serves at all, and the epoch that
// the client named, if any, is the one in force (KIP-320).
func (p *Partition) checkEpochLocked(current record.Epoch) error {
	switch epoch := p.rep.LeaderEpoch(); {
	case p.closed:
		return kerr.NotLeaderForPartition
	case p.deferred != nil:
		return kerr.KafkaStorageError
	case current >= 0 && current < epoch:
		return kerr.FencedLeaderEpoch
	case current >= 0 && current > epoch:
		return kerr.UnknownLeaderEpoch
	}
	if p.log.Failed() != nil {
		return kerr.KafkaStorageError
	}
	return nil
}

// assign takes the partition's assignment from the metadata image. It returns
// once the log knows the new epoch, or waits for the bucket.
func (p *Partition) assign(a replica.Assignment, cfg replica.Config) error {
	var err error
	p.exclusive(func() {
		p.mu.Lock()
		p.effectsLocked(p.rep.SetConfig(cfg))
		p.mu.Unlock()
		err = p.take(a)
	})
	if err != nil {
		return fmt.Errorf("partition %s-%d: take leader epoch %d: %w", p.topic, p.tp.Partition, a.LeaderEpoch, err)
	}
	return nil
}

// take carries out an assignment. REQUIRES: the caller is the writer.
func (p *Partition) take(a replica.Assignment) error {
	ready, err := p.begin(&a)
	if err != nil || !ready {
		return err
	}
	p.mu.Lock()
	p.logStart = max(p.logStart, a.LogStart)
	p.remoteEnd = max(p.remoteEnd, a.RemoteEnd)
	led, isr := p.rep.Role() == replica.Leader, p.rep.ISR()
	eff := p.rep.Assign(time.Now(), a, replica.Progress{LogEnd: p.log.End(), FlushedEnd: p.log.FlushedEnd()})
	if led && p.rep.Role() == replica.Leader {
		p.countISRLocked(isr)
	}
	p.mu.Unlock()
	if eff.AssignEpoch {
		err = p.log.AssignEpoch(a.LeaderEpoch, p.log.End())
	}
	p.mu.Lock()
	if eff.RoleChanged {
		p.failLocked(kerr.NotLeaderForPartition)
	}
	p.effectsLocked(eff)
	p.watch.movedLocked()
	p.tellPullerLocked()
	p.mu.Unlock()
	return err
}

// configure takes the topic's configuration.
func (p *Partition) configure(c *configdef.TopicConfig, log commitlog.Config, rep replica.Config) {
	p.settings.Store(newSettings(c))
	p.log.SetConfig(log)
	p.mu.Lock()
	p.effectsLocked(p.rep.SetConfig(rep))
	p.mu.Unlock()
	p.deliver()
}

// flushed is the log's callback: more of it is durable. The log is asked how
// much, since a truncation may have overtaken the callback.
func (p *Partition) flushed(record.Offset) {
	p.mu.Lock()
	if p.rep == nil { // while the log is being opened
		p.mu.Unlock()
		return
	}
	p.effectsLocked(p.rep.Flushed(p.log.FlushedEnd()))
	p.tellPullerLocked()
	p.mu.Unlock()
	p.deliver()
}

// tick lets time pass for the replica machine.
func (p *Partition) tick(now time.Time, eligible func(int32) bool) {
	p.mu.Lock()
	p.effectsLocked(p.rep.Tick(now, eligible))
	p.effectsLocked(p.rep.Judge(now, p.log))
	if p.deferred == nil && !p.closed {
		s := p.stateLocked()
		p.violatedLocked(s.check())
	}
	p.mu.Unlock()
}

// proposalFailed tells the replica machine that its ISR change did not come
// about, or, if that is not certain, that nobody knows.
func (p *Partition) proposalFailed(pr *replica.ISRProposal, certain bool) {
	p.mu.Lock()
	p.rep.ProposalFailed(pr, certain)
	p.mu.Unlock()
}

// effectsLocked notes what an event caused; deliver carries it to the waiters.
func (p *Partition) effectsLocked(eff replica.Effects) {
	if eff.WatermarkMoved {
		n := 0
		for n < len(p.acks) && p.acks[n].end <= eff.HighWatermark {
			n++
		}
		if n > 0 {
			p.ready = append(p.ready, p.acks[:n]...)
			rest := copy(p.acks, p.acks[n:])
			clear(p.acks[rest:])
			p.acks = p.acks[:rest]
		}
		p.watch.movedLocked()
	}
	if eff.Propose != nil {
		p.set.proposer.add(p, eff.Propose)
	}
	p.violatedLocked(p.rep.Check())
}

// violatedLocked counts an invariant that does not hold, and tells of the first.
func (p *Partition) violatedLocked(err error) {
	if err != nil && p.counts.violations.Add(1) == 1 {
		p.slog.Error("INVARIANT does not hold", "topic", p.topic, "partition", p.tp.Partition, "err", err)
	}
}

// failLocked answers everyone who waits with an error.
func (p *Partition) failLocked(err error) {
	for _, a := range p.acks {
		a.Err = err
	}
	p.ready = append(p.ready, p.acks...)
	p.acks = nil
}

// deliver runs the callbacks of what is ready, in order, off the lock. One
// goroutine delivers at a time; what becomes ready meanwhile it takes along.
func (p *Partition) deliver() {
	p.mu.Lock()
	if p.delivering {
		p.mu.Unlock()
		return
	}
	p.delivering = true
	for len(p.ready) > 0 || p.watch.dueLocked() {
		ready := p.ready
		p.ready = p.spare[:0]
		p.spare = nil
		told := p.watch.takeLocked()
		p.mu.Unlock()
		for _, w := range told {
			if m, ok := w.(Marker); ok {
				m.Mark()
			}
		}
		for i, a := range ready {
			ready[i] = nil
			a.Owner.AppendDone(a)
		}
		for _, w := range told {
			w.Moved()
		}
		p.mu.Lock()
		p.watch.toldLocked(told)
		if cap(ready) <= maxScratch {
			p.spare = ready[:0]
		}
	}
	p.delivering = false
	p.mu.Unlock()
}

// close stops the partition, answers all waiters and closes its log. clean says
// that the log may be trusted as it is on disk.
func (p *Partition) close(clean bool) error {
	var err error
	p.exclusive(func() {
		p.mu.Lock()
		already := p.closed
		p.closed = true
		p.failLocked(kerr.NotLeaderForPartition)
		p.watch.movedLocked()
		p.mu.Unlock()
		if !already {
			err = p.log.Close(clean)
		}
	})
	return err
}

// LogStart is the replicated log start offset.
func (p *Partition) LogStart() record.Offset {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.logStart
}
