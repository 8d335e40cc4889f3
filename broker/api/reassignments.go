package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// replicaErrors are the refusals of changes of replicas and leaders in Kafka's
// words.
var replicaErrors = []struct {
	is   error
	kafk *kerr.Error
}{
	{command.ErrNotFound, kerr.UnknownTopicOrPartition},
	{command.ErrInvalidAssignment, kerr.InvalidReplicaAssignment},
	{command.ErrNoReassignment, kerr.NoReassignmentInProgress},
	{command.ErrElectionNotNeeded, kerr.ElectionNotNeeded},
	{command.ErrPreferredUnavailable, kerr.PreferredLeaderNotAvailable},
	{command.ErrNoEligibleLeader, kerr.EligibleLeadersNotAvailable},
}

func replicaError(err error) error {
	for _, row := range replicaErrors {
		if errors.Is(err, row.is) {
			return &withCode{row.kafk, err}
		}
	}
	return err
}

// reassignment is one partition of a request, with the place of its answer.
type reassignment struct {
	topic, partition int
	err              error
}

// alterReassignments moves partitions to other replicas, or calls such a move off
// (KIP-455).
func (s *Server) alterReassignments(r *wire.Request, req *kmsg.AlterPartitionAssignmentsRequest) {
	s.slow(millis(req.TimeoutMillis), func(ctx context.Context) {
		img := s.current(ctx)
		resp := kmsg.NewPtrAlterPartitionAssignmentsResponse()
		resp.AllowReplicationFactorChange = req.AllowReplicationFactorChange
		cmd := &command.AlterReassignments{Request: command.Request{RequestID: uuid.New()},
			KeepFactor: r.Version >= 1 && !req.AllowReplicationFactorChange}
		var sent []reassignment
		for i := range req.Topics {
			rt := &req.Topics[i]
			answer := kmsg.NewAlterPartitionAssignmentsResponseTopic()
			answer.Topic = rt.Topic
			topic := img.TopicByName(rt.Topic)
			for j := range rt.Partitions {
				k := kmsg.NewAlterPartitionAssignmentsResponseTopicPartition()
				k.Partition = rt.Partitions[j].Partition
				item, err := reassignmentOf(img, topic, &rt.Partitions[j], cmd.KeepFactor)
				if err != nil {
					k.ErrorCode, k.ErrorMessage = codeOf(err), messageOf(err)
				} else {
					cmd.Items = append(cmd.Items, item)
					sent = append(sent, reassignment{topic: i, partition: j})
				}
				answer.Partitions = append(answer.Partitions, k)
			}
			resp.Topics = append(resp.Topics, answer)
		}
		if len(req.Topics) == 0 {
			resp.ErrorMessage = ptr("") // as Kafka has it
		}
		if len(cmd.Items) > 0 {
			res, err := s.Meta.Propose(ctx, cmd)
			if err != nil {
				resp.ErrorCode, resp.ErrorMessage = codeOf(err), messageOf(err)
			}
			for n, at := range sent {
				if err == nil {
					at.err = replicaError(res.Items[n].Err)
				} else {
					at.err = err
				}
				k := &resp.Topics[at.topic].Partitions[at.partition]
				k.ErrorCode, k.ErrorMessage = codeOf(at.err), withName(messageOf(at.err), cmd.Items[n].Partition, resp.Topics[at.topic].Topic)
				if k.ErrorCode == kerr.NoReassignmentInProgress.Code {
					k.ErrorMessage = nil // as Kafka has it
				}
			}
		}
		r.Reply(resp)
	})
}

// withName puts the topic's name into a refusal of the metadata, which knows ids alone
// and whose words are part of its state.
func withName(text *string, tp record.TopicPartition, topic string) *string {
	if text == nil {
		return nil
	}
	return ptr(strings.ReplaceAll(*text, tp.String(), topic+"-"+strconv.Itoa(int(tp.Partition))))
}

// reassignmentOf reads one partition of the request.
func reassignmentOf(img *metadata.Image, topic *metadata.Topic, p *kmsg.AlterPartitionAssignmentsRequestTopicPartition, keepFactor bool) (command.Reassignment, error) {
	if topic == nil {
		return command.Reassignment{}, kerr.UnknownTopicOrPartition
	}
	item := command.Reassignment{Partition: record.TopicPartition{Topic: topic.ID, Partition: p.Partition}, Replicas: p.Replicas}
	state := img.Partition(item.Partition)
	unknown := slices.IndexFunc(p.Replicas, func(id int32) bool { return img.Broker(id) == nil })
	switch {
	case state == nil:
		return item, kerr.UnknownTopicOrPartition
	case unknown >= 0:
		return item, &withCode{kerr.InvalidReplicaAssignment,
			fmt.Errorf("Replica assignment has brokers that are not registered: %d", p.Replicas[unknown])} //nolint:staticcheck // Kafka's wording
	case p.Replicas != nil && len(p.Replicas) == 0:
		return item, &withCode{kerr.InvalidReplicaAssignment, errors.New("the list of replicas is empty")}
	case keepFactor && p.Replicas != nil && len(p.Replicas) != len(state.Origin()):
		return item, &withCode{kerr.InvalidReplicationFactor,
			fmt.Errorf("The replication factor is changed from %d to %d", len(state.Origin()), len(p.Replicas))} //nolint:staticcheck // Kafka's wording
	}
	return item, nil
}

// listReassignments tells what moves (KIP-455): all of it, or the partitions
// asked for as far as they move.
func (s *Server) listReassignments(r *wire.Request, req *kmsg.ListPartitionReassignmentsRequest) {
	img := s.Meta.Image()
	resp := kmsg.NewPtrListPartitionReassignmentsResponse()
	list := func(topic *metadata.Topic, only []int32) {
		answer := kmsg.NewListPartitionReassignmentsResponseTopic()
		answer.Topic = topic.Name
		tell := func(n int32, p *metadata.Partition) {
			if p == nil || !p.Reassigning() {
				return
			}
			k := kmsg.NewListPartitionReassignmentsResponseTopicPartition()
			k.Partition, k.Replicas = n, p.Replicas
			k.AddingReplicas, k.RemovingReplicas = p.Adding, p.Removing
			answer.Partitions = append(answer.Partitions, k)
		}
		if only == nil {
			for n, p := range img.Partitions(topic.ID) {
				tell(n, p)
			}
		}
		for _, n := range only {
			tell(n, img.Partition(record.TopicPartition{Topic: topic.ID, Partition: n}))
		}
		if len(answer.Partitions) > 0 {
			resp.Topics = append(resp.Topics, answer)
		}
	}
	if req.Topics == nil {
		for topic := range img.Topics() {
			list(topic, nil)
		}
	}
	for i := range req.Topics {
		if topic := img.TopicByName(req.Topics[i].Topic); topic != nil && len(req.Topics[i].Partitions) > 0 {
			list(topic, req.Topics[i].Partitions)
		}
	}
	r.Reply(resp)
}
