package commitlog

import (
	"log/slog"
	"math"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

// Options says where a log is and what it works with.
type Options struct {
	// FS is the file system; vfs.Default when nil.
	FS vfs.FS
	// Dir is the log's own directory, made if missing. Required.
	Dir string
	// Flusher syncs the log; one per data directory. Required.
	Flusher *Flusher
	// FDs is the cache of descriptors, shared by the logs of a data directory.
	// Required.
	FDs *segment.FDCache
	// Config holds the topic's settings; zero fields take Kafka's defaults.
	Config Config
	// InitialOffset is where a log that does not exist yet begins.
	InitialOffset record.Offset
	// OnFlushed is called with each new FlushedEnd, in order and without any
	// lock, by the flusher. It may be called before Open has returned (a
	// recovered tail is synced at once). It must return soon and must not call
	// what changes files or waits for it: TruncateTo, ResetTo, TrimTo, Compact,
	// Flush, Close. Optional.
	OnFlushed func(end record.Offset)
	// Untrusted says that an fsync failed in the last run (Dir.Untrusted): the
	// page cache is dropped for the tail before it is read back, so that only
	// what reached the disk is kept.
	Untrusted bool
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// Config holds the settings of a topic that a log obeys. It may change at run
// time by SetConfig.
type Config struct {
	// SegmentBytes is the size at which the active segment is sealed
	// (segment.bytes). Default 1 GiB, at most 2 GiB - 1.
	SegmentBytes int64
	// SegmentAge is the time after its first append at which the active
	// segment is sealed (segment.ms). Default 7 days.
	SegmentAge time.Duration
	// IndexIntervalBytes is the distance of index entries
	// (index.interval.bytes). Default 4096.
	IndexIntervalBytes int64
	// IndexBytes bounds a segment's offset index (segment.index.bytes).
	// Default 10 MiB.
	IndexBytes int64
	// Lazy leaves data to the page cache (durability=replicated): it is synced
	// only for the recovery checkpoint. Otherwise it is synced as soon as it is
	// appended.
	Lazy bool
	// ProducerExpiration is how long an idle producer is remembered
	// (producer.id.expiration.ms). Default 1 day.
	ProducerExpiration time.Duration
	// Compact cleans old values of keys (cleanup.policy contains compact).
	Compact bool
	// MinCleanableRatio is the share of uncleaned bytes at which compaction
	// pays (min.cleanable.dirty.ratio). Default 0.5; negative means 0.
	MinCleanableRatio float64
	// MinCompactionLag keeps records this young from being compacted
	// (min.compaction.lag.ms). Default 0.
	MinCompactionLag time.Duration
	// MaxCompactionLag is the age at which a record is compacted whatever the
	// ratio (max.compaction.lag.ms). Default: never.
	MaxCompactionLag time.Duration
	// DeleteRetention is how long tombstones stay readable after they were
	// first cleaned (delete.retention.ms). Default 1 day; negative means 0.
	DeleteRetention time.Duration
}

const (
	maxSegmentBytes = math.MaxInt32
	defaultSegment  = 1 << 30
)

func (c Config) withDefaults() Config {
	if c.SegmentBytes <= 0 {
		c.SegmentBytes = defaultSegment
	}
	c.SegmentBytes = min(c.SegmentBytes, maxSegmentBytes)
	if c.SegmentAge <= 0 {
		c.SegmentAge = 7 * 24 * time.Hour
	}
	if c.IndexIntervalBytes <= 0 {
		c.IndexIntervalBytes = 4096
	}
	if c.IndexBytes <= 0 {
		c.IndexBytes = 10 << 20
	}
	if c.ProducerExpiration <= 0 {
		c.ProducerExpiration = 24 * time.Hour
	}
	switch {
	case c.MinCleanableRatio < 0:
		c.MinCleanableRatio = 0
	case c.MinCleanableRatio == 0:
		c.MinCleanableRatio = 0.5
	}
	if c.MaxCompactionLag <= 0 {
		c.MaxCompactionLag = math.MaxInt64
	}
	switch {
	case c.DeleteRetention < 0:
		c.DeleteRetention = 0
	case c.DeleteRetention == 0:
		c.DeleteRetention = 24 * time.Hour
	}
	return c
}
