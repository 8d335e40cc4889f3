package command

import "github.com/google/uuid"

// FormatCluster names a new cluster: the first command of its log. A second one
// with the same id changes nothing; with another it is refused (ErrExists).
type FormatCluster struct {
	ClusterID string
	// Features are the levels that a new cluster starts with.
	Features map[string]int16
	// Configs become the default configs of all brokers, as AlterConfigs would set
	// them for the broker "". They are what apply itself reads, such as
	// min.insync.replicas, as far as the first node's file sets it.
	Configs map[string]string
}

// UpdateFeatures sets feature levels. An update is refused (ErrFeature) if a
// registered broker does not support the level, or if the level goes down
// without Downgrade.
type UpdateFeatures struct {
	Request
	Updates []FeatureUpdate
}

// FeatureUpdate sets one feature's level; 0 removes it.
type FeatureUpdate struct {
	Name      string
	Level     int16
	Downgrade bool
}

// VersionRange is what a broker supports of a feature, both ends inclusive.
type VersionRange struct {
	Min, Max int16
}

// Endpoint is an address that clients and peers reach a broker at.
type Endpoint struct {
	// Listener is the listener's name, Security Kafka's protocol name for it
	// (PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL).
	Listener string
	Host     string
	Port     int32
	Security string
}

// RegisterBroker announces a broker's process. Its epoch is the command's log
// index; earlier epochs of the broker are stale from then on. A registered
// broker is fenced until SetBrokerState unfences it, with all that fencing entails.
// Refused (ErrDuplicateBroker) while another directory holds the id unfenced.
//
// With another directory than before, the broker's replicas count for nothing: it
// leaves every ISR and ELR, and is no last known leader. With Untrusted the same
// holds for topics of durability=replicated, but a last known leader it stays: what
// it had flushed is there.
type RegisterBroker struct {
	BrokerID    int32
	DirectoryID uuid.UUID
	// Incarnation is drawn once per process: the same one again gets the same
	// epoch.
	Incarnation uuid.UUID
	Rack        string
	Endpoints   []Endpoint
	// Features are the ranges that the broker supports.
	Features map[string]VersionRange
	// Version is the broker's software version.
	Version string
	// Time is ms since the Unix epoch.
	Time int64
	// ClusterAddress is where peers reach the broker's cluster port, "" if it has
	// none.
	ClusterAddress string
	// Untrusted says that what the broker's last process wrote without a flush may
	// be gone: the machine booted since, and the shutdown before was not clean.
	Untrusted bool
	// ReplicatedByDefault says that log.durability is replicated in the broker's
	// file; for Untrusted.
	ReplicatedByDefault bool
}

// UnregisterBroker forgets a broker that is gone for good. It leaves every ISR and
// ELR; where it is a replica it stays listed, so that the factor is not forgotten,
// until a reassignment replaces it. Refused: ErrNotFound; ErrStaleBrokerEpoch;
// ErrInvalid while the broker is not fenced; ErrLastReplica while it alone holds all
// records of some partition (no other broker in ISR or ELR).
type UnregisterBroker struct {
	Request
	BrokerID int32
	// BrokerEpoch is the registration meant, -1 for any.
	BrokerEpoch int64
}

// BrokerState is a step in a broker's life.
type BrokerState uint8

// The states of a broker. The numbers are stored.
const (
	// BrokerFenced: neither joins an ISR nor leads. It leaves each ISR (into the ELR
	// where that becomes smaller than min.insync.replicas; the last member stays),
	// and each partition that it leads goes to another member of the ISR, else of
	// the ELR, else to nobody.
	BrokerFenced BrokerState = 1
	// BrokerActive: takes part, and leads the partitions without a leader that have
	// it in ISR or ELR.
	BrokerActive BrokerState = 2
	// BrokerShuttingDown: leaves each ISR that has another active member, and leads
	// only where no other can (KIP-841). Only a new registration ends it.
	BrokerShuttingDown BrokerState = 3
	// BrokerFull: its disk takes no records. It leaves each ISR that has another active
	// member, and leads only where no other can, as one that is shutting down; but it
	// stays, and comes back as BrokerActive. From Level2 on.
	BrokerFull BrokerState = 4
)

// SetBrokerState fences, unfences or announces the shutdown of a broker, with the
// elections and changes of ISR and ELR that follow, all in one step. It is refused
// (ErrStaleBrokerEpoch) if the broker registered again since; BrokerActive and
// BrokerFull are refused (ErrInvalid) to a broker that is shutting down.
type SetBrokerState struct {
	BrokerID    int32
	BrokerEpoch int64
	State       BrokerState
}

// AllocateProducerIDs gives the broker a block of ProducerIDBlockSize ids that
// nobody was ever given.
type AllocateProducerIDs struct {
	Request
	BrokerID    int32
	BrokerEpoch int64
}

// Kind implements Command.
func (*FormatCluster) Kind() Kind { return KindFormatCluster }

// Kind implements Command.
func (*UpdateFeatures) Kind() Kind { return KindUpdateFeatures }

// Kind implements Command.
func (*RegisterBroker) Kind() Kind { return KindRegisterBroker }

// Kind implements Command.
func (*UnregisterBroker) Kind() Kind { return KindUnregisterBroker }

// Kind implements Command.
func (*SetBrokerState) Kind() Kind { return KindSetBrokerState }

// Kind implements Command.
func (*AllocateProducerIDs) Kind() Kind { return KindAllocateProducerIDs }
