package api

import (
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/group"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// Versions of OffsetFetch.
const (
	fetchAllOffsets    = 2  // null topics are all; the answer has an error of its own
	fetchManyGroups    = 8  // KIP-709
	fetchOffsetsByID   = 10 // KIP-848
	noOffset           = -1
	noCommittedEpoch   = -1
	fetchStableOffsets = 7 // KIP-447
)

// offsetFetch reads committed offsets, from v8 of many groups at once.
func (s *Server) offsetFetch(r *wire.Request, req *kmsg.OffsetFetchRequest) {
	if r.Version >= fetchManyGroups {
		s.fetchGroups(r, req)
		return
	}
	ask := &group.FetchRequest{
		Group: req.Group, All: r.Version >= fetchAllOffsets && req.Topics == nil,
		RequireStable: r.Version >= fetchStableOffsets && req.RequireStable,
		Topics:        make([]group.FetchTopic, len(req.Topics)),
	}
	for i, t := range req.Topics {
		ask.Topics[i] = group.FetchTopic{Topic: t.Topic, Partitions: t.Partitions}
	}
	s.Groups.Fetch(ask, func(got group.FetchResponse) {
		resp := kmsg.NewPtrOffsetFetchResponse()
		if got.Err != nil && r.Version < fetchAllOffsets {
			got.Topics = failedOffsets(ask.Topics, got.Err)
		} else {
			resp.ErrorCode = codeOf(got.Err)
		}
		for _, t := range got.Topics {
			out := kmsg.NewOffsetFetchResponseTopic()
			out.Topic = t.Topic
			for _, p := range t.Partitions {
				k := kmsg.NewOffsetFetchResponseTopicPartition()
				k.Partition, k.Offset, k.LeaderEpoch = p.Partition, p.Offset, p.LeaderEpoch
				k.Metadata, k.ErrorCode = &p.Metadata, codeOf(p.Err)
				out.Partitions = append(out.Partitions, k)
			}
			resp.Topics = append(resp.Topics, out)
		}
		r.Reply(resp)
	})
}

// failedOffsets is an answer whose every partition has the error.
func failedOffsets(topics []group.FetchTopic, err error) []group.FetchedTopic {
	out := make([]group.FetchedTopic, len(topics))
	for i, t := range topics {
		out[i] = group.FetchedTopic{Topic: t.Topic, ID: t.ID}
		for _, p := range t.Partitions {
			out[i].Partitions = append(out[i].Partitions, group.FetchedOffset{
				Partition: p, Offset: noOffset, LeaderEpoch: noCommittedEpoch, Err: err,
			})
		}
	}
	return out
}

// fetchGroups answers when the last group has.
func (s *Server) fetchGroups(r *wire.Request, req *kmsg.OffsetFetchRequest) {
	resp := kmsg.NewPtrOffsetFetchResponse()
	resp.Groups = make([]kmsg.OffsetFetchResponseGroup, len(req.Groups))
	if len(req.Groups) == 0 {
		r.Reply(resp)
		return
	}
	img := s.Meta.Image()
	byID := r.Version >= fetchOffsetsByID
	var left atomic.Int64
	left.Store(int64(len(req.Groups)))
	for i := range req.Groups {
		rg := &req.Groups[i]
		ask := &group.FetchRequest{Group: rg.Group, All: rg.Topics == nil, RequireStable: req.RequireStable}
		unknown := map[int]record.TopicID{} // by place in rg.Topics
		for j, t := range rg.Topics {
			name, id := t.Topic, record.TopicID{}
			if byID {
				id = t.TopicID
				topic := img.Topic(id)
				if topic == nil {
					unknown[j] = id
					continue
				}
				name = topic.Name
			}
			ask.Topics = append(ask.Topics, group.FetchTopic{Topic: name, ID: id, Partitions: t.Partitions})
		}
		s.Groups.Fetch(ask, func(got group.FetchResponse) {
			out := kmsg.NewOffsetFetchResponseGroup()
			out.Group, out.ErrorCode = rg.Group, codeOf(got.Err)
			if got.Err == nil {
				topics := got.Topics
				switch {
				case ask.All && byID:
					topics = identified(img, topics)
				case len(unknown) > 0:
					topics = withUnknown(rg.Topics, unknown, topics)
				}
				out.Topics = groupTopics(topics)
			}
			resp.Groups[i] = out
			if left.Add(-1) == 0 {
				r.Reply(resp)
			}
		})
	}
}

// identified gives topics their present ids, and leaves out those that have
// none, or another than the one committed under.
func identified(img *metadata.Image, topics []group.FetchedTopic) []group.FetchedTopic {
	out := topics[:0]
	for _, t := range topics {
		if topic := img.TopicByName(t.Topic); topic != nil && (t.ID.IsZero() || t.ID == topic.ID) {
			t.ID = topic.ID
			out = append(out, t)
		}
	}
	return out
}

// withUnknown puts the topics whose id is unknown back into the order asked.
func withUnknown(asked []kmsg.OffsetFetchRequestGroupTopic, unknown map[int]record.TopicID, got []group.FetchedTopic) []group.FetchedTopic {
	out := make([]group.FetchedTopic, 0, len(asked))
	for i, t := range asked {
		if id, ok := unknown[i]; ok {
			out = append(out, failedOffsets([]group.FetchTopic{{ID: id, Partitions: t.Partitions}}, kerr.UnknownTopicID)...)
			continue
		}
		out = append(out, got[0])
		got = got[1:]
	}
	return out
}

func groupTopics(topics []group.FetchedTopic) []kmsg.OffsetFetchResponseGroupTopic {
	out := make([]kmsg.OffsetFetchResponseGroupTopic, len(topics))
	for i, t := range topics {
		k := kmsg.NewOffsetFetchResponseGroupTopic()
		k.Topic, k.TopicID = t.Topic, t.ID
		k.Partitions = make([]kmsg.OffsetFetchResponseGroupTopicPartition, len(t.Partitions))
		for j := range t.Partitions {
			p := &t.Partitions[j]
			kp := kmsg.NewOffsetFetchResponseGroupTopicPartition()
			kp.Partition, kp.Offset, kp.LeaderEpoch = p.Partition, p.Offset, p.LeaderEpoch
			kp.Metadata, kp.ErrorCode = &p.Metadata, codeOf(p.Err)
			k.Partitions[j] = kp
		}
		out[i] = k
	}
	return out
}
