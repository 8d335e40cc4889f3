package api

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/group"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/record"
)

// Coordinator types of FindCoordinator.
const (
	groupCoordinator       = 0
	transactionCoordinator = 1
)

// findCoordinator names the broker that coordinates a group: the leader of its
// partition of the offsets topic, which the first such request makes. From v4
// many keys are asked for at once (KIP-699).
func (s *Server) findCoordinator(r *wire.Request, req *kmsg.FindCoordinatorRequest) {
	resp := kmsg.NewPtrFindCoordinatorResponse()
	if r.Version < 4 {
		c := s.coordinator(r, req.CoordinatorType, req.CoordinatorKey)
		resp.NodeID, resp.Host, resp.Port = c.NodeID, c.Host, c.Port
		resp.ErrorCode, resp.ErrorMessage = c.ErrorCode, c.ErrorMessage
		r.Reply(resp)
		return
	}
	resp.Coordinators = make([]kmsg.FindCoordinatorResponseCoordinator, len(req.CoordinatorKeys))
	for i, key := range req.CoordinatorKeys {
		resp.Coordinators[i] = s.coordinator(r, req.CoordinatorType, key)
	}
	r.Reply(resp)
}

func (s *Server) coordinator(r *wire.Request, kind int8, key string) kmsg.FindCoordinatorResponseCoordinator {
	c := kmsg.NewFindCoordinatorResponseCoordinator()
	c.Key, c.NodeID, c.Port = key, -1, -1
	fail := func(err *kerr.Error) kmsg.FindCoordinatorResponseCoordinator {
		c.ErrorCode, c.ErrorMessage = err.Code, &err.Description
		return c
	}
	switch kind {
	case groupCoordinator:
	case transactionCoordinator:
		// Not served yet, and refused as InitProducerId does, so that no client
		// retries.
		return fail(kerr.TransactionalIDAuthorizationFailed)
	default:
		return fail(kerr.InvalidRequest)
	}
	topic := s.EnsureInternal(offsetsTopic)
	if topic == nil {
		return fail(kerr.CoordinatorNotAvailable)
	}
	tp := record.TopicPartition{Topic: topic.ID, Partition: group.PartitionFor(key, topic.Partitions)}
	p := s.Meta.Image().Partition(tp)
	if p == nil || p.Leader < 0 {
		return fail(kerr.CoordinatorNotAvailable)
	}
	host, port, _, ok := s.brokerAddr(r, p.Leader)
	if !ok {
		return fail(kerr.CoordinatorNotAvailable)
	}
	c.NodeID, c.Host, c.Port = p.Leader, host, port
	c.ErrorMessage = ptr("") // as Kafka has it, with "NONE" below version 4
	if r.Version < 4 {
		c.ErrorMessage = ptr("NONE")
	}
	return c
}
