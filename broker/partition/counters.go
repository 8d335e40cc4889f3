package partition

import (
	"slices"
	"sync/atomic"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

// counters are what a partition counts, gathered at scrape.
type counters struct {
	bytesIn, messagesIn, bytesOut, rejected atomic.Uint64
	replicaIn, replicaOut                   atomic.Uint64
	belowWatermark, violations              atomic.Uint64
	isrShrinks, isrExpands                  atomic.Uint64

	// leaderWatermark is not a count: the watermark that the leader told last, which
	// may be beyond this log's end.
	leaderWatermark atomic.Int64
}

// Counters are a partition's counts since it was opened here.
type Counters struct {
	BytesIn, MessagesIn uint64 // appended
	BytesOut            uint64 // read by clients, from both tiers
	Rejected            uint64 // batches refused or failed
	// ReplicaIn and ReplicaOut are bytes that came from the leader and that
	// followers were sent.
	ReplicaIn, ReplicaOut uint64
	// BelowWatermark counts truncations of what was known to be committed, which
	// only an unclean election explains; Violations those of an invariant of the
	// replica machine, which nothing explains.
	BelowWatermark, Violations uint64
	// ISRShrinks and ISRExpands are the changes by which replicas left the ISR and
	// joined it while this broker led. One change may be both.
	ISRShrinks, ISRExpands uint64
}

func (c *Counters) add(o Counters) {
	c.BytesIn += o.BytesIn
	c.MessagesIn += o.MessagesIn
	c.BytesOut += o.BytesOut
	c.Rejected += o.Rejected
	c.ReplicaIn += o.ReplicaIn
	c.ReplicaOut += o.ReplicaOut
	c.BelowWatermark += o.BelowWatermark
	c.Violations += o.Violations
	c.ISRShrinks += o.ISRShrinks
	c.ISRExpands += o.ISRExpands
}

// Counters returns the counts as of now.
func (p *Partition) Counters() Counters {
	return Counters{BytesIn: p.counts.bytesIn.Load(), MessagesIn: p.counts.messagesIn.Load(),
		BytesOut: p.counts.bytesOut.Load(), Rejected: p.counts.rejected.Load(),
		ReplicaIn: p.counts.replicaIn.Load(), ReplicaOut: p.counts.replicaOut.Load(),
		BelowWatermark: p.counts.belowWatermark.Load(), Violations: p.counts.violations.Load(),
		ISRShrinks: p.counts.isrShrinks.Load(), ISRExpands: p.counts.isrExpands.Load()}
}

// Totals are the sums over all partitions, those that are no longer here too: they
// never fall while the broker runs.
func (s *Set) Totals() Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := s.gone
	for p := range s.All() {
		sum.add(p.Counters())
	}
	return sum
}

// CountOut notes bytes that a client was sent.
func (p *Partition) CountOut(bytes int64) { p.counts.bytesOut.Add(uint64(bytes)) }

// CountReplicaOut notes bytes that a follower was sent.
func (p *Partition) CountReplicaOut(bytes int64) { p.counts.replicaOut.Add(uint64(bytes)) }

// Lag is how many offsets a follower is behind what it knows to be committed: the
// watermark that its leader told last, or the end of what is in the bucket. 0 for
// any other.
func (p *Partition) Lag() int64 {
	st := p.State()
	if st.Role != replica.Follower {
		return 0
	}
	return int64(max(record.Offset(p.counts.leaderWatermark.Load()), st.RemoteEnd, st.LogEnd) - st.LogEnd)
}

// countISRLocked counts a change of the ISR of a partition that led before and
// leads on, and has it told.
func (p *Partition) countISRLocked(before []int32) {
	after := p.rep.ISR()
	// lacking notes who of ids is not among the others.
	lacking := func(ids, others []int32, left bool) (n uint64) {
		for _, id := range ids {
			if !slices.Contains(others, id) {
				p.set.news.note(p, id, left)
				n = 1
			}
		}
		return n
	}
	p.counts.isrShrinks.Add(lacking(before, after, true))
	p.counts.isrExpands.Add(lacking(after, before, false))
}

// InSync says how many replicas are in sync, and how many must be.
type InSync struct{ InSync, Min int }

// InSync describes the partition's in-sync replicas.
func (p *Partition) InSync() InSync {
	p.mu.Lock()
	defer p.mu.Unlock()
	return InSync{InSync: len(p.rep.ISR()), Min: p.rep.MinISR()}
}
