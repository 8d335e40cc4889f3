package command

import "github.com/firnlog/firn/record"

// AlterPartition changes the ISR of partitions: the leader's compare-and-set on
// the partition epoch. Per item: ErrNotFound, ErrNotLeader, ErrStaleLeaderEpoch,
// ErrStalePartitionEpoch, ErrInvalid, ErrIneligibleReplica. The whole command:
// ErrStaleBrokerEpoch.
type AlterPartition struct {
	BrokerID    int32
	BrokerEpoch int64
	Partitions  []ISRChange
}

// ISRChange is one partition of AlterPartition.
type ISRChange struct {
	Partition      record.TopicPartition
	LeaderEpoch    record.Epoch
	PartitionEpoch int32
	// ISR is the new in-sync set, with the leader in it.
	ISR []ISRMember
}

// ISRMember is a replica at the broker epoch that the leader heard it under. A
// replica that registered again since is refused (ErrIneligibleReplica). Epoch -1
// is not checked.
type ISRMember struct {
	BrokerID    int32
	BrokerEpoch int64
}

// ElectLeaders sets the leaders of partitions; each change raises the leader
// epoch, also when the leader stays the same. Per item: ErrNotFound,
// ErrStalePartitionEpoch, ErrIneligibleReplica.
type ElectLeaders struct {
	Elections []Election
}

// Election is one partition of ElectLeaders.
type Election struct {
	Partition      record.TopicPartition
	PartitionEpoch int32
	// Leader is the new leader, or -1 for none.
	Leader int32
	// ISR replaces the in-sync set if not nil. It may only take members away,
	// unless Unclean.
	ISR []int32
	// Unclean allows a leader outside the ISR, which becomes the ISR.
	Unclean bool
}

// AdvanceLogStart raises the log start of partitions. A value at or below the
// present one changes nothing and is no error. Per item: ErrNotFound,
// ErrNotLeader, ErrStaleLeaderEpoch, ErrInvalid. The whole command:
// ErrStaleBrokerEpoch.
type AdvanceLogStart struct {
	BrokerID    int32
	BrokerEpoch int64
	Partitions  []LogStartChange
}

// LogStartChange is one partition of AdvanceLogStart.
type LogStartChange struct {
	Partition   record.TopicPartition
	LeaderEpoch record.Epoch
	LogStart    record.Offset
}

// Kind implements Command.
func (*AlterPartition) Kind() Kind { return KindAlterPartition }

// Kind implements Command.
func (*ElectLeaders) Kind() Kind { return KindElectLeaders }

// Kind implements Command.
func (*AdvanceLogStart) Kind() Kind { return KindAdvanceLogStart }
