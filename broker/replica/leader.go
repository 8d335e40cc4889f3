package replica

import (
	"slices"
	"time"

	"github.com/firnlog/firn/record"
)

// follower is what a leader knows of another replica.
type follower struct {
	brokerEpoch  int64
	logEnd       record.Offset // durable there; −1 before its first fetch
	lastFetch    time.Time
	lastFetchEnd record.Offset // the leader's log end at lastFetch
	caughtUp     time.Time     // the last moment at which it had all there was
	ineligible   time.Time     // since when it may not be in the ISR; zero: it may

	localStart record.Offset // where its local log begins; −1 before it told
	judged     bool          // its warmth was judged in this epoch
	lacksSince time.Time     // since when it lacks what would make it cold; zero: it does not
	log        Local         // this leader's, if localStart was told
}

// FollowerState describes a follower as its leader knows it.
type FollowerState struct {
	ID     int32
	LogEnd record.Offset // −1 before its first fetch
	// CaughtUp is the last moment at which it had all there was, LastFetch that of
	// its last fetch (zero before the first).
	CaughtUp, LastFetch time.Time
	InSync              bool
	// LocalStart is where its local log begins, −1 before it told; Cold says that the
	// metadata log has it as cold.
	LocalStart record.Offset
	Cold       bool
}

// Followers describes the followers of a leader, by id; nil elsewhere.
func (r *Replica) Followers() []FollowerState {
	if r.role != Leader {
		return nil
	}
	out := make([]FollowerState, 0, len(r.followers))
	for id, f := range r.followers {
		out = append(out, FollowerState{ID: id, LogEnd: f.logEnd, CaughtUp: f.caughtUp, LastFetch: f.lastFetch,
			InSync: slices.Contains(r.isr, id), LocalStart: f.localStart, Cold: slices.Contains(r.cold, id)})
	}
	slices.SortFunc(out, func(a, b FollowerState) int { return int(a.ID - b.ID) })
	return out
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
			r.followers[id] = &follower{brokerEpoch: -1, logEnd: -1, caughtUp: now, localStart: -1}
		}
	}
}

// Fetched takes a follower's fetch: everything below offset is durable there,
// and is what this leader has there.
// A broker epoch lower than one seen before is of an earlier life and ignored
// (KIP-903). eligible says that the broker may be in the ISR (metadata.Broker.Eligible).
//
// REQUIRES: the fetch named this leader's epoch, and its position was found not
// to diverge and to be no higher than the log's end.
func (r *Replica) Fetched(now time.Time, id int32, brokerEpoch int64, offset record.Offset, eligible bool) Effects {
	f := r.followers[id]
	if r.role != Leader || f == nil || brokerEpoch < f.brokerEpoch {
		return Effects{}
	}
	switch {
	case offset >= r.logEnd:
		f.caughtUp = now
	case !f.lastFetch.IsZero() && offset >= f.lastFetchEnd && f.lastFetch.After(f.caughtUp):
		// It has all that there was when it asked the last time.
		f.caughtUp = f.lastFetch
	}
	f.brokerEpoch, f.logEnd, f.lastFetch, f.lastFetchEnd = brokerEpoch, offset, now, r.logEnd
	f.noteEligible(now, eligible)
	var eff Effects
	if eligible && r.mayPropose() && !slices.Contains(r.isr, id) && r.joins(f) {
		eff.Propose = r.propose(append(slices.Clone(r.isr), id), r.coldWith(id))
	}
	return r.advance(eff)
}

// joins says whether a follower has all that a member of the ISR must have.
func (r *Replica) joins(f *follower) bool {
	return f.logEnd >= r.highWatermark && f.logEnd >= r.epochStart
}

func (f *follower) noteEligible(now time.Time, eligible bool) {
	switch {
	case eligible:
		f.ineligible = time.Time{}
	case f.ineligible.IsZero():
		f.ineligible = now
	}
}

