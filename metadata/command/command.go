// Package command holds the changes that a cluster's metadata can undergo: the
// entries of the Raft log, their versioned encoding, their results and errors.
//
// A command carries all that apply needs: the time, new ids, and a fence (broker,
// leader or partition epoch) or a request id. Apply itself (metadata/fsm) reads
// no clock and draws no random number, and it is there that a stale writer is
// refused.
//
// The package is values only: no goroutine, no I/O.
package command

import (
	"github.com/google/uuid"

	"github.com/firnlog/firn/record"
)

// Command is one change. The implementations are the structs of this package,
// passed as pointers.
type Command interface {
	// Kind names the command in logs and metrics.
	Kind() Kind
}

// Kind names a command.
type Kind string

// The kinds of command.
const (
	KindFormatCluster       Kind = "FormatCluster"
	KindRegisterBroker      Kind = "RegisterBroker"
	KindSetBrokerState      Kind = "SetBrokerState"
	KindCreateTopics        Kind = "CreateTopics"
	KindDeleteTopics        Kind = "DeleteTopics"
	KindPurgeTopic          Kind = "PurgeTopic"
	KindCreatePartitions    Kind = "CreatePartitions"
	KindAlterConfigs        Kind = "AlterConfigs"
	KindAlterPartition      Kind = "AlterPartition"
	KindElectLeaders        Kind = "ElectLeaders"
	KindAllocateProducerIDs Kind = "AllocateProducerIDs"
	KindAdvanceLogStart     Kind = "AdvanceLogStart"
	KindCopyStarted         Kind = "CopyStarted"
	KindCopyFinished        Kind = "CopyFinished"
	KindCopyAbandoned       Kind = "CopyAbandoned"
	KindDeleteStarted       Kind = "DeleteStarted"
	KindDeleteFinished      Kind = "DeleteFinished"
	KindUpdateFeatures      Kind = "UpdateFeatures"
	KindAlterReassignments  Kind = "AlterReassignments"
	KindUnregisterBroker    Kind = "UnregisterBroker"
)

// Request makes a command without a fence safe to send twice: the state machine
// remembers the results of the last requests by id, and a repeated id gets the
// first result without being applied again. The zero value is not remembered.
type Request struct {
	RequestID uuid.UUID
}

// requestID is nil for a command that is not remembered.
func (r Request) requestID() uuid.UUID { return r.RequestID }

// RequestIDOf returns the request id that cmd carries, or uuid.Nil.
func RequestIDOf(cmd Command) uuid.UUID {
	if r, ok := cmd.(interface{ requestID() uuid.UUID }); ok {
		return r.requestID()
	}
	return uuid.Nil
}

// Result is what a command that was not refused as a whole did.
type Result struct {
	// Index is the log index of the command (of its first run, if a request id
	// was repeated): the image at this index shows what the command changed.
	Index uint64
	// Items answer a batch command item by item, in its order. Nil for commands
	// that are no batch.
	Items []ItemResult
	// BrokerEpoch is the epoch that RegisterBroker gave.
	BrokerEpoch int64
	// ProducerIDs is the block that AllocateProducerIDs gave.
	ProducerIDs ProducerIDBlock
	// Applied says of CopyFinished whether the copy became an entry: false if it
	// ends below the log start, or its topic is gone, so that the object is for
	// deletion.
	Applied bool
	// Objects are, for DeleteTopics, DeleteStarted and an unapplied CopyFinished,
	// the objects that this command left without a reference.
	Objects []uuid.UUID
}

// ItemResult answers one item of a batch command.
type ItemResult struct {
	// Err is nil, or an *Error: this item changed nothing.
	Err error
	// Topic is the topic that CreateTopics made.
	Topic record.TopicID
	// LeaderEpoch and PartitionEpoch are those of the partition after the item
	// (AlterPartition, ElectLeaders, AlterReassignments). What else the item led to,
	// another leader for example, is in the image.
	LeaderEpoch    record.Epoch
	PartitionEpoch int32
	// LogStart is the partition's log start after AdvanceLogStart.
	LogStart record.Offset
}

// ProducerIDBlock is a block of producer ids that belongs to one broker: First
// and the Count-1 ids after it.
type ProducerIDBlock struct {
	First int64
	Count int32
}

// ProducerIDBlockSize is how many producer ids one AllocateProducerIDs gives, as
// in Kafka.
const ProducerIDBlockSize = 1000
