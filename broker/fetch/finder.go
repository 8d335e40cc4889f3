package fetch

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
	"github.com/firnlog/firn/tiering/remote"
)

// maxTimestamp asks Lookup for the record with the largest timestamp (KIP-734).
const maxTimestamp = -3

// RemoteIndex finds things in the part of a partition that is in the bucket.
type RemoteIndex interface {
	OffsetForTime(ctx context.Context, tp record.TopicPartition, ts int64) (remote.Found, bool, error)
	MaxTimestamp(ctx context.Context, tp record.TopicPartition) (remote.Found, bool, error)
}

// Entries gives the remote entries of a partition.
type Entries interface {
	Entries(ctx context.Context, tp record.TopicPartition) (manifest.Manifest, error)
}

// Finder finds offsets by time and by epoch over both tiers.
type Finder struct {
	Remote  RemoteIndex // nil without an object store
	Entries Entries
}

// hasRemote reports whether some of what is readable is in the bucket alone.
func (f *Finder) hasRemote(s partition.State) bool {
	return f.Remote != nil && s.LocalStart > s.LogStart
}

// Lookup finds the first record below upTo whose timestamp is at least ts, or,
// for −3, the first one with the largest timestamp. Offset is −1 if there is
// none.
func (f *Finder) Lookup(ctx context.Context, p *partition.Partition, ts int64, upTo record.Offset) (remote.Found, error) {
	none := remote.Found{Offset: -1, Timestamp: -1, Epoch: -1}
	st := p.State()
	if ts == maxTimestamp {
		return f.latest(ctx, p, st, upTo)
	}
	if f.hasRemote(st) {
		found, ok, err := f.Remote.OffsetForTime(ctx, p.TP(), ts)
		if err != nil {
			return none, fmt.Errorf("%w: search in the object store: %w", kerr.KafkaStorageError, err)
		}
		if ok && found.Offset >= st.LogStart {
			return below(found, upTo), nil
		}
	}
	off, at, epoch, ok, err := p.Log().LookupTimeFrom(ts, st.LogStart)
	if err != nil {
		return none, fmt.Errorf("%w: search by time: %w", kerr.KafkaStorageError, err)
	}
	if !ok {
		return none, nil
	}
	return below(remote.Found{Offset: off, Timestamp: at, Epoch: epoch}, upTo), nil
}

func (f *Finder) latest(ctx context.Context, p *partition.Partition, st partition.State, upTo record.Offset) (remote.Found, error) {
	best := remote.Found{Offset: -1, Timestamp: -1, Epoch: -1}
	if f.hasRemote(st) {
		found, ok, err := f.Remote.MaxTimestamp(ctx, p.TP())
		if err != nil {
			return best, fmt.Errorf("%w: search in the object store: %w", kerr.KafkaStorageError, err)
		}
		if ok && found.Offset >= st.LogStart {
			best = found
		}
	}
	off, at, epoch, ok, err := p.Log().MaxTimestamp()
	if err != nil {
		return best, fmt.Errorf("%w: search by time: %w", kerr.KafkaStorageError, err)
	}
	if ok && at > best.Timestamp && off >= st.LogStart {
		best = remote.Found{Offset: off, Timestamp: at, Epoch: epoch}
	}
	return below(best, upTo), nil
}

// below hides what the reader may not see yet.
func below(found remote.Found, upTo record.Offset) remote.Found {
	if found.Offset >= upTo {
		return remote.Found{Offset: -1, Timestamp: -1, Epoch: -1}
	}
	return found
}

// EpochEnd answers OffsetForLeaderEpoch: the largest epoch not above the one
// asked for, and where it ended. What the local log has forgotten, the bucket
// knows.
func (f *Finder) EpochEnd(ctx context.Context, p *partition.Partition, epoch record.Epoch) (record.Epoch, record.Offset, error) {
	found, end := p.Log().EpochEnd(epoch)
	if found >= 0 || !f.hasRemote(p.State()) {
		return found, end, nil
	}
	m, err := f.Entries.Entries(ctx, p.TP())
	if err != nil {
		return -1, -1, fmt.Errorf("%w: remote entries: %w", kerr.KafkaStorageError, err)
	}
	if found, end, _ = remote.EpochEnd(m, epoch); found < 0 {
		return -1, -1, nil
	}
	return found, end, nil
}

// EpochAt is the leader epoch of the record at an offset.
func (f *Finder) EpochAt(ctx context.Context, p *partition.Partition, at record.Offset) (record.Epoch, error) {
	st := p.State()
	if at >= st.LogEnd {
		return st.LeaderEpoch, nil
	}
	epoch := record.NoEpoch
	for _, e := range p.Log().Epochs() {
		if e.Start <= at {
			epoch = e.Epoch
		}
	}
	if epoch >= 0 || !f.hasRemote(st) {
		return epoch, nil
	}
	m, err := f.Entries.Entries(ctx, p.TP())
	if err != nil {
		return -1, fmt.Errorf("%w: remote entries: %w", kerr.KafkaStorageError, err)
	}
	for _, e := range remote.Epochs(m) {
		if e.Start <= at {
			epoch = e.Epoch
		}
	}
	return epoch, nil
}
