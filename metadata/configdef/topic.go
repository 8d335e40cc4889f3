package configdef

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"
)

// TopicConfig is what a topic's overrides and the broker's defaults amount to.
// Sizes are bytes, times are ms; names and meanings are Kafka's.
//
// INVARIANT: LocalRetentionMs and LocalRetentionBytes are never -2, and never
// more than the total where the total has a bound.
type TopicConfig struct {
	// CleanupDelete and CleanupCompact are the two halves of cleanup.policy.
	CleanupDelete, CleanupCompact bool
	// CompressionType is producer, uncompressed, gzip, snappy, lz4 or zstd.
	CompressionType                string
	GzipLevel, Lz4Level, ZstdLevel int
	DeleteRetentionMs              int64
	FileDeleteDelayMs              int64
	FlushMs                        int64
	IndexIntervalBytes             int
	SegmentIndexBytes              int
	MaxMessageBytes                int
	MinCompactionLagMs             int64
	MaxCompactionLagMs             int64
	MinCleanableDirtyRatio         float64
	LogAppendTime                  bool
	TimestampBeforeMaxMs           int64
	TimestampAfterMaxMs            int64
	MinInsyncReplicas              int
	UncleanLeaderElection          bool
	SegmentBytes                   int64
	SegmentMs                      int64
	SegmentJitterMs                int64
	// RetentionMs and RetentionBytes bound all tiers together; -1 is unlimited.
	RetentionMs, RetentionBytes int64
	// LocalRetentionMs and LocalRetentionBytes bound what stays on disk once it
	// is copied; -1 is unlimited. On a topic that is not tiered they equal the total.
	LocalRetentionMs, LocalRetentionBytes int64
	// RemoteCopyLagMs and RemoteCopyLagBytes hold copies back, see CopyDue; 0 does
	// not, -1 switches the check off. On tiered topics neither exceeds the local retention.
	RemoteCopyLagMs, RemoteCopyLagBytes int64
	// MaxDecompressedBytes bounds one record of a compressed batch.
	MaxDecompressedBytes int
	// DeadLetters: share groups may write what they gave up into the topic.
	DeadLetters bool
	// RemoteStorage: sealed segments are copied, unless RemoteCopyDisable.
	RemoteStorage, RemoteCopyDisable, RemoteDeleteOnDisable bool
	// Tiers is retention.tiers as it was set, else nil. Ladder derives one.
	Tiers Ladder
	// Fsync: a record counts once flushed (durability=fsync or flush.messages=1);
	// else once in the page cache of the in-sync replicas.
	Fsync bool
	// HeaderOnly: produced batches are not walked record by record.
	HeaderOnly                                 bool
	LeaderThrottledReplicas, FollowerThrottled []string
}

// Duration is ms as a time.Duration; what overflows becomes the longest one.
func Duration(ms int64) time.Duration {
	if ms > math.MaxInt64/int64(time.Millisecond) {
		return math.MaxInt64
	}
	return time.Duration(ms) * time.Millisecond
}

// Ladder is the topic's tier ladder in words: retention.tiers if set, else what
// the Kafka settings say. The object store's rung is called warm then, and may
// have the same age as hot: ParseTiers would not take that, since it asks for
// nothing but a copy, but bounds by size or the defaults amount to it.
func (c *TopicConfig) Ladder() Ladder {
	switch {
	case c.Tiers != nil:
		return c.Tiers
	case c.RemoteStorage:
		return Ladder{{Tier: HotTier, UntilMs: c.LocalRetentionMs}, {Tier: "warm", UntilMs: c.RetentionMs}}
	}
	return Ladder{{Tier: HotTier, UntilMs: c.RetentionMs}}
}

