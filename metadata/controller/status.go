package controller

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/firnlog/firn/metadata/link"
)

// callStatus is the name of the call that asks the metadata leader for what it knows
// from heartbeats.
const callStatus = "broker_status"

// BrokerStatus is the Status of one broker, as FetchStatus brings it.
type BrokerStatus struct {
	BrokerID int32 `json:"broker"`
	Epoch    int64 `json:"epoch"`
	// SilentMs is how long ago the broker was heard, -1 if not since the metadata
	// leader began.
	SilentMs int64 `json:"silent_ms"`
	// Applied is the index of the broker's image.
	Applied uint64 `json:"applied"`
	// ClockBehindMs is how far its clock is behind the metadata leader's.
	ClockBehindMs int64 `json:"clock_behind_ms"`
	DiskFull      bool  `json:"disk_full"`
	WantShutdown  bool  `json:"want_shutdown"`
}

// FetchStatus asks the metadata leader at addr what it knows of the brokers, by id. A
// node that does not lead answers with a *link.CallError of CodeNotLeader.
func FetchStatus(ctx context.Context, calls Calls, addr string) ([]BrokerStatus, error) {
	answer, err := calls.Call(ctx, addr, callStatus, nil)
	if err != nil {
		return nil, err
	}
	var out []BrokerStatus
	if err := decodeJSON(answer, &out); err != nil {
		return nil, err
	}
	return out, nil
}

func (c *Controller) status(context.Context, link.Peer, []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.leases == nil {
		return nil, errNotLeader
	}
	out := []BrokerStatus{}
	for _, id := range slices.Sorted(maps.Keys(c.mu.leases.brokers)) {
		s, _ := c.mu.leases.Status(id)
		b := BrokerStatus{BrokerID: id, Epoch: s.Epoch, SilentMs: -1, Applied: s.Applied, ClockBehindMs: s.Behind.Milliseconds(),
			DiskFull: s.DiskFull, WantShutdown: s.WantShutdown}
		if !s.Heard.IsZero() {
			b.SilentMs = time.Since(s.Heard).Milliseconds()
		}
		out = append(out, b)
	}
	return encodeJSON(out), nil
}
