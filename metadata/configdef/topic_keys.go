package configdef

import (
	"errors"
	"regexp"
)

// maxLong is how Kafka writes "never" in settings without -1.
const maxLong = "9223372036854775807"

// Names of topic settings that code refers to.
const (
	CleanupPolicy        = "cleanup.policy"
	MaxDecompressedBytes = "max.decompressed.message.bytes"
	RemoteCopyLagMs      = "remote.copy.lag.ms"
	RemoteCopyLagB       = "remote.copy.lag.bytes"
	CompressionType      = "compression.type"
	FlushMessages        = "flush.messages"
	LocalRetentionMs     = "local.retention.ms"
	LocalRetentionB      = "local.retention.bytes"
	MaxMessageBytes      = "max.message.bytes"
	MinInsyncReplicas    = "min.insync.replicas"
	RemoteStorage        = "remote.storage.enable"
	RemoteCopyDisable    = "remote.log.copy.disable"
	RemoteDeleteOnOff    = "remote.log.delete.on.disable"
	RetentionMs          = "retention.ms"
	RetentionBytes       = "retention.bytes"
	SegmentBytes         = "segment.bytes"
	SegmentMs            = "segment.ms"
	MinCompactionLagMs   = "min.compaction.lag.ms"
	MaxCompactionLagMs   = "max.compaction.lag.ms"
	DurabilityName       = "durability"
	ValidationName       = "record.validation"
	RetentionTiers       = "retention.tiers"
)

// MinSegmentBytes is the smallest segment.bytes (Kafka 4.0 and newer).
const MinSegmentBytes = 1 << 20

// throttled is "*" or a list of partition:replica, as replication throttles take it.
var throttled = regexp.MustCompile(`^(|\*|[0-9]+:[0-9]+(,[0-9]+:[0-9]+)*)$`)

func throttledReplicas(value string) error {
	if !throttled.MatchString(value) {
		//nolint:staticcheck // Kafka's wording, dots included
		return errors.New("must be the literal '*' or a list of replicas in the following format: [partitionId]:[brokerId],[partitionId]:[brokerId],...")
	}
	return nil
}

func validTiers(value string) error {
	if value == "" {
		return nil
	}
	_, err := ParseTiers(value)
	return err
}

