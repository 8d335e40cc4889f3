package partition

import "sync/atomic"

// counters are what a partition counts, gathered at scrape.
type counters struct {
	bytesIn, messagesIn, bytesOut, rejected atomic.Uint64
	replicaIn, replicaOut                   atomic.Uint64
	belowWatermark, violations              atomic.Uint64
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
}

// Counters returns the counts as of now.
func (p *Partition) Counters() Counters {
	return Counters{BytesIn: p.counts.bytesIn.Load(), MessagesIn: p.counts.messagesIn.Load(),
		BytesOut: p.counts.bytesOut.Load(), Rejected: p.counts.rejected.Load(),
		ReplicaIn: p.counts.replicaIn.Load(), ReplicaOut: p.counts.replicaOut.Load(),
		BelowWatermark: p.counts.belowWatermark.Load(), Violations: p.counts.violations.Load()}
}

// CountOut notes bytes that a client was sent.
func (p *Partition) CountOut(bytes int64) { p.counts.bytesOut.Add(uint64(bytes)) }

// InSync says how many replicas are in sync, of how many, and how many must be.
type InSync struct{ InSync, Replicas, Min int }

// InSync describes the partition's in-sync replicas.
func (p *Partition) InSync() InSync {
	p.mu.Lock()
	defer p.mu.Unlock()
	return InSync{InSync: len(p.rep.ISR()), Replicas: p.rep.Replicas(), Min: p.rep.MinISR()}
}
