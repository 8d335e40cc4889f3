package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// deleteRecords raises log starts (KIP-107). The metadata log decides; local
// segments and objects below follow.
func (s *Server) deleteRecords(r *wire.Request, req *kmsg.DeleteRecordsRequest) {
	s.slow(millis(req.TimeoutMillis), func(ctx context.Context) {
		resp := kmsg.NewPtrDeleteRecordsResponse()
		img := s.Meta.Image()
		cmd := &command.AdvanceLogStart{BrokerID: s.nodeID()}
		if self := img.Broker(s.nodeID()); self != nil {
			cmd.BrokerEpoch = self.Epoch
		}
		var slots [][2]int // of each change: topic and partition in the answer
		for i := range req.Topics {
			rt := &req.Topics[i]
			out := kmsg.NewDeleteRecordsResponseTopic()
			out.Topic = rt.Topic
			topic := img.TopicByName(rt.Topic)
			for j := range rt.Partitions {
				rp := &rt.Partitions[j]
				k := kmsg.NewDeleteRecordsResponseTopicPartition()
				k.Partition, k.LowWatermark = rp.Partition, -1
				change, err := s.logStartChange(topic, rp.Partition, record.Offset(rp.Offset))
				if err != nil {
					k.ErrorCode = codeOf(err)
				} else {
					cmd.Partitions = append(cmd.Partitions, change)
					slots = append(slots, [2]int{i, j})
				}
				out.Partitions = append(out.Partitions, k)
			}
			resp.Topics = append(resp.Topics, out)
		}
		s.advance(ctx, cmd, func(n int, res command.ItemResult, err error) {
			k := &resp.Topics[slots[n][0]].Partitions[slots[n][1]]
			if err == nil {
				err = res.Err
			}
			if err != nil {
				s.Logger.Warn("delete records failed", "partition", cmd.Partitions[n].Partition, "err", err)
				k.ErrorCode = codeOf(err)
				return
			}
			k.LowWatermark = int64(res.LogStart)
		})
		r.Reply(resp)
	})
}

// advance proposes the changes, if there are any, and hands on each one's result.
func (s *Server) advance(ctx context.Context, cmd *command.AdvanceLogStart, each func(n int, res command.ItemResult, err error)) {
	if len(cmd.Partitions) == 0 {
		return
	}
	res, err := s.Meta.Propose(ctx, cmd)
	if err == nil {
		// The partitions here must know before the client asks again.
		err = s.Meta.Delivered(ctx, res.Index)
	}
	for n := range cmd.Partitions {
		if err != nil {
			each(n, command.ItemResult{}, err)
			continue
		}
		each(n, res.Items[n], nil)
	}
}

func (s *Server) logStartChange(topic *metadata.Topic, number int32, to record.Offset) (command.LogStartChange, error) {
	var change command.LogStartChange
	switch {
	case topic == nil || number < 0 || number >= topic.Partitions:
		return change, kerr.UnknownTopicOrPartition
	case topic.Internal:
		return change, kerr.InvalidTopicException
	}
	tp := record.TopicPartition{Topic: topic.ID, Partition: number}
	p, err := s.Partitions.Lookup(tp)
	if err != nil {
		return change, err
	}
	if err := p.CheckLeader(-1); err != nil {
		return change, err
	}
	if cfg := p.Config(); !cfg.CleanupDelete && cfg.CleanupCompact {
		return change, kerr.PolicyViolation
	}
	st := p.State()
	if to == -1 {
		to = st.HighWatermark
	}
	if to < 0 || to > st.HighWatermark {
		return change, kerr.OffsetOutOfRange
	}
	return command.LogStartChange{Partition: tp, LeaderEpoch: st.LeaderEpoch, LogStart: to}, nil
}
