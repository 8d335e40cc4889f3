package configdef

import (
	"errors"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
)

// Names of broker settings that code refers to.
const (
	RemoteSystemEnable = "remote.log.storage.system.enable"
	TierStores         = "tier.stores"
	// ObjectStore is set by the brokers themselves.
	ObjectStore = "object.store"
)

var tierName = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

func validTierStores(value string) error {
	for _, name := range SplitList(value) {
		if !tierName.MatchString(name) || name == HotTier {
			return errors.New("a tier's name is lower-case letters, digits and '-', beginning with a letter, and not 'hot', which is the local disk")
		}
	}
	return nil
}

func validHostPort(value string) error {
	if value == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(value)
	if err != nil {
		return errors.New("expected HOST:PORT, such as 127.0.0.1:9644")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return errors.New("expected a port from 0 to 65535")
	}
	return nil
}

func validHTTPURL(value string) error {
	if value == "" {
		return nil
	}
	u, err := url.Parse(value)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return errors.New("expected an http:// or https:// address")
	}
	return nil
}

const maxInt = "2147483647"

var brokerTable = newTable(slices.Concat(
	nodeKeys(), clusterKeys(), topicDefaultKeys(), socketKeys(), coordinatorKeys(), tierKeys())...)

// nodeKeys say who this node is and how it runs.
func nodeKeys() []*Key {
	return []*Key{
		integer("node.id", "1", "This node's id, unique in the cluster.").atLeast(0).alias("broker.id"),
		integer("broker.id", "1", "Another name for node.id.").atLeast(0).alias("node.id"),
		text("broker.rack", "", "The rack or zone of this node; replicas are spread over racks.").null(),
		text("cluster.id", "", "The cluster's id when its first node starts: 22 characters of base64url, or empty to make one.").own(),
		integer("bootstrap.expect", "3", "How many nodes begin the cluster together. 1 in the dev profile.").between(1, 7).own(),
		text("data.dir", "/var/lib/firn", "The directory of this node's data.").own().alias("log.dirs", "log.dir"),
		list("log.dirs", "/var/lib/firn", "Kafka's name for data.dir. Firn takes one directory.").alias("data.dir", "log.dir"),
		list("log.dir", "/var/lib/firn", "Kafka's other name for data.dir.").alias("data.dir", "log.dirs"),
		text("admin.address", "127.0.0.1:9644", "HOST:PORT of the admin HTTP server: health, metrics, tier status, pprof. It serves 256 connections at a time, drops those that say nothing for 2 minutes, and answers that are not read on for 30 s. Empty switches it off.").own().checked(validHostPort),
		text("log.level", "info", "The least severe level that is logged.").in("debug", "info", "warn", "error").own(),
		text("log.format", "text", "The form of log lines.").in("text", "json").own(),
		text("pyroscope.address", "", "Where profiles are sent, as http://HOST:PORT. Empty sends none.").own().checked(validHTTPURL),
		text("pyroscope.application", "firn", "The application name that profiles are sent under.").own(),
		text("profile", "serve", "Which embedded defaults apply: serve for production, dev for one node on a developer's machine.").in("serve", "dev").own(),
		long("shutdown.timeout.ms", "30000", "How long, in ms, an orderly shutdown may take.").atLeast(0).own(),

		boolean("auto.create.topics.enable", "true", "Whether a topic is made when a client asks for one that does not exist."),
		boolean("delete.topic.enable", "true", "Whether topics may be deleted."),
		integer("num.partitions", "1", "Partitions of a topic that is made without a number.").atLeast(1),
		integer("default.replication.factor", "1", "Replicas of a topic that is made without a number. Unset: 3, or as many as there are brokers.").atLeast(1),
		long("replica.lag.time.max.ms", "10000", "How long, in ms, a follower may lag before it leaves the in-sync set. Kafka's default is 30000.").atLeast(1),
		integer("replica.fetch.max.bytes", "1048576", "Bytes of one partition that a follower asks for in one fetch.").atLeast(0),
		integer("replica.fetch.min.bytes", "1", "Bytes that a leader waits for before it answers a follower's fetch.").atLeast(1),
		integer("replica.fetch.response.max.bytes", "10485760", "Bytes of all partitions that a follower asks for in one fetch.").atLeast(0),
		integer("replica.fetch.wait.max.ms", "500", "How long, in ms, a leader may hold a follower's fetch."),
		integer("replica.fetch.backoff.ms", "1000", "The longest pause, in ms, before a follower tries a leader or a partition that failed again; it begins at 25.").atLeast(0),
		integer("num.replica.fetchers", "1", "Connections that a follower pulls over from each leader.").atLeast(1),
		text("replica.selector.class", "", "Which replica consumers read from: the leader (also without a value), or with RackAwareReplicaSelector one in the consumer's rack. Kafka's class names.").
			null().in(LeaderSelector, RackAwareSelector),
		throttle("leader.replication.throttled.rate", "leaders of throttled replicas send"),
		throttle("follower.replication.throttled.rate", "followers of throttled replicas fetch"),
		throttle("replica.alter.log.dirs.io.max.bytes.per.second", "replicas move between directories"),
		boolean("auto.leader.rebalance.enable", "true", "Whether leadership returns to the preferred replica."),
		long("leader.imbalance.check.interval.seconds", "300", "Seconds between two returns of leadership to preferred replicas.").atLeast(1),
		boolean("controlled.shutdown.enable", "true", "Whether leaders move away before a node stops."),
		integer("broker.session.timeout.ms", "3000", "How long, in ms, a broker's lease lasts without a heartbeat. Kafka's default is 9000.").atLeast(1),
		integer("broker.heartbeat.interval.ms", "500", "Time, in ms, between a broker's heartbeats. Kafka's default is 2000.").atLeast(1),
		list("process.roles", "broker,controller", "The roles of this process. Every Firn node has both.").in("broker", "controller"),
	}
}

