package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/configdef"
	"github.com/firnlog/firn/record"
)

// prefer returns how the replica is found that a consumer had better read from, nil
// where that is the leader in any case (KIP-392). replica.selector.class is read at
// the broker's start, as in Kafka.
func (s *Server) prefer(r *wire.Request, req *kmsg.FetchRequest, rd reader) func(*partition.Partition, record.Offset) int32 {
	if !rd.anyReplica || req.Rack == "" || s.Static["replica.selector.class"] != configdef.RackAwareSelector {
		return nil
	}
	rack := req.Rack
	return func(p *partition.Partition, from record.Offset) int32 {
		return preferredReplica(s.Meta.Image(), s.nodeID(), rack, r.Conn.Listener(), from, p.Followers())
	}
}

// preferredReplica is the in-sync follower in the consumer's rack that has come
// farthest, −1 where the leader is to be read: no follower there can be reached on
// the consumer's listener and has what it asks for, or the leader is in that rack
// too.
func preferredReplica(img *metadata.Image, leader int32, rack, listener string, from record.Offset, followers []replica.FollowerState) int32 {
	if b := img.Broker(leader); b == nil || b.Rack == rack {
		return -1
	}
	best, end := int32(-1), record.Offset(-1)
	for i := range followers {
		f := &followers[i]
		if !f.InSync || f.LogEnd < from || f.LogEnd <= end {
			continue
		}
		if b := img.Broker(f.ID); b != nil && b.Rack == rack && b.Staying() && endpoint(b, listener) != nil {
			best, end = f.ID, f.LogEnd
		}
	}
	return best
}
