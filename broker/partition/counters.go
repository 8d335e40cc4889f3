package partition

import "sync/atomic"

// counters are what a partition counts, gathered at scrape.
type counters struct {
	bytesIn, messagesIn, bytesOut, rejected atomic.Uint64
}

// Counters are a partition's counts since it was opened here.
type Counters struct {
	BytesIn, MessagesIn uint64 // appended
	BytesOut            uint64 // read by clients, from both tiers
	Rejected            uint64 // batches refused or failed
}

// Counters returns the counts as of now.
func (p *Partition) Counters() Counters {
	return Counters{BytesIn: p.counts.bytesIn.Load(), MessagesIn: p.counts.messagesIn.Load(),
		BytesOut: p.counts.bytesOut.Load(), Rejected: p.counts.rejected.Load()}
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