// The values of replica.selector.class (KIP-392).
const (
	LeaderSelector    = "org.apache.kafka.common.replica.LeaderSelector"
	RackAwareSelector = "org.apache.kafka.common.replica.RackAwareReplicaSelector"
)

// throttle is a rate that kafka-reassign-partitions sets for one broker.
func throttle(name, what string) *Key {
	k := long(name, maxLong, "The fastest, in bytes per second, that "+what+".").atLeast(0)
	k.Mode = PerBroker
	return k
}

// topicDefaultKeys give topics their defaults, under Kafka's broker names.
// All may be changed while the broker runs.
func topicDefaultKeys() []*Key {
	keys := []*Key{
		list("log.cleanup.policy", "delete", "Default of cleanup.policy.").in("compact", "delete"),
		text("compression.type", "producer", "Default of the topic setting of this name.").
			in("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"),
		integer("compression.gzip.level", "-1", "Default of the topic setting of this name.").between(1, 9).or(-1),
		integer("compression.lz4.level", "9", "Default of the topic setting of this name.").between(1, 17),
		integer("compression.zstd.level", "3", "Default of the topic setting of this name.").between(-131072, 22),
		long("log.cleaner.delete.retention.ms", "86400000", "Default of delete.retention.ms.").atLeast(0),
		double("log.cleaner.min.cleanable.ratio", "0.5", "Default of min.cleanable.dirty.ratio.").between(0, 1),
		long("log.cleaner.min.compaction.lag.ms", "0", "Default of min.compaction.lag.ms.").atLeast(0),
		long("log.cleaner.max.compaction.lag.ms", maxLong, "Default of max.compaction.lag.ms.").atLeast(1),
		long("log.segment.delete.delay.ms", "60000", "Default of file.delete.delay.ms.").atLeast(0),
		long("log.flush.interval.messages", maxLong, "Default of flush.messages.").atLeast(1),
		long("log.flush.interval.ms", "", "Default of flush.ms; unset, log.flush.scheduler.interval.ms counts.").null().
			from("log.flush.interval.ms", "log.flush.scheduler.interval.ms"),
		long("log.flush.scheduler.interval.ms", maxLong, "Default of flush.ms where log.flush.interval.ms is unset.").
			from("log.flush.interval.ms", "log.flush.scheduler.interval.ms"),
		integer("log.index.interval.bytes", "4096", "Default of index.interval.bytes.").atLeast(0),
		integer("log.index.size.max.bytes", "10485760", "Default of segment.index.bytes.").atLeast(4),
		long("log.local.retention.bytes", "-2", "Default of local.retention.bytes; cut to retention.bytes where that is smaller.").atLeast(-2),
		long("log.local.retention.ms", "-2", "Default of local.retention.ms; cut to retention.ms where that is smaller.").atLeast(-2),
		integer("message.max.bytes", "1048588", "Default of max.message.bytes.").atLeast(0),
		integer("max.decompressed.message.bytes", "2147483639", "Default of the topic setting of this name.").between(1, 2147483639),
		long("log.remote.copy.lag.bytes", "-1", "Default of remote.copy.lag.bytes; cut to the local retention where that is smaller.").atLeast(-1),
		long("log.remote.copy.lag.ms", "0", "Default of remote.copy.lag.ms; cut to the local retention where that is smaller.").atLeast(-1),
		long("log.message.timestamp.after.max.ms", "3600000", "Default of message.timestamp.after.max.ms.").atLeast(0),
		long("log.message.timestamp.before.max.ms", maxLong, "Default of message.timestamp.before.max.ms.").atLeast(0),
		text("log.message.timestamp.type", "CreateTime", "Default of message.timestamp.type.").in("CreateTime", "LogAppendTime"),
		integer("min.insync.replicas", "1", "Default of the topic setting of this name. Unset: 2 for topics of three replicas or more, else 1; shown is what a topic of default.replication.factor gets. The file of the broker that first leads a cluster sets it for all; later a file has no say, an administrator has.").atLeast(1),
		boolean("log.preallocate", "false", "Default of preallocate."),
		long("log.retention.bytes", "-1", "Default of retention.bytes."),
		long("log.retention.ms", "", "Default of retention.ms; unset, log.retention.minutes counts, then log.retention.hours.").null().
			atLeast(-1).from("log.retention.ms", "log.retention.minutes", "log.retention.hours"),
		integer("log.retention.minutes", "", "Default of retention.ms, in minutes.").null().
			atLeast(-1).from("log.retention.ms", "log.retention.minutes", "log.retention.hours"),
		integer("log.retention.hours", "168", "Default of retention.ms, in hours.").
			atLeast(-1).from("log.retention.ms", "log.retention.minutes", "log.retention.hours"),
		integer("log.segment.bytes", "1073741824", "Default of segment.bytes.").atLeast(MinSegmentBytes),
		long("log.roll.ms", "", "Default of segment.ms; unset, log.roll.hours counts.").null().from("log.roll.ms", "log.roll.hours"),
		integer("log.roll.hours", "168", "Default of segment.ms, in hours.").atLeast(1).from("log.roll.ms", "log.roll.hours"),
		long("log.roll.jitter.ms", "", "Default of segment.jitter.ms; unset, log.roll.jitter.hours counts.").null().
			from("log.roll.jitter.ms", "log.roll.jitter.hours"),
		integer("log.roll.jitter.hours", "0", "Default of segment.jitter.ms, in hours.").atLeast(0).
			from("log.roll.jitter.ms", "log.roll.jitter.hours"),
		boolean("unclean.leader.election.enable", "false", "Default of the topic setting of this name."),
		text("log.durability", "fsync", "Default of durability.").in("fsync", "replicated").own(),
		text("log.record.validation", "full", "Default of record.validation.").in("full", "header").own(),
	}
	for _, k := range keys {
		// As in Kafka: of several names for one thing the first is dynamic.
		if k.Synonyms == nil || k.Synonyms[0].Name == k.Name {
			k.Mode = ClusterWide
		}
	}
	return append(keys,
		// Read at start: a topic must not lose its tier because a default changed under it.
		boolean("log.remote.storage.enable", "false", "Default of remote.storage.enable, for topics that are not compacted. To switch it off, set remote.storage.enable=true on the topics that have data in the object store first. True in the dev profile.").own(),
		long("log.retention.check.interval.ms", "300000", "Time, in ms, between two looks for segments past their retention.").atLeast(1),
		boolean("log.cleaner.enable", "true", "Whether compacted topics are compacted."),
		integer("log.cleaner.threads", "1", "How many logs are compacted at a time.").atLeast(1),
		long("log.cleaner.backoff.ms", "15000", "Time, in ms, between two looks for logs to compact.").atLeast(0),
		integer("num.recovery.threads.per.data.dir", "2", "How many logs are opened at a time when the node starts.").atLeast(1),
	)
}

