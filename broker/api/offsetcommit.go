package api

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/group"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// Versions of OffsetCommit.
const (
	commitLastRetention  = 4  // the last with a retention of its own (KIP-211)
	commitGroupMustExist = 9  // KIP-848
	commitTopicIDs       = 10 // KIP-848
)

// offsetCommit stores a group's offsets. Partitions that do not exist are
// refused here; the rest goes to the coordinator as one.
func (s *Server) offsetCommit(r *wire.Request, req *kmsg.OffsetCommitRequest) {
	img := s.Meta.Image()
	resp := kmsg.NewPtrOffsetCommitResponse()
	resp.Topics = make([]kmsg.OffsetCommitResponseTopic, len(req.Topics))
	commit := &group.CommitRequest{
		Group: req.Group, MemberID: req.MemberID, InstanceID: req.InstanceID, Generation: req.Generation,
		GroupMustExist: r.Version >= commitGroupMustExist, Retention: -1,
	}
	if r.Version <= commitLastRetention && req.RetentionTimeMillis >= 0 {
		commit.Retention = retention(req.RetentionTimeMillis)
	}
	var codes []*int16 // of commit.Offsets
	for i := range req.Topics {
		rt := &req.Topics[i]
		out := kmsg.NewOffsetCommitResponseTopic()
		out.Topic, out.TopicID = rt.Topic, rt.TopicID
		out.Partitions = make([]kmsg.OffsetCommitResponseTopicPartition, len(rt.Partitions))
		resp.Topics[i] = out
		topic, unknown := committedTopic(img, r.Version, rt.Topic, rt.TopicID)
		for j, rp := range rt.Partitions {
			k := kmsg.NewOffsetCommitResponseTopicPartition()
			k.Partition = rp.Partition
			switch {
			case topic == nil:
				k.ErrorCode = unknown.Code
			case rp.Partition < 0 || rp.Partition >= topic.Partitions:
				k.ErrorCode = kerr.UnknownTopicOrPartition.Code
			}
			out.Partitions[j] = k
			if k.ErrorCode != 0 {
				continue
			}
			commit.Offsets = append(commit.Offsets, group.OffsetCommit{
				Topic: topic.Name, TopicID: topic.ID, Partition: rp.Partition,
				Offset: rp.Offset, LeaderEpoch: rp.LeaderEpoch, Metadata: orEmpty(rp.Metadata),
			})
			codes = append(codes, &out.Partitions[j].ErrorCode)
		}
	}
	if len(commit.Offsets) == 0 {
		r.Reply(resp)
		return
	}
	s.Groups.Commit(commit, func(got group.CommitResponse) {
		for i, code := range codes {
			if *code = codeOf(got.Err); got.Err == nil {
				*code = codeOf(got.Partitions[i])
			}
		}
		r.Reply(resp)
	})
}

// committedTopic finds a topic by what the version names it with.
func committedTopic(img *metadata.Image, version int16, name string, id record.TopicID) (*metadata.Topic, *kerr.Error) {
	if version >= commitTopicIDs {
		return img.Topic(id), kerr.UnknownTopicID
	}
	return img.TopicByName(name), kerr.UnknownTopicOrPartition
}

// retention turns milliseconds into a duration; what does not fit is about
// 292 years.
func retention(ms int64) time.Duration {
	const most = int64(1<<63-1) / int64(time.Millisecond)
	return time.Duration(min(ms, most)) * time.Millisecond
}
