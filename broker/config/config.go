// Package config owns a node's settings: their typed form [Config], the places
// they come from, and what is wrong with them.
//
// Settings come from four places, each stronger than the one before: the
// defaults embedded in the program (those of metadata/configdef, with the dev
// profile's on top where that is asked for), one YAML file, environment
// variables (FIRN_NUM_PARTITIONS is num.partitions), and flags. The names are
// Kafka's where the thing is Kafka's. [Load] reads all of them before it judges
// any, and reports every mistake at once, each with where it was made, what was
// got and what was wanted.
//
// A Config never changes after Load. Topics' defaults (log.retention.ms and so
// on) are not fields of it: they go to configdef.ParseTopic by way of
// Config.Static, and may be overridden while the broker runs.
package config

import (
	"path/filepath"
	"time"
)

// Config is a node's settings, checked. Times of -1 ms mean never.
type Config struct {
	Node    `koanf:",squash"`
	Cluster `koanf:",squash"`
	Net     `koanf:",squash"`
	Topics  `koanf:",squash"`
	Log     `koanf:",squash"`
	Groups  `koanf:",squash"`
	Tier    `koanf:",squash"`

	// Static is every setting that was set outside the plain defaults, by the
	// name it was set under, in configdef's normal form: Kafka's source
	// STATIC_BROKER_CONFIG. Read only.
	Static map[string]string `koanf:"-"`
}

// Node says who this node is and how it runs.
type Node struct {
	// Profile is serve or dev.
	Profile string `koanf:"profile"`
	// ID is unique in the cluster.
	ID int32 `koanf:"node.id"`
	// ClusterID is 22 characters of base64url, or empty: take what is stored, or make one.
	ClusterID string `koanf:"cluster.id"`
	Rack      string `koanf:"broker.rack"`
	// DataDir holds everything that this node stores, an absolute path.
	DataDir string `koanf:"data.dir"`
	// AdminAddress is HOST:PORT of the admin HTTP server; empty switches it off.
	AdminAddress string `koanf:"admin.address"`
	// BootstrapExpect is how many nodes begin the cluster together.
	BootstrapExpect   int           `koanf:"bootstrap.expect"`
	LogLevel          string        `koanf:"log.level"`
	LogFormat         string        `koanf:"log.format"`
	PyroscopeAddress  string        `koanf:"pyroscope.address"`
	PyroscopeApp      string        `koanf:"pyroscope.application"`
	ShutdownTimeout   time.Duration `koanf:"shutdown.timeout.ms"`
	BrokerLease       time.Duration `koanf:"broker.session.timeout.ms"`
	BrokerHeartbeat   time.Duration `koanf:"broker.heartbeat.interval.ms"`
	ReplicaLagTimeMax time.Duration `koanf:"replica.lag.time.max.ms"`
	ReplicaFetchBytes int32         `koanf:"replica.fetch.max.bytes"`
	// ReplicaFetchMinBytes … ReplicaFetchers pace how followers pull.
	ReplicaFetchMinBytes int32         `koanf:"replica.fetch.min.bytes"`
	ReplicaResponseBytes int32         `koanf:"replica.fetch.response.max.bytes"`
	ReplicaFetchBackoff  time.Duration `koanf:"replica.fetch.backoff.ms"`
	ReplicaFetchers      int           `koanf:"num.replica.fetchers"`
	ReplicaFetchMaxWait  time.Duration `koanf:"replica.fetch.wait.max.ms"`
	AutoLeaderRebalance  bool          `koanf:"auto.leader.rebalance.enable"`
	RebalanceSeconds     int64         `koanf:"leader.imbalance.check.interval.seconds"`
	ControlledShutdown   bool          `koanf:"controlled.shutdown.enable"`
}

