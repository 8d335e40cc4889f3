// Package replica is the state machine of one replica of one partition: its
// role, epochs, progress, in-sync replica set (ISR) and high watermark.
//
// It is pure. It reads no clock, starts no goroutine and does no I/O: events go
// in as method calls, what must be done comes back as Effects, and the caller
// (package broker/partition) carries the effects out in the order of the
// struct's fields. The caller also serializes the calls. The same code therefore
// runs under the simulator and in production.
//
// Progress is durable progress. On a topic with durability=fsync the local
// replica counts by its flushed end, otherwise by its log end, and a follower's
// fetch offset is its acknowledgement.
//
// Rules and where they come from:
//   - a change of the ISR is a compare-and-set on the partition epoch, decided
//     in the metadata log and not here (KIP-497);
//   - the watermark uses the maximal ISR: an expansion counts when it is
//     proposed, a shrink only when it is committed (KIP-497);
//   - min.insync.replicas holds the watermark as well as acks (KIP-966);
//   - a new leader answers for its watermark only once the watermark has reached
//     the start of its own epoch (KIP-207).
package replica

import (
	"slices"
	"time"

	"github.com/firnlog/firn/record"
)

// Role is what this replica is for its partition.
type Role uint8

// The roles. A replica is Offline until its first assignment.
const (
	Offline Role = iota
	Follower
	Leader
)

// String names the role for logs.
func (r Role) String() string {
	switch r {
	case Follower:
		return "follower"
	case Leader:
		return "leader"
	default:
		return "offline"
	}
}

// Config is what a topic and its broker say of a replica. It may change while
// the replica runs, by SetConfig.
type Config struct {
	// Fsync counts the local replica by its flushed end (durability=fsync).
	Fsync bool
	// MinISR is min.insync.replicas, at least 1.
	MinISR int
	// LagMax is replica.lag.time.max.ms: how long a follower may be behind
	// before the leader proposes to drop it from the ISR.
	LagMax time.Duration
}

// Assignment is what the metadata log says of the partition.
type Assignment struct {
	Leader         int32
	LeaderEpoch    record.Epoch
	PartitionEpoch int32
	Replicas       []int32
	ISR            []int32
	// RemoteEnd is the end of what is in the bucket. It was committed, so a new
	// leader's watermark begins there.
	RemoteEnd record.Offset
	// LogStart is the replicated log start offset.
	LogStart record.Offset
}

// Progress is how far the local log has come.
type Progress struct {
	LogEnd     record.Offset
	FlushedEnd record.Offset
}

// ISRProposal asks the metadata log to change the ISR, if the partition is still
// at the epochs named.
type ISRProposal struct {
	LeaderEpoch    record.Epoch
	PartitionEpoch int32
	ISR            []int32
}

// Effects is what an event caused, to be carried out in the order of the fields.
// The zero value asks for nothing.
type Effects struct {
	// RoleChanged: the role or the leader epoch is new. Everything that waited on
	// the old epoch must be answered.
	RoleChanged bool
	// AssignEpoch: the leader must record its epoch at the log's end before it
	// appends anything.
	AssignEpoch bool
	// WatermarkMoved: HighWatermark is new; waiters below it are done.
	WatermarkMoved bool
	HighWatermark  record.Offset
	// Propose is nil or an ISR change for the metadata log.
	Propose *ISRProposal
}

// follower is what a leader knows of another replica.
type follower struct {
	brokerEpoch  int64
	logEnd       record.Offset
	lastFetch    time.Time
	lastFetchEnd record.Offset // the leader's log end at lastFetch
	caughtUp     time.Time     // the last moment at which it had all there was
}

// Replica is the state of one replica. Its methods must not be called at the
// same time.
type Replica struct {
	id  int32
	cfg Config

	role           Role
	leader         int32
	leaderEpoch    record.Epoch
	partitionEpoch int32
	replicas       []int32
	isr            []int32 // committed
	// pending is the ISR that was proposed and not yet answered, nil if none.
	pending []int32

	// INVARIANT: remoteEnd clamps to logStart ≤ highWatermark ≤ logEnd; flushedEnd ≤ logEnd.
	logStart      record.Offset
	remoteEnd     record.Offset
	highWatermark record.Offset
	logEnd        record.Offset
	flushedEnd    record.Offset
	// epochStart is the log end at which this leader's epoch began.
	epochStart record.Offset

	followers map[int32]*follower // leader only
}

