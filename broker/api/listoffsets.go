package api

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// The special timestamps of ListOffsets.
const (
	tsLatest          = -1
	tsEarliest        = -2
	tsMax             = -3 // v7, KIP-734
	tsEarliestLocal   = -4 // v8, KIP-405
	tsLatestTiered    = -5 // v9, KIP-1005
	tsEarliestPending = -6 // v11, KIP-1023
)

// specialSince is the first version that knows each special timestamp.
var specialSince = map[int64]int16{tsLatest: 1, tsEarliest: 1, tsMax: 7, tsEarliestLocal: 8, tsLatestTiered: 9, tsEarliestPending: 11}

// debuggingReplica is the replica id of one who asks replicas for their ends, whether
// they lead or not (ListOffsetsRequest.DEBUGGING_REPLICA_ID).
const debuggingReplica = -2

// listOffsets answers offsets by special timestamp, at once, or by time, which
// may read from disk or bucket and so runs on its own goroutine.
func (s *Server) listOffsets(r *wire.Request, req *kmsg.ListOffsetsRequest) {
	timeout := s.Config.ListOffsetsTimeout // below version 10, which says its own
	if r.Version >= 10 && req.TimeoutMillis > 0 {
		timeout = millis(req.TimeoutMillis)
	}
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			if ts := req.Topics[i].Partitions[j].Timestamp; ts >= 0 || ts == tsMax {
				s.slow(timeout, func(ctx context.Context) { r.Reply(s.offsets(ctx, r, req)) })
				return
			}
		}
	}
	r.Reply(s.offsets(r.Context(), r, req))
}