// Tick lets time pass: it drops from the ISR, by a proposal, the followers that
// were behind for longer than the lag time or may not be in it for longer than
// FenceGrace. eligible says whether a broker may be in the ISR; nil means that all
// may.
func (r *Replica) Tick(now time.Time, eligible func(id int32) bool) Effects {
	r.cooling = false
	if r.role != Leader {
		return Effects{}
	}
	keep := make([]int32, 0, len(r.isr))
	for _, id := range r.isr {
		f := r.followers[id]
		if f != nil && eligible != nil {
			f.noteEligible(now, eligible(id))
		}
		if f != nil && f.logEnd == r.logEnd {
			// It has all there is. A fetch session does not look at a partition that
			// has nothing new, so no fetch says that of one that has been idle.
			f.caughtUp = now
		}
		if id == r.id || f == nil || !r.lags(now, f) {
			keep = append(keep, id)
		}
	}
	// A doubtful proposal is settled by another one: whichever the metadata log
	// takes, the partition epoch changes, and the other can never come about.
	if !r.mayPropose() || (len(keep) == len(r.isr) && len(r.doubtful) == 0) {
		return Effects{}
	}
	return Effects{Propose: r.propose(keep, r.cold)}
}

// lags says whether a member of the ISR is to leave it.
func (r *Replica) lags(now time.Time, f *follower) bool {
	if !f.ineligible.IsZero() && now.Sub(f.ineligible) >= FenceGrace {
		return true
	}
	return f.logEnd != r.logEnd && now.Sub(f.caughtUp) > r.cfg.LagMax
}

// ProposalFailed takes the end of a proposal that the metadata log did not
// follow; success arrives by Assign. certain says that it was refused for good, by
// a state machine at the partition epoch that the proposal names, or was never
// sent: then it is forgotten. Otherwise (a timeout, an epoch that is not the
// newest any more) its members count for the watermark until the partition epoch
// changes, and the next Tick proposes again.
func (r *Replica) ProposalFailed(p *ISRProposal, certain bool) {
	if p.LeaderEpoch != r.leaderEpoch || p.PartitionEpoch != r.partitionEpoch || r.pending == nil {
		return
	}
	if !certain {
		for _, m := range p.Members {
			if !slices.Contains(r.isr, m.ID) && !slices.Contains(r.doubtful, m.ID) {
				r.doubtful = append(r.doubtful, m.ID)
			}
		}
	}
	r.pending, r.cooling = nil, true
}

// mayPropose says that no proposal is under way and none has just failed.
func (r *Replica) mayPropose() bool { return r.pending == nil && !r.cooling }

func (r *Replica) propose(isr, cold []int32) *ISRProposal {
	slices.Sort(isr)
	r.pending = isr
	p := &ISRProposal{LeaderEpoch: r.leaderEpoch, PartitionEpoch: r.partitionEpoch, Members: make([]Member, len(isr)), Cold: slices.Clone(cold)}
	for i, id := range isr {
		p.Members[i] = Member{ID: id, BrokerEpoch: -1}
		if f := r.followers[id]; f != nil {
			p.Members[i].BrokerEpoch = f.brokerEpoch
		}
	}
	return p
}

// advance moves a leader's watermark to the lowest progress in the maximal ISR.
func (r *Replica) advance(eff Effects) Effects {
	if r.role != Leader || !r.EnoughInSync() {
		return eff
	}
	hw := r.progressOf(r.id)
	for _, members := range [...][]int32{r.isr, r.pending, r.doubtful} {
		for _, id := range members {
			hw = min(hw, r.progressOf(id))
		}
	}
	return r.raise(eff, hw)
}

// durableEnd is how far the local log counts, by what its topic calls durable.
func (r *Replica) durableEnd() record.Offset {
	if r.cfg.Fsync {
		return min(r.flushedEnd, r.logEnd)
	}
	return r.logEnd
}

// progressOf is how far a replica has come, by what its topic calls durable.
func (r *Replica) progressOf(id int32) record.Offset {
	if id == r.id {
		return r.durableEnd()
	}
	if f := r.followers[id]; f != nil {
		return f.logEnd
	}
	return -1
}
