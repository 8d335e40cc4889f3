package controller

import (
	"encoding/json"
	"fmt"

	"github.com/firnlog/firn/metadata/link"
)

// callHeartbeat is the name of the call, in JSON: brokers of other versions skip
// fields that they do not know.
const callHeartbeat = "heartbeat"

// The codes of a refused heartbeat (link.CallError).
const (
	// CodeNotLeader: the node does not lead the metadata, or cannot tell for sure.
	CodeNotLeader = "not_leader"
	// CodeStaleEpoch: the broker is not registered under this epoch.
	CodeStaleEpoch = "stale_epoch"
)

// Heartbeat is what a broker says to the controller, every
// broker.heartbeat.interval.ms.
type Heartbeat struct {
	BrokerID    int32 `json:"broker"`
	BrokerEpoch int64 `json:"epoch"`
	// Applied is the index of the broker's image.
	Applied uint64 `json:"applied"`
	// Ready says that the broker's logs are open: it wants to be unfenced.
	Ready bool `json:"ready"`
	// WantShutdown asks for a controlled shutdown. It cannot be taken back.
	WantShutdown bool `json:"want_shutdown,omitempty"`
	// Clock is the broker's wall clock in ms since the Unix epoch.
	Clock int64 `json:"clock"`
	// Term is Raft's at the broker's node, and ContactMs how long ago at least it last
	// acknowledged the leader of an earlier term, or was one, in ms. 0 if unknown.
	Term      uint64 `json:"term,omitempty"`
	ContactMs int64  `json:"contact_ms,omitempty"`
	// DiskFull says that the data disk takes no records.
	DiskFull bool `json:"disk_full,omitempty"`
}

// Grant answers a heartbeat.
type Grant struct {
	// Lease is how long the broker may lead, in ms from before it sent the heartbeat;
	// 0 while it is fenced.
	Lease int64 `json:"lease"`
	// Fenced is the broker's state at the controller.
	Fenced bool `json:"fenced,omitempty"`
	// Shutdown grants the shutdown that the broker wants.
	Shutdown bool `json:"shutdown,omitempty"`
	// Clock is the cluster's time, the median of the brokers' clocks, in ms since the
	// Unix epoch.
	Clock int64 `json:"clock"`
	// ClockUnsure says that it may be the wrong half of the brokers' time.
	ClockUnsure bool `json:"clock_unsure,omitempty"`
	// ClocksAhead are the brokers whose clocks are off by a second and more, and how
	// far they are ahead of the cluster's time, in ms (negative: behind).
	ClocksAhead map[int32]int64 `json:"clocks_ahead,omitempty"`
}

func encodeJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain structs of numbers
	}
	return b
}

func decodeJSON(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return &link.CallError{Code: link.CodeInternal, Message: fmt.Sprintf("controller: %v", err)}
	}
	return nil
}
