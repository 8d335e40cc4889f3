// Package adminapi owns the JSON of the admin HTTP endpoints under /v1: what
// the broker's admin server writes and the command line reads. It imports
// nothing of the broker, runs nothing, and holds plain values only.
//
// Offsets are Kafka's, ends are exclusive, sizes are bytes, times are
// milliseconds since 1970 (0 = unknown). Fields are added, never renamed: an
// older command line reads a newer broker.
package adminapi

import "fmt"

// Paths of the endpoints. All are GET. Errors are an [Error] with a 4xx or 5xx
// status.
const (
	PathTierStatus = "/v1/tier/status" // -> TierStatus
	PathTierMap    = "/v1/tier/map"    // ?topic=NAME[&partition=N] -> TierMap
	PathTierVerify = "/v1/tier/verify" // [?topic=NAME] -> VerifyEvent per line (application/x-ndjson), the last one Finished
)

// Error is the body of an answer that failed.
type Error struct {
	Message string `json:"error"`
}

// TierStatus is one node's view of the tiers.
type TierStatus struct {
	ClusterID string `json:"cluster_id"`
	NodeID    int32  `json:"node_id"`
	Enabled   bool   `json:"enabled"` // remote.log.storage.system.enable

	Store StoreStatus `json:"store"`
	Cache CacheStatus `json:"cache"`

	// Uploads: segments that are sealed, committed and not yet in the bucket.
	PendingSegments int   `json:"pending_segments"`
	PendingBytes    int64 `json:"pending_bytes"`
	UploadsRunning  int   `json:"uploads_running"`
	// UploadLagMs is the age of the oldest pending segment since it was sealed.
	UploadLagMs int64 `json:"upload_lag_ms"`
	// PendingDeletes are objects in their grace period.
	PendingDeletes int `json:"pending_deletes"`

	// Topics with leaders on this node, by name.
	Topics []TopicTiers `json:"topics"`
}

// States of the object store.
const (
	StoreOK          = "ok"
	StoreUnreachable = "unreachable"
	StoreUnknown     = "unknown" // nothing was asked of it yet
)

// StoreStatus says how the object store answers.
type StoreStatus struct {
	URL       string `json:"url"` // without credentials
	State     string `json:"state"`
	LastError string `json:"last_error,omitempty"`
	SinceMs   int64  `json:"since_ms"` // when the state began
}

// CacheStatus is the cache of chunks read from the object store.
type CacheStatus struct {
	MemoryBytes int64 `json:"memory_bytes"`
	MemoryLimit int64 `json:"memory_limit"`
	DiskBytes   int64 `json:"disk_bytes"`
	DiskLimit   int64 `json:"disk_limit"`
	Hits        int64 `json:"hits"`
	Misses      int64 `json:"misses"`
}

// TopicTiers sums a topic's partitions that this node leads.
type TopicTiers struct {
	Topic        string `json:"topic"`
	Tiered       bool   `json:"tiered"`
	Ladder       string `json:"ladder"` // as retention.tiers would say it
	Partitions   int    `json:"partitions"`
	LocalBytes   int64  `json:"local_bytes"`
	RemoteBytes  int64  `json:"remote_bytes"`
	Objects      int    `json:"objects"`
	PendingBytes int64  `json:"pending_bytes"`
	UploadLagMs  int64  `json:"upload_lag_ms"`
}

// TierMap says for each partition of a topic where its offsets are.
type TierMap struct {
	Topic   string `json:"topic"`
	TopicID string `json:"topic_id"`
	Ladder  string `json:"ladder"`
	// PartitionCount is how many the topic has; Partitions are those of which the
	// answering node has a replica.
	PartitionCount int            `json:"partition_count"`
	Partitions     []PartitionMap `json:"partitions"`
}

