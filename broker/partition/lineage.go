package partition

import (
	"context"
	"fmt"

	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// bucketWins makes a log that ends below what was committed elsewhere begin anew
// there, empty, with the leader epochs that the bucket knows: below the remote
// end the bucket has the records, below the log start nobody may see any. Two
// ways lead here. Power loss took the tail of a log with durability=replicated
// after it was copied; or the log is new on this disk. Were such a log to go on
// where it ends, it would give offsets to new records that old ones have.
//
// Producers are known again by what they write next.
func (s *Set) bucketWins(log *commitlog.Log, tp record.TopicPartition, state *metadata.Partition) error {
	floor := max(state.LogStart, state.RemoteEnd)
	isNew := log.End() == floor && log.LastEpoch() < 0 && state.RemoteEnd > 0
	if log.End() >= floor && !isNew {
		return nil
	}
	epochs := log.Epochs()
	if state.RemoteEnd > 0 {
		m, err := s.opts.Meta.Entries(context.Background(), tp)
		if err != nil {
			return fmt.Errorf("remote entries: %w", err)
		}
		// ResetTo drops of the local ones what the bucket's contradict.
		for _, entry := range m.Entries() {
			for _, e := range entry.Epochs {
				epochs = append(epochs, commitlog.EpochStart{Epoch: e.Epoch, Start: e.Start})
			}
		}
	}
	if !isNew {
		s.opts.Logger.Warn("log ends below what was committed; it begins anew there", "partition", tp,
			"log_end", log.End(), "remote_end", state.RemoteEnd, "log_start", state.LogStart)
	}
	return log.ResetTo(floor, epochs, nil)
}