// Net bounds what clients may take of the broker.
type Net struct {
	// Listeners in the order they were given; at least one.
	Listeners []Listener `koanf:"-"`
	// InterBrokerListener is the name of the listener that brokers use.
	InterBrokerListener string        `koanf:"inter.broker.listener.name"`
	RequestMaxBytes     int64         `koanf:"socket.request.max.bytes"`
	SendBufferBytes     int           `koanf:"socket.send.buffer.bytes"`    // -1: the system's
	ReceiveBufferBytes  int           `koanf:"socket.receive.buffer.bytes"` // -1: the system's
	MemoryBudgetBytes   int64         `koanf:"queued.max.request.bytes"`    // ≥ RequestMaxBytes
	PipelineDepth       int           `koanf:"queued.max.requests"`
	MaxIdle             time.Duration `koanf:"connections.max.idle.ms"` // < 0: never
	MaxConnections      int           `koanf:"max.connections"`
	MaxConnectionsPerIP int           `koanf:"max.connections.per.ip"`
	FailedAuthDelay     time.Duration `koanf:"connection.failed.authentication.delay.ms"`
	FetchMaxBytes       int32         `koanf:"fetch.max.bytes"`
	FetchSessions       int           `koanf:"max.incremental.fetch.session.cache.slots"`
	PartitionsPerPage   int           `koanf:"max.request.partition.size.limit"`
	RequestTimeout      time.Duration `koanf:"request.timeout.ms"`
}

// Topics says how topics come to be.
type Topics struct {
	AutoCreate        bool  `koanf:"auto.create.topics.enable"`
	DeleteEnable      bool  `koanf:"delete.topic.enable"`
	NumPartitions     int32 `koanf:"num.partitions"`
	ReplicationFactor int16 `koanf:"default.replication.factor"`
}

// Log paces the work on local logs. The logs' own settings are topics'.
type Log struct {
	RetentionCheck  time.Duration `koanf:"log.retention.check.interval.ms"`
	CleanerEnable   bool          `koanf:"log.cleaner.enable"`
	CleanerThreads  int           `koanf:"log.cleaner.threads"`
	CleanerBackoff  time.Duration `koanf:"log.cleaner.backoff.ms"`
	RecoveryThreads int           `koanf:"num.recovery.threads.per.data.dir"`
}

// Groups bounds groups, offsets, transactions and producers.
type Groups struct {
	InitialRebalanceDelay time.Duration `koanf:"group.initial.rebalance.delay.ms"`
	MinSessionTimeout     time.Duration `koanf:"group.min.session.timeout.ms"`
	MaxSessionTimeout     time.Duration `koanf:"group.max.session.timeout.ms"`
	GroupMaxSize          int           `koanf:"group.max.size"`

	OffsetMetadataMaxBytes   int           `koanf:"offset.metadata.max.bytes"`
	OffsetsRetentionMinutes  int           `koanf:"offsets.retention.minutes"`
	OffsetsRetentionCheck    time.Duration `koanf:"offsets.retention.check.interval.ms"`
	OffsetsPartitions        int32         `koanf:"offsets.topic.num.partitions"`
	OffsetsReplicationFactor int16         `koanf:"offsets.topic.replication.factor"`
	OffsetsSegmentBytes      int64         `koanf:"offsets.topic.segment.bytes"`
	OffsetsCommitTimeout     time.Duration `koanf:"offsets.commit.timeout.ms"`
	OffsetsLoadBufferBytes   int           `koanf:"offsets.load.buffer.size"`

	TxnMaxTimeout        time.Duration `koanf:"transaction.max.timeout.ms"`
	TxnIDExpiration      time.Duration `koanf:"transactional.id.expiration.ms"`
	TxnPartitions        int32         `koanf:"transaction.state.log.num.partitions"`
	TxnReplicationFactor int16         `koanf:"transaction.state.log.replication.factor"`
	TxnMinISR            int           `koanf:"transaction.state.log.min.isr"`
	TxnSegmentBytes      int64         `koanf:"transaction.state.log.segment.bytes"`
	ProducerIDExpiration time.Duration `koanf:"producer.id.expiration.ms"`
}

