package group

import (
	"time"

	"github.com/firnlog/firn/record"
)

// Errors in requests' answers are *kerr.Error values. Nothing of a request is
// kept after its answer without a copy, so strings and byte slices may alias a
// network buffer that lives until then.

// Protocol is one assignment strategy that a member offers, with its metadata
// (opaque bytes; for type "consumer" the subscription).
type Protocol struct {
	Name     string
	Metadata []byte
}

// JoinRequest asks for membership, or for a new generation.
type JoinRequest struct {
	Group      string
	MemberID   string  // "" for a new member
	InstanceID *string // group.instance.id of a static member (KIP-345)
	ClientID   string
	ClientHost string // as Kafka prints it: "/127.0.0.1"
	// SessionTimeout must lie in the configured range.
	SessionTimeout time.Duration
	// RebalanceTimeout bounds the join phase; negative (JoinGroup v0) stands
	// for the session timeout.
	RebalanceTimeout time.Duration
	ProtocolType     string
	Protocols        []Protocol // in the member's order of preference
	// RequireMemberID is set from JoinGroup v4: a new dynamic member must join
	// again with the id it is given (KIP-394).
	RequireMemberID bool
	// CanSkipAssignment is set from JoinGroup v9: a returning static leader
	// may be told to keep the present assignment (KIP-814).
	CanSkipAssignment bool
	Reason            string // KIP-800, for the log
}

// JoinMember is a member as the leader sees it.
type JoinMember struct {
	ID         string
	InstanceID *string
	Metadata   []byte
}

// JoinResponse answers a JoinRequest. Members is set for the leader alone.
// The slices are shared and must not be changed.
type JoinResponse struct {
	Err            error
	MemberID       string
	Generation     int32  // -1 on error
	ProtocolType   string // "" = null
	Protocol       string // "" = null
	Leader         string
	SkipAssignment bool
	Members        []JoinMember
}

// SyncRequest asks for the member's assignment; the leader's carries all.
type SyncRequest struct {
	Group        string
	MemberID     string
	InstanceID   *string
	Generation   int32
	ProtocolType *string // v5+, must match where set
	Protocol     *string
	Assignments  []Assignment
}

// Assignment is what the leader gave to one member.
type Assignment struct {
	MemberID string
	Data     []byte
}

// SyncResponse answers a SyncRequest. Assignment is shared: read only.
type SyncResponse struct {
	Err          error
	ProtocolType string
	Protocol     string
	Assignment   []byte
}

// HeartbeatRequest keeps a member's session alive.
type HeartbeatRequest struct {
	Group      string
	MemberID   string
	InstanceID *string
	Generation int32
}

// LeaveRequest removes members. A static member may be removed by instance id
// with an empty member id.
type LeaveRequest struct {
	Group   string
	Members []LeaveMember
}

// LeaveMember names one leaving member.
type LeaveMember struct {
	MemberID   string
	InstanceID *string
	Reason     string
}

// LeaveResponse answers a LeaveRequest; Members is parallel to the request's.
type LeaveResponse struct {
	Err     error
	Members []error
}

// CommitRequest stores offsets.
type CommitRequest struct {
	Group      string
	MemberID   string
	InstanceID *string
	Generation int32 // -1: not a member
	// GroupMustExist is set from OffsetCommit v9: a commit with a generation to
	// an unknown group fails with GROUP_ID_NOT_FOUND, not ILLEGAL_GENERATION.
	GroupMustExist bool
	// Retention is OffsetCommit v2-4's explicit retention; negative for none.
	Retention time.Duration
	Offsets   []OffsetCommit
}

// OffsetCommit is one partition's offset. TopicID is stored beside the name
// where known; zero otherwise.
type OffsetCommit struct {
	Topic       string
	TopicID     record.TopicID
	Partition   int32
	Offset      int64
	LeaderEpoch int32 // -1 = none
	Metadata    string
}

// CommitResponse answers a CommitRequest. Err is the error of all partitions;
// else Partitions is parallel to the request's Offsets.
type CommitResponse struct {
	Err        error
	Partitions []error
}

// FetchRequest reads one group's committed offsets.
type FetchRequest struct {
	Group string
	// All asks for every topic; Topics is then ignored.
	All    bool
	Topics []FetchTopic
	// RequireStable waits for commits in flight and refuses partitions with
	// offsets of an open transaction (KIP-447).
	RequireStable bool
}

// FetchTopic names partitions of one topic. With a non-zero ID an offset that
// was committed under another topic id counts as absent.
type FetchTopic struct {
	Topic      string
	ID         record.TopicID
	Partitions []int32
}

// FetchResponse answers a FetchRequest, in the order of the request, or sorted
// by topic and partition for All.
type FetchResponse struct {
	Err    error
	Topics []FetchedTopic
}

// FetchedTopic is a topic's part of a FetchResponse.
type FetchedTopic struct {
	Topic      string
	ID         record.TopicID // as asked; for All the id stored with the first offset
	Partitions []FetchedOffset
}

// FetchedOffset is a committed offset, -1 where there is none.
type FetchedOffset struct {
	Partition   int32
	Offset      int64
	LeaderEpoch int32
	Metadata    string
	Err         error
}

// TopicPartitions names partitions of a topic by name.
type TopicPartitions struct {
	Topic      string
	Partitions []int32
}

// DeleteOffsetsRequest removes committed offsets of topics that the group is
// not subscribed to (KIP-496).
type DeleteOffsetsRequest struct {
	Group  string
	Topics []TopicPartitions
}

// DeleteOffsetsResponse answers a DeleteOffsetsRequest; Topics holds an error
// per topic and partition, parallel to the request's.
type DeleteOffsetsResponse struct {
	Err    error
	Topics [][]error
}

// Listed is one group in a listing.
type Listed struct {
	Group        string
	ProtocolType string
	State        string
	Type         string
}

// Description is one group in detail.
type Description struct {
	State        string
	ProtocolType string
	Protocol     string // "" unless Stable
	Members      []DescribedMember
}

// DescribedMember is one member of a Description. Metadata is nil unless the
// group is Stable. The slices are shared: read only.
type DescribedMember struct {
	ID         string
	InstanceID *string
	ClientID   string
	ClientHost string
	Metadata   []byte
	Assignment []byte
}
