package producer

import "github.com/firnlog/firn/record"

// Aborted is one aborted transaction of a partition, as kept in a segment's
// transaction index and answered by Fetch at read_committed.
//
// INVARIANT: First <= Last < LastStable is not required to hold strictly:
// LastStable is the last stable offset right after the transaction ended,
// which an older open transaction may hold below First.
type Aborted struct {
	ProducerID int64
	// First is the offset of the transaction's first record.
	First record.Offset
	// Last is the offset of the abort marker, inclusive.
	Last record.Offset
	// LastStable is the last stable offset just after the marker was written.
	LastStable record.Offset
}

// Overlaps says whether the transaction has records in [from, to).
func (a *Aborted) Overlaps(from, to record.Offset) bool { return a.First < to && a.Last >= from }