// New returns an offline replica of the broker with the given id. highWatermark
// is the last one known from a checkpoint, or the log's start.
func New(id int32, cfg Config, highWatermark record.Offset, p Progress) *Replica {
	r := &Replica{id: id, cfg: cfg, leader: -1, leaderEpoch: -1, partitionEpoch: -1,
		logEnd: p.LogEnd, flushedEnd: p.FlushedEnd}
	r.highWatermark = min(highWatermark, p.LogEnd)
	return r
}

// Role tells what the replica is now.
func (r *Replica) Role() Role { return r.role }

// Leader is the id of the partition's leader, -1 if none is known.
func (r *Replica) Leader() int32 { return r.leader }

// LeaderEpoch is the epoch of the assignment in force, -1 before the first.
func (r *Replica) LeaderEpoch() record.Epoch { return r.leaderEpoch }

// HighWatermark is the end of what is committed, as far as this replica knows.
func (r *Replica) HighWatermark() record.Offset { return r.highWatermark }

// WatermarkKnown reports whether a leader's watermark has reached its own epoch,
// so that it may be told to clients (KIP-207).
func (r *Replica) WatermarkKnown() bool {
	return r.role != Leader || r.highWatermark >= r.epochStart
}

// EnoughInSync reports whether the committed ISR satisfies min.insync.replicas.
func (r *Replica) EnoughInSync() bool { return len(r.isr) >= r.MinISR() }

// ISR returns the committed in-sync replicas. The slice is not to be changed.
func (r *Replica) ISR() []int32 { return r.isr }

// Replicas is the number of replicas.
func (r *Replica) Replicas() int { return len(r.replicas) }

// MinISR is min.insync.replicas, but never more than there are replicas: a topic
// with factor 1 on a broker whose default is 2 could otherwise never be written.
func (r *Replica) MinISR() int {
	return min(max(r.cfg.MinISR, 1), max(len(r.replicas), 1))
}

// SetConfig takes a changed configuration. The watermark may move: from the
// flushed end to the log end, or because fewer replicas are asked for. It never
// goes back.
func (r *Replica) SetConfig(cfg Config) Effects {
	r.cfg = cfg
	return r.advance(Effects{})
}

// Assign takes an assignment from the metadata log. One that is older than what
// is in force is ignored.
func (r *Replica) Assign(now time.Time, a Assignment, p Progress) Effects {
	if a.LeaderEpoch < r.leaderEpoch || (a.LeaderEpoch == r.leaderEpoch && a.PartitionEpoch < r.partitionEpoch) {
		return Effects{}
	}
	var eff Effects
	newEpoch := a.LeaderEpoch != r.leaderEpoch || r.role == Offline
	r.leader, r.leaderEpoch, r.partitionEpoch = a.Leader, a.LeaderEpoch, a.PartitionEpoch
	r.replicas, r.isr, r.pending = slices.Clone(a.Replicas), slices.Clone(a.ISR), nil
	r.logEnd, r.flushedEnd = p.LogEnd, p.FlushedEnd
	r.logStart, r.remoteEnd = max(r.logStart, a.LogStart), max(r.remoteEnd, a.RemoteEnd)

	switch {
	case a.Leader == r.id && newEpoch:
		r.role = Leader
		r.epochStart = r.logEnd
		r.followers = make(map[int32]*follower)
		eff.RoleChanged, eff.AssignEpoch = true, true
		// What is in the bucket, and what was deleted, was committed before.
		if floor := min(max(r.remoteEnd, r.logStart), r.logEnd); floor > r.highWatermark {
			r.highWatermark = floor
			eff.WatermarkMoved, eff.HighWatermark = true, floor
		}
	case a.Leader != r.id && (newEpoch || r.role == Leader):
		r.role, r.followers = Follower, nil
		eff.RoleChanged = true
	}
	if r.role == Leader {
		r.trackFollowers(now)
		eff = r.advance(eff)
	}
	return eff
}

// trackFollowers keeps one entry for each other replica. A new one is given the
// full lag time before it can be dropped.
func (r *Replica) trackFollowers(now time.Time) {
	for id := range r.followers {
		if !slices.Contains(r.replicas, id) {
			delete(r.followers, id)
		}
	}
	for _, id := range r.replicas {
		if id != r.id && r.followers[id] == nil {
			r.followers[id] = &follower{brokerEpoch: -1, logEnd: -1, caughtUp: now}
		}
	}
}

// Appended takes the local log's new end after an append or a truncation.
func (r *Replica) Appended(logEnd record.Offset) Effects {
	r.logEnd = logEnd
	r.flushedEnd = min(r.flushedEnd, logEnd)
	return r.advance(Effects{})
}

