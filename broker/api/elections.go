package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// The election types of ElectLeaders (KIP-460).
const (
	electPreferred = 0
	electUnclean   = 1
)

// electLeaders elects preferred leaders, or, where nobody in sync is left, any
// replica that is up (KIP-183, KIP-460).
func (s *Server) electLeaders(r *wire.Request, req *kmsg.ElectLeadersRequest) {
	kind := command.ElectPreferred
	resp := kmsg.NewPtrElectLeadersResponse()
	resp.Topics = []kmsg.ElectLeadersResponseTopic{}
	switch {
	case r.Version == 0 || req.ElectionType == electPreferred:
	case req.ElectionType == electUnclean:
		kind = command.ElectUnclean
	default:
		e := elections{resp: resp}
		for i := range req.Topics {
			e.begin(req.Topics[i].Topic)
			for _, n := range req.Topics[i].Partitions {
				e.refuse(n, kerr.InvalidRequest)
			}
		}
		resp.ErrorCode = kerr.InvalidRequest.Code
		r.Reply(resp)
		return
	}
	s.slow(millis(req.TimeoutMillis), func(ctx context.Context) {
		img := s.current(ctx)
		e := elections{kind: kind, resp: resp}
		all := req.Topics == nil
		if all {
			for topic := range img.Topics() {
				e.begin(topic.Name)
				for n := range topic.Partitions {
					e.add(record.TopicPartition{Topic: topic.ID, Partition: n})
				}
			}
		}
		for i := range req.Topics {
			e.begin(req.Topics[i].Topic)
			topic := img.TopicByName(req.Topics[i].Topic)
			for _, n := range req.Topics[i].Partitions {
				if topic == nil {
					e.refuse(n, kerr.UnknownTopicOrPartition)
					continue
				}
				e.add(record.TopicPartition{Topic: topic.ID, Partition: n})
			}
		}
		if err := e.run(ctx, s, all); err != nil {
			s.Logger.Warn("election of leaders failed", "err", err)
			resp.ErrorCode = codeOf(err)
			resp.Topics = []kmsg.ElectLeadersResponseTopic{}
		}
		r.Reply(resp)
	})
}

// elections gathers the partitions of a request and their answers.
type elections struct {
	kind  command.ElectionKind
	resp  *kmsg.ElectLeadersResponse
	items []command.Election
	at    [][2]int // the answer of each item: topic, partition
}

func (e *elections) begin(topic string) {
	t := kmsg.NewElectLeadersResponseTopic()
	t.Topic = topic
	e.resp.Topics = append(e.resp.Topics, t)
}

func (e *elections) add(tp record.TopicPartition) {
	e.items = append(e.items, command.Election{Partition: tp, PartitionEpoch: -1, Leader: -1, Kind: e.kind})
	t := len(e.resp.Topics) - 1
	e.at = append(e.at, [2]int{t, len(e.resp.Topics[t].Partitions)})
	e.refuse(tp.Partition, nil)
}

func (e *elections) refuse(partition int32, err error) {
	t := &e.resp.Topics[len(e.resp.Topics)-1]
	k := kmsg.NewElectLeadersResponseTopicPartition()
	k.Partition, k.ErrorCode, k.ErrorMessage = partition, codeOf(err), messageOf(err)
	t.Partitions = append(t.Partitions, k)
}

// run proposes the elections in commands of bounded size. quiet leaves out the
// partitions that needed none.
func (e *elections) run(ctx context.Context, s *Server, quiet bool) error {
	for first := 0; first < len(e.items); first += maxElections {
		items := e.items[first:min(first+maxElections, len(e.items))]
		res, err := s.Meta.Propose(ctx, &command.ElectLeaders{Elections: items})
		if err != nil {
			return fmt.Errorf("propose: %w", err)
		}
		if err := s.Meta.Delivered(ctx, res.Index); err != nil {
			return fmt.Errorf("wait for the image: %w", err)
		}
		for i := range items {
			at := e.at[first+i]
			k := &e.resp.Topics[at[0]].Partitions[at[1]]
			err := replicaError(res.Items[i].Err)
			k.ErrorCode, k.ErrorMessage = codeOf(err), messageOf(err)
		}
	}
	for i := range e.resp.Topics {
		if t := &e.resp.Topics[i]; quiet {
			t.Partitions = slices.DeleteFunc(t.Partitions, func(p kmsg.ElectLeadersResponseTopicPartition) bool {
				return p.ErrorCode == kerr.ElectionNotNeeded.Code
			})
		}
	}
	return nil
}

// maxElections is how many partitions go into one command.
const maxElections = 10_000

// unregisterTimeout bounds what has no timeout of its own in the protocol.
const unregisterTimeout = 30 * time.Second

// unregisterBroker forgets a broker that is gone for good (KIP-631). Firn refuses
// it while the broker is up, or alone holds all records of a partition.
func (s *Server) unregisterBroker(r *wire.Request, req *kmsg.UnregisterBrokerRequest) {
	s.slow(unregisterTimeout, func(ctx context.Context) {
		resp := kmsg.NewPtrUnregisterBrokerResponse()
		_, err := s.Meta.Propose(ctx, &command.UnregisterBroker{BrokerID: req.BrokerID, BrokerEpoch: -1})
		switch {
		case errors.Is(err, command.ErrNotFound):
			err = &withCode{kerr.BrokerIDNotRegistered, err}
		case errors.Is(err, command.ErrInvalid), errors.Is(err, command.ErrLastReplica):
			err = &withCode{kerr.InvalidRequest, err}
		}
		resp.ErrorCode, resp.ErrorMessage = codeOf(err), messageOf(err)
		r.Reply(resp)
	})
}