// PartitionMap is one partition's offsets.
//
// INVARIANT: LogStart ≤ LocalStart ≤ RemoteEnd ≤ LastStable ≤ HighWatermark ≤ LogEnd,
// RemoteEnd clamped up to LogStart where nothing is remote.
type PartitionMap struct {
	Partition     int32 `json:"partition"`
	Leader        int32 `json:"leader"`
	LogStart      int64 `json:"log_start"`
	LocalStart    int64 `json:"local_start"`
	RemoteEnd     int64 `json:"remote_end"`
	LastStable    int64 `json:"last_stable"`
	HighWatermark int64 `json:"high_watermark"`
	LogEnd        int64 `json:"log_end"`
	// Ranges in order of Start, a segment or a remote entry each. They cover
	// [LogStart, LogEnd); a range on disk and one in the bucket may overlap.
	Ranges []Range `json:"ranges"`
}

// Range is a run of offsets that lie in the same places.
type Range struct {
	Start int64 `json:"start"`
	End   int64 `json:"end"`
	Bytes int64 `json:"bytes"`
	// Where it is. Cached counts bytes of the object's chunks in the cache.
	OnDisk      bool   `json:"on_disk"`
	InBucket    bool   `json:"in_bucket"`
	CachedBytes int64  `json:"cached_bytes,omitempty"`
	Tier        string `json:"tier,omitempty"`   // of the bucket's copy: warm, cold …
	Object      string `json:"object,omitempty"` // key in the bucket
	MaxTime     int64  `json:"max_time_ms,omitempty"`
	// Why a range on disk is still here; empty for what is in the bucket only.
	Why     Reason `json:"why,omitempty"`
	UntilMs int64  `json:"until_ms,omitempty"` // with ReasonLocalRetention: when it may go
	Detail  string `json:"detail,omitempty"`   // with ReasonStoreDown: the last error
}

// Reason says why a segment is still on the local disk.
type Reason string

// The reasons.
const (
	ReasonActive         Reason = "active"          // being written
	ReasonNotTiered      Reason = "not-tiered"      // remote.storage.enable is false
	ReasonCopyDisabled   Reason = "copy-disabled"   // remote.log.copy.disable
	ReasonNotCommitted   Reason = "not-committed"   // not wholly below the last stable offset
	ReasonQueued         Reason = "queued"          // waits for its upload
	ReasonUploading      Reason = "uploading"       // being copied
	ReasonStoreDown      Reason = "store-down"      // the object store does not answer
	ReasonLocalRetention Reason = "local-retention" // copied; local retention keeps it
	ReasonDue            Reason = "due"             // goes with the next pass of retention
)

var explanations = map[Reason]string{
	ReasonActive:         "being written; it moves once sealed (segment.bytes, segment.ms)",
	ReasonNotTiered:      "the topic is not tiered (remote.storage.enable)",
	ReasonCopyDisabled:   "copying is switched off (remote.log.copy.disable)",
	ReasonNotCommitted:   "not wholly below the last stable offset",
	ReasonQueued:         "waiting for its upload",
	ReasonUploading:      "being uploaded",
	ReasonStoreDown:      "the object store does not answer",
	ReasonLocalRetention: "copied; kept for local.retention",
	ReasonDue:            "goes with the next pass of retention",
}

// Explain says the reason in words, with the range's detail.
func (r Range) Explain() string {
	text, ok := explanations[r.Why]
	if !ok {
		text = string(r.Why)
	}
	if r.Detail != "" {
		return fmt.Sprintf("%s: %s", text, r.Detail)
	}
	return text
}

// VerifyEvent reports the check of one object, or the end of all.
type VerifyEvent struct {
	Done      int    `json:"done"`  // objects checked so far, this one included
	Total     int    `json:"total"` // objects to check
	DoneBytes int64  `json:"done_bytes"`
	Object    string `json:"object,omitempty"`
	Topic     string `json:"topic,omitempty"`
	Partition int32  `json:"partition"`
	Start     int64  `json:"start"`
	End       int64  `json:"end"`
	// Problem is empty for a sound object: missing, wrong size, bad checksum …
	Problem  string `json:"problem,omitempty"`
	Finished bool   `json:"finished,omitempty"`
}