// Flushed takes the end of what is durable on the local disk.
func (r *Replica) Flushed(flushedEnd record.Offset) Effects {
	// A flush may be heard of before the append that it covers, so the log end
	// bounds it where it is used and not here.
	r.flushedEnd = max(r.flushedEnd, flushedEnd)
	return r.advance(Effects{})
}

// RemoteMoved takes a new end of what is in the bucket.
func (r *Replica) RemoteMoved(remoteEnd record.Offset) { r.remoteEnd = max(r.remoteEnd, remoteEnd) }

// StartMoved takes a new replicated log start offset.
func (r *Replica) StartMoved(logStart record.Offset) { r.logStart = max(r.logStart, logStart) }

// LearnWatermark takes the watermark that a follower was told by its leader. It
// never moves past the local log's end.
func (r *Replica) LearnWatermark(hw record.Offset) Effects {
	if r.role != Follower {
		return Effects{}
	}
	return r.raise(Effects{}, min(hw, r.logEnd))
}

// Fetched takes a follower's fetch: everything below offset is durable there.
// A broker epoch lower than one seen before is of an earlier life and ignored
// (KIP-903). eligible says that the broker is neither fenced nor shutting down.
func (r *Replica) Fetched(now time.Time, id int32, brokerEpoch int64, offset record.Offset, eligible bool) Effects {
	f := r.followers[id]
	if r.role != Leader || f == nil || brokerEpoch < f.brokerEpoch {
		return Effects{}
	}
	if offset >= r.logEnd {
		f.caughtUp = now
	} else if f.lastFetchEnd > 0 && offset >= f.lastFetchEnd {
		// It has all that there was when it asked the last time.
		f.caughtUp = f.lastFetch
	}
	f.brokerEpoch, f.logEnd, f.lastFetch, f.lastFetchEnd = brokerEpoch, offset, now, r.logEnd
	var eff Effects
	if eligible && r.pending == nil && !slices.Contains(r.isr, id) &&
		offset >= r.highWatermark && offset >= r.epochStart {
		isr := append(slices.Clone(r.isr), id)
		slices.Sort(isr)
		r.pending = isr
		eff.Propose = r.proposal(isr)
	}
	return r.advance(eff)
}

// Tick drops from the ISR, by a proposal, the followers that were behind for
// longer than the lag time.
func (r *Replica) Tick(now time.Time) Effects {
	if r.role != Leader || r.pending != nil {
		return Effects{}
	}
	keep := make([]int32, 0, len(r.isr))
	for _, id := range r.isr {
		f := r.followers[id]
		if id == r.id || f == nil || f.logEnd == r.logEnd || now.Sub(f.caughtUp) <= r.cfg.LagMax {
			keep = append(keep, id)
		}
	}
	if len(keep) == len(r.isr) {
		return Effects{}
	}
	r.pending = keep
	return Effects{Propose: r.proposal(keep)}
}

// ProposalFailed forgets a proposal that the metadata log refused or that could
// not be sent; the next event may make another. Success arrives by Assign.
func (r *Replica) ProposalFailed(p *ISRProposal) {
	if p.LeaderEpoch == r.leaderEpoch && p.PartitionEpoch == r.partitionEpoch {
		r.pending = nil
	}
}

func (r *Replica) proposal(isr []int32) *ISRProposal {
	return &ISRProposal{LeaderEpoch: r.leaderEpoch, PartitionEpoch: r.partitionEpoch, ISR: isr}
}

// advance moves a leader's watermark to the lowest progress in the maximal ISR.
func (r *Replica) advance(eff Effects) Effects {
	if r.role != Leader || !r.EnoughInSync() {
		return eff
	}
	hw := r.progressOf(r.id)
	for _, id := range r.isr {
		hw = min(hw, r.progressOf(id))
	}
	for _, id := range r.pending {
		hw = min(hw, r.progressOf(id))
	}
	return r.raise(eff, hw)
}

func (r *Replica) raise(eff Effects, hw record.Offset) Effects {
	if hw > r.highWatermark {
		r.highWatermark = hw
		eff.WatermarkMoved, eff.HighWatermark = true, hw
	}
	return eff
}

// progressOf is how far a replica has come, by what its topic calls durable.
func (r *Replica) progressOf(id int32) record.Offset {
	if id == r.id {
		if r.cfg.Fsync {
			return min(r.flushedEnd, r.logEnd)
		}
		return r.logEnd
	}
	if f := r.followers[id]; f != nil {
		return f.logEnd
	}
	return -1
}
