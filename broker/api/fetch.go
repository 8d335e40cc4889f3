package api

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/fetch"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/record"
)

// fetch answers records from the local disk by file range and from the bucket
// by cache, within a fetch session where the client has one (KIP-227). Followers
// fetch on the cluster's port alone, each in its own name: a fetch offset is an
// acknowledgement.
func (s *Server) fetch(r *wire.Request, req *kmsg.FetchRequest) {
	reader := readerOf(r, req)
	if reader.replica != nil && (!r.Conn.FromBroker() || r.Conn.PeerNode() != reader.replica.ID) {
		s.refuseFetch(r, req, kerr.ClusterAuthorizationFailed)
		return
	}
	parts, forgotten := sessionParts(req)
	plan, err := s.Sessions.Begin(fetch.Begin{Now: time.Now(), ID: req.SessionID, Epoch: req.SessionEpoch,
		ByID: r.Version >= 13, Follower: reader.replica != nil, Committed: reader.committed, Parts: parts, Forgotten: forgotten})
	if err != nil {
		s.refuseFetch(r, req, err)
		return
	}
	f := &fetch.Request{
		Ctx: r.Context(), Stream: r.Conn.ID(),
		MinBytes: int64(req.MinBytes), MaxBytes: int64(req.MaxBytes), MaxWait: millis(req.MaxWaitMillis),
		Resolve: func(parts []fetch.SessionPartition, wants []fetch.Want) []fetch.Want {
			return s.resolve(reader, parts, wants)
		},
		Prefer: s.prefer(r, req, reader),
	}
	if plan.Incremental {
		f.Plan = plan
	} else {
		f.Wants = s.resolve(reader, plan.Parts, make([]fetch.Want, 0, len(plan.Parts)))
		for i := range f.Wants {
			f.Wants[i].Told = -1
			if plan.ID == 0 {
				f.Wants[i].Told = fetch.UnknownWatermark
			}
		}
	}
	f.Done = func(got []fetch.Got) { s.replyFetch(r, plan, f.Wants, got) }
	s.Fetch.Fetch(f)
}

// refuseFetch answers a Fetch as a whole. Version 4 to 6 have no field for that:
// each partition has the error.
func (s *Server) refuseFetch(r *wire.Request, req *kmsg.FetchRequest, err error) {
	resp := kmsg.NewPtrFetchResponse()
	resp.ErrorCode = codeOf(err)
	if r.Version < 7 {
		for i := range req.Topics {
			t := kmsg.NewFetchResponseTopic()
			t.Topic = req.Topics[i].Topic
			for j := range req.Topics[i].Partitions {
				p := kmsg.NewFetchResponseTopicPartition()
				p.Partition, p.ErrorCode, p.HighWatermark = req.Topics[i].Partitions[j].Partition, codeOf(err), -1
				p.PreferredReadReplica, p.RecordBatches = -1, []byte{}
				t.Partitions = append(t.Partitions, p)
			}
			resp.Topics = append(resp.Topics, t)
		}
	}
	r.Reply(resp)
}

// reader is who fetches, and how.
type reader struct {
	byID      bool
	committed bool
	// replica is nil for a consumer.
	replica *partition.ReplicaFetch
	// anyReplica: a consumer that may be sent to a follower (KIP-392).
	anyReplica bool
}

// readerOf says who reads. Replica id −2 is a consumer like −1, as in Kafka
// (FetchRequest.isConsumer): only ListOffsets knows it as somebody else.
func readerOf(r *wire.Request, req *kmsg.FetchRequest) reader {
	id, epoch := req.ReplicaID, int64(-1)
	if r.Version >= 15 {
		id, epoch = req.ReplicaState.ID, req.ReplicaState.Epoch
	}
	rd := reader{byID: r.Version >= 13, committed: req.IsolationLevel == 1, anyReplica: r.Version >= 11}
	if id >= 0 {
		rd.replica, rd.committed, rd.anyReplica = &partition.ReplicaFetch{ID: id, BrokerEpoch: epoch}, false, false
	}
	return rd
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

// resolve looks partitions up in the image of now.
func (s *Server) resolve(rd reader, parts []fetch.SessionPartition, wants []fetch.Want) []fetch.Want {
	img := s.Meta.Image()
	for i := range parts {
		p := &parts[i]
		w := fetch.Want{Read: partition.Read{From: p.From, Current: p.Current, LastFetched: p.LastFetched,
			MaxBytes: int(p.MaxBytes), Committed: rd.committed, Replica: rd.replica, LocalStart: p.LogStart, AnyReplica: rd.anyReplica}}
		topic := topicRef(img, p.Key.Name, p.Key.ID)
		switch {
		case topic == nil && rd.byID:
			w.Err = kerr.UnknownTopicID
		case topic == nil, p.Key.Partition < 0, p.Key.Partition >= topic.Partitions:
			w.Err = kerr.UnknownTopicOrPartition
		default:
			w.TP = record.TopicPartition{Topic: topic.ID, Partition: p.Key.Partition}
			if rd.replica != nil {
				s.follow(img, rd.replica.ID, &w)
			}
		}
		wants = append(wants, w)
	}
	return wants
}

// replyFetch encodes the answer around the file ranges, which the socket sends
// without their bytes coming through here.
func (s *Server) replyFetch(r *wire.Request, plan *fetch.Plan, wants []fetch.Want, got []fetch.Got) {
	e := newFetchEncoder(r.Version, plan.ID)
	for i := 0; i < len(got); {
		// Neighbours of one topic share a topic entry.
		key := &plan.Parts[i].Key
		for ; i < len(got) && plan.Parts[i].Key.Name == key.Name && plan.Parts[i].Key.ID == key.ID; i++ {
			g := &got[i]
			if !plan.Told(i, g) {
				continue
			}
			if leadershipError(g.Err) {
				g.State.Leader, g.State.LeaderEpoch = s.currentLeader(g.TP, s.Partitions.Get(g.TP))
			}
			e.partition(plan.Parts[i].Key, g)
			if n := g.Bytes(); n > 0 {
				s.countOut(&wants[i], n)
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
