package partition

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/commitlog/producer"
	"github.com/firnlog/firn/record"
)

// Read asks for records of one partition.
type Read struct {
	From record.Offset
	// Current is the leader epoch that the reader believes in, −1 for no check.
	Current record.Epoch
	// LastFetched is the epoch of the reader's last record, −1 for none; it finds
	// out a reader whose log went another way (KIP-595).
	LastFetched record.Epoch
	// MaxBytes bounds the batches read; with AtLeastOne the first comes anyway.
	MaxBytes   int
	AtLeastOne bool
	// Committed reads to the last stable offset (read_committed).
	Committed bool
	// Replica is set in a follower's read, which goes to the log's end.
	Replica *ReplicaFetch
	// AnyReplica lets a consumer read a follower, up to what that knows to be
	// committed (KIP-392).
	AnyReplica bool
}

// ReplicaFetch says which broker reads, and in which of its lives (KIP-903).
type ReplicaFetch struct {
	ID          int32
	BrokerEpoch int64 // −1 if the follower did not say
}

// Diverging tells a reader where its log left the leader's: the largest epoch
// not above its own, and that epoch's end.
type Diverging struct {
	Epoch record.Epoch
	End   record.Offset
}

// ReadResult is what a partition has for a reader. Slice must be released.
type ReadResult struct {
	State     State
	Slice     commitlog.Slice
	Aborted   []producer.Aborted // of a reader with Committed: not nil, sorted by first offset
	Diverging *Diverging
	// Remote: the records asked for are in the bucket alone; read them there, up
	// to UpTo.
	Remote bool
	// UpTo is the end of what this reader may see.
	UpTo record.Offset
}

// Read reads from the local log, or says that the bucket must be read. An
// offset between the watermark and the log's end gives no data and no error.
func (p *Partition) Read(r Read) (ReadResult, error) {
	p.mu.Lock()
	err := p.checkLeaderLocked(r.Current)
	s := p.stateLocked()
	p.mu.Unlock()
	res := ReadResult{State: s, UpTo: s.HighWatermark}
	if err != nil {
		return res, err
	}
	if r.Committed {
		res.UpTo, res.Aborted = s.LastStable, []producer.Aborted{}
	}
	if r.LastFetched >= 0 {
		epoch, end := p.log.EpochEnd(r.LastFetched)
		if epoch < 0 && r.LastFetched > s.LeaderEpoch {
			// The reader has seen an epoch that this log never had: nothing of its
			// position can be trusted. An epoch older than what the log remembers is
			// no reason: tiering forgets.
			return res, fmt.Errorf("%w: last fetched epoch %d is not known here", kerr.OffsetOutOfRange, r.LastFetched)
		}
		if epoch >= 0 && (epoch < r.LastFetched || end < r.From) {
			res.Diverging = &Diverging{Epoch: epoch, End: end}
			return res, nil
		}
	}
	switch {
	case r.From < s.LogStart || r.From > s.LogEnd:
		if s.Role == replica.Leader && r.From > s.LogEnd && !s.WatermarkKnown {
			return res, kerr.OffsetNotAvailable
		}
		return res, kerr.OffsetOutOfRange
	case r.From < s.LocalStart:
		res.Remote = true
		return res, nil
	case r.From >= res.UpTo:
		return res, nil
	}
	slice, err := p.log.Read(r.From, res.UpTo, r.MaxBytes, r.AtLeastOne)
	if errors.Is(err, commitlog.ErrOutOfRange) {
		// Trimmed between the look and the read: it is below the log start, or the
		// bucket has it, of which the partition may hear later than its log.
		res.State = p.State()
		if r.From < res.State.LogStart || r.From > res.State.LogEnd {
			return res, kerr.OffsetOutOfRange
		}
		res.Remote = true
		return res, nil
	}
	if err != nil {
		return res, fmt.Errorf("%w: read %s-%d at %d: %w", kerr.KafkaStorageError, p.topic, p.tp.Partition, r.From, err)
	}
	res.Slice = slice
	if r.Committed && slice.Bytes > 0 {
		aborted, err := p.log.AbortedTxns(r.From, slice.Next)
		res.Aborted = append(res.Aborted, aborted...)
		if err != nil {
			res.Slice.Release()
			res.Slice = commitlog.Slice{}
			return res, fmt.Errorf("%w: aborted transactions of %s-%d: %w", kerr.KafkaStorageError, p.topic, p.tp.Partition, err)
		}
	}
	return res, nil
}