// CopyDue says whether a sealed segment may be copied to the object store: its
// newest record is ageMs old, and newerBytes of local log lie behind it. Either
// check is enough (KIP-1241).
func (c *TopicConfig) CopyDue(ageMs, newerBytes int64) bool {
	return (c.RemoteCopyLagMs >= 0 && ageMs >= c.RemoteCopyLagMs) || (c.RemoteCopyLagBytes >= 0 && newerBytes >= c.RemoteCopyLagBytes)
}

// ValidateTopicOverride checks one override by itself. The error is an *[Error]
// worded like Kafka's.
func ValidateTopicOverride(name, value string) error {
	k, ok := topicTable.byName[name]
	if !ok {
		return unknownTopicConfig(name)
	}
	_, err := k.Normalize(value)
	return err
}

func unknownTopicConfig(name string) *Error {
	return &Error{Name: name, Message: "Unknown topic config name: " + name}
}

// resolved is every topic setting's text, with which of them the topic sets itself.
type resolved struct {
	values   map[string]string
	explicit map[string]bool
	errs     Errors
}

func (r *resolved) fail(name, format string, args ...any) {
	r.errs = append(r.errs, &Error{Name: name, Message: fmt.Sprintf(format, args...)})
}

func (r *resolved) int(name string) int64 {
	n, err := strconv.ParseInt(r.values[name], 10, 64)
	if err != nil {
		panic("configdef: not a number after Normalize: " + name) // the table's fault, not the user's
	}
	return n
}

func (r *resolved) bool(name string) bool { return r.values[name] == "true" }

func resolve(overrides, brokerSet map[string]string) *resolved {
	r := &resolved{values: make(map[string]string, len(topicTable.sorted)), explicit: make(map[string]bool, len(overrides))}
	for _, name := range slices.Sorted(maps.Keys(overrides)) {
		if _, known := topicTable.byName[name]; !known {
			r.errs = append(r.errs, unknownTopicConfig(name))
		}
	}
	for _, k := range topicTable.sorted {
		value, err := k.inherited(brokerSet)
		if override, ok := overrides[k.Name]; ok {
			var own string
			if own, err = k.Normalize(override); err == nil {
				value, r.explicit[k.Name] = own, true
			}
		}
		if err != nil {
			r.fail(k.Name, "%s", err.Error())
		}
		r.values[k.Name] = value
	}
	return r
}

