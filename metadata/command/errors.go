package command

import "errors"

// Code says why a command, or an item of one, was refused. Codes are stored with
// remembered results: they keep their numbers.
type Code uint16

// The codes. Zero is no error.
const (
	CodeInvalid               Code = 1
	CodeNotFound              Code = 2
	CodeExists                Code = 3
	CodeStaleBrokerEpoch      Code = 4
	CodeStaleLeaderEpoch      Code = 5
	CodeStalePartitionEpoch   Code = 6
	CodeRange                 Code = 7
	CodeIneligibleReplica     Code = 8
	CodeDuplicateBroker       Code = 9
	CodeInvalidName           Code = 10
	CodeInvalidAssignment     Code = 11
	CodeInvalidPartitionCount Code = 12
	CodeNotEmpty              Code = 13
	CodeNotLeader             Code = 14
	CodeFeature               Code = 15
	CodeConflict              Code = 16
	CodeElectionNotNeeded     Code = 17
	CodePreferredUnavailable  Code = 18
	CodeNoEligibleLeader      Code = 19
	CodeNoReassignment        Code = 20
	CodeLastReplica           Code = 21
)

// Error is a refusal by the state machine. Compare with errors.Is and the Err…
// values; the message is for people.
type Error struct {
	Code    Code
	Message string
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Is reports whether target has the same code. ErrFenced matches every stale
// epoch.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	if !ok {
		return false
	}
	if t.Code == codeFenced {
		switch e.Code {
		case CodeStaleBrokerEpoch, CodeStaleLeaderEpoch, CodeStalePartitionEpoch, CodeNotLeader:
			return true
		default: // its own code decides
		}
	}
	return e.Code == t.Code
}

// codeFenced is the family of the stale epochs; no refusal carries it.
const codeFenced Code = 0xffff

// The refusals, for errors.Is.
var (
	// ErrFenced matches a stale broker, leader or partition epoch, and a broker
	// that is not the leader it says it is.
	ErrFenced = &Error{codeFenced, "fenced"}
	// ErrInvalid: the command contradicts itself or the state.
	ErrInvalid = &Error{CodeInvalid, "invalid"}
	// ErrNotFound: the topic, partition, broker or object is unknown.
	ErrNotFound = &Error{CodeNotFound, "not found"}
	// ErrExists: the name or id is taken.
	ErrExists = &Error{CodeExists, "exists"}
	// ErrStaleBrokerEpoch: the broker has registered again since, or never.
	ErrStaleBrokerEpoch = &Error{CodeStaleBrokerEpoch, "stale broker epoch"}
	// ErrStaleLeaderEpoch: the partition has another leader epoch.
	ErrStaleLeaderEpoch = &Error{CodeStaleLeaderEpoch, "stale leader epoch"}
	// ErrStalePartitionEpoch: the partition changed since it was read.
	ErrStalePartitionEpoch = &Error{CodeStalePartitionEpoch, "stale partition epoch"}
	// ErrNotLeader: the broker does not lead the partition.
	ErrNotLeader = &Error{CodeNotLeader, "not the leader"}
	// ErrRange: a copy does not begin at the remote end, or entries to delete are
	// still above the log start.
	ErrRange = &Error{CodeRange, "range does not fit"}
	// ErrIneligibleReplica: the broker may not join the ISR or lead: it is fenced,
	// shutting down, no replica, or not in sync.
	ErrIneligibleReplica = &Error{CodeIneligibleReplica, "ineligible replica"}
	// ErrDuplicateBroker: another directory holds this broker id and is not fenced.
	ErrDuplicateBroker = &Error{CodeDuplicateBroker, "duplicate broker"}
	// ErrInvalidName: the topic name is illegal or collides with another.
	ErrInvalidName = &Error{CodeInvalidName, "invalid name"}
	// ErrInvalidAssignment: replicas are unknown, repeated, missing or all fenced.
	ErrInvalidAssignment = &Error{CodeInvalidAssignment, "invalid replica assignment"}
	// ErrInvalidPartitionCount: a partition count of zero, or one that does not grow.
	ErrInvalidPartitionCount = &Error{CodeInvalidPartitionCount, "invalid partition count"}
	// ErrNotEmpty: a deleted topic still has entries, so it cannot be purged.
	ErrNotEmpty = &Error{CodeNotEmpty, "not empty"}
	// ErrFeature: a feature level is not supported by every broker, or would go down.
	ErrFeature = &Error{CodeFeature, "unsupported feature level"}
	// ErrConflict: a config is no longer what the change was worked out from.
	ErrConflict = &Error{CodeConflict, "configs changed meanwhile"}
	// ErrElectionNotNeeded: the partition has the leader it should have (Kafka:
	// ELECTION_NOT_NEEDED).
	ErrElectionNotNeeded = &Error{CodeElectionNotNeeded, "election not needed"}
	// ErrPreferredUnavailable: the preferred replica is not active or not in sync
	// (Kafka: PREFERRED_LEADER_NOT_AVAILABLE).
	ErrPreferredUnavailable = &Error{CodePreferredUnavailable, "preferred leader not available"}
	// ErrNoEligibleLeader: nobody may lead (Kafka: ELIGIBLE_LEADERS_NOT_AVAILABLE).
	ErrNoEligibleLeader = &Error{CodeNoEligibleLeader, "no eligible leader"}
	// ErrNoReassignment: there is nothing to cancel (Kafka:
	// NO_REASSIGNMENT_IN_PROGRESS).
	ErrNoReassignment = &Error{CodeNoReassignment, "no reassignment in progress"}
	// ErrLastReplica: the broker alone holds all records of a partition.
	ErrLastReplica = &Error{CodeLastReplica, "last replica in sync"}
)

var (
	// ErrUnknownVersion says that a log entry or stored value was written by a
	// newer version. A node that meets it must stop: to go on would be to diverge.
	ErrUnknownVersion = errors.New("metadata: written by a newer version of firn")
	// ErrCorrupt says that bytes are no encoding of a command or stored value.
	ErrCorrupt = errors.New("metadata: corrupt")
)
