// Package metadata holds the cluster's metadata as its readers see it: the
// immutable Image, the Delta between two images, and the Client that changes
// them.
//
// An Image is a snapshot at one index of the metadata log and never changes; any
// number of goroutines may read one without a lock. Images share what did not
// change between them, so that one partition's change is cheap among ten
// thousand. Small state (topics, partitions, brokers, configs, features) is in
// the image; remote entries, objects and tombstones stay on disk and are read
// through the Client.
//
// The package runs no goroutine. Images are made by an Editor, which belongs to
// the one goroutine that applies the log (metadata/fsm).
package metadata

import (
	"context"
	"iter"
	"slices"

	"github.com/google/uuid"

	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// The words that images and commands share.
type (
	// Endpoint is an address that clients and peers reach a broker at.
	Endpoint = command.Endpoint
	// ResourceKind is a kind of thing that has configs.
	ResourceKind = command.ResourceKind
	// ConfigResource names a thing that has configs.
	ConfigResource = command.ConfigResource
	// VersionRange is what a broker supports of a feature.
	VersionRange = command.VersionRange
)

// The kinds of resource.
const (
	ResourceTopic  = command.ResourceTopic
	ResourceBroker = command.ResourceBroker
	ResourceGroup  = command.ResourceGroup
)

// Topic is one life of a topic. It must not be changed.
type Topic struct {
	ID   record.TopicID
	Name string
	// Partitions is the count: partitions are 0 … Partitions-1.
	Partitions int32
	Internal   bool
	// Configs are the overrides by Kafka's names; nil if there are none.
	Configs map[string]string
	// CreatedAt is ms since the Unix epoch.
	CreatedAt int64
}

// Partition is the replicated state of one partition. It must not be changed.
//
// INVARIANT: see Check.
type Partition struct {
	// Replicas are the broker ids in order of preference. While a reassignment is
	// under way they are its target and then Removing.
	Replicas []int32
	// ISR and ELR are the in-sync and the eligible leader replicas (KIP-966), in
	// the order of Replicas: each of them has all records below the watermark. The
	// ELR is empty unless the ISR is smaller than min.insync.replicas. Without a
	// leader, members of the ISR may be fenced; the ISR is empty if none of them has
	// its records any more.
	ISR, ELR []int32
	// Leader is a broker id, or -1 for none.
	Leader int32
	// LeaderEpoch rises with each election, PartitionEpoch with each change of
	// leader, ISR or replicas.
	LeaderEpoch    record.Epoch
	PartitionEpoch int32
	// LogStart is the first readable offset. RemoteEnd is the end of the last
	// committed copy, 0 if there was none; it may lie below LogStart.
	LogStart, RemoteEnd record.Offset
	// RemoteEpoch is the leader epoch of the last record below RemoteEnd, -1 if
	// nothing was ever copied.
	RemoteEpoch record.Epoch
	// LastKnownLeader is who led last while nobody leads, -1 otherwise, or if the
	// disk of who led last was wiped. With ISR and ELR empty it leads once active.
	LastKnownLeader int32
	// Adding and Removing are the replicas that a reassignment moves.
	Adding, Removing []int32
	// Cold are the replicas, in the order of Replicas, that hold little locally of what
	// their leader holds: their disk was new, and what it lacks is in the bucket. As
	// leaders they would send readers of the recent past there, so among equals a warm
	// replica leads. It is what the last leader said of them, and empty where nothing is
	// in the bucket.
	Cold []int32
}

// Warm reports whether broker, a replica, is not cold.
func (p *Partition) Warm(broker int32) bool { return !slices.Contains(p.Cold, broker) }

// Reassigning reports whether a reassignment is under way.
func (p *Partition) Reassigning() bool { return len(p.Adding) > 0 || len(p.Removing) > 0 }

// Target is what the replicas are once the reassignment under way, if any, is
// done, preferred leader first.
func (p *Partition) Target() []int32 { return without(p.Replicas, p.Removing) }

// Origin is what the replicas are if the reassignment under way, if any, is
// cancelled.
func (p *Partition) Origin() []int32 { return without(p.Replicas, p.Adding) }

// Factor is the number of replicas that min.insync.replicas is held against: while
// a reassignment changes their number, the smaller one.
func (p *Partition) Factor() int {
	return min(len(p.Replicas)-len(p.Adding), len(p.Replicas)-len(p.Removing))
}

// UnderReplicated reports whether the ISR has fewer replicas than the partition had
// before the reassignment under way, if any: one that is being added and has not caught
// up yet lacks nothing (Kafka's Partition.isUnderReplicated).
func (p *Partition) UnderReplicated() bool { return len(p.ISR) < len(p.Replicas)-len(p.Adding) }

// without returns ids without those in drop, and ids itself if none is in it.
func without(ids, drop []int32) []int32 {
	if !slices.ContainsFunc(ids, func(id int32) bool { return slices.Contains(drop, id) }) {
		return ids
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id int32) bool { return slices.Contains(drop, id) })
}

// CopyStart is where the next copy to the store begins.
func (p *Partition) CopyStart() record.Offset { return max(p.RemoteEnd, p.LogStart) }

// InSync reports whether broker is in the ISR.
func (p *Partition) InSync(broker int32) bool { return slices.Contains(p.ISR, broker) }

