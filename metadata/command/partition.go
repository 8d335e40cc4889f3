package command

import "github.com/firnlog/firn/record"

// AlterPartition changes the ISR of partitions: the leader's compare-and-set on
// the partition epoch. Members that leave go to the ELR while the ISR is smaller
// than min.insync.replicas (KIP-966), and a reassignment whose target is all in the
// ISR completes in the same step. The leader also says who is cold. Per item: ErrNotFound, ErrNotLeader,
// ErrStaleLeaderEpoch, ErrStalePartitionEpoch, ErrInvalid, ErrIneligibleReplica.
// The whole command: ErrStaleBrokerEpoch.
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
	// Cold are the replicas that hold little locally of what their leader holds, all
	// of them, by id. Below Level2 it cannot be said, and nobody is cold.
	Cold []int32
}

// ISRMember is a replica at the broker epoch that the leader heard it under
// (KIP-903). A replica that registered again since is refused
// (ErrIneligibleReplica), and so is one that joins without an epoch: -1 is for the
// leader itself and for members that are in the ISR already, which a registration
// would have taken out.
type ISRMember struct {
	BrokerID    int32
	BrokerEpoch int64
}

// ElectLeaders changes the leaders of partitions, each by itself. Per item:
// ErrNotFound, ErrStalePartitionEpoch, ErrElectionNotNeeded,
// ErrPreferredUnavailable, ErrNoEligibleLeader, ErrIneligibleReplica.
type ElectLeaders struct {
	Elections []Election
}

// ElectionKind says who may be elected. The numbers are stored.
type ElectionKind uint8

// The kinds of election.
const (
	// ElectClean: an active member of the ISR, else of the ELR. A named leader must
	// be in the ISR, or in the ELR while nobody in the ISR is active
	// (ErrIneligibleReplica). Without a name, only a partition without a leader gets
	// one (ErrElectionNotNeeded, ErrNoEligibleLeader).
	ElectClean ElectionKind = 0
	// ElectPreferred: the first replica, if active and in sync
	// (ErrPreferredUnavailable); ErrElectionNotNeeded if it leads.
	ElectPreferred ElectionKind = 1
	// ElectUnclean: any active replica, for a partition without a leader
	// (ErrElectionNotNeeded, ErrNoEligibleLeader). It may lose records. In sync ones
	// come first, then eligible ones, then the last known leader.
	ElectUnclean ElectionKind = 2
)

// Election is one partition of ElectLeaders.
type Election struct {
	Partition record.TopicPartition
	// PartitionEpoch is that of the partition which the proposer looked at, -1 for
	// any.
	PartitionEpoch int32
	// Leader is the leader wanted, or -1 to leave the choice to apply, by order of
	// the replicas. ElectPreferred ignores it.
	Leader int32
	Kind   ElectionKind
}

// AlterReassignments moves partitions to other replicas (KIP-455). The replicas
// become the target and what is to be removed; those added catch up, and once all
// of the target is in the ISR the rest goes. Per item: ErrNotFound,
// ErrInvalidAssignment, ErrNoReassignment.
type AlterReassignments struct {
	Request
	Items []Reassignment
	// KeepFactor refuses (ErrInvalidAssignment) a target of another size than the
	// partition has without its reassignment.
	KeepFactor bool
}

// Reassignment is one partition of AlterReassignments.
type Reassignment struct {
	Partition record.TopicPartition
	// Replicas is the target, preferred leader first; nil cancels a reassignment
	// that is under way. A target or a return is refused (ErrInvalidAssignment) if
	// it drops, at once, every replica that holds all records: cancelling, or moving
	// the target elsewhere, drops at once what was being added.
	Replicas []int32
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
func (*AlterReassignments) Kind() Kind { return KindAlterReassignments }

// Kind implements Command.
func (*AdvanceLogStart) Kind() Kind { return KindAdvanceLogStart }
