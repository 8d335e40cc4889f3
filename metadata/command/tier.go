package command

import (
	"github.com/google/uuid"

	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// Fence says on whose behalf a partition's leader acts. It is refused with
// ErrStaleBrokerEpoch, ErrNotFound (no such partition), ErrNotLeader or
// ErrStaleLeaderEpoch.
type Fence struct {
	BrokerID    int32
	BrokerEpoch int64
	LeaderEpoch record.Epoch
}

// CopyStarted records the intent to upload an object, before its first byte. The
// range begins at max(remote end, log start), else ErrRange. The same command
// again changes nothing; an object id in use is ErrExists.
type CopyStarted struct {
	Fence
	Partition record.TopicPartition
	// Object is drawn anew for each attempt.
	Object uuid.UUID
	// Store names the tier's store in the broker's config.
	Store      string
	Start, End record.Offset
	// Generation is the cluster's recovery generation.
	Generation int64
	// Time is ms since the Unix epoch.
	Time int64
}

// CopyFinished commits a verified upload: the entry and the reference appear, and
// the remote end moves to the entry's end. If the copy ends at or below the log
// start the object goes to deletion instead (Result.Applied false). ErrNotFound
// if the object has no intent, ErrRange if the ends have moved. The same command
// again changes nothing.
type CopyFinished struct {
	Fence
	Partition record.TopicPartition
	Object    uuid.UUID
	// Entry must have the intent's range; its Object and FinishedAt are taken from
	// the command.
	Entry manifest.Entry
	// Size is the object's length in the store, in bytes; Footer is the footer's
	// position in it.
	Size, Footer int64
	Checksum     []byte
	// Time is ms since the Unix epoch.
	Time int64
}

// CopyAbandoned gives an intent up: its object, if any bytes arrived, goes to
// deletion. Any registered broker may say so (a leader of the partition, or
// reclaim for a deposed one): the upload's own commit then finds no intent. An
// unknown object, or one being deleted already, is no error; a finished one is
// ErrInvalid.
type CopyAbandoned struct {
	BrokerID    int32
	BrokerEpoch int64
	Object      uuid.UUID
	// Time is ms since the Unix epoch.
	Time int64
}

// DeleteStarted takes entries away that lie wholly at or below the log start, or
// belong to a deleted topic. Objects left without a reference begin their grace
// period. Per item: ErrRange if the entry is live. An entry that is gone is no
// error. The whole command: ErrStaleBrokerEpoch.
type DeleteStarted struct {
	BrokerID    int32
	BrokerEpoch int64
	Entries     []EntryKey
	// Time is ms since the Unix epoch.
	Time int64
}

// EntryKey names an entry.
type EntryKey struct {
	Partition record.TopicPartition
	Start     record.Offset
	Object    uuid.UUID
}

// DeleteFinished forgets objects whose deletion the store has confirmed. Per item
// ErrInvalid if the object is not being deleted; an unknown one is no error. The
// whole command: ErrStaleBrokerEpoch.
type DeleteFinished struct {
	BrokerID    int32
	BrokerEpoch int64
	Objects     []uuid.UUID
}

// Kind implements Command.
func (*CopyStarted) Kind() Kind { return KindCopyStarted }

// Kind implements Command.
func (*CopyFinished) Kind() Kind { return KindCopyFinished }

// Kind implements Command.
func (*CopyAbandoned) Kind() Kind { return KindCopyAbandoned }

// Kind implements Command.
func (*DeleteStarted) Kind() Kind { return KindDeleteStarted }

// Kind implements Command.
func (*DeleteFinished) Kind() Kind { return KindDeleteFinished }