// socketKeys bound what clients may take of the broker.
func socketKeys() []*Key {
	return []*Key{
		list("listeners", "PLAINTEXT://:9092", "Where clients connect: NAME://HOST:PORT, any number, separated by commas. An empty host is every address."),
		list("advertised.listeners", "", "What clients are told to connect to, by listener name: NAME://HOST:PORT. Unset: the listener's own address, or the host's name for an empty host.").null(),
		text("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL", "The security protocol of each listener name."),
		text("inter.broker.listener.name", "", "The listener that brokers use among themselves; unset, the first.").null(),
		integer("socket.request.max.bytes", "104857600", "The largest request, in bytes.").atLeast(1),
		integer("socket.send.buffer.bytes", "-1", "The send buffer of a client's socket, in bytes; -1 leaves it to the system. Kafka's default is 102400.").atLeast(-1),
		integer("socket.receive.buffer.bytes", "-1", "The receive buffer of a client's socket, in bytes; -1 leaves it to the system. Kafka's default is 102400.").atLeast(-1),
		long("queued.max.request.bytes", "268435456", "Memory, in bytes, that requests of all clients may take together before sockets are read no more. At least socket.request.max.bytes. Kafka's default has no bound.").atLeast(1),
		integer("queued.max.requests", "500", "Requests of one connection that may wait for their answers.").atLeast(1),
		long("connections.max.idle.ms", "600000", "An idle connection is closed after so many ms; -1 never.").atLeast(-1),
		integer("max.connections", maxInt, "The most connections at a time.").atLeast(1),
		integer("max.connections.per.ip", maxInt, "The most connections at a time from one address.").atLeast(0),
		integer("connection.failed.authentication.delay.ms", "100", "How long, in ms, the answer to a failed login is held back.").atLeast(0),
		integer("fetch.max.bytes", "57671680", "The most bytes in the answer to one fetch.").atLeast(1024),
		integer("max.incremental.fetch.session.cache.slots", "1000", "How many fetch sessions are kept.").atLeast(0),
		integer("max.request.partition.size.limit", "2000", "The most partitions in one page of DescribeTopicPartitions.").atLeast(1),
		integer("request.timeout.ms", "30000", "How long, in ms, a request between brokers may take.").atLeast(1),
	}
}

