package command

import "github.com/google/uuid"

// FormatCluster names a new cluster: the first command of its log. A second one
// with the same id changes nothing; with another it is refused (ErrExists).
type FormatCluster struct {
	ClusterID string
	// Features are the levels that a new cluster starts with.
	Features map[string]int16
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
// broker is fenced until SetBrokerState unfences it. Refused (ErrDuplicateBroker)
// while another directory holds the id unfenced.
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
}

// BrokerState is a step in a broker's life.
type BrokerState uint8

// The states of a broker. The numbers are stored.
const (
	// BrokerFenced: neither joins an ISR nor leads.
	BrokerFenced BrokerState = 1
	// BrokerActive: takes part.
	BrokerActive BrokerState = 2
	// BrokerShuttingDown: takes part until its leaderships have moved, and gets no
	// new ones.
	BrokerShuttingDown BrokerState = 3
)

// SetBrokerState fences, unfences or announces the shutdown of a broker. It is
// refused (ErrStaleBrokerEpoch) if the broker registered again since.
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
func (*SetBrokerState) Kind() Kind { return KindSetBrokerState }

// Kind implements Command.
func (*AllocateProducerIDs) Kind() Kind { return KindAllocateProducerIDs }
