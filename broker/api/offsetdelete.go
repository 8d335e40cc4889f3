package api

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/group"
	"github.com/firnlog/firn/broker/wire"
)

// offsetDelete removes committed offsets of topics that the group does not
// consume (KIP-496). Partitions that do not exist are refused here.
func (s *Server) offsetDelete(r *wire.Request, req *kmsg.OffsetDeleteRequest) {
	img := s.Meta.Image()
	resp := kmsg.NewPtrOffsetDeleteResponse()
	resp.Topics = make([]kmsg.OffsetDeleteResponseTopic, len(req.Topics))
	del := &group.DeleteOffsetsRequest{Group: req.Group, Topics: make([]group.TopicPartitions, len(req.Topics))}
	codes := make([][]*int16, len(req.Topics)) // of del.Topics
	for i, rt := range req.Topics {
		out := kmsg.NewOffsetDeleteResponseTopic()
		out.Topic = rt.Topic
		out.Partitions = make([]kmsg.OffsetDeleteResponseTopicPartition, len(rt.Partitions))
		resp.Topics[i] = out
		del.Topics[i].Topic = rt.Topic
		topic := img.TopicByName(rt.Topic)
		for j, rp := range rt.Partitions {
			k := kmsg.NewOffsetDeleteResponseTopicPartition()
			k.Partition = rp.Partition
			if topic == nil || rp.Partition < 0 || rp.Partition >= topic.Partitions {
				k.ErrorCode = kerr.UnknownTopicOrPartition.Code
				out.Partitions[j] = k
				continue
			}
			out.Partitions[j] = k
			del.Topics[i].Partitions = append(del.Topics[i].Partitions, rp.Partition)
			codes[i] = append(codes[i], &out.Partitions[j].ErrorCode)
		}
	}
	s.Groups.DeleteOffsets(del, func(got group.DeleteOffsetsResponse) {
		if got.Err != nil {
			resp.ErrorCode, resp.Topics = codeOf(got.Err), nil
			r.Reply(resp)
			return
		}
		for i := range codes {
			for j, code := range codes[i] {
				*code = codeOf(got.Topics[i][j])
			}
		}
		r.Reply(resp)
	})
}