// coordinatorKeys belong to groups, transactions and producers.
func coordinatorKeys() []*Key {
	return []*Key{
		integer("group.initial.rebalance.delay.ms", "3000", "How long, in ms, an empty group waits for more members before its first rebalance. 0 in the dev profile.").atLeast(0),
		integer("group.min.session.timeout.ms", "6000", "The shortest session timeout, in ms, that a member may ask for.").atLeast(1),
		integer("group.max.session.timeout.ms", "1800000", "The longest session timeout, in ms, that a member may ask for.").atLeast(1),
		integer("group.max.size", maxInt, "The most members of a classic group.").atLeast(1),
		list("group.coordinator.rebalance.protocols", "classic", "The group protocols that are served.").in("classic", "consumer", "share", "streams"),
		list("group.consumer.assignors", "uniform,range", "The server-side assignors of consumer groups, the default one first.").in("uniform", "range"),
		text("group.consumer.migration.policy", "bidirectional", "Which way groups may change between the classic and the consumer protocol.").
			in("bidirectional", "upgrade", "downgrade", "disabled"),
		integer("group.consumer.max.size", maxInt, "The most members of a consumer group.").atLeast(1),
		integer("group.consumer.assignment.interval.ms", "1000", "Time, in ms, between two assignments of a consumer group.").atLeast(0),
		integer("group.consumer.min.assignment.interval.ms", "0", "The shortest time, in ms, between two assignments of a consumer group.").atLeast(0),
		integer("group.consumer.max.assignment.interval.ms", "15000", "The longest time, in ms, between two assignments of a consumer group.").atLeast(0),
		integer("group.consumer.session.timeout.ms", "45000", "The session timeout, in ms, of consumer groups.").atLeast(1),
		integer("group.consumer.min.session.timeout.ms", "45000", "The shortest session timeout, in ms, of a consumer group.").atLeast(1),
		integer("group.consumer.max.session.timeout.ms", "60000", "The longest session timeout, in ms, of a consumer group.").atLeast(1),
		integer("group.consumer.heartbeat.interval.ms", "5000", "The heartbeat interval, in ms, of consumer groups.").atLeast(1),
		integer("group.consumer.min.heartbeat.interval.ms", "5000", "The shortest heartbeat interval, in ms, of a consumer group.").atLeast(1),
		integer("group.consumer.max.heartbeat.interval.ms", "15000", "The longest heartbeat interval, in ms, of a consumer group.").atLeast(1),
		integer("group.share.max.size", "200", "The most members of a share group.").between(1, 1000),
		integer("group.share.assignment.interval.ms", "1000", "Time, in ms, between two assignments of a share group.").atLeast(0),
		integer("group.share.min.assignment.interval.ms", "0", "The shortest time, in ms, between two assignments of a share group.").atLeast(0),
		integer("group.share.max.assignment.interval.ms", "15000", "The longest time, in ms, between two assignments of a share group.").atLeast(0),
		integer("group.share.session.timeout.ms", "45000", "The session timeout, in ms, of share groups.").atLeast(1),
		integer("group.share.min.session.timeout.ms", "45000", "The shortest session timeout, in ms, of a share group.").atLeast(1),
		integer("group.share.max.session.timeout.ms", "60000", "The longest session timeout, in ms, of a share group.").atLeast(1),
		integer("group.share.heartbeat.interval.ms", "5000", "The heartbeat interval, in ms, of share groups.").atLeast(1),
		integer("group.share.min.heartbeat.interval.ms", "5000", "The shortest heartbeat interval, in ms, of a share group.").atLeast(1),
		integer("group.share.max.heartbeat.interval.ms", "15000", "The longest heartbeat interval, in ms, of a share group.").atLeast(1),
		integer("group.share.record.lock.duration.ms", "30000", "How long, in ms, a share group's record stays locked to one member.").between(1000, 3600000),
		integer("group.share.min.record.lock.duration.ms", "15000", "The shortest lock, in ms, of a share group.").between(1000, 30000),
		integer("group.share.max.record.lock.duration.ms", "60000", "The longest lock, in ms, of a share group.").between(30000, 3600000),
		integer("group.share.delivery.count.limit", "5", "How often a share group delivers a record before giving it up.").between(2, 25),
		integer("group.share.min.delivery.count.limit", "2", "The smallest delivery count limit of a share group.").between(2, 5),
		integer("group.share.max.delivery.count.limit", "10", "The largest delivery count limit of a share group.").between(5, 25),
		integer("group.share.partition.max.record.locks", "2000", "The most records of a partition that a share group locks.").between(100, 10000),
		integer("group.share.min.partition.max.record.locks", "100", "The smallest number of record locks of a share group.").between(100, 2000),
		integer("group.share.max.partition.max.record.locks", "4000", "The largest number of record locks of a share group.").between(2000, 20000),
		integer("group.streams.assignment.interval.ms", "1000", "Time, in ms, between two assignments of a streams group.").atLeast(0),
		integer("group.streams.min.assignment.interval.ms", "0", "The shortest time, in ms, between two assignments of a streams group.").atLeast(0),
		integer("group.streams.max.assignment.interval.ms", "15000", "The longest time, in ms, between two assignments of a streams group.").atLeast(0),
		integer("group.streams.session.timeout.ms", "45000", "The session timeout, in ms, of streams groups.").atLeast(1),
		integer("group.streams.min.session.timeout.ms", "45000", "The shortest session timeout, in ms, of a streams group.").atLeast(1),
		integer("group.streams.max.session.timeout.ms", "60000", "The longest session timeout, in ms, of a streams group.").atLeast(1),
		integer("group.streams.heartbeat.interval.ms", "5000", "The heartbeat interval, in ms, of streams groups.").atLeast(1),
		integer("group.streams.min.heartbeat.interval.ms", "5000", "The shortest heartbeat interval, in ms, of a streams group.").atLeast(1),
		integer("group.streams.max.heartbeat.interval.ms", "15000", "The longest heartbeat interval, in ms, of a streams group.").atLeast(1),
		integer("group.streams.initial.rebalance.delay.ms", "3000", "How long, in ms, an empty streams group waits for more members before its first assignment.").atLeast(0),
		integer("group.streams.num.standby.replicas", "0", "Standby replicas of a streams group's tasks.").atLeast(0),
		integer("group.streams.max.standby.replicas", "2", "The most standby replicas of a streams group's tasks.").atLeast(0),

		integer("offset.metadata.max.bytes", "4096", "The most bytes of metadata in an offset commit.").atLeast(0),
		integer("offsets.retention.minutes", "10080", "How long, in minutes, a group's offsets outlive the group's last member.").atLeast(1),
		long("offsets.retention.check.interval.ms", "600000", "Time, in ms, between two looks for expired offsets.").atLeast(1),
		integer("offsets.topic.num.partitions", "50", "Partitions of __consumer_offsets.").atLeast(1),
		short("offsets.topic.replication.factor", "3", "Replicas of __consumer_offsets; fewer while there are fewer brokers.").atLeast(1),
		integer("offsets.topic.segment.bytes", "104857600", "segment.bytes of __consumer_offsets.").atLeast(MinSegmentBytes),
		integer("offsets.commit.timeout.ms", "5000", "How long, in ms, an offset commit waits for its replicas.").atLeast(1),
		integer("offsets.load.buffer.size", "5242880", "Bytes read at a time when a coordinator loads its offsets.").atLeast(1),

		integer("transaction.max.timeout.ms", "900000", "The longest transaction, in ms, that a producer may ask for.").atLeast(1),
		integer("transactional.id.expiration.ms", "604800000", "How long, in ms, an idle transactional id is kept.").atLeast(1),
		integer("transaction.state.log.num.partitions", "50", "Partitions of __transaction_state.").atLeast(1),
		short("transaction.state.log.replication.factor", "3", "Replicas of __transaction_state; fewer while there are fewer brokers.").atLeast(1),
		integer("transaction.state.log.min.isr", "2", "min.insync.replicas of __transaction_state.").atLeast(1),
		integer("transaction.state.log.segment.bytes", "104857600", "segment.bytes of __transaction_state.").atLeast(MinSegmentBytes),
		integer("producer.id.expiration.ms", "86400000", "How long, in ms, an idle producer's state is kept.").atLeast(1),
	}
}

