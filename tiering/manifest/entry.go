package manifest

import (
	"fmt"

	"github.com/google/uuid"

	"github.com/firnlog/firn/record"
)

// EpochStart says that leader epoch Epoch begins at offset Start.
type EpochStart struct {
	Epoch record.Epoch
	Start record.Offset
}

// State says whether an entry may still be read.
type State uint8

const (
	// StateLive entries hold at least one offset at or above the log start.
	StateLive State = iota
	// StateExpired entries end at or below the log start: nobody reads them, and
	// deletion takes them from here.
	StateExpired
)

// String names the state as tools print it.
func (s State) String() string {
	switch s {
	case StateLive:
		return "live"
	case StateExpired:
		return "expired"
	default:
		return fmt.Sprintf("state(%d)", uint8(s))
	}
}

// Entry is one range of a partition that lies in an object of the store.
//
// INVARIANT: Start < End; Epochs is not empty, strictly increasing in both
// fields, and its first Start ≤ Entry.Start.
type Entry struct {
	// Start and End bound the visible range, End exclusive. It may be narrower
	// than what the object holds.
	Start, End record.Offset
	// Object names the object and Run the run inside its footer.
	Object uuid.UUID
	Run    int32
	// Epochs are the leader epochs of the range, oldest first. The slice is
	// shared and must not be changed.
	Epochs []EpochStart
	// Bytes is the size of the range's batches as Kafka counts them, before the
	// object's own compression.
	Bytes int64
	// MinTimestamp and MaxTimestamp bound the records' timestamps in ms since the
	// Unix epoch; -1 where the range has none.
	MinTimestamp, MaxTimestamp int64
	// State follows from the log start of the manifest that holds the entry.
	State State
	// FinishedAt is when the copy was committed, in ms since the Unix epoch by the
	// clock of the leader that copied.
	FinishedAt int64
}

// LastEpoch is the leader epoch of the last record of the range, or -1.
func (e *Entry) LastEpoch() record.Epoch {
	if len(e.Epochs) == 0 {
		return -1
	}
	return e.Epochs[len(e.Epochs)-1].Epoch
}

// Contains reports whether offset lies in the visible range.
func (e *Entry) Contains(offset record.Offset) bool {
	return e.Start <= offset && offset < e.End
}

// Validate checks what holds for an entry by itself. The error wraps ErrInvalid.
func (e *Entry) Validate() error {
	switch {
	case e.Start < 0 || e.Start >= e.End:
		return fmt.Errorf("%w: range [%d, %d) is empty or negative", ErrInvalid, e.Start, e.End)
	case e.Object == uuid.Nil:
		return fmt.Errorf("%w: range [%d, %d) names no object", ErrInvalid, e.Start, e.End)
	case e.Run < 0:
		return fmt.Errorf("%w: run %d", ErrInvalid, e.Run)
	case e.Bytes < 0:
		return fmt.Errorf("%w: %d bytes", ErrInvalid, e.Bytes)
	case len(e.Epochs) == 0:
		return fmt.Errorf("%w: range [%d, %d) has no leader epoch", ErrInvalid, e.Start, e.End)
	case e.Epochs[0].Start > e.Start:
		return fmt.Errorf("%w: first epoch starts at %d, after the range's start %d", ErrInvalid, e.Epochs[0].Start, e.Start)
	}
	for i, ep := range e.Epochs {
		if ep.Epoch < 0 || ep.Start >= e.End {
			return fmt.Errorf("%w: epoch %d at %d lies outside [%d, %d)", ErrInvalid, ep.Epoch, ep.Start, e.Start, e.End)
		}
		if i > 0 && (e.Epochs[i-1].Epoch >= ep.Epoch || e.Epochs[i-1].Start >= ep.Start) {
			return fmt.Errorf("%w: epochs do not increase at %d", ErrInvalid, ep.Epoch)
		}
	}
	return nil
}
