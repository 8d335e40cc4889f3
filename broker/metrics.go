package broker

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata"
)

// metricsCollector gathers everything at scrape, so that an idle partition costs
// nothing between two scrapes. What is Kafka's has the name that its JMX exporter
// gives it, so that dashboards made for Kafka work; what is ours begins with firn.
type metricsCollector struct{ b *Broker }

// Describe implements prometheus.Collector: the set of metrics depends on what
// runs, so it is unchecked.
func (c *metricsCollector) Describe(chan<- *prometheus.Desc) {}

// desc makes a description; client_golang keeps one of each by content.
func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	descConnections = desc("kafka_server_socket_server_connection_count", "Open client connections.")
	descAccepted    = desc("kafka_server_socket_server_connections_accepted_total", "Connections accepted since the start, refused ones too.")
	descRefused     = desc("kafka_server_socket_server_connections_refused_total", "Connections over a limit.")
	descClosed      = desc("kafka_server_socket_server_connections_closed_total", "Connections closed, by reason.", "reason")
	descRequests    = desc("kafka_network_requestmetrics_requests_total", "Requests by API.", "request")
	descLatency     = desc("kafka_network_requestmetrics_totaltime_seconds", "Time from a request's last byte to its answer; long polls count with their wait.", "request")
	descInFlight    = desc("kafka_network_requests_in_flight", "Requests that wait for their answer.")
	descNetIn       = desc("kafka_server_socket_server_incoming_bytes_total", "Bytes read from clients.")
	descNetOut      = desc("kafka_server_socket_server_outgoing_bytes_total", "Bytes sent to clients.")
	descMemory      = desc("firn_request_memory_bytes", "Memory that requests hold of the shared budget.")
	descMemoryWaits = desc("firn_request_memory_waits_total", "Times that a connection waited for request memory.")

	descBytesIn    = desc("kafka_server_brokertopicmetrics_bytesin_total", "Bytes of batches appended.", "topic")
	descMessagesIn = desc("kafka_server_brokertopicmetrics_messagesin_total", "Records appended.", "topic")
	descBytesOut   = desc("kafka_server_brokertopicmetrics_bytesout_total", "Bytes of batches read by clients, from both tiers.", "topic")
	descRejected   = desc("kafka_server_brokertopicmetrics_failedproducerequests_total", "Batches refused or failed.", "topic")

	descLogSize    = desc("kafka_log_log_size", "Bytes on the local disk.", "topic", "partition")
	descLogStart   = desc("kafka_log_log_logstartoffset", "Log start offset.", "topic", "partition")
	descLogEnd     = desc("kafka_log_log_logendoffset", "Log end offset.", "topic", "partition")
	descWatermark  = desc("kafka_cluster_partition_high_watermark", "High watermark.", "topic", "partition")
	descPartRemote = desc("firn_partition_remote_end_offset", "End of what is in the object store.", "topic", "partition")

	descReplicaIn   = desc("kafka_server_brokertopicmetrics_replicationbytesin_total", "Bytes of batches that came from leaders.")
	descReplicaOut  = desc("kafka_server_brokertopicmetrics_replicationbytesout_total", "Bytes of batches that followers were sent.")
	descShrinks     = desc("kafka_server_replicamanager_isrshrinks_total", "Changes by which a led partition's ISR lost replicas.")
	descExpands     = desc("kafka_server_replicamanager_isrexpands_total", "Changes by which a led partition's ISR gained replicas.")
	descMaxLag      = desc("kafka_server_replicafetchermanager_maxlag", "Records that the slowest follower here lacks of what is committed, as far as it knows.")
	descPulls       = desc("firn_replica_fetches_total", "Requests of this broker's followers that leaders answered.")
	descPullFails   = desc("firn_replica_fetch_failures_total", "Requests of this broker's followers that were not answered.")
	descPullRefused = desc("firn_replica_reply_failures_total", "Answers for one partition that were an error or could not be carried out.")
	descViolations  = desc("firn_partition_violations_total", "Times that an invariant of a partition did not hold.")
	descBelow       = desc("firn_partition_below_watermark_total", "Truncations of records that were known to be committed.")
	descLease       = desc("firn_broker_lease_seconds", "Time left in which this broker may lead without word from the controller.")

	descClock       = desc("firn_clock_behind_seconds", "How far this node's clock is behind the cluster's; negative if it is ahead.")
	descCertificate = desc("firn_cluster_tls_not_after_seconds", "When a certificate of the cluster port that is in force ends, in seconds since 1970: this node's own, and its authority's.", "certificate")

	descPartitions  = desc("kafka_server_replicamanager_partitioncount", "Partitions on this broker.")
	descLeaders     = desc("kafka_server_replicamanager_leadercount", "Partitions that this broker leads.")
	descUnderRep    = desc("kafka_server_replicamanager_underreplicatedpartitions", "Led partitions whose ISR lacks replicas, those aside that a reassignment is adding.")
	descUnderMin    = desc("kafka_server_replicamanager_underminisrpartitioncount", "Led partitions below min.insync.replicas.")
	descOffline     = desc("kafka_server_replicamanager_offlinereplicacount", "Replicas whose log could not be opened.")
	descController  = desc("kafka_controller_kafkacontroller_activecontrollercount", "1 where this broker leads the metadata.")
	descTopics      = desc("kafka_controller_kafkacontroller_globaltopiccount", "Topics of the cluster.")
	descAllParts    = desc("kafka_controller_kafkacontroller_globalpartitioncount", "Partitions of the cluster.")
	descNoLeader    = desc("kafka_controller_kafkacontroller_offlinepartitionscount", "Partitions without a leader.")
	descSessions    = desc("kafka_server_fetchsessioncache_numincrementalfetchsessions", "Open fetch sessions.")
	descSessionPart = desc("kafka_server_fetchsessioncache_numincrementalfetchpartitionscached", "Partitions in fetch sessions.")
	descGroups      = desc("kafka_coordinator_group_groupmetadatamanager_numgroups", "Groups that this broker coordinates, by state.", "state")
	descOffsets     = desc("kafka_coordinator_group_groupmetadatamanager_numoffsets", "Committed offsets that this broker holds.")
	descOpenFiles   = desc("firn_log_open_files", "Descriptors that logs hold open.")
	descDiskFree    = desc("firn_disk_free_bytes", "Bytes free on the disk of the data directory.")
	descDiskFull    = desc("firn_disk_full", "1 while clients' writes are refused because the disk is full.")
	descMetaIndex   = desc("firn_metadata_applied_index", "Index of the metadata log that this broker has applied.")
	descReady       = desc("firn_ready", "1 while clients are served.")

	descCompactions  = desc("kafka_log_logcleaner_cleanings_total", "Passes of local compaction.")
	descCompactGone  = desc("kafka_log_logcleaner_records_removed_total", "Records that compaction removed.")
	descCompactFreed = desc("kafka_log_logcleaner_bytes_removed_total", "Bytes that compaction removed.")
	descCompactFail  = desc("kafka_log_logcleaner_failures_total", "Passes of compaction that failed.")

	descUploadLagBytes = desc("kafka_server_brokertopicmetrics_remotecopylagbytes", "Bytes sealed and not yet in the object store.")
	descUploadLagSegs  = desc("kafka_server_brokertopicmetrics_remotecopylagsegments", "Segments sealed and not yet in the object store.")
	descUploadLagAge   = desc("firn_tier_upload_lag_seconds", "Age of the oldest sealed segment that is not in the object store.")
	descUploads        = desc("firn_tier_uploads_total", "Copies that were committed.")
	descUploadBytes    = desc("firn_tier_upload_bytes_total", "Bytes of objects that were committed.")
	descUploadFailures = desc("firn_tier_upload_failures_total", "Steps of copies that failed.")
	descUploading      = desc("firn_tier_uploads_running", "Copies under way.")
	descStoreUp        = desc("firn_object_store_up", "1 while the object store answers, by its last attempt.")
	descStoreCalls     = desc("firn_object_store_attempts_total", "Attempts at calls of the object store.", "op")
	descStoreFails     = desc("firn_object_store_failures_total", "Attempts that failed.", "op")
	descStoreBytes     = desc("firn_object_store_bytes_total", "Bytes of bodies, both ways.", "op")
	descColdReads      = desc("kafka_server_brokertopicmetrics_remotefetchrequests_total", "Reads from the object store or the cache of it.")
	descColdBytes      = desc("kafka_server_brokertopicmetrics_remotefetchbytes_total", "Bytes read from the object store or the cache of it.")
	descCorrupt        = desc("firn_tier_corrupt_chunks_total", "Chunks and footers that failed their checks twice, and were not served.")
	descCorruptOnce    = desc("firn_tier_corrupt_chunks_repaired_total", "Chunks that were whole when read again.")
	descCacheHits      = desc("firn_cache_hits_total", "Chunks found in the cache.", "tier")
	descCacheMisses    = desc("firn_cache_misses_total", "Chunks that had to be fetched.")
	descCacheBytes     = desc("firn_cache_bytes", "Bytes in the cache.", "tier")
	descCacheEvictions = desc("firn_cache_evictions_total", "Chunks evicted.", "tier")
	descCacheOff       = desc("firn_cache_disk_off", "1 while nothing is written to the disk cache, since a write failed.")
)

