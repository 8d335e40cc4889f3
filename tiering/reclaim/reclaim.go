// Package reclaim gives space back: it decides what retention takes from disk
// and bucket, deletes what nobody refers to, and checks that what is referred
// to is there.
//
// Its parts:
//
//   - Decide and Explain: retention as pure functions, and the reason for each
//     segment that is still here;
//   - Retention: the loop on each broker that applies Decide to the partitions
//     it leads: it raises the replicated log start and trims local segments;
//   - Sweeper: the loop on the metadata leader that takes deletions to their
//     end: expired entries, topic tombstones, abandoned intents, the grace
//     period, the deletes, orphans;
//   - Owner: whether this cluster may delete in the bucket at all;
//   - Check: fsck of objects against metadata.
//
// A deletion goes through steps that are each durable before the next:
//
//	log start raised → DeleteStarted → grace → delete, confirmed key by key → DeleteFinished
//
// A crash between any two is resumed by the next pass, of this node or of
// another metadata leader. Objects are deleted only if the metadata says that
// they are in state deleting, or does not know them after a read barrier while
// the store says that they are old.
//
// Grace is counted from when this process first saw the object as deleting, on
// a monotonic clock: a new metadata leader counts anew. It must exceed the
// longest upload attempt plus a reader's lease.
package reclaim

import (
	"context"
	"iter"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/layout"
)

// Metadata is what the Sweeper and Check need of the metadata. FromClient
// makes one of a metadata.Client, whose documentation applies.
type Metadata interface {
	Propose(ctx context.Context, cmd command.Command) (command.Result, error)
	ReadBarrier(ctx context.Context) error
	Entries(ctx context.Context, tp record.TopicPartition) (manifest.Manifest, error)
	Object(ctx context.Context, id uuid.UUID) (metadata.Object, bool, error)
	Objects(ctx context.Context) iter.Seq2[metadata.Object, error]
	PendingObjects(ctx context.Context) iter.Seq2[metadata.Object, error]
	Tombstones(ctx context.Context) ([]metadata.Tombstone, error)
	// BrokerEpoch is the epoch of a registered broker.
	BrokerEpoch(id int32) (int64, bool)
	// LeaderEpoch is that of a partition whose topic exists.
	LeaderEpoch(tp record.TopicPartition) (record.Epoch, bool)
	// LogStarts iterates over all partitions of topics that exist.
	LogStarts() iter.Seq2[record.TopicPartition, record.Offset]
}

// FromClient adapts a metadata client.
func FromClient(c metadata.Client) Metadata { return clientMetadata{c} }

type clientMetadata struct{ metadata.Client }

// BrokerEpoch implements Metadata.
func (c clientMetadata) BrokerEpoch(id int32) (int64, bool) {
	if b := c.Image().Broker(id); b != nil {
		return b.Epoch, true
	}
	return 0, false
}

// LeaderEpoch implements Metadata.
func (c clientMetadata) LeaderEpoch(tp record.TopicPartition) (record.Epoch, bool) {
	if p := c.Image().Partition(tp); p != nil {
		return p.LeaderEpoch, true
	}
	return -1, false
}

// LogStarts implements Metadata.
func (c clientMetadata) LogStarts() iter.Seq2[record.TopicPartition, record.Offset] {
	image := c.Image()
	return func(yield func(record.TopicPartition, record.Offset) bool) {
		for tp, p := range image.AllPartitions() {
			if !yield(tp, p.LogStart) {
				return
			}
		}
	}
}

// SweepOptions make a Sweeper. Those without a default are required.
type SweepOptions struct {
	Metadata Metadata
	// Stores are the stores by the name in metadata.Object.Store. They should
	// retry.
	Stores map[string]objstore.Store
	Layout layout.Layout
	// Owner is asked before each pass that deletes.
	Owner *Owner
	// Self is the broker on whose behalf commands are proposed, with its
	// present epoch.
	Self func() (brokerID int32, brokerEpoch int64)
	// Grace between an object's last reference and its deletion; default 15 min.
	Grace time.Duration
	// OrphanAge is how old, by the store's clock, an object without a name in
	// the metadata must be; default 24 h, at least Grace. OrphanInterval between
	// two listings; default 6 h.
	OrphanAge, OrphanInterval time.Duration
	// Interval between two passes; default 1 min.
	Interval time.Duration
	// StoreDown reports whether somebody has told already that the object store does not
	// answer: a pass that fails is then no warning. Nil: nobody has.
	StoreDown func() bool
	Logger    *slog.Logger // default slog.Default()
}

func (o *SweepOptions) fill() {
	setDefault(&o.Grace, 15*time.Minute)
	setDefault(&o.OrphanAge, max(24*time.Hour, o.Grace))
	o.OrphanAge = max(o.OrphanAge, o.Grace)
	setDefault(&o.OrphanInterval, 6*time.Hour)
	setDefault(&o.Interval, time.Minute)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

func setDefault(field *time.Duration, value time.Duration) {
	if *field <= 0 {
		*field = value
	}
}