func (s *Server) offsets(ctx context.Context, r *wire.Request, req *kmsg.ListOffsetsRequest) *kmsg.ListOffsetsResponse {
	img := s.Meta.Image()
	resp := kmsg.NewPtrListOffsetsResponse()
	seen := make(map[record.TopicPartition]int)
	for i := range req.Topics {
		if t := img.TopicByName(req.Topics[i].Topic); t != nil {
			for _, p := range req.Topics[i].Partitions {
				seen[record.TopicPartition{Topic: t.ID, Partition: p.Partition}]++
			}
		}
	}
	for i := range req.Topics {
		rt := &req.Topics[i]
		out := kmsg.NewListOffsetsResponseTopic()
		out.Topic = rt.Topic
		topic := img.TopicByName(rt.Topic)
		for j := range rt.Partitions {
			rp := &rt.Partitions[j]
			k := kmsg.NewListOffsetsResponseTopicPartition()
			k.Partition, k.Offset, k.Timestamp, k.LeaderEpoch = rp.Partition, -1, -1, -1
			var err error
			switch {
			case topic == nil || rp.Partition < 0 || rp.Partition >= topic.Partitions:
				err = kerr.UnknownTopicOrPartition
			case seen[record.TopicPartition{Topic: topic.ID, Partition: rp.Partition}] > 1:
				err = kerr.InvalidRequest
			default:
				err = s.offset(ctx, r, req, topic, rp, &k)
			}
			if err != nil {
				k.Offset, k.Timestamp, k.LeaderEpoch = -1, -1, -1
				k.ErrorCode = codeOf(err)
				if k.ErrorCode == kerr.UnknownServerError.Code {
					s.Logger.Error("list offsets failed", "topic", rt.Topic, "partition", rp.Partition, "err", err)
				}
			}
			out.Partitions = append(out.Partitions, k)
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

// offset answers one partition.
func (s *Server) offset(ctx context.Context, r *wire.Request, req *kmsg.ListOffsetsRequest, topic *metadata.Topic,
	rp *kmsg.ListOffsetsRequestTopicPartition, k *kmsg.ListOffsetsResponseTopicPartition) error {
	if rp.Timestamp < 0 {
		if since, ok := specialSince[rp.Timestamp]; !ok || r.Version < since {
			return kerr.UnsupportedVersion
		}
	}
	tp := record.TopicPartition{Topic: topic.ID, Partition: rp.Partition}
	p, err := s.Partitions.Lookup(tp)
	if err != nil {
		return err
	}
	current := record.Epoch(-1)
	if r.Version >= 4 {
		current = record.Epoch(rp.CurrentLeaderEpoch)
	}
	check, debugging := p.CheckLeader, req.ReplicaID == debuggingReplica
	if debugging {
		check = p.CheckReader
	}
	if err := check(current); err != nil {
		return err
	}
	st := p.State()
	upTo := st.HighWatermark
	switch {
	case debugging: // who asks a replica wants its own end
		upTo = st.LogEnd
	case req.IsolationLevel == 1:
		upTo = st.LastStable
	}
	if !debugging && !st.WatermarkKnown && (rp.Timestamp >= 0 || rp.Timestamp == tsLatest || rp.Timestamp == tsMax) {
		if r.Version >= 5 {
			return kerr.OffsetNotAvailable
		}
		return kerr.LeaderNotAvailable
	}
	if rp.Timestamp >= 0 || rp.Timestamp == tsMax {
		return s.offsetByTime(ctx, p, rp.Timestamp, upTo, k)
	}
	tiered := p.Config().RemoteStorage
	at := record.Offset(-1)
	switch rp.Timestamp {
	case tsLatest:
		at = upTo
	case tsEarliest:
		at = st.LogStart
	case tsEarliestLocal:
		at = st.LogStart
		if tiered {
			at = st.LocalStart
		}
	case tsLatestTiered:
		if tiered && st.RemoteEnd > st.LogStart {
			at = st.RemoteEnd - 1
		}
	case tsEarliestPending:
		if tiered {
			at = st.RemoteEnd // log start where nothing is remote
		}
	}
	k.Offset = int64(at)
	if at >= 0 {
		epoch, err := s.Times.EpochAt(ctx, p, at)
		if err != nil {
			return err
		}
		k.LeaderEpoch = int32(epoch)
	}
	return nil
}

// offsetByTime finds the first record at or after ts, or the one with the
// largest timestamp: the bucket has the older part, the local log the rest.
func (s *Server) offsetByTime(ctx context.Context, p *partition.Partition, ts int64, upTo record.Offset, k *kmsg.ListOffsetsResponseTopicPartition) error {
	found, err := s.Times.Lookup(ctx, p, ts, upTo)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: search by time", kerr.RequestTimedOut)
	}
	if err != nil || found.Offset < 0 {
		return err
	}
	k.Offset, k.Timestamp, k.LeaderEpoch = int64(found.Offset), found.Timestamp, int32(found.Epoch)
	return nil
}

// offsetForLeaderEpoch tells where an epoch ended (KIP-101, KIP-320).
func (s *Server) offsetForLeaderEpoch(r *wire.Request, req *kmsg.OffsetForLeaderEpochRequest) {
	img := s.Meta.Image()
	resp := kmsg.NewPtrOffsetForLeaderEpochResponse()
	for i := range req.Topics {
		rt := &req.Topics[i]
		out := kmsg.NewOffsetForLeaderEpochResponseTopic()
		out.Topic = rt.Topic
		topic := img.TopicByName(rt.Topic)
		for j := range rt.Partitions {
			rp := &rt.Partitions[j]
			k := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			k.Partition, k.LeaderEpoch, k.EndOffset = rp.Partition, -1, -1
			if topic == nil || rp.Partition < 0 || rp.Partition >= topic.Partitions {
				k.ErrorCode = kerr.UnknownTopicOrPartition.Code
			} else if p, err := s.Partitions.Lookup(record.TopicPartition{Topic: topic.ID, Partition: rp.Partition}); err != nil {
				k.ErrorCode = codeOf(err)
			} else if err := p.CheckLeader(record.Epoch(rp.CurrentLeaderEpoch)); err != nil {
				k.ErrorCode = codeOf(err)
			} else {
				epoch, end, err := s.Times.EpochEnd(r.Context(), p, record.Epoch(rp.LeaderEpoch))
				k.LeaderEpoch, k.EndOffset, k.ErrorCode = int32(epoch), int64(end), codeOf(err)
			}
			out.Partitions = append(out.Partitions, k)
		}
		resp.Topics = append(resp.Topics, out)
	}
	r.Reply(resp)
}