// HasReplica reports whether broker is a replica.
func (p *Partition) HasReplica(broker int32) bool { return slices.Contains(p.Replicas, broker) }

// Broker is a registered broker. It must not be changed.
type Broker struct {
	ID          int32
	DirectoryID uuid.UUID
	Incarnation uuid.UUID
	// Epoch is the log index of the broker's registration.
	Epoch     int64
	Rack      string
	Endpoints []Endpoint
	// ClusterAddress is where peers reach its cluster port, "" if it has none.
	ClusterAddress string
	Features       map[string]VersionRange
	Version        string
	// Fenced brokers neither join an ISR nor lead. ShuttingDown ones, and those whose
	// disk is Full, join none either, and lead only where no other can.
	Fenced, ShuttingDown, Full bool
	// RegisteredAt is ms since the Unix epoch.
	RegisteredAt int64
}

// Eligible reports whether the broker may join an ISR and lead.
func (b *Broker) Eligible() bool { return b.Staying() && !b.Full }

// Staying reports whether the broker takes part, be it that its disk is full: it may
// lead where no eligible one can.
func (b *Broker) Staying() bool { return b != nil && !b.Fenced && !b.ShuttingDown }

// ObjectState is where an object of the store is in its life.
type ObjectState uint8

// The states of an object. The numbers are stored.
const (
	// ObjectCopying: the intent is recorded, bytes may be arriving.
	ObjectCopying ObjectState = 1
	// ObjectFinished: committed and referenced.
	ObjectFinished ObjectState = 2
	// ObjectDeleting: without a reference; its bytes go after the grace period.
	ObjectDeleting ObjectState = 3
)

// String names the state as tools print it.
func (s ObjectState) String() string {
	switch s {
	case ObjectCopying:
		return "copying"
	case ObjectFinished:
		return "finished"
	case ObjectDeleting:
		return "deleting"
	default:
		return "unknown"
	}
}

// Object is what the metadata knows of one object of the store.
type Object struct {
	ID    uuid.UUID
	State ObjectState
	// Store names the tier's store in the broker's config.
	Store string
	// Partition, Start, End, LeaderEpoch, BrokerID and BrokerEpoch are those of
	// the intent that made the object.
	Partition   record.TopicPartition
	Start, End  record.Offset
	LeaderEpoch record.Epoch
	BrokerID    int32
	BrokerEpoch int64
	Generation  int64
	// Intent is the log index of CopyStarted.
	Intent uint64
	// Size, Footer (both bytes) and Checksum are known once finished.
	Size, Footer int64
	Checksum     []byte
	// StartedAt, FinishedAt and DeletingSince are ms since the Unix epoch, 0 if
	// not yet. They are for people and for retention of finished copies; the
	// grace period counts on a monotonic clock.
	StartedAt, FinishedAt, DeletingSince int64
}

// Tombstone is a deleted topic whose data may not all be gone.
type Tombstone struct {
	Topic      record.TopicID
	Name       string
	Partitions int32
	// DeletedAt is ms since the Unix epoch.
	DeletedAt int64
}

// Client reads and changes the metadata of the cluster.
type Client interface {
	// Image returns the newest image that this node has.
	Image() *Image
	// Subscribe calls fn for each change, in order, on the one goroutine that all
	// subscribers share, without a lock held. The first call has an empty old
	// image and a delta that names everything. A slow subscriber sees several
	// changes as one. After cancel returns no call of fn begins; one may still be
	// running.
	Subscribe(fn func(old, new *Image, delta Delta)) (cancel func())
	// Propose commits a command. It returns after the local image has the
	// command's index. A refusal by the state machine is a *command.Error. After
	// any other error the outcome is unknown: repeat with the same fence or
	// request id. ErrNotLeader and ErrClosed say that it was not applied.
	Propose(ctx context.Context, cmd command.Command) (command.Result, error)
	// ReadBarrier returns once the local image has everything that was committed
	// when it was called.
	ReadBarrier(ctx context.Context) error
	// Delivered returns once every subscriber was told of the image at index. A
	// subscriber must not call it from its fn.
	Delivered(ctx context.Context, index uint64) error

	// Entries returns all remote entries of a partition. Of a deleted topic's
	// partition all are expired; an unknown partition has none.
	Entries(ctx context.Context, tp record.TopicPartition) (manifest.Manifest, error)
	// FindEntry returns the live entry that holds offset, without loading the
	// others.
	FindEntry(ctx context.Context, tp record.TopicPartition, offset record.Offset) (e manifest.Entry, ok bool, err error)
	// Object returns what is known of an object.
	Object(ctx context.Context, id uuid.UUID) (o Object, ok bool, err error)
	// Objects iterates over every object by id.
	Objects(ctx context.Context) iter.Seq2[Object, error]
	// PendingObjects iterates over the objects that are copying or deleting, by
	// id, at a cost that does not depend on the number of finished ones.
	PendingObjects(ctx context.Context) iter.Seq2[Object, error]
	// Refs returns the partitions that refer to an object.
	Refs(ctx context.Context, object uuid.UUID) ([]record.TopicPartition, error)
	// Tombstones returns the deleted topics that are not purged yet.
	Tombstones(ctx context.Context) ([]Tombstone, error)
}
