// Package replica is the state machine of one replica of one partition: its
// role, epochs, progress, in-sync replica set (ISR), high watermark, and as a
// follower what it asks its leader for and what an answer means.
//
// It is pure. It reads no clock, starts no goroutine and does no I/O: events go
// in as method calls, what must be done comes back as Effects (and, for a
// follower, as a Decision), and the caller (package broker/partition) carries
// them out in the order of the struct's fields. The caller also serializes the
// calls. The same code therefore runs under the simulator and in production.
//
// # A leader
//
//	Assign                         takes an assignment of the metadata log
//	Appended, Flushed              the local log has come further
//	Holds, Fetched                 a follower's fetch: what it holds, and its progress
//	Tick                           time passes: who is to leave the ISR
//	Judge                          how much the replicas hold locally: who is cold
//	ProposalFailed                 an ISR change did not come about
//
// # A follower
//
//	Position                       what to ask the leader for
//	OnReply                        what the answer means: append, truncate, reset, wait
//	Appended, Flushed, Truncated, Restarted, LearnWatermark   what came of it
//
// Progress is durable progress. On a topic with durability=fsync the local
// replica counts by its flushed end, otherwise by its log end, and a follower's
// fetch offset is its acknowledgement: it does not ask before it is durable.
//
// # Rules and where they come from
//
//   - A change of the ISR is a compare-and-set on the partition epoch, decided
//     in the metadata log and not here (KIP-497). A proposal names each member
//     with the broker epoch it was heard under (KIP-903).
//   - The watermark uses the maximal ISR: an expansion counts when it is
//     proposed, a shrink only when it is committed (KIP-497). A proposal whose
//     outcome is unknown counts until the partition epoch has changed.
//   - min.insync.replicas holds the watermark as well as acks (KIP-966).
//   - A new leader answers for its watermark only once the watermark has reached
//     the start of its own epoch (KIP-207).
//   - A follower truncates by leader epoch, never by watermark, whenever its
//     leader finds that it diverges (KIP-101, KIP-279, KIP-595). An answer to
//     anything but the present position is dropped.
//   - The bucket wins: see Assignment.BucketWins.
//   - Who holds little locally of a tiered partition is cold, and leads only where no
//     warm one can: see warmth.go.
//   - Who is fenced, shutting down, out of disk or registered anew does not join the
//     ISR (KIP-841, KIP-903).
//
// # After a restart
//
// No watermark is stored. A replica begins with the log start, a leader with the
// remote end too, and learns the rest: a follower from its leader, a leader from
// its followers. Nothing that was served is taken back by that, since a leader
// does not tell a watermark below its epoch's start.
package replica