// ParseTopic combines a topic's overrides with what the broker sets
// ([Layers.Flat]) and the defaults. It checks each value and the rules between
// them, and returns all mistakes as [Errors].
//
// The config is never nil: on error the settings at fault have their inherited
// values, so that a node that meets a bad value in its metadata can say so and
// go on serving.
func ParseTopic(overrides, brokerSet map[string]string) (*TopicConfig, error) {
	r := resolve(overrides, brokerSet)
	tiers := r.applyTiers(brokerSet)
	fsync := r.durability()
	r.checkCompactionLag()
	r.inheritRemote()
	if r.bool(RemoteStorage) {
		r.checkRemoteSystem(brokerSet)
	}
	localMs := r.local(LocalRetentionMs, RetentionMs)
	localBytes := r.local(LocalRetentionB, RetentionBytes)
	lagMs, lagBytes := r.copyLag(RemoteCopyLagMs, LocalRetentionMs, localMs), r.copyLag(RemoteCopyLagB, LocalRetentionB, localBytes)

	policy := SplitList(r.values[CleanupPolicy])
	ratio, err := strconv.ParseFloat(r.values["min.cleanable.dirty.ratio"], 64)
	if err != nil {
		panic("configdef: not a number after Normalize: min.cleanable.dirty.ratio")
	}
	c := &TopicConfig{
		CleanupDelete:           slices.Contains(policy, "delete"),
		CleanupCompact:          slices.Contains(policy, "compact"),
		CompressionType:         r.values[CompressionType],
		GzipLevel:               int(r.int("compression.gzip.level")),
		Lz4Level:                int(r.int("compression.lz4.level")),
		ZstdLevel:               int(r.int("compression.zstd.level")),
		DeleteRetentionMs:       r.int("delete.retention.ms"),
		FileDeleteDelayMs:       r.int("file.delete.delay.ms"),
		FlushMs:                 r.int("flush.ms"),
		IndexIntervalBytes:      int(r.int("index.interval.bytes")),
		SegmentIndexBytes:       int(r.int("segment.index.bytes")),
		MaxMessageBytes:         int(r.int(MaxMessageBytes)),
		MinCompactionLagMs:      r.int(MinCompactionLagMs),
		MaxCompactionLagMs:      r.int(MaxCompactionLagMs),
		MinCleanableDirtyRatio:  ratio,
		LogAppendTime:           r.values["message.timestamp.type"] == "LogAppendTime",
		TimestampBeforeMaxMs:    r.int("message.timestamp.before.max.ms"),
		TimestampAfterMaxMs:     r.int("message.timestamp.after.max.ms"),
		MinInsyncReplicas:       int(r.int(MinInsyncReplicas)),
		UncleanLeaderElection:   r.bool("unclean.leader.election.enable"),
		SegmentBytes:            r.int(SegmentBytes),
		SegmentMs:               r.int(SegmentMs),
		SegmentJitterMs:         r.int("segment.jitter.ms"),
		RetentionMs:             r.int(RetentionMs),
		RetentionBytes:          max(r.int(RetentionBytes), -1),
		LocalRetentionMs:        localMs,
		LocalRetentionBytes:     localBytes,
		RemoteCopyLagMs:         lagMs,
		RemoteCopyLagBytes:      lagBytes,
		MaxDecompressedBytes:    int(r.int(MaxDecompressedBytes)),
		DeadLetters:             r.bool("errors.deadletterqueue.group.enable"),
		RemoteStorage:           r.bool(RemoteStorage),
		RemoteCopyDisable:       r.bool(RemoteCopyDisable),
		RemoteDeleteOnDisable:   r.bool(RemoteDeleteOnOff),
		Tiers:                   tiers,
		Fsync:                   fsync,
		HeaderOnly:              r.values[ValidationName] == "header",
		LeaderThrottledReplicas: SplitList(r.values["leader.replication.throttled.replicas"]),
		FollowerThrottled:       SplitList(r.values["follower.replication.throttled.replicas"]),
	}
	return c, r.errs.orNil()
}

// ValidateNewTopic checks the settings of a topic that is to be made; brokerSet
// is [Layers.Flat].
func ValidateNewTopic(overrides, brokerSet map[string]string) error {
	_, err := ParseTopic(overrides, brokerSet)
	return err
}

// ValidateTopicChange checks the overrides that a topic would have, against
// those that it has now; brokerSet is [Layers.Flat].
func ValidateTopicChange(existing, proposed, brokerSet map[string]string) error {
	next, err := ParseTopic(proposed, brokerSet)
	if err != nil {
		return err
	}
	if next.RemoteStorage || next.RemoteDeleteOnDisable {
		return nil
	}
	if _, said := proposed[RemoteStorage]; !said && inheritsRemote(brokerSet) {
		// The broker's default tiers what is not compacted, and this topic is to be
		// compacted: nobody disabled anything, and what was copied stays readable.
		return nil
	}
	// What is stored already may break today's rules; only its tiering matters here.
	if now, _ := ParseTopic(existing, brokerSet); now.RemoteStorage {
		return &Error{Name: RemoteStorage, Message: "It is invalid to disable remote storage without deleting remote data. " +
			"If you want to keep the remote data and turn to read only, please set `remote.storage.enable=true,remote.log.copy.disable=true`. " +
			"If you want to disable remote storage and delete all remote data, please set `remote.storage.enable=false,remote.log.delete.on.disable=true`."}
	}
	return nil
}

// inheritsRemote tells whether the broker's default is to tier topics.
func inheritsRemote(brokerSet map[string]string) bool {
	text, err := topicTable.byName[RemoteStorage].inherited(brokerSet)
	return err == nil && text == "true"
}