// Tier says where sealed segments go and what may be spent on it.
type Tier struct {
	// RemoteEnable: the cluster has an object store. Topics still say themselves
	// whether they use it.
	RemoteEnable bool `koanf:"remote.log.storage.system.enable"`
	// StoreURL is never empty when RemoteEnable: fs:// below DataDir by default.
	StoreURL string `koanf:"object.store.url"`
	// Stores are the names that may follow hot in retention.tiers.
	Stores               []string      `koanf:"tier.stores"`
	UploadConcurrency    int           `koanf:"tier.upload.concurrency"`
	UploadTimeout        time.Duration `koanf:"tier.upload.timeout.ms"`
	DeleteGrace          time.Duration `koanf:"tier.delete.grace.ms"`
	ObjectCompression    string        `koanf:"tier.compression.type"` // none or zstd
	TaskInterval         time.Duration `koanf:"remote.log.manager.task.interval.ms"`
	UploadBytesPerSecond int64         `koanf:"remote.log.manager.copy.max.bytes.per.second"`
	ReadBytesPerSecond   int64         `koanf:"remote.log.manager.fetch.max.bytes.per.second"`
	ReaderConcurrency    int           `koanf:"remote.log.reader.threads"`
	FetchMaxWait         time.Duration `koanf:"remote.fetch.max.wait.ms"`
	ListOffsetsTimeout   time.Duration `koanf:"remote.list.offsets.request.timeout.ms"`
	CacheMemoryBytes     int64         `koanf:"cache.memory.bytes"`
	CacheDiskBytes       int64         `koanf:"cache.disk.bytes"` // 0: memory only
	// CacheDir is never empty: below DataDir by default.
	CacheDir string `koanf:"cache.dir"`
}

// The profiles: which embedded defaults apply.
const (
	ProfileServe = "serve"
	ProfileDev   = "dev"
)

// devDefaults are what firn dev runs with: one node that answers at once, tiers
// its topics into a directory, and lets a gigabyte be seen leaving the disk.
var devDefaults = map[string]string{
	"profile":                          ProfileDev,
	"data.dir":                         "firn-data",
	"listeners":                        "PLAINTEXT://127.0.0.1:9092",
	"admin.address":                    "127.0.0.1:9644",
	"bootstrap.expect":                 "1",
	"cluster.listen":                   "",
	"gossip.listen":                    "",
	"group.initial.rebalance.delay.ms": "0",
	"offsets.topic.replication.factor": "1",
	"transaction.state.log.replication.factor": "1",
	"transaction.state.log.min.isr":            "1",
	"log.remote.storage.enable":                "true",
	"log.segment.bytes":                        "134217728",
	"log.local.retention.bytes":                "1073741824",
	"log.retention.check.interval.ms":          "10000",
	"remote.log.manager.task.interval.ms":      "1000",
	"tier.delete.grace.ms":                     "60000",
	"cache.disk.bytes":                         "1073741824",
}

// Dev is the dev profile as embedded, nothing else set. Its data directory is
// "firn-data" below the working directory.
func Dev() Config { return mustDefaults(ProfileDev) }

// Default is the serve profile as embedded, nothing else set.
func Default() Config { return mustDefaults(ProfileServe) }

func mustDefaults(profile string) Config {
	c, err := Load(Source{Profile: profile})
	if err != nil {
		panic("config: the embedded defaults are wrong: " + err.Error())
	}
	return c
}

// derive fills what follows from other settings.
func (c *Config) derive() {
	if c.StoreURL == "" && c.RemoteEnable {
		c.StoreURL = "fs://" + filepath.ToSlash(filepath.Join(c.DataDir, "objects"))
	}
	if c.CacheDir == "" {
		c.CacheDir = filepath.Join(c.DataDir, "cache")
	}
	if c.InterBrokerListener == "" && len(c.Listeners) > 0 {
		c.InterBrokerListener = c.Listeners[0].Name
	}
}
