package command

import "github.com/firnlog/firn/record"

// CreateTopics makes topics, each by itself. Per item: ErrExists, ErrInvalidName,
// ErrInvalidAssignment, ErrInvalidPartitionCount. A topic whose id exists under
// the same name already is answered as made. The leader and the ISR follow from
// the replicas: of those unfenced and not shutting down, the first leads.
type CreateTopics struct {
	Request
	// Time is ms since the Unix epoch.
	Time   int64
	Topics []NewTopic
}

// NewTopic is one topic of CreateTopics.
type NewTopic struct {
	// ID is drawn by the caller and never zero.
	ID   record.TopicID
	Name string
	// Assignments are the replicas of partition 0, 1, …, preferred leader first.
	Assignments [][]int32
	// Configs are overrides by Kafka's names, validated by the caller.
	Configs  map[string]string
	Internal bool
}

// DeleteTopics removes topics and leaves a tombstone of each until PurgeTopic.
// Per item ErrNotFound.
type DeleteTopics struct {
	Request
	// Time is ms since the Unix epoch.
	Time   int64
	Topics []record.TopicID
}

// PurgeTopic forgets the tombstone of a deleted topic. Refused (ErrNotEmpty) while
// the topic has entries or unfinished objects. A topic without a tombstone is
// ErrNotFound if it exists and otherwise purged already.
type PurgeTopic struct {
	Topic record.TopicID
}

// CreatePartitions adds partitions to topics. Per item: ErrNotFound,
// ErrInvalidPartitionCount if Count is not the present count plus the new
// assignments, ErrInvalidAssignment.
type CreatePartitions struct {
	Request
	// Time is ms since the Unix epoch.
	Time   int64
	Topics []MorePartitions
}

// MorePartitions is one topic of CreatePartitions.
type MorePartitions struct {
	Topic record.TopicID
	// Count is the number of partitions afterwards.
	Count int32
	// Assignments are the replicas of the new partitions.
	Assignments [][]int32
}

// ResourceKind is a kind of thing that has configs. The numbers are stored.
type ResourceKind uint8

// The kinds of resource.
const (
	// ResourceTopic: by topic name.
	ResourceTopic ResourceKind = 1
	// ResourceBroker: by decimal broker id; "" is the default of all brokers.
	ResourceBroker ResourceKind = 2
	// ResourceGroup: by group id.
	ResourceGroup ResourceKind = 3
)

// ConfigResource names a thing that has configs.
type ConfigResource struct {
	Kind ResourceKind
	Name string
}

// AlterConfigs changes configs, resource by resource. Per item: ErrNotFound for an
// unknown topic, ErrInvalid for an unknown kind, ErrConflict for an expectation that
// does not hold. What follows for ISR, ELR and leaders from min.insync.replicas,
// unclean.leader.election.enable and durability happens in the same step.
type AlterConfigs struct {
	Request
	Changes []ConfigChange
}

// ConfigChange is one resource's change.
type ConfigChange struct {
	Resource ConfigResource
	// Replace drops every config that Set does not name.
	Replace bool
	Set     map[string]string
	// Delete names configs that return to their default; unknown names are no
	// error.
	Delete []string
	// Expect are overrides that the change was worked out from: if one differs now,
	// nothing changes (ErrConflict) and the caller works it out again. Appending to
	// and subtracting from a list is safe against others this way.
	Expect []ConfigExpectation
}

// ConfigExpectation is what a resource's own override should be.
type ConfigExpectation struct {
	Name string
	// Value is the override, if there is one (Set).
	Value string
	Set   bool
}

// Kind implements Command.
func (*CreateTopics) Kind() Kind { return KindCreateTopics }

// Kind implements Command.
func (*DeleteTopics) Kind() Kind { return KindDeleteTopics }

// Kind implements Command.
func (*PurgeTopic) Kind() Kind { return KindPurgeTopic }

// Kind implements Command.
func (*CreatePartitions) Kind() Kind { return KindCreatePartitions }

// Kind implements Command.
func (*AlterConfigs) Kind() Kind { return KindAlterConfigs }