// tierKeys belong to the object store and its cache.
func tierKeys() []*Key {
	return []*Key{
		boolean(RemoteSystemEnable, "true", "Whether this cluster has an object store. Kafka's default is false; a topic is tiered only when remote.storage.enable says so."),
		text("object.store.url", "", "The object store: fs:///DIR, mem:, s3://BUCKET/PREFIX?endpoint=...&region=... or minio://HOST:PORT/BUCKET/PREFIX?secure=false. Empty is a directory below data.dir. Credentials come from the environment.").own(),
		text(ObjectStore, "", "The store that object.store.url of all brokers leads to: bucket:BUCKET/PREFIX, fs:DIR. The first broker with a store sets it as the default of all; a broker whose own differs is refused. To be altered only when the content was moved to another store.").clusterWide().own(),
		list(TierStores, "warm,cold", "The names that may follow hot in retention.tiers. All of them lie in object.store.url.").own().checked(validTierStores),
		integer("tier.upload.concurrency", "4", "How many objects are uploaded at a time.").between(1, 256).own(),
		long("tier.upload.timeout.ms", "600000", "How long, in ms, one attempt at an upload may take.").atLeast(1000).own(),
		long("tier.delete.grace.ms", "900000", "How long, in ms, an object that is no longer needed stays in the bucket, for readers that still hold it.").atLeast(0).own(),
		text("tier.compression.type", "none", "How chunks of objects are compressed on the way out.").in("none", "zstd").own(),
		long("remote.log.manager.task.interval.ms", "30000", "Time, in ms, between two looks for segments to copy or to delete.").atLeast(1),
		long("remote.log.manager.copy.max.bytes.per.second", maxLong, "The fastest, in bytes per second, that this node uploads.").atLeast(1).clusterWide(),
		long("remote.log.manager.fetch.max.bytes.per.second", maxLong, "The fastest, in bytes per second, that this node reads from the object store.").atLeast(1).clusterWide(),
		integer("remote.log.reader.threads", "16", "How many ranges are read from the object store at a time. Kafka's default is 10.").atLeast(1),
		integer("remote.fetch.max.wait.ms", "500", "How long, in ms, a fetch waits for the object store before it answers without that data.").atLeast(1).clusterWide(),
		long("remote.list.offsets.request.timeout.ms", "30000", "How long, in ms, a search by time in the object store may take.").atLeast(1).clusterWide(),
		long("cache.memory.bytes", "134217728", "Memory, in bytes, for chunks read from the object store.").atLeast(16 << 20).own(),
		long("cache.disk.bytes", "10737418240", "Disk space, in bytes, for chunks read from the object store; 0 uses memory only.").atLeast(0).own(),
		text("cache.dir", "", "The directory of the disk cache. Empty is a directory below data.dir.").own(),
	}
}
