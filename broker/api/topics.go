package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/configdef"
	"github.com/firnlog/firn/metadata/controller"
	"github.com/firnlog/firn/record"
)

// maxPartitions bounds what one request may make, as Kafka's controller does
// (10,000 per topic and request).
const maxPartitions = 10_000

// topicSpec is a topic to be made.
type topicSpec struct {
	name        string
	partitions  int32 // −1: the broker's default
	replication int16 // −1: the broker's default
	assignment  [][]int32
	configs     map[string]string
	nullConfig  string // name of a config whose value was null
	internal    bool

	// The outcome.
	id  record.TopicID
	err error
}

// createTopics makes topics (KIP-4, KIP-464, KIP-525).
func (s *Server) createTopics(r *wire.Request, req *kmsg.CreateTopicsRequest) {
	s.slow(millis(req.TimeoutMillis), func(ctx context.Context) {
		specs := make([]topicSpec, len(req.Topics))
		names := make(map[string]int, len(specs))
		for i := range req.Topics {
			specs[i] = specOf(&req.Topics[i])
			names[specs[i].name]++
		}
		for i := range specs {
			if names[specs[i].name] > 1 {
				specs[i].err = fmt.Errorf("%w: Duplicate topic name.", kerr.InvalidRequest) //nolint:staticcheck // Kafka's wording
			}
		}
		s.makeTopics(ctx, specs, req.ValidateOnly)
		resp := kmsg.NewPtrCreateTopicsResponse()
		img := s.Meta.Image()
		answered := make(map[string]bool, len(specs))
		for i := range specs {
			if !answered[specs[i].name] {
				answered[specs[i].name] = true
				resp.Topics = append(resp.Topics, s.createdTopic(img, &specs[i]))
			}
		}
		r.Reply(resp)
	})
}

func specOf(rt *kmsg.CreateTopicsRequestTopic) topicSpec {
	spec := topicSpec{name: rt.Topic, partitions: rt.NumPartitions, replication: rt.ReplicationFactor,
		configs: make(map[string]string, len(rt.Configs))}
	for _, c := range rt.Configs {
		if c.Value == nil {
			spec.nullConfig = c.Name
			continue
		}
		spec.configs[c.Name] = *c.Value
	}
	if len(rt.ReplicaAssignment) > 0 {
		spec.assignment, spec.err = assignmentOf(rt)
	}
	return spec
}

// assignmentOf reads a manual assignment: partitions 0 … n−1, each once.
func assignmentOf(rt *kmsg.CreateTopicsRequestTopic) ([][]int32, error) {
	if rt.NumPartitions != -1 {
		return nil, fmt.Errorf("%w: A manual partition assignment was specified, but numPartitions was not set to -1", kerr.InvalidRequest)
	}
	if rt.ReplicationFactor != -1 {
		return nil, fmt.Errorf("%w: A manual partition assignment was specified, but replication factor was not set to -1", kerr.InvalidRequest)
	}
	out := make([][]int32, len(rt.ReplicaAssignment))
	for _, a := range rt.ReplicaAssignment {
		if a.Partition < 0 || int(a.Partition) >= len(out) || out[a.Partition] != nil || len(a.Replicas) == 0 {
			return nil, fmt.Errorf("%w: partitions should be a consecutive 0-based integer sequence with at least one replica each", kerr.InvalidReplicaAssignment)
		}
		out[a.Partition] = a.Replicas
	}
	return out, nil
}

// makeTopics validates, places and proposes the topics without an error; each
// spec gets its id or error.
func (s *Server) makeTopics(ctx context.Context, specs []topicSpec, validateOnly bool) {
	img := s.current(ctx)
	cmd := &command.CreateTopics{Request: command.Request{RequestID: uuid.New()}, Time: time.Now().UnixMilli()}
	var made []*topicSpec
	for i := range specs {
		spec := &specs[i]
		if spec.err != nil {
			continue
		}
		if spec.err = s.completeSpec(img, spec); spec.err != nil {
			continue
		}
		spec.id = record.NewTopicID() // Kafka shows one for a mere validation too
		if validateOnly {
			continue
		}
		cmd.Topics = append(cmd.Topics, command.NewTopic{ID: spec.id, Name: spec.name, Assignments: spec.assignment,
			Configs: spec.configs, Internal: spec.internal})
		made = append(made, spec)
	}
	if len(made) == 0 {
		return
	}
	res, err := s.Meta.Propose(ctx, cmd)
	if err == nil {
		// Clients produce right after the answer: the logs must be open.
		err = s.Meta.Delivered(ctx, res.Index)
	}
	for n, spec := range made {
		if spec.err = err; err == nil {
			spec.err = topicError(res.Items[n].Err)
		}
	}
}