var topicTable = newTable(
	list(CleanupPolicy, "delete", "What happens to old data: delete drops segments past retention, compact keeps the newest value of each key, both together do both, empty keeps everything. Unlike Kafka, Firn allows compact together with remote.storage.enable.").
		in("compact", "delete").from("log.cleanup.policy"),
	text(CompressionType, "producer", "The codec that batches are stored with. producer keeps them as they came; any other makes the broker recompress batches of another codec.").
		in("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer").from("compression.type"),
	integer("compression.gzip.level", "-1", "The gzip level when compression.type is gzip; -1 is the codec's default.").
		between(1, 9).or(-1).from("compression.gzip.level"),
	integer("compression.lz4.level", "9", "The lz4 level when compression.type is lz4.").
		between(1, 17).from("compression.lz4.level"),
	integer("compression.zstd.level", "3", "The zstd level when compression.type is zstd.").
		between(-131072, 22).from("compression.zstd.level"),
	long("delete.retention.ms", "86400000", "How long, in ms, delete markers of a compacted topic stay readable after compaction could drop them.").
		atLeast(0).from("log.cleaner.delete.retention.ms"),
	long("file.delete.delay.ms", "60000", "How long, in ms, a deleted segment's file stays on disk.").
		atLeast(0).from("log.segment.delete.delay.ms"),
	long(FlushMessages, maxLong, "Flush to disk after so many records. Firn flushes in groups: 1 means the same as durability=fsync, any other value leaves the choice to durability.").
		atLeast(1).from("log.flush.interval.messages"),
	long("flush.ms", maxLong, "Flush to disk at the latest after so many ms, on topics with durability=replicated.").
		atLeast(0).from("log.flush.interval.ms", "log.flush.scheduler.interval.ms"),
	list("follower.replication.throttled.replicas", "", "Replicas whose replication is throttled on the follower's side: partition:broker pairs, or * for all.").
		checked(throttledReplicas),
	list("leader.replication.throttled.replicas", "", "Replicas whose replication is throttled on the leader's side: partition:broker pairs, or * for all.").
		checked(throttledReplicas),
	boolean("errors.deadletterqueue.group.enable", "false", "Whether share groups may write records that they gave up into this topic (KIP-1191)."),
	integer("index.interval.bytes", "4096", "Bytes of log between two entries of a sparse index.").
		atLeast(0).from("log.index.interval.bytes"),
	long(LocalRetentionB, "-2", "Bytes of a tiered partition that stay on local disk once copied; -2 is the value of retention.bytes, -1 unlimited.").
		atLeast(-2).from("log.local.retention.bytes"),
	long(LocalRetentionMs, "-2", "How long, in ms, a tiered partition's segments stay on local disk once copied; -2 is the value of retention.ms, -1 unlimited.").
		atLeast(-2).from("log.local.retention.ms"),
	long(MaxCompactionLagMs, maxLong, "The longest time, in ms, that a record may wait for compaction.").
		atLeast(1).from("log.cleaner.max.compaction.lag.ms"),
	integer(MaxDecompressedBytes, "2147483639", "The largest record, in bytes, that a compressed batch may hold once decompressed.").
		between(1, 2147483639).from("max.decompressed.message.bytes"),
	integer(MaxMessageBytes, "1048588", "The largest batch, in bytes, compressed and with its 12-byte prefix.").
		atLeast(0).from("message.max.bytes"),
	long("message.timestamp.after.max.ms", "3600000", "How far, in ms, a record's timestamp may lie after the broker's clock. CreateTime only.").
		atLeast(0).from("log.message.timestamp.after.max.ms"),
	long("message.timestamp.before.max.ms", maxLong, "How far, in ms, a record's timestamp may lie before the broker's clock. CreateTime only.").
		atLeast(0).from("log.message.timestamp.before.max.ms"),
	text("message.timestamp.type", "CreateTime", "Whose clock stamps records: the producer's (CreateTime) or the broker's (LogAppendTime).").
		in("CreateTime", "LogAppendTime").from("log.message.timestamp.type"),
	double("min.cleanable.dirty.ratio", "0.5", "The share of a compacted log that must be uncleaned before compaction begins.").
		between(0, 1).from("log.cleaner.min.cleanable.ratio"),
	long(MinCompactionLagMs, "0", "The shortest time, in ms, that a record stays uncompacted.").
		atLeast(0).from("log.cleaner.min.compaction.lag.ms"),
	integer(MinInsyncReplicas, "1", "How many replicas must hold a record before acks=all is answered; also what the high watermark waits for. Unset anywhere: 2 of three replicas or more, else 1; never more than there are replicas.").
		atLeast(1).from("min.insync.replicas"),
	boolean("preallocate", "false", "Whether a new segment's file is allocated at full size. Accepted; Firn's segments grow as they are written.").
		from("log.preallocate"),
	boolean(RemoteStorage, "false", "Whether sealed segments are copied to the object store. The broker's default comes from log.remote.storage.enable, which Kafka does not have.").
		from("log.remote.storage.enable"),
	long(RemoteCopyLagB, "-1", "A sealed segment is copied once so many bytes of newer data lie behind it locally, or once remote.copy.lag.ms says so; 0 is at once, -1 is the local retention.").
		atLeast(-1).from("log.remote.copy.lag.bytes"),
	long(RemoteCopyLagMs, "0", "A sealed segment is copied once its newest record is so many ms old, or once remote.copy.lag.bytes says so; 0 is at once, -1 is the local retention.").
		atLeast(-1).from("log.remote.copy.lag.ms"),
	boolean(RemoteCopyDisable, "false", "Stops copying to the object store; what is there stays readable and expires by retention."),
	boolean(RemoteDeleteOnOff, "false", "Allows remote.storage.enable to be switched off: the topic's remote data is deleted then."),
	long(RetentionBytes, "-1", "Bytes that a partition keeps in all tiers together; -1 is unlimited.").
		from("log.retention.bytes"),
	long(RetentionMs, "604800000", "How long, in ms, records are kept in all tiers together; -1 is unlimited.").
		atLeast(-1).from("log.retention.ms").minutes("log.retention.minutes").hours("log.retention.hours"),
	integer(SegmentBytes, "1073741824", "The size, in bytes, at which a segment is sealed. What is sealed can move to the object store.").
		atLeast(MinSegmentBytes).from("log.segment.bytes"),
	integer("segment.index.bytes", "10485760", "The largest size, in bytes, of a segment's index.").
		atLeast(4).from("log.index.size.max.bytes"),
	long("segment.jitter.ms", "0", "The largest random time, in ms, taken off segment.ms so that not all segments roll at once.").
		atLeast(0).from("log.roll.jitter.ms").hours("log.roll.jitter.hours"),
	long(SegmentMs, "604800000", "The age, in ms, at which a segment is sealed even when it is not full.").
		atLeast(1).from("log.roll.ms").hours("log.roll.hours"),
	boolean("unclean.leader.election.enable", "false", "Whether a replica outside the in-sync set may lead when no other is left, losing records.").
		from("unclean.leader.election.enable"),

	text(DurabilityName, "fsync", "When a record counts as written: fsync once it is flushed to disk, replicated once it is in the page cache of the in-sync replicas (Kafka's way).").
		in("fsync", "replicated").own().from("log.durability"),
	text(ValidationName, "full", "What of a produced batch is checked: full walks its records, decompressing them under bounds; header checks length and CRC only and trusts the producer with the rest.").
		in("full", "header").own().from("log.record.validation"),
	text(RetentionTiers, "", "The tier ladder, as tier:age pairs: hot:1d,warm:30d keeps records on local disk for a day and in the object store until they are 30 days old. Says the same as local.retention.ms, retention.ms and remote.storage.enable.").
		own().checked(validTiers),
)