import (
	"errors"
	"fmt"
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

// FenceGrace is how long a follower stays in the ISR after its leader first saw
// that it may not be there (fenced or shutting down) before the leader proposes
// to drop it. The metadata log drops a fenced broker by itself; this is for what
// it left in.
const FenceGrace = 2 * time.Second

// DefaultLagMax is used where Config.LagMax is 0.
const DefaultLagMax = 10 * time.Second

// Config is what a topic and its broker say of a replica. It may change while
// the replica runs, by SetConfig.
type Config struct {
	// Fsync counts the local replica by its flushed end (durability=fsync).
	Fsync bool
	// MinISR is min.insync.replicas as the cluster sees it (metadata.MinISR), at
	// least 1.
	MinISR int
	// LagMax is replica.lag.time.max.ms: how long a follower may be behind
	// before the leader proposes to drop it from the ISR. 0 means 10 s.
	LagMax time.Duration
	// Warmth has a leader say who is cold: the cluster's level allows it.
	Warmth bool
}

// Assignment is what the metadata log says of the partition.
type Assignment struct {
	// Leader is a broker id, −1 for none.
	Leader         int32
	LeaderEpoch    record.Epoch
	PartitionEpoch int32
	Replicas       []int32
	ISR            []int32
	// Cold are the replicas that a leader has said to be cold (warmth.go).
	Cold []int32
	// RemoteEnd is the end of what is in the bucket. It was committed, so a new
	// leader's watermark begins there. RemoteEpoch is the leader epoch of the last
	// record below it, −1 if nothing is in the bucket.
	RemoteEnd   record.Offset
	RemoteEpoch record.Epoch
	// LogStart is the replicated log start offset.
	LogStart record.Offset
}

// Epochs is what the decisions need to know of the local log: the leader epochs
// that it holds (commitlog.Log has these methods).
type Epochs interface {
	// LastEpoch is the newest leader epoch of the log, −1 if there is none. Epochs
	// that wrote nothing count.
	LastEpoch() record.Epoch
	// EpochEnd is the largest epoch at or below e and the offset at which it ended,
	// the log's end for the newest; −1 and −1 where e is newer than all.
	EpochEnd(e record.Epoch) (record.Epoch, record.Offset)
}

// BucketWins tells whether a log that ends at logEnd cannot be the beginning of
// what was committed: it ends below the log start or below what is in the bucket,
// or it went another way than what is in the bucket. Such a log is discarded
// before its replica leads, and begins anew, empty, at the offset at: with the
// epochs and producers of the bucket where fromBucket, otherwise with none. A log
// with no records and no epochs of its own (a new replica) begins that way too.
//
// A follower need not ask: its leader tells it where it diverges. It may, where
// its log ends below at: what it lacks below that is in the bucket.
func (a *Assignment) BucketWins(logEnd record.Offset, log Epochs) (at record.Offset, fromBucket, wins bool) {
	at = max(a.LogStart, a.RemoteEnd)
	tiered := a.RemoteEpoch >= 0 && a.RemoteEnd > 0
	// At a log start that reached the bucket's end nothing may be left in the
	// bucket that says how its history ended.
	fromBucket = tiered && a.RemoteEnd > a.LogStart
	switch {
	case logEnd < at:
		wins = true
	case tiered && a.RemoteEnd == at:
		epoch, end := log.EpochEnd(a.RemoteEpoch)
		wins = epoch != a.RemoteEpoch || end < a.RemoteEnd
	}
	return at, fromBucket, wins
}

// Progress is how far the local log has come.
type Progress struct {
	LogEnd     record.Offset
	FlushedEnd record.Offset
}

// Member is one broker of a proposed ISR.
type Member struct {
	ID int32
	// BrokerEpoch is the one under which the leader heard it fetch, −1 of the
	// leader itself and of a member that did not fetch from this leader yet.
	BrokerEpoch int64
}

// ISRProposal asks the metadata log to change the ISR, if the partition is still
// at the epochs named.
type ISRProposal struct {
	LeaderEpoch    record.Epoch
	PartitionEpoch int32
	// Members are the new ISR by id, the leader among them.
	Members []Member
	// Cold are all replicas that are cold, by id.
	Cold []int32
}

// IDs are the brokers of the proposed ISR.
func (p *ISRProposal) IDs() []int32 {
	ids := make([]int32, len(p.Members))
	for i, m := range p.Members {
		ids[i] = m.ID
	}
	return ids
}

// Effects is what an event caused, to be carried out in the order of the fields.
// The zero value asks for nothing.
type Effects struct {
	// RoleChanged: the role or the leader epoch is new. Everything that waited on
	// the old epoch must be answered.
	RoleChanged bool
	// AssignEpoch: the leader must record its epoch at the log's end before it
	// appends anything. (A follower's log learns epochs from its batches.)
	AssignEpoch bool
	// WatermarkMoved: HighWatermark is new; waiters below it are done.
	WatermarkMoved bool
	HighWatermark  record.Offset
	// Propose is nil or an ISR change for the metadata log.
	Propose *ISRProposal
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
	cold           []int32 // committed; by id
	// judged is when another cold set was proposed last.
	judged time.Time
	// pending is the ISR that was proposed and not yet answered, nil if none.
	pending []int32
	// doubtful are members of proposals of this partition epoch whose outcome
	// nobody knows: the ISR may have them.
	doubtful []int32
	// cooling: a proposal failed; the next one waits for a Tick.
	cooling bool

	// INVARIANT: highWatermark ≤ logEnd; on a leader also
	// min(max(remoteEnd, logStart), logEnd) ≤ highWatermark.
	logStart      record.Offset
	remoteEnd     record.Offset
	highWatermark record.Offset
	logEnd        record.Offset
	// flushedEnd may be told of before the append that it covers; logEnd bounds it
	// where it is used.
	flushedEnd record.Offset
	// epochStart is the log end at which this leader's epoch began.
	epochStart record.Offset

	followers map[int32]*follower // leader only
}

// New returns an offline replica of the broker with the given id. highWatermark is
// the log start, and never the end of what is in the bucket: a log that ends below
// that need not be on the committed lineage.
func New(id int32, cfg Config, highWatermark record.Offset, p Progress) *Replica {
	r := &Replica{id: id, cfg: cfg.withDefaults(), leader: -1, leaderEpoch: -1, partitionEpoch: -1,
		logEnd: p.LogEnd, flushedEnd: p.FlushedEnd}
	r.highWatermark = min(highWatermark, p.LogEnd)
	return r
}

func (c Config) withDefaults() Config {
	if c.LagMax <= 0 {
		c.LagMax = DefaultLagMax
	}
	return c
}

// Role tells what the replica is now.
func (r *Replica) Role() Role { return r.role }

// Leader is the id of the partition's leader, −1 if none is known.
func (r *Replica) Leader() int32 { return r.leader }

// LeaderEpoch is the epoch of the assignment in force, −1 before the first.
func (r *Replica) LeaderEpoch() record.Epoch { return r.leaderEpoch }

// PartitionEpoch is that of the assignment in force, −1 before the first.
func (r *Replica) PartitionEpoch() int32 { return r.partitionEpoch }

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

// HasReplica reports whether the broker is a replica by the assignment in force.
func (r *Replica) HasReplica(id int32) bool { return slices.Contains(r.replicas, id) }

// MinISR is min.insync.replicas, but never more than there are replicas: a topic
// with factor 1 on a broker whose default is 2 could otherwise never be written.
func (r *Replica) MinISR() int {
	return min(max(r.cfg.MinISR, 1), max(len(r.replicas), 1))
}

// SetConfig takes a changed configuration. The watermark may move: from the
// flushed end to the log end, or because fewer replicas are asked for. It never
// goes back.
func (r *Replica) SetConfig(cfg Config) Effects {
	r.cfg = cfg.withDefaults()
	return r.advance(Effects{})
}

// Assign takes an assignment from the metadata log, with the log as it is now.
// One that is older than what is in force is ignored.
//
// REQUIRES: of an assignment as leader, that the log passed BucketWins.
func (r *Replica) Assign(now time.Time, a Assignment, p Progress) Effects {
	if a.LeaderEpoch < r.leaderEpoch || (a.LeaderEpoch == r.leaderEpoch && a.PartitionEpoch < r.partitionEpoch) {
		return Effects{}
	}
	var eff Effects
	newEpoch := a.LeaderEpoch != r.leaderEpoch || r.role == Offline
	if newEpoch || a.PartitionEpoch != r.partitionEpoch {
		// No proposal of the old partition epoch can come about any more.
		r.pending, r.doubtful, r.cooling = nil, nil, false
	}
	r.leader, r.leaderEpoch, r.partitionEpoch = a.Leader, a.LeaderEpoch, a.PartitionEpoch
	r.replicas, r.isr = slices.Clone(a.Replicas), slices.Clone(a.ISR)
	r.cold = slices.Sorted(slices.Values(a.Cold))
	r.logEnd, r.flushedEnd = p.LogEnd, p.FlushedEnd
	r.logStart, r.remoteEnd = max(r.logStart, a.LogStart), max(r.remoteEnd, a.RemoteEnd)

	switch {
	case a.Leader == r.id && newEpoch:
		r.role = Leader
		r.epochStart = r.logEnd
		r.followers = make(map[int32]*follower)
		eff.RoleChanged, eff.AssignEpoch = true, true
	case a.Leader != r.id && (newEpoch || r.role == Leader):
		r.role, r.followers = Follower, nil
		eff.RoleChanged = true
	}
	if r.role == Leader {
		r.trackFollowers(now)
		// What is in the bucket, and what was deleted, was committed before.
		eff = r.advance(r.raise(eff, min(max(r.remoteEnd, r.logStart), r.logEnd)))
	}
	return eff
}

// Appended takes the local log's new end after an append.
func (r *Replica) Appended(logEnd record.Offset) Effects {
	r.logEnd = logEnd
	return r.advance(Effects{})
}

// Flushed takes the end of what is durable on the local disk.
func (r *Replica) Flushed(flushedEnd record.Offset) Effects {
	r.flushedEnd = max(r.flushedEnd, flushedEnd)
	return r.advance(Effects{})
}

func (r *Replica) raise(eff Effects, hw record.Offset) Effects {
	if hw > r.highWatermark {
		r.highWatermark = hw
		eff.WatermarkMoved, eff.HighWatermark = true, hw
	}
	return eff
}

// ErrInvariant is wrapped by Check.
var ErrInvariant = errors.New("replica: invariant does not hold")

// Check tells what is wrong with the state, if anything. It is cheap enough to
// be called after every event.
func (r *Replica) Check() error {
	switch {
	case r.highWatermark > r.logEnd:
		return fmt.Errorf("%w: high watermark %d is above the log end %d", ErrInvariant, r.highWatermark, r.logEnd)
	case r.role == Leader && r.highWatermark < min(max(r.remoteEnd, r.logStart), r.logEnd):
		return fmt.Errorf("%w: a leader's high watermark %d is below the remote end %d or the log start %d", ErrInvariant,
			r.highWatermark, r.remoteEnd, r.logStart)
	case r.role == Leader && r.leader != r.id:
		return fmt.Errorf("%w: broker %d leads, but the leader is %d", ErrInvariant, r.id, r.leader)
	case r.role == Leader && !slices.Contains(r.isr, r.id):
		return fmt.Errorf("%w: leader %d is not in the ISR %v", ErrInvariant, r.id, r.isr)
	case r.role == Leader && r.epochStart > r.logEnd:
		return fmt.Errorf("%w: a leader's log end %d is below its epoch's start %d", ErrInvariant, r.logEnd, r.epochStart)
	}
	for _, id := range r.isr {
		if !slices.Contains(r.replicas, id) {
			return fmt.Errorf("%w: %d is in the ISR %v and no replica of %v", ErrInvariant, id, r.isr, r.replicas)
		}
	}
	return nil
}