// topicError gives the state machine's refusals Kafka's codes.
func topicError(err error) error {
	for _, row := range []struct {
		is   error
		kafk *kerr.Error
	}{
		{command.ErrExists, kerr.TopicAlreadyExists},
		{command.ErrInvalidName, kerr.InvalidTopicException},
		{command.ErrInvalidAssignment, kerr.InvalidReplicaAssignment},
		{command.ErrInvalidPartitionCount, kerr.InvalidPartitions},
		{command.ErrNotFound, kerr.UnknownTopicOrPartition},
	} {
		if errors.Is(err, row.is) {
			return &withCode{row.kafk, err}
		}
	}
	return err
}

// completeSpec checks everything about a topic and places its replicas.
func (s *Server) completeSpec(img *metadata.Image, spec *topicSpec) error {
	if err := validTopicName(spec.name); err != nil {
		return err
	}
	if img.TopicByName(spec.name) != nil {
		return &withCode{kerr.TopicAlreadyExists, fmt.Errorf("Topic '%s' already exists.", spec.name)} //nolint:staticcheck // Kafka's wording
	}
	if other := img.Collision(spec.name); other != "" {
		return &withCode{kerr.InvalidTopicException, fmt.Errorf("topic '%s' collides with existing topic: %s", spec.name, other)}
	}
	if spec.nullConfig != "" {
		return &withCode{kerr.InvalidConfig, fmt.Errorf("null value not supported for topic configs: %s", spec.nullConfig)}
	}
	flat := s.layers(img).Flat()
	if err := configdef.ValidateNewTopic(spec.configs, flat); err != nil {
		return configError(err)
	}
	spec.configs = configdef.Normal(configdef.TopicResource, spec.configs)
	spec.internal = spec.internal || internalTopics[spec.name]
	if spec.assignment != nil {
		return s.checkAssignment(img, spec)
	}
	if spec.partitions == -1 {
		spec.partitions = int32(s.brokerInt(img, "num.partitions"))
	}
	if spec.replication == -1 {
		spec.replication = s.defaultReplication(img)
	}
	switch {
	case spec.partitions <= 0:
		return &withCode{kerr.InvalidPartitions, fmt.Errorf("number of partitions was set to an invalid non-positive value %d", spec.partitions)}
	case spec.partitions > maxPartitions:
		return &withCode{kerr.PolicyViolation, fmt.Errorf("%d partitions in one request are more than %d", spec.partitions, maxPartitions)}
	case spec.replication <= 0:
		return &withCode{kerr.InvalidReplicationFactor, fmt.Errorf("replication factor %d must be larger than 0, or -1 for the default", spec.replication)}
	}
	placed, err := controller.Place(img, 0, spec.partitions, spec.replication)
	if err != nil {
		return &withCode{kerr.InvalidReplicationFactor, fmt.Errorf("unable to replicate the partition %d time(s): %w", spec.replication, err)}
	}
	spec.assignment = placed
	return nil
}

func (s *Server) checkAssignment(img *metadata.Image, spec *topicSpec) error {
	spec.partitions, spec.replication = int32(len(spec.assignment)), int16(len(spec.assignment[0]))
	if len(spec.assignment) > maxPartitions {
		return &withCode{kerr.PolicyViolation, fmt.Errorf("%d partitions in one request are more than %d", len(spec.assignment), maxPartitions)}
	}
	for _, replicas := range spec.assignment {
		if err := checkReplicas(img, replicas, int(spec.replication)); err != nil {
			return err
		}
	}
	return nil
}

// checkReplicas checks one partition's manual assignment.
func checkReplicas(img *metadata.Image, replicas []int32, want int) error {
	bad := func(format string, args ...any) error {
		return &withCode{kerr.InvalidReplicaAssignment, fmt.Errorf(format, args...)}
	}
	if len(replicas) != want {
		return bad("the manual partition assignment has %d replicas where others have %d", len(replicas), want)
	}
	seen := make(map[int32]bool, len(replicas))
	for _, id := range replicas {
		if seen[id] {
			return bad("the manual partition assignment includes broker %d more than once", id)
		}
		seen[id] = true
		if img.Broker(id) == nil {
			return bad("the manual partition assignment includes broker %d, but no such broker is registered", id)
		}
	}
	return nil
}

