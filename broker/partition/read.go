package partition

import (
	"errors"
	"fmt"
	"time"

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
	// LocalStart is where the follower's local log begins, −1 if it did not say.
	LocalStart record.Offset
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
//
// A follower's read (Replica) reads to the log's end, and says that the follower
// has all below From durably. Its errors are Kafka's: REPLICA_NOT_AVAILABLE for a
// broker that is no replica here, STALE_BROKER_EPOCH for an earlier life of one
// (KIP-903), OFFSET_MOVED_TO_TIERED_STORAGE below the local start. Where the two
// logs went different ways it gets Diverging, never OFFSET_OUT_OF_RANGE.
func (p *Partition) Read(r Read) (ReadResult, error) {
	p.mu.Lock()
	err := p.admitReadLocked(&r)
	s := p.stateLocked()
	p.mu.Unlock()
	res := ReadResult{State: s, UpTo: s.HighWatermark}
	if err != nil {
		return res, err
	}
	if res.Diverging, err = p.diverges(&r, &s); err != nil || res.Diverging != nil {
		return res, err
	}
	if r.Committed {
		res.UpTo, res.Aborted = s.LastStable, []producer.Aborted{}
	}
	if r.Replica != nil {
		if s, err = p.fetched(&r, s.LeaderEpoch); err != nil {
			return res, err
		}
		res.State, res.UpTo = s, s.LogEnd
	}
	switch {
	case r.From < s.LogStart:
		return res, kerr.OffsetOutOfRange
	case r.Replica != nil && r.From < s.LocalStart:
		return res, kerr.OffsetMovedToTieredStorage
	case r.From > s.HighWatermark && r.Replica == nil && (s.Role == replica.Follower || !s.WatermarkKnown):
		// The reader may have seen a watermark that this replica does not know yet.
		return res, kerr.OffsetNotAvailable
	case r.From > s.LogEnd:
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
		switch {
		case r.From < res.State.LogStart || r.From > res.State.LogEnd:
			return res, kerr.OffsetOutOfRange
		case r.Replica != nil:
			return res, kerr.OffsetMovedToTieredStorage
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

// CheckReader is CheckLeader for one who may also read a follower: nil where this
// broker has a replica that serves reads, of the epoch that the client named.
func (p *Partition) CheckReader(current record.Epoch) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.admitReadLocked(&Read{Current: current, AnyReplica: true})
}

// admitReadLocked says whether the reader may read here at all.
func (p *Partition) admitReadLocked(r *Read) error {
	switch {
	case r.Replica == nil && !r.AnyReplica:
		return p.checkLeaderLocked(r.Current)
	case r.Replica == nil:
		if err := p.checkEpochLocked(r.Current); err != nil {
			return err
		}
		if p.rep.Role() != replica.Follower {
			return p.checkLeaderLocked(r.Current)
		}
		return nil
	}
	// Followers are served without a lease: what they take under this leader's epoch
	// is right whoever leads by now.
	if err := p.checkEpochLocked(r.Current); err != nil {
		return err
	}
	if p.rep.Role() != replica.Leader {
		return kerr.NotLeaderForPartition
	}
	if !p.rep.HasReplica(r.Replica.ID) {
		return kerr.ReplicaNotAvailable
	}
	if b := p.set.img.Load().Broker(r.Replica.ID); b != nil && r.Replica.BrokerEpoch >= 0 && r.Replica.BrokerEpoch < b.Epoch {
		return kerr.StaleBrokerEpoch
	}
	return nil
}

// diverges finds out a reader whose log, or whose knowledge of it, went another
// way than this one.
func (p *Partition) diverges(r *Read, s *State) (*Diverging, error) {
	if r.LastFetched >= 0 {
		epoch, end := p.log.EpochEnd(r.LastFetched)
		switch {
		case epoch < 0 && r.LastFetched > s.LeaderEpoch:
			// The reader has seen an epoch that this log never had: nothing of its
			// position can be trusted. An epoch older than what the log remembers is
			// no reason: tiering forgets.
			if r.Replica == nil {
				return nil, fmt.Errorf("%w: last fetched epoch %d is not known here", kerr.OffsetOutOfRange, r.LastFetched)
			}
			return &Diverging{Epoch: s.LeaderEpoch, End: s.LogEnd}, nil
		case epoch >= 0 && (epoch < r.LastFetched || end < r.From):
			return &Diverging{Epoch: epoch, End: end}, nil
		}
	}
	if r.Replica != nil && r.From > s.LogEnd {
		return &Diverging{Epoch: s.LeaderEpoch, End: s.LogEnd}, nil
	}
	return nil, nil
}

// fetched notes how far a follower has come: it has all below From.
func (p *Partition) fetched(r *Read, epoch record.Epoch) (State, error) {
	b := p.set.img.Load().Broker(r.Replica.ID)
	// A life of the broker that the metadata does not know yet is not eligible: the
	// one that it knows has ended.
	eligible := b.Eligible() && r.Replica.BrokerEpoch == b.Epoch
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.rep.Role() != replica.Leader || p.rep.LeaderEpoch() != epoch {
		return p.stateLocked(), kerr.NotLeaderForPartition
	}
	p.rep.Holds(r.Replica.ID, r.Replica.BrokerEpoch, r.LocalStart, p.log)
	p.effectsLocked(p.rep.Fetched(time.Now(), r.Replica.ID, r.Replica.BrokerEpoch, r.From, eligible))
	if len(p.ready) > 0 || p.watch.dueLocked() {
		// Not here: the reader may hold what those who are told want.
		go p.deliver()
	}
	return p.stateLocked(), nil
}
