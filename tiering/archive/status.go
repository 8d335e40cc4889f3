package archive

import (
	"time"

	"github.com/google/uuid"

	"github.com/firnlog/firn/record"
)

// Totals count since the start.
type Totals struct {
	Finished int64 // copies that were committed, dropped ones included
	Dropped  int64 // of these, ended below the log start or were given up meanwhile
	Bytes    int64 // of objects committed and kept
	Failures int64 // failed steps
}

// Stats are what metrics are made of.
type Stats struct {
	Totals
	Paused   bool
	InFlight int
	// Waiting partitions have something to copy and wait for their turn or a time.
	Waiting int
	// LagBytes and LagSegments are sealed and not yet copied; Oldest is when the
	// oldest of them was sealed, zero if there is none.
	LagBytes    int64
	LagSegments int
	Oldest      time.Time
	// StoreFailures in a row; not zero means that the store is taken for down.
	StoreFailures int
}

// Status is one partition's, for people.
type Status struct {
	Phase Phase
	Since time.Time
	// Object, Start and End are those of the copy under way.
	Object     uuid.UUID
	Start, End record.Offset
	// LagBytes are sealed and not yet copied.
	LagBytes int64
	Failures int // in a row
	Err      error
	RetryAt  time.Time // zero when nothing is waited for
	Paused   bool
}

// Stats sums up all partitions.
func (m *Machine) Stats() Stats {
	s := Stats{Totals: m.totals, Paused: m.paused, InFlight: m.inFlight, StoreFailures: m.storeFailures}
	for _, p := range m.partitions {
		if len(p.led.Sealed) == 0 {
			continue
		}
		if p.phase == Idle {
			s.Waiting++
		}
		s.LagSegments += len(p.led.Sealed)
		for _, seg := range p.led.Sealed {
			s.LagBytes += seg.Bytes
		}
		if at := p.led.Sealed[0].At; s.Oldest.IsZero() || at.Before(s.Oldest) {
			s.Oldest = at
		}
	}
	return s
}

// Status is the state of one partition; false if it is not led or not tiered.
func (m *Machine) Status(tp record.TopicPartition) (Status, bool) {
	p := m.partitions[tp]
	if p == nil {
		return Status{}, false
	}
	s := Status{Phase: p.phase, Since: p.since, Object: p.copy.Object, Start: p.copy.Start, End: p.copy.End,
		Failures: p.failures, Err: p.err, Paused: m.paused}
	for _, seg := range p.led.Sealed {
		s.LagBytes += seg.Bytes
	}
	if _, waits := m.delayed[tp]; waits {
		s.RetryAt = p.retryAt
	}
	return s, true
}