// defaultReplication is default.replication.factor where it is set, otherwise
// three as far as there are brokers: one copy is no safety.
func (s *Server) defaultReplication(img *metadata.Image) int16 {
	if _, set := s.layers(img).Flat()["default.replication.factor"]; set {
		return int16(s.brokerInt(img, "default.replication.factor"))
	}
	return int16(min(3, max(1, liveBrokers(img))))
}

// liveBrokers are how many brokers can hold replicas, be it that a disk is full now.
func liveBrokers(img *metadata.Image) int {
	n := 0
	for b := range img.Brokers() {
		if b.Staying() {
			n++
		}
	}
	return n
}

// createdTopic answers what was made, or would be: from version 5 with its
// partitions and configs.
func (s *Server) createdTopic(img *metadata.Image, spec *topicSpec) kmsg.CreateTopicsResponseTopic {
	k := kmsg.NewCreateTopicsResponseTopic()
	k.Topic, k.Configs = spec.name, []kmsg.CreateTopicsResponseTopicConfig{}
	if spec.err != nil {
		k.ErrorCode, k.ErrorMessage = codeOf(spec.err), messageOf(spec.err)
		if k.ErrorCode == kerr.UnknownServerError.Code {
			s.Logger.Error("create topic failed", "topic", spec.name, "err", spec.err)
		}
		return k
	}
	k.TopicID, k.NumPartitions, k.ReplicationFactor = spec.id, spec.partitions, spec.replication
	entries := configdef.DescribeTopic(spec.configs, s.topicLayers(img, int(spec.replication)))
	for i := range entries {
		c := kmsg.NewCreateTopicsResponseTopicConfig()
		e := &entries[i]
		c.Name, c.Value, c.ReadOnly, c.Source, c.IsSensitive = e.Key.Name, e.Text, e.ReadOnly, int8(e.Source), e.Key.Sensitive()
		k.Configs = append(k.Configs, c)
	}
	return k
}

// deleteTopics removes topics by name, from version 6 also by id.
func (s *Server) deleteTopics(r *wire.Request, req *kmsg.DeleteTopicsRequest) {
	s.slow(millis(req.TimeoutMillis), func(ctx context.Context) {
		img := s.current(ctx)
		resp := kmsg.NewPtrDeleteTopicsResponse()
		resp.Topics = deletions(img, req)
		if !s.Config.DeleteEnable {
			refuseDeletions(resp.Topics, r.Version)
		}
		cmd := &command.DeleteTopics{Request: command.Request{RequestID: uuid.New()}, Time: time.Now().UnixMilli()}
		var slots []int
		for i := range resp.Topics {
			if resp.Topics[i].ErrorCode == 0 {
				cmd.Topics = append(cmd.Topics, resp.Topics[i].TopicID)
				slots = append(slots, i)
			}
		}
		if len(slots) > 0 {
			res, err := s.Meta.Propose(ctx, cmd)
			if err == nil {
				err = s.Meta.Delivered(ctx, res.Index)
			}
			for n, i := range slots {
				each := err
				if each == nil {
					each = topicError(res.Items[n].Err)
				}
				resp.Topics[i].ErrorCode, resp.Topics[i].ErrorMessage = codeOf(each), messageOf(each)
			}
		}
		r.Reply(resp)
	})
}

// refuseDeletions answers that topics cannot be deleted here
// (delete.topic.enable=false), in the words that the request's version knows.
func refuseDeletions(topics []kmsg.DeleteTopicsResponseTopic, version int16) {
	refusal := kerr.TopicDeletionDisabled
	if version < 3 {
		refusal = kerr.InvalidRequest
	}
	for i := range topics {
		if topics[i].ErrorCode == 0 {
			topics[i].ErrorCode, topics[i].ErrorMessage = refusal.Code, messageOf(refusal)
		}
	}
}

// deletions are the answers for the topics of a request, without an error for
// those that can be deleted. What is named twice is refused, and answered once.
func deletions(img *metadata.Image, req *kmsg.DeleteTopicsRequest) []kmsg.DeleteTopicsResponseTopic {
	keys := make([]topicKey, 0, len(req.TopicNames)+len(req.Topics))
	for _, name := range req.TopicNames {
		keys = append(keys, topicKey{name: name, named: true})
	}
	for _, t := range req.Topics {
		keys = append(keys, keyOf(t.Topic, t.TopicID))
	}
	times := make(map[topicKey]int, len(keys))
	for _, key := range keys {
		times[key]++
	}
	out := make([]kmsg.DeleteTopicsResponseTopic, 0, len(keys))
	at := make(map[record.TopicID]int) // in out, of those without an error
	for _, key := range keys {
		n := times[key]
		if n == 0 {
			continue // answered
		}
		times[key] = 0
		k := deletion(img, key, n > 1)
		if k.ErrorCode == 0 {
			if first, twice := at[k.TopicID]; twice {
				out[first].ErrorCode = kerr.InvalidRequest.Code
				out[first].ErrorMessage = ptr("The provided topic name maps to an ID that was already supplied.")
				continue
			}
			at[k.TopicID] = len(out)
		}
		out = append(out, k)
	}
	return out
}

