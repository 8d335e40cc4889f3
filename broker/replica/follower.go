package replica

import "github.com/firnlog/firn/record"

// Position is what a follower asks its leader for. Asking is an acknowledgement:
// all below Offset is durable here.
type Position struct {
	Leader      int32
	LeaderEpoch record.Epoch
	Offset      record.Offset
	// LastEpoch is the newest epoch of the follower's log, by which the leader
	// finds out where the two diverge; −1 for an empty log.
	LastEpoch record.Epoch
}

// Position is what to ask the leader for. ok is false where there is nothing to
// ask now: the replica does not follow, there is no leader, or what it received
// last is not durable yet.
func (r *Replica) Position(log Epochs) (p Position, ok bool) {
	if r.role != Follower || r.leader < 0 || !r.Durable() {
		return Position{}, false
	}
	return Position{Leader: r.leader, LeaderEpoch: r.leaderEpoch, Offset: r.logEnd, LastEpoch: log.LastEpoch()}, true
}

// Durable reports whether all of the local log is, as its topic calls it.
func (r *Replica) Durable() bool { return r.durableEnd() >= r.logEnd }

// ReplyKind is what a leader answered to a Position.
type ReplyKind uint8

// The answers.
const (
	// ReplyRecords: batches from the position on, perhaps none.
	ReplyRecords ReplyKind = iota
	// ReplyDiverging: the logs went different ways.
	ReplyDiverging
	// ReplyOutOfRange: the position is below the leader's log start.
	ReplyOutOfRange
	// ReplyTiered: the position is above the log start, but what is there the
	// leader has in the bucket alone.
	ReplyTiered
	// ReplyRefused: any error; the position may be asked again later.
	ReplyRefused
)

// Reply is what a leader answered for one partition.
type Reply struct {
	Kind ReplyKind
	// Of ReplyDiverging: the leader's largest epoch not above the follower's last
	// one, and where that epoch ends on the leader.
	DivergingEpoch record.Epoch
	DivergingEnd   record.Offset
	// Of ReplyRecords and ReplyOutOfRange, −1 if not told.
	HighWatermark, LogStart record.Offset
}

// Step is what a follower does about a reply.
type Step uint8

// The steps.
const (
	// Drop: the reply is not to the present position; it means nothing.
	Drop Step = iota
	// Append: append the batches, if any (then Appended), and LearnWatermark.
	Append
	// Truncate: cut the log and its epochs at To (then Truncated).
	Truncate
	// Reset: discard the log and begin an empty one at To without epochs and
	// producers (then Restarted).
	Reset
	// ResetToRemote: discard the log and begin an empty one where the bucket ends,
	// with the epochs and producers of the bucket (then Restarted). To is the least
	// offset that makes sense: while the bucket's end, as far as this broker knows,
	// is not above it, wait.
	ResetToRemote
	// Wait: ask again later.
	Wait
)

// String names the step for logs.
func (s Step) String() string {
	return [...]string{"drop", "append", "truncate", "reset", "reset to remote", "wait"}[s]
}

// Decision is what a reply means for the follower.
type Decision struct {
	Step Step
	To   record.Offset
	// Of Append: what to pass to LearnWatermark once the batches are in the log.
	HighWatermark record.Offset
	// BelowWatermark: the step removes records that this replica knows to have
	// been committed. After clean elections that never happens; after an unclean
	// one it is what was lost.
	BelowWatermark bool
}

// OnReply decides what a reply to the position at means. A reply to any other
// position than the present one is dropped: the epoch has changed, or an earlier
// reply was acted on since.
func (r *Replica) OnReply(at Position, rep Reply, log Epochs) Decision {
	if now, ok := r.Position(log); !ok || now != at {
		return Decision{Step: Drop}
	}
	switch rep.Kind {
	case ReplyRecords:
		return Decision{Step: Append, HighWatermark: rep.HighWatermark}
	case ReplyDiverging:
		return r.truncation(rep, log)
	case ReplyOutOfRange:
		switch {
		case rep.LogStart <= r.logEnd:
			return Decision{Step: Wait}
		case r.remoteEnd > rep.LogStart:
			return Decision{Step: ResetToRemote, To: r.logEnd + 1} // it is tiered from there on
		}
		return Decision{Step: Reset, To: rep.LogStart}
	case ReplyTiered:
		if r.remoteEnd <= r.logEnd {
			return Decision{Step: Wait, To: r.logEnd} // the metadata is behind the leader's
		}
		return Decision{Step: ResetToRemote, To: r.logEnd + 1}
	default:
		return Decision{Step: Wait}
	}
}

// truncation finds where the log and the leader's part, as far as one answer
// tells (KIP-279). If the follower has no record of the epoch that the leader
// named, it cuts to where its own older epoch ends and asks again.
func (r *Replica) truncation(rep Reply, log Epochs) Decision {
	to := min(rep.DivergingEnd, r.logEnd)
	if epoch, end := log.EpochEnd(rep.DivergingEpoch); epoch >= 0 {
		to = min(to, end)
	}
	to = max(to, 0)
	return Decision{Step: Truncate, To: to, BelowWatermark: to < r.highWatermark}
}

// Truncated takes the log as it is after a truncation. The end may be lower than
// was asked for: batches go as a whole.
func (r *Replica) Truncated(p Progress) {
	r.logEnd, r.flushedEnd = p.LogEnd, p.FlushedEnd
	r.highWatermark = min(r.highWatermark, p.LogEnd)
}

// Restarted takes an empty log that begins at the offset. All below it was
// committed: it is in the bucket or below the log start.
func (r *Replica) Restarted(at record.Offset) {
	r.logEnd, r.flushedEnd, r.highWatermark = at, at, at
}

// LearnWatermark takes the watermark that a follower was told by its leader, in
// an answer that OnReply let in. It never moves past the local log's end.
func (r *Replica) LearnWatermark(hw record.Offset) Effects {
	if r.role != Follower {
		return Effects{}
	}
	return r.raise(Effects{}, min(hw, r.logEnd))
}