// sink sends metrics of constant value.
type sink chan<- prometheus.Metric

func (s sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (s sink) counter(d *prometheus.Desc, v float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func (s sink) histogram(d *prometheus.Desc, l wire.Latency, labels ...string) {
	buckets := make(map[float64]uint64, len(wire.LatencyBounds))
	var count uint64
	for i, n := range l.Counts {
		count += n
		if i < len(wire.LatencyBounds) {
			buckets[wire.LatencyBounds[i]] = count
		}
	}
	s <- prometheus.MustNewConstHistogram(d, count, l.Sum, buckets, labels...)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Collect implements prometheus.Collector.
func (c *metricsCollector) Collect(ch chan<- prometheus.Metric) {
	b, s := c.b, sink(ch)
	s.gauge(descReady, truth(b.ready.Load()))
	if !b.ready.Load() {
		return
	}
	c.wire(s)
	c.partitions(s)
	c.cluster(s)
	if b.tier != nil {
		b.tier.collect(s)
	}
}

func (c *metricsCollector) wire(s sink) {
	st := c.b.wire.Stats()
	s.gauge(descConnections, float64(st.Connections))
	s.counter(descAccepted, float64(st.Accepted))
	s.counter(descRefused, float64(st.Refused))
	for reason, n := range st.Closed {
		s.counter(descClosed, float64(n), reason)
	}
	for key, n := range st.Requests {
		s.counter(descRequests, float64(n), kmsg.NameForKey(key))
	}
	for key, l := range st.Latency {
		s.histogram(descLatency, l, kmsg.NameForKey(key))
	}
	s.gauge(descInFlight, float64(st.InFlight))
	s.counter(descNetIn, float64(st.BytesIn))
	s.counter(descNetOut, float64(st.BytesOut))
	s.gauge(descMemory, float64(st.Memory))
	s.counter(descMemoryWaits, float64(st.MemoryWaits))
	s.gauge(descSessions, float64(c.b.sessions.Len()))
	s.gauge(descSessionPart, float64(c.b.sessions.Partitions()))
	gs := c.b.groups.Stats()
	for state, n := range gs.Groups {
		s.gauge(descGroups, float64(n), state.String())
	}
	s.gauge(descOffsets, float64(gs.Offsets))
}

// topicSums are the counters of a topic's partitions here.
type topicSums struct{ bytesIn, messagesIn, bytesOut, rejected uint64 }

func (c *metricsCollector) partitions(s sink) {
	leaders, underReplicated, underMin := 0, 0, 0
	lag := int64(0)
	img := c.b.meta.Image()
	sums := make(map[string]*topicSums)
	for p := range c.b.parts.All() {
		st, isr := p.State(), p.InSync()
		labels := []string{p.Topic(), strconv.Itoa(int(p.TP().Partition))}
		s.gauge(descLogSize, float64(p.Log().Size()), labels...)
		s.gauge(descLogStart, float64(st.LogStart), labels...)
		s.gauge(descLogEnd, float64(st.LogEnd), labels...)
		s.gauge(descWatermark, float64(st.HighWatermark), labels...)
		if p.Config().RemoteStorage {
			s.gauge(descPartRemote, float64(st.RemoteEnd), labels...)
		}
		if st.Role == replica.Leader {
			leaders++
			if committed := img.Partition(p.TP()); committed != nil && committed.UnderReplicated() {
				underReplicated++
			}
			underMin += int(truth(isr.InSync < isr.Min))
		}
		lag = max(lag, p.Lag())
		sum := sums[p.Topic()]
		if sum == nil {
			sum = &topicSums{}
			sums[p.Topic()] = sum
		}
		n := p.Counters()
		sum.bytesIn += n.BytesIn
		sum.messagesIn += n.MessagesIn
		sum.bytesOut += n.BytesOut
		sum.rejected += n.Rejected
	}
	for topic, sum := range sums {
		s.counter(descBytesIn, float64(sum.bytesIn), topic)
		s.counter(descMessagesIn, float64(sum.messagesIn), topic)
		s.counter(descBytesOut, float64(sum.bytesOut), topic)
		s.counter(descRejected, float64(sum.rejected), topic)
	}
	s.gauge(descMaxLag, float64(lag))
	c.replication(s)
	s.gauge(descPartitions, float64(c.b.parts.Len()))
	s.gauge(descLeaders, float64(leaders))
	s.gauge(descUnderRep, float64(underReplicated))
	s.gauge(descUnderMin, float64(underMin))
	s.gauge(descOffline, float64(len(c.b.parts.Failed())))
	s.gauge(descOpenFiles, float64(c.b.parts.FDs().Open()))
	free, full := c.b.parts.Space()
	s.gauge(descDiskFree, float64(free))
	s.gauge(descDiskFull, truth(full))
	s.counter(descCompactions, float64(c.b.cleaner.passes.Load()))
	s.counter(descCompactGone, float64(c.b.cleaner.records.Load()))
	s.counter(descCompactFreed, float64(c.b.cleaner.bytes.Load()))
	s.counter(descCompactFail, float64(c.b.cleaner.failures.Load()))
}

// replication tells the broker's sums; they do not fall when a partition goes.
func (c *metricsCollector) replication(s sink) {
	n := c.b.parts.Totals()
	s.counter(descReplicaIn, float64(n.ReplicaIn))
	s.counter(descReplicaOut, float64(n.ReplicaOut))
	s.counter(descShrinks, float64(n.ISRShrinks))
	s.counter(descExpands, float64(n.ISRExpands))
	s.counter(descViolations, float64(n.Violations))
	s.counter(descBelow, float64(n.BelowWatermark))
	pulls := c.b.pulls.Stats()
	s.counter(descPulls, float64(pulls.Fetches))
	s.counter(descPullFails, float64(pulls.FailedFetches))
	s.counter(descPullRefused, float64(pulls.FailedReplies))
}

func (c *metricsCollector) cluster(s sink) {
	img := c.b.meta.Image()
	s.gauge(descController, truth(img.ControllerID() == c.b.cfg.ID))
	s.gauge(descTopics, float64(img.TopicCount()))
	s.gauge(descAllParts, float64(img.PartitionCount()))
	s.gauge(descNoLeader, float64(leaderless(img)))
	s.gauge(descMetaIndex, float64(img.Index()))
	s.gauge(descLease, c.b.cluster.beats.Lease().Left().Seconds())
	if behind, known := c.b.cluster.beats.ClockBehind(time.Now()); known {
		s.gauge(descClock, behind.Seconds())
	}
	if tls := c.b.cluster.tls; tls != nil {
		own, authority := tls.NotAfter()
		s.gauge(descCertificate, float64(own.Unix()), "own")
		s.gauge(descCertificate, float64(authority.Unix()), "ca")
	}
}

func leaderless(img *metadata.Image) int {
	n := 0
	for _, p := range img.AllPartitions() {
		if p.Leader < 0 {
			n++
		}
	}
	return n
}

func (t *tier) collect(s sink) {
	up := t.archiver.Stats()
	s.gauge(descUploadLagBytes, float64(up.LagBytes))
	s.gauge(descUploadLagSegs, float64(up.LagSegments))
	s.gauge(descUploadLagAge, lag(up.Oldest))
	s.counter(descUploads, float64(up.Finished))
	s.counter(descUploadBytes, float64(up.Bytes))
	s.counter(descUploadFailures, float64(up.Failures))
	s.gauge(descUploading, float64(up.InFlight))
	t.health.collect(s)

	read := t.reader.Stats()
	s.counter(descColdReads, float64(read.Reads))
	s.counter(descColdBytes, float64(read.ReadBytes))
	s.counter(descCorrupt, float64(read.Corrupt))
	s.counter(descCorruptOnce, float64(read.CorruptRepaired))
	cached := t.cache.Stats()
	s.counter(descCacheHits, float64(cached.MemoryHits), "memory")
	s.counter(descCacheHits, float64(cached.DiskHits), "disk")
	s.counter(descCacheMisses, float64(cached.Misses))
	s.gauge(descCacheBytes, float64(cached.MemoryBytes), "memory")
	s.gauge(descCacheBytes, float64(cached.DiskBytes), "disk")
	s.counter(descCacheEvictions, float64(cached.MemoryEvictions), "memory")
	s.counter(descCacheEvictions, float64(cached.DiskEvictions), "disk")
	s.gauge(descCacheOff, truth(cached.DiskOff))
}