// deletion is the answer for one topic.
func deletion(img *metadata.Image, key topicKey, twice bool) kmsg.DeleteTopicsResponseTopic {
	k := kmsg.NewDeleteTopicsResponseTopic()
	k.TopicID = key.id
	if key.named {
		k.Topic = &key.name
	}
	refuse := func(err *kerr.Error, why string) kmsg.DeleteTopicsResponseTopic {
		k.ErrorCode, k.ErrorMessage = err.Code, &why
		return k
	}
	var t *metadata.Topic
	missing := kerr.UnknownTopicOrPartition
	switch {
	case !key.named && key.id.IsZero():
		return refuse(kerr.InvalidRequest, "Neither topic name nor id were specified.")
	case key.named && !key.id.IsZero():
		return refuse(kerr.InvalidRequest, "You may not specify both topic name and topic id.")
	case twice && key.named:
		return refuse(kerr.InvalidRequest, "Duplicate topic name.")
	case twice:
		return refuse(kerr.InvalidRequest, "Duplicate topic id.")
	case key.named:
		t = img.TopicByName(key.name)
	default:
		t, missing = img.Topic(key.id), kerr.UnknownTopicID
	}
	if t == nil {
		return refuse(missing, missing.Description)
	}
	k.Topic, k.TopicID = &t.Name, t.ID
	return k
}

// createPartitions lets topics grow (KIP-195).
func (s *Server) createPartitions(r *wire.Request, req *kmsg.CreatePartitionsRequest) {
	s.slow(millis(req.TimeoutMillis), func(ctx context.Context) {
		img := s.current(ctx)
		resp := kmsg.NewPtrCreatePartitionsResponse()
		cmd := &command.CreatePartitions{Request: command.Request{RequestID: uuid.New()}, Time: time.Now().UnixMilli()}
		var slots []int
		names := make(map[string]int)
		for i := range req.Topics {
			names[req.Topics[i].Topic]++
		}
		answered := make(map[string]bool, len(names))
		for i := range req.Topics {
			rt := &req.Topics[i]
			if answered[rt.Topic] {
				continue
			}
			answered[rt.Topic] = true
			k := kmsg.NewCreatePartitionsResponseTopic()
			k.Topic = rt.Topic
			more, err := s.morePartitions(img, rt)
			if names[rt.Topic] > 1 {
				err = &withCode{kerr.InvalidRequest, errors.New("Duplicate topic in request.")} //nolint:staticcheck // Kafka's wording
			}
			if err != nil {
				k.ErrorCode, k.ErrorMessage = codeOf(err), messageOf(err)
			} else if !req.ValidateOnly {
				cmd.Topics = append(cmd.Topics, more)
				slots = append(slots, len(resp.Topics))
			}
			resp.Topics = append(resp.Topics, k)
		}
		if len(slots) > 0 {
			res, err := s.Meta.Propose(ctx, cmd)
			if err == nil {
				err = s.Meta.Delivered(ctx, res.Index)
			}
			for n, i := range slots {
				each := err
				if each == nil {
					each = topicError(res.Items[n].Err)
				}
				resp.Topics[i].ErrorCode, resp.Topics[i].ErrorMessage = codeOf(each), messageOf(each)
			}
		}
		r.Reply(resp)
	})
}

