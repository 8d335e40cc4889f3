package api

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/fetch"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// fetch answers records from the local disk by file range and from the bucket
// by cache, within a fetch session where the client has one (KIP-227).
func (s *Server) fetch(r *wire.Request, req *kmsg.FetchRequest) {
	parts, forgotten := sessionParts(req)
	plan, err := s.Sessions.Begin(time.Now(), req.SessionID, req.SessionEpoch, r.Version >= 13, parts, forgotten)
	if err != nil {
		resp := kmsg.NewPtrFetchResponse()
		resp.ErrorCode = codeOf(err)
		r.Reply(resp)
		return
	}
	follower := req.ReplicaID
	if r.Version >= 15 {
		follower = req.ReplicaState.ID
	}
	f := &fetch.Request{
		Ctx: r.Context(), Stream: r.Conn.ID(),
		MinBytes: int64(req.MinBytes), MaxBytes: int64(req.MaxBytes), MaxWait: millis(req.MaxWaitMillis),
		Wants: make([]fetch.Want, len(plan.Parts)),
	}
	img := s.Meta.Image()
	for i := range plan.Parts {
		f.Wants[i] = want(img, &plan.Parts[i], r.Version >= 13, req.IsolationLevel == 1)
		if follower >= 0 && f.Wants[i].Err == nil {
			// Replication between brokers is not served yet: nobody is a follower.
			f.Wants[i].Err = kerr.NotLeaderForPartition
		}
	}
	f.Done = func(got []fetch.Got) { s.replyFetch(r, plan, got) }
	s.Fetch.Fetch(f)
}

// sessionParts reads what a Fetch asks for, and what it forgets. The body of a
// Fetch is the collector's, so names may be kept.
func sessionParts(req *kmsg.FetchRequest) (parts []fetch.SessionPartition, forgotten []fetch.SessionKey) {
	n := 0
	for i := range req.Topics {
		n += len(req.Topics[i].Partitions)
	}
	parts = make([]fetch.SessionPartition, 0, n)
	for i := range req.Topics {
		t := &req.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			parts = append(parts, fetch.SessionPartition{
				Key:  fetch.SessionKey{Name: t.Topic, ID: t.TopicID, Partition: p.Partition},
				From: record.Offset(p.FetchOffset), LogStart: record.Offset(p.LogStartOffset),
				Current: record.Epoch(p.CurrentLeaderEpoch), LastFetched: record.Epoch(p.LastFetchedEpoch),
				MaxBytes: p.PartitionMaxBytes,
			})
		}
	}
	for i := range req.ForgottenTopics {
		t := &req.ForgottenTopics[i]
		for _, p := range t.Partitions {
			forgotten = append(forgotten, fetch.SessionKey{Name: t.Topic, ID: t.TopicID, Partition: p})
		}
	}
	return parts, forgotten
}

// want looks a session's partition up in the image of now.
func want(img *metadata.Image, p *fetch.SessionPartition, byID, committed bool) fetch.Want {
	w := fetch.Want{Read: partition.Read{From: p.From, Current: p.Current, LastFetched: p.LastFetched,
		MaxBytes: int(p.MaxBytes), Committed: committed}}
	topic := topicRef(img, p.Key.Name, p.Key.ID)
	switch {
	case topic == nil && byID:
		w.Err = kerr.UnknownTopicID
	case topic == nil, p.Key.Partition < 0, p.Key.Partition >= topic.Partitions:
		w.Err = kerr.UnknownTopicOrPartition
	default:
		w.TP = record.TopicPartition{Topic: topic.ID, Partition: p.Key.Partition}
	}
	return w
}

// replyFetch encodes the answer around the file ranges, which the socket sends
// without their bytes coming through here.
func (s *Server) replyFetch(r *wire.Request, plan *fetch.Plan, got []fetch.Got) {
	e := newFetchEncoder(r.Version, plan.ID)
	for i := 0; i < len(got); {
		// Neighbours of one topic share a topic entry.
		key := &plan.Parts[i].Key
		for ; i < len(got) && plan.Parts[i].Key.Name == key.Name && plan.Parts[i].Key.ID == key.ID; i++ {
			g := &got[i]
			if !plan.Told(i, g, false) {
				continue
			}
			if leadershipError(g.Err) {
				g.State.Leader, g.State.LeaderEpoch = s.currentLeader(g.TP, s.Partitions.Get(g.TP))
			}
			e.partition(plan.Parts[i].Key, g)
			if n := g.Bytes(); n > 0 {
				if p := s.Partitions.Get(g.TP); p != nil {
					p.CountOut(n)
				}
			}
			if r.Version >= 16 && leadershipError(g.Err) {
				if host, port, rack, ok := s.brokerAddr(r, g.State.Leader); ok {
					e.node(g.State.Leader, host, port, rack)
				}
			}
		}
	}
	r.ReplyRaw(&wire.Payload{Sections: e.finish(), Release: func() {
		for i := range got {
			got[i].Release()
		}
		e.free()
	}})
}
