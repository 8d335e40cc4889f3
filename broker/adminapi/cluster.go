package adminapi

// PathClusterHealth and PathClusterBrokers are answered by every node from its
// own copy of the metadata.
const (
	PathClusterHealth  = "/v1/cluster/health"  // -> ClusterHealth
	PathClusterBrokers = "/v1/cluster/brokers" // -> ClusterBrokers
	// PathClusterPlan works out moves and changes nothing:
	// ?kind=drain&broker=N or ?kind=rebalance -> MovePlan
	PathClusterPlan = "/v1/cluster/plan"
)

// The states of a cluster's health, from best to worst.
const (
	HealthOK       = "ok"
	HealthDegraded = "degraded" // all is served, but one more loss may not be
	HealthCritical = "critical" // something is not served, or cannot be changed
)

// ClusterHealth says how the cluster is, and why.
type ClusterHealth struct {
	ClusterID string `json:"cluster_id"`
	State     string `json:"state"`
	// Reasons are empty where the state is ok; the worst come first.
	Reasons []HealthReason `json:"reasons"`
	// Controller is the broker that leads the metadata, -1 if none is known.
	Controller    int32  `json:"controller"`
	MetadataIndex uint64 `json:"metadata_index"` // that the answering node has applied
	Brokers       int    `json:"brokers"`
	BrokersUp     int    `json:"brokers_up"` // not fenced
	Topics        int    `json:"topics"`
	Partitions    int    `json:"partitions"`
	// Leaderless partitions are not served at all; those under min.insync.replicas
	// refuse acks=all; under-replicated ones lack replicas in sync.
	Leaderless      int `json:"leaderless"`
	UnderMinISR     int `json:"under_min_isr"`
	UnderReplicated int `json:"under_replicated"`
	// NotPreferred partitions are led by another than their first replica.
	NotPreferred int `json:"not_preferred"`
	Reassigning  int `json:"reassigning"`
}

// HealthReason is one thing that is wrong.
type HealthReason struct {
	State string `json:"state"` // degraded or critical
	What  string `json:"what"`
	// Partitions are some of those concerned, as topic-number; at most ten.
	Partitions []string `json:"partitions,omitempty"`
}

// The states of a broker.
const (
	BrokerUp           = "up"
	BrokerFenced       = "fenced" // its lease has ended, or it has not caught up
	BrokerShuttingDown = "shutting down"
	BrokerFull         = "disk full" // others lead what they can
)

// ClusterBrokers lists the registered brokers by id.
type ClusterBrokers struct {
	ClusterID  string          `json:"cluster_id"`
	Controller int32           `json:"controller"`
	Brokers    []ClusterBroker `json:"brokers"`
}

// ClusterBroker is one registered broker.
type ClusterBroker struct {
	ID        int32    `json:"id"`
	State     string   `json:"state"`
	Rack      string   `json:"rack,omitempty"`
	Version   string   `json:"version"`
	Directory string   `json:"directory_id"`
	Epoch     int64    `json:"epoch"`
	Endpoints []string `json:"endpoints"` // NAME://HOST:PORT
	// Leaders and Replicas are partitions that it leads and that it has a replica
	// of; OutOfSync those of the latter that are not in sync.
	Leaders   int `json:"leaders"`
	Replicas  int `json:"replicas"`
	OutOfSync int `json:"out_of_sync"`
	// Voter says whether it votes in the metadata's quorum.
	Voter        bool  `json:"voter"`
	RegisteredAt int64 `json:"registered_at"`
}

// The kinds of plan.
const (
	PlanDrain     = "drain"
	PlanRebalance = "rebalance"
)

// MovePlan is what a drain or a rebalance would do.
type MovePlan struct {
	Kind string `json:"kind"`
	// Moves are by topic and partition; none where there is nothing to do.
	Moves []Move `json:"moves"`
}

// Move gives one partition other replicas. Only what is not in the object store is
// copied to those that are new.
type Move struct {
	Topic     string  `json:"topic"`
	Partition int32   `json:"partition"`
	From      []int32 `json:"from"`
	To        []int32 `json:"to"`
}