func (s *Server) morePartitions(img *metadata.Image, rt *kmsg.CreatePartitionsRequestTopic) (command.MorePartitions, error) {
	more := command.MorePartitions{Count: rt.Count}
	t := img.TopicByName(rt.Topic)
	if t == nil {
		return more, kerr.UnknownTopicOrPartition
	}
	more.Topic = t.ID
	add := int(rt.Count - t.Partitions)
	switch {
	case add == 0:
		return more, &withCode{kerr.InvalidPartitions, fmt.Errorf("topic already has %d partition(s)", t.Partitions)}
	case add < 0:
		return more, &withCode{kerr.InvalidPartitions, fmt.Errorf("the topic %s currently has %d partition(s); %d would not be an increase", t.Name, t.Partitions, rt.Count)}
	case add > maxPartitions:
		return more, &withCode{kerr.PolicyViolation, fmt.Errorf("%d new partitions in one request are more than %d", add, maxPartitions)}
	}
	factor := len(img.Partition(record.TopicPartition{Topic: t.ID}).Target())
	if rt.Assignment == nil {
		placed, err := controller.Place(img, t.Partitions, int32(add), int16(factor))
		if err != nil {
			return more, &withCode{kerr.InvalidReplicationFactor, err}
		}
		more.Assignments = placed
		return more, nil
	}
	if len(rt.Assignment) != add {
		return more, &withCode{kerr.InvalidReplicaAssignment,
			fmt.Errorf("increasing the number of partitions by %d but %d assignments provided", add, len(rt.Assignment))}
	}
	for _, a := range rt.Assignment {
		if err := checkReplicas(img, a.Replicas, factor); err != nil {
			return more, err
		}
		more.Assignments = append(more.Assignments, a.Replicas)
	}
	return more, nil
}

// pageTopics answers DescribeTopicPartitions: topics sorted by name, from the
// cursor on, up to a limit of partitions.
func (s *Server) pageTopics(r *wire.Request, req *kmsg.DescribeTopicPartitionsRequest, resp *kmsg.DescribeTopicPartitionsResponse) {
	img := s.Meta.Image()
	names := make(map[string]bool, len(req.Topics))
	for i := range req.Topics {
		names[req.Topics[i].Topic] = true
	}
	all := len(names) == 0
	if all {
		for t := range img.Topics() {
			names[t.Name] = true
		}
	}
	if c := req.Cursor; c != nil && (c.Partition < 0 || (!all && !names[c.Topic])) {
		for _, name := range slices.Sorted(maps.Keys(names)) {
			k := kmsg.NewDescribeTopicPartitionsResponseTopic()
			k.Topic, k.AuthorizedOperations, k.ErrorCode = ptr(name), noAuthorizedOperations, kerr.InvalidRequest.Code
			resp.Topics = append(resp.Topics, k)
		}
		return
	}
	limit := s.brokerInt(img, "max.request.partition.size.limit")
	limit = max(min(limit, int(req.ResponsePartitionLimit)), 1)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		first := int32(0)
		if c := req.Cursor; c != nil {
			if name < c.Topic {
				continue
			}
			if name == c.Topic {
				first = max(c.Partition, 0)
			}
		}
		if limit <= 0 {
			resp.NextCursor = nextCursor(name, first)
			return
		}
		k := kmsg.NewDescribeTopicPartitionsResponseTopic()
		k.Topic, k.AuthorizedOperations = ptr(name), topicOperations
		t := img.TopicByName(name)
		switch {
		case validTopicName(name) != nil:
			k.ErrorCode = kerr.InvalidTopicException.Code
		case t == nil:
			k.ErrorCode = kerr.UnknownTopicOrPartition.Code
		default:
			k.TopicID, k.IsInternal = t.ID, t.Internal
			last := min(t.Partitions, first+int32(limit))
			for n := first; n < last; n++ {
				k.Partitions = append(k.Partitions, s.describedPartition(r, img, t, n))
			}
			limit -= int(max(last-first, 0))
			if last < t.Partitions {
				resp.Topics = append(resp.Topics, k)
				resp.NextCursor = nextCursor(name, last)
				return
			}
		}
		resp.Topics = append(resp.Topics, k)
	}
}

func nextCursor(topic string, partition int32) *kmsg.DescribeTopicPartitionsResponseNextCursor {
	c := kmsg.NewDescribeTopicPartitionsResponseNextCursor()
	c.Topic, c.Partition = topic, partition
	return &c
}

func (s *Server) describedPartition(r *wire.Request, img *metadata.Image, t *metadata.Topic, n int32) kmsg.DescribeTopicPartitionsResponseTopicPartition {
	k := kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
	p := img.Partition(record.TopicPartition{Topic: t.ID, Partition: n})
	k.Partition, k.LeaderID, k.LeaderEpoch = n, p.Leader, int32(p.LeaderEpoch)
	k.Replicas, k.ISR, k.OfflineReplicas = p.Replicas, p.ISR, offline(img, r, p.Replicas)
	k.EligibleLeaderReplicas = append([]int32{}, p.ELR...)
	k.LastKnownELR = []int32{}
	if p.LastKnownLeader >= 0 {
		k.LastKnownELR = append(k.LastKnownELR, p.LastKnownLeader)
	}
	if k.ErrorCode = leaderError(img, r, p.Leader); k.ErrorCode != 0 {
		k.LeaderID = -1
	}
	return k
}
