package group

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/firnlog/firn/record"
)

// Config holds the coordinator's settings. Each field names the Kafka broker
// config it carries. Start from [DefaultConfig]: zero is a legal value for
// some of them.
type Config struct {
	// MinSessionTimeout is group.min.session.timeout.ms (6 s).
	MinSessionTimeout time.Duration
	// MaxSessionTimeout is group.max.session.timeout.ms (30 min).
	MaxSessionTimeout time.Duration
	// InitialRebalanceDelay is group.initial.rebalance.delay.ms (3 s): how long
	// an empty group waits for more members before its first generation. 0
	// starts it at once.
	InitialRebalanceDelay time.Duration
	// MaxSize is group.max.size (no limit): members a group may have.
	MaxSize int
	// OffsetsRetention is offsets.retention.minutes (7 days): how long offsets
	// outlive their group becoming empty, or, without members, their commit.
	OffsetsRetention time.Duration
	// OffsetsRetentionCheckInterval is offsets.retention.check.interval.ms
	// (10 min).
	OffsetsRetentionCheckInterval time.Duration
	// OffsetMetadataMaxSize is offset.metadata.max.bytes (4096). Like Kafka it
	// counts UTF-16 units, not bytes.
	OffsetMetadataMaxSize int
	// OffsetCommitTimeout is offset.commit.timeout.ms (5 s): a commit whose
	// record is not in the log by then is answered COORDINATOR_NOT_AVAILABLE.
	OffsetCommitTimeout time.Duration
	// Compression is offsets.topic.compression.codec (none).
	Compression record.Codec
	// MaxBatchBytes bounds one batch appended to the offsets topic, in bytes
	// before compression (1048588, Kafka's max.message.bytes). One commit or
	// one group's metadata must fit.
	MaxBatchBytes int
	// LoadParallelism bounds how many partitions load at the same time (4).
	LoadParallelism int
}

// DefaultConfig returns Kafka's defaults.
func DefaultConfig() Config {
	return Config{
		MinSessionTimeout:             6 * time.Second,
		MaxSessionTimeout:             30 * time.Minute,
		InitialRebalanceDelay:         3 * time.Second,
		MaxSize:                       math.MaxInt32,
		OffsetsRetention:              7 * 24 * time.Hour,
		OffsetsRetentionCheckInterval: 10 * time.Minute,
		OffsetMetadataMaxSize:         4096,
		OffsetCommitTimeout:           5 * time.Second,
		Compression:                   record.CodecNone,
		MaxBatchBytes:                 1048588,
		LoadParallelism:               4,
	}
}

// Validate reports every setting that is out of range.
func (c *Config) Validate() error {
	var errs []error
	need := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	need(c.MinSessionTimeout > 0, "group.min.session.timeout.ms: got %v, want above 0", c.MinSessionTimeout)
	need(c.MaxSessionTimeout >= c.MinSessionTimeout, "group.max.session.timeout.ms: got %v, want at least group.min.session.timeout.ms (%v)", c.MaxSessionTimeout, c.MinSessionTimeout)
	need(c.InitialRebalanceDelay >= 0, "group.initial.rebalance.delay.ms: got %v, want 0 or more", c.InitialRebalanceDelay)
	need(c.MaxSize >= 1, "group.max.size: got %d, want 1 or more", c.MaxSize)
	need(c.OffsetsRetention > 0, "offsets.retention.minutes: got %v, want above 0", c.OffsetsRetention)
	need(c.OffsetsRetentionCheckInterval > 0, "offsets.retention.check.interval.ms: got %v, want above 0", c.OffsetsRetentionCheckInterval)
	need(c.OffsetMetadataMaxSize >= 0, "offset.metadata.max.bytes: got %d, want 0 or more", c.OffsetMetadataMaxSize)
	need(c.OffsetCommitTimeout > 0, "offset.commit.timeout.ms: got %v, want above 0", c.OffsetCommitTimeout)
	need(c.MaxBatchBytes >= 1024, "max batch bytes of the offsets topic: got %d, want 1024 or more", c.MaxBatchBytes)
	need(c.LoadParallelism >= 1, "parallel loads of offsets partitions: got %d, want 1 or more", c.LoadParallelism)
	return errors.Join(errs...)
}
